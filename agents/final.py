"""Final encoders: train one under any generator on a paired seed, score it, and hand back a row of the table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from agents.baselines import RandomPolicy
from agents.encoders import raw_pixels
from agents.keeping import BEST, EMA, LAST, Keeper, beside, discard_kept
from agents.online import ONLINE, OnlinePolicy, online_episode
from agents.policy import load_policy
from agents.profile import profile_spec
from agents.rollout import Trace, run_episode
from agents.schedule import YAML, SchedulePolicy, check_played, load_schedule
from envs.factory import make_env
from envs.reference import reference_curve, refuse_ruined
from taskrl.assemble import Assembled, task_space
from taskrl.config import EpisodeConfig
from taskrl.data.splits import Fitting, Test, Validation
from taskrl.errors import ConfigError, RunFolderError
from taskrl.evaluation.accuracy import Accuracy, is_imbalanced, measure, pixel_accuracy
from taskrl.export import export_encoder
from taskrl.meta import MetaProblem, ObservationSpec, TaskPolicy
from taskrl.modalities.image.objectives.contrastive import HEAD as CONTRASTIVE
from taskrl.modalities.image.objectives.hard_views import HardViews
from taskrl.modalities.image.objectives.supervised import Supervised
from taskrl.predictor.predictor import Predictor
from taskrl.seeding import derive_seed
from taskrl.tasks.space import Codec, TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.tasks.task import Mixture, MixturePart
from taskrl.types import Compute, Inputs

UNTRAINED = "untrained"
SUPERVISED = "supervised"
HARD_VIEWS = "hard-views"
PROFILE = "profile"
FIXED = "fixed:"
NAMED = ("reference", "random", HARD_VIEWS, PROFILE, ONLINE)


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A row of the table.

    source: "reference", "random", "fixed:RECIPE", "profile", "online", "hard-views", "untrained", "supervised", the
    folder of a saved policy or a schedule's file (it ends in .yaml).
    """

    name: str
    source: str
    argmax: bool = False


@dataclass(frozen=True, kw_only=True)
class FinalJob:
    """One final encoder. export_to: where to write it, or None; the best or the last, whichever does not count, and the
    averaged one, go beside it. read_test: score on test images, not on validation.
    """

    generator: Generator
    episode: EpisodeConfig
    search_seed: int
    train_seed: int
    export_to: Path | None
    read_test: bool


@dataclass(frozen=True, kw_only=True)
class FinalResult:
    """The row (without search cost), the trace, and what was read of the test images."""

    row: dict[str, Any]
    trace: Trace | None
    test_reads: tuple[str, ...]


def is_recipe(name: str) -> bool:
    """Whether `name` is fixed:RECIPE; a recipe of nothing is none."""
    return name.startswith(FIXED) and name != FIXED


def generator_named(name: str) -> Generator:
    """The generator for a name of the configuration. Raises ConfigError for an unknown one."""
    if name in NAMED or is_recipe(name):
        return Generator(name=name, source=name)
    raise ConfigError(
        f"Unknown generator {name!r}; known: {', '.join(NAMED)}, prior, fixed:RECIPE (e.g. fixed:no-mirror)."
    )


def played_episode(generator: Generator, episode: EpisodeConfig) -> EpisodeConfig:
    """What `generator` plays where it is given `episode`: one that learns as it goes decides more often."""
    return online_episode(episode) if generator.source == ONLINE else episode


def make_policy(
    generator: Generator, spaces: Callable[[Codec], TaskSpace], problem: MetaProblem, *, seed: int
) -> tuple[TaskPolicy, Codec]:
    """The generator as a TaskPolicy and the codec of its actions; `seed` names its random stream."""
    if generator.source == "random":
        return RandomPolicy(spaces("multidiscrete"), seed=seed), "multidiscrete"
    if generator.source == ONLINE:
        return OnlinePolicy(spaces("multidiscrete"), seed=seed), "multidiscrete"
    if generator.source in ("reference", SUPERVISED, HARD_VIEWS) or generator.source.startswith(FIXED):
        space = spaces("box")
        if generator.source == HARD_VIEWS:
            _check_contrastive(space)
        if generator.source in (SUPERVISED, HARD_VIEWS):
            return SchedulePolicy(space, [space.reference]), "box"
        return SchedulePolicy(space, [space.recipe(generator.source.removeprefix(FIXED))]), "box"
    if generator.source == PROFILE:
        space = spaces("box")
        return SchedulePolicy(space, [profile_spec(problem, space)]), "box"
    if generator.source.endswith(YAML):
        space = spaces("box")
        return SchedulePolicy(space, load_schedule(Path(generator.source), space)), "box"
    policy = load_policy(Path(generator.source), spaces, seed=seed)
    return policy, policy.space.codec


