"""What is drawn for each image before it is painted: the levels of its class, and the nuisances of pose and look."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from taskrl.modalities.image.simulated.harm import TURN, period
from taskrl.modalities.image.simulated.traits import FAMILIES
from taskrl.modalities.image.simulated.world import World

STEP = 1.5  # ratio of neighbouring levels of scale, brightness and frequency
HUE_STEP = 0.18 * TURN  # of neighbouring colours: a turn that strong jitter makes as well
PLACE_RADIUS = 0.42
COPY_RADIUS = 0.5


@dataclass(frozen=True, kw_only=True)
class Items:
    """Per image: prototype, pose of the object (own frame to image), place, brightness, turn of hue, factor of chroma,
    factor of frequency, number of copies; and the middles (B, N, 2) and presence (B, N) of up to N copies.
    """

    pattern_B: Tensor
    pose_B22: Tensor
    place_B2: Tensor
    gain_B: Tensor
    hue_B: Tensor
    chroma_B: Tensor
    pitch_B: Tensor
    copies_BN2: Tensor
    present_BN: Tensor

    def __len__(self) -> int:
        return len(self.pattern_B)

    def part(self, start: int, stop: int) -> "Items":
        """The items of images start to stop."""
        return Items(**{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})

    def put(self, points_BNK2: Tensor) -> Tensor:
        """Points of the object's own frame, (B, N, K, 2), to places in the image, copy by copy."""
        middles = (self.place_B2[:, None] + self.copies_BN2)[:, :, None]
        return points_BNK2 @ self.pose_B22.transpose(1, 2)[:, None] + middles


def draw_items(world: World, labels_B: Tensor, rng: torch.Generator) -> Items:
    """The items of images of the classes `labels_B`; a class is one combination of levels, the last the fastest."""
    num = len(labels_B)
    levels = dict(world.levels)
    level = dict(zip(levels, torch.unravel_index(labels_B, tuple(levels.values())), strict=True))
    uniform = torch.rand((9, num), generator=rng)
    signed = 2 * uniform - 1
    pattern = level.get("pattern", (uniform[0] * world.num_patterns).long())
    zero = torch.zeros(num)
    copies, present = _copies(world, level.get("count"), uniform[7:9], rng)
    place = 0.6 * world.strength("shift") * signed[3:5].T
    if "position" in levels:
        angle = angle_of_levels(level["position"], levels["position"], world.turn, TURN)
        place = place + PLACE_RADIUS * torch.stack([angle.cos(), angle.sin()], dim=-1)
    colour = world.strength("colour")
    hue = math.pi * colour * signed[5] + HUE_STEP * level.get("colour", zero)
    return Items(
        pattern_B=pattern,
        pose_B22=_poses(world, level, uniform, rng),
        place_B2=place,
        gain_B=STEP ** (level["brightness"] + 1.0 - levels["brightness"]) if "brightness" in levels else zero + 1,
        hue_B=hue,
        chroma_B=1 - colour * uniform[6],
        pitch_B=STEP ** (level["frequency"] - (levels["frequency"] - 1) / 2) if "frequency" in levels else zero + 1,
        copies_BN2=copies,
        present_BN=present,
    )


def angle_of_levels(level_B: Tensor, num_levels: int, turn: float, around: float) -> Tensor:
    """harm.angle_of for a tensor of levels."""
    return (level_B + turn) * (around / num_levels)


def _poses(world: World, level: dict[str, Tensor], uniform: Tensor, rng: torch.Generator) -> Tensor:
    """Rotation x scale x slant x upside down x mirror, (B, 2, 2)."""
    levels = dict(world.levels)
    signed = 2 * uniform - 1
    angle = math.pi * world.strength("rotation") * signed[1]
    if "orientation" in levels:
        around = period(world.family)
        angle = angle + angle_of_levels(level["orientation"], levels["orientation"], world.turn, around)
    size = 2.0 ** (0.8 * world.strength("scale") * signed[2])
    if "scale" in levels:
        size = size * STEP ** (level["scale"] - (levels["scale"] - 1) / 2) * 0.85
    if most_copies(world) > 1:
        size = size * FAMILIES[world.family].copy_size
    if "position" in levels:
        size = size * 0.75
    spread = 0.25 * world.spread
    slant, aspect = spread * torch.randn((2, len(angle)), generator=rng)
    flips = torch.rand((2, len(angle)), generator=rng) * 2 < torch.tensor(
        [[world.strength("mirror")], [world.strength("upside_down")]]
    )
    side, up = 1 - 2 * flips[0].float(), 1 - 2 * flips[1].float()
    if "mirror" in levels:
        side = 1 - 2 * level["mirror"].float()
    stretch = (0.5 * aspect).exp()
    shear = torch.stack([stretch, slant, torch.zeros_like(slant), 1 / stretch], dim=-1).view(-1, 2, 2)
    cos, sin = angle.cos() * size, angle.sin() * size
    rotation = torch.stack([cos, -sin, sin, cos], dim=-1).view(-1, 2, 2)
    return rotation @ shear * torch.stack([side, up], dim=-1)[:, None]


def most_copies(world: World) -> int:
    """The largest number of objects in an image."""
    return dict(world.levels).get("count", 1 + round(2 * world.strength("count")))


def _copies(world: World, count_level: Tensor | None, uniform: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Middles of the copies (even steps on a ring, shaken) and which of them are there."""
    num = uniform.shape[1]
    most = most_copies(world)
    if most == 1:
        return torch.zeros(num, 1, 2), torch.ones(num, 1)
    count = (uniform[0] * most).long() + 1 if count_level is None else count_level + 1
    start = TURN * uniform[1]
    angle = start[:, None] + TURN * torch.arange(most) / most
    ring = torch.stack([angle.cos(), angle.sin()], dim=-1) * (COPY_RADIUS + 0.04 * (most - 2))
    shaken = ring + 0.1 * torch.randn(ring.shape, generator=rng)
    # which steps of the ring are taken is random, so that the count does not tell the places
    order = torch.rand((num, most), generator=rng).argsort(dim=1)
    return shaken, (order < count[:, None]).float()
