"""How well features tell transformed inputs from untouched ones: which symmetries a data set has, without labels.

What cannot be told from the untouched inputs is a symmetry of the data. Legend: N inputs, D feature size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taskrl.evaluation.probes import standardise
from taskrl.evaluation.spectrum import all_finite
from taskrl.types import Compute, Encode

DETECTABLE, STATISTIC = "detectable/", "statistic/"
STRENGTH = 0.3
TIE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a data set without a label. detectability: of each transformation, 0.5 invisible to 1 always
    told. statistics: of the inputs, each in [0, 1]. compute: what finding it out cost.
    """

    detectability: Mapping[str, float] = field(default_factory=dict)
    statistics: Mapping[str, float] = field(default_factory=dict)
    compute: Compute = field(default_factory=Compute)

    def entries(self) -> dict[str, float]:
        """All of it by name, each in [0, 1]; detectability from 0, invisible, to 1."""
        visible = {f"{DETECTABLE}{name}": max(0.0, 2 * value - 1) for name, value in self.detectability.items()}
        return visible | {f"{STATISTIC}{name}": value for name, value in self.statistics.items()}


@dataclass(frozen=True, kw_only=True)
class Detected:
    """accuracy: of each transformation. num_encoded, solve_flops: what measuring it cost."""

    accuracy: Mapping[str, float]
    num_encoded: int
    solve_flops: int


def detection_accuracy(untouched_ND: Tensor, transformed_ND: Tensor, folds_N: Tensor) -> float:
    """Cross-fitted accuracy with which ridge regression on -1 and 1 tells transformed inputs from untouched ones.

    0.5 is chance, 1 always told, ties count one half. Row i of both is the same input, and both copies lie in one fold.
    The strength (times the rows fitted) is fixed: choosing it by leaving one row out would leave its twin in, with
    nearly the same features and the other target. A classifier two-sample test (Lopez-Paz & Oquab 2017). Features that
    are not finite give nan.
    """
    if not all_finite(untouched_ND, transformed_ND):
        return math.nan
    x, rows = standardise(torch.cat([untouched_ND, transformed_ND])), folds_N.repeat(2)
    y = torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
    y[: len(untouched_ND)] = -1
    gram, cross, eye = x.T @ x, x.T @ y, torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    hits = 0.0
    for fold in folds_N.unique():
        held_x, held_y = x[rows == fold], y[rows == fold]
        penalty = STRENGTH * (len(x) - len(held_x)) * eye
        factor = torch.linalg.cholesky(gram - held_x.T @ held_x + penalty)
        lead = held_y * (held_x @ torch.cholesky_solve(cross - held_x.T @ held_y, factor))
        hits += float((lead > TIE).sum() + 0.5 * (lead.abs() <= TIE).sum())
    return hits / len(x)


def detection_flops(num_inputs: int, feature_dim: int, num_folds: int) -> int:
    """Floating point operations of `detection_accuracy` (Gram matrices and solves)."""
    return 8 * num_inputs * feature_dim**2 + num_folds * (feature_dim**3 // 3)


def detect(
    encode: Encode,
    untouched: Tensor,
    transformed: Mapping[str, Tensor],
    folds_N: Tensor,
    *,
    against: Mapping[str, Tensor] | None = None,
) -> Detected:
    """`detection_accuracy` of each transformation.

    untouched, transformed: inputs (N, *sample_shape), row i of both the same input. against: inputs that stand in for
    the untouched ones, by transformation, so that what it does beside its purpose (resampling) is on both sides.
    """
    others = against or {}
    sides = {id(inputs): inputs for inputs in (untouched, *others.values(), *transformed.values())}
    features = {key: encode(inputs) for key, inputs in sides.items()}
    accuracy = {
        name: detection_accuracy(features[id(others.get(name, untouched))], features[id(inputs)], folds_N)
        for name, inputs in transformed.items()
    }
    num, dim = features[id(untouched)].shape
    solve = detection_flops(num, dim, len(folds_N.unique()))
    return Detected(accuracy=accuracy, num_encoded=num * len(sides), solve_flops=solve * len(transformed))
