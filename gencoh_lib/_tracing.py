"""From a module to its graph of steps, with ``torch.fx``, behind :mod:`gencoh_lib.paths`.

:func:`trace` keeps what the theory covers and refuses everything else by the name of the layer.
The module is only read.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from gencoh_lib._network_graph import (
    GatedModule,
    Kind,
    Network,
    Step,
    UnsupportedLayerError,
    apply_weights,
    check_weights,
    weights_of,
)

_LAYERS: dict[type[nn.Module], Kind] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.ReLU: "relu",
    nn.MaxPool1d: "pool",
    nn.MaxPool2d: "pool",
    nn.Flatten: "reshape",
    nn.Unflatten: "reshape",
    nn.Identity: "reshape",
}
_FUNCTIONS: dict[object, Kind] = {
    F.relu: "relu", torch.relu: "relu", "relu": "relu",
    torch.flatten: "reshape", "flatten": "reshape",
    operator.add: "add", torch.add: "add", "add": "add", operator.iadd: "add",
}  # fmt: skip
_ALLOWED = (
    "Allowed are Linear, Conv1d, Conv2d, ReLU, MaxPool1d, MaxPool2d, Flatten, Unflatten and sums"
)


def trace(model: nn.Module, x: Tensor) -> Network:
    """Read the graph of a module for inputs like x [m, ...]; raise where paths cannot describe it.

    The result reads the module's weights when it is evaluated, and never writes to them.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not len(x):
        found = (
            f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        )
        raise ValueError(f"x must be a floating-point tensor [m, ...] with m >= 1, got {found}")
    if not bool(x.isfinite().all()):
        raise ValueError("x holds NaN or infinity")
    if isinstance(model, GatedModule):
        return model.network(x)
    root = nn.Sequential(model) if isinstance(model, tuple(_LAYERS)) else model
    try:
        graph = _Tracer().trace(root)
    except UnsupportedLayerError:
        raise
    except Exception as error:
        raise UnsupportedLayerError(
            f"torch.fx cannot trace {type(model).__name__}: {error}. Paths need one graph for all "
            f"inputs. {_ALLOWED}"
        ) from error
    modules = dict(root.named_modules())
    steps: dict[str, Step] = {}
    names: dict[fx.Node, str] = {}
    output = ""
    for node in graph.nodes:
        if node.op == "placeholder":
            if steps:
                raise UnsupportedLayerError(
                    f"the model takes a second input {node.name!r}; paths start at one input tensor"
                )
            step = Step(node.name, "input", (), shape=tuple(x.shape[1:]))
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise UnsupportedLayerError(
                    "the model returns several tensors; wrap it in one that returns the output"
                )
            output = names.get(node.args[0], "")
            continue
        else:
            step = _step(node, modules, steps, names)
        steps[step.name] = step
        names[node] = step.name
    return _reached(model, steps, output)


