"""Promises of the commands on good input: exit code 0, what they print, what they write."""

import os
import signal
from pathlib import Path

import pytest
import torch

import agents.pretraining
import agents.training
from agents import doctor
from taskrl.export import load_exported
from taskrl.folders import verify
from taskrl.run_folder import RunFolder
from taskrl.tasks.spec import TaskSpec
from tests.agents.runs import ROW_KEYS, rows_of, snapshot, taskrl, tiny_options

TERMINATED = 143


@pytest.mark.parametrize("policy", ["reference", "random", "fixed:no-mirror", "run"])
def test_pretrain_trains_one_encoder_under_any_generator(policy: str, finished: RunFolder, here: Path) -> None:
    source = str(finished.path) if policy == "run" else policy
    result = taskrl("pretrain", "--policy", source, "--out", "encoder", *tiny_options(final__decisions=3))
    assert result.exit_code == 0, result.output
    run = RunFolder(here / "encoder")
    (row,) = run.result()["rows"]
    assert set(row) == ROW_KEYS
    assert row["generator"] == ("learned" if policy == "run" else policy)
    assert row["search_flops"] == 0 < row["train_flops"]
    verify(run.encoder, ("model.safetensors", "config.json", "modeling.py"))
    assert not run.policy.exists() and run.report.is_file()
    specs = [TaskSpec.from_json(entry) for entry in _specs(run)]
    assert len(specs) == 3
    if policy == "reference":
        assert {spec.level("mirror") for spec in specs} == {0.5}
    if policy == "fixed:no-mirror":
        assert {spec.level("mirror") for spec in specs} == {0.0}
    if policy == "random":
        assert len(set(specs)) == 3
    if policy == "run":
        assert "Report:" in result.stdout


def _specs(run: RunFolder) -> list[str]:
    import json

    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    decisions = [line["metrics"] for line in lines if line["kind"] == "decision"]
    return [
        json.dumps(
            {
                "mixture": {key[6:]: value for key, value in metrics.items() if key.startswith("share/")},
                "levels": {key[6:]: value for key, value in metrics.items() if key.startswith("level/")},
            }
        )
        for metrics in decisions
    ]


def test_pretrain_of_the_reference_is_the_reference_of_the_comparison(finished: RunFolder, here: Path) -> None:
    result = taskrl("pretrain", "--policy", "reference", "--out", "encoder", *tiny_options())
    assert result.exit_code == 0, result.output
    (ours,) = rows_of(here / "encoder")
    (theirs,) = [row for row in rows_of(finished) if (row["generator"], row["train_seed"]) == ("reference", 0)]
    assert ours == theirs


def test_pretrain_without_a_policy_plays_the_profile_which_mirrors_no_digits(here: Path) -> None:
    result = taskrl("pretrain", "--out", "encoder", *tiny_options())
    assert result.exit_code == 0, result.output
    (row,) = rows_of(here / "encoder")
    assert row["generator"] == "profile"
    assert all(TaskSpec.from_json(entry).level("mirror") == 0 for entry in _specs(RunFolder(here / "encoder")))


def test_a_recipe_can_name_an_objective_that_shares_its_name_with_a_knob(here: Path) -> None:
    recipe = "fixed:contrastive=0,weight/rotation=1,rotation=0.3"
    result = taskrl("pretrain", "--policy", recipe, "--out", "encoder", *tiny_options())
    assert result.exit_code == 0, result.output
    spec = TaskSpec.from_json(_specs(RunFolder(here / "encoder"))[0])
    assert spec.share("rotation") == 1.0
    assert spec.level("rotation") == 0.3


def test_pretrain_with_final_logs_its_one_read(here: Path) -> None:
    result = taskrl("pretrain", "--policy", "reference", "--out", "encoder", *tiny_options(), "--final")
    assert result.exit_code == 0, result.output
    assert len((here / "encoder" / "test_reads.log").read_text().splitlines()) == 1
    assert "choose nothing by these numbers" in result.output.replace("\n", " ")


