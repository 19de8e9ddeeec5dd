"""Supervised fine-tuning of an encoder with a linear classifier, and the linear probe that it is compared with."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from taskrl.data.splits import Fitting
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
    """An encoder with its classifier, trained on all labels as the inner part chose. step: after which training ended.
    inner: what chose, of weights that had not seen the inner part. flops, seconds: of the whole sweep, with the
    evaluations that chose and the training that followed.
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
    """Train a copy of `encoder` and a classifier at every learning rate without the inner part; train another copy on
    all labels, at the rate and for as many steps as the inner part chose (Goodfellow et al. 2016, algorithm 7.2).

    Every training meets the same views by `seed`. The inner part is read ten times a rate, and before the first step
    where the start is the probe's solution. A rate is judged by its last step, and by an earlier one only where that
    was clearly better. `encoder` is left as it is. Raises DataError when no rate gave finite numbers.
    """
    started = time.monotonic()
    per_image = encode_flops(encoder, data.train.inputs.sample_shape)
    trials = _Trials(encoder, how, training, seed, data.num_classes, per_image)
    start, moments = trials.start(data.train), []
    for rate in learning_rates:
        moments += trials.judged(start, data, rate)
        after_rate()
    start = trials.start(data.together)
    moments.sort(key=lambda moment: moment.scores.order, reverse=True)
    for moment in moments:
        found = trials.trained(start, data.together, moment)
        if found is not None:
            return replace(found, flops=trials.flops, seconds=time.monotonic() - started)
    raise DataError(
        "Fine-tuning gave no finite loss at any learning rate; the encoder's weights or the images are not finite."
    )


@dataclass(frozen=True)
class _Moment:
    """The inner part after some steps. right: (N,), 1.0 where the class was right."""

    rate: float
    step: int
    scores: Scores
    right: Tensor

    def clearly_better_than(self, other: "_Moment", labels: Tensor) -> bool:
        """Whether balanced accuracy is higher by more than three standard errors of the paired difference: of ten
        readings on few images one looks better by chance.
        """
        counts = torch.bincount(labels).double()
        weights = len(labels) / (int((counts > 0).sum()) * counts[labels])
        gains = weights * (self.right - other.right)
        return bool(gains.mean() > 3 * gains.std() / math.sqrt(len(gains)))


@dataclass
class _Trials:
    """Trainings of copies of one encoder; counts the FLOPs of all. per_image: FLOPs of encoding one."""

    encoder: Encoder
    how: How
    training: Training
    seed: int
    num_classes: int
    per_image: int
    flops: int = 0

    def start(self, data: Fitting) -> nn.Linear:
        """A classifier of zeros, or the probe's solution made smaller."""
        if not self.how.linear_first:
            start, scale = nn.Linear(self.encoder.feature_dim, self.num_classes), 0.0
        else:
            encoder, device = copy.deepcopy(self.encoder).to(self.training.device), self.training.device
            features = encode_all(encoder, data.inputs, device)
            start, scale = probe_classifier(features, data.labels, self.num_classes), PROBE_SCALE
            self.flops += len(data.labels) * self.per_image
        with torch.no_grad():
            start.weight.mul_(scale)
            start.bias.mul_(scale)
        return start

    def judged(self, start: nn.Linear, data: Labelled, rate: float) -> list[_Moment]:
        """The moment by which a learning rate is judged; none where no number was finite."""
        moments: list[_Moment] = []
        labels = data.inner.labels

        def read(step: int, net: Encoder, classifier: nn.Linear) -> None:
            logits = classify(net, classifier, data.inner.inputs, self.training.device)
            moments.append(_Moment(rate, step, score(logits, labels), (logits.argmax(1) == labels).double()))

        self._run(start, data.train, rate, read)
        self.flops += len(moments) * len(labels) * self.per_image
        moments = [moment for moment in moments if math.isfinite(moment.scores.loss)]
        if not moments:
            return []
        best, last = max(moments, key=lambda moment: moment.scores.order), moments[-1]
        return [best if best.clearly_better_than(last, labels) else last]

    def trained(self, start: nn.Linear, data: Fitting, moment: _Moment) -> FineTuned | None:
        """Trained for as many steps as a moment's, at its rate; None where a loss was not finite. The schedule is laid
        out for these steps: weights in the middle of a longer one are still at a high rate.
        """
        kept: list[FineTuned] = []

        def keep(step: int, net: Encoder, classifier: nn.Linear) -> None:
            if step == moment.step:
                kept.append(FineTuned(net.cpu(), classifier.cpu(), moment.rate, step, moment.scores))

        self._run(start, data, moment.rate, keep, steps=moment.step)
        return kept[0] if kept else None

    def _run(
        self,
        start: nn.Linear,
        data: Fitting,
        rate: float,
        visit: Callable[[int, Encoder, nn.Linear], None],
        *,
        steps: int | None = None,
    ) -> None:
        """`visit` sees the nets after every tenth of the steps, after the last, and before the first where the
        classifier starts from the probe's solution. steps: None for those of `training`; 0 train nothing.
        """
        training = self.training if not steps else replace(self.training, steps=steps)
        net, classifier = copy.deepcopy(self.encoder).to(training.device), copy.deepcopy(start).to(training.device)
        trained = freeze(net, self.how.last)
        rng, order = training.views_rng(self.seed), torch_generator(self.seed, "labelled order")
        rows = BatchStream(_RowNumbers(len(data.labels)), min(training.batch_size, len(data.labels))).batches(order)
        every = max(1, training.steps // NUM_EVALUATIONS)
        step_flops = 0

        def loss() -> Tensor:
            nonlocal step_flops
            chosen = next(rows)
            views = training.view(data.inputs.take(chosen), rng)
            targets = data.labels[chosen].to(training.device)
            set_modes(net, trained)
            if not step_flops:  # all batches are of one size
                step_flops = _step_flops(net, classifier, views, targets)
            self.flops += step_flops
            return F.cross_entropy(classifier(features_of(net, views)).float(), targets)

        def after(step: int, _: float) -> None:
            if step % every == 0 or step == training.steps:
                visit(step, net, classifier)

        if self.how.linear_first:
            visit(0, net, classifier)
        if steps != 0:
            optimise([*net.parameters(), *classifier.parameters()], loss, training, rate, after)


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
    parts = data.train, data.inner
    features = torch.cat([encode_all(encoder, part.inputs, device) for part in parts])
    return probe_classifier(features, torch.cat([part.labels for part in parts]), data.num_classes)


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
