"""The generalisation gap as norm, spectrum and alignment, behind :mod:`gencoh_lib.paths`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gencoh_lib import plots
from gencoh_lib._network_graph import evaluate
from gencoh_lib._path_kernel import check_outputs, kernel
from gencoh_lib._path_sums import norms
from gencoh_lib._tracing import trace
from gencoh_lib.data import Dataset

Population = Dataset | tuple[Tensor, Tensor]
Sample = Sequence[int] | NDArray[np.generic] | Tensor


@dataclass(frozen=True, eq=False, repr=False)
class GapDecomposition:
    r"""The gap :math:`R - R_S` of one network on one sample, taken apart.

    Attributes
    ----------
    gap : float
        Risk minus empirical risk, computed from the losses alone.
    risk, empirical_risk : float
        Mean squared loss :math:`\lVert f(x) - y \rVert^2` over the population and the sample.
    quadratic : float
        :math:`\sum_k \bar w_k^\top G \bar w_k`, put together from norm, spectrum and alignment.
    linear : float
        :math:`2 \sum_k v_k^\top \bar w_k`, put together from norms and cosines.
    c_y : float
        :math:`E\lVert y\rVert^2` minus its mean over the sample; 0 for one-hot labels.
    path_norm_squared : Tensor
        [d_y] :math:`\lVert \bar w_k \rVert^2`.
    eigenvalues : Tensor
        [r] :math:`\lambda_j` of G on the span of the data, ascending; all others are 0.
    alignment : Tensor
        [d_y, r] :math:`\cos^2 \theta^{(1)}_{k,j}` between path weights and eigenvectors.
    v_norm, v_cosine : Tensor
        [d_y] :math:`\lVert v_k \rVert`, and the cosine between :math:`v_k` and :math:`\bar w_k`.
    identity_error : float
        Distance of the two sides, relative to the sum of the absolute values that went into them.
    paths : float
        Number of paths, :math:`d_z`.
    population, sample : int
        Number of atoms N, and of draws m.

    Examples
    --------
    >>> from gencoh_lib import data, models, paths
    >>> digits = data.load("digits").take(range(200))
    >>> parts = paths.gap_decomposition(models.mlp([64, 8, 10], seed=0), digits, range(100))
    >>> abs(parts.quadratic + parts.linear + parts.c_y - parts.gap) < 1e-9
    True
    """

    gap: float
    risk: float
    empirical_risk: float
    quadratic: float
    linear: float
    c_y: float
    path_norm_squared: Tensor
    eigenvalues: Tensor
    alignment: Tensor
    v_norm: Tensor
    v_cosine: Tensor
    identity_error: float
    paths: float
    population: int
    sample: int

    @property
    def largest_eigenvalue(self) -> float:
        """The largest eigenvalue of G, at least 0 where paths outnumber ``eigenvalues``."""
        found = float(self.eigenvalues.max()) if len(self.eigenvalues) else 0.0
        return max(found, 0.0) if self.paths > len(self.eigenvalues) else found

    @property
    def bound(self) -> float:
        """Upper bound on the gap without the cosines, from norms and the largest eigenvalue."""
        w2 = self.path_norm_squared
        return float((2 * self.v_norm * w2.sqrt() + self.largest_eigenvalue * w2).sum()) + self.c_y

    @property
    def rayleigh(self) -> Tensor:
        """[d_y] the eigenvalues averaged by alignment: what is left of the spectrum."""
        return self.alignment @ self.eigenvalues

    def __repr__(self) -> str:
        """Return a small table."""
        w = self.path_norm_squared
        mean_rayleigh = self.quadratic / float(w.sum()) if float(w.sum()) else 0.0
        low = float(self.eigenvalues.min()) if len(self.eigenvalues) else 0.0
        return "\n".join([
            f"gap of {len(w)} outputs, squared loss: sample of {self.sample}, "
            f"population of {self.population}",
            f"  risk - empirical risk = {self.risk:.4g} - {self.empirical_risk:.4g} "
            f"= {self.gap:.4g}",
            f"  {'quadratic part, sum of w.Gw':<34s}{self.quadratic:>11.4g}",
            f"  {'linear part, 2 times sum of v.w':<34s}{self.linear:>11.4g}",
            f"  {'label part, c_y':<34s}{self.c_y:>11.4g}",
            f"  {'norm: sum of squared path norms':<34s}{float(w.sum()):>11.4g}   "
            f"{self.paths:.4g} paths",
            f"  {'spectrum: eigenvalues of G':<34s}{low:>11.4g}   to {self.largest_eigenvalue:.4g}",
            f"  {'alignment: w.Gw by squared norm':<34s}{mean_rayleigh:>11.4g}",
            f"  {'norm of v, mean over outputs':<34s}{float(self.v_norm.mean()):>11.4g}",
            f"  {'cosine of v and w, mean':<34s}{float(self.v_cosine.mean()):>11.4g}",
            f"  {'bound without the cosines':<34s}{self.bound:>11.4g}",
            f"  {'error of the identity, relative':<34s}{self.identity_error:>11.1e}",
        ])  # fmt: skip

    def plot(self) -> plots.CourseFigure:
        """Draw the parts of the gap, and where in the spectrum of G the path weights lie.

        Returns
        -------
        gencoh_lib.plots.CourseFigure
            With a description of what it shows.
        """
        share = self.path_norm_squared @ self.alignment * self.eigenvalues
        alt = (
            f"Left: bars for the quadratic part {self.quadratic:.3g}, the linear part "
            f"{self.linear:.3g}, the label part {self.c_y:.3g} and their sum, the gap "
            f"{self.gap:.3g}. Right: the {len(self.eigenvalues)} eigenvalues of G from "
            f"{self._low:.3g} to {self.largest_eigenvalue:.3g}, and the running sum of what each "
            f"adds to the quadratic part, which ends at {self.quadratic:.3g}."
        )
        fig, (left, right) = plots.figure(columns=2, alt=alt)
        names = ["quadratic", "linear", "labels", "gap"]
        values = [self.quadratic, self.linear, self.c_y, self.gap]
        colours = [plots.series_style(0 if n < 3 else 1)["color"] for n in range(4)]
        left.bar(names, values, color=colours)
        left.axhline(0, color="black", linewidth=0.8)
        left.set(ylabel="part of the gap", title="The gap and its parts")
        order = torch.argsort(self.eigenvalues.abs(), descending=True)
        rank = np.arange(1, len(order) + 1)
        right.plot(rank, self.eigenvalues[order].abs().numpy(), label="size of the eigenvalue",
                   **{**plots.series_style(0), "marker": ""})  # fmt: skip
        right.plot(rank, share[order].cumsum(0).abs().numpy(), label="sum of the parts, its size",
                   **{**plots.series_style(1), "marker": ""})  # fmt: skip
        right.set(xlabel="eigenvalues, from the largest in size", title="Spectrum and alignment")
        if bool((self.eigenvalues != 0).any()):
            right.set(yscale="log", xscale="log")
        right.legend(loc="center left", fontsize="small")
        return fig

    @property
    def _low(self) -> float:
        return float(self.eigenvalues.min()) if len(self.eigenvalues) else 0.0


def gap_decomposition(
    model: nn.Module,
    population: Population,
    sample: Sample,
    *,
    masses: Tensor | None = None,
    tolerance: float = 1e-9,
) -> GapDecomposition:
    r"""The generalisation gap of a network under squared loss, exactly, as parts.

    Parameters
    ----------
    model : torch.nn.Module
        A network that :mod:`gencoh_lib.paths` covers; only read.
    population : Dataset or pair of Tensor
        The N examples that make up the distribution: a data set, or inputs [N, ...] and targets
        [N], [N, d_y]. Classes become one-hot vectors.
    sample : sequence of int, or Tensor of bool
        Positions of the sample in the population, repeated where drawn repeatedly; or a mask [N].
    masses : Tensor, optional
        [N] probability of each example; by default all are equally likely.
    tolerance : float
        Largest relative error of the identity.

    Returns
    -------
    GapDecomposition

    Raises
    ------
    UnsupportedLayerError
        If a layer is not covered, or the outputs do not see the same paths.
    TypeError, ValueError, IndexError
        If shapes, masses or positions do not fit.
    FloatingPointError
        If the two sides differ by more than `tolerance`.

    Notes
    -----
    .. math:: R - R_S = \sum_k \bar w_k^\top G \bar w_k + 2 \sum_k v_k^\top \bar w_k + c_y
        = \sum_k \Bigl( \lVert \bar w_k \rVert^2 \sum_j \lambda_j \cos^2 \theta^{(1)}_{k,j}
        + 2 \lVert v_k \rVert \lVert \bar w_k \rVert \cos \theta^{(2)}_k \Bigr) + c_y,

    with :math:`G = E[zz^\top] - \frac1m \sum_i z_i z_i^\top` and
    :math:`v_k = \frac1m \sum_i y_{ik} z_i - E[y_k z]`: Kawaguchi, Kaelbling and Bengio (2019, v5,
    Theorem 7), for any distribution and any sample. Path space is not materialised: all parts
    come from the path kernel and from path norms (derived in the course).

    Examples
    --------
    >>> from gencoh_lib import models
    >>> line = models.mlp([1, 1], bias=False, initialisation="zeros", seed=0)
    >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [0.0]])
    >>> gap_decomposition(line, (x, y), [0]).gap  # E y^2 - 1: only the labels speak
    -0.5
    """
    x, labels = pairs(population)
    network = trace(model, x)
    check_outputs(network)
    y = targets_for(labels, network.outputs)
    p, drawn, m = weights_of_sample(masses, sample, len(x))
    c = p - drawn / m
    f, gates = evaluate(network, x)
    losses = (f - y).square().sum(1)
    path_norms = norms(network)
    w2 = path_norms.squared
    gram = kernel(network, x.detach().to("cpu", torch.float64), gates)

    eigenvalues, alignment = _spectrum(gram, c, f, w2)
    lengths = w2.sqrt()
    cy = c[:, None] * y
    v_norm = (cy * (gram @ cy)).sum(0).clamp(min=0).sqrt()
    inner = -(cy * f).sum(0)
    scale = v_norm * lengths
    v_cosine = torch.where(scale > 0, inner / scale.where(scale > 0, torch.ones(())), 0.0)

    quadratic = float((w2 * (alignment @ eigenvalues)).sum())
    linear = float((2 * scale * v_cosine).sum())
    lengths_y = y.square().sum(1)
    c_y = float((c * (lengths_y - lengths_y[0])).sum())  # c adds up to 0: exactly 0 for one-hot y
    gap = float((c * losses).sum())
    size = float((c.abs()[:, None] * (f.square() + 2 * (y * f).abs() + y.square())).sum())
    error = abs(quadratic + linear + c_y - gap) / size if size else 0.0
    if not error <= tolerance:
        raise FloatingPointError(
            f"the parts add up to {quadratic + linear + c_y:.12g} and the gap is {gap:.12g}: the "
            f"identity holds only to {error:.1e} of the sum of absolute values, not {tolerance:g}. "
            "Rounding shows where path weights are very large, or inputs (or the constant 1 of "
            "the biases) of very different size: standardise the inputs, or raise tolerance"
        )
    return GapDecomposition(
        gap=gap,
        risk=float((p * losses).sum()),
        empirical_risk=float((drawn / m * losses).sum()),
        quadratic=quadratic,
        linear=linear,
        c_y=c_y,
        path_norm_squared=w2,
        eigenvalues=eigenvalues,
        alignment=alignment,
        v_norm=v_norm,
        v_cosine=v_cosine,
        identity_error=error,
        paths=path_norms.paths,
        population=len(x),
        sample=m,
    )


def _spectrum(gram: Tensor, c: Tensor, f: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of G on the span of the data, and squared cosines with the path weights.

    With K = R R^T the rows of R are the path features in coordinates of their span; there G is
    R^T diag(c) R, and the part of w in the span has the coordinates b with R b = f.
    """
    kappa, u = torch.linalg.eigh(gram)
    largest = float(kappa.max()) if len(kappa) else 0.0
    kept = kappa > len(gram) * torch.finfo(torch.float64).eps * max(largest, 0.0)
    root, u = kappa[kept].sqrt(), u[:, kept]
    rows = u * root
    coordinates = (u.T @ f) / root[:, None]
    values, vectors = torch.linalg.eigh(rows.T @ (c[:, None] * rows))
    projected = (vectors.T @ coordinates).square().T
    length = w2[:, None]
    return values, torch.where(
        length > 0, projected / length.where(length > 0, torch.ones(())), 0.0
    )


