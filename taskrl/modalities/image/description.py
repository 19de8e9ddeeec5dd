"""What an image data set is like, without labels: which views show on untrained features, and plain statistics."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.data.splits import Pretraining, folds
from taskrl.evaluation.detectability import DETECTABLE, STATISTIC, Description, detect
from taskrl.modalities.image.encoders import make_encoder
from taskrl.modalities.image.modeling import SMALL
from taskrl.modalities.image.views import ViewDraw, apply_view, make_view, view_knobs
from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.predictor import Predictor
from taskrl.seeding import torch_generator
from taskrl.tasks.space import Knob
from taskrl.types import Compute

NUM_DESCRIBED = 512
MAX_SIDE = 32
WIDTH = 16
NUM_FOLDS = 5
GRID = 2
BATCH = 256
PROBABILITIES = ("mirror", "upside_down", "blur", "greyscale")
RESAMPLING = ("crop", "rotation")
STATISTICS = ("brightness", "contrast", "detail", "mirror_likeness")


def describe_images(pretraining: Pretraining, *, seed: int) -> Description:
    """Detectability of each view knob, and `STATISTICS`, of at most 512 pretraining images; on the CPU, deterministic.

    Features are the map of a small untrained encoder of fixed width and seed, averaged over quarters of the image
    (what is up or down hardly shows in averages over all of it). Whatever encoder a run trains, sets are so compared by
    their images alone. Images above 32 pixels a side are averaged down first. seed: of the images, the folds and the
    draws of the views.
    """
    inputs = pretraining.inputs
    rows = torch.randperm(len(inputs), generator=torch_generator(seed, "described images"))[:NUM_DESCRIBED]
    groups = None if pretraining.groups is None else pretraining.groups[rows]
    size = inputs.sample_shape[1]
    images = inputs.take(rows).float() / 255
    if size > MAX_SIDE:
        images = F.adaptive_avg_pool2d(images, MAX_SIDE)
    knobs = view_knobs(images.shape[1], size)
    resampled = _resampled(images, torch_generator(seed, "identity resample"))
    predictor = _untrained(images)
    predictor.recalibrate(images)
    found = detect(
        lambda shown: _coarse_map(predictor, shown),
        images,
        {knob.name: make_view(images, torch_generator(seed, "shown", knob.name), shown(knob)) for knob in knobs},
        folds(len(images), None, groups, NUM_FOLDS, seed=seed),
        against=dict.fromkeys(RESAMPLING, resampled),
    )
    num_encoded = found.num_encoded + len(images)
    flops = num_encoded * FlopMeter().encode(predictor) + found.solve_flops
    return Description(
        detectability=found.accuracy,
        statistics=statistics(images),
        compute=Compute(flops=flops, images=num_encoded),
    )


def description_entries(knobs: Sequence[str]) -> tuple[str, ...]:
    """Names of the observation's entries that a description of these view knobs fills."""
    return (*(f"{DETECTABLE}{name}" for name in knobs), *(f"{STATISTIC}{name}" for name in STATISTICS))


def shown(knob: Knob) -> dict[str, float]:
    """The strength at which a knob is shown: the reference's, or the strongest where the reference leaves it off; what
    a view does to a share of the images only is done to all of them.
    """
    level = knob.levels[knob.reference or -1]
    return {knob.name: 1.0 if knob.name in PROBABILITIES else level}


def statistics(images_NCHW: Tensor) -> dict[str, float]:
    """Means over images in [0, 1], each in [0, 1]: brightness; contrast (sd of the pixels, times 2); detail (mean
    step between neighbouring pixels over their sd); mirror_likeness (correlation with the mirror image, from -1 to 1
    moved to [0, 1]).
    """
    grey = images_NCHW.mean(1)
    centred = grey - grey.mean(dim=(1, 2), keepdim=True)
    sd = centred.square().mean(dim=(1, 2)).sqrt().clamp(min=1e-6)
    steps = (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean(dim=(1, 2)) + (grey[:, 1:] - grey[:, :-1]).abs().mean((1, 2))
    alike = (centred * centred.flip(2)).mean(dim=(1, 2)) / sd.square()
    values = (grey.mean(), 2 * sd.mean(), (steps / (2 * sd)).mean().clamp(max=1), (alike.mean() + 1) / 2)
    return dict(zip(STATISTICS, (float(value) for value in values), strict=True))


def _resampled(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image moved by up to half a pixel each way: what resampling alone does to it."""
    moved = torch.zeros(len(images), 2, 3)
    moved[:, 0, 0] = moved[:, 1, 1] = 1
    pixel = torch.tensor([1 / images.shape[3], 1 / images.shape[2]])  # half of one, in coordinates from -1 to 1
    moved[:, :, 2] = (2 * torch.rand((len(images), 2), generator=rng) - 1) * pixel
    return apply_view(images, ViewDraw(affine_B23=moved))


def _untrained(images: Tensor) -> Predictor:
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3)).clamp(min=0.01)
    channels, size = images.shape[1], images.shape[2]
    encoder, _ = make_encoder(
        SMALL, in_channels=channels, image_size=size, width=WIDTH, mean=mean.tolist(), std=std.tolist(), seed=0
    )
    return Predictor(encoder, feature_dim=encoder.feature_dim, sample_shape=(channels, size, size))


def _coarse_map(predictor: Predictor, images: Tensor) -> Tensor:
    encoder = predictor.encoder.eval()
    with torch.inference_mode():
        maps = [encoder.feature_map(part) for part in images.split(BATCH)]  # type: ignore[operator]
        return torch.cat([F.adaptive_avg_pool2d(part, GRID).flatten(1) for part in maps]).clone()
