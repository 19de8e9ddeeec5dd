"""Cells: what was found or measured once, kept under a hash of everything that decides it, and never done again."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from agents.catalogue import AGENTS
from taskrl.config import ExperimentConfig
from taskrl.errors import RunFolderError
from taskrl.folders import fingerprint, new_folder, read_json, write_atomically

CELL_VERSION = 1
CELL_FILE = "cell.json"
OF_DATA = {"source", "image_size", "groups", "use_labels", "split_seed"}
OF_PROBE = {"probe", "goal", "labels_per_class", "num_folds", "panel_images"}


@dataclass(frozen=True)
class Cell:
    """kind: "search", "final" or "pixels". decided_by: all that decides the content, as JSON."""

    kind: str
    decided_by: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The kind and the hash."""
        return f"{self.kind}-{_digest(self.decided_by)[:16]}"


@final
class Store:
    """A folder of cells. It may be shared: what two comparisons have in common is done once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """The folder, where it is missing. Raises RunFolderError when it cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"The folder of cells {str(self.folder)!r} cannot be made ({error.strerror}); name another --cells."
            ) from None

    def place(self, cell: Cell) -> Path:
        """The file of a cell; the folder of a search."""
        return self.folder / (cell.name if cell.kind == "search" else f"{cell.name}.json")

    def has(self, cell: Cell) -> bool:
        return self.place(cell).exists()

    def read(self, cell: Cell) -> dict[str, Any]:
        """The content. Raises RunFolderError naming a cell that is damaged."""
        place = self.place(cell)
        file = place / CELL_FILE if cell.kind == "search" else place
        try:
            record = read_json(file)
        except RunFolderError:
            raise _damaged(place, "it cannot be read") from None
        if record.get("format_version") != CELL_VERSION:
            raise _damaged(place, f"its format version is not {CELL_VERSION}")
        content = record.get("content")
        if not isinstance(content, dict) or record.get("sha256") != _digest([record.get("decided_by"), content]):
            raise _damaged(place, "its content does not fit its SHA-256 sum")
        if _digest(record["decided_by"]) != _digest(cell.decided_by):
            raise _damaged(place, "it is another cell under this name")
        for name, expected in content.get("files", {}).items():
            path = place / name
            if not path.is_file() or fingerprint(path) != expected:
                raise _damaged(place, f"{name} is missing or differs")
        return content

    def write(self, cell: Cell, content: Mapping[str, Any]) -> None:
        """Keep a cell that is one file."""
        self.make()
        write_atomically(self.place(cell), _text(cell, content))

    def write_search(self, cell: Cell, content: Mapping[str, Any], source: Path) -> None:
        """Keep a search: its content, and what it found: the folder `source` (a policy) or the file. Where another
        comparison on the same store was faster, its cell stays.
        """
        if self.has(cell):
            return
        self.make()
        paths = sorted(source.iterdir()) if source.is_dir() else [source]
        try:
            with new_folder(self.place(cell)) as draft:
                target = draft / source.name if source.is_dir() else draft
                target.mkdir(exist_ok=True)
                for path in paths:
                    (target / path.name).write_bytes(path.read_bytes())
                files = {str((target / path.name).relative_to(draft)): fingerprint(path) for path in paths}
                (draft / CELL_FILE).write_text(_text(cell, {**content, "files": files}), encoding="utf-8")
        except RunFolderError:
            if not self.has(cell):  # the other was faster by less than writing takes
                raise


def encoder_settings(config: ExperimentConfig, data: str) -> dict[str, Any]:
    """What decides any encoder and how it is measured; compiled and batched predictors round differently. data:
    `images_fingerprint`; where the images lie does not matter.
    """
    # what a cell of an earlier version could not have keeps its name as it was
    unused = {"init"} if config.predictor.init else {"init", "init_sha256"}
    unused |= set() if config.predictor.compile == "always" else {"compile"}
    return {
        "data": config.data.model_dump(include=OF_DATA) | {"source": Path(config.data.source).name},
        "images": data,
        "tasks": config.tasks.model_dump(),
        "predictor": config.predictor.model_dump(exclude=unused),
        "probe": config.reward.model_dump(include=OF_PROBE),
        "seed": config.seed,
        **({"batched": True} if config.envs == "batched" else {}),
    }


def search_settings(config: ExperimentConfig, data: str) -> dict[str, Any]:
    """What decides a search by an agent."""
    version = AGENTS[config.agent.name].version
    return {
        **encoder_settings(config, data),
        "reward": config.reward.model_dump(),
        "episode": config.episode.model_dump(),
        # an agent that never learned otherwise has no version: its cells keep the names they had
        "agent": config.agent.model_dump() | ({"version": version} if version > 1 else {}),
        "batched": config.envs == "batched",
    }


def prior_settings(config: ExperimentConfig, data: str) -> dict[str, Any]:
    """What decides an agent before training, whose policy says what it observes: parts of the quality that no label
    enters, of which a ridge has none, and the length of an episode, which an agent that plans does not weigh.
    """
    settings = search_settings(config, data)
    observed = [] if config.reward.probe == "ridge" else ["probe"]
    observed += [] if AGENTS[config.agent.name].plans else ["episode"]
    return {name: settings[name] for name in ("data", "images", "tasks", "seed", "agent", *observed)}


def _text(cell: Cell, content: Mapping[str, Any]) -> str:
    decided_by, kept = _plain(cell.decided_by), _plain(content)
    record = {"format_version": CELL_VERSION, "decided_by": decided_by, "content": kept}
    return json.dumps({**record, "sha256": _digest([decided_by, kept])}, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """As JSON gives it back; what is no number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True, allow_nan=False).encode()).hexdigest()


def _damaged(place: Path, why: str) -> RunFolderError:
    return RunFolderError(
        f"The cell {str(place)!r} is damaged ({why}); remove it, and the same command measures it again."
    )