def test_probe_prints_the_accuracies_of_a_run_and_of_an_encoder_folder(finished: RunFolder) -> None:
    before = snapshot(finished.path)
    outputs = []
    for folder in (finished.path, finished.encoder):
        result = taskrl("probe", folder, "--data", "digits")
        assert result.exit_code == 0, result.output
        hint = "--few-shot"
        lines = [line for line in result.stdout.splitlines() if "%" not in line and hint not in line]
        outputs.append([line for line in lines if any(map(str.isdigit, line))])
    assert outputs[0][-1] == outputs[1][-1]
    best = max(row["linear_accuracy"] for row in finished.result()["rows"] if row["generator"] == "learned")
    assert f"{best:.1f}" in outputs[0][-1]
    assert snapshot(finished.path) == before


def test_probe_reads_test_images_only_when_told_and_says_so(finished: RunFolder) -> None:
    assert "test images" not in taskrl("probe", finished.path, "--data", "digits").stdout
    result = taskrl("probe", finished.path, "--data", "digits", "--final")
    assert result.exit_code == 0, result.output
    assert "test images of digits (split seed 0) read: taskrl probe --final" in result.stdout


def test_inspect_shows_the_choices_the_schedule_and_the_verdict(finished: RunFolder) -> None:
    before = snapshot(finished.path)
    result = taskrl("inspect", finished.path)
    assert result.exit_code == 0, result.output
    for text in ("What the policy chooses", "mirror", "0%", finished.result()["verdict"], str(finished.report)):
        assert text in result.stdout.replace("\n", " ")
    assert snapshot(finished.path) == before


def test_export_checks_the_encoder_and_copies_it_whole(finished: RunFolder, here: Path) -> None:
    only_checked = taskrl("export", finished.path)
    assert only_checked.exit_code == 0 and "Checked: " in only_checked.stdout
    result = taskrl("export", finished.path, "--out", "copy")
    assert result.exit_code == 0, result.output
    assert "README.md" in result.stdout
    images = torch.rand(2, 1, 16, 16)
    copy, original = load_exported(here / "copy"), load_exported(finished.encoder)
    with torch.no_grad():
        assert torch.equal(copy(images), original(images))


def test_doctor_finds_this_machine_fit() -> None:
    result = taskrl("doctor")
    assert result.exit_code == 0, result.output
    assert "All good." in result.stdout
    for text in ("torch:", "stable-baselines3:", "free disk:"):
        assert text in result.stdout


def test_doctor_names_a_wrong_pair_and_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.versions() | {"torch": "2.10.0", "torchvision": "0.20.0", "mlflow": "not installed"}
    monkeypatch.setattr(doctor, "versions", lambda: found)
    result = taskrl("doctor")
    assert result.exit_code == 1
    assert "torchvision==0.25" in result.stderr
    assert "pip install mlflow" in result.stderr
    assert doctor.pair_problem("2.10.0", "0.25.1") is None
    assert doctor.pair_problem("2.10.0+cpu", "0.24.0") is not None


def test_every_command_explains_itself() -> None:
    for command in (
        "train",
        "pretrain",
        "resume",
        "embed",
        "probe",
        "quality",
        "inspect",
        "export",
        "ui",
        "mlflow",
        "doctor",
    ):
        result = taskrl(command, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.stdout


def test_ctrl_c_and_sigterm_have_their_exit_codes(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    def terminated(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(agents.training, "train", interrupted)
    assert taskrl("train", "--out", "run").exit_code == 130
    monkeypatch.setattr(agents.training, "train", terminated)
    assert taskrl("train", "--out", "run").exit_code == TERMINATED

    def turned(*arguments: object) -> None:
        """As a library does whose import was interrupted."""
        try:
            terminated()
        except KeyboardInterrupt:
            raise RuntimeError("half-imported") from None

    monkeypatch.setattr(agents.training, "train", turned)
    result = taskrl("train", "--out", "run")
    assert result.exit_code == TERMINATED and result.stderr.endswith("Stopped.\n")
    assert signal.getsignal(signal.SIGTERM) is before