def check_generator(assembled: Assembled, generator: Generator) -> None:
    """Raises ConfigError or RunFolderError, before anything is trained, when `generator` cannot act on these data."""
    shape = assembled.splits.pretraining.inputs.sample_shape
    problem = assembled.problem
    policy, _ = make_policy(generator, lambda codec: task_space(assembled.config, shape, codec), problem, seed=0)
    check_played(policy, assembled.config.final.decisions)
    shown_to(policy, problem)


def shown_to(policy: TaskPolicy, problem: MetaProblem) -> ObservationSpec:
    """What a saved policy learned to observe; the plain observation for others. Raises RunFolderError when it observes
    parts of the quality that are not measured here.
    """
    shown: ObservationSpec = getattr(policy, "shown", ObservationSpec())
    missing = [name for name in shown.quality if name not in problem.observation.quality]
    if missing or (shown.gains and not problem.observation.gains):
        what = f"the parts {', '.join(missing)} of a label-free quality" if missing else "gains of a label-free quality"
        raise RunFolderError(
            f"The policy observes {what}, which this run does not measure; use the --probe of the run that learned it."
        )
    return shown


def final_seed(assembled: Assembled, train_seed: int) -> int:
    """The seed of the episode that trains the final encoders of `train_seed`."""
    return derive_seed(assembled.config.seed, "final", train_seed)


def train_final(
    assembled: Assembled,
    job: FinalJob,
    after_decision: Callable[[int, Mapping[str, Any]], None] = lambda index, info: None,
) -> FinalResult:
    """Train, score and export one encoder. Seeds are paired: the same train_seed is the same start, and the same set
    where sets are drawn, for every generator. Raises ConfigError where training ruins it.
    """
    episode_seed = final_seed(assembled, job.train_seed)
    assembled = assembled.at(episode_seed)
    config, problem = assembled.config, assembled.problem
    shape = assembled.splits.pretraining.inputs.sample_shape
    trace: Trace | None = None
    # the floor `supervised` was trained on the labels that its quality is read from
    stops = config.final.stop == "auto" and job.generator.source != SUPERVISED
    ema = config.final.ema if job.export_to is not None else 0.0
    keeper = Keeper(patience=config.final.patience, stops=stops, ema=ema)
    if job.generator.source == UNTRAINED:
        predictor = problem.make_predictor(derive_seed(episode_seed, "predictor"))
    else:
        seed = derive_seed(config.seed, "final policy", job.generator.name, job.search_seed, job.train_seed)
        policy, codec = make_policy(job.generator, lambda codec: task_space(config, shape, codec), problem, seed=seed)
        played = dataclasses.replace(
            problem.unshaped(),
            task_space=task_space(config, shape, codec),
            make_predictor=lambda seed: keeper.follow(problem.make_predictor(seed)),
            build_task=_task_builder(problem, job.generator.source),
            observation=shown_to(policy, problem),
        )
        env = make_env(played, played_episode(job.generator, job.episode))
        trace = run_episode(
            env,
            policy,
            seed=episode_seed,
            deterministic=job.generator.argmax,
            after_decision=after_decision,
            stop=lambda quality: keeper.add(quality, env.predictor.encoder),
        )
        refuse_ruined(trace.qualities, f"the final encoder {job.generator.name}, train seed {job.train_seed}")
        if job.generator.source == PROFILE or env.observe.reads_description:
            trace = dataclasses.replace(trace, compute=trace.compute + problem.describe().compute)
        predictor = env.predictor
        if keeper.chosen_decision < keeper.num_decisions:
            keeper.swap(predictor.encoder)
    predictor.recalibrate(problem.calibration)
    reads: list[str] = []
    row = _row(assembled, job, predictor, trace, keeper, reads.append)
    if job.export_to is not None:
        _export(assembled, job, predictor, trace, keeper, row, reads.append)
    return FinalResult(row=row, trace=trace, test_reads=tuple(reads))


