"""Configuration to problem: the parts fit, the splits stay apart, mistakes are sentences."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from taskrl.assemble import Assembled, assemble, find_device, load_data, resolve, task_space
from taskrl.config import ExperimentConfig, load_config
from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.data.splits import Probe
from taskrl.errors import ConfigError, DataError
from taskrl.evaluation.panel import Panel, calibrated
from taskrl.evaluation.probes import RidgeProbe
from taskrl.measuring import judges
from taskrl.meta import MetaProblem
from taskrl.tasks.space import Codec
from tests.builders import blob_dataset, blobs, random_images, same_tensors
from tests.conftest import TINY


def config(**given: object) -> ExperimentConfig:
    return load_config(given={**TINY, **{key.replace("__", "."): value for key, value in given.items()}})


def rows_of(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def everything(inputs: object) -> Tensor:
    return inputs.take(torch.arange(len(inputs)))  # type: ignore[attr-defined, arg-type, no-any-return]


def test_prior_logits_are_the_protocols_table_times_the_strength() -> None:
    objectives = ["contrastive", "rotation", "masked", "jigsaw"]
    space = task_space(config(tasks__objectives=objectives), (3, 32, 32))
    table = {
        "weight/contrastive": [0, 0, 2],
        "weight/rotation": [2, 0, 0],
        "weight/masked": [2, 0, 0],
        "weight/jigsaw": [2, 0, 0],
        "crop": [0, 0, 1.5, 0],
        "mirror": [0, 1],
        "upside_down": [2, 0],
        "rotation": [1.5, 0, 0, 0],
        "jitter": [0, 1.5, 0],
        "blur": [1, 0],
        "noise": [1, 0],
        "cutout": [1, 0],
        "greyscale": [0, 1, 0],
        "mask_ratio": [0, 0, 0],
    }
    assert space.part_names() == tuple(table)
    for strength in (0.0, 1.0, 2.5):
        for name, row in zip(table, space.prior_logits(strength), strict=True):
            np.testing.assert_allclose(row, np.array(table[name]) * strength, err_msg=name)


def test_grey_images_have_no_greyscale_knob_and_the_mask_ratio_comes_with_masked_objectives() -> None:
    names = task_space(config(tasks__objectives=["contrastive", "rotation"]), (1, 28, 28)).part_names()
    assert "greyscale" not in names and "mask_ratio" not in names
    for masked in ("masked", "block_masked"):
        space = task_space(config(tasks__objectives=["contrastive", masked]), (1, 28, 28))
        assert "mask_ratio" in space.part_names()


def test_the_reference_is_simclr_on_the_first_objective() -> None:
    reference = task_space(config(), (1, 28, 28)).reference
    assert reference.mixture == (("contrastive", 1.0),)
    assert dict(reference.levels) == {
        "crop": 0.3,
        "mirror": 0.5,
        "upside_down": 0.0,
        "rotation": 0.0,
        "jitter": 0.4,
        "blur": 0.0,
        "noise": 0.0,
        "cutout": 0.0,
    }


@pytest.mark.parametrize("codec", ["multidiscrete", "discrete", "box"])
def test_users_limits_reach_the_task_space_in_every_codec(codec: Codec) -> None:
    space = task_space(config(tasks__forbid=["mirror"], tasks__limit=["rotation<=0.2"]), (1, 28, 28), codec)
    space.action_space.seed(0)
    for _ in range(50):
        levels = dict(space.decode(space.action_space.sample()).levels)
        assert levels["mirror"] == 0 and levels["rotation"] <= 0.2


def test_the_discrete_codec_fits_all_objectives_into_64_actions() -> None:
    from taskrl.modalities.image.objectives.catalogue import image_objectives

    objectives = ["contrastive", *(name for name in image_objectives() if name != "contrastive")]
    space = task_space(config(tasks__objectives=objectives), (3, 64, 64), "discrete")
    assert 30 < int(space.action_space.n) <= 64


def test_an_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown objective 'contrastiv'.* Did you mean 'contrastive'"):
        task_space(config(tasks__objectives=["contrastiv"]), (1, 28, 28))


def test_probe_calibration_and_stream_see_their_own_split_only(tiny_images: RawDataset) -> None:
    made = assemble(config(), tiny_images)
    pretraining = rows_of(everything(made.splits.pretraining.inputs))
    probe = rows_of(everything(made.splits.probe.inputs))
    batches = made.problem.stream.batches(torch.Generator().manual_seed(0))
    assert rows_of(torch.cat([next(batches) for _ in range(4)])) <= pretraining
    assert rows_of(made.problem.calibration) <= pretraining
    assert rows_of(made.problem.probe_data.inputs) <= probe
    assert not pretraining & probe


def test_measuring_data_depend_on_the_split_seed_alone(tiny_images: RawDataset) -> None:
    for probe in ("ridge", "panel"):
        first, again, other = (
            assemble(config(reward__probe=probe, seed=seed, data__split_seed=split), tiny_images)
            for seed, split in ((0, 0), (9, 0), (0, 1))
        )
        assert same_tensors(first.problem.probe_data, again.problem.probe_data)
        assert torch.equal(first.problem.calibration, again.problem.calibration)
        assert not same_tensors(first.problem.probe_data, other.problem.probe_data)


def test_the_ridge_probe_reads_at_most_so_many_labels_a_class(tiny_images: RawDataset) -> None:
    problem = assemble(config(reward__probe="ridge", reward__labels_per_class=3), tiny_images).problem
    labels = problem.probe_data.labels
    assert isinstance(problem.probe, RidgeProbe) and labels is not None
    assert labels.bincount().tolist() == [3] * 4
    assert len(problem.probe_data.inputs) == len(problem.probe_data.folds) == 12


def test_groups_stay_whole_across_the_folds_of_few_labels_where_they_are_fewer_than_the_folds() -> None:
    labels, groups = torch.arange(400) % 4, torch.arange(400) // 20
    images = blobs(labels, size=8)
    part = Part(inputs=InMemory(images), labels=labels, groups=groups)
    made = assemble(config(reward__probe="few", reward__labels_per_class=10), RawDataset(name="grouped", train=part))
    found = made.problem.probe_data
    group_of = {image.numpy().tobytes(): int(group) for image, group in zip(images, groups, strict=True)}
    pairs = {
        (group_of[image.numpy().tobytes()], int(fold)) for image, fold in zip(found.inputs, found.folds, strict=True)
    }
    assert 2 <= len(pairs) == len({group for group, _ in pairs}) < 10
    assert len({fold for _, fold in pairs}) >= 2


def test_the_panel_looks_at_all_classes_of_images_that_lie_class_by_class() -> None:
    labels = torch.arange(2000) // 500
    dataset = RawDataset(name="sorted", train=Part(inputs=InMemory(blobs(labels, size=8)), labels=labels))
    made = assemble(config(reward__probe="panel", reward__panel_images=40), dataset)
    probe = made.splits.probe
    assert probe.labels is not None
    label_of = {
        image.numpy().tobytes(): int(label) for image, label in zip(everything(probe.inputs), probe.labels, strict=True)
    }
    seen = [label_of[image.numpy().tobytes()] for image in made.problem.probe_data.inputs]
    assert min(seen.count(label) for label in range(4)) >= 3


def probe_images(*labels_a_class: int) -> Probe:
    """So many labelled images of each class; none without labels."""
    labels = torch.cat([torch.full((num,), label) for label, num in enumerate(labels_a_class or (40,))])
    return Probe(InMemory(blobs(labels, size=8)), labels if labels_a_class else None, None)


def test_auto_is_resolved_to_what_runs() -> None:
    enough = probe_images(30, 30)
    resolved = resolve(config(predictor__device="auto", predictor__precision="auto"), enough)
    assert resolved.predictor.device in ("cpu", "cuda") and resolved.predictor.precision == "auto"
    assert resolved.reward.probe == "ridge"
    assert resolve(config(), probe_images()).reward.probe == "panel"
    assert resolve(resolved, enough) == resolved


@pytest.mark.parametrize(
    ("there", "cap", "probe"),
    [((40, 9, 10), 30, "ridge"), ((40, 9, 9), 30, "few"), ((2, 1), 30, "few"), ((30, 30), 10, "few")],
)
def test_few_labels_are_mixed_with_the_panel_whatever_they_are_few_by(
    there: tuple[int, ...], cap: int, probe: str
) -> None:
    assert resolve(config(reward__labels_per_class=cap), probe_images(*there)).reward.probe == probe


@pytest.mark.parametrize(
    ("frames", "probe", "size"), [(1, "ridge", ""), (4, "ridge", ""), (5, "few", "few_5"), (40, "few", "few_1")]
)
def test_labels_of_one_group_count_once(frames: int, probe: str, size: str) -> None:
    """40 probe images of each class, so many of them frames of one track."""
    images = probe_images(40, 40)
    tracks = dataclasses.replace(images, groups=torch.arange(80) // frames)
    asked = config(reward__labels_per_class=30)
    assert resolve(asked, images).reward.probe == "ridge" and resolve(asked, tracks).reward.probe == probe
    if size:
        paid, data = judges(resolve(asked, tracks), tracks, images.inputs, (), torch.device("cpu"))[0]
        label = "one_label" if size == "few_1" else "labels"
        assert isinstance(paid, Panel) and paid.parts[label] == calibrated("frozen", size)[label]
        assert data.labels is not None and torch.bincount(data.labels).tolist() == [30, 30], "all of them are read"


@pytest.mark.parametrize(("num", "size"), [(400, "few_10"), (240, "few_5"), (80, "few_1")])
def test_a_panel_with_labels_is_weighed_by_how_many_there_are(num: int, size: str) -> None:
    problem = assemble(config(reward__probe="few"), blob_dataset(num)).problem
    assert isinstance(problem.probe, Panel)
    label = "one_label" if size == "few_1" else "labels"
    assert problem.probe.parts[label] == calibrated("frozen", size)[label]
    assert math.isfinite(problem.probe(problem.make_predictor(0).encode, problem.probe_data).value)


def test_the_ridge_probe_without_labels_is_refused_before_anything_runs() -> None:
    dataset = blob_dataset()
    unlabelled = dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, labels=None))
    with pytest.raises(ConfigError, match=r"needs labels .*; use reward\.probe=panel"):
        assemble(config(reward__probe="ridge"), unlabelled)
    assert isinstance(assemble(config(), unlabelled).problem.probe, Panel)


def test_the_ridge_probe_on_one_label_a_class_is_refused() -> None:
    labels = torch.arange(300) % 30  # 10 % of them, one a class, are probe images
    dataset = RawDataset(name="blobs", train=Part(inputs=InMemory(blobs(labels)), labels=labels))
    with pytest.raises(ConfigError, match="cannot be cross-fitted on 1 label a class"):
        assemble(config(reward__probe="ridge"), dataset)


def test_a_gpu_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"Device 'cuda' is not there .*; use --device auto or cpu"):
        resolve(config(predictor__device="cuda"), probe_images(30, 30))


def test_a_gpu_beyond_those_that_are_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"Device 'cuda:7' is not there; use one of cuda:0, cuda:1, or --device auto"):
        resolve(config(predictor__device="cuda:7"), probe_images(30, 30))
    assert find_device("cuda:1").index == 1


def test_fewer_images_than_a_batch_are_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"blobs leaves 4\d pretraining images, fewer than one batch of 64; set predic"):
        assemble(config(predictor__batch_size=64), blob_dataset(80))


def test_labels_that_groups_leave_one_class_of_are_refused_with_the_remedy() -> None:
    groups = torch.tensor([0] * 140 + [1] * 31 + [2] * 30)  # dealt out in this order: the last one is for validation
    labels = (groups == 2).long()
    train = Part(inputs=InMemory(blobs(labels)), labels=labels, groups=groups)
    test = Part(inputs=InMemory(blobs(labels)), labels=labels, groups=groups + 3)
    dataset = RawDataset(name="blobs", train=train, test=test)
    with pytest.raises(DataError, match="of one class, so that no classifier can be fitted"):
        assemble(load_config(given=TINY), dataset)


def tracks(num_a_class: int, *, frames: int = 30) -> RawDataset:
    """Tracks of `frames` images, each of one of four classes."""
    groups = torch.arange(4 * num_a_class * frames) // frames
    labels = groups % 4
    return RawDataset(name="tracks", train=Part(inputs=InMemory(blobs(labels, size=8)), labels=labels, groups=groups))


@pytest.mark.parametrize("probe", ["ridge", "few"])
def test_a_reward_that_groups_make_a_constant_is_refused_unless_it_reads_no_labels(probe: str) -> None:
    with pytest.raises(DataError, match=r"probe images of tracks have 1 of 4 classes, .*more groups .*--probe panel"):
        assemble(config(reward__probe=probe), tracks(3))
    assert isinstance(assemble(config(reward__probe="panel"), tracks(3)).problem.probe, Panel)


def test_a_reward_whose_every_fold_is_fitted_on_one_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"have 2 of 4 classes, in so few groups that every fold is fitted on one cl"):
        assemble(config(reward__probe="ridge"), tracks(4))


def test_classes_that_no_probe_image_has_are_a_note_where_labels_pay() -> None:
    for probe, told in (("ridge", True), ("panel", False)):
        notes = assemble(config(reward__probe=probe), tracks(10)).splits.notes
        assert any("probe images have 3 of 4 classes" in note for note in notes) == told


def test_probe_images_of_one_group_are_a_note_where_labels_pay() -> None:
    """Five speakers, each of whom says all words: one of them is left for the probe."""
    groups, labels = torch.arange(500) // 100, torch.arange(500) % 4
    data = RawDataset(name="words", train=Part(inputs=InMemory(blobs(labels, size=8)), labels=labels, groups=groups))
    told = assemble(config(reward__probe="ridge"), data).splits
    assert told.probe.groups is not None and len(told.probe.groups.unique()) == 1
    assert [note for note in told.notes if "all probe images are of one group" in note and "more groups" in note]
    silent = assemble(config(reward__probe="panel"), data).splits
    assert not [note for note in silent.notes if "one group" in note]


def test_same_seed_same_predictor_and_another_seed_another(tiny_problem: MetaProblem) -> None:
    first, again, other = (dict(tiny_problem.make_predictor(seed).nets.state_dict()) for seed in (1, 1, 2))
    assert same_tensors(first, again) and not same_tensors(first, other)


def test_the_encoder_normalises_by_the_pretraining_images(tiny_images: RawDataset) -> None:
    made = assemble(config(), tiny_images)
    images = everything(made.splits.pretraining.inputs).float() / 255
    assert made.encoder_config["mean"] == pytest.approx([float(images.mean())], abs=1e-4)
    assert made.encoder_config["std"] == pytest.approx([float(images.std())], abs=1e-4)


def test_the_unit_of_the_budget_is_one_step_of_the_reference(tiny_problem: MetaProblem) -> None:
    predictor = tiny_problem.make_predictor(3)
    (part,) = tiny_problem.build_task(tiny_problem.task_space.reference).parts
    predictor.add_heads(part.task.head_specs(predictor.feature_dim))
    cost = tiny_problem.meter.step(predictor, part, random_images(32, 1, 16))
    assert tiny_problem.reference_step_flops == cost > 0


def test_assembling_twice_gives_the_same_problem_and_leaves_the_global_generator_alone(
    tiny_assembled: Assembled, tiny_config: ExperimentConfig
) -> None:
    before = torch.get_rng_state()
    again = assemble(tiny_config, load_data(tiny_config))
    assert torch.equal(torch.get_rng_state(), before)
    assert again.config == tiny_assembled.config and again.encoder_config == tiny_assembled.encoder_config
    assert same_tensors(again.problem.probe_data, tiny_assembled.problem.probe_data)
    assert again.problem.reference_step_flops == tiny_assembled.problem.reference_step_flops


def test_loaded_images_lie_in_shared_memory(tiny_config: ExperimentConfig) -> None:
    dataset = load_data(tiny_config)
    assert isinstance(dataset.train.inputs, InMemory) and dataset.train.inputs.data.is_shared()


def test_colour_images_of_an_odd_size_assemble_and_train_on_every_objective() -> None:
    from taskrl.modalities.image.objectives.catalogue import image_objectives
    from taskrl.types import Budget

    first = ["contrastive", "rotation", "masked", "jigsaw"]
    objectives = [*first, *sorted(set(image_objectives()) - set(first))]
    problem = assemble(config(tasks__objectives=objectives), blob_dataset(100, 3, 30)).problem
    spec = problem.task_space.decode(np.array([2] * len(objectives) + [0] * len(problem.task_space.knobs)))
    predictor = problem.make_predictor(0)
    budget = Budget(flops=16 * problem.reference_step_flops, start=0.0, end=1.0)
    batches = problem.stream.batches(torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(0)
    report = problem.inner_loop.adapt(predictor, problem.build_task(spec), batches, rng, budget)
    assert set(report.losses) == set(objectives) and not report.diverged
