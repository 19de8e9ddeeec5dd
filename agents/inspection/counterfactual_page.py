"""`taskrl inspect --counterfactuals`: what it will cost, the branches, a table and a file."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from agents.catalogue import AGENTS
from agents.compare.folder import is_comparison
from agents.final import Generator, check_generator
from agents.forecast import rates
from agents.inspection.counterfactuals import Branched, BranchJob, alternatives_of, branch, compared
from agents.inspection.why_of_run import plain_answer
from agents.options import pieces
from agents.preparation import prepare
from agents.progress import Reporter
from agents.schedule import row_at
from agents.session import check_images
from envs.host import WorkerSetup
from envs.workers import open_pool
from taskrl.assemble import Assembled, task_space
from taskrl.errors import ConfigError, RunFolderError
from taskrl.folders import typed
from taskrl.report_figures import brief, counted
from taskrl.run_folder import RunFolder, check_new_file, write_result

FORMAT_VERSION = 1
DEFAULT_AT = (0.0, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class CounterfactualRequest:
    """seeds: episodes, as many as final encoders of as many train seeds. at: progress of the snapshots; None is early,
    middle and late. ahead: decisions that are played from each; None is a quarter of the episode. choices: whose levels
    are tried; None is all. out: new JSON file.
    """

    seeds: int = 5
    at: tuple[float, ...] | None = None
    ahead: int | None = None
    choices: tuple[str, ...] | None = None
    out: Path | None = None


def requested(asked: bool, options: Mapping[str, Any]) -> CounterfactualRequest | None:
    """The command line's options as a request; None where it is not asked for. Raises ConfigError for options that
    then mean nothing.
    """
    given = {name.removeprefix("--"): value for name, value in options.items() if value not in (None, [])}
    if not asked:
        if given:
            raise ConfigError(f"{', '.join(f'--{name}' for name in given)} is for --counterfactuals; give that too.")
        return None
    if "at" in given:
        given["at"] = tuple(_share(piece) for piece in pieces(given["at"]))
        if not given["at"]:
            raise ConfigError("--at names no progress; give numbers from 0 (start) to 1 (last decision), e.g. 0,0.5.")
    if "choices" in given:
        given["choices"] = tuple(pieces([given["choices"]]))
        if not given["choices"]:
            raise ConfigError(
                "--choices names no choice; name some, e.g. crop,mirror, or leave it out for all of them."
            )
    return CounterfactualRequest(**given)


def counterfactuals(path: Path, request: CounterfactualRequest, reporter: Reporter) -> None:
    """Train the branches and say what they gained. Raises ConfigError, DataError or RunFolderError before anything is
    trained; stopped, it has written nothing.
    """
    run = RunFolder.open(path)
    _check(run, request)
    config = run.config()
    final = config.final
    starts = starts_of(request.at, final.decisions)
    dataset, assembled = prepare(config)
    check_images(run, assembled)
    check_generator(assembled, Generator(name="learned", source=str(run.policy)))
    space = task_space(config, assembled.splits.pretraining.inputs.sample_shape)
    alternatives = alternatives_of(space, request.choices)
    jobs = [
        BranchJob(
            policy=run.policy,
            episode=final.episode,
            train_seed=seed,
            start=start,
            ahead=min(request.ahead or max(1, final.decisions // 4), final.decisions - start),
            alternatives=alternatives,
        )
        for seed in range(request.seeds)
        for start in starts
    ]
    reporter.say(cost_note(assembled, jobs))
    began = time.perf_counter()
    found = _branches(jobs, WorkerSetup(config, dataset, AGENTS[config.agent.name].codec), reporter)
    rows = compared(found, space)
    for start in starts:
        reporter.console.print(gains_table(rows, [one for one in found if one.job.start == start]))
    reporter.say(chance_note(rows))
    if request.out:
        record = {
            "format_version": FORMAT_VERSION,
            "run": run.path.name,
            "agent": config.agent.name,
            "data": assembled.data_name,
            "probe": assembled.config.reward.probe,
            "num_seeds": request.seeds,
            "steps_per_decision": final.steps_per_decision,
            "rows": rows,
            "own": [_own(one) for one in found],
            "wall_seconds": round(time.perf_counter() - began, 1),
        }
        write_result(request.out, record)
        reporter.say(f"Written: {request.out}")


def _check(run: RunFolder, request: CounterfactualRequest) -> None:
    """Raises ConfigError or RunFolderError."""
    if is_comparison(run.path):
        raise RunFolderError(
            f"{str(run.path)!r} is a comparison; --counterfactuals needs a run, which taskrl train makes: "
            f"taskrl train --config {typed(run.config_file)} --out NEW-FOLDER."
        )
    plain = plain_answer(run)
    if plain:
        raise RunFolderError(f"--counterfactuals needs a run with a learned policy. {plain}")
    if request.out:
        check_new_file(request.out, "--out")


def _branches(jobs: Sequence[BranchJob], setup: WorkerSetup, reporter: Reporter) -> list[Branched]:
    """All jobs, in their order."""
    found: dict[int, Branched] = {}
    longest = max(_num_decisions(job) * job.episode.steps_per_decision for job in jobs)
    pool = open_pool(setup, warn=lambda sentence: reporter.say(f"Warning: {sentence}"), job_steps=longest)
    with closing(pool):
        try:
            with reporter.task("Counterfactuals", len(jobs), "snapshot") as progress:
                for index, one in pool.map(branch, [(job,) for job in jobs]):
                    found[index] = one
                    progress.advance(f"seed {one.job.train_seed}, decision {one.job.start + 1}")
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Nothing was written.") from None
    return [found[index] for index in range(len(jobs))]


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _no_progress(text) from None


def _no_progress(text: str) -> ConfigError:
    return ConfigError(f"--at {brief(text)} is no progress; give a number from 0 (start) to 1 (last decision).")


def starts_of(at: Sequence[float] | None, decisions: int) -> tuple[int, ...]:
    """Numbers of the decisions that hold at these shares of progress. Raises ConfigError for one outside [0, 1]."""
    for share in at or ():
        if not 0 <= share <= 1:
            raise _no_progress(f"{share:g}")
    return tuple(sorted({row_at(share, decisions) for share in at or DEFAULT_AT}))


def cost_note(assembled: Assembled, jobs: Sequence[BranchJob]) -> str:
    """What the branches will cost. One level of each choice is the policy's own, and is not played again."""
    job = jobs[0]
    num_branches = _num_branches(job)
    num_decisions = sum(_num_decisions(job) for job in jobs)
    num_steps = num_decisions * job.episode.steps_per_decision
    cost = rates(assembled).sum(num_steps, num_measurings=num_decisions)
    snapshots = "1 snapshot" if len(jobs) == 1 else f"{len(jobs)} snapshots"
    return (
        f"Counterfactuals: {snapshots}, about {num_branches} other tasks from each, {num_decisions} "
        f"decisions of {job.episode.steps_per_decision} steps in all; {cost}. Fewer: --choices, --at, --ahead, --seeds."
    )