def pairs(population: Population) -> tuple[Tensor, Tensor]:
    """Inputs [N, ...] and targets, classes [N] or real [N, d_y], as they are."""
    if isinstance(population, Dataset):
        return population.x, population.y
    if not (isinstance(population, tuple | list) and len(population) == 2):
        raise TypeError("population must be a Dataset or a pair (inputs, targets)")
    x, y = population
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise TypeError("population must hold tensors: inputs [N, ...] and targets")
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(
            f"targets must be [N] or [N, d_y] for N = {len(x)} inputs, got {tuple(y.shape)}"
        )
    return x, y


def targets_for(y: Tensor, outputs: int) -> Tensor:
    """Targets as float64 [N, d_y] for a model of so many outputs; classes as one-hot vectors."""
    y = y.detach().cpu()
    if not y.is_floating_point():
        if y.dtype != torch.int64 or y.ndim != 1 or int(y.min()) < 0:
            raise ValueError("targets must be real numbers, or classes 0, 1, ... as int64 [N]")
        if int(y.max()) >= outputs:
            raise ValueError(
                f"the targets have class {int(y.max())}, but the model has {outputs} outputs, one "
                "for each class; real targets must be of a floating-point type"
            )
        return F.one_hot(y, outputs).double()
    y = y.double()[:, None] if y.ndim == 1 else y.double()
    if not bool(y.isfinite().all()):
        raise ValueError("targets hold NaN or infinity")
    if y.shape[1] != outputs:
        raise ValueError(
            f"the targets have {y.shape[1]} columns and the model {outputs} outputs; squared loss "
            "needs as many of each"
        )
    return y