def _export(
    assembled: Assembled,
    job: FinalJob,
    predictor: Predictor,
    trace: Trace | None,
    keeper: Keeper,
    row: dict[str, Any],
    log: Callable[[str], None],
) -> None:
    """Write the encoder that the row scores, and beside it the best or the last one where that is another, and the one
    of averaged weights where there is one. Leaves `predictor` with the weights written last.
    """
    calibration, encoder = assembled.problem.calibration, predictor.encoder
    origin = {key: row[key] for key in ("generator", "train_seed", "search_seed", "train_flops")}
    shared = {"data": assembled.splits.name, **origin}
    scored_on = {"scored_on": assembled.splits.scored_on(test=job.read_test)}

    def write(folder: Path, decision: int, checkpoint: str, scores: Mapping[str, object]) -> None:
        which = {"checkpoint": checkpoint, "decision": decision, "num_decisions": keeper.num_decisions}
        seen = {"quality": trace.qualities[decision], "tasks": _told(trace.specs[:decision])} if trace else {}
        card, example = {**shared, **which, **seen, **scores}, calibration[:8].cpu()
        export_encoder(encoder, assembled.encoder_config, folder, example=example, card=card)  # type: ignore[arg-type]

    assert job.export_to is not None
    discard_kept(job.export_to)  # of a worker that was lost here
    one = keeper.best_decision == keeper.num_decisions
    checkpoint = f"{BEST} and {LAST}" if one else keeper.chosen
    scores = {"linear_accuracy": row["linear_accuracy"], **scored_on}
    write(job.export_to, keeper.chosen_decision, checkpoint, scores)
    if not one:
        other, decision = (LAST, keeper.num_decisions) if keeper.chosen == BEST else (BEST, keeper.best_decision)
        keeper.swap(encoder)
        predictor.recalibrate(calibration)
        write(beside(job.export_to, other), decision, other, {})
    if keeper.average is not None:
        keeper.average.put()
        predictor.recalibrate(calibration)
        scores = {"ema_decay": keeper.average.decay, **_scores(assembled, job, predictor, log), **scored_on}
        write(beside(job.export_to, EMA), keeper.num_decisions, EMA, scores)


def _scores(assembled: Assembled, job: FinalJob, predictor: Predictor, log: Callable[[str], None]) -> dict[str, Any]:
    """Of averaged weights, for their card."""
    reason = f"{job.generator.name}, train seed {job.train_seed}, averaged weights"
    (accuracy,) = score(assembled, predictor, _scored(assembled, job.read_test, log, reason))
    quality = assembled.problem.probe(predictor.encode, assembled.problem.probe_data).value
    return {"linear_accuracy": accuracy.linear if accuracy else None, "quality": quality}


def _told(specs: Sequence[str]) -> list[str]:
    """Which tasks the decisions trained, in order; equal ones that follow each other are one line."""
    lines, first = [], 1
    for spec, group in groupby(specs):
        last = first + len(list(group)) - 1
        which = f"decision {first}" if last == first else f"decisions {first} to {last}"
        lines.append(f"{which}: {TaskSpec.from_json(spec).describe()}")
        first = last + 1
    return lines


def _task_builder(problem: MetaProblem, source: str) -> Callable[[TaskSpec], Mixture]:
    """What makes a generator's tasks out of their specs."""
    if source == SUPERVISED:
        return _with_labels(problem)
    return _hard_views(problem) if source == HARD_VIEWS else problem.build_task


def _check_contrastive(space: TaskSpace) -> None:
    (first, *_) = space.objectives
    if first != CONTRASTIVE:
        raise ConfigError(
            f"hard-views is the reference recipe on harder views, and the recipe's objective is {first}, not "
            "contrastive; name contrastive first in tasks.objectives, or leave hard-views out."
        )


def _hard_views(problem: MetaProblem) -> Callable[[TaskSpec], Mixture]:
    """The recipe on the hardest of several views; choosing them is part of each step and of its FLOPs."""
    shape = tuple(problem.calibration.shape[1:])

    def build(spec: TaskSpec) -> Mixture:
        return Mixture((MixturePart(name=HARD_VIEWS, share=1.0, task=HardViews(dict(spec.levels), shape)),))

    return build


def _with_labels(problem: MetaProblem) -> Callable[[TaskSpec], Mixture]:
    """The floor `supervised`: half of the compute for the recipe, half for the labels that the reward reads."""
    data = problem.probe_data
    assert data.labels is not None

    def build(spec: TaskSpec) -> Mixture:
        recipe = problem.build_task(spec)
        task = Supervised(dict(spec.levels), data.inputs, data.labels)  # type: ignore[arg-type]
        halves = [dataclasses.replace(part, share=part.share / 2) for part in recipe.parts]
        return Mixture((*halves, MixturePart(name=SUPERVISED, share=0.5, task=task)))

    return build


