"""Promises of the server: only this machine, only GET, only the runs on the shelf, and nothing is written."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from agents.page.look import DONE, EMPTY, STOPPED, TRAINING, Watch
from agents.page.server import allowed_names
from agents.page.shelf import Found, Shelf
from agents.sitting import Sitting
from taskrl.errors import RunFolderError
from taskrl.tracking import METRICS_NAME
from tests.agents.page.made import (
    DECISIONS,
    a_result,
    ask,
    finish_run,
    make_run,
    record_episode,
    served,
    training,
)
from tests.agents.runs import snapshot


def test_every_answer_forbids_script_and_requests_from_elsewhere(tmp_path: Path) -> None:
    finish_run(make_run(tmp_path / "run"), a_result())
    with served(tmp_path) as address:
        for path in ("/", "/run/1", "/static/page.css", "/run/99"):
            _, headers, text = ask(address, path)
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy and "script-src 'self';" in policy
            assert "unsafe-inline" not in policy.replace("style-src-attr 'unsafe-inline'", "")
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers
            assert "<style" not in text and "onclick" not in text


def test_a_report_from_a_run_folder_may_run_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.report.write_text("<script>alert(1)</script>")
    with served(tmp_path) as address:
        status, headers, _ = ask(address, "/run/1/report.html")
        assert status == 200
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_other_host_names_are_refused(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        assert ask(address, "/", headers={"Host": "evil.example"})[0] == 400
        assert ask(address, "/", headers={"Host": "127.0.0.1.evil.example:80"})[0] == 400
        assert ask(address, "/", headers={"Host": "localhost"})[0] == 200
        assert ask(address, "/", headers={"Host": "192.168.1.7:8642"})[0] == 400


def test_who_listens_at_every_address_answers_to_each_but_to_no_other_name(tmp_path: Path) -> None:
    with served(tmp_path, hosts=allowed_names("0.0.0.0")) as address:
        for host in ("192.168.1.7", "192.168.1.7:8642", "0.0.0.0:8642", "localhost:8642", socket.gethostname()):
            assert ask(address, "/", headers={"Host": host})[0] == 200, host
        for host in ("evil.example", "192.168.1.7.evil.example:8642", "1.example", "[::1", ""):
            assert ask(address, "/", headers={"Host": host})[0] == 400, host


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_get_is_answered(method: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    with served(tmp_path) as address:
        assert ask(address, "/run/1", method=method)[0] == 405


def test_no_address_leads_out_of_the_named_runs(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("a secret")
    shelf = tmp_path / "runs"
    run = make_run(shelf / "run")
    run.report.symlink_to(tmp_path / "secret.txt")
    (shelf / "link").symlink_to(make_run(tmp_path / "elsewhere").path)
    paths = (
        "/run/../secret.txt",
        "/run/1/../../../secret.txt",
        "/run/1/%2e%2e/%2e%2e/secret.txt",
        "/run/1/report.html",
        "/run/1/config.yaml",
        "/run/2",
        "/run/-1",
        "/run/1e0",
        "/run/" + "9" * 400,
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/app.py",
        "/compare?runs=1,../secret.txt",
        "/compare?runs=1,99999999999999999999",
        "//evil.example/",
        "/docs",
        "/openapi.json",
    )
    with served(shelf) as address:
        assert ask(address, "/run/1")[0] == 200
        for path in paths:
            status, _, text = ask(address, path)
            assert status in (404, 422), path
            assert "secret</" not in text and "a secret" not in text


def test_a_page_that_has_not_changed_is_not_sent_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record_episode(run, 0)
    with training(run), served(tmp_path) as address:
        _, headers, _ = ask(address, "/run/1")
        known = {"If-None-Match": headers["etag"]}
        status, _, text = ask(address, "/run/1", headers=known)
        assert (status, text) == (304, "")
        record_episode(run, 1)
        assert ask(address, "/run/1", headers=known)[0] == 200


def test_a_page_that_is_being_made_is_not_changed_by_the_next_request(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record_episode(run, 0)
    watch = Watch(Found(1, run.path, "run"))
    look = watch.look()
    parts = [iter(look.metrics.sample), iter(look.metrics.episodes)]
    record_episode(run, 1)
    assert len(watch.look(whole=False).metrics.sample) == 2 * DECISIONS
    assert [list(part) for part in parts] == [[0, 1], [0]] and look.metrics.num_decisions == DECISIONS


def test_looking_writes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record_episode(run, 0)
    done = make_run(tmp_path / "done")
    finish_run(done, a_result())
    with training(run), served(tmp_path) as address:
        before = snapshot(tmp_path)
        for path in ("/", "/run/1", "/run/2", "/compare?runs=1,2"):
            assert ask(address, path)[0] == 200
        assert snapshot(tmp_path) == before


def test_a_run_whose_stages_are_all_done_but_not_judged_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for episode in range(4):
        record_episode(run, episode)
    with training(run, finals=0), served(tmp_path) as address:
        status, _, text = ask(address, "/run/1")
        assert status == 200 and "4 of 4 episodes" in text


def test_what_cannot_be_read_becomes_a_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record_episode(run, 0)
    run.config_file.write_text("seed: [1")
    run.result_file.write_text('{"half": ')
    finals = run.checkpoints / "finals"
    finals.mkdir()
    (finals / "learned-0.json").write_text("{}")
    (finals / "learned-1.json").write_text(json.dumps({"row": {}, "specs": 3, "qualities": [], "choices": []}))
    (run.checkpoints / "sitting.json").write_text('{"pid": "x"}')
    (run.checkpoints / "examples.safetensors").write_bytes(b"\x80\x04 no tensors")
    with served(tmp_path) as address:
        status, _, text = ask(address, "/run/1")
        assert status == 200
        assert "config.yaml" in text and "result.json" in text and "learned-0.json" in text
        for path in ("/", "/compare?runs=1"):
            assert ask(address, path)[0] in (200, 404)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("finals/learned-0.json", {"row": {"generator": None}, "specs": [], "qualities": [], "choices": []}),
        ("sitting.json", {"episodes": float("inf")}),
        ("sitting.json", {"finals": 10**400}),
    ],
)
def test_a_damaged_run_hides_no_other_one(name: str, record: dict[str, Any], tmp_path: Path) -> None:
    finish_run(make_run(tmp_path / "whole"), a_result())
    run = make_run(tmp_path / "broken")
    record_episode(run, 0)
    with training(run):
        pass
    file = run.checkpoints / name
    file.parent.mkdir(exist_ok=True)
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(before | record))
    with served(tmp_path) as address:
        for path in ("/", "/run/1", "/run/2", "/compare?runs=1,2"):
            status, _, text = ask(address, path)
            assert status == 200, path
        assert "whole" in text and "broken" in text


def test_a_comparison_with_absurd_numbers_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "question")
    (run.path / "comparison.json").write_text("{}")
    entry = {"method": "learned", "length": 1, "num": 4, "mark": "", "linear": None, "knn": None, "quality": None}
    table = [{**entry, "difference": None, "train_flops": 10**400, "search_flops": 0}]
    result = {"verdict": "None.", "table": table, "claims": [], "notes": [], "break_even": {"sentence": ""}}
    finish_run(run, result)
    with served(tmp_path) as address:
        status, _, text = ask(address, "/run/1")
        assert status == 200 and "not as taskrl compare writes it" in text


def test_more_runs_than_fit_are_refused_not_left_out(tmp_path: Path) -> None:
    for index in range(9):
        finish_run(make_run(tmp_path / f"run{index}"), a_result())
    with served(tmp_path) as address:
        for query in ("&".join(f"runs={number}" for number in range(1, 10)), "runs=1,2,3,4,5,6,7,8,9"):
            status, _, text = ask(address, f"/compare?{query}")
            assert status == 404 and "Tick 2 to 8 runs in the list to compare them, not more." in text
        for query in ("&".join(f"runs={number}" for number in range(1, 9)), "runs=1,2,3,4,5,6,7,8"):
            assert ask(address, f"/compare?{query}")[0] == 200


def test_a_run_that_is_named_twice_is_listed_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "run")
    (tmp_path / "link").symlink_to(run.path)
    places = [tmp_path / "runs", run.path, tmp_path / "runs" / ".." / "runs" / "run", tmp_path / "link"]
    assert [(found.number, found.name) for found in Shelf(places).runs()] == [(1, "run")]


@pytest.mark.parametrize("name", ["config.yaml", "test_reads.log"])
def test_no_file_of_a_run_may_be_a_link_to_a_text_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret: [key")
    run = make_run(tmp_path / "runs" / "run")
    finish_run(run, a_result())
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(tmp_path / "secret")
    with served(tmp_path / "runs") as address:
        for path in ("/", "/run/1"):
            status, _, text = ask(address, path)
            assert status == 200 and "a secret" not in text


def test_a_run_is_empty_running_stopped_or_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    watch = Watch(Found(1, run.path, "run"))
    assert watch.look().state == EMPTY

    def fail() -> None:
        with training(run):
            assert watch.look().state == TRAINING
            record_episode(run, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert watch.look().state == STOPPED
    record = json.loads((run.checkpoints / "sitting.json").read_text())
    assert record["status"] == "FAILED" and record["ended"] > 0
    (run.checkpoints / "sitting.json").write_text(json.dumps(record | {"status": "RUNNING", "pid": _dead_pid()}))
    os.utime(run.path / METRICS_NAME, (1, 1))
    monkeypatch.setattr("agents.page.look.SILENT_AFTER_S", -1.0)
    assert watch.look().state == STOPPED
    finish_run(run, a_result())
    assert watch.look().state == DONE


def _dead_pid() -> int:
    """Of a process that has ended."""
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    return child


def test_a_note_of_another_machine_or_process_does_not_count_as_alive(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with training(run):
        now = Sitting.of(run)
        assert now is not None and now.alive()
    after = Sitting.of(run)
    assert after is not None and not after.alive() and after.status == "FINISHED"
    values = {name: getattr(now, name) for name in Sitting.__annotations__}
    assert not Sitting(**values | {"host": "another"}).alive()
    assert not Sitting(**values | {"pid": _dead_pid()}).alive()


def test_numbers_stay_when_runs_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.page.shelf.RESCAN_S", 0.0)
    for name in ("b", "c"):
        make_run(tmp_path / name)
    shelf = Shelf([tmp_path])
    assert [(found.number, found.name) for found in shelf.runs()] == [(1, "b"), (2, "c")]
    make_run(tmp_path / "a")
    (tmp_path / "b" / "config.yaml").unlink()
    assert [(found.number, found.name) for found in shelf.runs()] == [(2, "c"), (3, "a")]
    assert shelf.numbered(1) is None
    with pytest.raises(RunFolderError, match="no folder"):
        Shelf([tmp_path / "nowhere"])
