"""Promises about interruption: nothing that is finished is lost, and the rows come out the same."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents.policy_search
import agents.results
import agents.training
from agents.session import pretraining_file
from agents.training import resume, train
from taskrl import mlflow_store
from taskrl.errors import RunFolderError
from taskrl.folders import typed
from taskrl.run_folder import RunFolder, write_result
from tests.agents.conftest import WHOLE, quiet
from tests.agents.runs import metrics_of, rows_of, snapshot, taskrl, tiny_options
from tests.envs.pool_jobs import is_alive
from tests.envs.tiny import tiny_config
from tests.taskrl.mlflow_runs import client_of, make_run_folder

START_DEADLINE_S = 90.0
NOTE_DEADLINE_S = 30.0


def interrupt_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
    """Ctrl-C at the call number `calls` + 1 of owner.name."""
    original = getattr(owner, name)
    count = 0

    def counting(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counting)


def test_a_run_stopped_in_the_search_and_in_the_finals_ends_with_the_same_rows(
    finished: RunFolder, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, agents.policy_search.SearchLog, "add", 5)
        with pytest.raises(KeyboardInterrupt, match=re.escape(f"go on with: taskrl resume {out}")):
            train(tiny_config(**WHOLE), out, quiet())
    run = RunFolder(out)
    assert not run.result_file.exists() and not run.policy.exists()

    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, agents.training, "_log_final", 3)
        with pytest.raises(KeyboardInterrupt):
            resume(out, quiet())
    kept = snapshot(run.checkpoints / "finals")
    assert len(kept) == 3 and run.policy.is_dir()

    resume(out, quiet())
    assert rows_of(run) == rows_of(finished)
    assert {name: content for name, content in snapshot(run.checkpoints / "finals").items() if name in kept} == kept
    steps = [entry["step"] for entry in metrics_of(run) if entry["kind"] == "decision" and not entry["run"]]
    assert sorted(set(steps)) == list(range(8))
    assert len(run.result()["search"]["episodes"]) == 4
    curves = [document["search"]["episodes"] for document in (run.result(), finished.result())]
    assert curves[0] == curves[1]


def test_an_interrupted_run_is_killed_in_mlflow_and_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrated = (make_run_folder(tmp_path / "template") / "mlflow.db").read_bytes()
    monkeypatch.setattr(mlflow_store, "_create_database", lambda database: database.write_bytes(migrated))
    out = tmp_path / "run"
    config = tiny_config(tracking__uri="", final__seeds=0)
    note, noted = out / "checkpoints" / "tracking.json", []

    def stop(*arguments: object) -> None:
        deadline = time.monotonic() + NOTE_DEADLINE_S
        while not note.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        noted.append(note.is_file())
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.policy_search.SearchLog, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, out, quiet())
    assert noted == [True], "a process that is killed leaves only what it has written by then"
    client = client_of(out)
    run_id = json.loads(note.read_text())["run_id"]
    assert client.get_run(run_id).info.status == "KILLED"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, agents.results, "write_figures", 0)
        with pytest.raises(KeyboardInterrupt):
            resume(out, quiet())
    resume(out, quiet())
    assert (out / "figures").is_dir(), "what was stopped while they were drawn is not finished"
    assert client.get_run(run_id).info.status == "FINISHED"
    assert {point.step for point in client.get_metric_history(run_id, "reward")} == set(range(8))


def test_a_finished_run_has_nothing_to_do(finished: RunFolder) -> None:
    before = snapshot(finished.path)
    result = taskrl("resume", finished.path)
    assert result.exit_code == 0
    assert "Nothing to do" in result.stdout
    assert snapshot(finished.path) == before


def test_a_damaged_result_is_written_anew(finished: RunFolder, tmp_path: Path) -> None:
    run = RunFolder.open(Path(shutil.copytree(finished.path, tmp_path / "run")))
    run.result_file.write_bytes(run.result_file.read_bytes()[:100])
    refused = taskrl("inspect", run.path)
    assert refused.exit_code == 2 and f"taskrl resume {run.path}" in refused.stderr
    resume(run.path, quiet())
    assert [row["quality"] for row in run.result()["rows"]] == [row["quality"] for row in finished.result()["rows"]]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second group."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, agents.policy_search.SearchLog, "add", 5)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(), out, quiet())
    return out


@pytest.mark.parametrize("name", ["agent-000002/agent.pt", "agent-000002/counters.json"])
def test_a_damaged_checkpoint_stops_resume_with_one_sentence(name: str, stopped: Path) -> None:
    path = stopped / "checkpoints" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        result = taskrl("resume", stopped)
    finally:
        path.write_bytes(content)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and name in result.stderr
    assert "Traceback" not in result.output


def test_two_processes_do_not_work_on_one_run(stopped: Path) -> None:
    before = snapshot(stopped)
    with RunFolder(stopped).held():
        result = taskrl("resume", stopped)
    assert result.exit_code == 2 and "Another process works on" in result.stderr
    assert {name: content for name, content in snapshot(stopped).items() if name in before} == before


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path) -> None:
    file, out = tmp_path / "set.npz", tmp_path / "run"
    rng = np.random.default_rng(0)
    images = {"x_train": rng.integers(0, 256, (80, 8, 8), dtype=np.uint8), "y_train": np.arange(80) % 2}
    np.savez(file, **images)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, agents.policy_search.SearchLog, "add", 1)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(data__source=str(file)), out, quiet())
    before = snapshot(out)
    for changed in ({"x_train": 255 - images["x_train"]}, {"y_train": 1 - images["y_train"]}):
        np.savez(file, **(images | changed))
        result = taskrl("resume", out)
        assert result.exit_code == 2 and "are others than" in result.stderr and "put those back" in result.stderr
        assert snapshot(out) == before
    np.savez(file, **images)
    resume(out, quiet())
    assert len(rows_of(RunFolder(out))) > 0
    np.savez(file, **(images | {"x_train": 255 - images["x_train"]}))
    result = taskrl("inspect", out, "--counterfactuals")
    assert result.exit_code == 2 and "are others than" in result.stderr


def test_a_damaged_result_of_an_encoder_is_named(stopped: Path) -> None:
    record = stopped / "checkpoints" / "search.json"
    record.write_text("{")
    (stopped / "policy").mkdir()
    try:
        with pytest.raises(RunFolderError, match=r"search\.json"):
            resume(stopped, quiet())
    finally:
        record.unlink()
        (stopped / "policy").rmdir()


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_an_unfinished_run_is_no_finished_one(command: str, stopped: Path) -> None:
    result = taskrl(command, stopped)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def test_ctrl_c_exits_with_130_names_the_remedy_and_leaves_no_process(tmp_path: Path) -> None:
    """The signal goes to the whole group, as from a terminal, while the workers are still starting."""
    out = tmp_path / "run with spaces"
    command = [sys.executable, "-m", "agents.cli", "train", "--out", str(out)]
    command += [*tiny_options(agent__episodes=4000), "--workers", "2"]
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=-1,
        stderr=-1,
        text=True,
        start_new_session=True,
        # a suite in the background of a script inherits that interrupts are ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + START_DEADLINE_S
    children: list[int] = []
    while len(children) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)  # two workers and multiprocessing's resource tracker
        children = children_of(process.pid)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stdout + stderr
    assert f"Stopped. What is finished is kept; go on with: taskrl resume {typed(out)}" in stderr
    assert "Traceback" not in stderr
    assert len(children) == 3
    deadline = time.monotonic() + 5
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if is_alive(pid)]
    assert (out / "config.yaml").is_file() and not (out / "result.json").exists()


def test_a_stopped_pretraining_is_not_resumed_as_something_else(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_config())
    write_result(pretraining_file(run), {"policy": "reference"})
    result = taskrl("resume", run.path)
    assert result.exit_code == 2 and "give the taskrl pretrain command again" in result.output, result.output
