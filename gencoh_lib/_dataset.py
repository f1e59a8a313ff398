"""The data set class behind :mod:`gencoh_lib.data`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencoh_lib._whole import whole


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Inputs with their targets.

    Attributes
    ----------
    name : str
        What to call it in tables and figures.
    x : Tensor
        Inputs, shape [m, d], floating point and finite; grey levels lie in [0, 1].
    y : Tensor
        Targets, shape [m]: classes 0, 1, ... as ``int64``, or real numbers for a regression.
    classes : int
        Number of classes; 0 for a regression.
    source : str
        Where the examples come from.
    image_shape : tuple of int, optional
        Channels, height and width of the picture that each row of `x` holds, or None.

    Raises
    ------
    TypeError
        If `x` or `y` is not a tensor, `y` is not ``int64`` where there are classes, or `classes`
        is not a whole number.
    ValueError
        If the shapes do not fit together, there are no examples or no inputs, a number is NaN or
        infinite, or a class is out of range.

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib.data import Dataset
    >>> pair = Dataset("pair", x=torch.eye(2), y=torch.tensor([1, 0]), classes=2, source="here")
    >>> len(pair)
    2
    """

    name: str
    x: Tensor
    y: Tensor
    classes: int
    source: str
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a data set, so that nothing downstream has to ask."""
        for letter, value in (("x", self.x), ("y", self.y)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{letter} must be a torch tensor, got {type(value).__name__}")
        if self.x.ndim != 2 or not self.x.is_floating_point():
            raise ValueError(
                f"x must be floating point of shape [m, d], one flat row an example; got "
                f"{self.x.dtype} of shape {tuple(self.x.shape)}; x.flatten(1).float() may do"
            )
        if self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"y must hold one target an example, shape [{len(self.x)}]; got "
                f"{tuple(self.y.shape)}"
            )
        for what, count in zip(("examples", "inputs"), self.x.shape, strict=True):
            if count == 0:
                raise ValueError(f"data set {self.name!r} has no {what}")
        for letter, value in (("x", self.x), ("y", self.y)):
            wrong = (~value.isfinite()).nonzero()
            if len(wrong):
                raise ValueError(
                    f"{letter} must be finite, but example {int(wrong[0, 0])} of data set "
                    f"{self.name!r} holds NaN or infinity"
                )
        if self.image_shape is not None and math.prod(self.image_shape) != self.x.shape[1]:
            raise ValueError(
                f"image_shape {self.image_shape} has {math.prod(self.image_shape)} numbers, but "
                f"a row of x has {self.x.shape[1]}"
            )
        if whole("classes", self.classes) < 0:
            raise ValueError(f"classes must be at least 0, got {self.classes}")
        if self.classes:
            if self.y.dtype != torch.int64:
                raise TypeError(f"y must be int64 where there are classes, got {self.y.dtype}")
            low, high = int(self.y.min()), int(self.y.max())
            if low < 0 or high >= self.classes:
                raise ValueError(
                    f"y must lie in 0 ... {self.classes - 1} for {self.classes} classes; it "
                    f"spans {low} ... {high}"
                )

    def __len__(self) -> int:
        """Return the number of examples, m."""
        return len(self.x)

    def __repr__(self) -> str:
        """Return a small table."""
        inputs = f"{self.x.shape[1]} numbers"
        if self.image_shape is not None:
            inputs += " = " + " x ".join(map(str, self.image_shape))
        targets = f"real, {float(self.y.min()):g} to {float(self.y.max()):g}"
        if self.classes:
            counts = self.class_counts
            targets = (
                f"{self.classes} classes of {int(counts.min())} to {int(counts.max())} examples"
            )
        return listing(
            f"Dataset {self.name}",
            {
                "examples": f"{len(self)}",
                "inputs": inputs,
                "targets": targets,
                "source": self.source,
            },
        )

    @property
    def images(self) -> Tensor:
        """The inputs as pictures, shape [m, channels, height, width] (a view of `x`)."""
        if self.image_shape is None:
            raise ValueError(f"the inputs of data set {self.name!r} are not pictures")
        return self.x.view(len(self), *self.image_shape)

    @property
    def class_counts(self) -> Tensor:
        """Number of examples of each class, shape [classes]."""
        if not self.classes:
            raise ValueError(f"data set {self.name!r} has real targets, not classes")
        return torch.bincount(self.y, minlength=self.classes)

    def take(
        self, indices: Sequence[int] | NDArray[np.generic] | Tensor, name: str | None = None
    ) -> Dataset:
        """Copy some of the examples into a data set of their own.

        Parameters
        ----------
        indices : sequence of int, array or Tensor
            Positions 0 ... m - 1 in the wanted order, or a mask of m booleans.
        name : str
            What to call the result; the same name by default.

        Returns
        -------
        Dataset
            The chosen examples, in the order of `indices`.

        Raises
        ------
        IndexError
            If a position is out of range or a mask has another length than the data set.
        TypeError
            If `indices` are neither integers nor booleans.

        Examples
        --------
        >>> from gencoh_lib.data import load
        >>> load("digits").take([3, 1]).y.tolist()
        [3, 1]
        """
        index = torch.as_tensor(indices)
        if index.ndim != 1 or (index.is_floating_point() and len(index)):
            raise TypeError(
                f"indices must be a list of integers or booleans, got {index.dtype} of shape "
                f"{tuple(index.shape)}"
            )
        if index.dtype == torch.bool:
            if len(index) != len(self):
                raise IndexError(f"mask has {len(index)} entries for {len(self)} examples")
        elif len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(
                f"indices span {int(index.min())} ... {int(index.max())}, but data set "
                f"{self.name!r} has positions 0 ... {len(self) - 1}"
            )
        else:
            index = index.long()
        name = self.name if name is None else name
        return replace(self, name=name, x=self.x[index], y=self.y[index])


def listing(title: str, rows: Mapping[str, str]) -> str:
    """Return a title and aligned lines of name and value."""
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])
