"""`taskrl finetune` and `taskrl distill`: what they print and write, and that it is of use without taskrl."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import models

from agents import finetuning
from agents.distilling import kept_share
from agents.progress import Reporter
from agents.transferring import training_of
from taskrl.config import load_config
from taskrl.data.splits import Splits
from taskrl.export import load_exported
from taskrl.folders import verify
from taskrl.run_folder import RunFolder
from taskrl.seeding import isolated_global_rng
from tests.agents.runs import snapshot, taskrl
from tests.builders import blobs

DIGITS = ("--data", "digits", "--image-size", "16", "--device", "cpu")
FINETUNE = ("--labels-per-class", "4", "--steps", "3", "--seeds", "2")
DISTILL = ("--student", "small:4", "--steps", "4")
BLOCKED = """
import sys
sys.modules["taskrl"] = None  # importing it raises
text = open("README.md").read().split("```python\\n")[1].split("```")[0]
names = {}
exec(text, names)
"""


@pytest.fixture(scope="module")
def encoder(finished: RunFolder) -> Path:
    return finished.encoder


@pytest.fixture(scope="module")
def finetuned(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned folder, made with the test images out of reach."""
    out = tmp_path_factory.mktemp("finetuned") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Splits, "open_test", lambda *arguments: pytest.fail("the test images were opened"))
        result = taskrl("finetune", encoder, *DIGITS, *FINETUNE, "--out", out)
    assert result.exit_code == 0, result.output
    for text in ("fine-tuned", "from scratch", "linear probe", "40 labels", "validation images", "How to load"):
        assert text in result.stdout
    return out


