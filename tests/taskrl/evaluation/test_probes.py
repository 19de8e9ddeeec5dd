"""Probes score what is decodable, never what they were fitted on."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from torch import Tensor
from torch.nn import functional as F

from taskrl.errors import ConfigError
from taskrl.evaluation.probes import (
    RIDGE_STRENGTHS,
    RidgeProbe,
    instance_discrimination,
    ridge_flops,
    ridge_r2,
    ridge_r2_each,
    standardise,
)
from taskrl.types import ProbeData
from tests.builders import generator


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def some_folds(num: int, num_folds: int = 5) -> Tensor:
    return torch.randperm(num, generator=generator(9)) % num_folds


def sklearn_r2(features: Tensor, targets: Tensor, folds: Tensor) -> float:
    """scikit-learn's Ridge, cross-fitted on the same folds; the best of the strengths."""
    x, y, split = standardise(features).numpy(), targets.double().numpy(), PredefinedSplit(folds.numpy())
    scores = []
    for strength in RIDGE_STRENGTHS:
        error, total = 0.0, 0.0
        for fitted, held in split.split():
            model = Ridge(alpha=strength * len(fitted)).fit(x[fitted], y[fitted])
            error += float(((y[held] - model.predict(x[held])) ** 2).sum())
            total += float(((y[held] - y[fitted].mean(0)) ** 2).sum())
        scores.append(1 - error / total)
    return max(scores)


@pytest.mark.parametrize(("num", "dim"), [(60, 4), (50, 70)])
def test_ridge_r2_equals_scikit_learns_cross_fitted_ridge_at_the_best_strength(num: int, dim: int) -> None:
    features = 3 + 2 * noise(num, dim)
    targets = F.one_hot((features[:, 0] + 2 * noise(num, seed=1) > 3).long() + (features[:, 1] > 4).long())
    folds = some_folds(num)
    assert ridge_r2(features, targets, folds) == pytest.approx(sklearn_r2(features, targets, folds), abs=1e-9)


def test_ridge_r2_equals_scikit_learns_cross_val_predict_with_equal_folds() -> None:
    features, folds = noise(50, 3), torch.arange(50) % 5
    targets = features @ noise(3, 2, seed=1) + noise(50, 2, seed=2)
    x, y = standardise(features).numpy(), targets.double().numpy()
    predicted = [
        cross_val_predict(Ridge(alpha=strength * 40), x, y, cv=PredefinedSplit(folds.numpy()))
        for strength in RIDGE_STRENGTHS
    ]
    total = sum(((y[folds == k] - y[folds != k].mean(0)) ** 2).sum() for k in range(5))
    expected = max(1 - ((y - guess) ** 2).sum() / total for guess in predicted)
    assert ridge_r2(features, targets, folds) == pytest.approx(float(expected), abs=1e-9)


def test_ridge_r2_is_near_1_for_what_is_linearly_decodable_and_not_above_0_for_noise() -> None:
    labels = torch.arange(200) % 4
    targets, folds = F.one_hot(labels), some_folds(200)
    assert ridge_r2(targets + 0.01 * noise(200, 4), targets, folds) > 0.98
    assert [ridge_r2(noise(200, 10, seed=seed), targets, folds) > 0.05 for seed in range(5)] == [False] * 5


def test_ridge_r2_orders_features_by_how_much_noise_hides_the_label() -> None:
    targets, folds = F.one_hot(torch.arange(200) % 4), some_folds(200)
    scores = [ridge_r2(targets + sd * noise(200, 4), targets, folds) for sd in (0.1, 0.3, 1.0, 3.0)]
    assert scores == sorted(scores, reverse=True) and scores[0] - scores[-1] > 0.5


def test_no_fold_is_scored_by_a_fit_that_saw_its_group() -> None:
    groups = torch.arange(200) // 5
    features = noise(40, 60)[groups] + 0.01 * noise(200, 60, seed=1)
    labels = torch.randint(3, (40,), generator=generator(2))[groups]
    leaking, whole = some_folds(200), some_folds(40)[groups]
    assert ridge_r2(features, F.one_hot(labels), leaking) > 0.5
    assert ridge_r2(features, F.one_hot(labels), whole) < 0.05


def test_ridge_r2_ignores_shift_scale_and_constant_features() -> None:
    features, folds = noise(80, 5), some_folds(80)
    targets = F.one_hot((features[:, 0] > 0).long())
    expected = ridge_r2(features, targets, folds)
    changed = torch.cat([features * torch.tensor([5.0, 0.1, 1, 9, 2]) - 7, torch.full((80, 2), 3.0)], dim=1)
    assert ridge_r2(changed, targets, folds) == pytest.approx(expected, abs=1e-4)


def test_ridge_r2_of_constant_features_is_0() -> None:
    assert ridge_r2(torch.ones(40, 3), F.one_hot(torch.arange(40) % 4), some_folds(40)) == pytest.approx(0, abs=1e-9)


def test_ridge_flops_grow_with_inputs_folds_and_the_square_of_the_features() -> None:
    base = ridge_flops(1000, 32, 10, 5)
    assert ridge_flops(2000, 32, 10, 5) > 1.5 * base
    assert ridge_flops(1000, 32, 10, 10) > 1.8 * base
    assert ridge_flops(1000, 128, 10, 5) > 9 * base


def test_a_view_that_always_finds_its_image_scores_1_and_a_collapsed_encoder_scores_chance() -> None:
    features = noise(50, 64)
    assert instance_discrimination(features, features) > 0.99
    assert instance_discrimination(torch.ones(50, 8), torch.ones(50, 8)) == pytest.approx(0, abs=1e-12)


def test_views_that_find_another_image_score_below_chance() -> None:
    features = noise(50, 64)
    assert instance_discrimination(features, features.roll(1, 0)) < 0
    assert instance_discrimination(features, noise(50, 64, seed=1)) < 0.05


def test_instance_discrimination_equals_the_naive_loop() -> None:
    first, second = noise(6, 4), noise(6, 4, seed=1)
    a, b = ((part.double() - part.double().mean(0)).numpy() for part in (first, second))
    similarity = [[float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) / 0.1 for y in b] for x in a]
    loss = 0.0
    for i in range(6):
        row = sum(math.exp(similarity[i][j]) for j in range(6))
        column = sum(math.exp(similarity[j][i]) for j in range(6))
        loss += (math.log(row) + math.log(column) - 2 * similarity[i][i]) / 12
    assert instance_discrimination(first, second) == pytest.approx(1 - loss / math.log(6))


def test_a_common_offset_neither_helps_nor_hurts_instance_discrimination() -> None:
    first, second = noise(30, 8), noise(30, 8) + 0.5 * noise(30, 8, seed=1)
    expected = instance_discrimination(first, second)
    assert instance_discrimination(first + 10, second - 20) == pytest.approx(expected, abs=1e-4)


def test_the_ridge_probe_without_labels_says_what_to_do() -> None:
    data = ProbeData(inputs=torch.zeros(4, 1, 2, 2), folds=torch.arange(4) % 2)
    with pytest.raises(ConfigError, match="use --probe panel"):
        RidgeProbe()(lambda x: x.flatten(1), data)


def test_several_targets_at_once_give_what_each_gives_alone() -> None:
    features, folds = noise(60, 6), some_folds(60)
    targets = {"a": features[:, :2] + 0.1 * noise(60, 2, seed=1), "b": noise(60, 3, seed=2)}
    alone = {name: ridge_r2(features, target, folds) for name, target in targets.items()}
    assert ridge_r2_each(features, targets, folds) == pytest.approx(alone)
