r"""Where noisy gradient descent stays, and what that buys.

Close to a set of minimisers that is flat in some directions and curved in the others, noise lets
the parameters wander along the set but not away from it, for a long time: not for ever.
:func:`noisy_sgd` runs many such chains at once, :class:`LinearChain` knows the answer exactly in a
bowl, :func:`stay_bound` and its relatives bound it from below, and :func:`tube_bound` says what
staying in a tube buys for generalisation.

Imaizumi and Schmidt-Hieber (2022, arXiv:2201.04545) call this loss surface implicit
regularization. Their theorems were not available to us: every statement here is the course's
stand-in, derived here, and none is theirs.
"""

from __future__ import annotations

from gencoh_lib._curved_piece import curved_offset
from gencoh_lib._essential_convexity import essential_convexity, hessian_on_segments, secant_ratio
from gencoh_lib._explored_dimension import (
    EffectiveDimensions,
    ExploredDimension,
    effective_dimensions,
    explored_dimension,
    random_walk_shares,
)
from gencoh_lib._gradient_noise import (
    FrozenMinibatchNoise,
    GradientNoise,
    IsotropicNoise,
    LiveMinibatch,
)
from gencoh_lib._linear_chain import LinearChain
from gencoh_lib._linear_surrogate import linear_surrogate, stationary_variances
from gencoh_lib._network_loss import NetworkLoss
from gencoh_lib._noisy_sgd import DecayingSteps, NoisyRun, gradient_of, noisy_sgd
from gencoh_lib._sampled_constants import gradient_error, sampled_contraction
from gencoh_lib._sampled_extreme import SampledExtreme
from gencoh_lib._spectral_clip import SpectralClip
from gencoh_lib._spectral_complexity import (
    SpectralComplexity,
    linearised_complexity,
    spectral_complexity,
)
from gencoh_lib._stagnation_guarantee import StagnationGuarantee, stagnation_guarantee
from gencoh_lib._stay import Proportion, StayRecord, proportion, stay_record, trials_needed
from gencoh_lib._stay_bound import StayBound, contraction
from gencoh_lib._stay_bounds import stagnation_radius, stay_bound, stay_bound_drift
from gencoh_lib._stay_isotropic import stay_bound_decaying, stay_bound_isotropic
from gencoh_lib._tube_bound import parameter_lipschitz, tube_bound
from gencoh_lib._tubes import Tube

__all__ = [
    "DecayingSteps",
    "EffectiveDimensions",
    "ExploredDimension",
    "FrozenMinibatchNoise",
    "GradientNoise",
    "IsotropicNoise",
    "LinearChain",
    "LiveMinibatch",
    "NetworkLoss",
    "NoisyRun",
    "Proportion",
    "SampledExtreme",
    "SpectralClip",
    "SpectralComplexity",
    "StagnationGuarantee",
    "StayBound",
    "StayRecord",
    "Tube",
    "contraction",
    "curved_offset",
    "effective_dimensions",
    "essential_convexity",
    "explored_dimension",
    "gradient_error",
    "gradient_of",
    "hessian_on_segments",
    "linear_surrogate",
    "linearised_complexity",
    "noisy_sgd",
    "parameter_lipschitz",
    "proportion",
    "random_walk_shares",
    "sampled_contraction",
    "secant_ratio",
    "spectral_complexity",
    "stagnation_guarantee",
    "stagnation_radius",
    "stationary_variances",
    "stay_bound",
    "stay_bound_decaying",
    "stay_bound_drift",
    "stay_bound_isotropic",
    "stay_record",
    "trials_needed",
    "tube_bound",
]

for _object in (
    DecayingSteps, EffectiveDimensions, ExploredDimension, FrozenMinibatchNoise, GradientNoise,
    IsotropicNoise, LinearChain, LiveMinibatch, NetworkLoss, NoisyRun, Proportion,
    SampledExtreme, SpectralClip, SpectralComplexity, StagnationGuarantee, StayBound,
    StayRecord, Tube, contraction, curved_offset, effective_dimensions, essential_convexity,
    explored_dimension, gradient_error, gradient_of, hessian_on_segments, linear_surrogate,
    linearised_complexity, noisy_sgd, parameter_lipschitz, proportion, random_walk_shares,
    sampled_contraction, secant_ratio, spectral_complexity, stagnation_guarantee,
    stagnation_radius, stationary_variances, stay_bound, stay_bound_decaying, stay_bound_drift,
    stay_bound_isotropic, stay_record, trials_needed, tube_bound,
):  # fmt: skip
    _object.__module__ = __name__  # their public name, in tracebacks and in the API reference
