"""Configuration -> MetaProblem: the single place that knows every registry."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from taskrl.config import ExperimentConfig
from taskrl.data.dataset import InMemory, RawDataset
from taskrl.data.splits import Probe as ProbeSplit
from taskrl.data.splits import Splits, cap_labels, folds, make_splits
from taskrl.data.stream import BatchStream
from taskrl.errors import ConfigError, DataError
from taskrl.evaluation.probes import LabelFreePanel, Probe, RidgeProbe
from taskrl.evaluation.reward import Gain
from taskrl.meta import MetaProblem
from taskrl.modalities.image.datasets import load_images
from taskrl.modalities.image.encoders import make_encoder
from taskrl.modalities.image.modeling import Encoder
from taskrl.modalities.image.objectives.catalogue import MASKED_OBJECTIVES, image_objectives
from taskrl.modalities.image.objectives.rotation import NUM_TURNS
from taskrl.modalities.image.views import make_view, view_knobs
from taskrl.predictor.batched import BatchedSteps
from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.inner_loop import PlainSteps, StepRules
from taskrl.predictor.predictor import Predictor
from taskrl.seeding import torch_generator
from taskrl.tasks.build import build_mixture
from taskrl.tasks.space import Codec, Knob, TaskSpace, restrict
from taskrl.tuning import tuned
from taskrl.types import Inputs, ProbeData, pick_device

MASK_RATIO = Knob(name="mask_ratio", levels=(0.3, 0.6, 0.75), reference=1, logit=0.0, used_by=MASKED_OBJECTIVES)
WEAK_VIEW = {"crop": 0.6, "jitter": 0.2, "noise": 0.05}
NUM_CALIBRATION = 256
NUM_STATISTICS = 2000
ChannelStatistics = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Assembled:
    """A problem with the data that it came from and the configuration as it was resolved."""

    problem: MetaProblem
    splits: Splits
    config: ExperimentConfig
    encoder_config: dict[str, object]


def load_data(config: ExperimentConfig) -> RawDataset:
    """Read the images that the configuration names; tensors are put into shared memory for worker processes."""
    data = config.data
    dataset = load_images(
        data.source,
        root=Path(data.root) if data.root else None,
        image_size=data.image_size,
        download=data.download,
        groups=data.groups,
        use_labels=data.use_labels,
        memory_limit_bytes=data.memory_limit_mb * 2**20,
    )
    for part in filter(None, (dataset.train, dataset.test)):
        if isinstance(part.inputs, InMemory):
            part.inputs.data.share_memory_()
    return dataset


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


def assemble(config: ExperimentConfig, dataset: RawDataset, *, codec: Codec = "multidiscrete") -> Assembled:
    """Split the data, settle what the configuration leaves open, and build every part.

    Raises ConfigError or DataError, one sentence each.
    """
    splits = make_splits(dataset, seed=config.data.split_seed)
    shape = splits.pretraining.inputs.sample_shape
    config = resolve(config, labelled=splits.probe.labels is not None)
    if len(splits.pretraining.inputs) < config.predictor.batch_size:
        raise DataError(
            f"{dataset.name} leaves {len(splits.pretraining.inputs)} pretraining images, fewer than one batch of "
            f"{config.predictor.batch_size}; set predictor.batch_size lower or give more images."
        )
    statistics = _channel_statistics(splits.pretraining.inputs)
    config = tuned(config, lambda candidate: _problem(candidate, splits, statistics, codec), shape)
    _, encoder_config = _encoder(config, shape, statistics, seed=0)
    return Assembled(_problem(config, splits, statistics, codec), splits, config, encoder_config)


def _problem(config: ExperimentConfig, splits: Splits, statistics: ChannelStatistics, codec: Codec) -> MetaProblem:
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
        )

    meter, rules = FlopMeter(), StepRules(learning_rate=settings.learning_rate)
    probe, probe_data = _probe(config, splits.probe, device)
    problem = MetaProblem(
        task_space=task_space(config, shape, codec),
        build_task=lambda spec: build_mixture(spec, image_objectives(), shape),
        make_predictor=make_predictor,
        inner_loop=PlainSteps(meter=meter, rules=rules),
        batched_loop=BatchedSteps(meter=meter, rules=rules),
        stream=BatchStream(splits.pretraining.inputs, settings.batch_size),
        probe=probe,
        probe_data=probe_data,
        calibration=_first(splits.pretraining.inputs, NUM_CALIBRATION, seed=config.data.split_seed).to(device),
        reward=Gain(scale=config.reward.scale),
        meter=meter,
        reference_step_flops=0,
    )
    return _with_unit(problem, settings.batch_size)


def resolve(config: ExperimentConfig, *, labelled: bool) -> ExperimentConfig:
    """Replace every "auto" that needs no measuring by what it means here, so that the run folder says what ran."""
    predictor, reward = config.predictor, config.reward
    device = pick_device(predictor.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"Device {predictor.device!r} is not there (no CUDA GPU found); use --device auto or cpu.")
    probe = reward.probe
    if probe == "auto":
        probe = "ridge" if labelled else "panel"
    if probe == "ridge" and not labelled:
        raise ConfigError("The ridge probe needs labels and the data have none; use reward.probe=panel.")
    return config.model_copy(
        update={
            "predictor": predictor.model_copy(update={"device": str(device)}),
            "reward": reward.model_copy(update={"probe": probe}),
        }
    )


def _encoder(
    config: ExperimentConfig, shape: Sequence[int], statistics: ChannelStatistics, *, seed: int
) -> tuple[Encoder, dict[str, object]]:
    mean, std = statistics
    name, width = config.predictor.encoder, config.predictor.width
    return make_encoder(name, in_channels=shape[0], image_size=shape[1], width=width, mean=mean, std=std, seed=seed)


def _first(inputs: Inputs, count: int, *, seed: int) -> Tensor:
    """`count` inputs drawn once, the same for every run on this split."""
    order = torch.randperm(len(inputs), generator=torch_generator(seed, "calibration"))
    return inputs.take(order[:count])


def _channel_statistics(inputs: Inputs) -> ChannelStatistics:
    """Mean and sd of each channel over at most 2,000 pretraining images, in [0, 1]."""
    sample = _first(inputs, NUM_STATISTICS, seed=0).float() / 255
    mean, std = sample.mean(dim=(0, 2, 3)), sample.std(dim=(0, 2, 3)).clamp(min=0.01)
    return [round(float(value), 5) for value in mean], [round(float(value), 5) for value in std]


def _probe(config: ExperimentConfig, split: ProbeSplit, device: torch.device) -> tuple[Probe, ProbeData]:
    """The probe with its frozen measuring data: chosen by the split seed alone, never by the agent."""
    settings, seed = config.reward, config.data.split_seed
    if settings.probe == "ridge":
        capped = cap_labels(split, settings.labels_per_class, seed=seed)
        everything = capped.inputs.take(torch.arange(len(capped.inputs)))
        fold = folds(len(everything), capped.labels, capped.groups, settings.num_folds, seed=seed)
        labels = None if capped.labels is None else capped.labels.to(device)
        return RidgeProbe(), ProbeData(inputs=everything.to(device), labels=labels, folds=fold.to(device))
    count = min(settings.panel_images, len(split.inputs))
    # drawn, not the first ones: a folder lists its images class by class
    rows = torch.randperm(len(split.inputs), generator=torch_generator(seed, "panel images"))[:count]
    images = split.inputs.take(rows)
    groups = None if split.groups is None else split.groups[rows]
    fold = folds(count, None, groups, settings.num_folds, seed=seed)
    rng = torch_generator(seed, "weak views")
    return LabelFreePanel(), ProbeData(
        inputs=images.to(device),
        folds=fold.to(device),
        pair=(make_view(images, rng, WEAK_VIEW).to(device), make_view(images, rng, WEAK_VIEW).to(device)),
        transforms=tuple(functools.partial(torch.rot90, k=turns, dims=(2, 3)) for turns in range(NUM_TURNS)),
    )


def _with_unit(problem: MetaProblem, batch_size: int) -> MetaProblem:
    """The problem with the FLOPs of one step of the reference recipe, counted on a throw-away predictor."""
    predictor = problem.make_predictor(0)
    (part,) = problem.build_task(problem.task_space.reference).parts
    predictor.add_heads(part.task.head_specs(predictor.feature_dim))
    batch = torch.zeros((batch_size, *predictor.sample_shape), dtype=torch.uint8, device=predictor.device)
    return dataclasses.replace(problem, reference_step_flops=problem.meter.step(predictor, part, batch))
