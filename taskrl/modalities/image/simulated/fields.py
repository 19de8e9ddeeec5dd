"""Families made of fields: textures, blobs and defects of surfaces."""

import math

import torch
from torch import Tensor

from taskrl.modalities.image.simulated.canvas import Picture, dots, quadrics, smooth_fields, waves
from taskrl.modalities.image.simulated.drawn import kin, one, uniform
from taskrl.modalities.image.simulated.items import Items
from taskrl.modalities.image.simulated.world import World

NUM_WAVES = 14
NUM_GRAINS = 5
NUM_KNOTS = 12


class Textures:
    """Random-phase sums of waves (isotropic, oriented or a lattice), bent by a soft threshold or a fold."""

    def __init__(self, world: World, rng: torch.Generator) -> None:
        num = world.num_patterns
        self.spread = world.spread
        kind = torch.randint(0, 3, (num, 1), generator=rng)
        kind = torch.where(torch.rand((num, 1), generator=rng) < world.kinship, kind[:1], kind)
        if {"mirror", "orientation"} & set(world.defining):
            kind = kind.clamp(min=1)  # isotropic textures have neither
        centre, width = uniform(rng, 0.4, 1.15, num, 1), uniform(rng, 0.1, 0.5, num, 1)
        if "pattern" not in world.defining:
            centre = centre[:1].expand(num, 1)
        elif "mirror" not in world.defining:
            centre = centre * torch.where(torch.rand((num, 1), generator=rng) < 0.5, -1.0, 1.0)
        angle = centre + width * torch.randn((num, NUM_WAVES), generator=rng)
        angle = torch.where(kind == 0, uniform(rng, 0, math.pi, num, NUM_WAVES), angle)
        lattice = centre + uniform(rng, 0.7, 2.2, num, 1) * (torch.arange(NUM_WAVES) % 2)
        angle = torch.where(kind == 2, lattice, angle)
        bands = (0.35 * torch.randn((num, NUM_WAVES), generator=rng)).exp()
        harmonics = 1.0 + (torch.arange(NUM_WAVES) // 2) % 2
        reach = torch.where(kind == 2, harmonics.expand(num, -1), bands)
        pitch = one(rng, 5, 10) * (0.3 * torch.randn((num, 1), generator=rng)).exp()
        radius = pitch * reach
        self.vectors_PK2 = radius[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
        self.weights_PK = torch.where(
            (kind == 2) & (torch.arange(NUM_WAVES) >= 4), torch.zeros(1), 1 / reach
        ) * uniform(rng, 0.4, 1.0, num, NUM_WAVES)
        self.weights_PK = self.weights_PK / self.weights_PK.square().sum(1, keepdim=True).div(2).sqrt()
        self.bend_P = torch.randint(0, 3, (num,), generator=rng)
        self.sharp_P = uniform(rng, 0.8, 3.0, num)

    def paint(self, items: Items, rng: torch.Generator, size: int) -> Picture:
        num, pattern = len(items), items.pattern_B
        vectors = self.vectors_PK2[pattern]
        vectors = vectors * (1 + 0.1 * self.spread * torch.randn((num, NUM_WAVES, 1), generator=rng))
        vectors = vectors @ torch.linalg.inv(items.pose_B22) * items.pitch_B[:, None, None]
        phases = uniform(rng, 0, 2 * math.pi, num, NUM_WAVES)
        loud = (0.4 * self.spread * torch.randn((num, NUM_WAVES), generator=rng)).exp()
        field = waves(vectors, phases, self.weights_PK[pattern] * loud, size)
        bend, sharp = self.bend_P[pattern][:, None, None], self.sharp_P[pattern][:, None, None]
        folded = 1.6 * (0.6 - field.abs())
        shape = torch.where(bend == 0, field, torch.where(bend == 1, folded, field - 0.9))
        ink = torch.sigmoid(sharp * shape)
        return Picture(ground_BHH=0.04 * smooth_fields(num, size, rng), layers=((ink, 1),))


class Blobs:
    """Cells: a soft body with a rim, one or two nuclei off its middle, and grains."""

    def __init__(self, world: World, rng: torch.Generator) -> None:
        num = world.num_patterns
        self.spread = world.spread
        self.traits_P7 = kin(torch.rand((num, 7), generator=rng), world.kinship, rng)
        self.nuclei_P22 = kin(0.42 * torch.randn((num, 2, 2), generator=rng).clamp(-1.5, 1.5), world.kinship, rng)
        if {"mirror", "orientation"} & set(world.defining):  # a core off both axes, seen well
            self.traits_P7 = self.traits_P7 * 0.5 + torch.tensor([0.5, 0.2, 0.3, 0.5, 0.2, 0.3, 0.5])
            self.nuclei_P22 = self.nuclei_P22.sign() * self.nuclei_P22.abs().clamp(0.25, 0.5)
        self.grains_PG2 = kin(uniform(rng, -0.75, 0.75, num, NUM_GRAINS, 2), world.kinship, rng)
        self.size, self.cloud = one(rng, 0.5, 0.75), one(rng, 0.02, 0.12)

    def paint(self, items: Items, rng: torch.Generator, size: int) -> Picture:
        num, copies = items.present_BN.shape
        traits = self.traits_P7[items.pattern_B][:, None] + 0.15 * self.spread * torch.randn(
            (num, copies, 7), generator=rng
        )
        aspect, rim, nucleus, two, grain, body_ink, core = traits.clamp(0, 1).unbind(-1)
        stretch = torch.exp(0.9 * (aspect - 0.5))
        loose = 0.12 * self.spread
        nuclei = self.nuclei_P22[items.pattern_B][:, None] + loose * torch.randn((num, copies, 2, 2), generator=rng)
        middles = torch.cat([torch.zeros(num, copies, 1, 2), nuclei], dim=2)
        radii = (
            torch.stack([stretch, 1 / stretch], dim=-1)[:, :, None]
            * torch.stack([torch.ones_like(nucleus), 0.2 + 0.35 * nucleus, (0.4 * two - 0.08).clamp(min=0.02)], dim=-1)[
                ..., None
            ]
        )
        inverse = torch.linalg.inv(items.pose_B22 * self.size)[:, None, None]
        forms = (1 / radii)[..., None] * inverse
        places = items.put(self.size * middles)
        distance = quadrics(places.flatten(1, 2), forms.flatten(1, 2), size).unflatten(1, (copies, 3))
        there = items.present_BN[..., None, None]
        soft = 3.5 * math.sqrt(size / 24)
        body = torch.sigmoid(soft * 2 * (1 - distance[:, :, 0])) * there
        edge = (-(((distance[:, :, 0] - 0.9) / 0.14) ** 2)).exp() * there * rim[..., None, None]
        cores = torch.sigmoid(soft * (1 - distance[:, :, 1:])) * there[:, :, None]
        cover = (body * (0.45 + 0.4 * body_ink)[..., None, None] + 0.6 * edge).amax(1).clamp(0, 1)
        dark = (cores.amax(2) * (0.5 + 0.5 * core)[..., None, None]).amax(1)
        grains = self.grains_PG2[items.pattern_B][:, None] + loose * torch.randn(
            (num, copies, NUM_GRAINS, 2), generator=rng
        )
        spots = items.put(self.size * grains).flatten(1, 2)
        weights = ((1.6 * grain - 0.5).clamp(0, 1) * items.present_BN).repeat_interleave(NUM_GRAINS, dim=1)
        width = torch.full_like(spots, 0.07 if copies == 1 else 0.045)
        specks = dots(spots, width, weights, size).clamp(0, 1)
        return Picture(
            ground_BHH=self.cloud * smooth_fields(num, size, rng, bends=5),
            layers=((cover, 1), (dark, 2), (specks, 3)),
        )


class Defects:
    """A smoothly lit, brushed or grainy surface with small faults: scratches, spots, dents, pits."""

    def __init__(self, world: World, rng: torch.Generator) -> None:
        num = world.num_patterns
        self.spread, self.turns = world.spread, world.strength("rotation")
        kind = torch.arange(num)[torch.randperm(num, generator=rng)] % 4
        if {"mirror", "orientation"} & set(world.defining):
            kind = 3 * (kind % 2)  # spots and dents have no handedness
        bend = uniform(rng, -2.5, 2.5, num, 1) * torch.linspace(0, 1, NUM_KNOTS) ** 2
        angle = (
            uniform(rng, 0, 6.3, num, 1)
            + bend
            + 0.9 * torch.randn((num, NUM_KNOTS), generator=rng) * (torch.rand((num, 1), generator=rng) < 0.3)
        )
        line = torch.stack([angle.cos(), angle.sin()], dim=-1).cumsum(1) * 0.15
        line = line - line.mean(1, keepdim=True)
        pits = 0.4 * torch.randn((num, NUM_KNOTS, 2), generator=rng)
        spot = 0.12 * torch.randn((num, NUM_KNOTS, 2), generator=rng)
        towards = uniform(rng, 0, 6.3, num, 1)
        dent = torch.stack([towards.cos(), towards.sin()], dim=-1) * torch.linspace(-0.28, 0.28, NUM_KNOTS)[:, None]
        chosen = kind[:, None, None]
        self.points_PK2 = torch.where(
            chosen == 0, line, torch.where(chosen == 1, spot, torch.where(chosen == 2, dent, pits))
        )
        sign = torch.where(kind == 2, 1.0, 0.0)[:, None] * torch.linspace(-1, 1, NUM_KNOTS).sign()
        dark = torch.where(torch.rand((num, 1), generator=rng) < 0.6, -1.0, 1.0)
        some = (torch.rand((num, NUM_KNOTS), generator=rng) < 0.5).float()
        self.signs_PK = torch.where(
            kind[:, None] == 2, 0.6 * sign, torch.where(kind[:, None] == 3, dark * some, dark * 0.7)
        )
        self.width_P = torch.tensor([0.045, 0.12, 0.16, 0.05])[kind] * uniform(rng, 0.8, 1.3, num)
        self.size, self.depth = one(rng, 0.6, 0.95), one(rng, 0.25, 0.5)
        self.brush, self.pitch, self.along = one(rng, 0.0, 0.05), one(rng, 14, 26), float(one(rng, 0, 1) < 0.5)
        self.cloud = one(rng, 0.02, 0.08)

    def paint(self, items: Items, rng: torch.Generator, size: int) -> Picture:
        num, copies = items.present_BN.shape
        points = self.points_PK2[items.pattern_B][:, None]
        noise = torch.randn((num, copies, NUM_KNOTS, 2), generator=rng)
        spots = items.put(self.size * (points + 0.06 * self.spread * noise)).flatten(1, 2)
        signs = (self.signs_PK[items.pattern_B][:, None] * items.present_BN[..., None]).flatten(1)
        size_B = torch.linalg.det(items.pose_B22).abs().sqrt()
        width = (self.width_P[items.pattern_B] * size_B)[:, None, None].expand_as(spots)
        depth = self.depth * (1 - 0.5 * self.spread * torch.rand((num, 1, 1), generator=rng))
        fault = depth * torch.tanh(dots(spots, width, signs, size))
        return Picture(ground_BHH=self._surface(num, rng, size) + fault, layers=())

    def _surface(self, num: int, rng: torch.Generator, size: int) -> Tensor:
        """Clouds of light, and brush lines along one axis (turned where rotation is a nuisance)."""
        turn = math.pi * (self.turns * uniform(rng, -1, 1, num, 1) + 0.5 * self.along)
        pitch = self.pitch * uniform(rng, 0.3, 1.0, num, 8)
        angle = turn + 0.08 * torch.randn((num, 8), generator=rng)
        vectors = pitch[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
        brush = waves(vectors, uniform(rng, 0, 6.3, num, 8), torch.full((num, 8), 0.5), size)
        return self.brush * brush + self.cloud * smooth_fields(num, size, rng, bends=2)
