"""Accuracies against naive loops and on data whose answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from taskrl.evaluation import accuracy
from taskrl.evaluation.accuracy import (
    LOGISTIC_STRENGTHS,
    knn_predictions,
    linear_classifier,
    measure,
    pixel_accuracy,
    standardised_pair,
)
from tests.builders import blobs, generator, random_images


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def clusters(num: int, spread: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features around four corners, with their labels."""
    labels = torch.arange(num) % 4
    return 3 * torch.eye(4)[labels] + spread * noise(num, 4, seed=seed), labels


def naive_knn(fit: Tensor, labels: Tensor, query: Tensor) -> int:
    similarities = []
    for row, label in zip(fit.tolist(), labels.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(row, query.tolist(), strict=True))
        similarities.append((dot / math.hypot(*row) / math.hypot(*query.tolist()), label))
    votes: dict[int, float] = {}
    for similarity, label in sorted(similarities, reverse=True)[:20]:
        votes[label] = votes.get(label, 0.0) + math.exp(similarity / 0.07)
    return max(votes, key=lambda label: votes[label])


def test_knn_equals_the_naive_loop() -> None:
    fit, queries = noise(60, 5), noise(25, 5, seed=1)
    labels = torch.randint(3, (60,), generator=generator(2))
    expected = [naive_knn(fit, labels, query) for query in queries]
    assert knn_predictions(fit, labels, queries).tolist() == expected


def test_knn_looks_at_directions_and_takes_fewer_images_than_neighbours() -> None:
    fit, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert knn_predictions(fit, labels, torch.tensor([[0.1, 0.0], [3.0, 50.0]])).tolist() == [0, 1]


def test_separable_classes_are_100_percent_by_every_measure() -> None:
    fit, labels = clusters(120)
    (accuracy,) = measure(fit, labels, [clusters(80, seed=1)])
    assert (accuracy.linear, accuracy.balanced, accuracy.knn) == (100, 100, 100)


def test_noise_is_near_chance() -> None:
    labels = torch.arange(200) % 4
    (accuracy,) = measure(noise(200, 8), labels, [(noise(400, 8, seed=1), torch.arange(400) % 4)])
    assert 15 < accuracy.linear < 35 and 15 < accuracy.knn < 35


def test_several_sets_are_scored_by_one_fit() -> None:
    fit, labels = clusters(120, spread=1.5)
    first, second = clusters(80, spread=1.5, seed=1), clusters(40, spread=1.5, seed=2)
    assert measure(fit, labels, [first, second]) == measure(fit, labels, [first]) + measure(fit, labels, [second])


def test_balanced_accuracy_is_the_mean_recall_of_the_classes() -> None:
    fit, labels = noise(200, 3), (torch.arange(200) % 10 == 0).long()
    scored = noise(300, 3, seed=1), (torch.arange(300) % 10 == 0).long()
    (accuracy,) = measure(fit, labels, [scored])
    assert accuracy.linear == pytest.approx(90, abs=2)
    assert accuracy.balanced == pytest.approx(50, abs=3)


def test_classes_that_the_scored_images_lack_are_no_trouble() -> None:
    fit, labels = clusters(120, spread=2.0)
    features, truth = clusters(80, spread=2.0, seed=1)
    (accuracy,) = measure(fit, labels, [(features[truth < 2], truth[truth < 2])])
    assert 50 < accuracy.linear < 100


def test_scale_and_offset_of_features_do_not_matter_to_the_linear_classifier() -> None:
    fit, labels = clusters(120, spread=1.5)
    scored, truth = clusters(80, spread=1.5, seed=1)
    scale = torch.tensor([100.0, 0.01, 5.0, 1.0])
    plain, changed = (
        measure(fit, labels, [(scored, truth)]),
        measure(scale * fit + 9, labels, [(scale * scored + 9, truth)]),
    )
    assert plain[0].linear == pytest.approx(changed[0].linear)


