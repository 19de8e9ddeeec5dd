"""`taskrl compare`: every method on the same paired seeds, cell by cell, up to the table and its verdict."""

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from agents.catalogue import AGENTS, algorithm_settings, check_agent
from agents.compare.cells import Store
from agents.compare.cost import budget_seconds, check_budget, forecast
from agents.compare.folder import ComparisonFolder
from agents.compare.methods import AGENT, Method, chosen_methods
from agents.compare.outcome import finish
from agents.compare.plan import FinalPlan, Plan, SearchPlan
from agents.compare.searching import SearchTools, cost_of, doubts, measured_on, search_in_pool, search_with_agent
from agents.final import UNTRAINED, Generator, check_generator, floors, train_final
from agents.forecast import comparison_notes
from agents.preparation import prepare
from agents.progress import Reporter
from agents.results import StoredFinal
from agents.session import data_notes, reads_test
from agents.sitting import Sitting, sitting
from agents.summary import PIXELS
from envs.host import WorkerSetup
from envs.pool import Pool
from envs.workers import check_workers, open_pool
from taskrl.assemble import Assembled
from taskrl.config import ExperimentConfig
from taskrl.data.fingerprint import images_fingerprint
from taskrl.run_folder import check_place
from taskrl.tuning import threads


def compare(
    config: ExperimentConfig, out: Path, reporter: Reporter, *, budget: str | None = None, cells: Path | None = None
) -> dict[str, Any]:
    """Run whatever is missing of the comparison in `out`, then judge it; the content of result.json.

    budget: refuse to start when the forecast takes longer. cells: a store that other comparisons share; default
    out/cells. Raises ConfigError, DataError or RunFolderError before anything is run or written.
    """
    folder = ComparisonFolder.at(out)
    bound_s = None if budget is None else budget_seconds(budget)
    asked = config
    if folder.exists():
        config = folder.resolved(asked)
    else:
        check_place(out)
        check_workers(config)
    dataset, assembled = prepare(config)
    shape = assembled.splits.pretraining.inputs.sample_shape
    methods = chosen_methods(
        assembled.config,
        labelled=assembled.splits.probe.labels is not None,
        paid_by_labels=assembled.problem.probe_data.labels is not None,
        num_channels=shape[0],
    )
    _check(assembled, methods)
    if not folder.exists() and any(method.search == AGENT and not method.changes for method in methods):
        check_agent(config.agent)
    plan = Plan(assembled, methods, images_fingerprint(assembled.splits))
    store = Store((cells or folder.cells).absolute())
    expected = forecast(plan, store)
    for note in (*data_notes(assembled), f"Methods: {', '.join(method.name for method in methods)}."):
        reporter.say(note)
    searched = any(method.search == AGENT for method in methods)
    for note in (*expected.notes(plan), *(comparison_notes(assembled.config) if searched else [])):
        reporter.say(note)
    check_budget(bound_s, expected)
    if cells is not None and not store.folder.is_relative_to(folder.run.path):  # else it is made with the first cell
        store.make()
    if folder.exists():
        folder.check_data(plan.data)
    else:
        folder.create(asked, assembled.config, plan.data)
    tools = SearchTools(store, folder.run.checkpoints, dataset, assembled, reporter)
    num_cells = len(plan.searches) + len(plan.finals)
    work = Sitting(data=assembled.data_name, num_workers=config.workers, episodes=0, finals=num_cells)
    try:
        with folder.run.held(), sitting(folder.run, work, assembled.problem.calibration):
            return _carry_out(plan, folder, tools)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("What is finished is kept; go on by giving the same command again.") from None


def _check(assembled: Assembled, methods: Sequence[Method]) -> None:
    """Raises ConfigError for a method that would fail in the middle of a comparison."""
    for method in methods:
        if method.search == AGENT:
            config = method.configured(assembled.config)
            algorithm_settings(config.agent, config.episode.decisions)
        if method.source and method.name not in (UNTRAINED, PIXELS):
            check_generator(assembled, Generator(name=method.source, source=method.source))


def _carry_out(plan: Plan, folder: ComparisonFolder, tools: SearchTools) -> dict[str, Any]:
    """Agents search with workers of their own; everything else shares one pool."""
    searches = _titled_searches(plan)
    for title, search in searches:
        if search.kind == AGENT and not tools.store.has(search.cell):
            search_with_agent(search, title, tools)
    others = [(title, search) for title, search in searches if search.kind != AGENT]
    missing = [search for _, search in others if not tools.store.has(search.cell)]
    if missing or _missing(plan, tools.store):
        with closing(_open_pool(plan, tools)) as pool:
            for title, search in others:
                if not tools.store.has(search.cell):
                    search_in_pool(search, title, pool, tools)
            _train(plan, pool, folder, tools)
    rows = [_row(plan, final, tools.store) for final in plan.finals]
    pixels = _pixels(plan, folder, tools)
    return finish(
        plan,
        folder,
        rows,
        pixels,
        tools.reporter,
        doubts=doubts(plan.searches, tools.store),
        train=lambda final: _export(plan, final, folder, tools),
    )


