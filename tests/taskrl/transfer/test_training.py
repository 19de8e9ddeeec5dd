"""Schedule, views, trunks and scores that fine-tuning and distillation rest on."""

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor, nn

from taskrl.errors import ConfigError
from taskrl.modalities.image.encoders import make_encoder
from taskrl.modalities.image.modeling import Encoder
from taskrl.transfer.scores import Scores, score
from taskrl.transfer.training import Training, encode_all, features_of, optimise, view_levels, warmup_cosine
from taskrl.transfer.trunk import freeze, parse_how, set_modes, trunk
from tests.builders import generator, random_images

CPU = torch.device("cpu")


def settings(steps: int = 4) -> Training:
    return Training(steps=steps, batch_size=8, weight_decay=0.0, levels={}, device=CPU)


def encoder(name: str = "small", channels: int = 1, size: int = 32) -> Encoder:
    stats = [0.4] * channels, [0.3] * channels
    return make_encoder(name, in_channels=channels, image_size=size, width=8, mean=stats[0], std=stats[1], seed=0)[0]


def test_the_rate_rises_for_a_tenth_and_falls_to_nothing() -> None:
    shares = [warmup_cosine(step, 100) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(shares[9:]))
    assert 0 < shares[-1] < 0.001 and shares[55] == pytest.approx(0.5, abs=0.01)
    assert warmup_cosine(0, 1) == 1.0


def test_optimise_goes_down_and_says_when_a_loss_is_not_finite() -> None:
    weight = nn.Parameter(torch.tensor([[3.0]]))
    assert optimise([weight], lambda: (weight**2).sum(), settings(50), 0.1)
    assert weight.abs().item() < 2.0
    losses = iter([1.0, math.nan, 1.0])
    seen: list[int] = []
    finite = optimise(
        [weight], lambda: weight.sum() * next(losses), settings(3), 0.1, lambda step, _: seen.append(step)
    )
    assert not finite and seen == [1] and bool(torch.isfinite(weight).all())


def test_views_are_the_same_in_either_precision() -> None:
    images, levels = random_images(8, 3, 40), {"crop": 0.3, "jitter": 0.4, "greyscale": 0.2, "blur": 0.5, "noise": 0.1}
    views = []
    for precision in ("fp32", "bf16"):
        training = dataclasses.replace(settings(), levels=levels, precision=precision)
        with training.autocast():
            views.append(training.view(images, generator()))
    assert torch.equal(*views) and views[1].dtype == torch.float32


def test_biases_and_norms_do_not_decay() -> None:
    norm = nn.BatchNorm1d(2)
    training = Training(steps=20, batch_size=8, weight_decay=1.0, levels={}, device=CPU)
    matrix = nn.Parameter(torch.ones(2, 2))
    optimise([*norm.parameters(), matrix], lambda: 0 * (norm.weight.sum() + matrix.sum()), training, 0.1)
    assert torch.equal(norm.weight, torch.ones(2)) and float(matrix.detach().max()) < 0.9


@pytest.mark.parametrize("text", ["crop=0.6, mirror=0.5", "none"])
def test_views_are_read(text: str) -> None:
    assert view_levels(text, (1, 16, 16)) == ({} if text == "none" else {"crop": 0.6, "mirror": 0.5})


@pytest.mark.parametrize("text", ["cropp=0.6", "crop", "crop=many", "crop=2", "mirror=nan", "", "greyscale=0.2"])
def test_views_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        view_levels(text, (1, 16, 16))


FIRST_AND_LAST = {
    "small": ("stem", "widen"),
    "resnet18": ("conv1", "layer4"),
    "mobilenet_v3_small": ("features.0", "features.12"),
    "shufflenet_v2_x0_5": ("conv1", "conv5"),
    "regnet_y_400mf": ("stem", "trunk_output.block4"),
    "convnext_tiny": ("features.0", "features.7"),
}


