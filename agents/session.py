"""One sitting of a run: its folder, problem, workers and tracker, and what every command says of its data."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from agents.catalogue import AGENTS
from agents.preparation import NOTHING, Preparation
from agents.progress import Reporter
from envs.host import WorkerSetup
from envs.pool import Pool
from envs.workers import open_pool
from taskrl.assemble import Assembled
from taskrl.config import ExperimentConfig, flatten
from taskrl.data.dataset import RawDataset
from taskrl.data.fingerprint import images_fingerprint
from taskrl.errors import RunFolderError
from taskrl.folders import read_json, typed
from taskrl.initial import initial_encoder
from taskrl.measuring import independent_labels
from taskrl.run_folder import RunFolder, write_result
from taskrl.tasks.spec import TaskSpec
from taskrl.tracking import Tracker, open_tracker


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


def preparation_file(run: RunFolder) -> Path:
    """Where `Preparation` is kept once it has been measured."""
    return run.checkpoints / "preparation.json"


def pretraining_file(run: RunFolder) -> Path:
    """What marks a run as a pretraining, which cannot be resumed."""
    return run.checkpoints / "pretraining.json"


def preparation_of(run: RunFolder) -> Preparation:
    """What was measured when the run began; nothing for a run of an earlier version."""
    file = preparation_file(run)
    return Preparation.from_json(read_json(file)) if file.is_file() else NOTHING


def images_file(run: RunFolder) -> Path:
    """Where a run keeps the fingerprint of its images."""
    return run.checkpoints / "images.json"


def keep_images(run: RunFolder, assembled: Assembled) -> None:
    """Write down which images the run is about."""
    write_result(images_file(run), {"fingerprint": images_fingerprint(assembled.splits)})


def check_images(run: RunFolder, assembled: Assembled) -> None:
    """Raises RunFolderError where images or labels are others than the run began with."""
    file = images_file(run)
    if not file.is_file():  # a run of an earlier version
        return
    if read_json(file).get("fingerprint") != images_fingerprint(assembled.splits):
        raise RunFolderError(
            f"The images or labels of {assembled.config.data.source!r} are others than {str(run.path)!r} began with; "
            f"put those back, or start a new run. To go on all the same, remove {str(file)!r}."
        )


@contextmanager
def open_session(run: RunFolder, dataset: RawDataset, assembled: Assembled, reporter: Reporter) -> Iterator[Session]:
    """Workers and tracker around a block; however it ends, they are closed and MLflow is told how it ended."""
    config = assembled.config
    pool = open_pool(
        WorkerSetup(config, dataset, AGENTS[config.agent.name].codec),
        warn=lambda sentence: reporter.say(f"Warning: {sentence}"),
        job_steps=config.final.episode.num_steps,
    )
    with closing(pool), _tracked(run, config, reporter) as tracker:
        yield Session(run, assembled, pool, tracker, reporter)


@contextmanager
def _tracked(run: RunFolder, config: ExperimentConfig, reporter: Reporter) -> Iterator[Tracker]:
    note = run.checkpoints / "tracking.json"
    run_id = read_json(note).get("run_id") if note.is_file() else None
    tracker = open_tracker(
        run.path,
        uri=config.tracking.uri or None,
        experiment=config.tracking.experiment,
        run_name=run.path.name,
        run_id=run_id,
        warn=lambda sentence: reporter.say(f"Warning: {sentence}"),
        opened=lambda run_id: write_result(note, {"run_id": run_id}),  # at once: a killed run goes on there too
    )
    status = "FAILED"
    try:
        tracker.log_params(flatten(config.model_dump()))
        tracker.log_artifact(run.config_file)
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise KeyboardInterrupt(f"What is finished is kept; go on with: taskrl resume {typed(run.path)}") from None
    finally:
        tracker.close(status)


def reads_test(assembled: Assembled) -> bool:
    """Whether final encoders are scored on test images."""
    return assembled.splits.scored_on(test=assembled.config.final.test) == "test"


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
    predictor = assembled.config.predictor
    begun = initial_encoder(predictor, size).notes if predictor.init else ()
    reward = assembled.config.reward
    few: tuple[str, ...] = ()
    there = independent_labels(splits.probe)
    if reward.probe == "few" and there < reward.labels_per_class:
        what = "labels" if splits.probe.groups is None else "labels of different groups"
        few = (f"about {there} probe {what} a class, which the reward mixes with the label-free panel",)
    unread: tuple[str, ...] = ()
    if assembled.config.final.test and not reads_test(assembled):
        unread = ("--final reads no test image where there are no labels; encoders have a quality, on probe images",)
    tested: tuple[str, ...] = ()
    if reads_test(assembled):
        tested = ("final encoders are scored on the test images (--final); choose nothing by these numbers",)
    notes = (f"Note: {note}." for note in (*splits.notes, *begun, *few, *unread, *tested))
    return [f"Data: {splits.name}, {sizes} images of {size}, {labels}.", *notes]


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
