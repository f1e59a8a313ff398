r"""Sparsity-aware generalisation bounds: only what is active counts.

At most inputs many units of a network of ReLUs are off, and deeply so: small changes of the
weights do not switch them on. Rows and columns of units that stay off can be struck out of the
weights, and what is left has smaller norms. Muthukumar and Sulam (2023, COLT, PMLR 195) turn this
into a bound on the error of a trained network.

A **level** counts units that are inactive: level 0 is the dense network. Networks are chains of
Linear layers without biases and ReLUs, given as their weights (:func:`weight_matrices`); everything
is computed in float64.
"""

from __future__ import annotations

from gencoh_lib._gaussian_perturbation import noise_scale, perturbation_std
from gencoh_lib._sparse_hyperparameters import Hyperparameters
from gencoh_lib._sparse_neighbourhood import (
    in_class,
    in_neighbourhood,
    radius_statement,
    sensitivity_statement,
    size_statement,
)
from gencoh_lib._sparse_network import activations, weight_matrices
from gencoh_lib._sparse_norm_bounds import SparseNorm, sparse_norm_bounds
from gencoh_lib._sparse_norms import reduced_babel, reduced_row_norms, sparse_norm
from gencoh_lib._sparse_radius import inactive_sets, radii
from gencoh_lib._sparse_stability import LayerStability, Statement, layer_stability
from gencoh_lib._sparsity_activity import ActivityRatio, effective_activity
from gencoh_lib._sparsity_bound import SparsityBound, one_shot, theorem_13
from gencoh_lib._sparsity_levels import greedy_levels
from gencoh_lib._sparsity_prior import Part, Prior, PriorSplit, SeenByPriorError, split_for_prior
from gencoh_lib._sparsity_search import Grid, Search, Trial, search

__all__ = [
    "ActivityRatio",
    "Grid",
    "Hyperparameters",
    "LayerStability",
    "Part",
    "Prior",
    "PriorSplit",
    "Search",
    "SeenByPriorError",
    "SparseNorm",
    "SparsityBound",
    "Statement",
    "Trial",
    "activations",
    "effective_activity",
    "greedy_levels",
    "in_class",
    "in_neighbourhood",
    "inactive_sets",
    "layer_stability",
    "noise_scale",
    "one_shot",
    "perturbation_std",
    "radii",
    "radius_statement",
    "reduced_babel",
    "reduced_row_norms",
    "search",
    "sensitivity_statement",
    "size_statement",
    "sparse_norm",
    "sparse_norm_bounds",
    "split_for_prior",
    "theorem_13",
    "weight_matrices",
]

for _object in (
    ActivityRatio, Grid, Hyperparameters, LayerStability, Part, Prior, PriorSplit, Search,
    SeenByPriorError, SparseNorm, SparsityBound, Statement, Trial, activations,
    effective_activity, greedy_levels, in_class, in_neighbourhood, inactive_sets,
    layer_stability, noise_scale, one_shot, perturbation_std, radii, radius_statement,
    reduced_babel, reduced_row_norms, search, sensitivity_statement, size_statement,
    sparse_norm, sparse_norm_bounds, split_for_prior, theorem_13, weight_matrices,
):  # fmt: skip
    _object.__module__ = __name__  # their public name, in tracebacks and in the API reference
