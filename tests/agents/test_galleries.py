"""Real views: of the tasks that were played, on the same images and draws as the reference recipe's."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from agents.galleries import view_galleries
from taskrl.assemble import Assembled, assemble, load_data
from taskrl.report_images import Gallery
from taskrl.tasks.spec import TaskSpec
from tests.envs.tiny import tiny_config

LEVELS = {"crop": 0.3, "mirror": 0.5, "upside_down": 0.0, "rotation": 0.0, "jitter": 0.4, "blur": 0.0, "noise": 0.0}


@pytest.fixture(scope="module")
def assembled() -> Assembled:
    config = tiny_config(
        tasks__objectives=["contrastive", "masked", "context_restoration", "jigsaw", "relative_position"]
    )
    return assemble(config, load_data(config))


def _spec(mixture: dict[str, float] | None = None, **levels: float) -> str:
    chosen = tuple({**LEVELS, "cutout": 0.0, **levels}.items())
    return TaskSpec(mixture=tuple((mixture or {"contrastive": 1.0}).items()), levels=chosen).to_json()


def _pixels(gallery: Gallery, strip: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(gallery.strips[strip].image)).convert("RGB"))


def test_early_middle_and_late_tasks_are_shown_beside_the_reference(assembled: Assembled) -> None:
    tasks = [_spec(crop=0.6), _spec(crop=0.6), _spec(mirror=0.0), _spec(crop=1.0), _spec(rotation=0.3)]
    galleries = view_galleries(assembled, [tasks, tasks])
    titles = [gallery.title for gallery in galleries]
    assert titles == [
        "Reference recipe",
        "learned: decisions 1 to 2 of 5",
        "learned: decision 3 of 5",
        "learned: decision 5 of 5",
    ]
    assert [gallery.told for gallery in galleries[1:]] == [
        "Differs in crop 0.6 (reference 0.3).",
        "Differs in mirror 0 (reference 0.5).",
        "Differs in rotation 0.3 (reference 0).",
    ]


def test_one_task_all_along_is_shown_once(assembled: Assembled) -> None:
    galleries = view_galleries(assembled, [[_spec(crop=0.6)] * 7], "fixed:weak-crop")
    assert [gallery.title for gallery in galleries] == ["Reference recipe", "fixed:weak-crop: decisions 1 to 7 of 7"]
    assert galleries[1].caption.startswith("Trained in the final run.")


def test_the_task_of_most_runs_is_shown_and_how_many_they_are(assembled: Assembled) -> None:
    played = [[_spec(crop=0.6)], [_spec()], [_spec(crop=0.6)]]
    gallery = view_galleries(assembled, played)[1]
    assert gallery.caption.startswith("Trained in 2 of 3 final runs.") and "crop 0.6" in gallery.caption


def test_same_images_and_draws_so_that_only_the_task_differs(assembled: Assembled) -> None:
    reference, other = view_galleries(assembled, [[_spec(jitter=0.0)]])
    assert np.array_equal(_pixels(reference, 0), _pixels(other, 0))
    assert not np.array_equal(_pixels(reference, 1), _pixels(other, 1))
    assert view_galleries(assembled, [[_spec(jitter=0.0)]]) == [reference, other]


def test_the_reference_is_not_shown_twice(assembled: Assembled) -> None:
    reference, same = view_galleries(assembled, [[assembled.problem.task_space.reference.to_json()]])
    assert reference.strips and not same.strips and same.told.startswith("This is the reference recipe")


def test_masks_are_drawn_on_the_images_in_orange(assembled: Assembled) -> None:
    spec = _spec({"masked": 0.5, "contrastive": 0.3, "jigsaw": 0.2}, mask_ratio=0.6)
    gallery = view_galleries(assembled, [[spec]])[1]
    assert [strip.label for strip in gallery.strips] == [
        "The images",
        "masked, 50% of the compute: two draws of each",
        "contrastive, 30% of the compute: two draws of each",
        "jigsaw, 20% of the compute: two draws of each",
    ]
    masked, plain = _pixels(gallery, 1).astype(int), _pixels(gallery, 2).astype(int)
    orange = (masked[..., 0] - masked[..., 2]) > 50
    assert 0.5 < orange.mean() < 0.7  # six patches of ten
    assert (plain[..., 0] == plain[..., 2]).all() and "Orange: what is to be predicted." in gallery.caption


def test_every_objective_can_be_shown(assembled: Assembled) -> None:
    for name in assembled.config.tasks.objectives:
        gallery = view_galleries(assembled, [[_spec({name: 1.0}, mask_ratio=0.6)]])[1]
        assert gallery.strips[1].label == f"{name}: two draws of each"


def test_an_objective_of_another_kind_shows_plain_views(assembled: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    task = assembled.problem.build_task(TaskSpec.from_json(_spec())).parts[0].task
    expected = view_galleries(assembled, [[_spec(crop=0.6)]])[1]
    monkeypatch.setattr(type(task), "make_views", lambda self, batch, rng: {"unknown": 1})
    plain = view_galleries(assembled, [[_spec(crop=0.6)]])[1]
    assert len(plain.strips) == len(expected.strips) == 2 and plain.strips[0] == expected.strips[0]


def test_large_images_are_shown_small(assembled: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    large: Tensor = torch.randint(0, 256, (10, 1, 300, 200), dtype=torch.uint8)
    monkeypatch.setattr("agents.galleries._calibration", lambda assembled: large)
    galleries = view_galleries(assembled, [[_spec()]])
    assert _pixels(galleries[0], 0).shape == (96, 10 * 64 + 9 * 2, 3)
    assert sum(gallery.num_bytes for gallery in galleries) < 1_000_000


def test_without_tasks_there_is_the_reference_alone(assembled: Assembled) -> None:
    assert [gallery.title for gallery in view_galleries(assembled, [])] == ["Reference recipe"]
