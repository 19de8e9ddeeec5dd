"""Promises of the four roles: disjoint, covering, groups whole, classes spread, test reads on record."""

import dataclasses
import re
from itertools import combinations

import pytest
import torch
from torch import Tensor

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.data.splits import Probe, Splits, cap_labels, folds, make_splits
from taskrl.errors import DataError
from taskrl.types import Inputs
from tests.builders import generator


def dataset(
    num: int, labels: Tensor | None = None, groups: Tensor | None = None, num_test: int | None = None
) -> RawDataset:
    """Input i holds the number i in two bytes, so that its role can be read off; test inputs count on."""
    pixels = torch.arange(num + (num_test or 0))
    images = torch.stack([pixels % 256, pixels // 256], dim=1).to(torch.uint8)
    train = Part(inputs=InMemory(images[:num]), labels=labels, groups=groups)
    test_labels = None if labels is None or num_test is None else torch.zeros(num_test, dtype=torch.int64)
    test = None if num_test is None else Part(inputs=InMemory(images[num:]), labels=test_labels)
    return RawDataset(name="numbers", train=train, test=test, class_names=("a", "b"))


def numbers(inputs: Inputs) -> list[int]:
    pairs = inputs.take(torch.arange(len(inputs))).long()
    return (pairs[:, 0] + 256 * pairs[:, 1]).tolist()


def roles(splits: Splits) -> dict[str, list[int]]:
    return {
        "pretraining": numbers(splits.pretraining.inputs),
        "probe": numbers(splits.probe.inputs),
        "validation": numbers(splits.validation.inputs),
        "test": numbers(splits.open_test(lambda _: None, "a test").inputs),
    }


def skewed_labels(num: int) -> Tensor:
    """Half of the inputs are of class 0, a quarter of class 1, and so on."""
    return (-torch.rand(num, generator=generator()).log2()).floor().clamp(max=3).long()


@pytest.mark.parametrize("num_test", [None, 30])
@pytest.mark.parametrize("kind", ["unlabelled", "labelled", "grouped"])
def test_the_four_roles_are_disjoint_and_cover_everything(kind: str, num_test: int | None) -> None:
    labels = None if kind == "unlabelled" else skewed_labels(500)
    groups = torch.arange(500) % 60 if kind == "grouped" else None
    parts = roles(make_splits(dataset(500, labels, groups, num_test), seed=3))
    assert sorted(number for part in parts.values() for number in part) == list(range(500 + (num_test or 0)))
    assert all(not set(a) & set(b) for a, b in combinations(parts.values(), 2))


def test_shares_are_60_10_15_15_and_with_a_test_part_70_12_18() -> None:
    sizes = {name: len(part) for name, part in roles(make_splits(dataset(1000), seed=0)).items()}
    expected = {"pretraining": 600, "probe": 100, "validation": 150, "test": 150}
    assert all(abs(sizes[name] - expected[name]) <= 2 for name in expected)
    own = roles(make_splits(dataset(1000, num_test=70), seed=0))
    expected = {"pretraining": 700, "probe": 120, "validation": 180, "test": 70}
    assert all(abs(len(own[name]) - expected[name]) <= 2 for name in expected)
    assert own["test"] == list(range(1000, 1070))


def test_with_a_validation_part_of_its_own_the_rest_is_divided_75_25() -> None:
    own = dataset(1000, skewed_labels(1000), num_test=70)
    assert own.test is not None
    beside = Part(inputs=InMemory(torch.full((50, 2), 255, dtype=torch.uint8)), labels=torch.zeros(50).long())
    parts = roles(make_splits(dataclasses.replace(own, validation=beside), seed=0))
    assert abs(len(parts["pretraining"]) - 750) <= 2 and parts["test"] == list(range(1000, 1070))
    assert sorted(parts["pretraining"] + parts["probe"]) == list(range(1000))
    assert parts["validation"] == [65535] * 50


def test_same_seed_same_roles_and_another_seed_others() -> None:
    first, again, other = (roles(make_splits(dataset(300, skewed_labels(300)), seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert all(first[name] != other[name] for name in first)


@pytest.mark.parametrize("num_test", [None, 30])
def test_every_class_has_its_shares_to_within_two_images(num_test: int | None) -> None:
    labels = skewed_labels(600)
    shares = {"pretraining": 0.70, "probe": 0.12, "validation": 0.18}
    if num_test is None:
        shares = {"pretraining": 0.60, "probe": 0.10, "validation": 0.15, "test": 0.15}
    for seed in range(5):
        parts = roles(make_splits(dataset(600, labels, num_test=num_test), seed=seed))
        for name, share in shares.items():
            counts = labels[parts[name]].bincount(minlength=4)
            assert bool(((counts - share * labels.bincount(minlength=4)).abs() <= 2).all())


def test_labels_and_groups_go_with_their_inputs() -> None:
    labels, groups = skewed_labels(400), torch.arange(400) // 4
    splits = make_splits(dataset(400, labels, groups), seed=0)
    test = splits.open_test(lambda _: None, "a test")
    for part in (splits.probe, splits.validation, test, splits.fitting):
        assert part is not None and part.labels is not None
        assert torch.equal(part.labels, labels[numbers(part.inputs)])
    assert splits.probe.groups is not None
    assert torch.equal(splits.probe.groups, groups[numbers(splits.probe.inputs)])


@pytest.mark.parametrize("num_test", [None, 30])
def test_groups_stay_whole_and_shares_hold_to_within_a_group(num_test: int | None) -> None:
    groups = (torch.rand(600, generator=generator()) * 80).long()
    largest = int(groups.bincount().max())
    for seed in range(5):
        parts = roles(make_splits(dataset(600, skewed_labels(600), groups, num_test), seed=seed))
        own = {name: set(groups[rows].tolist()) for name, rows in parts.items() if name != "test" or num_test is None}
        assert all(not a & b for a, b in combinations(own.values(), 2))
        assert abs(len(parts["pretraining"]) - 600 * (0.6 if num_test is None else 0.7)) <= largest


def test_fitting_is_pretraining_and_probe_with_labels_and_absent_without() -> None:
    splits = make_splits(dataset(300, skewed_labels(300)), seed=0)
    parts = roles(splits)
    assert splits.fitting is not None
    assert numbers(splits.fitting.inputs) == parts["pretraining"] + parts["probe"]
    assert make_splits(dataset(300), seed=0).fitting is None


def test_pretraining_images_carry_no_labels() -> None:
    splits = make_splits(dataset(300, skewed_labels(300)), seed=0)
    assert not hasattr(splits.pretraining, "labels")


def test_accuracy_is_scored_only_on_images_with_labels() -> None:
    labelled, bare = dataset(300, skewed_labels(300), num_test=30), dataset(300, num_test=30)
    only_train = dataclasses.replace(labelled, test=bare.test)
    for data, said in (
        (labelled, ["test", "validation"]),
        (bare, ["probe"] * 2),
        (only_train, ["probe", "validation"]),
    ):
        splits = make_splits(data, seed=0)
        assert [splits.scored_on(test=test) for test in (True, False)] == said


def test_the_test_images_are_on_record_before_they_are_seen() -> None:
    splits = make_splits(dataset(300), seed=7)
    log: list[str] = []
    splits.open_test(log.append, "final score of run 5")
    assert log == ["test images of numbers (split seed 7) read: final score of run 5"]

    def full_disk(sentence: str) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        splits.open_test(full_disk, "again")


@pytest.mark.parametrize("num_test", [None, 30])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_number_of_images_that_too_few_are_told_to_give_is_always_enough(
    labelled: bool, num_test: int | None
) -> None:
    def divide(num: int, seed: int) -> Splits:
        return make_splits(dataset(num, skewed_labels(num) if labelled else None, num_test=num_test), seed=seed)

    with pytest.raises(DataError) as error:
        divide(12, 0)
    told = re.fullmatch(
        r"numbers has 12 images, too few to divide into \d roles; give at least (\d+) images\.", str(error.value)
    )
    assert told is not None
    for num in range(int(told[1]), int(told[1]) + 25):
        for seed in range(25):
            assert min(len(part) for part in roles(divide(num, seed)).values()) >= 4


def test_too_few_groups_are_refused_with_a_word_on_groups() -> None:
    with pytest.raises(DataError, match=r"400 images in 3 groups, too few to divide into 4 roles; give more groups\."):
        make_splits(dataset(400, groups=torch.arange(400) % 3), seed=0)
    with pytest.raises(DataError, match=r"12 images in 3 groups, .*; give more groups and at least 50 images\."):
        make_splits(dataset(12, groups=torch.arange(12) % 3), seed=0)


def probe_of(labels: Tensor | None, groups: Tensor | None = None, num: int = 60) -> Probe:
    return Probe(dataset(num).train.inputs, labels, groups)


def test_capped_labels_are_at_most_so_many_a_class_drawn_by_the_seed() -> None:
    labels = skewed_labels(60)
    capped, again, other = (cap_labels(probe_of(labels, torch.arange(60)), 5, seed=seed) for seed in (0, 0, 1))
    assert capped.labels is not None and capped.groups is not None
    assert capped.labels.bincount().tolist() == [min(5, count) for count in labels.bincount().tolist()]
    rows = numbers(capped.inputs)
    assert len(set(rows)) == len(rows)
    assert torch.equal(capped.labels, labels[rows]) and capped.groups.tolist() == rows
    assert rows == numbers(again.inputs) != numbers(other.inputs)


def test_labels_that_are_not_there_cannot_be_capped() -> None:
    with pytest.raises(DataError, match="use the label-free panel"):
        cap_labels(probe_of(None), 5, seed=0)


def test_folds_are_equal_and_stratified() -> None:
    labels = torch.arange(100) % 4
    fold = folds(100, labels, None, 5, seed=0)
    assert fold.shape == (100,) and fold.dtype == torch.int64
    for label in range(4):
        counts = fold[labels == label].bincount(minlength=5)
        assert int(counts.min()) >= 3 and int(counts.max()) <= 7
    assert int(fold.bincount(minlength=5).min()) >= 18
    assert torch.equal(fold, folds(100, labels, None, 5, seed=0))
    assert not torch.equal(fold, folds(100, labels, None, 5, seed=1))


def test_folds_keep_groups_whole_and_are_never_more_than_groups() -> None:
    groups = torch.arange(100) // 7
    fold = folds(100, torch.arange(100) % 4, groups, 5, seed=0)
    assert all(len(fold[groups == group].unique()) == 1 for group in groups.unique())
    assert len(fold.unique()) == 5
    assert len(folds(100, None, torch.arange(100) % 3, 5, seed=0).unique()) == 3


def test_one_group_alone_is_divided_like_no_groups() -> None:
    fold = folds(40, None, torch.zeros(40, dtype=torch.int64), 4, seed=0)
    assert int(fold.bincount(minlength=4).min()) >= 8