def test_the_scored_features_are_standardised_by_the_fitted_ones() -> None:
    fit = torch.cat([5 + 3 * noise(100, 2), torch.ones(100, 1)], dim=1)
    first, second = standardised_pair(fit, torch.tensor([[5.0, 5.0, 1.0]]))
    np.testing.assert_allclose(first.mean(0), 0, atol=1e-7)
    np.testing.assert_allclose(first.std(0, ddof=1)[:2], 1)
    expected = (5 - fit.double().mean(0)) / fit.double().std(0).clamp(min=1e-9)
    np.testing.assert_allclose(second[0, :2], expected[:2].numpy(), rtol=1e-6)
    assert second[0, 2] == 0


def test_the_strength_comes_from_cross_validation_inside_the_given_data() -> None:
    fit, labels = clusters(120, spread=0.2)
    model = linear_classifier(fit.double().numpy(), labels.numpy())
    assert model.C in LOGISTIC_STRENGTHS
    hard = torch.cat([fit[:, :1], 3 * noise(120, 200)], dim=1).double().numpy()
    cautious = linear_classifier(hard, labels.numpy())
    assert min(LOGISTIC_STRENGTHS) == cautious.C


def test_features_that_need_more_iterations_are_finished_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ConvergenceWarning, which is an error here, and a classifier that is of use."""
    features, labels = clusters(80)
    (matrix,) = standardised_pair(features)
    expected = linear_classifier(matrix, labels.numpy())
    assert expected.coef_.dtype == np.float32
    monkeypatch.setattr(accuracy, "MAX_ITERATIONS", 4)
    found = linear_classifier(matrix, labels.numpy())
    assert found.coef_.dtype == np.float64
    assert (found.predict(matrix) == expected.predict(matrix)).all()


def test_a_class_with_one_image_does_not_stop_the_classifier() -> None:
    fit, labels = clusters(40)
    labels[0] = 4
    assert set(linear_classifier(fit.double().numpy(), labels.numpy()).classes_) == set(range(5))


def test_a_class_with_one_image_does_not_choose_the_strength_for_all_others() -> None:
    images, digits = load_digits(return_X_y=True)
    (matrix,) = standardised_pair(torch.from_numpy(images[:100]))
    rare = np.where(np.arange(100) == 50, 10, digits[:100]).astype(np.int64)
    assert min(linear_classifier(matrix, labels).C for labels in (digits[:100], rare)) > LOGISTIC_STRENGTHS[0]


@pytest.mark.parametrize("rare", [1, 2])
def test_of_two_classes_one_may_be_in_a_single_fold(rare: int) -> None:
    fit, labels = noise(40, 3), (torch.arange(40) < rare).long()
    assert linear_classifier(fit.numpy(), labels.numpy()).C in LOGISTIC_STRENGTHS


def test_the_pixel_floor_finds_what_pixels_show() -> None:
    labels = torch.arange(120) % 4
    floor = pixel_accuracy(blobs(labels), labels, blobs(labels[:60], seed=5), labels[:60])
    assert floor == {"ridge": 100.0, "one_nn": 100.0, "best": 100.0}


def test_the_pixel_floor_of_noise_is_near_chance_and_best_is_the_better_one() -> None:
    labels = torch.arange(200) % 4
    floor = pixel_accuracy(random_images(200, size=6), labels, random_images(200, size=6, seed=1), labels)
    assert 12 < floor["ridge"] < 40 and 12 < floor["one_nn"] < 40
    assert floor["best"] == max(floor["ridge"], floor["one_nn"])


def test_one_nn_of_the_pixel_floor_equals_the_naive_loop() -> None:
    fit, score = random_images(30, size=3), random_images(20, size=3, seed=1)
    labels, truth = torch.arange(30) % 3, torch.arange(20) % 3
    hits = 0
    for image, label in zip(score, truth.tolist(), strict=True):
        distances = [float((image.double() - other.double()).square().sum()) for other in fit]
        hits += int(labels[int(np.argmin(distances))]) == label
    assert pixel_accuracy(fit, labels, score, truth)["one_nn"] == pytest.approx(100 * hits / 20)
