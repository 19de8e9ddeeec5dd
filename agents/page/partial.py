"""A run that is not finished -> the keys of result.json that are known by now."""

from collections.abc import Mapping, Sequence
from typing import Any

from agents.catalogue import AGENTS
from agents.logbook import mean_shares
from agents.page.examples import sample_shape
from agents.page.metrics import Metrics
from agents.results import StoredFinal, choices, curves, schedule
from agents.summary import LEARNED, comparison_table
from taskrl.assemble import task_space
from taskrl.config import ExperimentConfig
from taskrl.report_figures import number
from taskrl.run_folder import RunFolder
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

MOST_PARTS = 64
LONGEST_NAME = 80


def partial_result(
    space: TaskSpace | None,
    config: ExperimentConfig | None,
    metrics: Metrics,
    finals: Sequence[StoredFinal],
    noise: Mapping[str, Any],
) -> dict[str, Any]:
    """What result.json would say if the run ended here; a verdict is for finished runs.

    Raises AttributeError, LookupError, TypeError, ValueError or TaskrlError where a final encoder's record is not as
    taskrl writes it.
    """
    rows = [final.row for final in finals]
    learned = [final for final in finals if final.row["generator"] == LEARNED]
    return {
        "rows": rows,
        "table": comparison_table(rows, None) if rows else [],
        "search": {"episodes": episodes_of(metrics)} if metrics.episodes else None,
        "noise": dict(noise) or None,
        "choices": choices(space, learned) if space and learned else None,
        "curves": curves(finals),
        "schedule": schedule(learned),
        "shares": mean_shares([final.specs for final in learned]),
        "config": config.model_dump() if config else None,
    }


def episodes_of(metrics: Metrics) -> list[dict[str, Any]]:
    """As in result.json, in their order."""
    return [{**metrics.episodes[step], "episode": step} for step in sorted(metrics.episodes)]


def space_of(folder: RunFolder, config: ExperimentConfig | None) -> TaskSpace | None:
    """What the agent chooses from; None where the run keeps no example images, or no configuration that can be read.

    Raises ConfigError for objectives or knobs that this taskrl does not have.
    """
    shape = sample_shape(folder)
    return task_space(config, shape, AGENTS[config.agent.name].codec) if config and shape else None


def spec_of(metrics: Mapping[str, Any]) -> TaskSpec | None:
    """The task of a decision; None where none was recorded."""
    mixture = _named(metrics, "share/")
    return TaskSpec(mixture=mixture, levels=_named(metrics, "level/")) if mixture else None


def _named(metrics: Mapping[str, Any], prefix: str) -> tuple[tuple[str, float], ...]:
    found = (
        (name.removeprefix(prefix)[:LONGEST_NAME], number(value))
        for name, value in metrics.items()
        if name.startswith(prefix)
    )
    return tuple((name, value) for name, value in found if value is not None)[:MOST_PARTS]
