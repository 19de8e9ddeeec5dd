"""Fine-tuning: what is learned, what is left alone, and what chooses."""

import copy

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.data.splits import Splits, make_splits
from taskrl.errors import DataError
from taskrl.modalities.image.encoders import make_encoder
from taskrl.modalities.image.modeling import Encoder
from taskrl.seeding import isolated_global_rng
from taskrl.transfer.finetune import (
    LEARNING_RATES,
    PROBE_SCALE,
    classify,
    encode_flops,
    fine_tune,
    linear_probe,
    probe_classifier,
)
from taskrl.transfer.labelled import Labelled, draw_labelled
from taskrl.transfer.scores import score
from taskrl.transfer.training import Training, encode_all
from taskrl.transfer.trunk import parse_how
from tests.builders import blobs, generator

CPU = torch.device("cpu")


def splits(labels: torch.Tensor | None = None, groups: torch.Tensor | None = None) -> Splits:
    labels = torch.arange(200) % 4 if labels is None else labels
    part = Part(inputs=InMemory(blobs(labels)), labels=labels, groups=groups)
    return make_splits(RawDataset(name="blobs", train=part, class_names=("a", "b", "c", "d")), seed=0)


def encoder() -> Encoder:
    return make_encoder("small", in_channels=1, image_size=16, width=4, mean=[0.3], std=[0.3], seed=0)[0]


def training(steps: int = 20) -> Training:
    return Training(steps=steps, batch_size=32, weight_decay=0.05, levels={"crop": 0.6}, device=CPU)


def rows_of(data: Labelled) -> tuple[set[int], set[int]]:
    return set(data.train.inputs.indices.tolist()), set(data.inner.inputs.indices.tolist())  # type: ignore[attr-defined]


def test_labels_are_drawn_by_class_and_a_fifth_is_set_aside() -> None:
    data = draw_labelled(splits(), 10, seed=3)
    assert torch.bincount(data.train.labels).tolist() == [8] * 4
    assert torch.bincount(data.inner.labels).tolist() == [2] * 4
    train, inner = rows_of(data)
    assert not train & inner
    assert (
        rows_of(draw_labelled(splits(), 10, seed=3)) == (train, inner) != rows_of(draw_labelled(splits(), 10, seed=4))
    )
    few = draw_labelled(splits(), 2, seed=0)
    assert sorted(few.train.labels.tolist()) == sorted(few.inner.labels.tolist()) == [0, 1, 2, 3]
    everything = draw_labelled(splits(), None, seed=0)
    fitting = splits().fitting
    assert fitting is not None and len(everything.train.labels) + len(everything.inner.labels) == len(fitting.labels)


@pytest.mark.parametrize("num_groups", [12, 40])
def test_groups_stay_whole_between_training_and_inner_part(num_groups: int) -> None:
    groups = torch.arange(200) // (200 // num_groups)
    divided = splits(torch.arange(200) % 4, groups)
    train, inner = rows_of(draw_labelled(divided, None, seed=0))
    fitting = divided.fitting
    assert fitting is not None
    base = fitting.inputs.indices  # type: ignore[attr-defined]
    of = [{int(groups[base[row]]) for row in rows} for rows in (train, inner)]
    assert of[0] and of[1] and not of[0] & of[1]


def test_labels_that_are_not_there_are_said() -> None:
    with pytest.raises(DataError, match="class 'b', not 1000"):
        draw_labelled(splits(), 1000, seed=0)
    with pytest.raises(DataError, match="at least 2"):
        draw_labelled(splits(), 1, seed=0)
    with pytest.raises(DataError, match="one class"):
        draw_labelled(splits(torch.zeros(200, dtype=torch.int64)), None, seed=0)


def test_the_best_of_the_sweep_learns_and_leaves_the_start_alone() -> None:
    divided, net = splits(), encoder()
    before = copy.deepcopy(net.state_dict())
    calls: list[None] = []
    data = draw_labelled(divided, None, seed=0)
    assert torch.equal(
        data.together.labels.sort().values, torch.cat([data.train.labels, data.inner.labels]).sort().values
    )
    found = fine_tune(net, data, parse_how("full"), training(40), seed=0, after_rate=lambda: calls.append(None))
    assert len(calls) == len(LEARNING_RATES)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    scored = divided.validation
    assert scored.labels is not None
    logits = classify(found.encoder, found.classifier, scored.inputs, CPU)
    assert score(logits, scored.labels).accuracy > 60


