"""The questions of the label-free panel: fixed by the seed, and true."""

import torch

from taskrl.evaluation.panel import CLEAN, COPIES, PAIR
from taskrl.modalities.image.objectives.jigsaw import permute_tiles
from taskrl.modalities.image.questions import (
    BUSY,
    OPENED_BY,
    RELATED_TASKS,
    groups_of,
    image_questions,
    played,
    related_tasks,
)
from taskrl.modalities.image.views import view_knobs
from taskrl.tasks.space import restrict
from taskrl.types import Question
from tests.builders import blobs, generator, random_images, same_tensors

NUM = 60


def questions(seed: int = 0, channels: int = 1) -> dict[str, Question]:
    images = blobs(torch.arange(NUM) % 4, channels=channels)
    return image_questions(images, torch.arange(NUM) % 5, images[:40], seed=seed)


def test_the_same_seed_asks_the_same_and_another_asks_otherwise() -> None:
    assert same_tensors(questions(), questions())
    assert not same_tensors(questions(), questions(1))


def test_every_question_is_bytes_of_the_same_shape_with_a_target_a_row() -> None:
    for question in questions(channels=3).values():
        assert question.shown.dtype == torch.uint8
        assert question.shown.shape == (NUM, 3, 16, 16)
        assert all(len(target) == NUM and torch.isfinite(target.double()).all() for target in question.targets.values())


def test_turns_and_permutations_are_what_the_targets_say() -> None:
    asked, images = questions(), blobs(torch.arange(NUM) % 4)
    turns = asked["turned"].targets["rotation"].argmax(1)
    for shown, image, turn in zip(asked["turned"].shown, images, turns, strict=True):
        assert torch.equal(shown, image.rot90(int(turn), (1, 2)))
    order = asked["permuted"].targets["jigsaw"].argmax(1)
    assert torch.equal(asked["permuted"].shown, permute_tiles(images, order))


def test_related_tasks_are_all_asked() -> None:
    asked = {name for question in questions().values() for name in question.targets}
    assert {name for name in asked if not name.startswith(BUSY)} - set(COPIES) == set(RELATED_TASKS)
    assert set(OPENED_BY) - {"instance", "lidar"} <= asked


def test_only_what_is_read_is_asked_and_it_is_the_same() -> None:
    everything, images = questions(), blobs(torch.arange(NUM) % 4)
    for name in (*RELATED_TASKS, "instance", "rankme"):
        some = image_questions(images, torch.arange(NUM) % 5, images[:40], seed=0, names=[name])
        assert set(some) <= {CLEAN, *(key for key, question in everything.items() if name in question.targets), *PAIR}
        assert (name == "instance") == (PAIR[0] in some)
        for key, question in some.items():
            assert torch.equal(question.shown, everything[key].shown)
            assert set(question.targets) <= {name}
            assert same_tensors(question.targets, {n: everything[key].targets[n] for n in question.targets})


def test_what_a_run_plays_is_not_asked() -> None:
    knobs = view_knobs(1, 28)
    everything = played(["contrastive", "rotation", "masked", "jigsaw"], knobs)
    assert not {"rotation", "jigsaw", "pixels", "coarse_edges"} & set(related_tasks(everything))
    closed = restrict(knobs, forbid=["rotation", "upside_down", "blur"], limit=[])
    some = set(related_tasks(played(["contrastive"], closed)))
    assert {"rotation", "jigsaw", "pixels", "coarse_edges"} <= some


def test_groups_are_memberships_of_six_clusterings() -> None:
    centres = 10 * torch.randn(4, 30, generator=generator())
    statistics = centres[torch.arange(NUM) % 4] + 0.1 * torch.randn(NUM, 30, generator=generator(1))
    members = groups_of(statistics, generator(2))
    assert (members.sum(1) == 6).all()
    eight = members[:, :8]
    for group in range(8):
        kinds = (torch.arange(NUM) % 4)[eight[:, group] > 0].unique()
        assert len(kinds) <= 1


def test_constant_images_are_asked_without_error() -> None:
    flat = torch.full((NUM, 1, 16, 16), 7, dtype=torch.uint8)
    asked = image_questions(flat, torch.arange(NUM) % 5, random_images(20), seed=0)
    assert all(torch.isfinite(target.double()).all() for target in asked[CLEAN].targets.values())
