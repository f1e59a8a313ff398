"""Tubes around affine minimal pieces, behind :mod:`gencoh_lib.stagnation`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gencoh_lib._dataset import listing
from gencoh_lib._numbers import count, nonnegative, positive

_ORTHONORMAL = 1e-4  # coarser than the rounding of an eigendecomposition in float32


@dataclass(frozen=True, eq=False, repr=False)
class Tube:
    r"""The points that lie within a radius of an affine piece of minimisers.

    The piece runs through `centre` along p flat directions; the k = D - p others are normal to it.
    Give the flat directions or the normal ones, whichever are fewer; with neither the piece is a
    point and the tube a ball.

    Parameters
    ----------
    centre : Tensor
        [D] a point of the piece.
    radius : float
        r, the largest distance from the piece.
    flat : Tensor, optional
        [D, p] orthonormal columns along the piece.
    normal : Tensor, optional
        [D, k] orthonormal columns across it.
    length : float
        R, how far the tube goes along the piece, to each side; by default without end.

    Raises
    ------
    TypeError, ValueError
        If both bases are given, a shape does not fit, columns are not orthonormal, or a number is
        out of range.

    Notes
    -----
    :math:`U_r(M) = \{\theta : \mathrm{dist}(\theta, M) \le r\}`, with M the piece. Derived here
    (stand-in; the text of Imaizumi and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> import torch
    >>> valley = Tube(torch.zeros(2), radius=0.5, flat=torch.tensor([[0.0], [1.0]]))
    >>> valley.distance(torch.tensor([[0.3, 7.0], [-0.6, 0.0]]))
    tensor([0.3000, 0.6000])
    >>> valley
    tube of radius 0.5
      parameters       2
      flat directions  1, without end
      normal ones      1
    """

    centre: Tensor
    radius: float
    flat: Tensor | None = None
    normal: Tensor | None = None
    length: float = math.inf

    def __post_init__(self) -> None:
        if not isinstance(self.centre, Tensor) or not self.centre.is_floating_point():
            raise TypeError("centre must be a floating-point tensor [D]")
        if self.centre.ndim != 1 or not len(self.centre):
            raise ValueError(f"centre must be of shape [D], got {tuple(self.centre.shape)}")
        positive("radius", self.radius)
        if not self.length >= 0:
            raise ValueError(f"length must be a number >= 0, got {self.length}")
        if self.flat is not None and self.normal is not None:
            raise ValueError(
                "give the flat directions or the normal ones, not both: one basis decides the other"
            )
        for name, basis in (("flat", self.flat), ("normal", self.normal)):
            if basis is not None:
                _check_basis(name, basis, len(self.centre))

    @property
    def dimension(self) -> int:
        """D, the number of parameters."""
        return len(self.centre)

    @property
    def codimension(self) -> int:
        """k, the number of directions normal to the piece."""
        if self.normal is not None:
            return self.normal.shape[1]
        return self.dimension - (0 if self.flat is None else self.flat.shape[1])

    @property
    def flat_dimension(self) -> int:
        """p, the dimension of the piece."""
        return self.dimension - self.codimension

    def like(self, other: Tensor) -> Tube:
        """Return the tube in the floating-point type and on the device of a tensor."""
        flat, normal = (None if b is None else b.to(other) for b in (self.flat, self.normal))
        return Tube(self.centre.to(other), self.radius, flat, normal, self.length)

    def across(self, theta: Tensor) -> Tensor:
        """Offset of points from the piece.

        Parameters
        ----------
        theta : Tensor
            [..., D] points.

        Returns
        -------
        Tensor
            [..., D] the part of ``theta - centre`` that is normal to the piece.
        """
        offset: Tensor = theta - self.centre
        if self.normal is not None:
            offset = offset @ self.normal @ self.normal.T
        elif self.flat is not None:
            offset = offset - offset @ self.flat @ self.flat.T
        return offset

    def distance(self, theta: Tensor) -> Tensor:
        """Distance of points [..., D] from the piece; shape [...]."""
        if self.normal is None:
            return _lengths(self.across(theta))
        return _lengths((theta - self.centre) @ self.normal)

    def nearest(self, theta: Tensor) -> Tensor:
        """Nearest point of the piece to each point; shape [..., D]."""
        found: Tensor = theta - self.across(theta)
        return found

    def along(self, theta: Tensor) -> Tensor:
        """How far along the piece points [..., D] lie from the centre; shape [...]."""
        return _lengths(self.nearest(theta) - self.centre)

    def contains(self, theta: Tensor) -> Tensor:
        """Whether points [..., D] lie in the tube; boolean of shape [...]."""
        inside: Tensor = self.distance(theta) <= self.radius
        if self.length < math.inf:
            inside = inside & (self.along(theta) <= self.length)
        return inside

    def normal_basis(self) -> Tensor:
        """Orthonormal columns [D, k] across the piece, computed if the flat ones were given."""
        if self.normal is not None:
            return self.normal
        if self.flat is None:
            return torch.eye(self.dimension, dtype=self.centre.dtype, device=self.centre.device)
        full: Tensor = torch.linalg.qr(self.flat, mode="complete").Q
        return full[:, self.flat.shape[1] :]

    def core_radius(self, variance: float) -> float:
        r"""Distance within which a run may start for the guarantee, :math:`\sqrt{r\sqrt{kv}}`.

        Parameters
        ----------
        variance : float
            v, the effective stationary variance of a coordinate.

        Returns
        -------
        float
        """
        spread = math.sqrt(self.codimension * nonnegative("variance", variance))
        return math.sqrt(self.radius * spread)

    def points(
        self, distance: float, number: int, *, stretch: float = 0.0, seed: int = 0
    ) -> Tensor:
        """Draw points at a distance from the piece.

        Parameters
        ----------
        distance : float
            Distance of all of them from the piece, in uniform directions across it.
        number : int
            How many.
        stretch : float
            They lie within this distance of the centre along the piece: a uniform distance, in a
            uniform direction.
        seed : int
            Seed of the draw.

        Returns
        -------
        Tensor
            [number, D].

        Raises
        ------
        TypeError, ValueError
            If a number is out of range, or the piece has no directions across or along it.

        Examples
        --------
        >>> import torch
        >>> valley = Tube(torch.zeros(3), radius=1, normal=torch.eye(3)[:, :2])
        >>> valley.distance(valley.points(0.5, 4))
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
        """
        nonnegative("distance", distance), nonnegative("stretch", stretch)
        if not self.codimension:
            raise ValueError("all directions are flat: there is nothing across the piece")
        if stretch and not self.flat_dimension:
            raise ValueError("stretch > 0, but the piece is a point: leave it at 0")
        generator = torch.Generator(self.centre.device).manual_seed(seed)
        shape = count("number", number), self.dimension

        def normals(*size: int) -> Tensor:
            return torch.randn(
                size, generator=generator, dtype=self.centre.dtype, device=self.centre.device
            )

        across = self.across(self.centre + normals(*shape))
        found = self.centre + distance * _unit(across)
        if stretch:
            draw = self.centre + normals(*shape)
            share = torch.rand(
                (shape[0], 1), generator=generator, dtype=across.dtype, device=across.device
            )
            found = found + stretch * share * _unit(self.nearest(draw) - self.centre)
        return found

    def __repr__(self) -> str:
        ends = "without end" if self.length == math.inf else f"to {self.length:g} on each side"
        flat = f"{self.flat_dimension}, {ends}" if self.flat_dimension else "none: a ball"
        rows = {
            "parameters": f"{self.dimension}",
            "flat directions": flat,
            "normal ones": f"{self.codimension}",
        }
        return listing(f"tube of radius {self.radius:g}", rows)


def _unit(rows: Tensor) -> Tensor:
    return rows / _lengths(rows).unsqueeze(-1)


def _lengths(rows: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return found


def _check_basis(name: str, basis: Tensor, dimension: int) -> None:
    if not isinstance(basis, Tensor) or basis.ndim != 2 or basis.shape[0] != dimension:
        shape = tuple(basis.shape) if isinstance(basis, Tensor) else type(basis).__name__
        raise ValueError(f"{name} must be a tensor [{dimension}, directions], got {shape}")
    gram = basis.T @ basis
    error = float((gram - torch.eye(basis.shape[1]).to(gram)).abs().max()) if gram.numel() else 0.0
    if not error <= _ORTHONORMAL:
        raise ValueError(
            f"the columns of {name} must be orthonormal; their inner products are off by "
            f"{error:.2g}: take torch.linalg.qr({name}).Q"
        )