def test_the_same_seed_gives_the_same_weights_and_sides_meet_the_same_batches() -> None:
    data = draw_labelled(splits(), 5, seed=0)
    one, two, other = (
        fine_tune(encoder(), data, parse_how("full"), training(4), seed=seed, learning_rates=[1e-3])
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.classifier.weight, two.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_training_ends_early_only_where_that_is_clearly_better() -> None:
    """A rate that ruins the probe's start gives way to the start itself; one that learns trains to the end."""
    data = draw_labelled(splits(), None, seed=0)
    ruined, learned = (
        fine_tune(encoder(), data, parse_how(how), training(10), seed=0, learning_rates=[rate])
        for how, rate in (("linear-then-full", 10.0), ("full", 1e-3))
    )
    assert ruined.step < 10 and ruined.inner.balanced > 50, "the linear probe of an untrained net is above chance"
    assert learned.step == 10


def test_the_chosen_rate_and_steps_are_trained_on_all_labels() -> None:
    """With a rate of nothing the classifier is the probe of all labels, the inner part's included, made smaller."""
    data, net = draw_labelled(splits(), 8, seed=0), encoder()
    found = fine_tune(net, data, parse_how("linear-then-full"), training(2), seed=0, learning_rates=[1e-30])
    probe = probe_classifier(encode_all(net, data.together.inputs, CPU), data.together.labels, data.num_classes)
    torch.testing.assert_close(found.classifier.weight, PROBE_SCALE * probe.weight)


def test_a_probe_that_starts_training_judges_every_image_as_the_probe_does_but_is_less_sure() -> None:
    data, net = draw_labelled(splits(), None, seed=0), encoder()
    start = fine_tune(net, data, parse_how("linear-then-full"), training(1), seed=0, learning_rates=[1e-30])
    probe = probe_classifier(encode_all(net, data.together.inputs, CPU), data.together.labels, data.num_classes)
    sure, less = (classify(net, layer, data.inner.inputs, CPU).softmax(1) for layer in (probe, start.classifier))
    assert torch.equal(sure.argmax(1), less.argmax(1))
    assert less.max(1).values.mean() < sure.max(1).values.mean() - 0.01


def test_the_sweep_is_charged_with_steps_and_evaluations() -> None:
    data = draw_labelled(splits(), 8, seed=0)
    short, long = (
        fine_tune(encoder(), data, parse_how("full"), training(steps), seed=0, learning_rates=[1e-3]).flops
        for steps in (10, 20)
    )
    evaluations = 10 * len(data.inner.labels) * encode_flops(encoder(), (1, 16, 16))
    step = (long - short) / 20  # ten more in the sweep, and ten more on all labels
    assert short == pytest.approx(20 * step + evaluations, rel=0.02), "a batch of all labels is a little larger"
    last = fine_tune(encoder(), data, parse_how("last-1"), training(10), seed=0, learning_rates=[1e-3]).flops
    assert last < short, "no gradient flows through what is frozen"


def test_weights_that_are_not_finite_are_refused() -> None:
    net = encoder()
    with torch.no_grad():
        next(net.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match="no finite loss"):
        fine_tune(net, draw_labelled(splits(), 4, seed=0), parse_how("full"), training(2), seed=0)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_probe_as_a_layer_is_scikit_learns(num_classes: int) -> None:
    labels = torch.arange(60) % num_classes
    features = torch.randn(60, 5, generator=generator(0)) * 3 + 2 + labels[:, None]
    layer = probe_classifier(features, labels, num_classes + 1)
    mean, sd = features.mean(0), features.std(0)
    standard = ((features - mean) / sd).numpy()
    logits = layer(features)
    assert bool((logits[:, num_classes] == -20).all()), "a class that does not occur is never likely"
    shares = logits[:, :num_classes].softmax(1).detach().numpy()
    distances = [
        abs(
            LogisticRegression(C=c, max_iter=3000, tol=1e-4).fit(standard, labels).predict_proba(standard) - shares
        ).max()
        for c in (0.01, 0.1, 1.0)
    ]
    assert min(distances) < 1e-3


def test_the_linear_probe_reads_both_parts_and_is_deterministic() -> None:
    data = draw_labelled(splits(), 6, seed=0)
    with isolated_global_rng(5):
        one = linear_probe(encoder(), data, CPU)
    assert torch.equal(one.weight, linear_probe(encoder(), data, CPU).weight)
