"""Distillation: its losses against loops, what it learns, what it leaves alone."""

import copy
import math

import pytest
import torch
from torch import Tensor

from taskrl.data.dataset import InMemory
from taskrl.errors import ConfigError, DataError
from taskrl.modalities.image.encoders import make_encoder
from taskrl.modalities.image.modeling import Encoder
from taskrl.transfer.distil import distil, feature_loss, recalibrate, relational_loss
from taskrl.transfer.training import Training, encode_all
from tests.builders import blobs, generator

CPU = torch.device("cpu")


def encoder(width: int, seed: int = 0, channels: int = 1) -> Encoder:
    stats = [0.3] * channels, [0.3] * channels
    return make_encoder(
        "small", in_channels=channels, image_size=16, width=width, mean=stats[0], std=stats[1], seed=seed
    )[0]


def training(steps: int) -> Training:
    return Training(steps=steps, batch_size=32, weight_decay=0.05, levels={"crop": 0.6}, device=CPU)


def images() -> InMemory:
    return InMemory(blobs(torch.arange(120) % 4))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def naive_relational(student: Tensor, teacher: Tensor, temperature: float) -> float:
    num, total = len(student), 0.0
    for i in range(num):
        shares = []
        for features in (teacher, student):
            exps = [math.exp(cosine(features[i], features[j]) / temperature) for j in range(num) if j != i]
            shares.append([value / sum(exps) for value in exps])
        total += sum(p * math.log(p / q) for p, q in zip(*shares, strict=True))
    return total / num


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_relational_loss_is_the_divergence_of_a_loop(temperature: float) -> None:
    student = torch.randn(6, 3, generator=generator(0), dtype=torch.float64)
    teacher = torch.randn(6, 5, generator=generator(1), dtype=torch.float64)
    expected = naive_relational(student, teacher, temperature)
    assert float(relational_loss(student, teacher, temperature)) == pytest.approx(expected)
    assert float(relational_loss(3 * teacher, teacher, temperature)) == pytest.approx(0, abs=1e-9)


def test_the_feature_loss_is_the_mean_square_of_a_loop() -> None:
    a, b = torch.randn(4, 3, generator=generator(0)), torch.randn(4, 3, generator=generator(1))
    expected = sum((float(a[i, d]) - float(b[i, d])) ** 2 for i in range(4) for d in range(3)) / 12
    assert float(feature_loss(a, b)) == pytest.approx(expected, rel=1e-5)


def test_the_student_comes_closer_and_both_starts_are_left_alone() -> None:
    teacher, student, steps = encoder(8), encoder(4, 1), []
    before = [copy.deepcopy(net.state_dict()) for net in (teacher, student)]

    def run(num: int) -> float:
        found = distil(
            teacher, student, images(), training(num), seed=0, learning_rate=3e-3, after_step=lambda: steps.append(1)
        )
        assert not found.encoder.training and found.compute.images == num * 2 * 32
        return found.loss

    first, last = run(1), run(60)
    assert last < 0.8 * first and len(steps) == 61
    for net, state in zip((teacher, student), before, strict=True):
        assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_the_same_seed_gives_the_same_student_and_costs_are_by_step() -> None:
    def run(seed: int, steps: int = 3):  # type: ignore[no-untyped-def]
        return distil(encoder(8), encoder(4), images(), training(steps), seed=seed, learning_rate=1e-3)

    weights = [next(run(seed).encoder.parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert run(0, 6).compute.flops == 2 * run(0, 3).compute.flops > 0


def test_a_teacher_of_colour_images_teaches_a_student_of_grey_ones() -> None:
    found = distil(encoder(8, channels=3), encoder(4), images(), training(2), seed=0, learning_rate=1e-3)
    assert encode_all(found.encoder, images(), CPU).shape == (120, 16)


def test_recalibration_takes_the_statistics_of_clean_images() -> None:
    net = encoder(4)
    momentum = net.net.stem[1].momentum  # type: ignore[index,union-attr,operator]
    recalibrate(net, images().data, CPU)
    norm = net.net.stem[1]  # type: ignore[index,union-attr,operator]
    with torch.no_grad():
        before_norm = net.net.stem[0](net.normalise(images().data))  # type: ignore[index,union-attr,operator]
    assert torch.allclose(norm.running_mean, before_norm.mean((0, 2, 3)), atol=1e-4)
    assert norm.momentum == momentum and not net.training


def test_teachers_and_steps_that_are_of_no_use_are_refused() -> None:
    broken = encoder(8)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match="not all finite"):
        distil(broken, encoder(4), images(), training(1), seed=0, learning_rate=1e-3)
    with pytest.raises(ConfigError, match="at least 1"):
        training(0)
