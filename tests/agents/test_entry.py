"""Ctrl-C and options that cannot be read: one line, whenever it happens."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import agents.training
from taskrl import __version__
from tests.agents.runs import taskrl

INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["taskrl", "train", "--out", "run"]
from agents.entry import main

main()
"""
USAGE: dict[str, tuple[list[str], str]] = {
    "no rows": (["inspect", "run", "--rows", "0"], "'--rows'"),
    "no images at once": (["embed", "encoder", "--out", "f.npz", "--batch-size", "0"], "'--batch-size'"),
    "a port below 1": (["mlflow", "run", "--port", "0"], "'--port'"),
    "no number": (["train", "--out", "run", "--seed", "one"], "'--seed'"),
    "an unknown option": (["train", "--out", "run", "--sede", "1"], "--sede"),
    "an unknown command": (["trian"], "'trian'"),
    "no place": (["train"], "'--out'"),
}


@pytest.mark.parametrize("module", ["torch", "agents.training"])
def test_ctrl_c_while_importing_is_one_line(module: str, tmp_path: Path) -> None:
    """Of the command line itself, and of what one command needs."""
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT.format(module=module)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        # a suite in the background of a script inherits that interrupts are ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (found.returncode, found.stderr) == (130, "Stopped.\n")
    assert not list(tmp_path.iterdir())


def test_a_command_that_is_stopped_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(agents.training, "train", interrupted)
    result = taskrl("train", "--out", "run")
    assert (result.exit_code, result.stderr) == (130, "Stopped.\n")


@pytest.mark.parametrize(("arguments", "named"), USAGE.values(), ids=USAGE.keys())
def test_options_that_cannot_be_read_are_one_sentence(arguments: list[str], named: str) -> None:
    result = taskrl(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and result.stderr.endswith(" --help.\n")
    assert named in result.stderr and result.stderr.count("\n") == 1


def test_it_says_its_version() -> None:
    result = taskrl("--version")
    assert (result.exit_code, result.stdout) == (0, f"{__version__}\n")
