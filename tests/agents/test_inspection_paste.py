"""Promises of `taskrl inspect --as`: code that stands alone, and plays taskrl's own views as far as its library can."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor

from agents.inspection.learned import Learned
from agents.inspection.paste import LIBRARIES, code_for
from taskrl.modalities.image.views import make_view
from taskrl.seeding import torch_generator
from taskrl.tasks.spec import TaskSpec

SIZE, NUM = 40, 500
CHANCE = 1e-3  # of a false alarm, for each comparison; draws are seeded
# what only this process has must not be there: pasted code has to stand alone
ALONE = "import sys\nfor name in ('taskrl', 'agents', 'envs'):\n    sys.modules[name] = None\n"
Levels = Mapping[str, float]
Measure = Callable[[Tensor, Tensor], Tensor]


def ramp() -> Tensor:
    """(3, SIZE, SIZE): x in the first channel, y in the second, so that a view says where its pixels come from."""
    line = (torch.arange(SIZE) + 0.5) / SIZE
    return torch.stack([line.expand(SIZE, SIZE), line[:, None].expand(SIZE, SIZE), torch.full((SIZE, SIZE), 0.5)])


def checks() -> Tensor:
    """(1, SIZE, SIZE), 0.4 and 0.6 in blocks of one pixel: jitter of 0.4 leaves every value inside [0, 1]."""
    places = torch.arange(SIZE)
    return (0.4 + 0.2 * ((places[:, None] + places) % 2)).float()[None]


def slopes(views: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How source x and y change along the x and y of a view, at its centre: x by x, x by y, y by x, y by y."""
    middle = SIZE // 2
    along_x = (views[:, :2, middle, middle + 1] - views[:, :2, middle, middle - 1]) * SIZE / 2
    along_y = (views[:, :2, middle + 1, middle] - views[:, :2, middle - 1, middle]) * SIZE / 2
    return along_x[:, 0], along_y[:, 0], along_x[:, 1], along_y[:, 1]


def area(views: Tensor, image: Tensor) -> Tensor:
    x_x, x_y, y_x, y_y = slopes(views)
    return (x_x * y_y - x_y * y_x).abs()


def aspect(views: Tensor, image: Tensor) -> Tensor:
    x_x, _, _, y_y = slopes(views)
    return (x_x / y_y).abs().log()


