"""Schedules: tasks fixed in advance, by progress; as a policy, and as a file that people can read and edit."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from envs.observation import ObservationBuilder
from taskrl.config import Section, read_yaml
from taskrl.errors import ConfigError, unknown_name
from taskrl.folders import write_atomically
from taskrl.meta import Action, Observation, TaskPolicy
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

SCHEDULE = "schedule.yaml"
YAML = (".yaml", ".yml")
FORMAT_VERSION = 1
MAX_ROWS = 1000
TOLERANCE = 1e-4
HEADER = "# Pretext tasks by progress of training; each row holds until the next one begins.\n"


def row_at(progress: float, num_rows: int) -> int:
    """The row that is played at `progress`, rows being equally long. An observation is float32: 5/6 of 6 rows is
    4.9999999 there, and means row 5.
    """
    return min(int(progress * num_rows + TOLERANCE), num_rows - 1)


@final
class SchedulePolicy:
    """The task of a schedule's row, whatever else is observed; a schedule of one row is a fixed recipe."""

    def __init__(self, space: TaskSpace, specs: Sequence[TaskSpec]) -> None:
        """specs: rows of equal length. Raises ValueError when there is none, or the space's codec cannot express
        one.
        """
        if not specs:
            raise ValueError("a schedule has no row; give at least one task")
        self.space = space
        self.specs = tuple(specs)
        self._actions = [space.encode(spec) for spec in specs]
        self._progress = ObservationBuilder(space).names.index("progress")

    def propose(
        self, observation: Observation, state: Any = None, *, deterministic: bool = False
    ) -> tuple[Action, Any]:
        return self._actions[self._row(observation)], state

    def probabilities(self, observation: Observation) -> Mapping[str, NDArray[np.float64]]:
        rows = zip(self.space.parts, self.space.level_indices(self.specs[self._row(observation)]), strict=True)
        return {part.name: np.eye(len(part.levels))[index] for part, index in rows}

    def _row(self, observation: Observation) -> int:
        return row_at(float(observation[self._progress]), len(self.specs))


def check_played(policy: TaskPolicy, decisions: int) -> None:
    """Raises ConfigError where `policy` is a schedule of which a run of so many decisions never plays some task."""
    if not isinstance(policy, SchedulePolicy):
        return
    num_rows = len(policy.specs)
    played = {policy.specs[row_at(index / decisions, num_rows)] for index in range(decisions)}
    if played != set(policy.specs):
        raise ConfigError(
            f"The schedule has {num_rows} rows and the run {decisions} decisions, which would pass over some of its "
            f"tasks; give --set final.decisions={num_rows}."
        )


class _Row(Section):
    """A task and the progress at which it begins."""

    from_: float = Field(alias="from", ge=0, lt=1)
    mixture: dict[str, float] = Field(min_length=1)
    levels: dict[str, float]


class _File(Section):
    """A schedule's file. card: where it comes from; nothing reads it."""

    format_version: Literal[1]
    tasks: list[_Row] = Field(min_length=1, max_length=MAX_ROWS)
    card: dict[str, Any] = Field(default={})


def save_schedule(path: Path, specs: Sequence[TaskSpec], card: Mapping[str, object]) -> None:
    """Write a schedule as YAML, in one step; card: plain data on where it comes from."""
    content = schedule_content(specs, card)
    write_atomically(path, HEADER + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000))


def schedule_content(specs: Sequence[TaskSpec], card: Mapping[str, object]) -> dict[str, Any]:
    """What a schedule's file holds, as plain data."""
    rows = [
        {"from": round(index / len(specs), 6), "mixture": dict(spec.mixture), "levels": dict(spec.levels)}
        for index, spec in enumerate(specs)
    ]
    return {"format_version": FORMAT_VERSION, "tasks": rows, "card": dict(card)}


def load_schedule(path: Path, space: TaskSpace) -> tuple[TaskSpec, ...]:
    """The rows of a schedule's file. Raises ConfigError when it is damaged, or when `space` (codec box) does not have
    its objectives and knobs or has closed its levels.
    """
    try:
        rows = _File.model_validate(read_yaml(path, "Schedule")).tasks
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        raise ConfigError(f"Schedule {path} has a wrong {where!r}: {message}; mend it or write it again.") from None
    for index, row in enumerate(rows):
        if abs(row.from_ - index / len(rows)) > TOLERANCE:
            raise ConfigError(
                f"Schedule {path} has a row from {row.from_:g}; its {len(rows)} rows must be equally long, "
                f"so that this one begins at {index / len(rows):g}."
            )
    return tuple(_spec_of(row, path, space) for row in rows)


def _spec_of(row: _Row, path: Path, space: TaskSpace) -> TaskSpec:
    """The row as a task of `space`."""
    knobs = {knob.name for knob in space.knobs}
    for what, given, known in (("objective", row.mixture, set(space.objectives)), ("knob", row.levels, knobs)):
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"Schedule {path} does not fit these data. {unknown_name(what, name, known)} "
                    "Use the --objectives that it was found with and images with as many channels."
                )
    total = sum(row.mixture.values())
    if min(row.mixture.values()) < 0 or not 0 < total < math.inf:
        raise ConfigError(
            f"Schedule {path} has a mixture of {row.mixture}; shares must be positive and of a finite sum."
        )
    shares = {name: row.mixture[name] / total for name in space.objectives if row.mixture.get(name)}
    wanted = TaskSpec(mixture=tuple(shares.items()), levels=tuple(row.levels.items()))
    spec = space.decode(space.encode(wanted))
    missing = [name for name, _ in spec.levels if name not in row.levels]
    if missing:
        raise ConfigError(f"Schedule {path} gives no level for {', '.join(missing)}; add what is missing.")
    for name, value in spec.levels:
        if abs(value - row.levels[name]) > TOLERANCE:
            raise ConfigError(
                f"Schedule {path} wants {name} {row.levels[name]:g}, these data leave {value:g} open; "
                "use the same --forbid and --limit as where it was found."
            )
    return spec
