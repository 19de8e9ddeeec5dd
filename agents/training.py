"""The main job: learn a task policy, train final encoders with it and with the yardsticks, write the comparison."""

import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents.catalogue import AGENTS
from agents.final import (
    SUPERVISED,
    UNTRAINED,
    FinalJob,
    FinalResult,
    Generator,
    check_generator,
    floors,
    generator_named,
    reference_episode,
    train_final,
)
from agents.forecast import cost_notes
from agents.keeping import copy_kept, kept_folders, stop_notes
from agents.preparation import NOTHING, Preparation, mean_curve, prepare, reference_seeds, settle
from agents.progress import Reporter
from agents.results import StoredFinal, finish
from agents.sb3 import Decision, SB3MetaOptimizer
from agents.summary import LEARNED
from envs.host import WorkerSetup
from envs.pool import Pool
from envs.workers import open_pool
from taskrl.assemble import Assembled
from taskrl.config import ExperimentConfig, flatten
from taskrl.data.dataset import RawDataset
from taskrl.folders import read_json
from taskrl.meta import SearchBudget
from taskrl.report_figures import duration
from taskrl.run_folder import RunFolder, refuse_existing, write_result
from taskrl.tasks.spec import TaskSpec
from taskrl.tracking import Tracker, open_tracker

PRIOR = "prior"
ARGMAX = "learned-argmax"


@dataclasses.dataclass(frozen=True)
class Session:
    """Everything that one sitting of a run works with."""

    run: RunFolder
    assembled: Assembled
    pool: Pool
    tracker: Tracker
    reporter: Reporter

    @property
    def config(self) -> ExperimentConfig:
        return self.assembled.config


def train(config: ExperimentConfig, out: Path, reporter: Reporter) -> RunFolder:
    """Begin a run in the new folder `out` and carry it to its end."""
    refuse_existing(out)
    generators = [generator_named(name) for name in config.final.generators if name != PRIOR]
    dataset, assembled = prepare(config)
    for generator in generators:
        check_generator(assembled, generator)
    _say_data(assembled, reporter)
    assembled, preparation = settle(assembled, reporter)
    run = RunFolder.create(out, assembled.config)
    write_result(preparation_file(run), preparation.to_json())
    return _carry_on(run, dataset, assembled, reporter)


def resume(path: Path, reporter: Reporter) -> RunFolder:
    """Carry an interrupted run to its end, from its last finished episodes."""
    run = RunFolder.open(path)
    if run.result_file.is_file():
        reporter.say(f"Nothing to do: {run.path} is finished.")
        return run
    dataset, assembled = prepare(run.config())
    _say_data(assembled, reporter)
    return _carry_on(run, dataset, assembled, reporter)


def _say_data(assembled: Assembled, reporter: Reporter) -> None:
    for note in data_notes(assembled):
        reporter.say(note)


def preparation_file(run: RunFolder) -> Path:
    """Where `Preparation` is kept once it has been measured."""
    return run.checkpoints / "preparation.json"


def _preparation(run: RunFolder) -> Preparation:
    """What was measured when the run began; nothing for a run of an earlier version."""
    file = preparation_file(run)
    return Preparation.from_json(read_json(file)) if file.is_file() else NOTHING


def _carry_on(run: RunFolder, dataset: RawDataset, assembled: Assembled, reporter: Reporter) -> RunFolder:
    with open_session(run, dataset, assembled, reporter) as session:
        _announce(session)
        spent = search(session)
        finals = _finals(session, spent)
        pixels = _pixels(session) if finals else None
        _keep_best_encoder(run, [final for final in finals if final.row["generator"] == LEARNED])
        finish(
            run,
            assembled,
            finals,
            pixels=pixels,
            search=spent,
            noise=_preparation(run).noise,
            reporter=reporter,
            tracker=session.tracker,
        )
    return run


