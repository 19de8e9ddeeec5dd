"""Configuration -> MetaProblem: the single place that knows every registry."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from taskrl.config import EpisodeConfig, ExperimentConfig, RewardConfig
from taskrl.data.dataset import InMemory, RawDataset
from taskrl.data.splits import Probe as ProbeSplit
from taskrl.data.splits import Splits, make_splits
from taskrl.data.stream import BatchStream
from taskrl.errors import ConfigError, DataError
from taskrl.evaluation.detectability import Description
from taskrl.evaluation.probes import Probe
from taskrl.evaluation.reward import CostAware, Gain, RelativeToReference, RewardSignal, Scaled
from taskrl.initial import initial_encoder, with_initial
from taskrl.measuring import judges, labels_a_class, labels_are_few, observed_parts
from taskrl.meta import MetaProblem, ObservationSpec
from taskrl.modalities.image.datasets import is_drawn, load_images
from taskrl.modalities.image.description import describe_images, description_entries
from taskrl.modalities.image.encoders import make_encoder
from taskrl.modalities.image.modeling import Encoder
from taskrl.modalities.image.objectives.catalogue import MASKED_OBJECTIVES, image_objectives
from taskrl.modalities.image.views import view_knobs
from taskrl.predictor.batched import BatchedSteps
from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.inner_loop import PlainSteps, StepRules
from taskrl.predictor.predictor import Predictor
from taskrl.seeding import torch_generator
from taskrl.tasks.build import build_mixture
from taskrl.tasks.space import Codec, Knob, TaskSpace, restrict
from taskrl.tuning import threads, tuned
from taskrl.types import Inputs, ProbeData, pick_device

MASK_RATIO = Knob(name="mask_ratio", levels=(0.3, 0.6, 0.75), reference=1, logit=0.0, used_by=MASKED_OBJECTIVES)
LABELLED_PROBES = ("ridge", "few")
NUM_CALIBRATION = 256
NUM_STATISTICS = 2000
NUM_DRAWN_KEPT = 2  # the episodes of a group share a seed
ChannelStatistics = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Assembled:
    """A problem with the data that it came from and the configuration as it was resolved. draw: where the data are a
    distribution of sets, the same on the set of a seed.
    """

    problem: MetaProblem
    splits: Splits
    config: ExperimentConfig
    encoder_config: dict[str, object]
    draw: Callable[[int], "Assembled"] | None = None

    @property
    def data_name(self) -> str:
        """What a whole run is about: the set, or the distribution of sets."""
        return self.splits.name if self.draw is None else self.config.data.source

    def at(self, seed: int) -> "Assembled":
        """What an episode of `seed` is played on: this, or the set that the seed draws, paid and played as here."""
        if self.draw is None:
            return self
        drawn = self.draw(seed)
        problem = dataclasses.replace(drawn.problem, reward=self.problem.reward)
        return dataclasses.replace(drawn, problem=problem, config=self.config)


def load_data(config: ExperimentConfig) -> RawDataset:
    """Read the images that the configuration names, of a distribution of sets the one of the run's seed; tensors are
    put into shared memory for worker processes.
    """
    dataset = _load(config, config.seed)
    for part in filter(None, (dataset.train, dataset.validation, dataset.test)):
        if isinstance(part.inputs, InMemory):
            part.inputs.data.share_memory_()
    return dataset


def _load(config: ExperimentConfig, seed: int) -> RawDataset:
    data = config.data
    return load_images(
        data.source,
        root=Path(data.root) if data.root else None,
        image_size=data.image_size,
        seed=seed,
        download=data.download,
        groups=data.groups,
        use_labels=data.use_labels,
        memory_limit_bytes=data.memory_limit_mb * 2**20,
    )


def task_space(config: ExperimentConfig, sample_shape: Sequence[int], codec: Codec = "multidiscrete") -> TaskSpace:
    """The task space for images of `sample_shape` (C, H, W) under the user's restrictions."""
    registry = image_objectives()
    for name in config.tasks.objectives:
        registry[name]  # raises, naming the known ones
    knobs = [*view_knobs(sample_shape[0], sample_shape[1])]
    if set(config.tasks.objectives) & set(MASKED_OBJECTIVES):
        knobs.append(MASK_RATIO)
    limited = restrict(knobs, forbid=config.tasks.forbid, limit=config.tasks.limit)
    return TaskSpace(objectives=config.tasks.objectives, knobs=limited, codec=codec)


