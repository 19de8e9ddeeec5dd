"""Labelled probes against scikit-learn, naive loops and data whose answer is known."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from taskrl.errors import ConfigError
from taskrl.evaluation.accuracy import knn_predictions
from taskrl.evaluation.labelled import (
    FewLabelSplit,
    few_label_folds,
    knn_accuracy,
    log_loss_score,
    one_label_score,
    ridge_accuracy,
    ridge_fit,
    splits_of,
)
from taskrl.evaluation.probes import RIDGE_STRENGTHS, standardise
from tests.builders import generator
from tests.taskrl.evaluation.features import noise, rotation, some_folds

SCORES = (ridge_accuracy, log_loss_score, knn_accuracy)


def classes(num: int, spread: float, num_classes: int = 4, dim: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features around one corner a class, and labels."""
    labels = torch.arange(num) % num_classes
    return torch.eye(dim, dtype=torch.float64)[labels] + spread * noise(num, dim, seed=seed), labels


@pytest.mark.parametrize(("num", "dim"), [(60, 5), (20, 30)])
def test_ridge_and_its_left_out_predictions_equal_scikit_learns(num: int, dim: int) -> None:
    features, labels = classes(num, 0.5, dim=dim)
    x, y = standardise(features), F.one_hot(labels).double()
    fit_rows, score_rows = torch.arange(num)[::2], torch.arange(num)[1::2]
    fit = ridge_fit(x, y, FewLabelSplit(fit_rows, score_rows))
    models = [Ridge(alpha=strength * len(fit_rows)) for strength in RIDGE_STRENGTHS]
    left = [cross_val_predict(model, x[fit_rows], y[fit_rows], cv=LeaveOneOut()) for model in models]
    best = int(np.argmin([((guess - y[fit_rows].numpy()) ** 2).sum() for guess in left]))
    np.testing.assert_allclose(fit.left_out_NK, left[best], atol=1e-9)
    expected = models[best].fit(x[fit_rows], y[fit_rows]).predict(x[score_rows])
    np.testing.assert_allclose(fit.scored_MK, expected, atol=1e-9)


@pytest.mark.parametrize(("num", "dim"), [(80, 5), (40, 50)])
def test_ridge_accuracy_equals_scikit_learns_ridge_classifier(num: int, dim: int) -> None:
    features, labels = classes(num, 0.4, dim=dim)
    folds, x, guesses = some_folds(num), standardise(features), np.zeros(num)
    for split in splits_of(folds):
        fit, y = split.fit_rows, F.one_hot(labels).double()
        left = [cross_val_predict(Ridge(alpha=s * len(fit)), x[fit], y[fit], cv=LeaveOneOut()) for s in RIDGE_STRENGTHS]
        best = RIDGE_STRENGTHS[int(np.argmin([((guess - y[fit].numpy()) ** 2).sum() for guess in left]))]
        model = RidgeClassifier(alpha=best * len(fit)).fit(x[fit], labels[fit])
        guesses[split.score_rows] = model.predict(x[split.score_rows])
    assert 0.4 < ridge_accuracy(features, labels, folds) < 1
    assert ridge_accuracy(features, labels, folds) == pytest.approx(accuracy_score(labels, guesses))


def test_knn_accuracy_is_the_vote_that_scores_finished_encoders() -> None:
    features, labels = classes(90, 0.7)
    folds = some_folds(90)
    hits = sum(
        int((knn_predictions(features[fit], labels[fit], features[score]) == labels[score]).sum())
        for fit, score in splits_of(folds)
    )
    assert knn_accuracy(features, labels, folds) == pytest.approx(hits / 90)


def test_knn_accuracy_equals_scikit_learns_classifier_with_its_weights() -> None:
    features, labels = classes(90, 0.7)
    folds, right = some_folds(90), 0
    for fit, score in splits_of(folds):
        model = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
        right += int((model.fit(features[fit], labels[fit]).predict(features[score]) == labels[score].numpy()).sum())
    assert 0.4 < right / 90 < 1
    assert knn_accuracy(features, labels, folds) == pytest.approx(right / 90)