def reference_episode(assembled: Assembled, seed: int) -> tuple[tuple[float, ...], Compute]:
    """`reference_curve` of an episode of the search's length, on the set of its seed."""
    return reference_curve(make_env(assembled.at(seed).problem.unshaped(), assembled.config.episode), seed=seed)


def floors(assembled: Assembled, read_test: bool, *, num_seeds: int) -> tuple[dict[str, float] | None, tuple[str, ...]]:
    """The floor `pixels` (None without labels) and what was read of the test images; the mean over the sets of the
    final encoders where sets are drawn.
    """
    if assembled.draw is None:
        return _floors(assembled, read_test)
    found = [_floors(assembled.at(final_seed(assembled, seed)), read_test) for seed in range(num_seeds)]
    rows = [pixels for pixels, _ in found if pixels is not None]
    reads = tuple(sentence for _, sentences in found for sentence in sentences)
    if not rows:
        return None, reads
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}, reads


def _floors(assembled: Assembled, read_test: bool) -> tuple[dict[str, float] | None, tuple[str, ...]]:
    fitting = assembled.splits.fitting
    reads: list[str] = []
    scored = _scored(assembled, read_test, reads.append, "floor pixels")
    if fitting is None or scored is None or scored.labels is None:
        return None, ()
    everything = raw_pixels(fitting.inputs), fitting.labels, raw_pixels(scored.inputs), scored.labels
    return pixel_accuracy(*everything), tuple(reads)


def score(assembled: Assembled, predictor: Predictor, *parts: Validation | Test | None) -> list[Accuracy | None]:
    """Accuracy of the predictor's frozen features on each part (None where there are no labels)."""
    fitting = assembled.splits.fitting
    labelled = [part for part in parts if part is not None and part.labels is not None]
    if fitting is None or not labelled:
        return [None for _ in parts]
    pairs = [(_features(predictor, part.inputs), part.labels) for part in labelled]
    results = iter(measure(_features(predictor, fitting.inputs), fitting.labels, pairs))  # type: ignore[arg-type]
    return [next(results) if part is not None and part.labels is not None else None for part in parts]


def _row(
    assembled: Assembled,
    job: FinalJob,
    predictor: Predictor,
    trace: Trace | None,
    keeper: Keeper,
    log: Callable[[str], None],
) -> dict[str, Any]:
    splits = assembled.splits
    scored = _scored(assembled, job.read_test, log, f"{job.generator.name}, train seed {job.train_seed}")
    on_validation, on_scored = score(assembled, predictor, splits.validation, scored)
    quality = (
        trace.qualities[keeper.chosen_decision]
        if trace
        else assembled.problem.probe(predictor.encode, assembled.problem.probe_data).value
    )
    return {
        "generator": job.generator.name,
        "search_seed": job.search_seed,
        "train_seed": job.train_seed,
        "split_seed": splits.split_seed,
        "linear_accuracy": on_scored.linear if on_scored else None,
        "balanced_accuracy": on_scored.balanced if on_scored else None,
        "imbalanced": _is_imbalanced(splits.fitting, scored),
        "knn_accuracy": on_scored.knn if on_scored else None,
        "validation_accuracy": on_validation.linear if on_validation else None,
        "validation_balanced_accuracy": on_validation.balanced if on_validation else None,
        # the supervised floor was trained on the very labels that the probe scores with
        "quality": None if job.generator.source == SUPERVISED else quality,
        "num_decisions": keeper.num_decisions,
        "planned_decisions": trace.num_planned if trace else 0,
        "best_decision": keeper.best_decision,
        "scored_decision": keeper.chosen_decision,
        "train_flops": trace.compute.flops if trace else 0,
        "train_images": trace.compute.images if trace else 0,
        "wall_seconds": round(trace.wall_seconds, 3) if trace else 0.0,
    }


def _is_imbalanced(fitting: Fitting | None, scored: Validation | Test | None) -> bool:
    """Whether balanced accuracy is the one to quote."""
    return bool(fitting and scored and scored.labels is not None and is_imbalanced(scored.labels, fitting.labels))


def _scored(assembled: Assembled, read_test: bool, log: Callable[[str], None], reason: str) -> Validation | Test | None:
    """The images that accuracy is of; where there are no labels, none are read."""
    if assembled.splits.scored_on(test=read_test) == "probe":
        return None
    return assembled.splits.open_test(log, reason) if read_test else assembled.splits.validation


def _features(predictor: Predictor, inputs: Inputs) -> torch.Tensor:
    rows = torch.arange(len(inputs)).split(1024)
    return torch.cat([predictor.encode(inputs.take(part)).cpu() for part in rows])