class _Tracer(fx.Tracer):
    """Stops at every layer of PyTorch itself and at what is made from one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(_LAYERS)) or super().is_leaf_module(m, module_qualified_name)


def _reached(model: nn.Module, steps: Mapping[str, Step], output: str) -> Network:
    """Keep the steps that the output depends on, and check the output."""
    needed = {output}
    for step in reversed(list(steps.values())):
        if step.name in needed:
            needed.update(step.inputs)
    kept = tuple(step for step in steps.values() if step.name in needed)
    last = kept[-1]
    if len(last.shape) != 1:
        raise UnsupportedLayerError(
            f"the output comes from {last.name!r} with shape [m, {str(list(last.shape))[1:]}; it "
            "must be [m, outputs]: end with a Linear layer or with Flatten"
        )
    last_use = {name: n for n, step in enumerate(kept) for name in step.inputs}
    return Network(kept, model, last_use=last_use)


def _step(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    steps: Mapping[str, Step],
    names: Mapping[fx.Node, str],
) -> Step:
    """Turn one node into a step with the shape of its units."""
    layer = modules[str(node.target)] if node.op == "call_module" else _functional_pool(node)
    own = node.op == "call_module"
    called = (
        f"layer {str(node.target)!r} ({type(layer).__name__})" if own
        else f"operation {node.name!r} ({node.op} {getattr(node.target, '__name__', node.target)})"
    )  # fmt: skip
    kind = _kind(node, layer, called)
    given = node.args or tuple(node.kwargs[k] for k in ("input", "other") if k in node.kwargs)
    given = given if kind == "add" else given[:1]
    if not all(isinstance(argument, fx.Node) for argument in given) or not given:
        raise UnsupportedLayerError(f"{called} takes something that is not the output of a layer")
    sources = [argument for argument in given if isinstance(argument, fx.Node)]
    inputs = tuple(names[source] for source in sources)
    in_place = getattr(layer, "inplace", False) or node.target is operator.iadd
    if (in_place or node.kwargs.get("inplace")) and len(sources[0].users) > 1:
        raise UnsupportedLayerError(
            f"{called} works in place on a tensor that is used elsewhere; build it with "
            "inplace=False (or write a + b for a += b)"
        )
    name = str(node.target) if own else node.name
    if name in steps:  # a layer that is called twice
        name = node.name if node.name not in steps else f"{node.name}'"
    before = [steps[i].shape for i in inputs]
    shape = _shape(kind, node, layer, called, before)
    windows = _windows(layer, called, before[0][1:]) if kind == "pool" else None
    edges = _edges(layer, before[0][1:]) if kind == "conv" else None
    return Step(name, kind, inputs, layer, shape, before[0], windows, edges)


def _functional_pool(node: fx.Node) -> nn.Module | None:
    """The layer that does what a call of a pooling function does."""
    pools: dict[object, Any] = {F.max_pool1d: nn.MaxPool1d, F.max_pool2d: nn.MaxPool2d}
    if node.op != "call_function" or node.target not in pools:
        return None
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    options = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    layer: nn.Module = pools[node.target](**options)
    return layer


def _kind(node: fx.Node, layer: nn.Module | None, called: str) -> Kind:
    """Classify a node, or say by name why it is not allowed."""
    if node.op == "get_attr":
        raise UnsupportedLayerError(
            f"parameter or buffer {node.target!r} is used outside a layer; make it the weight or "
            "bias of a Linear or Conv layer"
        )
    if layer is not None:
        for cls, kind in _LAYERS.items():
            if isinstance(layer, cls):
                if type(layer).forward is not cls.forward:
                    raise UnsupportedLayerError(
                        f"{called} overrides {cls.__name__}.forward, so its paths are not known"
                    )
                if kind in ("linear", "conv"):
                    check_weights(layer, called)
                return kind
    elif node.target in _FUNCTIONS:
        kind = _FUNCTIONS[node.target]
        extra = set(node.kwargs) - {"input", "other"}
        if kind == "add" and (len(node.args) + len(node.kwargs) != 2 or extra):
            raise UnsupportedLayerError(f"{called} must add two tensors, without alpha= or out=")
        return kind
    raise UnsupportedLayerError(f"{called} is not covered; {_remedy(node, layer)}. {_ALLOWED}")


def _remedy(node: fx.Node, layer: nn.Module | None) -> str:
    """What to do about a node that is not covered."""
    name = getattr(node.target, "__name__", str(node.target))
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return "fold it into the layer before it with torch.nn.utils.fusion, in eval mode"
    if isinstance(layer, nn.modules.dropout._DropoutNd) or "dropout" in name:
        return "leave it out: paths are those of one network, and in eval mode it does nothing"
    if name in ("view", "reshape", "size", "getattr", "unflatten"):
        return "write flatten(1), or use Flatten and Unflatten layers"
    if name in ("relu_", "add_"):
        return "write it without the underscore, so that nothing is changed in place"
    return "replace it or leave it out"


def _shape(
    kind: Kind, node: fx.Node, layer: nn.Module | None, called: str, shapes: list[tuple[int, ...]]
) -> tuple[int, ...]:
    """Shape of the units after a step."""
    if kind == "add":
        if len(set(shapes)) != 1:
            raise UnsupportedLayerError(
                f"{called} adds shapes {shapes[0]} and {shapes[1]}; broadcasting is not covered"
            )
        return shapes[0]
    (before,) = shapes
    if kind == "linear" and len(before) != 1:
        raise UnsupportedLayerError(
            f"{called} gets units of shape {before}; put a Flatten before it (a Linear layer that "
            "is repeated over positions is not covered)"
        )
    if kind == "conv":
        assert isinstance(layer, nn.Conv1d | nn.Conv2d)
        if layer.padding_mode != "zeros":
            raise UnsupportedLayerError(f"{called} pads by {layer.padding_mode!r}; only 'zeros'")
    if kind in ("conv", "pool"):
        dimensions = 1 + (1 if isinstance(layer, nn.Conv1d | nn.MaxPool1d) else 2)
        if len(before) != dimensions:
            raise UnsupportedLayerError(
                f"{called} gets units of shape {before}; it needs {dimensions} dimensions after "
                "the one of the examples: channels and positions"
            )
    probe = torch.zeros(1, *before, dtype=torch.float64)
    try:
        with torch.no_grad():
            after = _on_probe(kind, node, layer, probe)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"{called} cannot take units of shape {before}: {error}") from error
    if kind == "reshape" and (after.ndim < 2 or len(after) != 1):
        raise UnsupportedLayerError(f"{called} merges the examples; flatten from start_dim=1")
    return tuple(after.shape[1:])


def _on_probe(kind: Kind, node: fx.Node, layer: nn.Module | None, probe: Tensor) -> Tensor:
    """What a step makes of one example."""
    after: Tensor = probe
    if kind in ("linear", "conv"):
        after = apply_weights(layer, probe, *(weights_of(layer, torch.float64)))
    elif kind == "reshape" and layer is None:
        after = probe.flatten(*_flatten_dims(node))
    elif kind in ("reshape", "pool") and layer is not None:
        after = layer(probe)
    return after


def _flatten_dims(node: fx.Node) -> tuple[Any, Any]:
    options = [*node.args[1:], None, None]
    start = node.kwargs.get("start_dim", options[0])
    end = node.kwargs.get("end_dim", options[1])
    return (0 if start is None else start), (-1 if end is None else end)


def _windows(layer: nn.Module | None, called: str, positions: tuple[int, ...]) -> Tensor:
    """Positions that each window of a pool covers, [window size, positions out]; -1 is padding."""
    assert isinstance(layer, nn.MaxPool1d | nn.MaxPool2d)
    if layer.ceil_mode or layer.return_indices:
        raise UnsupportedLayerError(f"{called}: ceil_mode and return_indices are not covered")
    row = isinstance(layer, nn.MaxPool1d)
    around = _pair(layer.padding, 0, row)
    return _covered(
        _pair(layer.kernel_size, 1, row), _pair(layer.stride, 1, row),
        _pair(layer.dilation, 1, row), (around[1], around[1], around[0], around[0]), positions,
    )  # fmt: skip


def _edges(layer: nn.Module | None, positions: tuple[int, ...]) -> Tensor:
    """Positions that each place of a kernel reads, [kernel size, positions out]; -1 is padding."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    row = isinstance(layer, nn.Conv1d)
    # What the layer pads with, the last dimension first, also for padding="same".
    around = (*layer._reversed_padding_repeated_twice, 0, 0)[:4]
    return _covered(
        _pair(layer.kernel_size, 1, row), _pair(layer.stride, 1, row),
        _pair(layer.dilation, 1, row), around, positions,
    )  # fmt: skip


def _covered(
    size: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    around: tuple[int, ...],
    positions: tuple[int, ...],
) -> Tensor:
    """Which positions a sliding window covers: a map of their numbers, unfolded; -1 is padding."""
    height, width = (1, *positions) if len(positions) == 1 else positions
    numbers = torch.arange(1.0, height * width + 1, dtype=torch.float64)
    padded = F.pad(numbers.view(1, 1, height, width), around)
    return F.unfold(padded, size, dilation=dilation, stride=stride)[0].long() - 1


def _pair(value: Any, fill: int, one_row: bool) -> tuple[int, int]:
    first, last = (value[0], value[-1]) if isinstance(value, tuple) else (value, value)
    return (fill, last) if one_row else (first, last)
