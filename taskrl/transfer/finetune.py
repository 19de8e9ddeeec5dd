"""Supervised fine-tuning of an encoder with a linear classifier, and the linear probe that it is compared with."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from taskrl.data.stream import BatchStream
from taskrl.errors import DataError
from taskrl.evaluation.accuracy import linear_classifier, standardised_pair
from taskrl.modalities.image.modeling import Encoder
from taskrl.predictor.compute import flops_of
from taskrl.seeding import torch_generator
from taskrl.transfer.labelled import Labelled
from taskrl.transfer.scores import Scores, score
from taskrl.transfer.training import Training, encode_all, features_of, optimise
from taskrl.transfer.trunk import How, freeze, set_modes
from taskrl.types import Inputs

LEARNING_RATES = (1e-4, 5e-4, 2.5e-3, 1e-2)
# a probe of few labels fits them with so much margin that hardly a gradient is left for the encoder; a smaller one
# says the same of every image (docs/finetune.md)
PROBE_SCALE = 0.3
NUM_EVALUATIONS = 10
ABSENT_LOGIT = -20.0


@dataclass(frozen=True)
class FineTuned:
    """An encoder with its classifier, chosen on the inner part. step: after which its weights were kept. flops,
    seconds: of the whole sweep, with the evaluations that chose.
    """

    encoder: Encoder
    classifier: nn.Linear
    learning_rate: float
    step: int
    inner: Scores
    flops: int = 0
    seconds: float = 0.0


def fine_tune(
    encoder: Encoder,
    data: Labelled,
    how: How,
    training: Training,
    *,
    seed: int,
    learning_rates: Sequence[float] = LEARNING_RATES,
    after_rate: Callable[[], None] = lambda: None,
) -> FineTuned:
    """Train a copy of `encoder` and a classifier at every learning rate; the best weights of all by the inner part.

    Every rate starts from the same weights and meets the same batches and views, all by `seed`. The inner part is read
    ten times a rate, and before the first step where the start is the probe's solution. `encoder` is left as it is.
    Raises DataError when no rate gave finite numbers.
    """
    started = time.monotonic()
    per_image = encode_flops(encoder, data.inputs.sample_shape)
    start = nn.Linear(encoder.feature_dim, data.num_classes)
    nn.init.zeros_(start.weight)
    nn.init.zeros_(start.bias)
    flops = 0
    if how.linear_first:
        features = encode_all(copy.deepcopy(encoder).to(training.device), data.inputs, training.device)
        start = probe_classifier(features, data.labels, data.num_classes)
        with torch.no_grad():
            start.weight.mul_(PROBE_SCALE)
            start.bias.mul_(PROBE_SCALE)
        flops += len(data.labels) * per_image
    best: FineTuned | None = None
    for rate in learning_rates:
        found, spent, num_evaluations = _train(encoder, start, data, how, training, rate, seed)
        flops += spent + num_evaluations * len(data.inner_labels) * per_image
        if found is not None and found.inner.better_than(None if best is None else best.inner):
            best = found
        after_rate()
    if best is None:
        raise DataError(
            "Fine-tuning gave no finite loss at any learning rate; the encoder's weights or the images are not finite."
        )
    return replace(best, flops=flops, seconds=time.monotonic() - started)


def _train(
    encoder: Encoder, start: nn.Linear, data: Labelled, how: How, training: Training, rate: float, seed: int
) -> tuple[FineTuned | None, int, int]:
    """The best weights at one learning rate, the FLOPs of its training steps, and how often the inner part was read."""
    net, classifier = copy.deepcopy(encoder).to(training.device), copy.deepcopy(start).to(training.device)
    trained = freeze(net, how.last)
    rng, order = training.views_rng(seed), torch_generator(seed, "labelled order")
    rows = BatchStream(_RowNumbers(len(data.labels)), min(training.batch_size, len(data.labels))).batches(order)
    every = max(1, training.steps // NUM_EVALUATIONS)
    best: FineTuned | None = None
    step_flops = num_steps = num_evaluations = 0

    def loss() -> Tensor:
        nonlocal step_flops
        chosen = next(rows)
        views, labels = training.view(data.inputs.take(chosen), rng), data.labels[chosen].to(training.device)
        set_modes(net, trained)
        if not step_flops:  # all batches are of one size
            step_flops = _step_flops(net, classifier, views, labels)
        return F.cross_entropy(classifier(features_of(net, views)).float(), labels)

    def keep(step: int, _: float) -> None:
        nonlocal best, num_steps, num_evaluations
        num_steps = step
        if step % every and step != training.steps:
            return
        num_evaluations += 1
        found = score(classify(net, classifier, data.inner_inputs, training.device), data.inner_labels)
        if found.better_than(None if best is None else best.inner):
            copies = copy.deepcopy(net).cpu(), copy.deepcopy(classifier).cpu()
            best = FineTuned(*copies, learning_rate=rate, step=step, inner=found)

    if how.linear_first:
        keep(0, 0.0)  # a start that is a probe already; training has to beat it
    optimise([*net.parameters(), *classifier.parameters()], loss, training, rate, keep)
    return best, num_steps * step_flops, num_evaluations


def classify(encoder: Encoder, classifier: nn.Linear, inputs: Inputs, device: torch.device) -> Tensor:
    """Logits (N, num_classes) on the CPU, without views, in eval mode."""
    features = encode_all(encoder.to(device), inputs, device)
    with torch.no_grad():
        return F.linear(features, classifier.weight.cpu(), classifier.bias.cpu())


def linear_probe(encoder: Encoder, data: Labelled, device: torch.device) -> nn.Linear:
    """The protocol's linear probe: a logistic regression on frozen features of both parts, its strength chosen by
    cross-validation inside them. On the CPU.
    """
    encoder = encoder.to(device)
    features = torch.cat([encode_all(encoder, part, device) for part in (data.inputs, data.inner_inputs)])
    return probe_classifier(features, torch.cat([data.labels, data.inner_labels]), data.num_classes)


def probe_classifier(features_ND: Tensor, labels_N: Tensor, num_classes: int) -> nn.Linear:
    """A logistic regression on standardised features as a linear layer on the features themselves; classes that do not
    occur get a logit of -20.
    """
    (matrix,) = standardised_pair(features_ND)
    with threadpool_limits(limits=1):
        model = linear_classifier(matrix, labels_N.numpy())
    mean, sd = features_ND.double().mean(0), features_ND.double().std(0)
    sd = torch.where(sd > 1e-8, sd, torch.ones_like(sd))
    weight, bias = torch.from_numpy(model.coef_).double(), torch.from_numpy(model.intercept_).double()
    if len(weight) == 1:  # scikit-learn's binary form: the logit of the second class against the first
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    layer = nn.Linear(features_ND.shape[1], num_classes)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(ABSENT_LOGIT)
        layer.weight[model.classes_] = (weight / sd).float()
        layer.bias[model.classes_] = (bias - (weight * (mean / sd)).sum(1)).float()
    return layer


def encode_flops(encoder: Encoder, sample_shape: tuple[int, ...]) -> int:
    """FLOPs of encoding one image of `sample_shape` (C, H, W)."""
    net = copy.deepcopy(encoder).cpu().eval()
    with torch.no_grad():
        return flops_of(lambda: features_of(net, torch.zeros(1, *sample_shape)))


def _step_flops(net: Encoder, classifier: nn.Linear, views: Tensor, labels: Tensor) -> int:
    """FLOPs of one training step, counted on copies."""
    net, classifier = copy.deepcopy(net), copy.deepcopy(classifier)
    return flops_of(lambda: F.cross_entropy(classifier(features_of(net, views)), labels).backward())


@dataclass(frozen=True)
class _RowNumbers:
    """Inputs that are their own row numbers, so that labels can be drawn along with images."""

    num: int
    sample_shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.num

    def take(self, indices: Tensor) -> Tensor:
        return indices
