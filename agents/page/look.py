"""One look at a run: how far it is, what it trains now, and its result as far as there is one.

Nothing is written, and nothing that lies in a run folder is trusted: what cannot be read becomes a sentence.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from agents.compare.folder import ComparisonFolder
from agents.online import ONLINE
from agents.page.metrics import Decision, Metrics
from agents.page.partial import partial_result, space_of, spec_of
from agents.page.shelf import Found
from agents.policy_search import num_episodes
from agents.results import StoredFinal
from agents.session import pretraining_file
from agents.sitting import Sitting
from agents.training import SEARCH
from taskrl.config import ExperimentConfig
from taskrl.errors import RunFolderError, TaskrlError
from taskrl.folders import read_json
from taskrl.report_figures import mapping
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.tracking import METRICS_NAME

SEARCHING, FINALS, PRETRAINING = "Search", "Final encoders", "Pretraining"
EMPTY, TRAINING, STOPPED, DONE = "empty", "running", "stopped", "finished"
SILENT_AFTER_S = 120.0
CLOCKS_DIFFER_S = 2.0  # of a file system and the machine
MOST_FINALS = 5000
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the run. total: None while nobody knows. begun: what is done of the next ones, in units."""

    title: str
    unit: str
    done: int
    total: int | None
    begun: float = 0.0

    @property
    def percent(self) -> float | None:
        """Of the stage, in [0, 100]."""
        return min(100.0, round(100 * (self.done + self.begun) / self.total, 1)) if self.total else None

    @property
    def finished(self) -> bool:
        return self.total is not None and self.done >= self.total


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the page shows of a run. result: as in result.json, with what is missing left out; for a comparison, its
    own. now: the task of the last decision, and where that was; None when nothing trains. left_s: of the stage at
    work. rate: decisions a second. etag: changes when anything does.
    """

    found: Found
    compares: bool
    state: str
    data: str
    stages: tuple[Stage, ...]
    now: TaskSpec | None
    where: str
    left_s: float | None
    rate: float | None
    last_time: float
    num_workers: int | None
    metrics: Metrics
    config: ExperimentConfig | None
    space: TaskSpace | None
    finals: tuple[StoredFinal, ...]
    result: Mapping[str, Any]
    problems: tuple[str, ...]
    etag: str

    @property
    def verdict(self) -> str:
        found = self.result.get("verdict")
        return found if isinstance(found, str) else ""


class Watch:
    """One run between requests: what was read of it stays in memory. Not for several threads at a time."""

    def __init__(self, found: Found) -> None:
        self.found = found
        folder = found.folder
        self._metrics = Metrics(found.path / METRICS_NAME)
        self._result = _File(folder.result_file, read_json)
        self._config = _File(folder.config_file, lambda path: _config_of(found))
        self._preparation = _File(folder.checkpoints / "preparation.json", read_json)
        self._pretraining = _File(pretraining_file(folder), read_json)
        self._finals: dict[str, _File[StoredFinal]] = {}
        self._last: tuple[object, Look] | None = None

    def look(self, *, whole: bool = True) -> Look:
        """The run as it is now; the same object as before when nothing has changed. whole: also read the metrics of a
        run that is finished, which lists do without.
        """
        if whole or not self.found.folder.result_file.is_file():
            self._metrics.read()
        for file in (self._result, self._config, self._preparation, self._pretraining):
            file.read()
        folder = self.found.folder
        plan = Sitting.of(folder)
        finals, problems = self._read_finals(folder.checkpoints / "finals")
        state = self._state(plan)
        key = (
            *(self._metrics.cursor, self._result.stamp, self._config.stamp, self._preparation.stamp, plan, state),
            *(tuple(sorted((name, file.stamp) for name, file in self._finals.items())), len(problems)),
            _num_cells(self.found),
        )
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        known = (file.problem for file in (self._result, self._config, self._preparation))
        sentences = [*(problem for problem in known if problem), *problems]
        if self._metrics.num_broken:
            sentences.append(f"{self._metrics.num_broken} lines of {METRICS_NAME} could not be read and are left out.")
        etag = hashlib.sha256(repr(key).encode()).hexdigest()[:20]
        look = self._looked(plan, state, finals, sentences)
        self._last = (key, replace(look, etag=etag))
        return self._last[1]

    def _looked(self, plan: Sitting | None, state: str, finals: list[StoredFinal], problems: list[str]) -> Look:
        config, metrics, last = self._config.value, self._metrics, self._metrics.last_decision()
        compares = self.found.compares
        stages = _cells(self.found) if compares else self._stages(plan, config, len(finals))
        result, space = self._result.value, None
        noise = mapping(mapping(self._preparation.value).get("noise"))
        try:
            space = space_of(self.found.folder, config)
            if result is None and not compares:
                result = partial_result(space, config, metrics, finals, noise)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, TaskrlError) as error:
            problems.append(f"What is finished could not be put together ({type(error).__name__}: {error}).")
        training = state == TRAINING and last is not None
        result = result or {}
        name = result.get("data")
        return Look(
            found=self.found,
            compares=compares,
            state=state,
            data=name if isinstance(name, str) else plan.data if plan else config.data.source if config else "",
            stages=stages,
            now=spec_of(last.metrics) if training and last else None,
            where=_where(last, config) if training and last else "",
            left_s=self._left_s(stages, config) if state == TRAINING else None,
            rate=metrics.rate() if state == TRAINING else None,
            last_time=max(metrics.last_time, plan.began if plan else 0.0, self._result.stamp[0] / 1e9),
            num_workers=plan.num_workers if plan else config.workers or None if config else None,
            metrics=metrics.so_far(),  # the next request reads on while this one's page is made
            config=config,
            space=space,
            finals=tuple(finals),
            result=result,
            problems=tuple(problems),
            etag="",
        )

    def _state(self, plan: Sitting | None) -> str:
        if self._result.value is not None:
            return DONE
        if plan is not None and plan.alive():
            return TRAINING
        if not self._metrics.last_time and plan is None and not _num_cells(self.found):
            return EMPTY
        newest = max(self._metrics.last_time, *_touched(self.found.path / METRICS_NAME, self.found.path / "cells"))
        ended = plan is not None and plan.ended + CLOCKS_DIFFER_S > newest
        return STOPPED if ended or time.time() - newest > SILENT_AFTER_S else TRAINING

    def _stages(self, plan: Sitting | None, config: ExperimentConfig | None, num_finals: int) -> tuple[Stage, ...]:
        done = self._result.value is not None
        if pretraining_file(self.found.folder).is_file():
            planned = mapping(self._pretraining.value).get("decisions", config.final.decisions if config else None)
            total = planned if isinstance(planned, int) and planned > 0 else None
            num = self._metrics.num_decisions if total is None else min(self._metrics.num_decisions, total)
            total = num if done else total
            return (Stage(title=PRETRAINING, unit="decision", done=num, total=total),)
        stages = []
        episodes = len(self._metrics.episodes)
        if episodes or (config and config.mode == SEARCH):
            planned = plan.episodes if plan else num_episodes(config.agent) if config else None
            begun = self._metrics.num_since / config.episode.decisions if config else 0.0
            stages.append(Stage(title=SEARCHING, unit="episode", done=episodes, total=planned, begun=begun))
        planned = num_finals if done else plan.finals if plan else None
        if num_finals or planned:
            stages.append(Stage(title=FINALS, unit="encoder", done=num_finals, total=planned))
        return tuple(stages)

    def _left_s(self, stages: tuple[Stage, ...], config: ExperimentConfig | None) -> float | None:
        stage = next((stage for stage in stages if not stage.finished), None)
        if stage is None or stage.total is None or config is None:
            return None
        left = max(stage.total - stage.done - stage.begun, 0.0)
        if stage.unit == "encoder":
            times = sorted(file.stamp[0] / 1e9 for file in self._finals.values())[-50:]
            return left * (times[-1] - times[0]) / (len(times) - 1) if len(times) > 2 else None
        rate = self._metrics.rate()
        return None if not rate else left * (config.episode.decisions if stage.unit == "episode" else 1) / rate

    def _read_finals(self, folder: Path) -> tuple[list[StoredFinal], list[str]]:
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(".json"))[:MOST_FINALS]
        except OSError:
            names = []
        self._finals = {name: self._finals.get(name) or _File(folder / name, StoredFinal.read) for name in names}
        for file in self._finals.values():
            file.read()
        known = [file.value for file in self._finals.values() if file.value is not None]
        return known, [file.problem for file in self._finals.values() if file.problem]


class _File(Generic[T]):
    """A file that is read again when it has changed. problem: a sentence when it is there and cannot be read."""

    def __init__(self, path: Path, load: Callable[[Path], T]) -> None:
        self._path, self._load = path, load
        self.stamp = (0, 0)
        self.value: T | None = None
        self.problem = ""

    def read(self) -> None:
        try:
            found = self._path.stat()
        except OSError:
            self.stamp, self.value, self.problem = (0, 0), None, ""
            return
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp == self.stamp:
            return
        self.stamp, self.value, self.problem = stamp, None, ""
        try:
            self.value = self._load(self._path)
        except (TaskrlError, OSError, ValueError, RecursionError) as error:
            self.problem = str(error)


def _config_of(found: Found) -> ExperimentConfig:
    """Raises ConfigError, or RunFolderError for a link to a file elsewhere, which a sentence on it would quote."""
    file = found.folder.config_file
    if found.file(file.name) is None:
        raise RunFolderError(f"{str(file)!r} is a link that leads out of the run, and is not read; copy it there.")
    return found.folder.config()


def _where(last: Decision, config: ExperimentConfig | None) -> str:
    if last.run:
        return f"final encoder {last.run}, decision {last.step + 1}"
    if config is None or config.mode == ONLINE:
        return f"decision {last.step + 1}"
    episode, index = divmod(last.step, config.episode.decisions)
    return f"episode {episode + 1}, decision {index + 1} of {config.episode.decisions}"


def _num_cells(found: Found) -> int:
    if not found.compares:
        return 0
    try:
        with os.scandir(ComparisonFolder(found.folder).cells) as entries:
            return sum(1 for entry in entries if entry.name.endswith(".json") or entry.name.startswith("search-"))
    except OSError:
        return 0


def _cells(found: Found) -> tuple[Stage, ...]:
    num = _num_cells(found)
    return (Stage(title="Searches and final encoders", unit="cell", done=num, total=None),) if num else ()


def _touched(*paths: Path) -> list[float]:
    """When each was last changed, Unix time in s; 0 for what is not there."""
    times = []
    for path in paths:
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            times.append(0.0)
    return times
