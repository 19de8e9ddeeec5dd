"""The main job: learn a task policy, train final encoders with it and with the yardsticks, write the comparison."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.catalogue import check_agent
from agents.final import (
    SUPERVISED,
    UNTRAINED,
    FinalJob,
    FinalResult,
    Generator,
    check_generator,
    floors,
    generator_named,
    train_final,
)
from agents.forecast import cost_notes, search_notes
from agents.keeping import copy_kept, discard_kept, stop_notes
from agents.online import ONLINE
from agents.policy_search import PRIOR, num_episodes, search
from agents.preparation import NOTHING, prepare, settle
from agents.pretraining import find_policy
from agents.progress import Reporter
from agents.results import StoredFinal, finish
from agents.schedule import SCHEDULE
from agents.session import (
    Session,
    check_images,
    data_notes,
    decision_metrics,
    keep_images,
    open_session,
    preparation_file,
    preparation_of,
    pretraining_file,
    reads_test,
)
from agents.sitting import Sitting, sitting
from agents.summary import LEARNED
from envs.workers import check_workers
from taskrl.assemble import Assembled
from taskrl.config import ExperimentConfig
from taskrl.data.dataset import RawDataset
from taskrl.errors import ConfigError, RunFolderError
from taskrl.run_folder import RunFolder, check_place, refuse_existing, write_result
from taskrl.tracking import Tracker

ARGMAX = "learned-argmax"
SEARCH, APPLY = "search", "apply"


def train(config: ExperimentConfig, out: Path, reporter: Reporter) -> RunFolder:
    """Begin a run in the new folder `out` and carry it to its end.

    config.mode: search for a task policy first; or learn one online, within each final run; or apply the one at
    config.policy.
    """
    refuse_existing(out)
    check_place(out)
    check_workers(config)
    if config.mode == SEARCH:
        check_agent(config.agent)
    generators = [generator_named(name) for name in config.final.generators if name != PRIOR]
    applied = _applied(config)
    dataset, assembled = prepare(config)
    for generator in (*generators, *([applied] if applied else [])):
        check_generator(assembled, generator)
    _say_data(assembled, reporter)
    preparation = NOTHING
    if config.mode == SEARCH:
        assembled, preparation = settle(assembled, reporter)
    run = RunFolder.create(out, assembled.config)
    if applied:
        _keep_policy(run, Path(applied.source))
    write_result(preparation_file(run), preparation.to_json())
    keep_images(run, assembled)
    return _carry_on(run, dataset, assembled, reporter)


def resume(path: Path, reporter: Reporter) -> RunFolder:
    """Carry an interrupted run to its end, from its last finished episodes; write a damaged result anew."""
    run = RunFolder.open(path)
    if run.has_result():
        reporter.say(f"Nothing to do: {run.path} is finished.")
        return run
    if pretraining_file(run).is_file():
        raise RunFolderError(
            f"{str(path)!r} is a pretraining that was stopped, which cannot go on; remove it and give the "
            "taskrl pretrain command again."
        )
    dataset, assembled = prepare(run.config())
    check_images(run, assembled)
    _say_data(assembled, reporter)
    return _carry_on(run, dataset, assembled, reporter)


def _applied(config: ExperimentConfig) -> Generator | None:
    """The policy that is applied, where one is."""
    if (config.mode == APPLY) != bool(config.policy):
        raise ConfigError(
            "--mode apply and --policy belong together: name the run, the policy folder or the schedule.yaml to apply."
        )
    return find_policy(config.policy) if config.policy else None


def _keep_policy(run: RunFolder, source: Path) -> None:
    """A copy of what is applied, so that the run can go on without the original."""
    if source.is_dir():
        shutil.copytree(source, run.policy)
    else:
        shutil.copyfile(source, run.path / SCHEDULE)


def _learned(session: Session) -> Generator:
    """The generator that the run is about."""
    if session.config.mode == ONLINE:
        return Generator(name=LEARNED, source=ONLINE)
    schedule = session.run.path / SCHEDULE
    return Generator(name=LEARNED, source=str(schedule if schedule.is_file() else session.run.policy))


def _say_data(assembled: Assembled, reporter: Reporter) -> None:
    for note in data_notes(assembled):
        reporter.say(note)


def _carry_on(run: RunFolder, dataset: RawDataset, assembled: Assembled, reporter: Reporter) -> RunFolder:
    images = assembled.problem.calibration
    with (
        run.held(),
        open_session(run, dataset, assembled, reporter) as session,
        sitting(run, _plan(session), images),
    ):
        _announce(session)
        spent = search(session) if session.config.mode == SEARCH else None
        finals = _finals(session, spent)
        pixels = _pixels(session) if finals else None
        _keep_best_encoder(run, [final for final in finals if final.row["generator"] == LEARNED])
        finish(
            run,
            assembled,
            finals,
            pixels=pixels,
            search=spent,
            noise=preparation_of(run).noise,
            reporter=reporter,
            tracker=session.tracker,
        )
    return run


def _plan(session: Session) -> Sitting:
    config = session.config
    return Sitting(
        data=session.assembled.data_name,
        num_workers=session.pool.num_workers,
        episodes=num_episodes(config.agent) if config.mode == SEARCH else 0,
        finals=_num_finals(session),
    )


def _num_finals(session: Session) -> int:
    return session.config.final.seeds * (1 + len(_yardsticks(session)))


def _num_trained(session: Session) -> int:
    return _num_finals(session) - session.config.final.seeds  # the untrained ones are scored alone


def _announce(session: Session) -> None:
    """What this will cost, before it starts."""
    config = session.config
    for note in (
        *cost_notes(
            session.assembled,
            [
                *([("Search", config.agent.episodes, config.episode)] if config.mode == SEARCH else []),
                ("Final encoders, without scoring", _num_trained(session), config.final.episode),
            ],
        ),
        *(search_notes(config) if config.mode == SEARCH and config.final.seeds else []),
        *stop_notes(config.final),
        f"Workers: {session.pool.num_workers} ({config.envs}, {config.predictor.precision}).",
    ):
        session.reporter.say(note)


def _finals(session: Session, spent: Mapping[str, Any] | None) -> list[StoredFinal]:
    """All final encoders, each kept as it finishes; those of an earlier sitting are not trained again."""
    config, run = session.config, session.run
    if not config.final.seeds:
        return []
    folder = run.checkpoints / "finals"
    folder.mkdir(exist_ok=True)
    generators = [_learned(session), *_yardsticks(session)]
    jobs = [_job(session, generator, seed) for seed in range(config.final.seeds) for generator in generators]
    missing = [job for job in jobs if not _result_file(folder, job).is_file()]
    for job in missing:
        if job.export_to:
            discard_kept(job.export_to)
    with (
        run.watching_test_reads(reads_test(session.assembled) and bool(missing)),
        session.reporter.task("Final encoders", len(missing), "encoder") as progress,
    ):
        for index, result in session.pool.map(train_final, [(job,) for job in missing]):
            job = missing[index]
            row = result.row | _search_cost(job.generator, spent)
            _log_final(session.tracker, job, result)
            for sentence in result.test_reads:
                run.log_test_read(sentence)
            StoredFinal.of(row, result.trace).write(_result_file(folder, job))
            accuracy = row["linear_accuracy"]
            progress.advance(f"{row['generator']} {accuracy:.1f} %" if accuracy is not None else row["generator"])
    return [StoredFinal.read(_result_file(folder, job)) for job in jobs]


def _yardsticks(session: Session) -> list[Generator]:
    named = [
        Generator(name=PRIOR, source=str(session.run.checkpoints / PRIOR)) if name == PRIOR else generator_named(name)
        for name in dict.fromkeys(session.config.final.generators)
        if name != PRIOR or session.config.mode == SEARCH
    ]
    has_policy = session.config.mode == SEARCH or session.run.policy.is_dir()
    argmax = [Generator(name=ARGMAX, source=str(session.run.policy), argmax=True)] if has_policy else []
    floors_trained = [UNTRAINED]
    if session.assembled.problem.probe_data.labels is not None:
        floors_trained.append(SUPERVISED)
    return [*argmax, *named, *(Generator(name=name, source=name) for name in floors_trained)]


def _job(session: Session, generator: Generator, train_seed: int) -> FinalJob:
    final = session.config.final
    keep = generator.name == LEARNED
    return FinalJob(
        generator=generator,
        episode=final.episode,
        search_seed=session.config.seed,
        train_seed=train_seed,
        export_to=session.run.checkpoints / f"encoder-{train_seed}" if keep else None,
        read_test=final.test,
    )


def _search_cost(generator: Generator, spent: Mapping[str, Any] | None) -> dict[str, float]:
    charged = spent if generator.name in (LEARNED, ARGMAX) and spent else {"flops": 0, "images": 0}
    return {f"search_{name}": charged[name] for name in ("flops", "images")}


def _log_final(tracker: Tracker, job: FinalJob, result: FinalResult) -> None:
    child = tracker.child(f"{job.generator.name}-{job.train_seed}")
    if result.trace:
        for index, (info, reward) in enumerate(zip(result.trace.infos, result.trace.rewards, strict=True)):
            child.log_metrics(decision_metrics(info, reward), step=index)
    numbers = {name: float(value) for name, value in result.row.items() if isinstance(value, int | float)}
    child.log_metrics(numbers, step=0, kind="final")
    child.close()


def _result_file(folder: Path, job: FinalJob) -> Path:
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in job.generator.name)
    return folder / f"{safe}-{job.train_seed}.json"


def _pixels(session: Session) -> dict[str, float] | None:
    final = session.config.final
    with session.run.watching_test_reads(reads_test(session.assembled)):
        pixels, reads = floors(session.assembled, final.test, num_seeds=final.seeds)
    for sentence in reads:
        session.run.log_test_read(sentence)
    return pixels


def _keep_best_encoder(run: RunFolder, learned: Sequence[StoredFinal]) -> None:
    """encoder/: the learned policy's encoder with the best validation accuracy (probe quality without labels)."""
    if not learned or run.encoder.exists():
        return

    def merit(result: StoredFinal) -> float:
        accuracy = result.row["validation_accuracy"]
        return float(result.row["quality"] if accuracy is None else accuracy)

    best = max(learned, key=merit).row["train_seed"]
    copy_kept(run.checkpoints / f"encoder-{best}", run.encoder)
