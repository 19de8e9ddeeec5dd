"""The label-free panel: parts, weights, guards, and what disqualifies a judge."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.errors import ConfigError
from taskrl.evaluation.panel import (
    FEW_LABELS,
    GOALS,
    MEASURES,
    Panel,
    Part,
    Solvability,
    allowed_parts,
    answers,
    calibrated,
    collapse_penalty,
    copy_penalty,
)
from taskrl.evaluation.probes import ridge_r2
from taskrl.types import ProbeData, Question
from tests.builders import generator

NUM = 80
PLAIN = Part(weight=1.0, scale=1.0, low=-1.0, high=1.0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def flat(inputs: Tensor) -> Tensor:
    return inputs.flatten(1).float()


@pytest.fixture
def data() -> ProbeData:
    """A question whose targets are half in the features, and one of pure noise."""
    inputs, folds = noise(NUM, 1, 2, 4), torch.arange(NUM) % 4
    known = inputs.flatten(1)[:, :2] + 0.5 * noise(NUM, 2, seed=1)
    questions = {
        "clean": Question(shown=inputs, folds=folds, targets={"known": known, "unknown": noise(NUM, 2, seed=2)}),
        "turned": Question(shown=-inputs, folds=folds, targets={"other": known}),
    }
    return ProbeData(inputs=inputs, folds=folds, questions=questions)


def test_a_part_is_the_cross_fitted_r2_of_its_question(data: ProbeData) -> None:
    found = answers(flat, data, {"known", "other"})
    clean = data.questions["clean"]
    assert found.values["known"] == pytest.approx(ridge_r2(flat(clean.shown), clean.targets["known"], clean.folds))
    assert found.values["other"] == pytest.approx(found.values["known"])
    assert set(found.values) == {"known", "other"}


def test_only_questions_that_are_called_for_are_shown_and_charged(data: ProbeData) -> None:
    one, two = answers(flat, data, {"known"}), answers(flat, data, {"known", "other"})
    assert (one.num_encoded, two.num_encoded) == (NUM, 2 * NUM)
    assert 0 < one.flops < two.flops
    assert answers(flat, data, {"rankme"}).num_encoded == NUM


def test_the_quality_is_the_weighted_sum_of_the_parts(data: ProbeData) -> None:
    parts = {"known": Part(weight=0.7, scale=0.5, low=-1, high=1), "other": Part(weight=0.3, scale=0.1, low=-1, high=1)}
    quality = Panel(parts)(flat, data)
    expected = 0.7 * quality.parts["known"] / 0.5 + 0.3 * quality.parts["other"] / 0.1
    assert quality.value == pytest.approx(expected)
    assert quality.parts["collapse_penalty"] == 0


def test_a_part_beyond_what_calibration_saw_is_cut() -> None:
    part = Part(weight=2.0, scale=4.0, low=0.0, high=8.0)
    assert [part.points(value) for value in (-3.0, 2.0, 8.0, 1000.0)] == [0.0, 1.0, 4.0, 4.0]


def test_collapsed_features_are_penalised_and_spread_ones_are_not() -> None:
    spread, constant = noise(200, 16), torch.ones(200, 16)
    line = noise(200, 1) * torch.ones(200, 16)
    assert collapse_penalty(spread) == 0
    assert collapse_penalty(constant) == pytest.approx(20)
    assert 0 <= collapse_penalty(line) < collapse_penalty(constant)


def test_a_constant_encoder_ranks_below_noise_and_noise_below_knowledge(data: ProbeData) -> None:
    panel = Panel({"known": PLAIN, "other": PLAIN})
    values = [
        panel(encode, data).value
        for encode in (
            lambda inputs: torch.ones(len(inputs), 8),
            lambda inputs: noise(len(inputs), 8, seed=5),
            flat,
        )
    ]
    assert values == sorted(values)
    assert values[0] < values[1] < values[2]


def test_a_copy_of_the_inputs_is_penalised_and_pooled_features_are_not() -> None:
    assert [copy_penalty(r2) for r2 in (-0.3, 0.5, 0.85, 0.925, 1.0)] == pytest.approx([0, 0, 0, 5, 10])
    inputs, folds = noise(NUM, 1, 2, 4), torch.arange(NUM) % 4
    targets = {"known": noise(NUM, 2), "copy": inputs.flatten(1)}
    data = ProbeData(
        inputs=inputs, folds=folds, questions={"clean": Question(shown=inputs, folds=folds, targets=targets)}
    )
    panel = Panel({"known": PLAIN})
    copied, pooled = panel(flat, data), panel(lambda inputs: flat(inputs)[:, :3].square(), data)
    assert copied.parts["copy_penalty"] > 9
    assert pooled.parts["copy_penalty"] == 0
    coarse = panel(lambda inputs: flat(inputs).unflatten(1, (4, 2)).mean(2), data)
    assert coarse.parts["copy"] < 0.6, "little can be read back"
    assert coarse.parts["copied"] > 0.95 and coarse.parts["copy_penalty"] > 9, "but it is nothing but the input"
    assert copied.value == pytest.approx(copied.parts["known"] - copied.parts["copy_penalty"])


def test_solvability_is_the_mean_of_the_related_tasks(data: ProbeData) -> None:
    quality = Solvability(["known", "unknown"])(flat, data)
    assert quality.value == pytest.approx((quality.parts["known"] + quality.parts["unknown"]) / 2)
    assert quality.parts["unknown"] < 0.1 < quality.parts["known"]


def test_what_is_played_does_not_judge() -> None:
    parts = {"rotation": PLAIN, "edges": PLAIN}
    opened_by = {"rotation": ("objective/rotation", "knob/rotation")}
    assert set(allowed_parts(parts, opened_by, {"objective/contrastive"})) == {"rotation", "edges"}
    assert set(allowed_parts(parts, opened_by, {"knob/rotation"})) == {"edges"}


def test_no_judge_left_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="No part of the label-free panel is left"):
        Panel({})
    with pytest.raises(ConfigError, match="Every held-out task is played"):
        Solvability([])


def test_labels_are_one_more_part_where_there_are_a_few(data: ProbeData) -> None:
    labels = (data.inputs.flatten(1)[:, 0] > 0).long()
    labelled = ProbeData(inputs=data.inputs, folds=data.folds, labels=labels, questions=data.questions)
    found = answers(flat, labelled, {"labels", "one_label", "known"})
    assert found.values["labels"] > 0.3
    assert 0 <= found.values["one_label"] <= 1
    assert found.num_encoded == 2 * NUM
    blind = answers(lambda inputs: noise(len(inputs), 8, seed=5), labelled, {"labels"})
    assert blind.values["labels"] < 0.1


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("size", ["reward", "full", *(f"few_{number}" for number in FEW_LABELS)])
def test_the_shipped_calibration_is_bounded(goal: str, size: str) -> None:
    parts = calibrated(goal, size)
    weights = [abs(part.weight) for part in parts.values()]
    assert parts
    assert sum(weights) == pytest.approx(1, abs=0.06)
    assert all(part.scale > 0 and part.low < part.high for part in parts.values())
    assert size != "reward" or not set(parts) & set(MEASURES)


def test_an_unknown_goal_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'best'.*frozen, finetune, dense"):
        calibrated("best", "full")


def test_the_parts_do_not_depend_on_the_order_of_the_inputs_within_folds(data: ProbeData) -> None:
    order = torch.randperm(NUM, generator=generator(3))
    clean = data.questions["clean"]
    targets = {name: target[order] for name, target in clean.targets.items()}
    shuffled = {"clean": Question(shown=clean.shown[order], folds=clean.folds[order], targets=targets)}
    moved = ProbeData(inputs=data.inputs[order], folds=data.folds[order], questions=shuffled)
    assert answers(flat, moved, {"known"}).values == pytest.approx(answers(flat, data, {"known"}).values)


def test_a_one_hot_target_is_told_by_its_own_features() -> None:
    which = torch.arange(NUM) % 5
    shown = F.one_hot(which).float() + 0.01 * noise(NUM, 5)
    question = Question(shown=shown, folds=torch.arange(NUM) // 5 % 4, targets={"which": F.one_hot(which)})
    data = ProbeData(inputs=shown, folds=question.folds, questions={"clean": question})
    assert answers(lambda inputs: inputs, data, {"which"}).values["which"] > 0.98