def place(views: Tensor, image: Tensor) -> Tensor:
    return views[:, 0, SIZE // 2, SIZE // 2]


def angle(views: Tensor, image: Tensor) -> Tensor:
    x_x, _, y_x, _ = slopes(views)
    return torch.atan2(y_x, x_x)


def left_right(views: Tensor, image: Tensor) -> Tensor:
    return (slopes(views)[0] < 0).float()


def top_bottom(views: Tensor, image: Tensor) -> Tensor:
    return (slopes(views)[3] < 0).float()


def brightness(views: Tensor, image: Tensor) -> Tensor:
    return views.mean((1, 2, 3)) / image.mean()


def contrast(views: Tensor, image: Tensor) -> Tensor:
    return views.std((1, 2, 3)) / image.std() / brightness(views, image)


def untouched(views: Tensor, image: Tensor) -> Tensor:
    return ((views - image).abs().amax((1, 2, 3)) < 1e-4).float()


def difference(views: Tensor, image: Tensor) -> Tensor:
    return (views - image).std((1, 2, 3))


def changed(views: Tensor, image: Tensor) -> Tensor:
    return ((views - image).abs().amax(1) > 1e-4).float().mean((1, 2))


def greyness(views: Tensor, image: Tensor) -> Tensor:
    return ((views.amax(1) - views.amin(1)).amax((1, 2)) < 1e-4).float()


# knob: image, strengths of the row, others that the same measures must tell apart, measures
CASES: dict[str, tuple[Callable[[], Tensor], Levels, Levels, tuple[Measure, ...]]] = {
    "crop": (ramp, {"crop": 0.3}, {"crop": 0.5}, (area, place)),
    "small crop": (ramp, {"crop": 0.15}, {"crop": 0.3}, (area, place)),
    "aspect": (ramp, {"crop": 0.3}, {"crop": 1.0}, (aspect,)),
    "mirror": (ramp, {"mirror": 0.5, "crop": 0.6}, {"mirror": 0.3, "crop": 0.6}, (left_right,)),
    "upside_down": (ramp, {"upside_down": 0.5}, {"upside_down": 0.3}, (top_bottom,)),
    "rotation": (ramp, {"rotation": 0.8}, {"rotation": 0.3}, (angle,)),
    "any turn of a mirrored crop": (
        ramp,
        {"rotation": 3.141593, "mirror": 0.5, "crop": 0.3},
        {"rotation": 0.8, "mirror": 0.5, "crop": 0.6},
        (angle, area),
    ),
    "jitter": (checks, {"jitter": 0.4}, {"jitter": 0.6}, (brightness, contrast)),
    "jitter's share": (checks, {"jitter": 0.4}, {}, (untouched,)),
    "blur": (checks, {"blur": 0.5}, {"blur": 0.2}, (untouched, contrast)),
    "noise": (checks, {"noise": 0.1}, {"noise": 0.06}, (difference,)),
    "cutout": (ramp, {"cutout": 0.2}, {"cutout": 0.1}, (changed,)),
    "greyscale": (ramp, {"greyscale": 0.5}, {"greyscale": 0.2}, (greyness,)),
    "grey jitter": (ramp, {"greyscale": 0.2, "jitter": 0.4}, {"greyscale": 0.5, "jitter": 0.4}, (greyness,)),
}


def learned(*rows: Levels, channels: int = 3) -> Learned:
    specs = tuple(TaskSpec(mixture=(("contrastive", 1.0),), levels=tuple(levels.items())) for levels in rows)
    return Learned(specs, (channels, SIZE, SIZE), {"data": 'a "set"\\', "run": "run"})


def run_alone(folder: Path, code: str, then: str, *arguments: object) -> str:
    """Run `then` after the pasted code, in a process and a folder that know no taskrl; its output."""
    (folder / "pasted.py").write_text(code, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", f"{ALONE}from pasted import *\n{then}", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


DRAW = f"""
import numpy
torch.manual_seed(0)
for index in range(len(SCHEDULE)):
    image = torch.from_numpy(numpy.load(f"image-{{index}}.npy"))
    play = views_of(row_at(index / len(SCHEDULE))["views"], SIZE, len(image))
    views = torch.stack([play(image) for _ in range({NUM})])
    assert type(views) is Tensor and views.dtype == torch.float32
    assert views.shape == ({NUM}, *image.shape) and 0 <= views.min() and views.max() <= 1
    numpy.save(f"views-{{index}}.npy", views.numpy())
"""


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Views that the pasted code made for each case."""
    folder = tmp_path_factory.mktemp("alone")
    for index, (image, *_) in enumerate(CASES.values()):
        np.save(folder / f"image-{index}.npy", image().numpy())
    code = code_for("torchvision", learned(*(levels for _, levels, *_ in CASES.values())))
    run_alone(folder, code, DRAW)
    return {name: torch.from_numpy(np.load(folder / f"views-{i}.npy")) for i, name in enumerate(CASES)}


def ours(image: Tensor, levels: Levels) -> Tensor:
    return make_view(image.expand(NUM, -1, -1, -1).contiguous(), torch_generator(0, "pasted"), levels)


def agree(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether two samples may come from one distribution: Kolmogorov and Smirnov's test of the whole of it, and means
    within the standard errors that the same chance of a false alarm allows.
    """
    error = np.sqrt((first.var() + second.var()) / NUM)
    same_mean = abs(first.mean() - second.mean()) <= 3.3 * error + 1e-4
    return bool(same_mean and ks_2samp(np.round(first, 4), np.round(second, 4), method="asymp").pvalue > CHANCE)


@pytest.mark.parametrize("name", list(CASES))
def test_pasted_views_are_distributed_as_those_of_training(name: str, pasted: dict[str, Tensor]) -> None:
    make_image, levels, others, measures = CASES[name]
    image = make_image()
    for measure in measures:
        theirs = measure(pasted[name], image).double().numpy()
        same, other = (measure(ours(image, row), image).double().numpy() for row in (levels, others))
        assert agree(theirs, same), measure.__name__
        if measure is not place:
            assert not agree(theirs, other), f"{measure.__name__} cannot tell strengths apart"


def test_rows_and_objectives_go_by_progress(tmp_path: Path) -> None:
    rows = learned({"crop": 0.3, "mask_ratio": 0.6}, {"crop": 0.6}, {"crop": 1.0}, channels=1)
    mixed = TaskSpec(mixture=(("contrastive", 0.25), ("masked", 0.75)), levels=rows.specs[0].levels)
    code = code_for("torchvision", Learned((mixed, *rows.specs[1:]), rows.image_shape, rows.card))
    then = """
print([row_at(p)["views"]["crop"] for p in (0, 0.33, 1 / 3, 0.5, 2 / 3, 0.999, 1.0)])
print(objectives(0.1), objectives(0.5), row_at(0)["others"])
image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
view = augmentation(0.0)(image)
print(tuple(view.shape), view.dtype)
from PIL import Image
print(tuple(augmentation(0.9)(Image.new("L", (30, 60))).shape))
"""
    lines = run_alone(tmp_path, code, then).splitlines()
    assert lines == [
        "[0.3, 0.3, 0.6, 0.6, 1.0, 1.0, 1.0]",
        "{'contrastive': 0.25, 'masked': 0.75} {'contrastive': 1.0} {'mask_ratio': 0.6}",
        "(1, 40, 40) torch.float32",
        "(1, 40, 40)",
    ]


def test_lightly_makes_two_views_of_each_image_and_follows_progress(tmp_path: Path) -> None:
    pytest.importorskip("lightly")
    (tmp_path / "images" / "a").mkdir(parents=True)
    for index in range(4):
        Image.fromarray(np.full((44, 52, 3), 60 * index, np.uint8)).save(tmp_path / "images" / "a" / f"{index}.png")
    then = """
from lightly.data import LightlyDataset
from torch.utils.data import DataLoader
transform = augmentation(0.0)
assert isinstance(transform, MultiViewTransform)
data = LightlyDataset("images", transform=transform)
views, labels, names = next(iter(DataLoader(data, batch_size=4)))
print([tuple(view.shape) for view in views], views[0].dtype, sorted(names))
def turned():
    image = torch.zeros(3, SIZE, SIZE)
    image[:, :, 0] = 1
    return sum(float(view[0, 0, -1]) for _ in range(50) for view in transform(image))
print(turned())
transform.set_progress(0.5)
print(20 < turned() < 80)
"""
    lines = run_alone(tmp_path, code_for("lightly", learned({"crop": 1.0}, {"mirror": 0.5})), then).splitlines()
    assert lines[0] == (
        f"[(4, 3, {SIZE}, {SIZE}), (4, 3, {SIZE}, {SIZE})] torch.float32 ['a/0.png', 'a/1.png', 'a/2.png', 'a/3.png']"
    )
    assert lines[1:] == ["0.0", "True"]


@pytest.mark.parametrize("library", list(LIBRARIES))
def test_the_code_passes_ruff_and_imports_nothing_else(library: str, tmp_path: Path) -> None:
    code = code_for(library, learned(*(levels for _, levels, *_ in CASES.values())))
    imported = {line.split()[1].split(".")[0] for line in code.splitlines() if line.startswith(("import ", "from "))}
    allowed = {"math", "collections", "torch", "torchvision"} | ({"lightly"} if library == "lightly" else set())
    assert imported == allowed
    (tmp_path / "pasted.py").write_text(code)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,I", "pasted.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
