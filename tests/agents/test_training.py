"""Promises of a whole run: what its folder holds, what its rows say, and that the same seed gives the same rows."""

import dataclasses
import importlib.util
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import policy_search
from agents.policy_search import falling_reference
from agents.pretraining import pretrain
from agents.results import StoredFinal
from agents.training import train
from envs.host import WorkerSetup
from envs.pool import Pool
from envs.workers import open_pool
from taskrl.config import load_config
from taskrl.errors import ConfigError, RunFolderError
from taskrl.folders import verify
from taskrl.run_folder import RunFolder
from tests.agents.conftest import GENERATORS, WHOLE, quiet
from tests.agents.runs import ROW_KEYS, metrics_of, rows_of, taskrl, tiny_options
from tests.envs.tiny import tiny_config
from tests.taskrl.mlflow_runs import client_of

LEARNED = ("learned", "learned-argmax")


def test_the_run_folder_holds_everything(finished: RunFolder) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names >= {
        *("config.yaml", "result.json", "metrics.jsonl", "report.html", "artifacts", "checkpoints"),
        *("policy", "encoder", "mlflow.db"),
    }
    assert not [name for name in names if "tmp" in name]
    verify(finished.encoder, ("model.safetensors", "config.json", "modeling.py", "README.md"))
    verify(finished.policy, ("policy.safetensors", "policy.json"))
    assert "<html" in finished.report.read_text()
    assert load_config(finished.config_file).final.generators == GENERATORS


def test_every_auto_is_resolved_in_the_written_configuration(finished: RunFolder) -> None:
    config = load_config(finished.config_file)
    assert "auto" not in (
        *(config.predictor.device, config.predictor.precision, config.reward.probe, config.reward.scale),
    )
    assert finished.result()["config"] == config.model_dump()


def test_rows_are_complete_paired_and_named(finished: RunFolder) -> None:
    rows = finished.result()["rows"]
    generators = {row["generator"] for row in rows}
    assert generators >= {*LEARNED, *GENERATORS, "untrained"}
    for generator in generators:
        assert [row["train_seed"] for row in rows if row["generator"] == generator] == [0, 1]
    for row in rows:
        assert set(row) == ROW_KEYS
        for key in ("linear_accuracy", "balanced_accuracy", "knn_accuracy", "validation_accuracy"):
            assert 0 <= row[key] <= 100
        assert row["generator"] == "supervised" or math.isfinite(row["quality"])
        assert row["linear_accuracy"] == row["validation_accuracy"], "without --final they are the same images"


