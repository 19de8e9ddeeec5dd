"""Searches of a comparison: run each once, charge all of it, and keep what it found."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.catalogue import AGENTS
from agents.compare.cells import Store
from agents.compare.folder import with_free
from agents.compare.methods import AGENT, PRIOR
from agents.compare.plan import POLICY, SearchPlan
from agents.policy_search import search
from agents.preparation import Preparation, prepare, settle
from agents.progress import Reporter, TaskProgress
from agents.results import search_curve
from agents.sb3 import SB3MetaOptimizer
from agents.schedule import SCHEDULE, save_schedule
from agents.searches.base import SearchSetting
from agents.searches.catalogue import searches
from agents.session import open_session, preparation_file
from envs.pool import Pool
from taskrl.assemble import Assembled, assemble
from taskrl.config import ExperimentConfig
from taskrl.data.dataset import RawDataset
from taskrl.errors import RunFolderError
from taskrl.folders import read_json, write_atomically
from taskrl.machine import machine, versions
from taskrl.modalities.image.datasets import is_drawn
from taskrl.report_figures import counted
from taskrl.run_folder import RunFolder, write_result

SECONDS_FILE = "seconds"


@dataclass(frozen=True)
class SearchTools:
    """What searches work with. work: a folder for those that are under way."""

    store: Store
    work: Path
    dataset: RawDataset
    assembled: Assembled
    reporter: Reporter


class _Titled(Reporter):
    """Progress under the search's name; of all sentences only warnings."""

    def __init__(self, reporter: Reporter, title: str) -> None:
        super().__init__(reporter.console)
        self._title = title

    def say(self, sentence: str) -> None:
        if sentence.startswith("Warning"):
            super().say(f"{self._title}: {sentence}")

    def task(self, title: str, total: int, unit: str) -> TaskProgress:
        return super().task(f"{self._title}: {title}", total, unit)


def search_with_agent(plan: SearchPlan, title: str, tools: SearchTools) -> None:
    """Learn a policy, going on from where an earlier sitting was stopped, and keep it as a cell."""
    assert plan.kind == AGENT
    run = RunFolder(tools.work.absolute() / plan.cell.name)
    reporter = _Titled(tools.reporter, title)
    with _timed(tools.work / f"{plan.cell.name}.{SECONDS_FILE}") as seconds_file:
        dataset, assembled = _begin(run, plan, tools, reporter)
        with open_session(run, dataset, assembled, reporter) as session:
            spent = search(session)
    preparation = Preparation.from_json(read_json(preparation_file(run)))
    content = {
        "flops": int(spent["flops"]),
        "images": int(spent["images"]),
        "seconds": float(seconds_file.read_text(encoding="utf-8")),
        "reference_quality": spent["reference_quality"],
        "warning": spent["warning"],
        "episodes": search_curve(run),
        "noise": preparation.noise,
        "config": plan.config.model_dump(),
        **measured_on(plan.config),
    }
    tools.store.write_search(plan.cell, content, run.policy)
    shutil.rmtree(run.path, ignore_errors=True)
    seconds_file.unlink()


def search_in_pool(plan: SearchPlan, title: str, pool: Pool, tools: SearchTools) -> None:
    """Run a search that needs no workers of its own, from its beginning, and keep it as a cell."""
    tools.work.mkdir(parents=True, exist_ok=True)
    if plan.kind == PRIOR:
        _keep_prior(plan, pool, tools)
        return
    started = time.perf_counter()
    with tools.reporter.task(title, plan.num_episodes, "episode") as progress:
        found = searches()[plan.kind](
            SearchSetting(
                problem=tools.assembled.problem,
                pool=pool,
                episode=plan.config.episode,
                num_episodes=plan.num_episodes,
                seed=plan.config.seed,
                prior_strength=plan.config.agent.prior_strength,
                after_episode=lambda number, played: progress.advance(f"quality {played.final:.3f}"),
            )
        )
    file = tools.work / SCHEDULE
    save_schedule(file, found.specs, {"search": plan.kind, "seed": plan.config.seed, "episodes": plan.num_episodes})
    content = {
        "flops": found.spent.flops,
        "images": found.spent.images,
        "seconds": round(time.perf_counter() - started, 2),
        "record": found.record,
        "config": plan.config.model_dump(),
        **measured_on(plan.config),
    }
    tools.store.write_search(plan.cell, content, file)
    file.unlink()


