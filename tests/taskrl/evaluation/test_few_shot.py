"""Few labels: which rows are drawn, and accuracies against a naive loop."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from taskrl.evaluation.accuracy import is_imbalanced, knn_predictions, linear_classifier, mean_auroc, standardised_pair
from taskrl.evaluation.few_shot import NUM_DRAWS, draw_rows, few_shot
from tests.builders import generator
from tests.taskrl.evaluation.features import noise

LABELS = torch.tensor([2, 0, 1] * 8 + [0] * 6)


def test_a_draw_has_so_many_of_each_class_and_holds_the_smaller_draws() -> None:
    for draw in range(3):
        few, more = (draw_rows(LABELS, count, seed=0, draw=draw) for count in (2, 5))
        assert LABELS[few].bincount().tolist() == [2, 2, 2] and LABELS[more].bincount().tolist() == [5, 5, 5]
        assert set(few.tolist()) < set(more.tolist())
    draws = {tuple(draw_rows(LABELS, 2, seed=0, draw=draw).tolist()) for draw in range(NUM_DRAWS)}
    assert len(draws) > NUM_DRAWS // 2
    assert draw_rows(LABELS, 2, seed=0, draw=1).tolist() == draw_rows(LABELS, 2, seed=0, draw=1).tolist()


def test_more_labels_than_a_class_has_are_an_error() -> None:
    with pytest.raises(ValueError, match="fewer than 9"):
        draw_rows(LABELS, 9, seed=0, draw=0)


@pytest.mark.parametrize("per_class", [1, 3])
def test_means_and_intervals_equal_the_naive_loop(per_class: int) -> None:
    centres = 1.5 * noise(3, 6)
    fit, truth = (centres[LABELS] + noise(len(LABELS), 6, seed=1)).float(), torch.arange(40) % 3
    score = (centres[truth] + noise(40, 6, seed=2)).float()
    linear, knn = [], []
    for draw in range(NUM_DRAWS):
        rows = draw_rows(LABELS, per_class, seed=4, draw=draw)
        matrix, scored = standardised_pair(fit[rows], score)
        predicted = linear_classifier(matrix, LABELS[rows].numpy()).predict(scored)
        linear.append(100 * np.mean([a == b for a, b in zip(predicted, truth.tolist(), strict=True)]))
        neighbours = knn_predictions(fit[rows], LABELS[rows], score)
        knn.append(100 * sum(int(a == b) for a, b in zip(neighbours, truth, strict=True)) / len(truth))
    found = few_shot({"x": (fit, score)}, LABELS, truth, per_class, seed=4)["x"]
    assert [draw.linear for draw in found.draws] == pytest.approx(linear)
    assert found.means["linear"].mean == pytest.approx(np.mean(linear))
    assert found.means["knn"].mean == pytest.approx(np.mean(knn), abs=1e-4)
    assert min(linear) <= found.means["linear"].low < found.means["linear"].high <= max(linear)


def test_with_one_label_a_class_knn_is_the_nearest_neighbour() -> None:
    fit, score = noise(5, 4), noise(30, 4, seed=1)
    similarity = torch.nn.functional.cosine_similarity(score[:, None], fit[None], dim=2)
    assert knn_predictions(fit, torch.arange(5), score).tolist() == similarity.argmax(1).tolist()


def test_auroc_is_that_of_scikit_learn() -> None:
    scores = torch.rand(60, 3, generator=generator(), dtype=torch.float64)
    scores = (scores / scores.sum(1, keepdim=True)).numpy()
    labels = (torch.arange(60) % 3).numpy()
    expected = roc_auc_score(labels, scores, multi_class="ovr")
    assert mean_auroc(scores, np.arange(3), labels) == pytest.approx(100 * expected)
    two = np.stack([1 - scores[:, 0], scores[:, 0]], axis=1)
    assert mean_auroc(two, np.arange(2), labels % 2) == pytest.approx(100 * roc_auc_score(labels % 2, scores[:, 0]))
    assert mean_auroc(scores, np.arange(3), np.zeros(60, dtype=np.int64)) is None


@pytest.mark.parametrize(("sizes", "expected"), [((20, 60), False), ((20, 61), True), ((9, 9), False)])
def test_imbalance_is_more_than_three_to_one(sizes: tuple[int, int], expected: bool) -> None:
    labels = torch.repeat_interleave(torch.tensor([0, 3]), torch.tensor(sizes))
    assert is_imbalanced(labels, labels) == expected


def test_a_class_without_a_scored_image_counts() -> None:
    assert is_imbalanced(torch.arange(20) % 2, torch.arange(20) % 3)


def test_a_class_without_a_fitted_image_does_not_count() -> None:
    assert not is_imbalanced(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1]))
    assert is_imbalanced(torch.tensor([0, 0, 0, 0, 1, 2]), torch.tensor([0, 1, 1]))
