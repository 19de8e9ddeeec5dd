"""Promises of `taskrl compare`: paired seeds, everything charged, nothing run twice, nothing lost."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agents.compare.comparison
from agents import session
from agents.compare.cells import Store
from agents.compare.comparison import compare
from agents.compare.methods import split_names
from agents.vector import LockstepVecEnv
from envs.host import WorkerSetup
from envs.workers import open_pool
from taskrl import mlflow_store
from taskrl.errors import RunFolderError
from taskrl.export import load_exported
from taskrl.folders import read_json
from taskrl.run_folder import RunFolder
from tests.agents.conftest import quiet
from tests.agents.runs import snapshot, taskrl, tiny_options
from tests.envs.tiny import tiny_config, tiny_problem
from tests.taskrl.mlflow_runs import client_of, make_run_folder

METHODS = ["learned", "learned-argmax", "reference-total", "random-search", "prior", "random"]
OPTIONS: dict[str, Any] = {
    "compare__methods": METHODS,
    "compare__searches": 2,
    "compare__finals": 2,
    "agent__episodes": 2,
    "reward__noise_test": "warn",
}
SECONDS = {"wall_seconds", "search_seconds"}


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished comparison; tests only read it."""
    out = tmp_path_factory.mktemp("comparisons") / "finished"
    compare(tiny_config(**OPTIONS), out, quiet())
    return out


def result_of(out: Path) -> dict[str, Any]:
    return read_json(out / "result.json")


def rows_of(out: Path, method: str | None = None) -> list[dict[str, Any]]:
    """The rows without their seconds."""
    rows = [row for row in result_of(out)["rows"] if method in (None, row["method"])]
    return [{key: value for key, value in row.items() if key not in SECONDS} for row in rows]