def _keep_prior(plan: SearchPlan, pool: Pool, tools: SearchTools) -> None:
    """The policy before any training; nothing is spent."""
    config = plan.config
    optimizer = SB3MetaOptimizer(
        agent=config.agent, pool=pool, decisions=config.episode.decisions, seed=config.seed, checkpoints=None
    )
    folder = tools.work / PRIOR / POLICY
    shutil.rmtree(folder.parent, ignore_errors=True)
    policy = optimizer.prior(tools.assembled.problem)
    policy.save(folder, {"data": config.data.source, "search_seed": config.seed, "episodes": 0})
    content = {"flops": 0, "images": 0, "seconds": 0.0, **measured_on(config)}
    tools.store.write_search(plan.cell, content, folder)
    shutil.rmtree(folder.parent)


def measured_on(config: ExperimentConfig) -> dict[str, Any]:
    """Where the content of a cell was computed, and with what."""
    return {"machine": machine(config.predictor.device), "versions": versions()}


def cost_of(plan: SearchPlan | None, store: Store) -> dict[str, Any]:
    """search_flops, search_images and search_seconds of a finished search; zeros for none."""
    content = store.read(plan.cell) if plan else {"flops": 0, "images": 0, "seconds": 0.0}
    return {f"search_{name}": content[name] for name in ("flops", "images", "seconds")}


def doubts(plans: Sequence[SearchPlan], store: Store) -> list[str]:
    """What the agents' searches found that speaks against their reward: the first sentence of a kind, and in how many
    of them. Cells of earlier versions hold fewer.
    """
    found = [store.read(plan.cell) for plan in plans if plan.kind == AGENT]
    kinds = [[(content.get("noise") or {}).get("warning") for content in found], [one.get("warning") for one in found]]
    told = [[sentence for sentence in sentences if sentence] for sentences in kinds]
    whole, several = counted(len(found), "search", "searches"), "the reward is to be doubted; of the first of them: "
    return [f"In {len(some)} of {whole} {several if len(some) > 1 else ''}{some[0]}" for some in told if some]


def _begin(run: RunFolder, plan: SearchPlan, tools: SearchTools, reporter: Reporter) -> tuple[RawDataset, Assembled]:
    """The search's problem, settled once: the A/A test of an earlier sitting counts."""
    config = _of_a_search(plan.config)
    if preparation_file(run).is_file():
        return _problem(with_free(run.config(), config), tools)
    shutil.rmtree(run.path, ignore_errors=True)
    dataset, assembled = _problem(config, tools)
    assembled, preparation = settle(assembled, reporter)
    RunFolder.create(run.path, assembled.config)
    write_result(preparation_file(run), preparation.to_json())
    return dataset, assembled


def _problem(config: ExperimentConfig, tools: SearchTools) -> tuple[RawDataset, Assembled]:
    """Only a distribution of sets is another for another seed."""
    if is_drawn(config.data.source):
        return prepare(config)
    return tools.dataset, assemble(config, tools.dataset, codec=AGENTS[config.agent.name].codec)


def _of_a_search(config: ExperimentConfig) -> ExperimentConfig:
    """Nothing but a search: no final encoders, no tracker of its own."""
    final = config.final.model_copy(update={"seeds": 0})
    tracking = config.tracking.model_copy(update={"uri": "none"})
    return config.model_copy(update={"final": final, "tracking": tracking})


@contextmanager
def _timed(file: Path) -> Iterator[Path]:
    """The seconds of the block are added to those in `file`, however it ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        before = float(file.read_text(encoding="utf-8")) if file.is_file() else 0.0
    except ValueError:
        raise RunFolderError(
            f"{str(file)!r} holds no number of seconds; write into it how long the search took so far, or 0."
        ) from None
    started = time.perf_counter()
    try:
        yield file
    finally:
        write_atomically(file, f"{before + time.perf_counter() - started:.2f}")
