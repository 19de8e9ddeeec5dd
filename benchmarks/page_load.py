"""How soon `taskrl ui` shows a run of 10^5 decisions in a real browser.

    python benchmarks/page_load.py            # about a minute
    python benchmarks/page_load.py --quick    # shows that it runs

Makes a run folder with a search of 10^5 decisions as training records them (some 90 MB of metrics.jsonl), starts the
command, and opens the run's page in Chromium (the distribution's; playwright drives it). Seconds from the request to a
page with its curve in it, medians over fresh servers: `first_open_s` when nothing was read yet, `open_again_s`, and
`after_one_more_s` when one decision was added. `server_cpu_s` is the processor time of the first, which other work on
the machine does not change.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import finish, median, parser
from playwright.sync_api import Browser, sync_playwright

from taskrl.config import load_config
from taskrl.run_folder import RunFolder
from taskrl.tracking import METRICS_NAME

DECISIONS, QUICK_DECISIONS, PER_EPISODE = 100_000, 10_000, 4
KNOBS = {"crop": 0.3, "mirror": 0.5, "upside_down": 0.0, "rotation": 0.0, "jitter": 0.4, "blur": 0.0, "noise": 0.0}
REPEAT = 5


def lines_of(index: int) -> list[dict[str, Any]]:
    """What a search records of decision `index`: the decision, and the end of its episode."""
    quality = 0.1 + 0.2 * index / (index + 5000) + 0.01 * ((index * 7919) % 13)
    metrics = {
        **{"reward": 0.0663769326469, "quality": quality, "diverged": 0.0},
        **{"reward_part/gain": 0.06738774888, "reward_part/gain/ridge_r2": 0.06738774888, "quality/ridge_r2": quality},
        **{"loss/contrastive": 4.62758731842041, "steps/contrastive": 15.0, "share/contrastive": 1.0},
        **{f"level/{name}": value if index % 5 else 0.0 for name, value in KNOBS.items()},
        **{"compute/train_flops": 37804769280.0, "compute/train_images": 1920.0},
        **{"compute/measure_flops": 7420588688.0, "compute/measure_images": 1112.0},
        **{"time/train_s": 0.31898801699571777, "time/measure_s": 0.02798425, "time/policy_s": 0.003832016998785548},
        **{"time/decision_s": 2.1574299259955296, "time/overhead_share": 0.09531718, "steps_per_second": 47.0237},
    }
    when = 1_795_372_793.71 + index
    found = [{"kind": "decision", "step": index, "run": "", "time": when, "metrics": metrics}]
    if index % PER_EPISODE == PER_EPISODE - 1:
        ended = {"return": 0.1, "final_quality": quality}
        found.append({"kind": "episode", "step": index // PER_EPISODE, "run": "", "time": when, "metrics": ended})
    return found


def make_long_run(path: Path, num_decisions: int) -> RunFolder:
    """A run whose search has recorded that many decisions."""
    given = {"data.source": "digits", "episode.decisions": PER_EPISODE, "agent.episodes": num_decisions // PER_EPISODE}
    run = RunFolder.create(path, load_config(given=given))
    with (run.path / METRICS_NAME).open("w", encoding="utf-8") as file:
        for index in range(num_decisions):
            for line in lines_of(index):
                file.write(json.dumps(line) + "\n")
    return run


def seconds_to_open(browser: Browser, address: str) -> float:
    """From the request in a new tab to a page with its curve drawn."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    try:
        started = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("[data-part=search] svg path.mean", state="attached")
        return time.perf_counter() - started
    finally:
        page.close()


@contextmanager
def page_of(run: RunFolder) -> Iterator[tuple[str, int]]:
    """Address and process id of `taskrl ui` for the run."""
    command = [sys.executable, "-m", "agents.cli", "ui", str(run.path), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[1], server.pid
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and report."""
    options = parser(__doc__).parse_args()
    num = QUICK_DECISIONS if options.quick else DECISIONS
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as tools:
        run = make_long_run(Path(folder) / "run", num)
        size = (run.path / METRICS_NAME).stat().st_size
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for turn in range(1 if options.quick else REPEAT):
            with page_of(run) as (address, pid):
                used = cpu_seconds(pid)
                found.setdefault("first_open_s", []).append(seconds_to_open(browser, f"{address}run/1"))
                found.setdefault("server_cpu_s", []).append(cpu_seconds(pid) - used)
                found.setdefault("open_again_s", []).append(seconds_to_open(browser, f"{address}run/1"))
                with (run.path / METRICS_NAME).open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(line) + "\n" for line in lines_of(num + turn))
                found.setdefault("after_one_more_s", []).append(seconds_to_open(browser, f"{address}run/1"))
        browser.close()
    headline = {name: round(median(values), 3) for name, values in found.items()}
    finish(__file__, options, {"decisions": num, "megabytes": round(size / 1e6, 1), **headline}, {"each": found})


if __name__ == "__main__":
    main()