@pytest.mark.parametrize("name", FIRST_AND_LAST)
def test_last_k_trains_the_end_of_every_architecture(name: str) -> None:
    net = encoder(name, 3)
    modules = trunk(net)
    assert (next(iter(modules)), list(modules)[-1]) == FIRST_AND_LAST[name]
    inside = {id(p) for module in modules.values() for p in module.parameters()}
    trained = freeze(net, 1)
    assert all(p.requires_grad for p in list(modules.values())[-1].parameters())
    for module in list(modules.values())[:-1]:
        assert not any(p.requires_grad for p in module.parameters())
    assert all(p.requires_grad for p in net.parameters() if id(p) not in inside), "what follows the trunk is trained"
    before = copy.deepcopy(net.state_dict())
    set_modes(net, trained)
    features_of(net, torch.rand(4, 3, 32, 32)).sum().backward()
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    last = list(modules)[-1]
    assert all(key.removeprefix("net.").removeprefix("backbone.").startswith(last) for key in changed), (
        "statistics of frozen norms stay as they came"
    )


def test_how_is_read_and_too_many_modules_are_refused() -> None:
    assert parse_how("last-2").last == 2 and parse_how("full").last is None
    assert parse_how("linear-then-full").linear_first
    for text in ("last-0", "last-x", "fulll", "last--1"):
        with pytest.raises(ConfigError):
            parse_how(text)
    with pytest.raises(ConfigError, match=r"has 3 modules \(stem, blocks.0, widen\)"):
        freeze(encoder(), 4)
    net = encoder()
    assert freeze(net, None) == (net,) and all(p.requires_grad for p in net.parameters())


def naive_scores(logits: Tensor, labels: Tensor) -> tuple[float, float, float]:
    predicted = [max(range(logits.shape[1]), key=lambda c: float(logits[i, c])) for i in range(len(logits))]
    accuracy = sum(p == int(t) for p, t in zip(predicted, labels, strict=True)) / len(labels)
    loss = sum(
        -float(logits[i, labels[i]]) + math.log(sum(math.exp(float(x)) for x in logits[i])) for i in range(len(logits))
    )
    return 100 * accuracy, 100 * balanced_accuracy_score(labels, predicted), loss / len(labels)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_scores_match_a_loop_and_sklearn(num_classes: int) -> None:
    logits = torch.randn(40, num_classes, generator=generator(1), dtype=torch.float64)
    labels = torch.cat([torch.arange(num_classes), torch.zeros(40 - num_classes, dtype=torch.int64)])
    found = score(logits, labels)
    assert (found.accuracy, found.balanced, found.loss) == pytest.approx(naive_scores(logits, labels))
    shares = logits.softmax(1).numpy()
    expected = roc_auc_score(labels, shares[:, 1] if num_classes == 2 else shares, multi_class="ovr")
    assert found.auroc == pytest.approx(100 * expected)


def test_one_class_has_no_auroc_and_unknown_classes_are_never_right() -> None:
    assert score(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)).auroc is None
    found = score(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 2]))
    assert found.accuracy == 50 and math.isfinite(found.loss)


def test_ties_in_accuracy_are_broken_by_the_loss() -> None:
    def made(balanced: float, loss: float) -> Scores:
        return Scores(accuracy=0.0, balanced=balanced, auroc=None, loss=loss)

    assert made(60, 1).order > made(60, 2).order > made(50, 1).order


@pytest.mark.parametrize("make", [lambda net: net.train(), lambda net: net.eval()])
def test_encoding_leaves_modes_alone_and_repeats_grey_channels(make: Callable[[Encoder], Encoder]) -> None:
    from taskrl.data.dataset import InMemory

    net, images = make(encoder("small", 3)), random_images(5, 1, 32)
    was = net.training
    features = encode_all(net, InMemory(images), CPU)
    assert net.training is was
    with torch.no_grad():
        assert torch.allclose(features, net.eval()(images.expand(-1, 3, -1, -1)), atol=1e-6)
