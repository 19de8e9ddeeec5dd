"""Searches and runs that many tests share; tests only read them."""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agents.progress import Reporter
from agents.training import train
from taskrl.data.splits import Splits
from taskrl.run_folder import RunFolder
from tests.agents.learning import NAMES, Search, search
from tests.envs.tiny import tiny_config

GENERATORS = ["reference", "random", "prior", "fixed:no-mirror"]
WHOLE: dict[str, Any] = {"final__generators": GENERATORS, "reward__noise_test": "warn"}


@pytest.fixture(scope="session")
def searches() -> Callable[[str], Search]:
    """The finished search of an agent by its name, made on first use."""
    return functools.cache(search)


@pytest.fixture(scope="session", params=NAMES)
def found(request: pytest.FixtureRequest, searches: Callable[[str], Search]) -> Search:
    """The finished search of each of the seven agents."""
    return searches(request.param)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with MLflow and the A/A test on and one worker; opening the test images would have failed it."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a run without --final opened the test images")

    out = tmp_path_factory.mktemp("runs") / "finished"
    config = tiny_config(tracking__uri="", **WHOLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Splits, "open_test", refuse)
        return train(config, out, quiet())


def quiet(stream: io.StringIO | None = None) -> Reporter:
    return Reporter(Console(file=stream or io.StringIO(), highlight=False, soft_wrap=True, width=200))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