def _titled_searches(plan: Plan) -> list[tuple[str, SearchPlan]]:
    titles: dict[str, str] = {}
    for final in plan.finals:
        if final.search:
            name = "learned" if final.method.whole_sum else final.method.name
            number = "" if final.number is None else f", search {final.number}"
            titles.setdefault(final.search.cell.name, f"{name}{number}")
    return [(titles[search.cell.name], search) for search in plan.searches]


def _open_pool(plan: Plan, tools: SearchTools) -> Pool:
    longest = max(
        plan.episode_of(one, _flops(one, tools.store) if one.method.whole_sum else 0).num_steps for one in plan.finals
    )
    setup = WorkerSetup(plan.config, tools.dataset, AGENTS[plan.config.agent.name].codec)
    return open_pool(setup, warn=lambda sentence: tools.reporter.say(f"Warning: {sentence}"), job_steps=longest)


def _missing(plan: Plan, store: Store) -> list[FinalPlan]:
    """Final encoders that have no cell, each cell once, the longest first, so that no worker is left alone with one."""
    found: dict[str, tuple[int, FinalPlan]] = {}
    for final in plan.finals:
        if final.search and not store.has(final.search.cell):
            continue
        spent = _flops(final, store)
        if not plan.is_trained(final, spent, store):
            cell = plan.cell_of(final, spent)
            found.setdefault(cell.name, (plan.episode_of(final, spent).steps_per_decision, final))
    return [final for _, final in sorted(found.values(), key=lambda pair: -pair[0])]


def _train(plan: Plan, pool: Pool, folder: ComparisonFolder, tools: SearchTools) -> None:
    """All final encoders that are missing; each is kept as it finishes."""
    store = tools.store
    missing = _missing(plan, store)
    spent = [_flops(final, store) for final in missing]
    jobs = [plan.job_of(final, flops, store) for final, flops in zip(missing, spent, strict=True)]
    where = measured_on(plan.config)
    with (
        folder.run.watching_test_reads(reads_test(plan.assembled) and bool(jobs)),
        tools.reporter.task("Final encoders", len(jobs), "encoder") as progress,
    ):
        for index, result in pool.map(train_final, [(job,) for job in jobs]):
            final = missing[index]
            name = final.method.name
            for sentence in result.test_reads:  # of its generator, which methods share
                folder.run.log_test_read(f"{sentence} ({name}, length {final.length})")
            content = vars(StoredFinal.of(result.row, result.trace))
            content = {key: content[key] for key in ("row", "specs", "qualities")}
            content |= {"test_reads": list(result.test_reads), "found": plan.found(final, store), **where}
            store.write(plan.cell_of(final, spent[index]), content)
            accuracy = result.row["linear_accuracy"]
            progress.advance(f"{name} {accuracy:.1f} %" if accuracy is not None else name)


def _row(plan: Plan, final: FinalPlan, store: Store) -> dict[str, Any]:
    """A final encoder as the table reads it. A reference that trains for a search's cost is not charged for it too."""
    cost = cost_of(final.search, store)
    cell = plan.cell_of(final, cost["search_flops"])
    charged = dict.fromkeys(cost, 0) if final.method.whole_sum else cost
    return {
        **store.read(cell)["row"],
        "generator": final.method.name,
        "method": final.method.name,
        "length": final.length,
        "number": final.number,
        "steps_per_decision": plan.episode_of(final, cost["search_flops"]).steps_per_decision,
        **charged,
        "cell": cell.name,
    }


def _pixels(plan: Plan, folder: ComparisonFolder, tools: SearchTools) -> dict[str, float] | None:
    cell = plan.pixels
    if cell is None:
        return None
    if not tools.store.has(cell):
        num_seeds = plan.config.compare.searches * plan.config.compare.finals
        with folder.run.watching_test_reads(reads_test(plan.assembled)):
            pixels, reads = floors(plan.assembled, plan.config.final.test, num_seeds=num_seeds)
        for sentence in reads:
            folder.run.log_test_read(sentence)
        tools.store.write(cell, {"row": pixels, "test_reads": list(reads), **measured_on(plan.config)})
    row = tools.store.read(cell)["row"]
    return None if row is None else dict(row)


def _export(plan: Plan, final: FinalPlan, folder: ComparisonFolder, tools: SearchTools) -> None:
    """Cells hold no weights: the encoder that is carried away is trained once more from its seed."""
    job = plan.job_of(final, _flops(final, tools.store), tools.store, export_to=folder.run.encoder)
    job = dataclasses.replace(job, read_test=False)  # it has been scored
    serial = plan.config.predictor.device == "cpu" and plan.config.envs != "batched"
    with (
        threads(1 if serial else torch.get_num_threads()),
        tools.reporter.task(f"Encoder of {final.method.name}", job.episode.decisions, "decision") as progress,
    ):
        train_final(plan.assembled, job, lambda index, info: progress.advance())


def _flops(final: FinalPlan, store: Store) -> int:
    """Of the search that the encoder needs, which has been run."""
    return int(cost_of(final.search, store)["search_flops"])
