"""Real digits, splits of them, label noise, and the toy set of the coherence paper.

Everything here is a :class:`Dataset`: a matrix of flat inputs and a vector of targets.  Whatever
draws takes a seed and leaves the global random state alone.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from gencoh_lib._dataset import Dataset
from gencoh_lib._sampling import Corrupted, corrupt_labels, split
from gencoh_lib._toy import Toy, coherence_toy
from gencoh_lib.download import fetch

__all__ = ["Corrupted", "Dataset", "Toy", "coherence_toy", "corrupt_labels", "load", "split"]

for _class in (Corrupted, Dataset, Toy):
    _class.__module__ = __name__  # their public name, in tracebacks and in the API reference

MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
MNIST10K_SHA256 = "94e2480bb2d38e772966d2564f7818de27e5e7d95984370b0cfb33e5bb4a39df"

_SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "digits": "scikit-learn, UCI optical recognition of handwritten digits (test part)",
        "mnist10k": "10,000 digits of MNIST, shipped with gencoh_lib (see datasets/README.md)",
        "mnist-train": f"MNIST, the training set, from {MNIST_URL}",
        "mnist-test": f"MNIST, the test set, from {MNIST_URL}",
    }
)


def load(name: str = "digits", *, folder: str | Path | None = None) -> Dataset:
    """Load real handwritten digits.

    Parameters
    ----------
    name : str
        ``"digits"``: 1,797 digits of 8 x 8 from scikit-learn; ``"mnist10k"``: 10,000 digits of
        28 x 28 shipped with this package, sorted by class; ``"mnist-train"`` and
        ``"mnist-test"``: the 60,000 and 10,000 of the full MNIST, downloaded on first use
        (11 MB) and verified.
    folder : str or Path, optional
        Where the download is kept; by default the environment variable ``GENCOH_DATA``, or else
        ``~/.cache/gencoh_lib``.  The other data sets do not use it.

    Returns
    -------
    Dataset
        Grey levels in [0, 1] as ``float32``, shape [m, d], and labels, shape [m].

    Raises
    ------
    ValueError
        If there is no such data set, or the copy in this package is damaged.
    gencoh_lib.download.DownloadError
        If MNIST cannot be fetched: the message says how to put it in place by hand.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.x.shape, digits.image_shape
    (torch.Size([1797, 64]), (1, 8, 8))
    """
    if name not in list(_SOURCES):  # a list compares, so that it takes what cannot be hashed
        guess = get_close_matches(str(name), _SOURCES, n=1)
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        raise ValueError(
            f"there is no data set {name!r}; choose one of {', '.join(map(repr, _SOURCES))}.{hint}"
        )
    if name == "digits":
        from sklearn.datasets import load_digits  # here, because its import takes two seconds

        digits = load_digits()
        return _of_images(name, digits.images, digits.target, white=16)
    if name == "mnist10k":
        packed = files("gencoh_lib").joinpath("datasets", "mnist10k.npz").read_bytes()
        if hashlib.sha256(packed).hexdigest() != MNIST10K_SHA256:
            raise ValueError(
                f"mnist10k.npz does not have SHA-256 {MNIST10K_SHA256}: install gencoh_lib afresh"
            )
        arrays = _arrays(packed)
        return _of_images(name, arrays["x"], arrays["y"], white=255)
    target = fetch(MNIST_URL, _folder(folder) / "mnist.npz", sha256=MNIST_SHA256)
    arrays = _arrays(target.read_bytes())
    part = name.removeprefix("mnist-")
    return _of_images(name, arrays[f"x_{part}"], arrays[f"y_{part}"], white=255)


def _folder(folder: str | Path | None) -> Path:
    """Where downloads are kept."""
    default = os.environ.get("GENCOH_DATA") or Path.home() / ".cache" / "gencoh_lib"
    return Path(default if folder is None else folder).expanduser()


def _arrays(packed: bytes) -> dict[str, NDArray[np.generic]]:
    """Unpack an .npz file without running code that it may hold."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        return dict(archive)


def _of_images(
    name: str, images: NDArray[np.generic], labels: NDArray[np.generic], *, white: int
) -> Dataset:
    m, height, width = images.shape
    x = torch.from_numpy(images.reshape(m, -1).astype(np.float32) / white)
    y = torch.from_numpy(labels.astype(np.int64))
    return Dataset(name, x, y, 10, _SOURCES[name], (1, height, width))
