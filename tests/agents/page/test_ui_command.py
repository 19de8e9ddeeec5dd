"""Promises of `taskrl ui`: it prints its address, ends with Ctrl-C, and answers bad input with one sentence."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agents.page.made import make_run
from tests.agents.runs import taskrl

INTERRUPTED, TERMINATED = 130, 143


@contextmanager
def command(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", "ui", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        # a suite in the background of a script inherits that interrupts are ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_it_says_where_the_page_is_and_stops_when_told(number: int, code: int, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    with command(tmp_path, "--port", 0) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Page: http://127.0.0.1:") and line.endswith("(Ctrl-C stops it)\n")
        with urllib.request.urlopen(line.split()[1], timeout=20) as answer:
            assert "Nothing has been recorded yet." in answer.read().decode()
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (code, "", "Stopped.\n")


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = taskrl("ui", tmp_path, "--port", port)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: Port {port} on 127.0.0.1 cannot be used (")
    assert "--port" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("place", ["nowhere", "a file"])
def test_a_wrong_place_is_one_sentence(place: str, here: Path) -> None:
    (here / "a file").touch()
    result = taskrl("ui", place, "--port", 0)
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: There is no folder at {place!r}; name a run, or a folder that runs are or will be in.\n"
    )


def test_a_wrong_address_is_one_sentence(here: Path) -> None:
    result = taskrl("ui", here, "--host", "my.host")
    assert result.exit_code == 2 and "no IPv4 address" in result.stderr
    result = taskrl("ui", here, "--host", "203.0.113.7")
    assert result.exit_code == 2 and "cannot be used" in result.stderr


def test_others_may_look_only_when_asked_and_with_a_warning(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import agents.page.server

    opened: list[str] = []

    def serve(runs: list[Path], *, host: str, port: int, ready: object) -> None:
        ready(f"http://{host}:1/")  # type: ignore[operator]

    monkeypatch.setattr(agents.page.server, "serve", serve)
    monkeypatch.setattr("webbrowser.open", opened.append)
    result = taskrl("ui", here)
    assert (result.exit_code, result.stderr, opened) == (0, "", [])
    result = taskrl("ui", here, "--host", "0.0.0.0", "--open")
    assert result.exit_code == 0 and result.stderr.startswith("Warning: everyone who can reach 0.0.0.0")
    assert opened == ["http://0.0.0.0:1/"]