def assemble(
    config: ExperimentConfig,
    dataset: RawDataset,
    *,
    codec: Codec = "multidiscrete",
    alone: EpisodeConfig | None = None,
) -> Assembled:
    """Split the data, settle what the configuration leaves open, and build every part.

    alone: the only episode that is trained, in this process; None is the whole run.
    Raises ConfigError or DataError, one sentence each.
    """
    splits = make_splits(dataset, seed=config.data.split_seed)
    shape = splits.pretraining.inputs.sample_shape
    config = resolve(config, splits.probe)
    if len(splits.pretraining.inputs) < config.predictor.batch_size:
        raise DataError(
            f"{dataset.name} leaves {len(splits.pretraining.inputs)} pretraining images, fewer than one batch of "
            f"{config.predictor.batch_size}; set predictor.batch_size lower or give more images."
        )
    if splits.fitting is not None and len(splits.fitting.labels.unique()) < 2:
        raise DataError(
            f"All pretraining and probe images of {dataset.name} are of one class, so that no classifier can be fitted "
            "to them; give more classes or more groups, or pass --no-labels."
        )
    if config.reward.probe in LABELLED_PROBES:
        splits = dataclasses.replace(splits, notes=(*splits.notes, *_without_pay(splits)))
    statistics = channel_statistics(splits.pretraining.inputs)
    config = tuned(config, lambda candidate: _problem(candidate, splits, statistics, codec), shape, alone)
    _, encoder_config = _encoder(config, shape, statistics, seed=0)
    problem = dataclasses.replace(_problem(config, splits, statistics, codec), facts=dataset.facts)
    assembled = Assembled(problem, splits, config, encoder_config)
    return _with_draws(assembled, codec) if is_drawn(config.data.source) else assembled


def _with_draws(fixed: Assembled, codec: Codec) -> Assembled:
    """The same with the sets that other seeds draw; their shape, spaces and budget are those of `fixed`."""
    config = fixed.config

    @functools.lru_cache(maxsize=NUM_DRAWN_KEPT)
    def draw(seed: int) -> Assembled:
        with threads(1):  # to the bit the same in this process and in a worker
            dataset = _load(config, seed)
            splits = make_splits(dataset, seed=config.data.split_seed)
            statistics = channel_statistics(splits.pretraining.inputs)
            problem = _problem(config, splits, statistics, codec, meter=fixed.problem.meter)
        _, encoder_config = _encoder(config, splits.pretraining.inputs.sample_shape, statistics, seed=0)
        return Assembled(dataclasses.replace(problem, facts=dataset.facts), splits, config, encoder_config)

    problem = dataclasses.replace(fixed.problem, drawn=lambda seed: draw(seed).problem)
    return dataclasses.replace(fixed, problem=problem, draw=draw)


def _problem(
    config: ExperimentConfig,
    splits: Splits,
    statistics: ChannelStatistics,
    codec: Codec,
    *,
    meter: FlopMeter | None = None,
) -> MetaProblem:
    """meter: one that has counted already, of a problem on images of the same shape."""
    settings, shape = config.predictor, splits.pretraining.inputs.sample_shape
    device = pick_device(settings.device)

    def make_predictor(seed: int) -> Predictor:
        encoder, _ = _encoder(config, shape, statistics, seed=seed)
        return Predictor(
            encoder,
            feature_dim=encoder.feature_dim,
            sample_shape=shape,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            device=device,
            precision=settings.precision,
            compiled=settings.compile == "always",
            seed=seed,
            pretrained=bool(settings.init),
        )

    meter, rules = meter or FlopMeter(), StepRules(learning_rate=settings.learning_rate)
    space = task_space(config, shape, codec)
    (probe, probe_data), (hidden, hidden_data) = judges(
        config, splits.probe, splits.pretraining.inputs, space.knobs, device
    )
    _refuse_constant(splits, probe_data)

    @functools.cache
    def describe() -> Description:
        with threads(1):  # to the bit the same in this process and in a worker
            return describe_images(splits.pretraining, seed=config.data.split_seed)

    problem = MetaProblem(
        task_space=space,
        build_task=lambda spec: build_mixture(spec, image_objectives(), shape),
        make_predictor=make_predictor,
        inner_loop=PlainSteps(meter=meter, rules=rules),
        batched_loop=BatchedSteps(meter=meter, rules=rules),
        stream=BatchStream(splits.pretraining.inputs, settings.batch_size),
        probe=probe,
        probe_data=probe_data,
        calibration=_first(splits.pretraining.inputs, NUM_CALIBRATION, seed=config.data.split_seed).to(device),
        reward=Gain(),
        meter=meter,
        reference_step_flops=0,
        hidden=hidden,
        hidden_data=hidden_data,
        observation=_observation(config, probe, space),
        describe=describe,
    )
    problem = _with_unit(problem, settings.batch_size)
    return dataclasses.replace(problem, reward=reward_signal(config, problem.reference_step_flops))


