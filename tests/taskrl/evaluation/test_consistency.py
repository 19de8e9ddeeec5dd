"""Effects of a change against naive loops, scikit-learn and closed forms."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from taskrl.evaluation.consistency import alignment, consistency, detectability
from taskrl.evaluation.probes import RIDGE_STRENGTHS, standardise
from tests.taskrl.evaluation.features import noise, rotation, some_folds


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_alignment_equals_the_naive_loop() -> None:
    first, second = noise(7, 4), noise(7, 4, seed=1)
    expected = [2 - 2 * cosine(a, b) for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    assert alignment(first, second) == pytest.approx(np.mean(expected))


def test_alignment_is_0_for_equal_directions_2_for_right_angles_and_4_for_opposite_ones() -> None:
    features = noise(20, 6)
    assert alignment(features, 3 * features) == pytest.approx(0, abs=1e-12)
    assert alignment(features, -features) == pytest.approx(4)
    assert alignment(torch.eye(4), torch.eye(4).roll(1, 0)) == pytest.approx(2)


def test_alignment_of_a_collapsed_encoder_is_0_and_its_consistency_as_well() -> None:
    for value in (0.0, 0.3, 1e6):
        features = torch.full((20, 4), value)
        assert alignment(features, features) == pytest.approx(0, abs=1e-9)
        assert consistency(features, features) == 0


def test_consistency_equals_the_naive_loop_over_all_pairs() -> None:
    first, second = noise(7, 4), noise(7, 4, seed=1)
    a, b = ((part - part.mean(0)).numpy() for part in (first, second))
    table = [[cosine(x, y) for y in b] for x in a]
    assert consistency(first, second) == pytest.approx(np.trace(table) / 7 - np.mean(table))


def test_consistency_is_1_for_an_invisible_change_0_for_strangers_and_minus_1_for_opposites() -> None:
    corners = torch.cat([torch.eye(5), -torch.eye(5)])
    assert consistency(corners, 3 * corners + 2) == pytest.approx(1)
    assert consistency(corners, -corners) == pytest.approx(-1)
    assert consistency(noise(2000, 20), noise(2000, 20, seed=1)) == pytest.approx(0, abs=0.02)


def test_consistency_falls_as_the_change_grows_and_never_leaves_its_range() -> None:
    features = noise(200, 8)
    scores = [consistency(features, features + sd * noise(200, 8, seed=1)) for sd in (0.1, 0.5, 1, 3)]
    assert scores == sorted(scores, reverse=True)
    for num in (1, 2, 3):
        assert -1 - 1e-12 <= consistency(noise(num, 2), noise(num, 2, seed=1)) <= 1 + 1e-12
        assert consistency(noise(num, 2), noise(num, 2)) <= 1 + 1e-12


def test_rotation_offset_and_scale_change_neither_consistency_nor_detectability() -> None:
    first, second = noise(60, 6), noise(60, 6) + 0.5 * noise(60, 6, seed=1) + 0.2
    turn = rotation(6)
    assert consistency(3 * first @ turn + 5, 2 * second @ turn - 1) == pytest.approx(consistency(first, second))
    assert alignment(3 * first @ turn, 2 * second @ turn) == pytest.approx(alignment(first, second))
    expected = detectability(first, second, some_folds(60))
    assert detectability(4 * first + 7, 4 * second + 7, some_folds(60)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("num", "dim"), [(60, 5), (20, 60)])
def test_detectability_equals_scikit_learns_ridge_and_area_under_the_curve(num: int, dim: int) -> None:
    clean = noise(num, dim)
    changed = clean + 0.4 * noise(num, dim, seed=1) + 0.4 * torch.linspace(1, 0, dim)
    folds, total = some_folds(num), 0.0
    x, y = standardise(torch.cat([clean, changed])).numpy(), np.repeat([-1.0, 1.0], num)
    both = folds.repeat(2).numpy()
    for fold in range(5):
        fit, held = both != fold, both == fold
        models = [Ridge(alpha=strength * int(fit.sum())) for strength in RIDGE_STRENGTHS]
        left = [cross_val_predict(model, x[fit], y[fit], cv=LeaveOneOut()) for model in models]
        best = models[int(np.argmin([((guess - y[fit]) ** 2).sum() for guess in left]))]
        total += roc_auc_score(y[held], best.fit(x[fit], y[fit]).predict(x[held])) * held.sum() / 2
    measured = detectability(clean, changed, folds)
    assert 0.5 < measured < 1
    assert measured == pytest.approx(total / num, abs=1e-9)


def test_an_invisible_change_is_detected_by_chance_and_a_shift_always() -> None:
    clean = noise(100, 8)
    assert detectability(clean, clean, some_folds(100)) == 0.5
    assert detectability(clean, clean + 10, some_folds(100)) == 1
    unrelated = [detectability(noise(200, 8, seed=s), noise(200, 8, seed=s + 50), some_folds(200)) for s in range(10)]
    assert np.mean(unrelated) == pytest.approx(0.5, abs=0.03)


def test_detectability_grows_with_the_shift() -> None:
    clean = noise(200, 8)
    scores = [detectability(clean, clean + shift * rotation(8)[0], some_folds(200)) for shift in (0, 0.3, 1, 3)]
    assert scores == sorted(scores) and scores[-1] > 0.95


def test_both_copies_of_an_input_lie_in_one_fold() -> None:
    # 60 inputs told apart by their own direction: a probe that saw one copy would know the other
    clean = 10 * torch.eye(60, dtype=torch.float64)
    sign = torch.where(torch.arange(60) % 2 == 0, 1.0, -1.0)[:, None]
    assert detectability(clean, clean * (1 + 0.1 * sign), some_folds(60)) == pytest.approx(0.5, abs=0.15)


def test_features_that_do_not_vary_hide_every_change() -> None:
    for value in (0.0, 0.3):
        features = torch.full((30, 4), value)
        assert detectability(features, features, some_folds(30)) == 0.5


def test_every_measure_is_finite_on_copies_and_few_inputs() -> None:
    for clean in (noise(2, 30).repeat(5, 1), noise(10, 1), noise(4, 50)):
        changed, folds = clean.flip(0), torch.arange(len(clean)) % 2
        assert all(math.isfinite(measure(clean, changed)) for measure in (alignment, consistency))
        assert 0 <= detectability(clean, changed, folds) <= 1


def test_features_that_are_not_finite_give_nan() -> None:
    features = noise(10, 4)
    features[3, 2] = math.nan
    assert math.isnan(alignment(features, noise(10, 4))) and math.isnan(consistency(noise(10, 4), features))
    assert math.isnan(detectability(features, noise(10, 4), some_folds(10)))
