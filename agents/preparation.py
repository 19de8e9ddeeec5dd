"""What is measured once, before a run begins: the A/A test, the length of a decision, the reference's curve, the unit
of the reward. All of it is charged to the search.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from agents.catalogue import AGENTS, algorithm_settings
from agents.final import reference_episode
from agents.progress import Reporter
from envs.noise import NoiseReport, measure_noise, num_decisions
from taskrl.assemble import Assembled, assemble, load_data, with_reward
from taskrl.config import ExperimentConfig
from taskrl.data.dataset import RawDataset
from taskrl.evaluation.noise import reward_scale
from taskrl.seeding import derive_seed
from taskrl.tuning import threads
from taskrl.types import Compute

NUM_REFERENCE_EPISODES = 2
LEAST_RATIO = 1.0
MAX_DOUBLINGS = 2


@dataclass(frozen=True)
class Preparation:
    """noise: what is kept of the A/A test (None when it was off). spent: on all of this."""

    noise: dict[str, Any] | None
    spent: Compute

    def to_json(self) -> dict[str, Any]:
        return {"noise": self.noise, "flops": self.spent.flops, "images": self.spent.images}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Preparation":
        spent = Compute(flops=int(record["flops"]), images=int(record["images"]))
        return Preparation(record["noise"], spent)


NOTHING = Preparation(None, Compute())


def prepare(config: ExperimentConfig) -> tuple[RawDataset, Assembled]:
    """Data and problem. Raises ConfigError or DataError before anything is trained or written."""
    algorithm_settings(config.agent, config.episode.decisions)
    dataset = load_data(config)
    return dataset, assemble(config, dataset, codec=AGENTS[config.agent.name].codec)


def settle(assembled: Assembled, reporter: Reporter) -> tuple[Assembled, Preparation]:
    """Measure what the configuration leaves open about decisions and rewards, and write it into the configuration."""
    config = assembled.config
    with threads(1 if config.predictor.device == "cpu" else torch.get_num_threads()):  # to the bit what a worker gets
        reports: list[NoiseReport] = []
        if config.reward.noise_test != "off":
            config, reports = _tested(assembled, reporter)
        curve, spent = _curve(assembled, config)
    spent = sum((report.compute for report in reports), spent)
    scale = config.reward.scale
    if scale == "auto":
        scale = reward_scale(reports[-1].noise.aa_sd) if reports else 1.0
    reward = config.reward.model_copy(update={"scale": scale, "reference_curve": curve})
    agent, kind = config.agent, AGENTS[config.agent.name]
    if config.reward.shaping == "relative" and (kind.plans or (agent.group_relative and agent.group_size > 1)):
        remedy = "leave it out" if kind.plans else "set agent.group_relative=false"
        reporter.say(
            "Note: in a group whose mean reward is taken off, reward.shaping=relative pays the agent nothing else; "
            f"{remedy}."
        )
    noise = noise_record(reports, assembled.config, config) if reports else None
    if noise:
        reporter.say(noise["sentence"])
        if noise["warning"]:
            reporter.say(f"Warning: {noise['warning']}")
    return with_reward(assembled, config.model_copy(update={"reward": reward})), Preparation(noise, spent)


def reference_seeds(config: ExperimentConfig) -> list[tuple[int]]:
    """Seeds of the episodes that show what the reference recipe reaches."""
    return [(derive_seed(config.seed, "reference", index),) for index in range(NUM_REFERENCE_EPISODES)]


def mean_curve(curves: list[tuple[float, ...]]) -> list[float]:
    """Quality before the first and after each decision, averaged over episodes."""
    return [sum(values) / len(values) for values in zip(*curves, strict=True)]


def _tested(assembled: Assembled, reporter: Reporter) -> tuple[ExperimentConfig, list[NoiseReport]]:
    """A/A tests, with longer decisions until tasks move the gain more than chance does, if that is asked for."""
    config, reports = assembled.config, list[NoiseReport]()
    while True:
        total = num_decisions(assembled.problem, config.episode)
        with reporter.task("A/A test", total, "decision") as progress:
            report = measure_noise(assembled.problem, config.episode, seed=config.seed, after_decision=progress.advance)
        if report is None:
            return config, reports
        reports.append(report)
        enough = report.noise.signal_to_noise >= LEAST_RATIO or len(reports) > MAX_DOUBLINGS
        longer = None if enough or config.reward.noise_test != "lengthen" else lengthened(config)
        if longer is None:
            return config, reports
        config = longer


def lengthened(config: ExperimentConfig) -> ExperimentConfig | None:
    """Decisions twice as long and half as many whole groups of episodes; None when there is one group only, since the
    search would cost more.
    """
    group = config.agent.group_size
    num_groups = math.ceil(config.agent.episodes / group) // 2
    if num_groups < 1:
        return None
    episode = config.episode.model_copy(update={"steps_per_decision": 2 * config.episode.steps_per_decision})
    agent = config.agent.model_copy(update={"episodes": num_groups * group})
    return config.model_copy(update={"episode": episode, "agent": agent})


def _curve(assembled: Assembled, config: ExperimentConfig) -> tuple[list[float], Compute]:
    """The reference's curve where the reward needs one, and its cost; a given one holds for the length it was given
    for.
    """
    given = config.reward.reference_curve
    if config.reward.shaping != "relative" or (given and config.episode == assembled.config.episode):
        return given, Compute()
    at_length = dataclasses.replace(assembled, config=config)
    found = [reference_episode(at_length, seed) for (seed,) in reference_seeds(config)]
    return mean_curve([curve for curve, _ in found]), sum((compute for _, compute in found), Compute())


def noise_record(reports: list[NoiseReport], asked: ExperimentConfig, chosen: ExperimentConfig) -> dict[str, Any]:
    """The last A/A test as JSON: numbers, what was tried, a sentence, and a warning or None."""
    report = reports[-1]
    noise = report.noise
    sentence = _found(report)
    if chosen.episode != asked.episode:
        sentence += (
            f" Decisions were lengthened from {asked.episode.steps_per_decision} to {report.steps_per_decision} steps, "
            f"episodes cut from {asked.agent.episodes} to {chosen.agent.episodes}."
        )
    return {
        "aa_sd": _finite(noise.aa_sd),
        "paired_sd": _finite(noise.paired_sd),
        "signal_sd": _finite(noise.signal_sd),
        "signal_to_noise": _finite(noise.signal_to_noise),
        "interval": [_finite(noise.ratio_low), _finite(noise.ratio_high)],
        "steps_per_decision": report.steps_per_decision,
        "decision": report.index,
        "gains": {
            action: [_finite(gain) for gain in row] for action, row in zip(report.actions, report.gains, strict=True)
        },
        "tried": [[each.steps_per_decision, _finite(each.noise.signal_to_noise)] for each in reports],
        "flops": sum(each.compute.flops for each in reports),
        "images": sum(each.compute.images for each in reports),
        "sentence": sentence,
        "warning": _warning(report, asked.reward.noise_test),
    }


def _found(report: NoiseReport) -> str:
    noise, steps = report.noise, report.steps_per_decision
    if not math.isfinite(noise.aa_sd):
        return f"A/A test: after decisions of {steps} steps quality was not finite, so that chance cannot be measured."
    between = f"{noise.signal_sd:.2g}" if noise.signal_sd else "nothing measurable"
    ratio = f"{noise.signal_to_noise:.1f}, {noise.ratio_low:.1f} to {noise.ratio_high:.1f}"
    return (
        f"A/A test: one decision of {steps} steps moves quality by {between} between tasks against {noise.aa_sd:.2g} "
        f"of chance (signal-to-noise about {ratio})."
    )


def _warning(report: NoiseReport, noise_test: str) -> str | None:
    if report.noise.signal_to_noise >= LEAST_RATIO:
        return None
    remedy = "" if noise_test == "lengthen" else "reward.noise_test=lengthen or "
    return (
        f"chance moves the reward of a decision of {report.steps_per_decision} steps more than its task does "
        f"(signal-to-noise {report.noise.signal_to_noise:.1f}): single decisions teach little, and the search needs "
        f"many episodes; try {remedy}a larger episode.steps_per_decision."
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
