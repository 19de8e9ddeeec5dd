"""Best and last: which encoders a run keeps, which one counts, and when training ends early."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import envs.task_generation
from agents.final import FinalJob, Generator, train_final
from agents.summary import verdict
from agents.training import train
from taskrl.export import load_exported
from taskrl.run_folder import RunFolder
from taskrl.types import Quality
from tests.agents.conftest import quiet
from tests.agents.runs import metrics_of, taskrl, tiny_options
from tests.envs.tiny import tiny_config, tiny_problem

PEAK = [0.1, 0.2, 0.3, 0.5, 0.4, 0.3, 0.2, 0.1]
"""Quality of the untrained encoder and after each of seven decisions."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every episode's quality follows PEAK, whatever is trained."""
    real = envs.task_generation.TaskGenerationEnv._measure

    def measure(self: Any, state: Any) -> Any:
        _, features = real(self, state)
        return Quality(value=PEAK[len(state.specs)]), features

    monkeypatch.setattr(envs.task_generation.TaskGenerationEnv, "_measure", measure)


def pretrained(*options: str) -> tuple[RunFolder, str]:
    result = taskrl("pretrain", "--policy", "reference", "--out", "run", *tiny_options(final__decisions=7), *options)
    assert result.exit_code == 0, result.output
    return RunFolder(Path("run").absolute()), result.stdout


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["card"]


def features(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_exported(folder)(torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)))


@pytest.mark.usefixtures("here")
def test_averaged_weights_lie_beside_what_training_gives_without_them(here: Path) -> None:
    plain, _ = pretrained()
    plain.path.rename(here / "plain")
    run, output = pretrained("--set", "final.ema=0.9", "--final")
    assert torch.equal(features(run.encoder), features(here / "plain" / "encoder"))
    assert not torch.equal(features(run.encoder), features(run.path / "encoder-ema"))
    last, averaged = card(run.encoder), card(run.path / "encoder-ema")
    assert (averaged["checkpoint"], averaged["ema_decay"], averaged["scored_on"]) == ("ema", 0.9, "test")
    assert averaged["quality"] != last["quality"] and averaged["linear_accuracy"] > 10
    assert [line.split(": ")[-1] for line in run.test_reads.read_text().splitlines()][-1].endswith("averaged weights")
    assert "Averaged encoder (EMA):" in output
    result = taskrl("export", run.path, "--weights", "ema", "--out", "out")
    assert result.exit_code == 0, result.output
    exported = card(here / "out")
    assert exported["linear_accuracy"] == averaged["linear_accuracy"] and "knn_accuracy" not in exported
    assert torch.equal(features(here / "out"), features(run.path / "encoder-ema"))


@pytest.mark.usefixtures("scripted", "here")
def test_the_best_lies_beside_the_last_when_it_came_earlier() -> None:
    run, output = pretrained()
    (row,) = run.result()["rows"]
    assert (row["num_decisions"], row["best_decision"], row["scored_decision"]) == (7, 3, 7)
    assert row["quality"] == PEAK[7]
    best, last = card(run.path / "encoder-best"), card(run.encoder)
    assert (last["checkpoint"], last["decision"], last["num_decisions"], last["quality"]) == ("last", 7, 7, PEAK[7])
    assert (best["checkpoint"], best["decision"], best["num_decisions"], best["quality"]) == ("best", 3, 7, PEAK[3])
    assert last["linear_accuracy"] == row["linear_accuracy"] and "linear_accuracy" not in best
    assert not (run.path / "encoder-last").exists()
    assert not torch.equal(features(run.encoder), features(run.path / "encoder-best"))
    assert "best after decision 3 (0.500: encoder-best/) and 0.100 after the last (encoder/)" in output
    assert "Best encoder:" in output


@pytest.mark.usefixtures("scripted", "here")
def test_stop_auto_ends_early_and_exports_the_best() -> None:
    run, output = pretrained("--stop", "auto")
    (row,) = run.result()["rows"]
    assert (row["num_decisions"], row["best_decision"], row["scored_decision"]) == (6, 3, 3)
    assert row["quality"] == PEAK[3]
    assert card(run.encoder)["checkpoint"] == "best" and card(run.encoder)["decision"] == 3
    assert card(run.path / "encoder-last")["decision"] == 6
    assert "Stopped after 6 of 7 decisions" in output
    assert len([entry for entry in metrics_of(run) if entry["kind"] == "decision"]) == 6
    assert len(run.result()["schedule"]) == len(run.result()["choices"]["progress"]) == 6


