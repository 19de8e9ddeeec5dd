"""Promises of the page: a moved folder shows its artifacts, and the server is local and ends with its children."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskrl.errors import RunFolderError
from taskrl.mlflow_page import page_url, run_url, serve, server_command, stop, wait_until_up
from taskrl.mlflow_store import ARTIFACTS_NAME, DATABASE_NAME, repair_moved_run
from taskrl.tracking import open_tracker
from tests.taskrl.mlflow_runs import client_of, make_run_folder


def make_run(folder: Path) -> str:
    """A run folder with one finished run that has one artifact; its run id."""
    make_run_folder(folder)
    (folder / "config.yaml").write_text("seed: 1")
    warnings: list[str] = []
    tracker = open_tracker(folder, uri=None, experiment="e", run_name="r", warn=warnings.append)
    tracker.log_artifact(folder / "config.yaml")
    tracker.log_metrics({"reward": 0.5}, step=0)
    tracker.close()
    assert warnings == []
    assert tracker.run_id is not None
    forget_artifact_places()
    return tracker.run_id


def forget_artifact_places() -> None:
    """Do as a new process would: MLflow remembers for its life where a run's artifacts go."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_page_is_that_of_the_run(tmp_path: Path) -> None:
    assert run_url(tmp_path, 5000) == page_url(5000)
    run_id = make_run(tmp_path / "run")
    assert run_url(tmp_path / "run", 5000).endswith(f"/#/experiments/1/runs/{run_id}")


def test_a_moved_folder_lists_and_takes_artifacts_in_its_new_place(tmp_path: Path) -> None:
    old, new = tmp_path / "old place", tmp_path / "new é place 100%" / "deeper"
    run_id = make_run(old)
    new.parent.mkdir()
    shutil.move(old, new)
    assert client_of(new).list_artifacts(run_id) == []
    assert repair_moved_run(new)
    assert not repair_moved_run(new)
    forget_artifact_places()
    client = client_of(new)
    assert [entry.path for entry in client.list_artifacts(run_id)] == ["config.yaml"]
    assert {each.artifact_location for each in client.search_experiments()} == {(new / ARTIFACTS_NAME).as_uri()}
    (new / "more.txt").write_text("more")
    tracker = open_tracker(new, uri=None, experiment="e", run_name="r", run_id=run_id)
    tracker.log_artifact(new / "more.txt")
    tracker.close()
    assert sorted(entry.path for entry in client.list_artifacts(run_id)) == ["config.yaml", "more.txt"]
    assert not old.exists()


def test_resuming_in_a_moved_folder_mends_it(tmp_path: Path) -> None:
    run_id = make_run(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    warnings: list[str] = []
    tracker = open_tracker(
        tmp_path / "new", uri=None, experiment="e", run_name="r", run_id=run_id, warn=warnings.append
    )
    tracker.log_artifact(tmp_path / "new" / "config.yaml", "again")
    tracker.close()
    assert warnings == []
    assert not (tmp_path / "old").exists()
    assert [entry.path for entry in client_of(tmp_path / "new").list_artifacts(run_id, "again")] == [
        "again/config.yaml"
    ]


def test_a_folder_that_was_not_moved_is_not_written(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    before = (tmp_path / "run" / DATABASE_NAME).read_bytes()
    assert not repair_moved_run(tmp_path / "run")
    assert (tmp_path / "run" / DATABASE_NAME).read_bytes() == before
    assert not repair_moved_run(tmp_path)


def test_locations_that_are_not_of_a_run_folder_are_left_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / DATABASE_NAME) as connection:
        connection.execute("UPDATE experiments SET artifact_location = 's3://bucket/artifacts' WHERE name = 'e'")
    assert not repair_moved_run(tmp_path / "run")


@pytest.mark.parametrize("content", [b"", b"no database" * 999])
def test_a_damaged_database_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(content)
    with pytest.raises(RunFolderError, match="cannot be used by MLflow"):
        repair_moved_run(tmp_path)


def test_a_folder_without_a_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no mlflow\.db"):
        serve(tmp_path)


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    make_run_folder(tmp_path / "run")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = int(other.getsockname()[1])
        with pytest.raises(RunFolderError, match=f"Port {port} on 127.0.0.1 cannot be used"):
            serve(tmp_path / "run", port=port)
    with pytest.raises(RunFolderError, match="Port 70000 does not exist"):
        serve(tmp_path / "run", port=70000)


def test_the_server_listens_on_this_machine_only(tmp_path: Path) -> None:
    command = server_command(tmp_path, 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_server_that_ends_at_once_is_reported() -> None:
    server = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], start_new_session=True)
    with pytest.raises(RunFolderError, match="ended with code 3"):
        wait_until_up(server, free_port())
    stop(server)


def test_a_server_that_never_answers_is_reported() -> None:
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        with pytest.raises(RunFolderError, match=r"no answer .* within 0\.3 s"):
            wait_until_up(server, free_port(), deadline_s=0.3)
    finally:
        stop(server)


def test_stop_ends_a_server_that_ignores_the_first_signal() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    server = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    stop(server, deadline_s=0.2)
    server.stdout.close()
    assert server.returncode == -signal.SIGKILL


def fetch(url: str, **body: object) -> bytes:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        content: bytes = answer.read()
    return content


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """A moved run folder, its run id and the address of its page; starting the server takes about 10 s."""
    folder = tmp_path_factory.mktemp("page")
    run_id = make_run(folder / "old")
    run_dir = folder / "new place"
    shutil.move(folder / "old", run_dir)
    port = free_port()
    server = serve(run_dir, port=port)
    try:
        wait_until_up(server, port)
        yield run_dir, run_id, page_url(port)
    finally:
        stop(server)
    with pytest.raises(ProcessLookupError):  # no child is left
        os.killpg(server.pid, 0)


def test_the_page_of_a_moved_run_shows_its_metrics_and_artifacts(page: tuple[Path, str, str]) -> None:
    run_dir, run_id, url = page
    assert b"<html" in fetch(url).lower()
    run = json.loads(fetch(f"{url}/api/2.0/mlflow/runs/get?run_id={run_id}"))["run"]
    assert [(entry["key"], entry["value"]) for entry in run["data"]["metrics"]] == [("reward", 0.5)]
    assert fetch(f"{url}/get-artifact?path=config.yaml&run_uuid={run_id}") == b"seed: 1"
    names = {path.name for path in run_dir.iterdir()}
    assert names == {ARTIFACTS_NAME, "config.yaml", "metrics.jsonl", DATABASE_NAME}


def test_a_run_can_be_tracked_on_a_server(page: tuple[Path, str, str], tmp_path: Path) -> None:
    _, _, url = page
    (tmp_path / "config.yaml").write_text("seed: 2")
    warnings: list[str] = []
    tracker = open_tracker(tmp_path, uri=url, experiment="remote", run_name="r", warn=warnings.append)
    tracker.log_params({f"p{index}": "é" * 7000 for index in range(60)})
    tracker.log_metrics({f"m{index}": 1.0 for index in range(1500)}, step=0)
    tracker.child("seed-0").log_metrics({"reward": 1.0}, step=0)
    tracker.log_artifact(tmp_path / "config.yaml")
    tracker.close()
    assert warnings == []
    run = json.loads(fetch(f"{url}/api/2.0/mlflow/runs/get?run_id={tracker.run_id}"))["run"]
    assert run["info"]["status"] == "FINISHED"
    assert (len(run["data"]["params"]), len(run["data"]["metrics"])) == (60, 1500)
    assert fetch(f"{url}/get-artifact?path=config.yaml&run_uuid={tracker.run_id}") == b"seed: 2"
