"""`taskrl pretrain`: one encoder under a given task generator, no reinforcement learning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.final import (
    FIXED,
    NAMED,
    FinalJob,
    FinalResult,
    Generator,
    check_generator,
    generator_named,
    played_episode,
    train_final,
)
from agents.forecast import cost_notes
from agents.keeping import BEST, LAST, stop_notes
from agents.policy import CARD
from agents.progress import Reporter
from agents.results import StoredFinal, finish
from agents.schedule import YAML
from agents.session import data_notes, decision_metrics, pretraining_file, reads_test
from agents.sitting import Sitting, sitting
from taskrl.assemble import Assembled, assemble, load_data, with_reward
from taskrl.config import ExperimentConfig, FinalConfig, flatten
from taskrl.errors import RunFolderError
from taskrl.report_figures import counted
from taskrl.run_folder import RunFolder, check_place, refuse_existing, write_result
from taskrl.tracking import Tracker, open_tracker


def pretrain(config: ExperimentConfig, policy: str, out: Path, reporter: Reporter) -> RunFolder:
    """Train one encoder into the new folder `out`. policy: a run folder, a schedule's file, or a generator's name."""
    refuse_existing(out)
    check_place(out)
    generator = find_generator(policy)
    assembled = assemble(config, load_data(config), alone=config.final.episode)
    check_generator(assembled, generator)
    # the job resolves its own episode: to do that twice may give another one
    final = config.final.model_copy(update=dict(played_episode(generator, config.final.episode)))
    for note in (
        *data_notes(assembled),
        *cost_notes(assembled, [("Pretraining, without scoring", 1, final.episode)], alone=True),
        *stop_notes(final),
    ):
        reporter.say(note)
    reward = assembled.config.reward.model_copy(update={"scale": 1.0})  # nobody is paid
    assembled = with_reward(assembled, assembled.config.model_copy(update={"reward": reward}))
    config = assembled.config
    run = RunFolder.create(out, config)
    write_result(pretraining_file(run), {"policy": policy, "decisions": final.decisions})
    tracker = open_tracker(
        run.path,
        uri=config.tracking.uri or None,
        experiment=config.tracking.experiment,
        run_name=run.path.name,
        warn=lambda sentence: reporter.say(f"Warning: {sentence}"),
    )
    status = "FAILED"
    plan = Sitting(data=assembled.data_name, num_workers=1, episodes=0, finals=1)
    try:
        with sitting(run, plan, assembled.problem.calibration):
            tracker.log_params({**flatten(config.model_dump()), "policy": policy})
            job = FinalJob(
                generator=generator,
                episode=config.final.episode,
                search_seed=config.seed,
                train_seed=0,
                export_to=run.encoder,
                read_test=final.test,
            )
            with run.watching_test_reads(reads_test(assembled)):
                result = _trained(assembled, job, final.decisions, tracker, reporter)
            for sentence in result.test_reads:
                run.log_test_read(sentence)
            row = result.row | {"search_flops": 0, "search_images": 0}
            reporter.say(_kept_note(row, result.trace.qualities if result.trace else (), final))
            stored = StoredFinal.of(row, result.trace)
            finish(run, assembled, [stored], pixels=None, search=None, reporter=reporter, tracker=tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        sentence = f"A pretraining cannot go on; remove {run.path} and give the command again."
        raise KeyboardInterrupt(sentence) from None
    finally:
        tracker.close(status)
    return run


def _trained(assembled: Assembled, job: FinalJob, decisions: int, tracker: Tracker, reporter: Reporter) -> FinalResult:
    with reporter.task("Pretraining", decisions, "decision") as progress:

        def after(index: int, info: Any) -> None:
            tracker.log_metrics(decision_metrics(info, info["reward_parts"]["gain"]), step=index)
            progress.advance(f"quality {info['quality']:.3f}")

        return train_final(assembled, job, after)


def _kept_note(row: Mapping[str, Any], qualities: Sequence[float], final: FinalConfig) -> str:
    """After which decisions the encoders that were kept come, and why training ended."""
    num, best = row["num_decisions"], row["best_decision"]
    ended = f"Trained for {counted(num, 'decision')}"
    if num < final.decisions:
        ended = (
            f"Stopped after {num} of {final.decisions} decisions: quality rose no more than its noise in the last "
            f"{final.patience}"
        )
    if best == num:
        return f"{ended}; quality was best after the last ({qualities[num]:.3f}): encoder/."
    scored, other = (BEST, LAST) if row["scored_decision"] == best else (LAST, BEST)
    places = {scored: "encoder/", other: f"encoder-{other}/"}
    return (
        f"{ended}; quality was best after decision {best} ({qualities[best]:.3f}: {places[BEST]}) and "
        f"{qualities[num]:.3f} after the last ({places[LAST]})."
    )


def find_generator(policy: str) -> Generator:
    """The generator for --policy. Raises ConfigError or RunFolderError."""
    if policy in NAMED or policy.startswith(FIXED):
        return generator_named(policy)
    return find_policy(policy, or_named=f", or one of {', '.join(NAMED)}, {FIXED}RECIPE")


def find_policy(policy: str, *, or_named: str = "") -> Generator:
    """The generator of a run folder, a policy folder or a schedule's file. Raises RunFolderError, which ends with
    `or_named`: what else may be given.
    """
    path = Path(policy)
    if policy.endswith(YAML) and path.is_file():
        return Generator(name="schedule", source=str(path.absolute()))
    for candidate in (path / "policy", path):
        if (candidate / CARD).is_file():
            return Generator(name="learned", source=str(candidate.absolute()))
    raise RunFolderError(
        f"No task policy at {policy!r}; give a run folder that has policy/, or a schedule (schedule.yaml){or_named}."
    )
