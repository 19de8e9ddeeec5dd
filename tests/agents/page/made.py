"""Run folders as training leaves them, made in a moment; and the page's server in a thread."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import uvicorn

from agents.page.app import LOCAL_NAMES, page_app
from agents.page.server import bound
from agents.page.shelf import Shelf
from agents.sitting import Sitting, sitting
from taskrl.config import ExperimentConfig
from taskrl.run_folder import RunFolder
from taskrl.tracking import METRICS_NAME, JsonlTracker
from tests.envs.tiny import tiny_config

DECISIONS = 2
LEVELS = {"crop": 0.3, "mirror": 0.5, "upside_down": 0.0, "rotation": 0.0, "jitter": 0.4, "blur": 0.0, "noise": 0.0}


def make_run(path: Path, *, name: str = "", config: ExperimentConfig | None = None) -> RunFolder:
    """A new run of 4 search episodes of 2 decisions, without a record yet. name: of its data."""
    changes = {"data__source": name} if name else {}
    return RunFolder.create(path, config or tiny_config(**changes))


def decision(step: int, *, quality: float = 0.2, mirror: float = 0.5, **more: float) -> dict[str, float]:
    """Metrics of a decision as a search records them."""
    return {
        "reward": 0.01,
        "quality": quality,
        "reward_part/gain": 0.01 + step / 1000,
        "loss/contrastive": 4.6,
        "share/contrastive": 1.0,
        **{f"level/{name}": value for name, value in (LEVELS | {"mirror": mirror}).items()},
        "steps_per_second": 40.0,
        "time/overhead_share": 0.1,
        **more,
    }


def record_episode(run: RunFolder, episode: int, *, quality: float = 0.2, mirror: float = 0.5) -> None:
    """All decisions of a search episode, and its end."""
    tracker = JsonlTracker(run.path / METRICS_NAME)
    for index in range(DECISIONS):
        step = episode * DECISIONS + index
        tracker.log_metrics(decision(step, quality=quality, mirror=mirror), step=step)
    tracker.log_metrics({"return": 0.1, "final_quality": quality}, step=episode, kind="episode")


def write_long_search(run: RunFolder, num_decisions: int) -> None:
    """As many decisions as that, of the size that training gives them, and the ends of their episodes."""
    padding = {f"compute/part_{index}": 37804769280.0 for index in range(12)}
    metrics = json.dumps(decision(0) | padding)
    head = '"run": "", "time": 1795372793.71, "metrics":'
    with (run.path / METRICS_NAME).open("w") as file:
        for step in range(num_decisions):
            file.write(f'{{"kind": "decision", "step": {step}, {head} {metrics}}}\n')
            if step % DECISIONS == DECISIONS - 1:
                ended = f'{{"return": 0.1, "final_quality": {0.2 + step % 7 / 100}}}'
                file.write(f'{{"kind": "episode", "step": {step // DECISIONS}, {head} {ended}}}\n')


@contextmanager
def training(run: RunFolder, *, episodes: int = 4, finals: int = 2) -> Iterator[None]:
    """This process claims to work on the run, which keeps some random images."""
    plan = Sitting(data=run.config().data.source, num_workers=2, episodes=episodes, finals=finals)
    images = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with sitting(run, plan, images):
        yield


def finish_run(run: RunFolder, result: Mapping[str, Any]) -> None:
    run.result_file.write_text(json.dumps(result))


def a_result(**changes: Any) -> dict[str, Any]:
    """A small result.json."""
    interval = {"mean": 80.0, "low": 78.0, "high": 82.0}
    rows: Sequence[tuple[str, Any]] = (("learned", {"mean": 2.0, "low": 1.0, "high": 3.0}), ("reference", None))
    return {
        "format_version": 1,
        "data": "digits",
        "split": "validation",
        "verdict": "The learned policy beats the reference recipe.",
        "notes": [],
        "table": [
            {"generator": name, "num_seeds": 2, "linear": interval, "knn": interval, "quality": None, "difference": gap}
            for name, gap in rows
        ],
        "rows": [],
        "search": {"episodes": [{"episode": i, "final_quality": 0.1 + i / 50} for i in range(8)]},
        "curves": {"learned": [[0.1, 0.2, 0.3]], "reference": [[0.1, 0.15, 0.2]]},
        "choices": {
            "progress": [0.0, 0.5],
            "parts": {"mirror": {"levels": [0.0, 0.5], "reference": 1, "probabilities": [[0.9, 0.1], [0.8, 0.2]]}},
        },
        "schedule": [{"progress": 0.0, "task": "contrastive; crop 0.3, mirror 0"}],
        **changes,
    }


@contextmanager
def served(*places: Path, hosts: Sequence[str] = LOCAL_NAMES) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    with bound("127.0.0.1", 0) as listener:
        config = uvicorn.Config(page_app(Shelf(places), hosts), log_level="warning", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def ask(
    address: str, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text; the path goes out as it is."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return (
            answer.status,
            {name.lower(): value for name, value in answer.getheaders()},
            answer.read().decode("utf-8", "replace"),
        )
    finally:
        connection.close()
