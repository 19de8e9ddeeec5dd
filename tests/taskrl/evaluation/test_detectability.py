"""Promises of detectability: a cross-fitted two-sample test, 0.5 for what is invisible, charged."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

from taskrl.evaluation.detectability import STRENGTH, detect, detection_accuracy, detection_flops
from taskrl.evaluation.probes import standardise
from tests.taskrl.evaluation.features import noise, some_folds


def test_it_equals_scikit_learns_ridge_classifier() -> None:
    untouched, folds = noise(60, 6), some_folds(60)
    transformed = untouched + 0.4 * noise(60, 6, seed=1) + torch.tensor([0.5, 0, 0, 0, 0, -0.3])
    both, sides = standardise(torch.cat([untouched, transformed])).numpy(), np.repeat([-1, 1], 60)
    rows = folds.repeat(2).numpy()
    hits = 0
    for fold in np.unique(rows):
        fitted = rows != fold
        ridge = RidgeClassifier(alpha=STRENGTH * fitted.sum(), fit_intercept=False)
        ridge.fit(both[fitted], sides[fitted])
        hits += (ridge.predict(both[~fitted]) == sides[~fitted]).sum()
    assert 0.55 < hits / 120 < 1
    assert detection_accuracy(untouched, transformed, folds) == pytest.approx(hits / 120, abs=1e-9)


def test_what_changes_nothing_is_at_chance_and_what_moves_everything_is_always_told() -> None:
    untouched, folds = noise(100, 8), some_folds(100)
    assert detection_accuracy(untouched, untouched, folds) == 0.5
    assert detection_accuracy(untouched, untouched + 10, folds) == 1.0
    unrelated = [detection_accuracy(noise(200, 8, seed=s), noise(200, 8, seed=s + 50), some_folds(200)) for s in (1, 2)]
    assert unrelated == pytest.approx([0.5, 0.5], abs=0.1)


def test_a_symmetry_of_the_data_is_invisible_though_it_changes_every_input() -> None:
    lopsided = noise(400, 5)
    lopsided[:, 0] = lopsided[:, 0].abs()
    sign = torch.tensor([-1.0, 1, 1, 1, 1])
    assert detection_accuracy(lopsided, lopsided * sign, some_folds(400)) > 0.95
    even = noise(400, 5)
    assert detection_accuracy(even, even * sign, some_folds(400)) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_give_nan(bad: float) -> None:
    features = noise(20, 4)
    features[3, 2] = bad
    assert math.isnan(detection_accuracy(features, noise(20, 4), some_folds(20)))


def test_what_stands_in_for_the_untouched_inputs_is_subtracted() -> None:
    """A transformation that also blurs: against blurred inputs its own part alone is told."""
    inputs, folds = noise(300, 4), some_folds(300)
    side_effect = torch.tensor([2.0, 0, 0, 0])
    transformed = {"turn": inputs + side_effect, "shift": inputs + 5}
    plain = detect(lambda x: x, inputs, transformed, folds)
    fair = detect(lambda x: x, inputs, transformed, folds, against={"turn": inputs + side_effect})
    assert plain.accuracy["turn"] > 0.8
    assert fair.accuracy["turn"] == 0.5
    assert fair.accuracy["shift"] == plain.accuracy["shift"] == 1.0


def test_every_side_is_encoded_once_and_charged() -> None:
    seen: list[Tensor] = []

    def encode(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return inputs

    inputs, folds = noise(30, 4), some_folds(30)
    other = inputs + 1
    found = detect(encode, inputs, {"a": inputs + 2, "b": inputs + 3}, folds, against={"a": other, "b": other})
    assert found.num_encoded == sum(len(part) for part in seen) == 4 * 30
    assert found.solve_flops == 2 * detection_flops(30, 4, len(folds.unique())) > 0
