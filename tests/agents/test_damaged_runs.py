"""Run folders that are damaged or of another version: one sentence, exit code 2, and nothing made or changed."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskrl.folders import MANIFEST
from taskrl.run_folder import RunFolder
from tests.agents.runs import snapshot, taskrl

GONE = "gone"
RESULT, ENCODER, POLICY, FINAL = (
    *("result.json", "encoder/config.json", "policy/policy.json"),
    "checkpoints/finals/learned-0.json",
)
# file, key, what stands there instead, options of the command, what the sentence says
EDITED: dict[str, tuple[str, str, Any, list[str], str]] = {
    "no choices": (RESULT, "choices", GONE, ["inspect"], "KeyError: 'choices'"),
    "choices in a list": (RESULT, "choices", [], ["inspect", "--as", "torchvision"], "AttributeError"),
    "a schedule of nothing": (RESULT, "schedule", None, ["inspect"], "TypeError"),
    "a number for why": (RESULT, "why", 3, ["inspect", "--why"], "TypeError"),
    "no number": (RESULT, "verdict", math.nan, ["inspect", "--json"], "ValueError: Out of range"),
    "a search of text": (RESULT, "search", "x", ["export", "--policy", "--out", "new"], "TypeError"),
    "rows of numbers": (RESULT, "rows", [3], ["export", "--out", "new"], "AttributeError"),
    "an encoder without channels": (ENCODER, "in_channels", GONE, ["inspect", "--as", "lightly"], "'in_channels'"),
    "an encoder without a size": (ENCODER, "image_size", GONE, ["export", "--out", "new"], "'image_size'"),
    "an encoder with half a card": (ENCODER, "card", None, ["export", "--weights", "best"], "AttributeError"),
    "a final run of nobody": (FINAL, "row", {}, ["inspect", "--report", "new.html"], "KeyError: 'generator'"),
    "a policy of no agent": (POLICY, "agent", None, ["export", "--policy", "--out", "new"], "not a task policy"),
    "a policy without lengths": (POLICY, "shown", {"lengths": []}, ["inspect", "--counterfactuals"], "not a task"),
}
TEXTS: dict[str, tuple[str, str, list[str]]] = {
    "too deep": (RESULT, "[" * 100_000, ["inspect"]),
    "a number of 5000 digits": (RESULT, f'{{"format_version": {"9" * 5000}}}', ["inspect", "--json"]),
    "a manifest that is too deep": (f"encoder/{MANIFEST}", "[" * 100_000, ["export"]),
}


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> Iterator[Path]:
    """A copy to damage; it must not be changed by the command, and no command may leave anything here."""
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder, ignore=shutil.ignore_patterns("mlflow.db", "artifacts", "figures"))
    yield folder
    assert [path.name for path in tmp_path.iterdir()] in (["run"], ["here"], ["run", "here"], ["here", "run"])


def write(file: Path, text: str) -> None:
    """Also into the manifest beside it, as a program that edits the folder would."""
    file.write_text(text)
    manifest = file.parent / MANIFEST
    if manifest.is_file() and file != manifest:
        record = json.loads(manifest.read_text())
        record["files"][file.name] = {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        manifest.write_text(json.dumps(record))


def refused(run: Path, here: Path, options: list[str]) -> str:
    """What the command says on standard error."""
    before = snapshot(run)
    result = taskrl(options[0], run, *options[1:])
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert snapshot(run) == before and not list(here.iterdir())
    return result.stderr


@pytest.mark.parametrize(("name", "key", "value", "options", "sentence"), EDITED.values(), ids=EDITED.keys())
def test_what_taskrl_does_not_write_is_one_sentence(
    name: str, key: str, value: Any, options: list[str], sentence: str, run: Path, here: Path
) -> None:
    record = json.loads((run / name).read_text())
    if value == GONE:
        del record[key]
    else:
        record[key] = record[key] | value if isinstance(value, dict) and value else value
    write(run / name, json.dumps(record))
    said = refused(run, here, options)
    assert sentence in said and str(run) in said


@pytest.mark.parametrize(("name", "text", "options"), TEXTS.values(), ids=TEXTS.keys())
def test_what_no_parser_reads_is_one_sentence(name: str, text: str, options: list[str], run: Path, here: Path) -> None:
    write(run / name, text)
    assert f"{str(run / name)!r} cannot be read as JSON" in refused(run, here, options)


@pytest.mark.parametrize("options", [["inspect"], ["inspect", "--json"], ["inspect", "--as", "torchvision"]])
def test_a_comparison_that_lost_its_table_is_one_sentence(options: list[str], run: Path, here: Path) -> None:
    (run / "comparison.json").write_text("{}")
    (run / RESULT).write_text('{"format_version": 1, "kind": "comparison"}')
    assert "holds something else than this version of taskrl writes" in refused(run, here, options)


@pytest.mark.parametrize("options", [["--why"], ["--counterfactuals"]])
def test_a_run_that_lost_its_policy_is_told_so(options: list[str], run: Path, here: Path) -> None:
    shutil.rmtree(run / "policy")
    assert f"{str(run / 'policy')!r} is missing" in refused(run, here, ["inspect", *options])


def test_a_pretraining_that_lost_its_checkpoints_has_no_policy_to_miss(run: Path, here: Path) -> None:
    shutil.rmtree(run / "policy")
    record = json.loads((run / RESULT).read_text())
    write(run / RESULT, json.dumps(record | {"search": None}))
    result = taskrl("inspect", run, "--why")
    assert (result.exit_code, result.stdout) == (0, "It searched for no policy, and keeps none.\n")


@pytest.mark.parametrize("options", [["inspect"], ["inspect", "--json"], ["inspect", "--as", "torchvision"]])
def test_a_comparison_that_is_not_finished_is_not_resumed(options: list[str], run: Path, here: Path) -> None:
    (run / "comparison.json").write_text("{}")
    (run / RESULT).unlink()
    assert "give the same taskrl compare command again" in refused(run, here, options)


def test_a_report_is_drawn_without_the_lines_that_cannot_be_read(run: Path, here: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n" + '{"kind": "decision"}\n' + '{"half": ')
    result = taskrl("inspect", run, "--report", "new.html")
    assert result.exit_code == 0, result.output
    assert (here / "new.html").is_file()