def _classes(splits: Splits) -> tuple[int, int]:
    """How many classes the probe images have, and the pretraining and probe images together."""
    assert splits.probe.labels is not None
    assert splits.fitting is not None
    return len(splits.probe.labels.unique()), len(splits.fitting.labels.unique())


def _without_pay(splits: Splits) -> tuple[str, ...]:
    """Notes on what the labels that the reward reads cannot show."""
    (there, known), groups = _classes(splits), splits.probe.groups
    notes = [f"probe images have {there} of {known} classes; the reward sees none of the others"] * (there < known)
    if groups is not None and len(groups.unique()) == 1:
        notes.append(
            "all probe images are of one group, so that the reward sees what tells classes apart within it, and not "
            "what holds for other groups; give more groups"
        )
    return tuple(notes)


def _refuse_constant(splits: Splits, data: ProbeData) -> None:
    """Raises DataError where every fit of the probe would be to one class: it scores all features alike."""
    if data.labels is None:
        return
    fitted = [len(data.labels[data.folds != fold].unique()) for fold in data.folds.unique()]
    there, known = _classes(splits)
    if there >= 2 and (len(fitted) < 2 or max(fitted) >= 2):  # one label a class has one fold and is not cross-fitted
        return
    unit = "images" if splits.probe.groups is None else "groups"
    where = "" if there < 2 else f", in so few {unit} that every fold is fitted on one class"
    raise DataError(
        f"The probe images of {splits.name} have {there} of {known} classes{where}, so that the reward would be the "
        f"same for every encoder; give more {unit} of each class, or pay without labels: --probe panel."
    )


def _observation(config: ExperimentConfig, probe: Probe, space: TaskSpace) -> ObservationSpec:
    """What a learner observes. The description enters where sets differ: on a single set its entries are constants,
    which teach nothing, act as further biases, and would mislead the policy elsewhere.
    """
    mode, (parts, unlabelled) = config.agent.observe, observed_parts(probe)
    described = is_drawn(config.data.source) or mode == "descriptor"
    entries = description_entries([knob.name for knob in space.knobs if knob.used_by is None]) if described else ()
    lengths = config.episode.num_steps, config.episode.num_steps
    return ObservationSpec(mode=mode, description=entries, quality=parts, gains=unlabelled, lengths=lengths)


def reward_signal(config: ExperimentConfig, reference_step_flops: int) -> RewardSignal:
    """What a decision of the search pays; a scale that is still "auto" is 1. Raises ConfigError for a reference curve
    of another length than the episode's.
    """
    settings, episode = config.reward, config.episode
    signal: RewardSignal = Gain()
    if settings.shaping == "relative":
        curve = settings.reference_curve
        if len(curve) not in (0, episode.decisions + 1):
            raise ConfigError(
                f"reward.reference_curve has {len(curve)} values; {episode.decisions} decisions need "
                f"{episode.decisions + 1}, or leave it empty to have it measured."
            )
        signal = RelativeToReference(signal, curve)
    if settings.cost_weight:
        unit = episode.steps_per_decision * reference_step_flops
        signal = CostAware(signal, weight=settings.cost_weight, unit_flops=unit)
    return Scaled(signal, 1.0 if settings.scale == "auto" else settings.scale)


