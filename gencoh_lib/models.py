"""Small networks for the course, with the initialisation written out.

Both builders take flat inputs of shape [m, d], name every layer, and draw the weights from a
generator of their own: the same seed gives the same network, and the global random state is
neither used nor changed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.utils import skip_init

from gencoh_lib._whole import whole, wholes

__all__ = ["Initialisation", "cnn", "initialise", "mlp"]

Initialisation = Literal["he", "xavier", "zeros"]
"""The initialisations that :func:`initialise` knows."""


def mlp(
    sizes: Sequence[int],
    *,
    activation: Callable[[], nn.Module] = nn.ReLU,
    bias: bool = True,
    initialisation: Initialisation = "he",
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Build a fully connected network.

    Parameters
    ----------
    sizes : sequence of int
        Widths from the input to the output, so ``[64, 128, 10]`` has one hidden layer; two
        widths make a linear model.
    activation : callable
        Makes the activation after each layer but the last, for example ``torch.nn.Tanh``.
    bias : bool
        Whether layers add a bias.
    initialisation : str
        How weights are drawn, see :func:`initialise`.
    seed : int
        Seed of the weights.
    dtype : torch.dtype
        Floating-point type of the parameters.

    Returns
    -------
    torch.nn.Sequential
        Layers ``layer1``, ``act1``, ``layer2``, ...; maps [m, sizes[0]] to [m, sizes[-1]].

    Raises
    ------
    TypeError
        If `seed` is not a whole number.
    ValueError
        If `sizes` are fewer than two or not all positive whole numbers, or `initialisation` is
        unknown.

    Examples
    --------
    >>> net = mlp([64, 128, 10], seed=0)
    >>> sum(p.numel() for p in net.parameters())
    9610
    """
    sizes = _positive("sizes", sizes, at_least=2)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for depth, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        if depth > 1:
            layers[f"act{depth - 1}"] = activation()
        layers[f"layer{depth}"] = skip_init(nn.Linear, fan_in, fan_out, bias=bias, dtype=dtype)
    network = nn.Sequential(layers)
    initialise(network, initialisation, seed=seed)
    return network