def naive_losses(x: np.ndarray, y: np.ndarray, split: FewLabelSplit) -> tuple[float, float]:
    """Summed log loss of the probe and of the class shares: scikit-learn's leave-one-out ridge and log loss, with
    scipy's minimiser for the sharpness.
    """
    fit, score = split
    names, labels = np.arange(y.shape[1]), y.argmax(1)
    shares, mean = (y[fit].sum(0) + 1) / (len(fit) + y.shape[1]), y[fit].mean(0)
    models = [Ridge(alpha=strength * len(fit)) for strength in RIDGE_STRENGTHS]
    left = [cross_val_predict(model, x[fit], y[fit], cv=LeaveOneOut()) for model in models]
    best = int(np.argmin([((guess - y[fit]) ** 2).sum() for guess in left]))

    def probabilities(guess: np.ndarray, sharpness: float) -> np.ndarray:
        raw = shares * np.exp(sharpness * (guess - mean))
        return raw / raw.sum(1, keepdims=True)

    def loss_at(sharpness: float) -> float:
        return float(log_loss(labels[fit], probabilities(left[best], sharpness), labels=names))

    sharpness = minimize_scalar(loss_at, bounds=(0, 100), method="bounded", options={"xatol": 1e-9}).x
    scored = probabilities(models[best].fit(x[fit], y[fit]).predict(x[score]), sharpness)
    plain = np.tile(shares, (len(score), 1))
    loss, baseline = (log_loss(labels[score], p, labels=names, normalize=False) for p in (scored, plain))
    return float(loss), float(baseline)


@pytest.mark.parametrize(("num", "dim", "spread"), [(100, 6, 0.5), (60, 90, 0.3), (80, 5, 3.0)])
def test_log_loss_score_equals_scikit_learns_log_loss_with_scipys_sharpness(num: int, dim: int, spread: float) -> None:
    features, labels = classes(num, spread, dim=dim)
    labels[: num // 5] = 1
    x, y = standardise(features).numpy(), F.one_hot(labels).double().numpy()
    losses = [naive_losses(x, y, split) for split in splits_of(some_folds(num))]
    expected = 1 - sum(loss for loss, _ in losses) / sum(baseline for _, baseline in losses)
    assert log_loss_score(features, labels, some_folds(num)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spread", [0.3, 0.6, 1.0])
def test_log_loss_score_is_near_that_of_the_best_of_three_logistic_regressions(spread: float) -> None:
    features, labels = classes(300, spread)
    folds, x, losses = some_folds(300), standardise(features), dict.fromkeys((0.1, 1.0, 10.0), 0.0)
    for fit, score in splits_of(folds):
        for strength in losses:
            model = LogisticRegression(C=strength, max_iter=1000).fit(x[fit], labels[fit])
            losses[strength] += log_loss(labels[score], model.predict_proba(x[score]), normalize=False)
    best = 1 - min(losses.values()) / (300 * math.log(4))
    assert log_loss_score(features, labels, folds) == pytest.approx(best, abs=0.06)


def test_every_score_orders_features_by_how_much_noise_hides_the_label() -> None:
    folds = some_folds(200)
    for score in SCORES:
        values = [score(*classes(200, spread), folds) for spread in (0.1, 0.4, 0.8, 3.0)]
        assert values == sorted(values, reverse=True) and values[0] > 0.95


def test_noise_scores_chance() -> None:
    labels, folds = torch.arange(300) % 4, some_folds(300)
    for seed in range(3):
        features = noise(300, 10, seed=seed)
        assert ridge_accuracy(features, labels, folds) == pytest.approx(0.25, abs=0.08)
        assert knn_accuracy(features, labels, folds) == pytest.approx(0.25, abs=0.08)
        assert log_loss_score(features, labels, folds) == pytest.approx(0, abs=0.02)


def test_no_input_is_scored_by_a_fit_that_saw_its_label() -> None:
    features, folds = noise(100, 200), some_folds(100)
    labels = torch.randint(4, (100,), generator=generator(1))
    for score in SCORES:
        before = score(features, labels, folds)
        assert before < 0.45
        held = labels.clone()
        held[folds == 2] = (held[folds == 2] + 1) % 4
        splits = [split for split in splits_of(folds) if int(folds[split.score_rows[0]]) == 2]
        fit = ridge_fit(standardise(features), F.one_hot(labels).double(), splits[0])
        other = ridge_fit(standardise(features), F.one_hot(held).double(), splits[0])
        assert torch.equal(fit.scored_MK, other.scored_MK)


def test_shift_and_scale_change_no_linear_score_and_rotation_and_scale_no_neighbour() -> None:
    features, labels = classes(100, 0.6)
    folds, scale = some_folds(100), torch.linspace(0.1, 5, 10)
    for score in (ridge_accuracy, log_loss_score):
        assert score(features * scale + 7, labels, folds) == pytest.approx(score(features, labels, folds), abs=1e-6)
    assert knn_accuracy(4 * features @ rotation(10), labels, folds) == knn_accuracy(features, labels, folds)


def test_features_that_do_not_vary_score_chance() -> None:
    labels, folds = torch.arange(60) % 3, torch.arange(60) // 3 % 5
    for value in (0.0, 0.3):
        features = torch.full((60, 4), value)
        assert ridge_accuracy(features, labels, folds) == pytest.approx(1 / 3)
        assert knn_accuracy(features, labels, folds) == pytest.approx(1 / 3)
        assert log_loss_score(features, labels, folds) == pytest.approx(0, abs=1e-9)


def test_every_score_is_finite_on_copies_on_few_inputs_and_on_a_class_without_fitted_rows() -> None:
    copies, labels = noise(2, 30).repeat(4, 1), torch.tensor([0, 1, 1, 0, 2, 0, 1, 1])
    folds = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0])
    for features in (copies, noise(8, 30), noise(8, 1)):
        assert all(math.isfinite(score(features, labels, folds)) for score in SCORES)