def with_reward(assembled: Assembled, config: ExperimentConfig) -> Assembled:
    """The same problem, paid and with episodes as `config` says, which differs in nothing else that the problem is made
    of.
    """
    problem = assembled.problem
    reward = reward_signal(config, problem.reference_step_flops)
    observation = _observation(config, problem.probe, problem.task_space)  # it knows how long episodes are
    problem = dataclasses.replace(problem, reward=reward, observation=observation)
    return dataclasses.replace(assembled, problem=problem, config=config)


def resolve(config: ExperimentConfig, split: ProbeSplit) -> ExperimentConfig:
    """Replace every "auto" that needs no measuring by what it means here, so that the run folder says what ran."""
    predictor, reward = config.predictor, config.reward
    device = find_device(predictor.device)
    probe = _probe_of(reward, split)
    return config.model_copy(
        update={
            "predictor": with_initial(predictor).model_copy(update={"device": str(device)}),
            "reward": reward.model_copy(update={"probe": probe}),
        }
    )


def find_device(name: str) -> torch.device:
    """The device called `name`. Raises ConfigError when it is not there."""
    device = pick_device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"Device {name!r} is not there (no CUDA GPU found); use --device auto or cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        known = ", ".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        raise ConfigError(f"Device {name!r} is not there; use one of {known}, or --device auto or cpu.")
    return device


def _probe_of(reward: RewardConfig, split: ProbeSplit) -> str:
    """The probe that pays. Labels alone where there are enough of them for frozen features; mixed with the panel where
    they are few or the goal is another; the panel without any.
    """
    labelled = split.labels is not None
    if reward.probe == "auto":
        enough = reward.goal == "frozen" and not labels_are_few(split, reward.labels_per_class)
        return ("ridge" if enough else "few") if labelled else "panel"
    if reward.probe in LABELLED_PROBES and not labelled:
        raise ConfigError(f"The {reward.probe} probe needs labels and the data have none; use reward.probe=panel.")
    if reward.probe == "ridge" and reward.goal != "frozen":
        raise ConfigError(
            f"The ridge probe measures frozen features, not goal {reward.goal!r}; use --probe few or panel."
        )
    if reward.probe == "ridge" and labels_a_class(split, reward.labels_per_class) < 2:
        raise ConfigError(
            "The ridge probe cannot be cross-fitted on 1 label a class; give at least 2, or use --probe few."
        )
    return reward.probe


def _encoder(
    config: ExperimentConfig, shape: Sequence[int], statistics: ChannelStatistics, *, seed: int
) -> tuple[Encoder, dict[str, object]]:
    mean, std = statistics
    if config.predictor.init:
        initial = initial_encoder(config.predictor, shape)
        return initial.fresh(), dict(initial.config)
    name, width = config.predictor.encoder, config.predictor.width
    return make_encoder(name, in_channels=shape[0], image_size=shape[1], width=width, mean=mean, std=std, seed=seed)


def _first(inputs: Inputs, count: int, *, seed: int) -> Tensor:
    """`count` inputs drawn once, the same for every run on this split."""
    order = torch.randperm(len(inputs), generator=torch_generator(seed, "calibration"))
    return inputs.take(order[:count])


def channel_statistics(inputs: Inputs) -> ChannelStatistics:
    """Mean and sd of each channel over at most 2,000 pretraining images, in [0, 1]."""
    sample = _first(inputs, NUM_STATISTICS, seed=0).float() / 255
    mean, std = sample.mean(dim=(0, 2, 3)), sample.std(dim=(0, 2, 3)).clamp(min=0.01)
    return [round(float(value), 5) for value in mean], [round(float(value), 5) for value in std]


def _with_unit(problem: MetaProblem, batch_size: int) -> MetaProblem:
    """The problem with the FLOPs of one step of the reference recipe, counted on a throw-away predictor."""
    predictor = problem.make_predictor(0)
    (part,) = problem.build_task(problem.task_space.reference).parts
    predictor.add_heads(part.task.head_specs(predictor.feature_dim))
    batch = torch.zeros((batch_size, *predictor.sample_shape), dtype=torch.uint8, device=predictor.device)
    return dataclasses.replace(problem, reference_step_flops=problem.meter.step(predictor, part, batch))