def cnn(
    image_shape: tuple[int, int, int],
    *,
    channels: Sequence[int] = (8, 16),
    classes: int = 10,
    activation: Callable[[], nn.Module] = nn.ReLU,
    initialisation: Initialisation = "he",
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Build a small convolutional network that takes flat pictures.

    Each stage is a 3 x 3 convolution that keeps the size, an activation, and a 2 x 2 maximum
    that halves height and width, rounding down.  A linear layer reads the classes off the last.

    Parameters
    ----------
    image_shape : tuple of int
        Channels, height and width of the picture in each row of the input, as in
        ``image_shape`` of a :class:`~gencoh_lib.data.Dataset`.
    channels : sequence of int
        Number of channels of each stage.
    classes : int
        Number of outputs.
    activation : callable
        Makes the activation of each stage.
    initialisation : str
        How weights are drawn, see :func:`initialise`.
    seed : int
        Seed of the weights.
    dtype : torch.dtype
        Floating-point type of the parameters.

    Returns
    -------
    torch.nn.Sequential
        Layers ``image``, ``conv1``, ``act1``, ``pool1``, ``conv2``, ..., ``flat``, ``output``;
        maps [m, channels * height * width] to [m, classes].

    Raises
    ------
    TypeError
        If `seed` is not a whole number.
    ValueError
        If a number is not positive and whole, `image_shape` is not three numbers, the picture is
        too small for so many stages, or `initialisation` is unknown.

    Examples
    --------
    >>> net = cnn((1, 8, 8), channels=(4,), seed=0)
    >>> net(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """
    shape = _positive("image_shape", image_shape, at_least=3)
    channels = _positive("channels", channels, at_least=1)
    (classes,) = _positive("classes", [classes], at_least=1)
    if len(shape) != 3:
        raise ValueError(f"image_shape must be (channels, height, width), got {image_shape}")
    depth, height, width = shape
    stages = len(channels)
    if min(height, width) < 2**stages:
        raise ValueError(
            f"a {height} x {width} picture vanishes when {stages} stages halve it; give at most "
            f"{int(math.log2(min(height, width)))} channels"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["image"] = nn.Unflatten(1, (depth, height, width))
    for stage, (before, after) in enumerate(pairwise([depth, *channels]), start=1):
        layers[f"conv{stage}"] = skip_init(
            nn.Conv2d, before, after, kernel_size=3, padding=1, dtype=dtype
        )
        layers[f"act{stage}"] = activation()
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    layers["flat"] = nn.Flatten()
    pixels = (height >> stages) * (width >> stages)
    layers["output"] = skip_init(nn.Linear, channels[-1] * pixels, classes, dtype=dtype)
    network = nn.Sequential(layers)
    initialise(network, initialisation, seed=seed)
    return network


@torch.no_grad()
def initialise(model: nn.Module, how: Initialisation = "he", *, seed: int) -> None:
    """Draw the weights of all linear and convolutional layers afresh; biases become 0.

    With fan_in the number of inputs that one unit sees, and fan_out the number of units that one
    input reaches (both for a stride of 1 and away from the border),

    - ``"he"``: normal with variance 2 / fan_in, which keeps the size of activations through
      ReLUs (He, Zhang, Ren and Sun 2015);
    - ``"xavier"``: uniform on ±sqrt(6 / (fan_in + fan_out)), so with variance
      2 / (fan_in + fan_out) (Glorot and Bengio 2010);
    - ``"zeros"``: all 0, for linear models; a network with hidden layers cannot leave it.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.  Layers of other kinds, such as norms, keep their parameters.
    how : str
        One of the above.
    seed : int
        Seed of the draw; layers are drawn in the order of ``model.modules()``.

    Raises
    ------
    TypeError
        If `seed` is not a whole number.
    ValueError
        If `how` is unknown, or a layer is a transposed convolution or computes its weight from
        other parameters, as under weight normalisation; then nothing has been changed.

    Examples
    --------
    >>> layer = torch.nn.Linear(50, 2000)
    >>> initialise(layer, seed=0)
    >>> round(50 * float(layer.weight.detach().var()), 1)
    2.0
    """
    known = get_args(Initialisation)
    if how not in known:
        guess = get_close_matches(str(how), known, n=1)
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        raise ValueError(
            f"there is no initialisation {how!r}; choose one of "
            f"{', '.join(map(repr, known))}.{hint}"
        )
    generator = torch.Generator().manual_seed(whole("seed", seed))
    for layer in _drawn_layers(model):
        weight = layer.weight
        receptive = math.prod(weight.shape[2:])
        reached = weight.shape[0] // getattr(layer, "groups", 1)  # an input has but one group
        fan_out, fan_in = reached * receptive, weight.shape[1] * receptive
        drawn = torch.zeros(weight.shape, dtype=weight.dtype)  # the same on every device
        if how == "he":
            drawn.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
        elif how == "xavier":
            limit = math.sqrt(6 / (fan_in + fan_out))
            drawn.uniform_(-limit, limit, generator=generator)
        weight.copy_(drawn)
        if layer.bias is not None:
            layer.bias.zero_()


_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def _drawn_layers(model: nn.Module) -> list[_Layer]:
    """Return the layers to initialise; refuse those for which that would mean something else."""
    layers: list[_Layer] = []
    for name, layer in model.named_modules():
        called = f"layer {name!r} ({type(layer).__name__})"
        if isinstance(layer, _TRANSPOSED):
            raise ValueError(
                f"{called} is a transposed convolution, for which fan_in depends on the place; "
                "initialise the other layers one by one and this one by hand"
            )
        if isinstance(layer, _Layer):
            # What a parametrisation computes is a plain tensor: writing to it changes nothing.
            for tensor in (layer.weight, layer.bias):
                if tensor is not None and not isinstance(tensor, nn.Parameter):
                    raise ValueError(
                        f"{called} computes its weight or bias from other parameters; "
                        "initialise the model first and parametrise or prune it then"
                    )
            layers.append(layer)
    return layers


def _positive(name: str, values: Sequence[int], *, at_least: int) -> list[int]:
    """Refuse too short a sequence, and anything in it but whole numbers of 1 or more."""
    try:
        numbers = wholes(name, values)
    except TypeError:
        numbers = []
    if len(numbers) < at_least or min(numbers) < 1:
        raise ValueError(
            f"{name} must be {at_least} or more whole numbers, each at least 1; got {values!r}"
        )
    return numbers
