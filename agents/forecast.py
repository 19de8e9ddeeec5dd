"""What a command will cost, before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from taskrl.assemble import Assembled
from taskrl.config import EpisodeConfig, ExperimentConfig
from taskrl.report_figures import counted, duration, with_prefix
from taskrl.tuning import images_per_second, seconds_to_measure, workers_at_once

LARGEST_SHARE = 0.25  # of the final run, for its search


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of training and measuring. seconds: at least; workers slow each other down a little."""

    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(flops=self.flops + other.flops, seconds=self.seconds + other.seconds)

    def __str__(self) -> str:
        return f"about {with_prefix(self.flops, 'FLOP')}, at least {duration(self.seconds)}"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of one step of the reference recipe and of one measuring, as measured on this machine."""

    step: Cost
    measuring: Cost

    def of(self, num_episodes: int, episode: EpisodeConfig) -> Cost:
        """What so many episodes cost."""
        return self.sum(num_episodes * episode.num_steps, num_measurings=num_episodes * (episode.decisions + 1))

    def sum(self, num_steps: int, *, num_measurings: int) -> Cost:
        """What so many steps and measurings cost."""
        return Cost(
            flops=num_steps * self.step.flops + num_measurings * self.measuring.flops,
            seconds=num_steps * self.step.seconds + num_measurings * self.measuring.seconds,
        )


def rates(assembled: Assembled, *, alone: bool = False) -> Rates:
    """Measured once on a machine and remembered. alone: of one encoder in this process, instead of all workers."""
    config, problem = assembled.config, assembled.problem
    shape = assembled.splits.pretraining.inputs.sample_shape
    _, _, measuring = problem.measure(problem.make_predictor(0))
    step_s = config.predictor.batch_size / images_per_second(config, lambda _: problem, shape, alone=alone)
    measuring_s = seconds_to_measure(config, problem, shape) / (1 if alone else workers_at_once(config))
    return Rates(
        step=Cost(flops=problem.reference_step_flops, seconds=step_s),
        measuring=Cost(flops=measuring.flops, seconds=measuring_s),
    )


def search_notes(config: ExperimentConfig) -> list[str]:
    """What to think of a search's length beside that of the run that it is for; nothing where it is short enough."""
    remedy = (
        "It may still pay where its policy is used again, or for longer final encoders (final.steps_per_decision); "
        "taskrl compare says from which length on."
    )
    return _too_long(config, config.final.episode.num_steps, "one final encoder", remedy)


def comparison_notes(config: ExperimentConfig) -> list[str]:
    """The same of a comparison, whose longest final runs count."""
    remedy = (
        "Shorter final runs can hardly show a search that pays: give them the length that yours will have, "
        f"final.steps_per_decision (now {config.final.steps_per_decision}) times one of compare.lengths "
        f"(now {config.compare.lengths})."
    )
    num_steps = max(config.compare.lengths) * config.final.episode.num_steps
    return _too_long(config, num_steps, "the longest final encoder", remedy)


def _too_long(config: ExperimentConfig, final_steps: int, what: str, remedy: str) -> list[str]:
    share = config.agent.episodes * config.episode.num_steps / final_steps
    if share <= LARGEST_SHARE:
        return []
    times = f"{share:.0f}" if share >= 10 else f"{share:.2g}"
    return [
        f"Note: the search trains {times} times as long as {what}; at most {LARGEST_SHARE:g} times is advised. {remedy}"
    ]


def cost_notes(
    assembled: Assembled, plans: Sequence[tuple[str, int, EpisodeConfig]], *, alone: bool = False
) -> list[str]:
    """A sentence for each (what, number of episodes, their length); agents learn in between. alone: as in `rates`."""
    measured = rates(assembled, alone=alone)
    return [f"{what}: {counted(num, 'episode')}, {measured.of(num, episode)}." for what, num, episode in plans]
