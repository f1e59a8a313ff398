"""Two-phase training: gates from a part of the data, weights from all of it.

The public names are those of :mod:`gencoh_lib.paths`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gencoh_lib._dataset import listing
from gencoh_lib._network_graph import GatedModule, Network, run
from gencoh_lib._tracing import trace
from gencoh_lib._whole import whole
from gencoh_lib.data import Dataset
from gencoh_lib.training import Evaluate, History, cross_entropy, train

Loss = Callable[[Tensor, Tensor], Tensor]


class TwoPhase(GatedModule):
    r"""A network whose gates are frozen while its weights go on learning.

    Two copies of the model run side by side: ``gating`` decides which units are on and is never
    trained again, ``weights`` is what the optimiser sees. Until the first update the output is
    that of the model.

    Parameters
    ----------
    model : torch.nn.Module
        A network that :mod:`gencoh_lib.paths` covers, at the end of the standard phase. It is
        copied and stays as it is.

    Notes
    -----
    .. math:: \tilde f_k(x) = [\bar x \circ \bar\sigma(x, w_\sigma)]^\top \bar w_k

    Kawaguchi, Kaelbling and Bengio (2019, v5, section 5.3.1 and appendix A4). With the gates
    frozen the output is linear in the path weights, and in the weights of each single layer.

    Examples
    --------
    >>> from gencoh_lib import models
    >>> net = models.mlp([4, 8, 2], seed=0)
    >>> frozen = TwoPhase(net)
    >>> x = torch.linspace(-1, 1, 12).reshape(3, 4)
    >>> bool(torch.equal(frozen(x), net(x)))
    True
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if isinstance(model, TwoPhase):
            raise TypeError("the gates of a TwoPhase model are frozen already")
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.gating = copy.deepcopy(model).requires_grad_(False)
        self.weights = copy.deepcopy(model)
        self._networks: dict[tuple[int, ...], Network] = {}

    def network(self, x: Tensor) -> Network:
        """Graph for inputs like x [m, ...], traced once for each shape."""
        shape = tuple(x.shape[1:])
        if shape not in self._networks:
            gates = trace(self.gating, x)
            layers = {s.name: s.layer for s in gates.steps if s.layer is not None}
            found = trace(self.weights, x)
            self._networks[shape] = replace(found, model=self, gate_layers=layers)
        return self._networks[shape]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [m, d_y] of the weights through the frozen gates."""
        network = self.network(x)
        with torch.no_grad():
            _, gates = run(network, x, layers=network.gate_layers)
        outputs, _ = run(network, x, gates=gates)
        return outputs


@dataclass(frozen=True, eq=False, repr=False)
class TwoPhaseRun:
    """What :func:`two_phase_training` returns.

    Attributes
    ----------
    model : TwoPhase
        The trained network.
    standard : torch.nn.Module
        The ordinary network at the end of the standard phase.
    standard_history, freeze_history : History
        What the probes saw in each phase.
    standard_examples, examples : int
        The number of examples that the gates have seen, and of all, m.

    Examples
    --------
    >>> from gencoh_lib import data, models
    >>> digits = data.load("digits").take(range(100))
    >>> run = two_phase_training(models.mlp([64, 8, 10], seed=0), digits, train_fraction=0.3,
    ...                          steps=2, learning_rate=0.1)
    >>> run.standard_examples, len(run.rest)
    (30, 70)
    """

    model: TwoPhase
    standard: nn.Module
    standard_history: History
    freeze_history: History
    standard_examples: int
    examples: int

    @property
    def rest(self) -> range:
        """Positions of the examples that the gates have not seen, of which the theorems speak."""
        return range(self.standard_examples, self.examples)

    def __repr__(self) -> str:
        """Return a small table."""
        share = self.standard_examples / self.examples
        return listing(
            "two-phase training",
            {
                "standard phase": f"{self.standard_examples} of {self.examples} examples "
                f"({share:.1%}), {self.standard_history.steps[-1]} steps",
                "freeze phase": f"{self.examples} examples, {self.freeze_history.steps[-1]} steps",
                "trained weights": f"{sum(p.numel() for p in self.model.weights.parameters())}",
                "frozen weights": f"{sum(p.numel() for p in self.model.gating.parameters())}, "
                "which decide the gates",
            },
        )


def two_phase_training(
    model: nn.Module,
    dataset: Dataset,
    *,
    train_fraction: float,
    steps: int,
    learning_rate: float,
    freeze_steps: int | None = None,
    freeze_learning_rate: float | None = None,
    batch_size: int | None = None,
    loss: Loss = cross_entropy,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    probes: Mapping[str, Callable[[nn.Module], object]] | None = None,
    threads: int = 1,
    seed: int = 0,
) -> TwoPhaseRun:
    r"""Learn the gates from a part of the data, freeze them, and learn the weights from all of it.

    Parameters
    ----------
    model : torch.nn.Module
        The network to start from; it is copied and stays as it is.
    dataset : Dataset
        All m examples; the standard phase sees the first :math:`\alpha m`, in their order.
    train_fraction : float
        :math:`\alpha`, in [0, 1]. At 0 the gates stay as they were initialised.
    steps, freeze_steps : int
        Updates in each phase; by default as many in the second.
    learning_rate, freeze_learning_rate : float
        Step size in each phase; by default the same.
    batch_size : int, optional
        Examples a step, in the standard phase at most as many as there are.
    loss, optimizer, probes, threads, seed
        As for :func:`gencoh_lib.training.train`, in both phases; by default the probe evaluates
        on ``dataset``.

    Returns
    -------
    TwoPhaseRun

    Raises
    ------
    UnsupportedLayerError
        If a layer is not covered.
    ValueError
        If `train_fraction` is not in [0, 1].

    Notes
    -----
    Kawaguchi, Kaelbling and Bengio (2019, v5, section 5.3.1): the gates do not depend on the
    remaining :math:`(1-\alpha)m` examples, so that their path features are independent and
    concentration applies to them.

    Examples
    --------
    >>> from gencoh_lib import data, models
    >>> digits = data.load("digits").take(range(100))
    >>> two_phase_training(models.mlp([64, 8, 10], seed=0), digits, train_fraction=0.3,
    ...                    steps=2, learning_rate=0.1)
    two-phase training
      standard phase   30 of 100 examples (30.0%), 2 steps
      freeze phase     100 examples, 2 steps
      trained weights  610
      frozen weights   610, which decide the gates
    """
    if not 0 <= train_fraction <= 1:
        raise ValueError(f"train_fraction must lie in [0, 1], got {train_fraction}")
    steps = whole("steps", steps)
    freeze_steps = steps if freeze_steps is None else whole("freeze_steps", freeze_steps)
    m = len(dataset)
    seen = max(1, round(train_fraction * m)) if train_fraction else 0
    probes = {"train": Evaluate(dataset, loss)} if probes is None else probes
    standard = copy.deepcopy(model)
    trace(standard, dataset.x[:1])  # refuse before anything is trained

    def phase(
        network: nn.Module, examples: Dataset, updates: int, rate: float, name: str
    ) -> History:
        return train(
            network, examples, steps=updates, learning_rate=rate, loss=loss, optimizer=optimizer,
            batch_size=None if batch_size is None else min(batch_size, len(examples)),
            probes=probes, threads=threads, seed=seed, description=name,
        )  # fmt: skip

    first = dataset.take(range(seen)) if seen else dataset
    before = phase(standard, first, steps if seen else 0, learning_rate, "standard phase")
    frozen = TwoPhase(standard)
    rate = learning_rate if freeze_learning_rate is None else freeze_learning_rate
    after = phase(frozen, dataset, freeze_steps, rate, "freeze phase")
    return TwoPhaseRun(frozen, standard, before, after, seen, m)