@pytest.mark.parametrize(("share", "imbalanced"), [(8, True), (2, False)])
def test_an_imbalanced_set_is_told_by_every_row(share: int, imbalanced: bool, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (160, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(160) % share == 0)
    config = tiny_config(data__source=str(tmp_path / "set.npz"), final__seeds=1)
    run = pretrain(config, "reference", tmp_path / "run", quiet())
    result = run.result()
    assert [row["imbalanced"] for row in result["rows"]] == [imbalanced]
    assert any("balanced accuracy" in note for note in result["notes"]) == imbalanced
    assert ("balanced accuracy" in run.report.read_text()) == imbalanced


def test_compute_is_charged_to_who_spent_it(finished: RunFolder) -> None:
    for row in finished.result()["rows"]:
        learned = row["generator"] in LEARNED
        assert (row["search_flops"] > 0) == (row["search_images"] > 0) == learned
        assert (row["train_flops"] > 0) == (row["train_images"] > 0) == (row["generator"] != "untrained")
    search = finished.result()["search"]
    assert search["flops"] == next(row["search_flops"] for row in finished.result()["rows"] if row["search_flops"])
    assert [entry["episode"] for entry in search["episodes"]] == [0, 1, 2, 3]


def test_the_exported_encoder_is_the_best_learned_one_and_loads_alone(finished: RunFolder) -> None:
    learned = [row for row in finished.result()["rows"] if row["generator"] == "learned"]
    best = max(learned, key=lambda row: row["validation_accuracy"])
    card = json.loads((finished.encoder / "config.json").read_text())["card"]
    assert (card["generator"], card["train_seed"]) == ("learned", best["train_seed"])
    spec = importlib.util.spec_from_file_location("exported", finished.encoder / "modeling.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__builtins__"] = __builtins__
    exec(compile((finished.encoder / "modeling.py").read_text(), "modeling.py", "exec"), module.__dict__)
    features = module.load_encoder(finished.encoder)(torch.rand(2, 1, 16, 16))
    assert features.shape[0] == 2 and torch.isfinite(features).all()


def test_every_decision_and_episode_is_in_the_metrics(finished: RunFolder) -> None:
    entries = metrics_of(finished)
    decisions = [entry for entry in entries if entry["kind"] == "decision" and not entry["run"]]
    assert sorted(entry["step"] for entry in decisions) == list(range(4 * 2))
    for entry in decisions:
        assert {"reward", "quality", "reward_part/gain", "compute/train_flops", "time/train_s"} <= set(entry["metrics"])
        assert 0 < entry["metrics"]["time/overhead_share"] < 1
    episodes = [entry for entry in entries if entry["kind"] == "episode"]
    assert [entry["step"] for entry in episodes] == [0, 1, 2, 3]
    returns = {entry["step"]: entry["metrics"]["return"] for entry in episodes}
    for episode, total in returns.items():
        own = [entry["metrics"]["reward"] for entry in decisions if entry["step"] // 2 == episode]
        assert sum(own) == pytest.approx(total)
    assert {entry["run"] for entry in entries} >= {"", "learned-0", "learned-1", "random-0", "untrained-1"}


def test_mlflow_has_a_finished_run_with_a_nested_run_for_each_encoder(finished: RunFolder) -> None:
    client = client_of(finished.path)
    (experiment,) = [found for found in client.search_experiments() if found.name == "taskrl"]
    runs = client.search_runs([experiment.experiment_id], max_results=200)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["agent.name"] == "thompson"
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    names = {f"{row['generator']}-{row['train_seed']}".replace(":", "_") for row in finished.result()["rows"]}
    assert {run.info.run_name.replace(":", "_") for run in children} == names
    assert {run.info.status for run in children} == {"FINISHED"}
    history = client.get_metric_history(parent.info.run_id, "reward")
    assert sorted(point.step for point in history) == list(range(4 * 2))
    logged = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert logged >= {"config.yaml", "result.json", "report.html"}
    child = next(run for run in children if run.info.run_name == "learned-0")
    row = next(row for row in finished.result()["rows"] if (row["generator"], row["train_seed"]) == ("learned", 0))
    final = [key for key in child.data.metrics if key.endswith("linear_accuracy")]
    assert [child.data.metrics[key] for key in final] == [pytest.approx(row["linear_accuracy"])]


def test_the_command_line_and_two_workers_give_the_same_rows(finished: RunFolder, here: Path) -> None:
    result = taskrl("train", "--out", "run", *tiny_options(**WHOLE), "--workers", 2)
    assert result.exit_code == 0, result.output
    assert rows_of(here / "run") == rows_of(finished)
    for line in (
        "A/A test: one decision",
        "Validity:",
        "Report:",
        "Encoder:",
        "Policy:",
        "linear accuracy on validation images",
    ):
        assert line in result.stdout
    assert not (here / "run" / "mlflow.db").exists()
    # coverage, when it measures this test, leaves its own files where the workers run
    written = [path.name for path in here.iterdir() if not path.name.startswith(".coverage")]
    assert written == ["run"], "nothing is written outside --out"
    pairs = [(folder.checkpoints / "finals").iterdir() for folder in (finished, RunFolder(here / "run"))]
    first, second = ({path.name: StoredFinal.read(path) for path in paths} for paths in pairs)
    assert first.keys() == second.keys()
    for name, final in first.items():
        assert final.specs == second[name].specs and final.qualities == second[name].qualities


def test_another_seed_gives_other_rows_and_search_seeds(finished: RunFolder, tmp_path: Path) -> None:
    run = train(tiny_config(seed=1, final__seeds=1, final__generators=[]), tmp_path / "run", quiet())
    assert {row["search_seed"] for row in rows_of(run)} == {1}
    ours = {row["generator"]: row["quality"] for row in rows_of(run)}
    theirs = {row["generator"]: row["quality"] for row in rows_of(finished) if row["train_seed"] == 0}
    assert ours["untrained"] != theirs["untrained"] and ours["learned"] != theirs["learned"]


def test_a_generator_that_is_named_twice_is_trained_once(tmp_path: Path) -> None:
    changes = {"final__generators": ["reference", "reference"], "final__seeds": 1, "agent__episodes": 2}
    rows = rows_of(train(tiny_config(**changes), tmp_path / "run", quiet()))
    assert [row["generator"] for row in rows].count("reference") == 1


def test_final_logs_every_read_of_the_test_images(here: Path) -> None:
    result = taskrl("train", "--out", "run", *tiny_options(final__generators=["reference"]), "--final")
    assert result.exit_code == 0, result.output
    run = RunFolder(here / "run")
    rows = run.result()["rows"]
    lines = run.test_reads.read_text().splitlines()
    assert len(lines) == len(rows) + 1
    for row in rows:
        (line,) = [text for text in lines if text.endswith(f"{row['generator']}, train seed {row['train_seed']}")]
        assert line.startswith("test images of digits")
    assert any("pixels" in line for line in lines)
    assert run.result()["split"] == "test"
    assert "test images" in result.stdout
    assert any(row["linear_accuracy"] != row["validation_accuracy"] for row in rows)


def test_without_final_no_test_image_is_read(finished: RunFolder) -> None:
    """The fixture fails the run when the test images are opened; here is what it leaves behind."""
    assert not finished.test_reads.exists()
    assert finished.result()["split"] == "validation"


def test_without_labels_a_run_ends_well_on_probe_quality(here: Path) -> None:
    options = [*tiny_options(final__generators=["reference"]), "--no-labels", "--final"]
    result = taskrl("train", "--out", "run", *options)
    assert result.exit_code == 0, result.output
    run = RunFolder(here / "run")
    document = run.result()
    assert not run.test_reads.exists() and "--final reads no test image" in result.stdout
    assert document["split"] == "probe" and "scored on probe images" in result.stdout
    assert json.loads((run.encoder / "config.json").read_text())["card"]["scored_on"] == "probe"
    assert document["config"]["reward"]["probe"] == "panel"
    assert "supervised" not in {row["generator"] for row in document["rows"]}
    for row in document["rows"]:
        assert row["linear_accuracy"] is row["knn_accuracy"] is row["validation_accuracy"] is None
        assert math.isfinite(row["quality"])
    assert "probe quality" in document["verdict"]
    assert document["floors"]["pixels"] is None
    assert all(entry["quality"] for entry in document["table"])
    assert (run.encoder / "model.safetensors").is_file()
    assert "no labels" in result.stdout


def test_a_search_alone_needs_no_final_encoders(tmp_path: Path) -> None:
    run = train(tiny_config(final__seeds=0, agent__episodes=2), tmp_path / "run", quiet())
    assert run.result()["rows"] == []
    assert run.result()["verdict"].startswith("No final encoder was trained; the task policy is in policy/")
    assert run.policy.is_dir() and not run.encoder.exists()


def test_workers_know_how_long_a_final_encoder_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def opened(setup: WorkerSetup, *, job_steps: int, **others: Any) -> Pool:
        told.append(job_steps)
        return open_pool(setup, job_steps=job_steps, **others)

    monkeypatch.setattr("agents.session.open_pool", opened)
    changes = {"final__seeds": 0, "agent__episodes": 2, "final__decisions": 5, "final__steps_per_decision": 7}
    train(tiny_config(**changes), tmp_path / "run", quiet())
    assert told == [35]


def test_an_existing_folder_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(RunFolderError, match="exists already"):
        train(tiny_config(), tmp_path / "run", quiet())
    assert list((tmp_path / "run").iterdir()) == []
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="exists already"):
        train(tiny_config(), link, quiet())


@pytest.mark.parametrize("command", [train, lambda config, out, reporter: pretrain(config, "reference", out, reporter)])
def test_a_place_that_takes_no_run_is_told_before_anything_is_read(
    command: Callable[..., RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("preparation", "pretraining"):
        monkeypatch.setattr(f"agents.{module}.load_data", lambda config: pytest.fail("data were read"))
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be made"):
        command(tiny_config(), tmp_path / "file" / "run", quiet())


def test_workers_that_cannot_be_had_leave_no_tracker_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise ConfigError("There are no workers.")

    monkeypatch.setattr("agents.session.open_pool", refuse)
    monkeypatch.setattr("agents.session.open_tracker", lambda *arguments, **keywords: pytest.fail("it was opened"))
    with pytest.raises(ConfigError, match="no workers"):
        train(tiny_config(), tmp_path / "run", quiet())


def test_a_stored_final_comes_back_equal(tmp_path: Path) -> None:
    final = StoredFinal({"generator": "learned", "quality": 0.5}, ["{}"], [0.1, 0.5], [{"crop": [0.25, 0.75]}])
    final.write(tmp_path / "final.json")
    assert dataclasses.asdict(StoredFinal.read(tmp_path / "final.json")) == dataclasses.asdict(final)


def test_a_quality_that_falls_while_the_reference_learns_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few labels of few groups can pay for features that say nothing; a quality that rises is no news."""
    monkeypatch.setattr(policy_search, "mean_curve", lambda curves: [-0.02, -0.03, -0.04])
    said = io.StringIO()
    run = train(tiny_config(final__seeds=0, agent__episodes=2), tmp_path / "run", quiet(said))
    sentence = "quality fell from -0.020 to -0.040 while the reference recipe trained"
    assert sentence in said.getvalue() and [note for note in run.result()["notes"] if sentence in note]
    assert falling_reference(0.1, 0.2) is None
    assert str(falling_reference(0.1, 0.1)).startswith("quality stayed at 0.100 while the reference")