@contextmanager
def open_session(run: RunFolder, dataset: RawDataset, assembled: Assembled, reporter: Reporter) -> Iterator[Session]:
    """Tracker and workers around a block; however it ends, they are closed and MLflow is told how it ended."""
    config = assembled.config
    note = run.checkpoints / "tracking.json"
    run_id = read_json(note).get("run_id") if note.is_file() else None
    tracker = open_tracker(
        run.path,
        uri=config.tracking.uri or None,
        experiment=config.tracking.experiment,
        run_name=run.path.name,
        run_id=run_id,
        warn=lambda sentence: reporter.say(f"Warning: {sentence}"),
    )
    codec = AGENTS[config.agent.name].codec
    pool = open_pool(WorkerSetup(config, dataset, codec), warn=lambda sentence: reporter.say(f"Warning: {sentence}"))
    status = "FAILED"
    try:
        tracker.log_params(flatten(config.model_dump()))
        tracker.log_artifact(run.config_file)
        yield Session(run, assembled, pool, tracker, reporter)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        reporter.say(f"Stopped. What is finished is kept; go on with: taskrl resume {run.path}")
        raise
    finally:
        pool.close()
        try:
            tracker.close(status)
        finally:  # a short run knows its id only once everything is stored
            if tracker.run_id:
                write_result(note, {"run_id": tracker.run_id})


def _announce(session: Session) -> None:
    """What this will cost, before it starts."""
    config = session.config
    num_finals = config.final.seeds * (1 + len(_yardsticks(session)))
    for note in (
        *cost_notes(
            session.assembled,
            [
                ("Search", config.agent.episodes, config.episode),
                ("Final encoders, without scoring", num_finals, config.final.episode),
            ],
        ),
        *stop_notes(config.final),
        f"Workers: {session.pool.num_workers} ({config.envs}, {config.predictor.precision}).",
    ):
        session.reporter.say(note)


def data_notes(assembled: Assembled) -> list[str]:
    """What was read: sizes of the roles, and what the loader had to leave out."""
    splits = assembled.splits
    inputs = {
        "pretraining": splits.pretraining.inputs,
        "probe": splits.probe.inputs,
        "validation": splits.validation.inputs,
    }
    sizes = ", ".join(f"{len(part)} {name}" for name, part in inputs.items())
    labels = "labels" if splits.fitting else "no labels"
    size = splits.pretraining.inputs.sample_shape
    return [f"Data: {splits.name}, {sizes} images of {size}, {labels}.", *(f"Note: {note}." for note in splits.notes)]


def search(session: Session) -> dict[str, float]:
    """Learn the policy (or find it finished) and save it; what the search cost."""
    run, config = session.run, session.config
    record = run.checkpoints / "search.json"
    if record.is_file() and run.policy.is_dir():
        return read_json(record)
    started = time.perf_counter()
    group = config.agent.group_size
    num_episodes = math.ceil(config.agent.episodes / group) * group
    log = SearchLog(session.tracker, config.episode.decisions)
    with session.reporter.task("Search", num_episodes, "episode") as progress:

        def observe(decision: Decision) -> None:
            quality = log.add(decision)
            if quality is not None:
                progress.advance(f"quality {quality:.3f}")

        optimizer = SB3MetaOptimizer(
            agent=config.agent,
            pool=session.pool,
            decisions=config.episode.decisions,
            seed=config.seed,
            checkpoints=run.checkpoints,
            observer=observe,
        )
        problem = session.assembled.problem
        _save_policy(optimizer.prior(problem), run.checkpoints / PRIOR, config)
        policy = optimizer.fit(
            problem, budget=SearchBudget(num_episodes=config.agent.episodes), tracker=session.tracker
        )
    _save_policy(policy, run.policy, config)
    total = optimizer.spent + _preparation(run).spent
    curve = config.reward.reference_curve if config.reward.shaping == "relative" else []
    if not curve:
        references = [result for _, result in session.pool.map(reference_episode, reference_seeds(config))]
        curve = mean_curve([qualities for qualities, _ in references])
        total = sum((compute for _, compute in references), total)
    spent = {
        "flops": total.flops,
        "images": total.images,
        "reference_quality": curve[-1],
        "wall_seconds": round(time.perf_counter() - started, 2),
        "overhead_share": round(log.overhead_share, 4),
    }
    session.reporter.say(
        f"Search took {duration(spent['wall_seconds'])}; {100 * spent['overhead_share']:.1f} % of its decisions' "
        "time was not training (measuring, policy, log)."
    )
    write_result(record, spent)
    return spent