def stop_after(patch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
    """Ctrl-C at the call number `calls` + 1 of owner.name."""
    original: Callable[..., Any] = getattr(owner, name)
    done: list[None] = []

    def counting(*arguments: Any, **keywords: Any) -> Any:
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(None)
        return original(*arguments, **keywords)

    patch.setattr(owner, name, counting)


def nothing_new(patch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a cell was made that was there already")

    patch.setattr(Store, "write", refuse)
    patch.setattr(Store, "write_search", refuse)


def test_every_method_trains_on_the_same_paired_seeds(compared: Path) -> None:
    rows = rows_of(compared)
    methods = dict.fromkeys(row["method"] for row in rows)
    assert list(methods) == [
        *("learned", "learned-argmax", "reference", "reference-total", "random-search", "prior", "random"),
        *("supervised", "untrained"),
    ]
    for method in methods:
        assert [row["train_seed"] for row in rows if row["method"] == method] == [0, 1, 2, 3]
    learned = [(row["number"], row["search_seed"]) for row in rows if row["method"] == "learned"]
    assert learned == [(0, 0), (1, 1), (0, 0), (1, 1)], "searches take turns"
    assert {row["number"] for row in rows if row["method"] in ("reference", "random", "prior")} == {None}


def test_a_search_is_charged_with_all_that_it_cost(compared: Path) -> None:
    cells = [read_json(path / "cell.json") for path in sorted((compared / "cells").glob("search-*"))]
    searches = {cell["decided_by"]["seed"]: cell for cell in cells if cell["decided_by"]["kind"] == "agent"}
    assert sorted(searches) == [0, 1]
    for row in rows_of(compared, "learned") + rows_of(compared, "learned-argmax"):
        cell = searches[row["search_seed"]]["content"]
        assert (row["search_flops"], row["search_images"]) == (cell["flops"], cell["images"])
        episodes = len(cell["episodes"]) + 2  # two of the reference
        one = row["train_flops"]  # final encoders are as long here
        assert cell["flops"] == pytest.approx(cell["noise"]["flops"] + episodes * one, rel=0.1)
    for row in rows_of(compared, "random-search"):  # equal total compute, up to an episode
        assert row["search_flops"] == pytest.approx(rows_of(compared, "learned")[0]["search_flops"], abs=1.5 * one)
    for method in ("reference", "prior", "random", "untrained"):
        assert {row["search_flops"] for row in rows_of(compared, method)} == {0}


def test_the_reference_given_the_whole_sum_trains_for_it(compared: Path) -> None:
    learned, reference = rows_of(compared, "learned"), rows_of(compared, "reference-total")
    step = tiny_problem().problem.reference_step_flops
    for ours, theirs in zip(learned, reference, strict=True):
        assert theirs["search_flops"] == 0
        total = ours["train_flops"] + ours["search_flops"]
        # never less, and at most one step a decision more; measuring after two decisions costs the same
        assert total - step <= theirs["train_flops"] <= total + 3 * step


def test_a_comparison_ends_with_all_that_it_promises(compared: Path) -> None:
    result = result_of(compared)
    assert {entry["method"] for entry in result["table"]} >= {*METHODS, "pixels", "untrained", "supervised"}
    assert [claim["claim"] for claim in result["claims"] if claim["strictest"]] == [
        *("pays", "beats the reference", "beats the untrained policy", "beats a plain search")
    ]
    assert result["break_even"]["sentence"].startswith("Break-even")
    assert (compared / "compare.png").stat().st_size > 10_000
    cells = [*(compared / "cells").glob("*.json"), *(compared / "cells").glob("*/cell.json")]
    assert all({"machine", "versions"} <= read_json(cell)["content"].keys() for cell in cells)


def test_the_encoder_that_was_best_on_validation_images_is_exported(compared: Path) -> None:
    chosen = result_of(compared)["encoder"]
    assert chosen["method"] in ("reference", "learned")
    rows = rows_of(compared, chosen["method"])
    best = max(rows, key=lambda row: row["validation_accuracy"])
    assert chosen["train_seed"] == best["train_seed"]
    load_exported(compared / "encoder")
    # trained once more from its seed, it is the encoder that was scored
    assert json.dumps(best["validation_accuracy"]) in (compared / "encoder" / "config.json").read_text()


def test_the_same_command_again_runs_nothing(compared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rows = snapshot(compared / "cells"), rows_of(compared)
    encoder = snapshot(compared / "encoder")
    nothing_new(monkeypatch)
    monkeypatch.setattr(agents.compare.comparison, "train_final", None)
    said = io.StringIO()
    compare(tiny_config(**OPTIONS), compared, quiet(said))
    assert snapshot(compared / "cells") == before and rows_of(compared) == rows
    assert snapshot(compared / "encoder") == encoder
    assert "Searches: 0 of 5 to run" in said.getvalue() and "Final encoders: 0 of 36" in said.getvalue()


def test_two_processes_do_not_work_on_one_comparison(compared: Path) -> None:
    with RunFolder(compared).held(), pytest.raises(RunFolderError, match="Another process works on"):
        compare(tiny_config(**OPTIONS), compared, quiet())


def test_a_comparison_stopped_in_a_search_and_among_final_encoders_ends_with_the_same_rows(
    compared: Path, tmp_path: Path
) -> None:
    out, config = tmp_path / "stopped", tiny_config(**(OPTIONS | {"compare__methods": ["learned", "random"]}))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, LockstepVecEnv, "step_wait", 3)  # in the second search
        with pytest.raises(KeyboardInterrupt, match="same command again"):
            compare(config, out, quiet())
    assert [path.name[:6] for path in (out / "cells").iterdir()] == ["search"]
    patient, deadlines = config.model_copy(update={"worker_deadline_s": 7200.0}), []

    def opened(setup: WorkerSetup, **keywords: Any) -> Any:
        deadlines.append(setup.config.worker_deadline_s)
        return open_pool(setup, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "open_pool", opened)
        stop_after(patch, Store, "write", 5)
        with pytest.raises(KeyboardInterrupt):
            compare(patient, out, quiet())
    assert deadlines == [7200.0], "a search that goes on keeps to what is asked for now"
    kept = snapshot(out / "cells")
    compare(config, out, quiet())
    methods = {row["method"] for row in rows_of(out)}
    assert methods == {"learned", "random", "reference", "supervised", "untrained"}
    assert rows_of(out) == [row for row in rows_of(compared) if row["method"] in methods]
    assert {path: content for path, content in snapshot(out / "cells").items() if path in kept} == kept
    assert not [path for path in (out / "checkpoints").iterdir() if path.name.startswith("search-")]


def test_cells_are_shared_between_comparisons(compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_new(monkeypatch)
    options = OPTIONS | {
        "compare__methods": ["random"],
        "workers": 2,
    }  # fewer methods, and more workers, change nothing
    compare(tiny_config(**options), tmp_path / "second", quiet(), cells=compared / "cells")
    assert rows_of(tmp_path / "second", "random") == rows_of(compared, "random")
    assert result_of(tmp_path / "second")["encoder"] is None
    assert not (tmp_path / "second" / "cells").exists()


def test_a_damaged_cell_is_named_and_refused(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    victim = out / "cells" / f"{rows_of(out, 'random')[0]['cell']}.json"
    for text in (victim.read_text().replace('"linear_accuracy": ', '"linear_accuracy": 1'), "{", "[]", ""):
        victim.write_text(text)
        with pytest.raises(RunFolderError, match=f"{victim.stem}.*remove it, and the same command"):
            compare(tiny_config(**OPTIONS), out, quiet())


def test_a_search_whose_policy_was_damaged_is_named_and_refused(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    weights = next((out / "cells").glob("*/policy/policy.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RunFolderError, match=r"policy\.safetensors is missing or differs"):
        compare(tiny_config(**OPTIONS), out, quiet())


def test_a_comparison_without_its_record_says_how_to_keep_its_cells(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(compared, out)
    for text in ('{"asked"', "{}", ""):
        (out / "comparison.json").write_text(text)
        with pytest.raises(RunFolderError, match=f"damaged; name another --out, and give --cells {out / 'cells'}"):
            compare(tiny_config(**OPTIONS), out, quiet())


def test_a_comparison_does_not_go_on_with_settings_that_nobody_asked_for(compared: Path, tmp_path: Path) -> None:
    shutil.copytree(compared, tmp_path / "copy")
    file = tmp_path / "copy" / "config.yaml"
    kept = file.read_text()
    for text, told in (
        (kept.replace("width: 8", "width: 12"), "predictor.width is 12 there, this comparison was begun with 8"),
        ("", "begun with"),
    ):
        file.write_text(text)
        with pytest.raises(RunFolderError, match=told):
            compare(tiny_config(**OPTIONS), tmp_path / "copy", quiet())


def test_a_damaged_result_is_written_anew_and_foreign_files_stay(compared: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "copy", rows_of(compared)
    shutil.copytree(compared, out)
    (out / "encoder-notes.txt").write_text("mine")
    (out / "encoder-mine").mkdir()
    for text in ("{}", "{", ""):
        (out / "result.json").write_text(text)
        outcome = taskrl("inspect", out)
        assert outcome.exit_code == 2 and "same taskrl compare command" in outcome.stderr, outcome.output
    (out / "result.json").write_text('{"format_version": 1, "kind": "comparison"}')
    (out / "checkpoints" / "tracking.json").write_text("{")
    compare(tiny_config(**OPTIONS), out, quiet())
    assert rows_of(out) == rows and (out / "encoder").is_dir()
    assert (out / "encoder-notes.txt").read_text() == "mine" and (out / "encoder-mine").is_dir()


def test_an_encoder_that_an_earlier_verdict_chose_is_not_taken_for_this_ones(compared: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "copy", io.StringIO()
    shutil.copytree(compared, out)
    compare(tiny_config(**(OPTIONS | {"compare__methods": ["random"]})), out, quiet(said))
    assert "no encoder is exported" in said.getvalue() and "Encoder:" not in said.getvalue()
    outcome = taskrl("export", out, "--out", tmp_path / "encoder")
    assert outcome.exit_code == 2 and "give learned to its --methods" in outcome.stderr, outcome.output
    assert not (tmp_path / "encoder").exists()
    outcome = taskrl("compare", "--out", tmp_path / "next", "--init", out, *tiny_options())
    assert outcome.exit_code == 2 and str(out) in outcome.stderr, outcome.output


@pytest.mark.parametrize("cells", ["file.txt", "file.txt/cells"])
def test_cells_that_cannot_be_made_are_told_before_anything_is_run(cells: str, here: Path) -> None:
    (here / "file.txt").write_text("mine")
    outcome = taskrl("compare", "--out", "out", "--cells", cells, "--methods", "reference", *tiny_options())
    assert outcome.exit_code == 2 and "name another --cells" in outcome.stderr
    assert not (here / "out").exists()


def test_a_comparison_is_recorded_with_a_run_for_each_method(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrated = (make_run_folder(tmp_path / "template") / "mlflow.db").read_bytes()
    monkeypatch.setattr(mlflow_store, "_create_database", lambda database: database.write_bytes(migrated))
    out = tmp_path / "recorded"
    config = tiny_config(**(OPTIONS | {"tracking__uri": "", "compare__methods": ["random"]}))
    for _ in range(2):  # given again, it goes on in the same run
        compare(config, out, quiet(), cells=compared / "cells")
    client = client_of(out)
    (experiment,) = [each for each in client.search_experiments() if each.name == "taskrl"]
    runs = client.search_runs([experiment.experiment_id])
    children = {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(runs) == len(children) + 1 and {*children} == {
        "random",
        "reference",
        "supervised",
        "untrained",
        "pixels",
    }
    mean = next(entry for entry in result_of(out)["table"] if entry["method"] == "random")["linear"]["mean"]
    (value,) = [value for name, value in children["random"].data.metrics.items() if name.endswith("linear/mean")]
    assert value == pytest.approx(mean)


def test_without_labels_the_verdict_is_about_quality(tmp_path: Path) -> None:
    options = OPTIONS | {"compare__methods": ["learned"], "compare__finals": 1, "data__use_labels": False}
    said = io.StringIO()
    compare(tiny_config(**options, reward__panel_images=32), tmp_path / "unlabelled", quiet(said))
    result = result_of(tmp_path / "unlabelled")
    assert {row["method"] for row in result["rows"]} == {"learned", "reference", "untrained"}
    assert {claim["unit"] for claim in result["claims"]} == {"quality"} and result["split"] == "probe"
    assert "no labels" in result["verdict"] and "quality, not about accuracy" in said.getvalue()


def test_names_of_methods_are_divided_at_commas_but_for_recipes() -> None:
    given = ["learned, static", "fixed:no-mirror,rotation=0.3"]
    assert split_names(given) == ["learned", "static", "fixed:no-mirror,rotation=0.3"]


BAD: dict[str, tuple[list[str], str]] = {
    "unknown method": (["--methods", "lerned"], "Did you mean 'learned'"),
    "no method": (["--methods", ","], "compare.methods"),
    "a recipe among others": (["--methods", "random,fixed:no-mirror,rotation=0.3"], "a --methods of its own"),
    "unknown part of a recipe": (["--methods", "fixed:no-mirrow"], "Did you mean 'no-mirror'"),
    "a length of 0": (["--set", "compare.lengths=[0]"], "compare.lengths.0"),
    "no length": (["--set", "compare.lengths=[]"], "compare.lengths"),
    "no search": (["--set", "compare.searches=0"], "compare.searches"),
    "labels that are not there": (["--methods", "supervised", "--no-labels"], "it needs labels"),
    "an objective that is not there": (["--methods", "masked", "--objectives", "contrastive"], "does not have masked"),
    "groups of one": (
        ["--methods", "shuffled", "--set", "agent.name=ppo", "--set", "agent.group_size=1"],
        "agent.group_size of at least 2",
    ),
    "groups of one for an agent that compares": (["--set", "agent.group_size=1"], "choose agent.name=ppo"),
    "a setting that its agent passes over": (["--set", "agent.group_relative=false"], "does nothing for thompson"),
    "a recipe of what is forbidden": (["--forbid", "mirror", "--methods", "fixed:mirror=0.5"], "stays at 0 (--forbid"),
    "a budget that is no time": (["--budget", "soon"], "'soon' is no time"),
    "a budget that is too small": (["--budget", "1s"], "more than --budget allows"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_made(name: str, here: Path) -> None:
    arguments, expected = BAD[name]
    outcome = taskrl("compare", "--out", "out", *tiny_options(), *arguments)
    assert outcome.exit_code == 2, outcome.output
    assert expected in outcome.stderr and outcome.stderr.count("\n") == 1
    assert not (here / "out").exists()


def test_the_folder_of_something_else_is_refused(compared: Path, here: Path) -> None:
    (here / "run").mkdir()
    outcome = taskrl("compare", "--out", "run", *tiny_options())
    assert outcome.exit_code == 2 and "exists already" in outcome.stderr
    before = snapshot(compared)
    outcome = taskrl("compare", "--out", compared, *tiny_options(predictor__width=12))
    assert outcome.exit_code == 2 and "predictor.width is 8 there, 12 here" in outcome.stderr
    assert snapshot(compared) == before


def test_other_commands_know_a_comparison(compared: Path) -> None:
    outcome = taskrl("resume", compared)
    assert outcome.exit_code == 2 and "same taskrl compare command" in outcome.stderr
    outcome = taskrl("inspect", compared)
    assert outcome.exit_code == 0 and "reference-total" in outcome.output and "Break-even" in outcome.output
    outcome = taskrl("export", compared)
    assert outcome.exit_code == 0, outcome.output
