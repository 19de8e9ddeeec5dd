"""Distillation of an encoder into a smaller one on images without labels."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taskrl.data.dataset import InMemory
from taskrl.errors import DataError
from taskrl.modalities.image.modeling import Encoder
from taskrl.predictor.compute import flops_of
from taskrl.predictor.predictor import fresh_statistics
from taskrl.seeding import derive_seed, isolated_global_rng, torch_generator
from taskrl.transfer.training import Training, batches, encode_all, features_of, optimise
from taskrl.types import Compute, Inputs

TEMPERATURE = 0.1
RELATIONAL_WEIGHT = 0.3
NUM_STATISTICS = 1024
LAST_SHARE = 0.1


@dataclass(frozen=True)
class Distilled:
    """A student, trained, in eval mode. loss: mean of the last tenth of the steps."""

    encoder: Encoder
    loss: float
    compute: Compute


def feature_loss(projected_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared error of the student's projected features to the teacher's standardised ones (hints through a
    regressor: Romero et al. 2015, arXiv:1412.6550; a linear projector and normalised features: Miles & Mikolajczyk
    2024, arXiv:2303.11098).
    """
    return F.mse_loss(projected_BD, target_BD)


def relational_loss(student_BE: Tensor, teacher_BD: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Cross-entropy between teacher's and student's softmax over the cosine similarities of an image to the others of
    its batch, mean over images, minus the teacher's entropy: the KL divergence (SEED: Fang et al. 2021,
    arXiv:2101.04731; CompRess: Koohpayegani et al. 2020, arXiv:2010.14713; both with a queue, here the batch).
    """
    num = len(student_BE)
    others = ~torch.eye(num, dtype=torch.bool, device=student_BE.device)

    def log_shares(features: Tensor) -> Tensor:
        unit = F.normalize(features, dim=1)
        similarity = (unit @ unit.T)[others].view(num, num - 1)
        return (similarity / temperature).log_softmax(1)

    return F.kl_div(log_shares(student_BE), log_shares(teacher_BD), log_target=True, reduction="batchmean")


def distil(
    teacher: Encoder,
    student: Encoder,
    inputs: Inputs,
    training: Training,
    *,
    seed: int,
    learning_rate: float,
    after_step: Callable[[], None] = lambda: None,
) -> Distilled:
    """Train a copy of `student` to give `teacher`'s features through a linear projector, which is dropped.

    Both see the same view of an image (Beyer et al. 2022, arXiv:2106.05237). The teacher's features are standardised by
    their mean and sd over at most 1,024 clean images. The student's own features, before the projector, carry the
    relational loss. Batch-norm statistics are recomputed on clean images at the end. Raises DataError when the loss is
    not finite.
    """
    device = training.device
    teacher, student = copy.deepcopy(teacher).to(device).eval(), copy.deepcopy(student).to(device)
    clean = inputs.take(torch.randperm(len(inputs), generator=torch_generator(seed, "clean images"))[:NUM_STATISTICS])
    mean, sd = _statistics(teacher, clean, device)
    with isolated_global_rng(derive_seed(seed, "projector")):
        projector = nn.Linear(student.feature_dim, teacher.feature_dim).to(device)
    stream, rng = batches(inputs, training.batch_size, seed), training.views_rng(seed)
    student.train()
    losses: list[float] = []
    step_flops = num_images = 0

    def loss() -> Tensor:
        nonlocal step_flops, num_images
        views = training.view(next(stream), rng)
        num_images += 2 * len(views)
        if not step_flops:  # all batches are of one size
            step_flops = _step_flops(teacher, student, projector, views)
        with torch.no_grad():
            target = (features_of(teacher, views) - mean) / sd
        return _loss(student, projector, views, target)

    def book(step: int, value: float) -> None:
        losses.append(value)
        after_step()

    finite = optimise([*student.parameters(), *projector.parameters()], loss, training, learning_rate, book)
    if not finite:
        raise DataError(
            "The loss of the distillation is not finite; use fp32 (--set predictor.precision=fp32) or a smaller "
            "--learning-rate."
        )
    recalibrate(student, clean, device)
    last = losses[-max(1, round(LAST_SHARE * len(losses))) :]
    compute = Compute(flops=step_flops * len(losses), images=num_images)
    return Distilled(student.cpu().eval(), sum(last) / len(last), compute)


def recalibrate(encoder: Encoder, images: Tensor, device: torch.device) -> None:
    """Set batch-norm statistics to those of `images` (B, C, H, W), clean ones; `encoder` is left in eval mode."""
    encoder.to(device).train()
    with fresh_statistics(encoder), torch.no_grad():
        for part in images.split(NUM_STATISTICS // 4):
            if len(part) > 1:  # one image has no variance
                features_of(encoder, part.to(device))
    encoder.eval()


def _loss(student: Encoder, projector: nn.Linear, views: Tensor, target: Tensor) -> Tensor:
    features = features_of(student, views)
    centred = features - features.mean(0)  # features after a ReLU all point the same way
    return feature_loss(projector(features).float(), target) + RELATIONAL_WEIGHT * relational_loss(centred, target)


def _step_flops(teacher: Encoder, student: Encoder, projector: nn.Linear, views: Tensor) -> int:
    """FLOPs of one step, the teacher's pass included, counted on copies."""
    nets = copy.deepcopy((student, projector))

    def step() -> None:
        with torch.no_grad():
            target = features_of(teacher, views)
        _loss(*nets, views, target).backward()

    return flops_of(step)


def _statistics(teacher: Encoder, clean: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and sd (D,) of the teacher's features; a feature that never varies keeps its scale."""
    features = encode_all(teacher, InMemory(clean), device)
    sd = features.std(0)
    if not bool(torch.isfinite(features).all()):
        raise DataError("The teacher's features of these images are not all finite numbers; its weights are of no use.")
    return features.mean(0).to(device), torch.where(sd > 1e-6, sd, torch.ones_like(sd)).to(device)
