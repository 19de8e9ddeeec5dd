"""Probes: closed-form measurements of a frozen encoder, used as quality by the reward.

Legend: N inputs, D feature size, K targets.
"""

import math
from collections.abc import Mapping
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.errors import ConfigError
from taskrl.evaluation.spectrum import all_finite
from taskrl.types import Encode, ProbeData, Quality

RIDGE_STRENGTHS = (0.1, 0.3, 1.0, 3.0)
INSTANCE_TEMPERATURE = 0.1


class Probe(Protocol):
    """How good is a representation; nan where its features are not finite. Deterministic: no randomness, frozen
    data.
    """

    def __call__(self, encode: Encode, data: ProbeData) -> Quality: ...


def standardise(features_ND: Tensor) -> Tensor:
    """Features with mean 0 and sd 1 in each direction that varies; float64."""
    features = features_ND.double()
    centred = features - features.mean(0)
    scale = centred.std(0)
    return centred / torch.where(scale > 1e-8, scale, torch.ones_like(scale))


def ridge_r2(features_ND: Tensor, targets_NK: Tensor, folds_N: Tensor) -> float:
    """Cross-fitted R2 of ridge regression: 1 - squared error / squared error of the training mean, pooled over
    folds.

    Each fold is predicted by a fit on the others. Of four strengths (times the number of inputs fitted), the best is
    reported. Hoerl & Kennard 1970; cross-fitting as in scikit-learn's cross_val_predict.
    """
    return ridge_r2_each(features_ND, {"": targets_NK}, folds_N)[""]


def ridge_r2_each(features_ND: Tensor, targets: Mapping[str, Tensor], folds_N: Tensor) -> dict[str, float]:
    """`ridge_r2` of several targets (N, K) from the same features, each with its own strength, at the cost of one.

    nan for features that are not finite, which no equation can be solved with.
    """
    if not all_finite(features_ND):
        return dict.fromkeys(targets, math.nan)
    features, every = standardise(features_ND), torch.cat([target.double() for target in targets.values()], dim=1)
    eye = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    strengths = torch.tensor(RIDGE_STRENGTHS, dtype=features.dtype, device=features.device)
    errors = torch.zeros(len(strengths), every.shape[1], dtype=features.dtype, device=features.device)
    total = torch.zeros(every.shape[1], dtype=features.dtype, device=features.device)
    for fold in folds_N.unique():
        held = folds_N == fold
        x, y = features[~held], every[~held]
        mean_x, mean_y = x.mean(0), y.mean(0)
        gram, cross = (x - mean_x).T @ (x - mean_x), (x - mean_x).T @ (y - mean_y)
        factors = torch.linalg.cholesky(gram + (strengths * len(x))[:, None, None] * eye)
        weights = torch.cholesky_solve(cross.expand(len(strengths), -1, -1), factors)
        errors += (every[held] - mean_y - (features[held] - mean_x) @ weights).square().sum(dim=1)
        total += (every[held] - mean_y).square().sum(dim=0)
    widths = [target.shape[1] for target in targets.values()]
    blocks = zip(errors.split(widths, dim=1), total.split(widths), strict=True)
    scores = [float(1 - error.sum(1).min() / whole.sum().clamp(min=1e-12)) for error, whole in blocks]
    return dict(zip(targets, scores, strict=True))


def ridge_flops(num_inputs: int, feature_dim: int, num_targets: int, num_folds: int) -> int:
    """Floating point operations of `ridge_r2` (Gram matrices, Cholesky-sized solves, predictions)."""
    gram = 2 * num_inputs * feature_dim * (feature_dim + num_targets)
    solve = len(RIDGE_STRENGTHS) * (feature_dim**3 // 3 + 2 * feature_dim**2 * num_targets)
    predict = len(RIDGE_STRENGTHS) * 2 * num_inputs * feature_dim * num_targets
    return num_folds * (gram + solve) + predict


def instance_discrimination(first_ND: Tensor, second_ND: Tensor) -> float:
    """How well a view finds its own image among all: 1 - cross entropy / log N of a softmax over cosines / 0.1.

    1 is perfect, 0 is chance (Wu et al. 2018, as a measurement). Features are centred first, so that a common offset
    neither helps nor hurts.
    """
    first = F.normalize(first_ND.double() - first_ND.double().mean(0), dim=1)
    second = F.normalize(second_ND.double() - second_ND.double().mean(0), dim=1)
    logits = first @ second.T / INSTANCE_TEMPERATURE
    labels = torch.arange(len(first), device=first.device)
    loss = 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))
    return float(1 - loss / math.log(max(len(first), 2)))


@final
class RidgeProbe:
    """Cross-fitted ridge R2 on one-hot labels: a proper score, smoother than accuracy."""

    def __call__(self, encode: Encode, data: ProbeData) -> Quality:
        """Raises ConfigError when the probe data have no labels."""
        if data.labels is None:
            raise ConfigError(
                "The ridge probe needs labels on the probe images; use --probe panel for data without labels."
            )
        features = encode(data.inputs)
        targets = F.one_hot(data.labels)
        r2 = ridge_r2(features, targets, data.folds)
        cost = ridge_flops(len(features), features.shape[1], targets.shape[1], len(data.folds.unique()))
        return Quality(value=r2, parts={"ridge_r2": r2}, num_encoded=len(data.inputs), solve_flops=cost)