def _num_branches(job: BranchJob) -> int:
    return len(job.alternatives) - len({alternative.choice for alternative in job.alternatives} - {None})


def _num_decisions(job: BranchJob) -> int:
    """That a job plays, with those before its snapshot."""
    return job.start + job.ahead * (1 + _num_branches(job))


def gains_table(rows: Sequence[Mapping[str, Any]], own: Sequence[Branched]) -> Table:
    """One start: alternatives by their mean gain of quality over the policy's own tasks. own: of this start."""
    job = own[0].job
    begun = sum(one.qualities[job.start] for one in own) / len(own)
    ended = sum(one.qualities[-1] for one in own) / len(own)
    progress = job.start / job.episode.decisions
    decisions = counted(job.ahead, "decision")
    table = Table(
        title=f"At {progress:.0%} of the episode, for {decisions}: gain of quality over the policy's own tasks "
        f"(which bring it from {begun:.4f} to {ended:.4f})"
    )
    for title in ("instead", "gain [95 % interval]", "seeds", "seeds where it is the policy's own"):
        table.add_column(title)
    here = [row for row in rows if row["progress"] == progress]
    for row in sorted((row for row in here if row["gains"]), key=lambda row: -row["mean"]):
        interval = "" if row["low"] is None else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
        table.add_row(row["alternative"], f"{row['mean']:+.4f}{interval}", str(len(row["gains"])), str(row["num_own"]))
    same = [row["alternative"] for row in here if not row["gains"]]
    if same:
        table.caption = f"The same as the policy's own tasks: {', '.join(same)}"
    return table


def chance_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many intervals leave 0 out, and how many would if no alternative was better or worse."""
    told = [row for row in rows if row["low"] is not None]
    if not told:
        return "From one seed there are no intervals; give --seeds 5, say."
    better, worse = sum(row["low"] > 0 for row in told), sum(row["high"] < 0 for row in told)
    # resampled means of few values all lie on one side of 0 wherever the values do, as half of all pairs do
    by_chance = sum(max(0.05, 2.0 ** (1 - len(row["gains"]))) for row in told)
    return (
        f"Of {len(told)} intervals {better} lie above 0 (the policy would have done better otherwise) and {worse} "
        f"below it; by chance alone about {by_chance:.0f} would leave 0 out."
    )


def _own(one: Branched) -> dict[str, Any]:
    return {
        "progress": one.job.start / one.job.episode.decisions,
        "train_seed": one.job.train_seed,
        "qualities": list(one.qualities),
        "tasks": [spec.describe() for spec in one.played],
    }
