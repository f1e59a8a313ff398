"""The toy set of the coherence paper, behind :mod:`gencoh_lib.data`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gencoh_lib._dataset import Dataset, listing
from gencoh_lib._whole import whole


@dataclass(frozen=True, eq=False, repr=False)
class Toy:
    """The toy set of the coherence paper, with all that is known about it in closed form.

    Every formula is for the linear model ``w @ x`` without bias, started at ``w = 0`` and trained
    by full-batch gradient descent on the mean of ½ (y - w @ x)².  See :func:`coherence_toy`.

    Attributes
    ----------
    train : Dataset
        The m training examples, inputs of shape [m, m + 2].
    test : Dataset
        The test example, inputs of shape [1, m + 2].
    strength : float
        Size s of the common feature.

    Examples
    --------
    >>> from gencoh_lib.data import coherence_toy
    >>> round(coherence_toy(1.0).test_loss(learning_rate=0.1, step=10), 6)
    0.084239
    """

    train: Dataset
    test: Dataset
    strength: float

    def __repr__(self) -> str:
        """Return a small table."""
        return listing(
            f"Toy of {len(self.train)} training examples and 1 test example",
            {
                "strength s": f"{self.strength:g}",
                "m-coherence": f"{self.m_coherence:.4g}",
                "test residual": f"{self.test_residual:.4g} at convergence",
            },
        )

    @property
    def _agreement(self) -> float:
        """1 + m s², the eigenvalue of the Gram matrix along the direction all examples share."""
        return 1 + len(self.train) * self.strength**2

    @property
    def m_coherence(self) -> float:
        """m-coherence (1 + m s²) / (1 + s²), at every step before convergence."""
        return self._agreement / (1 + self.strength**2)

    @property
    def alpha(self) -> float:
        """Coherence: m-coherence divided by m."""
        return self.m_coherence / len(self.train)

    @property
    def own_weight(self) -> float:
        """Weight of each training example's own feature at convergence, 1 / (1 + m s²)."""
        return 1 / self._agreement

    @property
    def common_weight(self) -> float:
        """Weight of the common feature at convergence, m s / (1 + m s²)."""
        return len(self.train) * self.strength / self._agreement

    @property
    def test_residual(self) -> float:
        """Size of the test example's residual at convergence, 1 / (1 + m s²)."""
        return 1 / self._agreement

    def residual(self, learning_rate: float, step: int) -> float:
        """Residual of every training example, (1 - learning_rate (1 + m s²) / m) ** step."""
        return float((1 - learning_rate * self._agreement / len(self.train)) ** step)

    def train_loss(self, learning_rate: float, step: int) -> float:
        """Mean training loss after `step` steps, ½ residual²."""
        return self.residual(learning_rate, step) ** 2 / 2

    def test_loss(self, learning_rate: float, step: int) -> float:
        """Test loss after `step` steps, ½ (1 - (1 - residual) m s² / (1 + m s²))²."""
        learned = (1 - self.residual(learning_rate, step)) * self.common_weight * self.strength
        return (1 - learned) ** 2 / 2


def coherence_toy(
    strength: float = 1.0, *, examples: int = 4, dtype: torch.dtype = torch.float32
) -> Toy:
    """Build the toy set in which coherence and generalisation are the same formula.

    Example i has a feature of its own and, with size s, one that all examples share:
    x_i = y_i (e_i + s e_common) with targets y = +1, -1, -1, +1, +1, ...  The test example, with
    y = -1, has an own feature that no training example has, so only the common one can help it.
    Four examples with s = 1 are the "real" data of Chatterjee and Zielinski (2022, section 3),
    with s = 0 their "random" data; the family over m and s is derived here.

    Parameters
    ----------
    strength : float
        Size s of the common feature, any real number.
    examples : int
        Number m of training examples, at least 1.
    dtype : torch.dtype
        Floating-point type of inputs and targets.

    Returns
    -------
    Toy
        Training set, test set and the closed forms.

    Raises
    ------
    TypeError
        If `examples` is not a whole number.
    ValueError
        If `strength` is not finite or `examples` is less than 1.

    Examples
    --------
    >>> from gencoh_lib.data import coherence_toy
    >>> toy = coherence_toy(1.0)
    >>> toy.m_coherence, toy.own_weight, toy.common_weight
    (2.5, 0.2, 0.8)
    """
    if not math.isfinite(strength):
        raise ValueError(f"strength must be a finite number, got {strength}")
    examples = whole("examples", examples)
    if examples < 1:
        raise ValueError(f"examples must be at least 1, got {examples}")
    signs = torch.tensor([1, -1, -1, 1], dtype=dtype).repeat(examples // 4 + 1)[:examples]
    y = torch.cat([signs, -torch.ones(1, dtype=dtype)])
    common = torch.full((examples + 1, 1), strength, dtype=dtype)
    x = y[:, None] * torch.cat([torch.eye(examples + 1, dtype=dtype), common], dim=1)
    source = "Chatterjee and Zielinski (2022), section 3"
    both = Dataset(f"toy with s = {strength:g}", x, y, classes=0, source=source)
    train = both.take(range(examples), f"{both.name}, training")
    return Toy(train, both.take([examples], f"{both.name}, test"), float(strength))