@pytest.mark.usefixtures("scripted")
def test_an_early_stop_costs_what_it_used_and_its_encoder_is_that_of_the_same_decision(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, _ = pretrained("--stop", "auto")
    (here / "whole").mkdir()
    monkeypatch.chdir(here / "whole")
    whole, _ = pretrained()
    spent = [entry["metrics"] for entry in metrics_of(whole) if entry["kind"] == "decision"]
    (row,) = stopped.result()["rows"]
    assert row["train_flops"] == spent[5]["compute/train_flops"] + spent[5]["compute/measure_flops"]
    assert row["train_flops"] < whole.result()["rows"][0]["train_flops"]
    assert torch.equal(features(stopped.encoder), features(whole.path / "encoder-best"))


@pytest.mark.usefixtures("here")
def test_the_patience_and_too_few_decisions_are_said() -> None:
    result = taskrl("pretrain", "--policy", "reference", "--out", "run", *tiny_options(), "--stop", "auto")
    assert result.exit_code == 0, result.output
    assert "2 decisions are too few to stop early with a patience of 3" in result.stdout
    result = taskrl("pretrain", "--policy", "reference", "--out", "run2", *tiny_options(), "--stop", "soon")
    assert result.exit_code == 2
    assert "'final.stop'" in result.stderr and "'auto'" in result.stderr


@pytest.mark.usefixtures("scripted")
def test_a_comparison_with_early_stops_says_so_and_keeps_both_encoders(tmp_path: Path) -> None:
    config = tiny_config(final__generators=["reference"], final__decisions=7, final__stop="auto", final__patience=2)
    run = train(config, tmp_path / "run", quiet())
    rows = {row["generator"]: row for row in run.result()["rows"] if row["train_seed"] == 0}
    assert {name: row["num_decisions"] for name, row in rows.items()} == {
        **dict.fromkeys(("learned", "learned-argmax", "reference"), 5),
        **{"untrained": 0, "supervised": 7},
    }
    assert card(run.encoder)["checkpoint"] == "best" and card(run.path / "encoder-last")["checkpoint"] == "last"
    assert card(run.encoder)["train_seed"] == card(run.path / "encoder-last")["train_seed"]
    assert load_exported(run.path / "encoder-last").feature_dim == load_exported(run.encoder).feature_dim


@pytest.mark.parametrize(
    ("theirs", "said"),
    [(6, "beats the reference recipe at equal training compute: "), (9, "after 6.0 and 9.0 decisions on average): ")],
)
def test_the_verdict_claims_equal_compute_only_where_it_was_equal(theirs: int, said: str) -> None:
    rows = [
        {
            "generator": name,
            "train_seed": seed,
            "linear_accuracy": accuracy + seed,
            "num_decisions": num,
            "train_flops": num,
        }
        for name, accuracy, num in (("learned", 80.0, 6), ("reference", 70.0, theirs))
        for seed in range(5)
    ]
    assert said in verdict(rows, "validation")


def test_a_run_whose_last_encoder_is_the_best_keeps_one(finished: RunFolder) -> None:
    for row in finished.result()["rows"]:
        assert row["scored_decision"] == row["num_decisions"] >= row["best_decision"]
    (kept,) = [
        row
        for row in finished.result()["rows"]
        if row["generator"] == "learned" and row["train_seed"] == card(finished.encoder)["train_seed"]
    ]
    earlier = kept["best_decision"] < kept["num_decisions"]
    assert (finished.path / "encoder-best").is_dir() == earlier
    assert card(finished.encoder)["checkpoint"] == ("last" if earlier else "best and last")


def test_an_encoder_is_written_again_where_a_lost_worker_had_written_it(tmp_path: Path) -> None:
    assembled = tiny_problem(final__patience=1)
    job = FinalJob(
        generator=Generator(name="reference", source="reference"),
        episode=assembled.config.final.episode,
        search_seed=0,
        train_seed=0,
        export_to=tmp_path / "encoder",
        read_test=False,
    )
    rows = [train_final(assembled, job).row for _ in range(2)]
    assert rows[0]["quality"] == rows[1]["quality"] and load_exported(tmp_path / "encoder").feature_dim > 0