def test_features_that_are_not_finite_give_nan() -> None:
    features, labels = classes(20, 0.5)
    features[3, 2] = math.nan
    assert all(math.isnan(score(features, labels, some_folds(20))) for score in SCORES)
    assert math.isnan(one_label_score(features, torch.arange(4), labels[:4]))


def test_few_label_folds_fit_so_many_of_each_class_and_score_all_others() -> None:
    labels = torch.arange(90) % 3
    splits = few_label_folds(labels, 5, 6, generator())
    assert len(splits) == 6
    for fit, score in splits:
        assert Counter(labels[fit].tolist()) == {0: 5, 1: 5, 2: 5}
        assert sorted(fit.tolist() + score.tolist()) == list(range(90))


def test_few_label_folds_fit_every_row_equally_often() -> None:
    labels = torch.arange(40) % 4
    fitted = Counter(torch.cat([fit for fit, _ in few_label_folds(labels, 3, 10, generator())]).tolist())
    assert set(fitted.values()) == {3} and len(fitted) == 40


@pytest.mark.parametrize("per_class", [2, 5, 10])
def test_with_no_further_labels_one_of_each_class_is_left_out_until_all_were_scored_once(per_class: int) -> None:
    labels = torch.arange(4 * per_class) % 4
    splits = few_label_folds(labels, per_class, per_class, generator())
    for fit, score in splits:
        assert sorted(labels[score].tolist()) == [0, 1, 2, 3] and len(fit) == 4 * (per_class - 1)
    scored = torch.cat([score for _, score in splits]).tolist()
    assert sorted(scored) == list(range(4 * per_class))


def test_the_same_generator_draws_the_same_folds_and_another_one_others() -> None:
    labels = torch.arange(60) % 3
    first, again = (few_label_folds(labels, 4, 3, generator(1)) for _ in range(2))
    other = few_label_folds(labels, 4, 3, generator(2))
    assert all(torch.equal(a.fit_rows, b.fit_rows) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.fit_rows, b.fit_rows) for a, b in zip(first, other, strict=True))


def test_one_fold_is_refused() -> None:
    features, labels = classes(20, 0.5)
    for score in SCORES:
        with pytest.raises(ConfigError, match="needs at least 2"):
            score(features, labels, torch.zeros(20, dtype=torch.int64))


def test_one_label_a_class_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"Class 2 has one labelled image.*at least 2 labels.*one_label_score"):
        few_label_folds(torch.tensor([0, 0, 1, 1, 2]), 1, 3, generator())


@pytest.mark.parametrize("per_class", [2, 5, 10])
def test_scores_of_few_labels_lie_near_chance_on_noise_and_near_1_on_clear_classes(per_class: int) -> None:
    clear, labels = classes(4 * per_class, 0.05, dim=4)
    splits = few_label_folds(labels, per_class, per_class, generator())
    assert ridge_accuracy(clear, labels, splits) == 1 == knn_accuracy(clear, labels, splits)
    blurred = [noise(4 * per_class, 50, seed=seed) for seed in range(20)]
    for score in (ridge_accuracy, knn_accuracy):
        assert np.mean([score(features, labels, splits) for features in blurred]) == pytest.approx(0.25, abs=0.12)
    assert np.mean([log_loss_score(features, labels, splits) for features in blurred]) == pytest.approx(0, abs=0.1)
    if per_class > 2:
        assert log_loss_score(clear, labels, splits) > 0.9


