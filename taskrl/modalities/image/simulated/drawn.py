"""Families drawn with lines: strokes, signs, scenes, spectrograms and defects.

A family draws its prototypes once (from the world's own stream) and then paints any number of images of them.
"""

import math

import torch
from torch import Tensor

from taskrl.modalities.image.simulated.canvas import Picture, curves, dots, opaque, polygon, smooth_fields, waves
from taskrl.modalities.image.simulated.items import Items
from taskrl.modalities.image.simulated.traits import FAMILIES
from taskrl.modalities.image.simulated.world import World

NUM_SAMPLES = 26
SIGN_SIDES = (3, 4, 4, 5, 6, 8, 16)
MAX_SIDES = 16
NUM_PARTS = 5


def uniform(rng: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers in [low, high]."""
    return low + (high - low) * torch.rand(shape, generator=rng)


def one(rng: torch.Generator, low: float, high: float) -> float:
    """One uniform number in [low, high]."""
    return float(uniform(rng, low, high, 1))


def kin(own: Tensor, kinship: float, rng: torch.Generator) -> Tensor:
    """Prototypes (P, parts, ...) whose parts are with probability `kinship` shared by all of them."""
    common = own[:1]
    shared = torch.rand(own.shape[:2], generator=rng) < kinship
    shared[:, 0] = False  # something of its own is left to each
    return torch.where(shared.reshape(*shared.shape, *([1] * (own.ndim - 2))), common, own)


class Glyphs:
    """Shapes of a few strokes, each a cubic Bezier curve or a polyline with four corners."""

    def __init__(self, num: int, num_strokes: int, kinship: float, rng: torch.Generator) -> None:
        start = uniform(rng, -0.8, 0.8, num, num_strokes, 1, 2)
        turn = uniform(rng, -2.0, 2.0, num, num_strokes, 3).cumsum(-1) + uniform(rng, 0, 6.3, num, num_strokes, 1)
        length = uniform(rng, 0.35, 1.1, num, num_strokes, 3, 1)
        steps = length * torch.stack([turn.cos(), turn.sin()], dim=-1)
        corners = torch.cat([start, start + steps.cumsum(2)], dim=2)
        corners = kin(corners, kinship, rng)
        corners = corners - corners.mean(dim=(1, 2), keepdim=True)
        self.corners_PS42 = corners / corners.square().sum(-1).mean(dim=(1, 2)).sqrt()[:, None, None, None] * 0.8
        t = torch.linspace(0, 1, NUM_SAMPLES)[:, None]
        bezier = torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
        polyline = (1 - (3 * t - torch.arange(4)).abs()).clamp(min=0)
        bent = torch.rand(num_strokes, generator=rng) < one(rng, 0, 1)
        self.basis_STC = torch.where(bent[:, None, None], polyline, bezier)

    def instances(self, pattern_B: Tensor, num_copies: int, spread: float, rng: torch.Generator) -> Tensor:
        """Points of deformed glyphs: (B, copies, strokes, samples, 2)."""
        corners = self.corners_PS42[pattern_B][:, None].expand(-1, num_copies, -1, -1, -1)
        shaken = corners + 0.16 * spread * torch.randn(corners.shape, generator=rng)
        moved = shaken + 0.10 * spread * torch.randn((*corners.shape[:3], 1, 2), generator=rng)
        return torch.einsum("stc,bnscd->bnstd", self.basis_STC, moved)


class Strokes:
    """Glyphs of two to four strokes on a plain or cloudy ground."""

    def __init__(self, world: World, rng: torch.Generator) -> None:
        self.spread = world.spread
        num_strokes = int(torch.randint(2, 5, (1,), generator=rng))
        self.glyphs = Glyphs(world.num_patterns, num_strokes, world.kinship, rng)
        self.size, self.width = one(rng, 0.45, 0.7), one(rng, 0.05, 0.1)
        self.pressure, self.cloud = one(rng, 0.0, 0.5), max(0.0, one(rng, -0.1, 0.12))

    def paint(self, items: Items, rng: torch.Generator, size: int) -> Picture:
        num, copies = items.present_BN.shape
        points = self.size * self.glyphs.instances(items.pattern_B, copies, self.spread, rng)
        points = items.put(points.flatten(2, 3)).view(points.shape).flatten(1, 2)
        num_lines = points.shape[1]
        width = self.width * (0.25 * torch.randn((num, 1), generator=rng)).exp().expand(-1, num_lines)
        if copies > 1:
            width = 0.7 * width
        there = items.present_BN.repeat_interleave(num_lines // copies, dim=1)
        pressure = 1 - self.pressure * torch.rand((num, num_lines, 1), generator=rng)
        ink = curves(points, width, (there[..., None] * pressure).expand(-1, -1, NUM_SAMPLES), size)
        return Picture(ground_BHH=self.cloud * smooth_fields(num, size, rng), layers=((ink, 1),))


class Signs:
    """A convex plate with a border and an inner glyph."""

    def __init__(self, world: World, rng: torch.Generator) -> None:
        self.spread = world.spread
        num = world.num_patterns
        self.glyphs = Glyphs(num, int(torch.randint(1, 4, (1,), generator=rng)), world.kinship, rng)
        sides = torch.tensor(SIGN_SIDES)[torch.randint(0, len(SIGN_SIDES), (num,), generator=rng)]
        common = torch.rand(num, generator=rng) < world.kinship
        sides = torch.where(common, sides[0], sides)
        order = torch.arange(MAX_SIDES)
        angle = 2 * math.pi * (order % sides[:, None]) / sides[:, None] + uniform(rng, -0.3, 0.3, num, 1) - math.pi / 2
        self.normals_PK2 = torch.stack([angle.cos(), angle.sin()], dim=-1)
        shape = uniform(rng, 0.85, 1.1, num, MAX_SIDES)
        self.offsets_PK = torch.where(sides[:, None] > 8, torch.ones_like(shape), shape)
        self.offsets_PK = self.offsets_PK.gather(1, order % sides[:, None])
        self.size, self.width, self.border = one(rng, 0.45, 0.65), one(rng, 0.06, 0.1), one(rng, 0.0, 0.3)
        self.stripes, self.cloud = 0.07 * float(one(rng, 0, 1) > 0.5), one(rng, 0.0, 0.12)

    def paint(self, items: Items, rng: torch.Generator, size: int) -> Picture:
        num, copies = items.present_BN.shape
        pattern = items.pattern_B
        # the plate keeps its size where there are several glyphs on it
        pose = items.pose_B22 / (FAMILIES["signs"].copy_size if copies > 1 else 1.0)
        inverse = torch.linalg.inv(pose * self.size)
        normals = self.normals_PK2[pattern] @ inverse
        offsets = self.offsets_PK[pattern] + 0.06 * self.spread * torch.randn((num, MAX_SIDES), generator=rng)
        away = (normals * items.place_B2[:, None]).sum(-1)
        distance = polygon(normals, offsets + away, size)
        steep = 0.5 * size * torch.linalg.det(pose).abs().sqrt()[:, None, None] * self.size
        plate = torch.sigmoid(-4 * steep * distance)
        inner = torch.sigmoid(-4 * steep * (distance + self.border))
        points = 0.55 * self.size * self.glyphs.instances(pattern, copies, 0.6 * self.spread, rng)
        shown = Items(**{**vars(items), "copies_BN2": 0.6 * items.copies_BN2})
        points = shown.put(points.flatten(2, 3)).view(points.shape).flatten(1, 2)
        there = items.present_BN.repeat_interleave(points.shape[1] // copies, dim=1)[..., None]
        width = torch.full(points.shape[:2], self.width * (0.6 if copies > 1 else 0.8))
        glyph = curves(points, width, there.expand(-1, -1, NUM_SAMPLES), size)
        ground = self.cloud * smooth_fields(num, size, rng, bends=5)
        if self.stripes:
            vector = uniform(rng, -9, 9, num, 1, 2)
            ground = ground + waves(vector, uniform(rng, 0, 6.3, num, 1), torch.full((num, 1), self.stripes), size)
        return Picture(ground_BHH=ground, layers=((plate, 2), (inner, 1), (glyph, 3)))


class Scenes:
    """Several parts of a small vocabulary, arranged in the way of the class, over an uneven ground."""

    def __init__(self, world: World, rng: torch.Generator) -> None:
        self.spread = world.spread
        num, num_parts = world.num_patterns, int(torch.randint(3, 6, (1,), generator=rng))
        if "count" in world.defining:  # what is counted are single parts
            num_parts = 1
        self.vocabulary = Glyphs(NUM_PARTS, 1, 0.0, rng)
        kinds = torch.randint(0, NUM_PARTS, (num, num_parts), generator=rng)
        kinds[:, 0] = torch.arange(num) % NUM_PARTS
        angle = uniform(rng, 0, 6.3, 1, 1) + 2 * math.pi * torch.arange(num_parts) / num_parts
        radius = uniform(rng, 0.55, 1.0, 1, num_parts)
        slots = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        own = slots + 0.45 * torch.randn((num, num_parts, 2), generator=rng)
        self.kinds_PQ = kin(kinds, world.kinship, rng)
        self.middles_PQ2 = kin(own, world.kinship, rng)
        self.inks_PQ = kin(torch.rand((num, num_parts), generator=rng) < 0.4, world.kinship, rng)
        self.size, self.width, self.part_size = one(rng, 0.5, 0.7), one(rng, 0.07, 0.12), one(rng, 0.3, 0.5)
        if num_parts == 1:
            self.middles_PQ2, self.part_size = torch.zeros_like(self.middles_PQ2), 0.8
        self.cloud, self.bends = one(rng, 0.02, 0.14), int(torch.randint(2, 7, (1,), generator=rng))

    def paint(self, items: Items, rng: torch.Generator, size: int) -> Picture:
        num, copies = items.present_BN.shape
        parts = self.kinds_PQ.shape[1]
        kinds = self.kinds_PQ[items.pattern_B]
        shapes = self.vocabulary.instances(kinds.flatten(), copies, self.spread, rng)[:, :, 0]
        shapes = shapes.unflatten(0, (num, parts)).transpose(1, 2)
        middles = self.middles_PQ2[items.pattern_B][:, None, :, None]
        shake = 0.14 * self.spread * torch.randn((num, copies, parts, 1, 2), generator=rng)
        points = self.size * (middles + shake + self.part_size * shapes)
        points = items.put(points.flatten(2, 3)).view(points.shape).flatten(1, 2)
        width = self.width * (0.3 * torch.randn(points.shape[:2], generator=rng)).exp() * (0.7 if copies > 1 else 1.0)
        there = items.present_BN.repeat_interleave(parts, dim=1)
        second = self.inks_PQ[items.pattern_B].float().repeat(1, copies)
        layers = tuple(
            (curves(points, width, (there * share)[..., None].expand(-1, -1, NUM_SAMPLES), size), ink)
            for ink, share in ((1, 1 - second), (2, second))
        )
        return Picture(ground_BHH=self.cloud * smooth_fields(num, size, rng, bends=self.bends), layers=layers)


class Spectrograms:
    """Time runs to the right, log-frequency up: events with a pitch track, harmonics, an attack and a hiss."""

    def __init__(self, world: World, rng: torch.Generator) -> None:
        num = world.num_patterns
        self.spread = world.spread
        own = torch.rand((num, 8), generator=rng)
        self.shape_P8 = kin(own, 0.7 * world.kinship, rng)
        self.num_harmonics = int(torch.randint(1, 5, (1,), generator=rng))
        known = set(world.defining)
        self.register = 1.0 if "position" in known else 0.25 if "frequency" in known else 0.6
        self.length, self.base = one(rng, 0.5, 0.85), one(rng, 0.1, 0.5)
        self.fine, self.tilt, self.grain = one(rng, 0.03, 0.07), one(rng, -0.12, 0.12), one(rng, 0.02, 0.1)

    def paint(self, items: Items, rng: torch.Generator, size: int) -> Picture:
        num, copies = items.present_BN.shape
        shape = self.shape_P8[items.pattern_B][:, None] + 0.2 * self.spread * torch.randn(
            (num, copies, 8), generator=rng
        )
        slope, bow, ripple, rate, attack, gate, hiss, roll = shape[..., None].unbind(2)
        t = torch.linspace(-1, 1, 14)
        track = 1.2 * (slope - 0.5) * t + 1.2 * (bow - 0.5) * (t**2 - 0.4)
        track = track + 0.25 * (ripple - 0.4).clamp(min=0) * torch.sin((3 + 6 * rate) * t)
        envelope = (-3 * (attack - 0.5) * t).exp().clamp(max=2) * (0.5 + 0.5 * torch.cos(12 * gate * (t + 1)) * gate)
        pitch = self.base - items.pitch_B.log2()[:, None, None]
        offset = torch.tensor([0.0, 1.0, 1.58, 2.0])[: self.num_harmonics] * 0.45
        y = (pitch + track * 0.5)[..., None, :] - offset[:, None]
        side = items.pose_B22[:, 0, 0].sign()
        stretch = items.pose_B22.norm(dim=(1, 2)) / math.sqrt(2)
        x = (self.length * side * stretch)[:, None, None, None] * t + torch.zeros_like(y)
        x = x + (items.place_B2[:, None, :1] + items.copies_BN2[..., :1])[..., None]
        y = (
            y
            + self.register * items.place_B2[:, None, None, 1:]
            + 0.05 * self.spread * torch.randn((num, copies, 1, 1), generator=rng)
        )
        weights = envelope[..., None, :] * (roll.clamp(0.1, 1)[..., None] ** torch.arange(self.num_harmonics)[:, None])
        weights = weights * items.present_BN[..., None, None]
        sigma = torch.stack([torch.full_like(y, 0.09), torch.full_like(y, self.fine)], dim=-1)
        sound = dots(torch.stack([x, y], -1).flatten(1, 3), sigma.flatten(1, 3), 0.8 * weights.flatten(1), size)
        onset = torch.stack([x[:, :, 0, 0], y[:, :, 0].mean(-1)], dim=-1)
        wide = torch.tensor([0.07, 0.6]).expand_as(onset)
        sound = sound + dots(onset, wide, (hiss[..., 0] - 0.3).clamp(0, 1) * items.present_BN, size)
        down = torch.linspace(-1, 1, size)[:, None]
        floor = self.tilt * down + self.grain * torch.randn((num, size, size), generator=rng).abs()
        return Picture(ground_BHH=floor, layers=((opaque(sound), 1),))
