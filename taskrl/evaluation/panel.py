"""The label-free panel: several questions that no played task trains, combined by fixed weights.

A question shows inputs to the frozen encoder and asks for targets that are known by construction; the answer is
cross-fitted ridge R2. Statistics of the features themselves stand beside the questions. `calibration.json`, which a
program in benchmarks/ writes, has the weights, chosen by hand on the development sets, and the scales and bounds, from
simulated data sets (docs/reward.md).
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from taskrl.errors import ConfigError
from taskrl.evaluation.clusters import cluster_learnability, cluster_stability, intrinsic_dimension
from taskrl.evaluation.collapse import effective_rank, feature_std, uniformity
from taskrl.evaluation.labelled import log_loss_score, one_label_score
from taskrl.evaluation.probes import instance_discrimination, ridge_flops, ridge_r2, ridge_r2_each, standardise
from taskrl.evaluation.spectrum import all_finite, alpha_req, centred, lidar, participation_ratio, rankme
from taskrl.seeding import torch_generator
from taskrl.types import Encode, ProbeData, Quality

CALIBRATION_FILE = Path(__file__).with_name("calibration.json")
GOALS = ("frozen", "finetune", "dense")
STD_FLOOR = 0.2
RANK_FLOOR = 0.02
COLLAPSE_WEIGHT = 10.0
COPY_CEILING = 0.85
COPY_WEIGHT = 10.0
COPIES = ("copy", "busy_copy")
COPIED = {"copy": "copied", "busy_copy": "busy_copied"}  # the same question the other way round
CLEAN = "clean"
PAIR = ("view", "other_view")
LABELS = "labels"
ONE_LABEL = "one_label"
FEW_LABELS = (1, 5, 10)

Measure = Callable[[Tensor], float]


def _learnability(features_ND: Tensor) -> float:
    return cluster_learnability(features_ND, torch_generator(0, "cluster learnability"), 20)


def _stability(features_ND: Tensor) -> float:
    return cluster_stability(features_ND, torch_generator(0, "cluster stability"), 20, num_draws=2)


MEASURES: Mapping[str, Measure] = {
    "cluster_learnability": _learnability,
    "cluster_stability": _stability,
    "intrinsic_dimension": intrinsic_dimension,
    "rankme": rankme,
    "effective_rank": effective_rank,
    "participation_ratio": participation_ratio,
    "alpha_req": alpha_req,
    "feature_std": feature_std,
    "uniformity": lambda features_ND: uniformity(centred(features_ND)),
}
"""Statistics of the features of clean inputs; none asks for anything outside them."""

PAIR_MEASURES: Mapping[str, Callable[[Tensor, Tensor], float]] = {
    "instance": instance_discrimination,
    "lidar": lambda first, second: lidar(torch.stack([first, second], dim=1)),
}
"""Statistics of the features of two weak views of the same inputs."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the panel. scale: its spread among encoders of one simulated set. low, high: what was seen there;
    values outside are cut, so that no part can be driven without end.
    """

    weight: float
    scale: float
    low: float
    high: float

    def points(self, value: float) -> float:
        """What the part adds to the quality."""
        return self.weight * min(max(value, self.low), self.high) / self.scale


@cache
def calibration() -> Mapping[str, Any]:
    """The weights, scales and bounds, as stored."""
    return dict(json.loads(CALIBRATION_FILE.read_text(encoding="utf-8")))


def calibrated(goal: str, size: str) -> dict[str, Part]:
    """The parts for a goal ("frozen", "finetune", "dense") and a size: "reward" (few and fast), "full", or "few_1",
    "few_5", "few_10" (those of the reward with so many labels a class). Raises ConfigError for an unknown goal.
    """
    if goal not in GOALS:
        raise ConfigError(f"Unknown goal {goal!r}; known goals: {', '.join(GOALS)}.")
    return {name: Part(**values) for name, values in calibration()["goals"][goal][size].items()}


def weighed(parts: Mapping[str, Part], values: Mapping[str, float]) -> float:
    """The points of all parts together; values may hold more."""
    return sum(part.points(values[name]) for name, part in parts.items())


def allowed_parts(
    parts: Mapping[str, Part], opened_by: Mapping[str, Sequence[str]], open_: set[str]
) -> dict[str, Part]:
    """The parts that judge without being played: none whose objective or view knob is in `open_`."""
    return {name: part for name, part in parts.items() if not open_ & set(opened_by.get(name, ()))}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Every part called for, and what measuring it cost."""

    values: Mapping[str, float]
    num_encoded: int
    flops: int


