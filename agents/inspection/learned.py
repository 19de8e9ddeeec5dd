"""What a policy learned as a plain schedule: what it played in the final runs, read back from what they recorded."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.compare.folder import is_comparison
from agents.compare.outcome import comparison_result
from agents.schedule import YAML, save_schedule, schedule_content
from taskrl.assemble import task_space
from taskrl.config import ExperimentConfig
from taskrl.errors import ConfigError, RunFolderError
from taskrl.export import CONFIG
from taskrl.folders import read_json, typed
from taskrl.run_folder import RunFolder, check_new_file
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

MAX_DEFAULT_ROWS = 12
NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Decision:
    """What is played at one decision. shares: expected share of compute of each objective. levels: knob -> strength ->
    probability.
    """

    shares: Mapping[str, float]
    levels: Mapping[str, Mapping[float, float]]


@dataclass(frozen=True)
class Learned:
    """A learned schedule. specs: its rows, equally long. image_shape: (C, H, W) of the images that it is for. card:
    where it comes from.
    """

    specs: tuple[TaskSpec, ...]
    image_shape: tuple[int, int, int]
    card: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """What its file would hold."""
        return schedule_content(self.specs, self.card)


def learned_schedule(path: Path, num_rows: int | None = None) -> Learned:
    """The schedule of a finished run, or of the encoder that a finished comparison chose.

    num_rows: default is a row a decision of a final run, at most 12. Raises RunFolderError where nothing is recorded of
    what was played.
    """
    run = RunFolder.open(path)
    result = comparison_result(path) if is_comparison(path) else run.result()
    config = run.config()
    parts = result.get("choices", {}).get("parts", {})
    shape = image_shape(run, config, parts)
    space = task_space(config, shape, "multidiscrete")
    card: dict[str, Any] = {"run": run.path.name, "data": result["data"], "image_shape": list(shape)}
    if is_comparison(path):
        specs = _chosen_specs(run, result)
        decisions = [_certain(spec) for spec in specs]
        card |= {name: result["encoder"][name] for name in ("method", "train_seed")}
    else:
        if not parts:
            raise RunFolderError(
                f"{str(path)!r} recorded no final run, so that it is not known what its policy plays; train one with "
                f"taskrl pretrain --policy {typed(path)} --config {typed(run.config_file)}, and inspect that."
            )
        decisions = _recorded(space, parts)
        # what `finish` shows: the learned policy's final runs, or whatever was trained where there is none
        names = [row["generator"] for row in result["rows"]]
        generator = "learned" if "learned" in names else names[0]
        card |= {"generator": generator, "final_runs": names.count(generator)}
        if config.mode == "search" and result["search"] is not None:
            card |= {"agent": config.agent.name, "search_episodes": config.agent.episodes}
    planned = max(config.final.decisions, len(decisions))
    rows = rows_of(decisions, planned, num_rows or min(planned, MAX_DEFAULT_ROWS), space)
    box = task_space(config, shape, "box")  # what reads the file: rounds once, and drops shares below 5 %
    return Learned(tuple(box.decode(box.encode(spec)) for spec in rows), shape, card)


def write_schedule(learned: Learned, path: Path) -> None:
    """A new file that `taskrl pretrain --policy` plays. Raises ConfigError or RunFolderError when it cannot be that."""
    if not str(path).endswith(YAML):
        raise ConfigError(f"--schedule {str(path)!r} is no name of a schedule; let it end in .yaml.")
    check_new_file(path, "--schedule")
    save_schedule(path, learned.specs, learned.card)


def rows_of(decisions: Sequence[Decision], planned: int, num_rows: int, space: TaskSpace) -> list[TaskSpec]:
    """Equally long rows out of decisions, the d-th of which holds from d / planned on, and the last one to the end.

    A row has the mean of the shares over its stretch of progress, and each knob's strength that is played most there
    (the reference's on a tie, then the weaker one).
    """
    rows = []
    for row in range(num_rows):
        overlap = []
        for index in range(len(decisions)):
            last = index == len(decisions) - 1
            start, end = (
                max(index / planned, row / num_rows),
                min(1 if last else (index + 1) / planned, (row + 1) / num_rows),
            )
            overlap.append(max(end - start, 0.0))
        weights = np.array(overlap) / sum(overlap)
        rows.append(_row([(w, d) for w, d in zip(weights.tolist(), decisions, strict=True) if w > 1e-9], space))
    return rows


def _row(weighted: Sequence[tuple[float, Decision]], space: TaskSpace) -> TaskSpec:
    shares = {name: sum(weight * one.shares.get(name, 0.0) for weight, one in weighted) for name in space.objectives}
    levels = {}
    for knob in space.knobs:
        mass: dict[float, float] = {}
        for weight, one in weighted:
            for value, probability in one.levels.get(knob.name, {}).items():
                mass[value] = mass.get(value, 0.0) + weight * probability
        reference = knob.levels[knob.reference]
        if mass:
            levels[knob.name] = max(mass, key=lambda v: (round(mass[v], 6), v == reference, -abs(v - knob.levels[0])))
    return TaskSpec(
        mixture=tuple((name, share) for name, share in shares.items() if share > 0), levels=tuple(levels.items())
    )


def _recorded(space: TaskSpace, parts: Mapping[str, Any]) -> list[Decision]:
    """Decisions out of result.json's probabilities: those of the policy on what it observed, mean over final runs."""
    if list(parts) != list(space.part_names()):
        raise RunFolderError(
            "result.json lists other choices than this version of taskrl has for the run's configuration; learn the "
            "policy anew with this version."
        )
    num = len(next(iter(parts.values()))["probabilities"])
    return [
        _decision(space, [np.asarray(part["probabilities"][index]) for part in parts.values()]) for index in range(num)
    ]


def _decision(space: TaskSpace, tables: Sequence[Any]) -> Decision:
    """The expectation over independent parts, each combination of weights decoded as the environment does it."""
    num_weights = len(tables) - len(space.knobs)
    reference = [part.reference for part in space.parts]
    likely = [[i for i, p in enumerate(table) if p > NEGLIGIBLE] for table in tables[:num_weights]]
    shares: dict[str, float] = {}
    total = 0.0
    for combination in itertools.product(*likely):
        probability = float(np.prod([table[i] for table, i in zip(tables, combination, strict=False)]))
        total += probability
        spec = space.decode(np.array([*combination, *reference[num_weights:]]))
        for name, share in spec.mixture:
            shares[name] = shares.get(name, 0.0) + probability * share
    levels: dict[str, dict[float, float]] = {}
    for knob, table in zip(space.knobs, tables[num_weights:], strict=True):
        mass = levels.setdefault(knob.name, {})
        for index, probability in enumerate(table):
            open_ = index if knob.allowed[index] else knob.nearest_allowed(index)
            mass[knob.levels[open_]] = mass.get(knob.levels[open_], 0.0) + float(probability)
    return Decision({name: share / total for name, share in shares.items()}, levels)


def _certain(spec: TaskSpec) -> Decision:
    return Decision(dict(spec.mixture), {name: {value: 1.0} for name, value in spec.levels})


def _chosen_specs(run: RunFolder, result: Mapping[str, Any]) -> list[TaskSpec]:
    """What the encoder that a comparison chose was trained on."""
    encoder = result["encoder"]
    if encoder is None:
        raise RunFolderError(
            f"The comparison in {str(run.path)!r} compared no learned policy and chose no encoder, so that there is no "
            "schedule; give taskrl compare again with learned among --methods."
        )
    cell = run.path / "cells" / f"{encoder['cell']}.json"
    if not cell.is_file():
        raise RunFolderError(
            f"The comparison in {str(run.path)!r} keeps its cells elsewhere (--cells); copy {cell.name} from there to "
            f"{str(cell.parent)!r}."
        )
    specs = [TaskSpec.from_json(text) for text in read_json(cell).get("content", {}).get("specs", [])]
    if not specs:
        raise RunFolderError(f"{str(cell)!r} recorded no task, so that there is no schedule.")
    return specs


def image_shape(run: RunFolder, config: ExperimentConfig, parts: Mapping[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of the images, as the run's encoder takes them."""
    file = run.encoder / CONFIG
    if file.is_file():
        encoder = read_json(file)
        return int(encoder["in_channels"]), int(encoder["image_size"]), int(encoder["image_size"])
    return 3 if "greyscale" in parts else 1, config.data.image_size, config.data.image_size