def _save_policy(policy: Any, folder: Path, config: ExperimentConfig) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    policy.save(folder, {"data": config.data.source, "search_seed": config.seed, "episodes": config.agent.episodes})


class SearchLog:
    """Every decision of the search to the tracker: one batch a decision, one line an episode."""

    def __init__(self, tracker: Tracker, decisions: int) -> None:
        self._tracker = tracker
        self._decisions = decisions
        self._seconds = self._overhead_s = 0.0

    @property
    def overhead_share(self) -> float:
        """The share of the search's time so far that was not training: measuring, policy, log, learner."""
        return self._overhead_s / self._seconds if self._seconds else 0.0

    def add(self, decision: Decision) -> float | None:
        """Log it; the final quality when the decision ends its episode."""
        step = decision.episode * self._decisions + decision.index
        self._tracker.log_metrics(decision_metrics(decision.info, decision.reward), step=step)
        timings = decision.info["timings"]
        self._seconds += timings["decision_s"]
        self._overhead_s += timings["decision_s"] * timings["overhead_share"]
        if decision.index + 1 < self._decisions:
            return None
        quality = float(decision.info["quality"])
        metrics = {"return": decision.info["return"], "final_quality": quality}
        if "hidden_quality" in decision.info:
            metrics["hidden_quality"] = float(decision.info["hidden_quality"])
        self._tracker.log_metrics(metrics, step=decision.episode, kind="episode")
        return quality


def decision_metrics(info: Any, reward: float) -> dict[str, float]:
    """Action, reward parts, quality, losses, throughput and compute of one decision as flat numbers."""
    spec = TaskSpec.from_json(info["spec"])
    timings = info.get("timings", {})
    metrics = {"reward": reward, "quality": info["quality"], "diverged": float(info["diverged"])}
    metrics |= {f"reward_part/{name}": value for name, value in info["reward_parts"].items()}
    metrics |= {f"quality/{name}": value for name, value in info["quality_parts"].items()}
    metrics |= {f"loss/{name}": value for name, value in info["losses"].items()}
    metrics |= {f"steps/{name}": float(value) for name, value in info["num_steps"].items()}
    metrics |= {f"share/{name}": value for name, value in spec.mixture}
    metrics |= {f"level/{name}": value for name, value in spec.levels}
    metrics |= {f"compute/{name}": float(value) for name, value in info["compute"].items()}
    metrics |= {f"time/{name}": value for name, value in timings.items()}
    if timings.get("train_s"):
        metrics["steps_per_second"] = sum(info["num_steps"].values()) / timings["train_s"]
    return metrics


def _finals(session: Session, spent: dict[str, float]) -> list[StoredFinal]:
    """All final encoders, each kept as it finishes; those of an earlier sitting are not trained again."""
    config, run = session.config, session.run
    if not config.final.seeds:
        return []
    folder = run.checkpoints / "finals"
    folder.mkdir(exist_ok=True)
    generators = [Generator(name=LEARNED, source=str(run.policy)), *_yardsticks(session)]
    jobs = [_job(session, generator, seed) for seed in range(config.final.seeds) for generator in generators]
    missing = [job for job in jobs if not _result_file(folder, job).is_file()]
    for job in missing:
        for left_over in kept_folders(job.export_to) if job.export_to else []:
            shutil.rmtree(left_over, ignore_errors=True)
    with session.reporter.task("Final encoders", len(missing), "encoder") as progress:
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
        for name in session.config.final.generators
    ]
    argmax = Generator(name=ARGMAX, source=str(session.run.policy), argmax=True)
    floors_trained = [UNTRAINED]
    if session.assembled.problem.probe_data.labels is not None:
        floors_trained.append(SUPERVISED)
    return [argmax, *named, *(Generator(name=name, source=name) for name in floors_trained)]


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


def _search_cost(generator: Generator, spent: dict[str, float]) -> dict[str, float]:
    charged = generator.name in (LEARNED, ARGMAX)
    return {f"search_{name}": spent[name] if charged else 0 for name in ("flops", "images")}


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