def test_with_one_fitted_row_a_class_the_log_loss_score_is_0() -> None:
    clear, labels = classes(40, 0.05, dim=4)
    splits = few_label_folds(labels, 1, 3, generator())
    assert log_loss_score(clear, labels, splits) == pytest.approx(0, abs=1e-9)
    assert ridge_accuracy(clear, labels, splits) == 1


def naive_one_label_score(features: Tensor, labelled: list[int]) -> float:
    """Loops over every walk."""
    x = (features - features.mean(0)).numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    rest = [row for row in range(len(x)) if row not in labelled]
    half = [number * 0.6180339887498949 % 1 < 0.5 for number in range(len(rest))]
    halves = [[row for row, own in zip(rest, half, strict=True) if own is side] for side in (True, False)]

    def step(start: int, targets: list[int]) -> list[float]:
        weights = [math.exp(float(x[start] @ x[target]) / 0.1) for target in targets]
        return [weight / sum(weights) for weight in weights]

    total = 0.0
    for near, far in (halves, halves[::-1]):
        for own, start in enumerate(labelled):
            returned = 0.0
            for p, first in zip(step(start, near), near, strict=True):
                for q, second in zip(step(first, far), far, strict=True):
                    returned += p * q * step(second, labelled)[own]
            total += returned / len(labelled) / 2
    return (total * len(labelled) - 1) / (len(labelled) - 1)


def test_one_label_score_equals_the_naive_loop() -> None:
    features, labels = classes(25, 0.4, num_classes=3)
    rows = torch.tensor([7, 3, 11])
    expected = naive_one_label_score(features, rows.tolist())
    assert one_label_score(features, rows, labels[rows]) == pytest.approx(expected, abs=1e-9)


def test_one_label_score_is_near_1_for_clear_classes_and_near_0_for_noise() -> None:
    features, labels = classes(200, 0.02)
    assert one_label_score(features, torch.arange(4), labels[:4]) > 0.95
    assert one_label_score(noise(200, 100), torch.arange(4), labels[:4]) < 0.1


def test_one_label_score_orders_features_by_how_much_noise_hides_the_class() -> None:
    scores = []
    for spread in (0.02, 0.1, 0.2, 0.4, 1.0):
        features, labels = classes(200, spread, dim=50)
        scores.append(one_label_score(features, torch.arange(4), labels[:4]))
    assert scores == sorted(scores, reverse=True) and scores[0] - scores[-1] > 0.5


def test_one_label_score_falls_when_two_labelled_inputs_share_a_region() -> None:
    features, labels = classes(200, 0.05)
    apart = one_label_score(features, torch.tensor([0, 1, 2, 3]), torch.arange(4))
    shared = one_label_score(features, torch.tensor([0, 4, 2, 3]), torch.arange(4))
    assert labels[4] == labels[0]
    # two of four classes return with probability one half: 3 / 4 in all, (3 / 4 - 1 / 4) / (3 / 4) of the way
    assert apart - shared == pytest.approx(1 - 2 / 3, abs=0.02)


@pytest.mark.parametrize("period", [1, 2, 3, 4, 5])
def test_one_label_score_does_not_mind_the_order_of_the_classes(period: int) -> None:
    features, _ = classes(200, 0.05, num_classes=4)
    order = torch.cat([torch.arange(start, 200, period) for start in range(period)])
    rows = torch.tensor([int((order == label).nonzero()) for label in range(4)])
    expected = one_label_score(features, torch.arange(4), torch.arange(4))
    assert one_label_score(features[order], rows, torch.arange(4)) == pytest.approx(expected, abs=0.02)


def test_one_label_score_does_not_depend_on_offset_scale_rotation_or_names_of_classes() -> None:
    features, labels = classes(60, 0.4)
    rows = torch.tensor([4, 1, 2, 3, 8])
    expected = one_label_score(features, rows, labels[rows])
    changed = 3 * features @ rotation(10) + 4
    assert -1 / 3 < expected < 1
    assert one_label_score(changed, rows.flip(0), 10 - labels[rows].flip(0)) == pytest.approx(expected, abs=1e-6)


def test_one_label_score_of_features_that_do_not_vary_is_0() -> None:
    for value in (0.0, 0.3):
        assert one_label_score(torch.full((20, 3), value), torch.arange(4), torch.arange(4)) == pytest.approx(0)


def test_one_label_score_without_unlabelled_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 unlabelled images"):
        one_label_score(noise(4, 3), torch.arange(4), torch.arange(4))