def weights_of_sample(
    masses: Tensor | None, sample: Sample, atoms: int
) -> tuple[Tensor, Tensor, int]:
    """Probabilities [N], how often each atom was drawn [N], and the number of draws."""
    p = torch.full((atoms,), 1 / atoms, dtype=torch.float64)
    if masses is not None:
        p = torch.as_tensor(masses, dtype=torch.float64)
        if p.shape != (atoms,) or not bool((p >= 0).all()) or abs(float(p.sum()) - 1) > 1e-9:
            raise ValueError(f"masses must be {atoms} numbers >= 0 that add up to 1")
    try:
        index = torch.as_tensor(list(sample) if isinstance(sample, range) else sample).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"sample must be a list of positions or a mask: {error}") from error
    if index.ndim != 1 or index.is_floating_point() or not len(index):
        raise ValueError(
            "sample must be a list of positions in the population (or a mask), with one at least; "
            f"got {index.dtype} of shape {tuple(index.shape)}"
        )
    if index.dtype == torch.bool:
        if len(index) != atoms or not bool(index.any()):
            raise ValueError(f"a mask must have {atoms} entries, and one at least must be True")
        index = index.nonzero().flatten()
    elif not 0 <= int(index.min()) <= int(index.max()) < atoms:
        raise IndexError(
            f"sample spans {int(index.min())} ... {int(index.max())}, but the population has "
            f"positions 0 ... {atoms - 1}"
        )
    return p, torch.bincount(index, minlength=atoms).double(), len(index)
