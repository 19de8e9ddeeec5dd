"""The folder of a comparison: what was asked, how it was resolved, and where everything lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskrl.config import ExperimentConfig, dump_config, flatten
from taskrl.errors import RunFolderError
from taskrl.folders import new_folder, read_json, to_json, typed, write_text
from taskrl.run_folder import RunFolder, refuse_existing

ASKED_FILE = "comparison.json"
ASKED_VERSION = 1
# what may differ from one sitting to the next: no result depends on it, or it only says which cells are wanted
FREE = {
    "": ("compare", "tracking", "workers", "worker_deadline_s", "ray_address"),
    "data": ("root", "download", "memory_limit_mb"),
    "final": ("seeds", "generators"),
}


@dataclass(frozen=True)
class ComparisonFolder:
    """A run folder (config.yaml, checkpoints, artifacts) with comparison.json."""

    run: RunFolder

    @property
    def asked_file(self) -> Path:
        return self.run.path / ASKED_FILE

    @property
    def cells(self) -> Path:
        return self.run.path / "cells"

    @property
    def figure(self) -> Path:
        return self.run.path / "compare.png"

    @property
    def tracking_file(self) -> Path:
        return self.run.checkpoints / "tracking.json"

    def exists(self) -> bool:
        return self.asked_file.is_file()

    @staticmethod
    def at(out: Path) -> "ComparisonFolder":
        """Raises RunFolderError where something else than a comparison stands at `out`."""
        folder = ComparisonFolder(RunFolder(out.absolute()))
        if not folder.exists():
            refuse_existing(out)
        return folder

    def create(self, asked: ExperimentConfig, resolved: ExperimentConfig, data: str) -> None:
        """Make it. data: fingerprint of the images. Raises RunFolderError when it cannot be made."""
        record = {"format_version": ASKED_VERSION, "data": data, "asked": decisive(asked)}
        with new_folder(self.run.path) as draft:
            for name in (self.run.checkpoints.name, self.run.artifacts.name):
                (draft / name).mkdir()
            write_text(draft / self.run.config_file.name, dump_config(resolved))
            write_text(draft / ASKED_FILE, to_json(record))

    def resolved(self, asked: ExperimentConfig) -> ExperimentConfig:
        """`asked` with what the first sitting resolved, so that all sittings run the same. Raises RunFolderError when
        this is the folder of another comparison.
        """
        try:
            before = read_json(self.asked_file).get("asked")
        except RunFolderError:
            before = None
        now = decisive(asked)
        if not isinstance(before, dict):
            raise RunFolderError(
                f"{str(self.asked_file)!r} is damaged; name another --out, and give --cells {typed(self.cells)} so "
                "that nothing that is finished is run again."
            )
        before = decisive(ExperimentConfig()) | before  # a key that a later version brought
        for key in dict.fromkeys([*now, *before]):
            if now.get(key) != before.get(key):
                raise RunFolderError(
                    f"{str(self.run.path)!r} holds another comparison ({key} is {before.get(key)!r} there, "
                    f"{now.get(key)!r} here); name another --out."
                )
        config = self.run.config()
        self._check_settled(now, decisive(config))
        return with_free(config, asked)

    def _check_settled(self, asked: dict[str, Any], kept: dict[str, Any]) -> None:
        """Raises RunFolderError where config.yaml is not what was asked with its open keys settled: it was edited, or
        lost its end, and what it says now would run under the old command.
        """
        begun_from = asked["predictor.init"]  # says itself what its encoder is
        for key, value in asked.items():
            is_open = value == "auto" or (begun_from and key.startswith("predictor."))
            if not is_open and kept.get(key) != value:
                raise RunFolderError(
                    f"{str(self.run.config_file)!r} was changed ({key} is {kept.get(key)!r} there, this comparison was "
                    f"begun with {value!r}); put it back, or name another --out and give --cells {typed(self.cells)}."
                )

    def check_data(self, data: str) -> None:
        """Raises RunFolderError when the images are others than in the first sitting."""
        if read_json(self.asked_file).get("data") != data:
            raise RunFolderError(
                f"The images have changed since {str(self.run.path)!r} was begun; put them back or name another --out."
            )


def with_free(settled: ExperimentConfig, asked: ExperimentConfig) -> ExperimentConfig:
    """An earlier sitting's configuration with what may differ as it is asked for now."""
    changes: dict[str, Any] = {name: getattr(asked, name) for name in FREE[""]}
    for section in ("data", "final"):
        given = getattr(asked, section)
        free = {name: getattr(given, name) for name in FREE[section]}
        changes[section] = getattr(settled, section).model_copy(update=free)
    return settled.model_copy(update=changes)


def decisive(config: ExperimentConfig) -> dict[str, Any]:
    """The keys of a configuration that decide results, flat."""
    values = config.model_dump(mode="json")
    kept = {key: value for key, value in values.items() if key not in FREE[""]}
    for section in ("data", "final"):
        kept[section] = {key: value for key, value in values[section].items() if key not in FREE[section]}
    return flatten(kept)


def is_comparison(path: Path) -> bool:
    """Whether `path` is the folder of a comparison."""
    return (path / ASKED_FILE).is_file()


def refuse_comparison(path: Path) -> None:
    """Raises RunFolderError where a run is expected and a comparison lies."""
    if is_comparison(path):
        raise RunFolderError(f"{str(path)!r} is a comparison; give the same taskrl compare command again to go on.")
