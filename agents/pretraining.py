"""`taskrl pretrain`: one encoder under a given task generator, no reinforcement learning."""

from pathlib import Path
from typing import Any

from agents.final import FinalJob, Generator, check_generator, generator_named, train_final
from agents.forecast import cost_notes
from agents.policy import CARD
from agents.progress import Reporter
from agents.results import StoredFinal, finish
from agents.training import data_notes, decision_metrics
from taskrl.assemble import assemble, load_data
from taskrl.config import ExperimentConfig, flatten
from taskrl.errors import RunFolderError
from taskrl.run_folder import RunFolder, refuse_existing
from taskrl.tracking import open_tracker


def pretrain(config: ExperimentConfig, policy: str, out: Path, reporter: Reporter) -> RunFolder:
    """Train one encoder into the new folder `out`. policy: a run folder, or "reference", "random", "fixed:RECIPE"."""
    refuse_existing(out)
    generator = find_generator(policy)
    assembled = assemble(config, load_data(config))
    check_generator(assembled, generator)
    for note in (
        *data_notes(assembled),
        *cost_notes(assembled, [("Pretraining, without scoring", 1, config.final.episode)]),
    ):
        reporter.say(note)
    run = RunFolder.create(out, assembled.config)
    config = assembled.config
    tracker = open_tracker(
        run.path,
        uri=config.tracking.uri or None,
        experiment=config.tracking.experiment,
        run_name=run.path.name,
        warn=lambda sentence: reporter.say(f"Warning: {sentence}"),
    )
    status = "FAILED"
    try:
        tracker.log_params({**flatten(config.model_dump()), "policy": policy})
        final = config.final
        job = FinalJob(
            generator=generator,
            episode=config.final.episode,
            search_seed=config.seed,
            train_seed=0,
            export_to=run.encoder,
            read_test=final.test,
        )
        with reporter.task("Pretraining", final.decisions, "decision") as progress:

            def after(index: int, info: Any) -> None:
                tracker.log_metrics(decision_metrics(info, info["reward_parts"]["gain"]), step=index)
                progress.advance(f"quality {info['quality']:.3f}")

            result = train_final(assembled, job, after)
        for sentence in result.test_reads:
            run.log_test_read(sentence)
        row = result.row | {"search_flops": 0, "search_images": 0}
        stored = StoredFinal.of(row, result.trace)
        finish(run, assembled, [stored], pixels=None, search=None, reporter=reporter, tracker=tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)
    return run


def find_generator(policy: str) -> Generator:
    """The generator for --policy. Raises ConfigError or RunFolderError."""
    if policy in ("reference", "random") or policy.startswith("fixed:"):
        return generator_named(policy)
    folder = Path(policy)
    for candidate in (folder / "policy", folder):
        if (candidate / CARD).is_file():
            return Generator(name="learned", source=str(candidate.absolute()))
    raise RunFolderError(
        f"No task policy at {policy!r}; give a run folder that has policy/, or reference, random, fixed:RECIPE."
    )
