"""What do the simulated data sets look like, how long do they take, and how hard are they?

    python benchmarks/simulated_sheets.py                 # sheets, and figures of 35 worlds (15 minutes)
    python benchmarks/simulated_sheets.py --only sheets   # docs/images/simulated-*.png
    python benchmarks/simulated_sheets.py --quick         # one small world: that it runs

Difficulty: accuracy on test images at 32x32, for 2,000 training images, of the nearest training image in pixels and of
the small net trained on the labels for 200 steps (batch 128, AdamW, one-cycle). One thread.
"""

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from taskrl.data.dataset import Part
from taskrl.modalities.image.modeling import Encoder, SmallNet
from taskrl.modalities.image.simulated.sets import simulated_set
from taskrl.modalities.image.simulated.traits import FAMILIES
from taskrl.modalities.image.simulated.world import World, draw_world
from taskrl.seeding import isolated_global_rng, torch_generator

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
IMAGE_SIZE = 32
FIRST_SEED = 1000  # the worlds of the figures; no other use of theirs is known
WORLDS_A_FAMILY = 4
ZOOM = 2
STEPS, BATCH, PEAK_RATE = 200, 128, 6e-3


def pick(world: World, *, num_classes: int, each: int) -> Tensor:
    """The first images of the first classes, class by class: (num_classes * each, 3, H, H)."""
    train = simulated_set(world, image_size=IMAGE_SIZE, num_train=each * world.num_classes, num_test=1).train
    assert train.labels is not None
    order = train.labels.argsort(stable=True)
    chosen = torch.arange(num_classes) % world.num_classes * each
    images = train.inputs.take(order[(chosen[:, None] + torch.arange(each)).flatten()])
    return images.expand(-1, 3, -1, -1)


def save_sheet(rows: list[Tensor], path: Path) -> None:
    """Rows of images (N, 3, H, H) as one PNG."""
    lines = [torch.cat([F.pad(image, (1, 1, 1, 1), value=255) for image in row], dim=2) for row in rows]
    pixels = torch.cat(lines, dim=1).permute(1, 2, 0).numpy()
    sheet = Image.fromarray(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * ZOOM, sheet.height * ZOOM), Image.Resampling.NEAREST).save(path, optimize=True)


def draw_sheets() -> None:
    """One sheet of all families, eight worlds each, and one sheet a family: four worlds, 4 classes x 3 images each."""
    families = [
        torch.cat(
            [pick(draw_world(seed, family=family), num_classes=2, each=1)[-1:] for seed in range(first, first + 8)]
        )
        for first, family in zip(range(0, 80, 8), FAMILIES, strict=False)
    ]
    save_sheet(families, IMAGES / "simulated-families.png")
    for family in FAMILIES:
        worlds = [draw_world(seed, family=family) for seed in range(WORLDS_A_FAMILY)]
        rows = [pick(world, num_classes=4, each=3) for world in worlds]
        save_sheet(rows, IMAGES / f"simulated-{family}.png")


def pixels_of(part: Part) -> tuple[Tensor, Tensor]:
    """All inputs and labels."""
    assert part.labels is not None
    return part.inputs.take(torch.arange(len(part.inputs))), part.labels


def nearest_accuracy(train: Part, test: Part) -> float:
    """Accuracy of the nearest training image in raw pixels."""
    (images, labels), (queries, answers) = pixels_of(train), pixels_of(test)
    known, asked = images.flatten(1).float(), queries.flatten(1).float()
    distance = known.square().sum(1) - 2 * asked @ known.T
    return float((labels[distance.argmin(1)] == answers).float().mean())


def supervised_accuracy(train: Part, test: Part, num_classes: int, seed: int) -> float:
    """Accuracy of the small net trained on the labels."""
    (images, labels), (queries, answers) = pixels_of(train), pixels_of(test)
    channels = images.shape[1]
    scaled = images.float() / 255
    with isolated_global_rng(seed):
        net = Encoder(
            SmallNet(in_channels=channels), mean=[float(scaled.mean())] * channels, std=[float(scaled.std())] * channels
        )
        model = nn.Sequential(net, nn.Linear(net.feature_dim, num_classes))
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=STEPS)
    rng = torch_generator(seed, "supervised")
    for _ in range(STEPS):
        batch = torch.randint(0, len(images), (BATCH,), generator=rng)
        optimiser.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimiser.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return float((model(queries).argmax(1) == answers).float().mean())


def measure_world(world: World, *, num_train: int) -> dict[str, Any]:
    """Seconds of one core to make 3,000 + 1,000 images, and the accuracies; chance beside them."""
    started = time.process_time()
    simulated_set(world, image_size=IMAGE_SIZE)
    seconds = time.process_time() - started
    dataset = simulated_set(world, image_size=IMAGE_SIZE, num_train=num_train, num_test=1000)
    assert dataset.test is not None
    return {
        "world": world.to_json(),
        "seconds": seconds,
        "chance": 1 / world.num_classes,
        "pixels": nearest_accuracy(dataset.train, dataset.test),
        "supervised": supervised_accuracy(dataset.train, dataset.test, world.num_classes, world.seed),
    }


def main() -> None:
    """Sheets, then figures, five worlds of each family."""
    options = measure.parser(__doc__)
    options.add_argument("--only", choices=("sheets", "figures"))
    options.add_argument("--each", type=int, default=5, help="Worlds of each family.")
    options = options.parse_args()
    torch.set_num_threads(1)
    if options.only != "figures" and not options.quick:
        draw_sheets()
    if options.only == "sheets":
        return
    families = ("strokes",) if options.quick else tuple(FAMILIES)
    cells: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for index in range(1 if options.quick else options.each):
        for family in families:
            world = draw_world(FIRST_SEED + index * len(FAMILIES) + list(FAMILIES).index(family), family=family)
            cell = measure_world(world, num_train=200 if options.quick else 2000)
            cells[family].append(cell)
            figures = {name: round(cell[name], 3) for name in ("seconds", "chance", "pixels", "supervised")}
            print(f"{family} {world.seed} {dict(world.levels)}, {world.channels} channels: {figures}", flush=True)
    every = [cell for found in cells.values() for cell in found]
    names = ("seconds", "chance", "pixels", "supervised")
    medians = {
        family: {name: round(float(np.median([cell[name] for cell in found])), 3) for name in names}
        for family, found in {**cells, "all": every}.items()
    }
    for family, row in medians.items():
        print(family, row)
    slowest = round(max(cell["seconds"] for cell in every), 2)
    measure.finish(__file__, options, {**medians["all"], "slowest_seconds": slowest},
                   {"medians": medians, "worlds": every})  # fmt: skip


if __name__ == "__main__":
    main()
