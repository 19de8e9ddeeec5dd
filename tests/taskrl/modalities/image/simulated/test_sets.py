from dataclasses import replace

import pytest
import torch
from torch import Tensor

from taskrl.data.dataset import Part
from taskrl.errors import DataError
from taskrl.modalities.image.simulated.harm import judge
from taskrl.modalities.image.simulated.sets import PAINTERS, class_names, simulated_set
from taskrl.modalities.image.simulated.traits import FAMILIES
from taskrl.modalities.image.simulated.world import World, draw_world


def content(part: Part | None) -> tuple[Tensor, Tensor]:
    assert part is not None and part.labels is not None
    return part.inputs.take(torch.arange(len(part.inputs))), part.labels


def plain_world(family: str, levels: dict[str, int], turn: float = 0.0, **nuisances: float) -> World:
    """A world without nuisances but the given ones, and with hardly any spread."""
    verdict = judge(family=family, channels=3, levels=levels, turn=turn, nuisances=nuisances)
    return replace(
        draw_world(19, family=family, channels=3),
        native_size=32,
        defining=tuple(levels),
        levels=tuple(levels.items()),
        num_classes=torch.tensor(list(levels.values())).prod().item(),
        num_patterns=levels["pattern"],
        turn=turn,
        kinship=0.0,
        spread=0.05,
        nuisances=tuple(nuisances.items()),
        harmful=verdict.harmful,
        harmless=verdict.harmless,
    )


def nearest(train: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    return labels[torch.cdist(queries.flatten(1).float(), train.flatten(1).float()).argmin(1)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [16, 32])
def test_every_family_renders(family: str, channels: int, image_size: int) -> None:
    world = draw_world(2, family=family, channels=channels)
    dataset = simulated_set(world, image_size=image_size, num_train=64, num_test=32)
    images, labels = content(dataset.train)
    assert images.shape == (64, channels, image_size, image_size)
    assert images.dtype == torch.uint8
    assert images.float().std(dim=(1, 2, 3)).median() > 2
    assert labels.max() < world.num_classes
    assert (dataset.name, len(dataset.class_names)) == ("simulated-2", world.num_classes)


def test_families_have_traits_and_a_painter() -> None:
    assert set(PAINTERS) == set(FAMILIES)


def test_same_seed_same_bytes_and_another_seed_or_part_others() -> None:
    sets = [
        simulated_set(draw_world(seed, family="scenes"), image_size=24, num_train=40, num_test=40) for seed in (1, 1, 2)
    ]
    (first, labels), (second, same_labels), (third, _) = (content(dataset.train) for dataset in sets)
    assert torch.equal(first, second) and torch.equal(labels, same_labels)
    assert first.shape != third.shape or not torch.equal(first, third)
    assert not torch.equal(first, content(sets[0].test)[0])


def test_painting_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    simulated_set(draw_world(4), image_size=16, num_train=20, num_test=10)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_are_balanced_and_classes_named_by_their_levels() -> None:
    world = plain_world("strokes", {"pattern": 3, "mirror": 2})
    _, labels = content(simulated_set(world, image_size=16, num_train=60, num_test=12).train)
    assert labels.bincount().tolist() == [10] * 6
    assert class_names(world)[:3] == ("pattern 0, mirror 0", "pattern 0, mirror 1", "pattern 1, mirror 0")


def test_images_differ_within_a_class() -> None:
    images, _ = content(simulated_set(draw_world(9), image_size=32, num_train=100, num_test=1).train)
    assert len(images.flatten(1).unique(dim=0)) == 100


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "textures"])
def test_where_mirror_defines_a_mirrored_image_looks_like_the_other_class(family: str) -> None:
    world = plain_world(family, {"pattern": 3, "mirror": 2})
    assert "mirror" in world.harmful
    dataset = simulated_set(world, image_size=32, num_train=600, num_test=120)
    (train, labels), (test, answers) = content(dataset.train), content(dataset.test)
    assert (nearest(train, labels, test) == answers).float().mean() > 0.9
    assert (nearest(train, labels, test.flip(3)) == (answers ^ 1)).float().mean() > 0.9


def test_a_mirrored_texture_runs_the_other_way() -> None:
    world = plain_world("textures", {"pattern": 1, "mirror": 2})
    images, labels = content(simulated_set(world, image_size=32, num_train=200, num_test=1).train)
    slope = slopes(images)
    assert slope[labels == 0].mean() * slope[labels == 1].mean() < 0
    assert ((slope > 0) == (slope[labels == 1].mean() > 0)).eq(labels == 1).float().mean() > 0.9


def slopes(images: Tensor) -> Tensor:
    """Whether edges run up or down: the mean product of the two derivatives, which mirroring turns over."""
    grey = images.float().mean(1)
    across, down = grey[:, 1:, 1:] - grey[:, 1:, :-1], grey[:, 1:, 1:] - grey[:, :-1, 1:]
    return (across * down).mean(dim=(1, 2))


@pytest.mark.parametrize(("factor", "num"), [("orientation", 4), ("position", 4)])
def test_where_orientation_or_place_defines_mirrored_images_land_where_the_rules_say(factor: str, num: int) -> None:
    world = plain_world("strokes", {"pattern": 2, factor: num}, mirror=1.0)
    assert "mirror" in world.harmful
    dataset = simulated_set(world, image_size=32, num_train=800, num_test=160)
    (train, labels), (test, answers) = content(dataset.train), content(dataset.test)
    flipped = torch.tensor([0, 3, 2, 1] if factor == "orientation" else [2, 1, 0, 3])
    expected = answers // 4 * 4 + flipped[answers % 4]
    assert (nearest(train, labels, test) == answers).float().mean() > 0.9
    assert (nearest(train, labels, test.flip(3)) == expected).float().mean() > 0.9


def test_where_colour_defines_grey_images_lose_their_class() -> None:
    world = plain_world("signs", {"pattern": 2, "colour": 3})
    assert {"jitter", "greyscale"} <= set(world.harmful)
    dataset = simulated_set(world, image_size=32, num_train=300, num_test=150)
    (train, labels), (test, answers) = content(dataset.train), content(dataset.test)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    grey = [(images * luma).sum(1) for images in (train, test)]
    assert (nearest(train, labels, test) == answers).float().mean() > 0.9
    assert (nearest(grey[0], labels, grey[1]) % 3 == answers % 3).float().mean() < 0.6


def test_where_mirror_is_harmless_a_class_is_its_own_mirror_image() -> None:
    for seed in range(40):
        world = draw_world(seed)
        if "mirror" not in world.harmless or world.family in ("textures", "defects"):
            continue
        world = replace(
            world,
            nuisances=tuple(
                (name, value * (name in ("mirror", "upside_down", "rotation"))) for name, value in world.nuisances
            ),
            spread=0.05,
        )
        dataset = simulated_set(world, image_size=16, num_train=600, num_test=600)
        (first, labels), (second, answers) = content(dataset.train), content(dataset.test)
        for label in range(2):
            mean, other = (x[y == label].float().mean(0) for x, y in ((first, labels), (second, answers)))
            assert (mean - other.flip(2)).norm() < 2 * (mean - other).norm() + 1, (seed, world.family)


@pytest.mark.parametrize("sizes", [(7, 10, 10), (32, 0, 10), (32, 10, 0)])
def test_too_small_a_set_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="at least 8 pixels and 1 image"):
        simulated_set(draw_world(0), image_size=sizes[0], num_train=sizes[1], num_test=sizes[2])