def answers(encode: Encode, data: ProbeData, names: Collection[str]) -> Answers:
    """Measure the parts `names`; questions that none of them needs are not shown."""
    values: dict[str, float] = {}
    num_encoded = flops = 0
    features: dict[str, Tensor] = {}
    wanted = {CLEAN: {*MEASURES, ONE_LABEL}, PAIR[0]: set(PAIR_MEASURES), PAIR[1]: set(PAIR_MEASURES)}
    for key, question in data.questions.items():
        targets = {name: target for name, target in question.targets.items() if name in names}
        if not targets and not wanted.get(key, set()) & set(names):
            continue
        features[key] = encode(question.shown)
        num_encoded += len(question.shown)
        if not targets:
            continue
        num, num_folds, size = len(question.shown), len(question.folds.unique()), features[key].shape[1]
        values |= ridge_r2_each(features[key], targets, question.folds)
        width = sum(target.shape[1] for target in targets.values())
        flops += ridge_flops(num, size, width, num_folds)
        for name in COPIED.keys() & targets.keys():
            if COPIED[name] in names:
                values[COPIED[name]] = ridge_r2(targets[name], standardise(features[key]), question.folds)
                flops += ridge_flops(num, targets[name].shape[1], size, num_folds)
    if CLEAN in features:
        values |= {name: measure(features[CLEAN]) for name, measure in MEASURES.items() if name in names}
    if PAIR[0] in features and PAIR[1] in features:
        first, second = features[PAIR[0]], features[PAIR[1]]
        values |= {name: measure(first, second) for name, measure in PAIR_MEASURES.items() if name in names}
    if data.labels is not None and {LABELS, ONE_LABEL} & set(names):
        labelled = encode(data.inputs)
        num_encoded += len(labelled)
        if LABELS in names:
            values[LABELS] = log_loss_score(labelled, data.labels, data.folds)
        if ONE_LABEL in names:
            rows = torch.arange(len(labelled), device=labelled.device)
            values[ONE_LABEL] = one_label_score(torch.cat([labelled, features[CLEAN]]), rows, data.labels)
    return Answers(values=values, num_encoded=num_encoded, flops=flops)


def collapse_penalty(features_ND: Tensor) -> float:
    """0 for features that spread out; up to 2 x 10 as their sd or effective rank falls from its floor to 0."""
    std = 1 - feature_std(features_ND) / STD_FLOOR
    rank = 1 - effective_rank(features_ND) / RANK_FLOOR
    return COLLAPSE_WEIGHT * (max(0.0, std) + max(0.0, rank))


def copy_penalty(r2: float) -> float:
    """0 for features and a miniature of the input of which neither tells much of the other by a linear map; up to 10
    as the R2 rises from its ceiling to 1, where the features are a copy or a coarser one. Questions about the input are
    easy for a copy, and it is no representation.
    """
    return COPY_WEIGHT * max(0.0, r2 - COPY_CEILING) / (1 - COPY_CEILING)


def copying(values: Mapping[str, float], name: str) -> float:
    """The larger penalty of the two ways that `name`, of COPIES, was asked; 0 where it was not."""
    return max(copy_penalty(values.get(way, 0.0)) for way in (name, COPIED[name]))


@final
class Panel:
    """Quality = sum of the calibrated parts minus the penalties for collapse and, where the data ask for it (COPIES),
    for copying the input; labels only if a part reads them.
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        """Raises ConfigError without parts."""
        if not parts:
            raise ConfigError(
                "No part of the label-free panel is left that this run does not play; close an objective or knob, "
                "or use labels (--probe ridge)."
            )
        self.parts = dict(parts)

    def __call__(self, encode: Encode, data: ProbeData) -> Quality:
        shown: list[Tensor] = []

        def remembered(inputs: Tensor) -> Tensor:
            shown.append(encode(inputs))
            return shown[-1]

        found = answers(remembered, data, {*self.parts, *COPIES, *COPIED.values()})
        penalties = {
            "collapse_penalty": collapse_penalty(shown[0]),
            "copy_penalty": max(copying(found.values, name) for name in COPIES),
        }
        value = weighed(self.parts, found.values) - sum(penalties.values()) if all_finite(*shown) else math.nan
        parts = {**found.values, **penalties}
        return Quality(value=value, parts=parts, num_encoded=found.num_encoded, solve_flops=found.flops)


@final
class Solvability:
    """Mean R2 over related tasks that the agent does not train: how many other tasks the features solve."""

    def __init__(self, names: Sequence[str]) -> None:
        """names: of targets. Raises ConfigError for none."""
        if not names:
            raise ConfigError("Every held-out task is played in this run; close an objective or use --probe panel.")
        self.names = tuple(names)

    def __call__(self, encode: Encode, data: ProbeData) -> Quality:
        found = answers(encode, data, self.names)
        value = sum(found.values.values()) / len(found.values)
        return Quality(value=value, parts=found.values, num_encoded=found.num_encoded, solve_flops=found.flops)