@pytest.fixture(scope="module")
def distilled(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distilled") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Splits, "open_test", lambda *arguments: pytest.fail("the test images were opened"))
        result = taskrl("distill", encoder, *DIGITS, *DISTILL, "--seeds", "2", "--out", out)
    assert result.exit_code == 0, result.output
    for text in ("teacher", "student small:4", "untrained student", "Kept at", "linear accuracy"):
        assert text in result.stdout
    return out


def read(folder: Path, name: str = "result.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def run_snippet(folder: Path, then: str) -> None:
    command = [sys.executable, "-I", "-c", BLOCKED + then]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_every_side_is_trained_on_the_same_seeds_and_charged(finetuned: Path) -> None:
    result = read(finetuned)
    assert result["scored_on"] == "validation" and result["test_reads"] == []
    pairs = [(row["name"], row["seed"]) for row in result["rows"]]
    assert pairs == [(name, seed) for seed in (0, 1) for name in ("fine-tuned", "from scratch", "linear probe")]
    for row in result["rows"]:
        assert row["num_labels"] == 40 and row["flops"] > 0 and row["wall_seconds"] > 0
        assert 0 <= row["accuracy"] <= 100 and 0 <= row["auroc"] <= 100
        assert row["name"] != "from scratch" or row["step"] > 0, "a probe of random features is a poor start"
    by_name = {name: [row["accuracy"] for row in result["rows"] if row["name"] == name] for name, _ in pairs}
    for difference in result["differences"]:
        if difference["measure"] == "accuracy":
            others = by_name[difference["minus"]]
            expected = sum(a - b for a, b in zip(by_name["fine-tuned"], others, strict=True)) / 2
            assert difference["mean"] == pytest.approx(expected) and difference["low"] <= expected <= difference["high"]


def test_the_folder_is_an_encoder_with_a_classifier(finetuned: Path) -> None:
    verify(finetuned, ("model.safetensors", "classifier.safetensors", "classes.json", "result.json", "README.md"))
    layer = load_file(finetuned / "classifier.safetensors")
    assert read(finetuned, "classes.json")["classes"] == [str(digit) for digit in range(10)]
    assert layer["weight"].shape == (10, load_exported(finetuned).feature_dim) and layer["bias"].shape == (10,)
    assert "fine-tuned on labels" in read(finetuned, "config.json")["card"]["training"]
    assert taskrl("probe", finetuned, *DIGITS[:4]).exit_code == 0


def test_the_snippet_of_a_fine_tuned_folder_runs_without_taskrl(finetuned: Path) -> None:
    before = snapshot(finetuned)
    run_snippet(finetuned, "assert names['probabilities'].shape == (2, 10) and len(names['predicted']) == 2")
    made = {path for path in snapshot(finetuned) if "__pycache__" not in path}
    assert made == set(before)


def test_the_snippet_gives_the_accuracy_that_is_reported(finetuned: Path, encoder: Path, tmp_path: Path) -> None:
    from taskrl.assemble import load_data
    from taskrl.config import load_config
    from taskrl.data.splits import make_splits

    config = load_config(given={"data.source": "digits", "data.image_size": 16})
    validation = make_splits(load_data(config), seed=0).validation
    assert validation.labels is not None
    layer, net = load_file(finetuned / "classifier.safetensors"), load_exported(finetuned)
    with torch.no_grad():
        features = net(validation.inputs.take(torch.arange(len(validation.inputs))))
    predicted = (features @ layer["weight"].T + layer["bias"]).argmax(1)
    accuracy = 100 * float((predicted == validation.labels).float().mean())
    rows = {row["seed"]: row["accuracy"] for row in read(finetuned)["rows"] if row["name"] == "fine-tuned"}
    card = read(finetuned, "config.json")["card"]
    assert card["validation_accuracy"] == rows[card["seed"]] == pytest.approx(accuracy, abs=0.3)
    assert card["mean_over_seeds"] == pytest.approx(sum(rows.values()) / 2)
    assert read(finetuned)["written_seed"] == card["seed"]
    assert f"those of seed {card['seed']}," in (finetuned / "README.md").read_text()


@pytest.mark.parametrize("how", ["full", "last-1"])
def test_what_is_frozen_is_exported_as_it_came(how: str, encoder: Path, here: Path) -> None:
    result = taskrl(
        "finetune", encoder, *DIGITS, "--out", "out", "--how", how, "--steps", "2", "--seeds", "1", "--views", "none"
    )
    assert result.exit_code == 0, result.output
    assert "no interval" in result.stdout
    before, after = load_exported(encoder).backbone.state_dict(), load_exported(here / "out").backbone.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    frozen = {name for name in before if not name.startswith("widen")}
    assert same >= frozen if how == "last-1" else "stem.0.weight" not in same
    assert "widen.0.weight" not in same


def test_final_scores_test_images_once_and_says_so(encoder: Path, here: Path) -> None:
    result = taskrl("finetune", encoder, *DIGITS, *FINETUNE, "--final", "--out", "out")
    assert result.exit_code == 0, result.output
    found = read(here / "out")
    assert found["scored_on"] == "test" and len(found["test_reads"]) == 1
    assert found["test_reads"][0] in result.stdout


def test_a_student_is_an_encoder_whose_card_says_where_it_comes_from(distilled: Path, encoder: Path) -> None:
    result, card = read(distilled), read(distilled, "config.json")["card"]
    verify(distilled, ("model.safetensors", "result.json"))
    assert result["student_parameters"] < result["teacher_parameters"]
    assert load_exported(distilled).feature_dim == 16
    assert card["teacher"] == str(encoder) and card["data"] == "digits" and card["train_flops"] > 0
    assert "%" in card["kept"] or "not defined" in card["kept"]
    run_snippet(distilled, "assert names['features'].shape == (2, 16)")


def test_what_finetune_and_distill_wrote_is_exported(finetuned: Path, distilled: Path, here: Path) -> None:
    for name, folder in (("f", finetuned), ("d", distilled)):
        result = taskrl("export", folder, "--out", name)
        assert result.exit_code == 0, result.output
        assert (here / name / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_what_is_kept_is_the_ratio_of_the_rows(distilled: Path) -> None:
    result = read(distilled)
    gained = [row["quality"] - row["untrained_quality"] for row in result["rows"]]
    possible = [result["teacher_quality"] - row["untrained_quality"] for row in result["rows"]]
    if result["kept"] is not None:
        assert result["kept"]["mean"] == pytest.approx(sum(gained) / sum(possible))
    kept = kept_share([80.0, 70.0], [40.0, 50.0], 90.0)
    assert kept is not None and kept.mean == pytest.approx(60 / 90) and kept.low == 0.5 and kept.high == 0.8
    assert kept_share([80.0], [95.0], 90.0) is None


def pictures(folder: Path, num: int, mode: str = "L", classes: int = 0) -> Path:
    rng = torch.Generator().manual_seed(0)
    for index in range(num):
        pixels = (torch.rand(4, 4, 3, generator=rng) * 255).to(torch.uint8).numpy()
        parent = folder / f"class{index % classes}" if classes else folder
        parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).resize((16, 16)).save(parent / f"{index}.png")
    return folder


def test_without_labels_the_panel_says_what_is_kept(encoder: Path, here: Path) -> None:
    pictures(here / "photos", 400)
    result = taskrl(
        *("distill", encoder, "--data", "./photos", "--image-size", "16", "--device", "cpu", *DISTILL, "--out", "out"),
        "--final",
    )
    assert result.exit_code == 0, result.output
    assert "Note: --final reads no test image" in result.stdout and read(here / "out")["scored_on"] == "probe"
    assert read(here / "out")["quality"] == "label-free panel"


def test_torchvision_weights_are_tuned_and_taught_by(here: Path) -> None:
    with isolated_global_rng(0):
        torch.save(models.shufflenet_v2_x0_5().state_dict(), "net.pth")
    common = ("net.pth", "--arch", "shufflenet_v2_x0_5", *DIGITS)
    result = taskrl("finetune", *common, *FINETUNE[:2], "--steps", "1", "--seeds", "1", "--out", "tuned")
    assert result.exit_code == 0, result.output
    assert "repeated 3 times" in result.stdout
    result = taskrl("distill", *common, "--student", "small:128", "--steps", "1", "--no-labels", "--out", "student")
    assert result.exit_code == 0, result.output
    assert "Note: the student is no smaller than the teacher." in result.stdout
    run_snippet(here / "tuned", "assert names['logits'].shape == (2, 10)")
    assert load_exported(here / "student").mean.shape == (1,), "grey images need a student of grey images"


BOTH: dict[str, tuple[list[str], str]] = {
    "an out that exists": (["--out", "photos"], "exists already"),
    "no steps": (["--steps", "0"], "--steps at least 1"),
    "no seeds": (["--seeds", "0"], "--seeds at least 1"),
    "an unknown view": (["--views", "mirrow=0.5"], "Did you mean 'mirror'"),
    "a view out of range": (["--views", "mirror=2"], "from 0 to 0.5"),
    "other channels": (["--data", "./colour"], "give grey images"),
    "missing data": (["--data", "./nowhere"], "'./nowhere'"),
    "an architecture of a folder": (["--arch", "resnet18"], "leave --arch"),
}
ONLY_FINETUNE: dict[str, tuple[list[str], str]] = {
    "no labels": (["--data", "./photos"], "has no labels"),
    "one class": (["--data", "./one"], "no labels"),  # a folder of one folder has nothing to tell apart
    "fewer labels than asked": (["--labels-per-class", "5000"], "not 5000"),
    "one label a class": (["--labels-per-class", "1"], "give at least 2"),
    "an unknown how": (["--how", "ful"], "Did you mean 'full'"),
    "too many modules": (["--how", "last-9"], "has 3 modules"),
}
ONLY_DISTILL: dict[str, tuple[list[str], str]] = {
    "a rate of nothing": (["--learning-rate", "0"], "--learning-rate 0"),
    "an unknown student": (["--student", "resnet19"], "Did you mean 'resnet18'"),
    "a width of nothing": (["--student", "small:0"], "small:16"),
    "a width of a torchvision net": (["--student", "resnet18:16"], "its own width"),
    "too few images without labels": (["--data", "./photos"], "needs 32"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    pictures(root / "photos", 60)
    pictures(root / "colour", 60, "RGB")
    pictures(root / "one", 60, classes=1)
    return root


def refuses(arguments: list[str], sentence: str, images: Path) -> None:
    before = snapshot(images)
    result = taskrl(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert sentence in result.stderr
    assert snapshot(images) == before, "nothing may be made or changed"


def cases(*tables: dict[str, tuple[list[str], str]]) -> Callable[[Any], Any]:
    whole = {name: case for table in tables for name, case in table.items()}
    return pytest.mark.parametrize(("options", "sentence"), whole.values(), ids=whole.keys())


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (["probe"], "name data with labels"),
        (["finetune", "--out", "out"], "name data with labels"),
        (["distill", "--out", "out", *DISTILL], "--no-labels"),
    ],
)
def test_final_on_test_images_without_labels_is_refused_before_any_is_read(
    command: list[str], remedy: str, encoder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Splits, "open_test", lambda *arguments: pytest.fail("the test images were opened"))
    labels = torch.arange(80) % 4
    images = blobs(labels)[:, 0].numpy()
    np.savez("d.npz", x_train=images, y_train=labels.numpy(), x_test=images[:8])
    arguments = [command[0], str(encoder), *command[1:], "--data", "./d.npz", "--device", "cpu", "--final"]
    refuses(arguments, "The test images of d have no labels", here)
    assert remedy in taskrl(*arguments).stderr


@cases(BOTH, ONLY_FINETUNE)
def test_finetune_refuses(
    options: list[str], sentence: str, encoder: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    refuses(["finetune", str(encoder), *DIGITS, "--out", "out", *options], sentence, images)


@cases(BOTH, ONLY_DISTILL)
def test_distill_refuses(
    options: list[str], sentence: str, encoder: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    refuses(["distill", str(encoder), *DIGITS, "--out", "out", *DISTILL, *options], sentence, images)


@pytest.mark.parametrize(("imbalanced", "said"), [(True, "+20.0"), (False, "+5.0")])
def test_fine_tuning_is_compared_in_what_is_to_be_quoted(imbalanced: bool, said: str) -> None:
    """Balanced accuracy where classes are imbalanced."""
    rows = [
        {"name": name, "accuracy": accuracy, "balanced_accuracy": balanced, "auroc": 80.0}
        | {"num_labels": 40, "flops": 1e9, "wall_seconds": 1.0}
        for name, accuracy, balanced in (
            (finetuning.FINETUNED, 90.0, 80.0),
            (finetuning.SCRATCH, 85.0, 60.0),
            (finetuning.PROBE, 85.0, 60.0),
        )
    ]
    result = {"rows": rows, "differences": finetuning._differences(rows), "imbalanced": imbalanced, "seeds": 1}
    reporter = Reporter()
    with reporter.console.capture() as shown:
        finetuning._print(result | {"encoder": "x", "data": "y", "how": "full", "scored_on": "test"}, reporter)
    assert said in shown.get() and ("(balanced)" in shown.get().replace("\n", "")) == imbalanced


def test_distill_refuses_labels_of_one_class(encoder: Path, here: Path) -> None:
    groups = np.repeat([0, 1, 2, 3], [140, 31, 30, 30])  # dealt out in this order: the last two are not fitted to
    labels = (groups >= 2).astype(np.int64)
    images = blobs(torch.from_numpy(labels))[:, 0].numpy()
    np.savez("d.npz", x_train=images, y_train=labels, track_train=groups)
    arguments = ["distill", str(encoder), *DISTILL, "--data", "./d.npz", "--groups", "track", "--out", "out"]
    refuses([*arguments, "--device", "cpu"], "are all of one class; give more images (or groups) of each", here)


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "fp32")])
def test_precision_auto_is_bf16_on_gpus_that_do_not_emulate_it(
    bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: asked.append(1) or bf16)
    source = SimpleNamespace(device=torch.device("cuda"), shape=(1, 16, 16))
    assert training_of(source, load_config(), 1, "none").precision == precision  # type: ignore[arg-type]
    assert asked
