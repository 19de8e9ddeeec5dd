"""The command line in this process, and what runs leave behind."""

import json
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from agents.cli import app
from taskrl.run_folder import RunFolder
from tests.envs.tiny import TINY

ROW_KEYS = {
    *("generator", "search_seed", "train_seed", "split_seed", "linear_accuracy", "balanced_accuracy", "knn_accuracy"),
    "imbalanced",
    *(
        "validation_accuracy",
        "validation_balanced_accuracy",
        "quality",
        "search_flops",
        "search_images",
        "train_flops",
        "train_images",
    ),
    *("num_decisions", "planned_decisions", "best_decision", "scored_decision", "wall_seconds"),
}


def taskrl(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tiny_options(**changes: Any) -> list[str]:
    """TINY as --set options; lists as YAML."""
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return [item for key, value in values.items() for item in ("--set", f"{key}={json.dumps(value)}")]


def rows_of(run: RunFolder | Path) -> list[dict[str, Any]]:
    """The rows without their wall time."""
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    return [{key: row[key] for key in row if key != "wall_seconds"} for row in folder.result()["rows"]]


def metrics_of(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path under `folder` with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
