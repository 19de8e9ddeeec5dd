"""`taskrl probe`: any encoder, few labels, imbalanced classes, JSON."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from agents.final import floors
from taskrl.assemble import assemble
from taskrl.config import dump_config, load_config
from taskrl.data.dataset import InMemory
from taskrl.data.splits import make_splits
from taskrl.evaluation.accuracy import knn_predictions, linear_classifier, pixel_accuracy, standardised_pair
from taskrl.evaluation.few_shot import NUM_DRAWS, draw_rows
from taskrl.export import load_exported
from taskrl.modalities.image.datasets import load_images
from taskrl.run_folder import RunFolder
from taskrl.seeding import isolated_global_rng
from tests.agents.runs import taskrl
from tests.builders import blob_dataset, blobs
from tests.conftest import TINY


def probe(*arguments: object) -> dict[str, Any]:
    result = taskrl("probe", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def few_of(found: dict[str, Any]) -> list[int]:
    return [table["labels_per_class"] for table in found["few_shot"]]


def write_blobs(path: Path, labels: torch.Tensor) -> None:
    np.savez(path, x_train=blobs(labels)[:, 0].numpy(), y_train=labels.numpy())


def test_means_at_few_labels_equal_a_naive_loop(finished: RunFolder) -> None:
    found = probe(finished.path, "--data", "digits", "--few-shot", "5,1")
    splits = make_splits(load_images("digits"), seed=0)
    encoder = load_exported(finished.encoder)
    assert splits.fitting is not None and splits.validation.labels is not None
    with torch.no_grad():
        fit, score = (
            encoder(part.inputs.take(torch.arange(len(part.inputs)))) for part in (splits.fitting, splits.validation)
        )
    labels, truth = splits.fitting.labels, splits.validation.labels
    assert few_of(found) == [1, 5]
    for table in found["few_shot"]:
        linear, knn = [], []
        for draw in range(NUM_DRAWS):
            rows = draw_rows(labels, table["labels_per_class"], seed=0, draw=draw)
            matrix, scored = standardised_pair(fit[rows], score)
            predicted = linear_classifier(matrix, labels[rows].numpy()).predict(scored)
            linear.append(100 * float((predicted == truth.numpy()).mean()))
            knn.append(100 * float((knn_predictions(fit[rows], labels[rows], score) == truth).float().mean()))
        assert set(table["encoders"]) == {"encoder", "untrained", "pixels"}
        ours = table["encoders"]["encoder"]
        assert ours["linear"]["mean"] == pytest.approx(np.mean(linear), abs=0.1)
        assert ours["knn"]["mean"] == pytest.approx(np.mean(knn), abs=0.1)
        assert len(ours["linear"]["draws"]) == NUM_DRAWS
        assert ours["linear"]["low"] < ours["linear"]["mean"] < ours["linear"]["high"]
    assert found["few_shot"][0]["encoders"]["pixels"]["knn"]["mean"] > 30, "digits are alike pixel by pixel"


def test_the_table_shows_floors_and_says_what_is_skipped(finished: RunFolder) -> None:
    result = taskrl("probe", finished.encoder, "--data", "digits", "--few-shot", "2,500")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "500 labels a class are skipped: class '8' has" in said
    for text in ("untrained", "pixels", "Mean of 10 draws", "balanced %"):
        assert text in said
    assert "AUROC" not in said, "its classes are balanced"


@pytest.mark.parametrize("shares", [(1, 5), (1, 1, 5)])
def test_imbalanced_classes_bring_auroc_and_the_rule(shares: tuple[int, ...], finished: RunFolder, here: Path) -> None:
    write_blobs(here / "d.npz", torch.repeat_interleave(torch.arange(len(shares)), 60 * torch.tensor(shares)))
    found = probe(finished.encoder, "--data", "./d.npz", "--few-shot", "3")
    assert found["imbalanced"] and 50 < found["auroc"] <= 100
    assert set(found["few_shot"][0]["encoders"]["untrained"]) == {"linear", "balanced", "knn", "auroc"}
    said = " ".join(taskrl("probe", finished.encoder, "--data", "./d.npz", "--few-shot", "3").stdout.split())
    assert said.count("AUROC %") == 2 and "more than 3 times" in said


def test_weights_of_others_are_probed_and_grey_images_repeated(here: Path) -> None:
    write_blobs(here / "d.npz", torch.arange(80) % 4)
    with isolated_global_rng(0):
        torch.save(models.shufflenet_v2_x0_5().state_dict(), "net.pth")
    found = probe("net.pth", "--arch", "shufflenet_v2_x0_5", "--data", "./d.npz", "--few-shot", "1")
    assert (found["architecture"], few_of(found)) == ("shufflenet_v2_x0_5", [1])
    assert any("repeated 3 times" in note for note in found["notes"])


def test_json_stays_json_when_test_images_are_read(finished: RunFolder) -> None:
    result = taskrl("probe", finished.encoder, "--data", "digits", "--final", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["split"] == "test"
    assert "test images of digits (split seed 0) read: taskrl probe --final" in " ".join(result.stderr.split())


def test_one_class_is_refused(finished: RunFolder, here: Path) -> None:
    write_blobs(here / "d.npz", torch.zeros(60, dtype=torch.int64))
    result = taskrl("probe", finished.encoder, "--data", "./d.npz")
    assert result.exit_code == 2 and "one class" in result.stderr


@pytest.mark.parametrize("command", [["probe"], ["finetune", "--out", "out"]])
def test_a_single_class_folder_is_said_to_be_the_reason(command: list[str], finished: RunFolder, here: Path) -> None:
    (here / "photos" / "cats").mkdir(parents=True)
    for index in range(60):
        Image.new("L", (16, 16), index).save(here / "photos" / "cats" / f"{index}.png")
    result = taskrl(command[0], finished.encoder, *command[1:], "--data", "./photos")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "no labels (because all images lie in one folder, 'cats'; every class needs its own)" in result.stderr


def test_images_are_read_at_the_size_that_the_encoder_was_trained_on(finished: RunFolder, here: Path) -> None:
    for index in range(60):
        folder = here / "photos" / f"class {index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 4 * index).save(folder / f"{index}.png")
    assert probe(finished.encoder, "--data", "./photos")["sample_shape"] == [1, 16, 16]
    assert probe(finished.encoder, "--data", "./photos", "--image-size", "32")["sample_shape"] == [1, 32, 32]


def test_images_are_those_of_the_run_unless_others_are_named(finished: RunFolder, here: Path) -> None:
    write_blobs(here / "mine.npz", torch.arange(120) % 4)
    shutil.copytree(finished.path, "run")
    data = {"source": "./mine.npz", "split_seed": 5, "use_labels": False}
    config = finished.config()
    config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    (here / "run" / "config.yaml").write_text(dump_config(config))
    result = taskrl("probe", "run", "--final", "--json")
    assert result.exit_code == 0, result.output
    assert "test images of mine (split seed 5) read" in " ".join(result.stderr.split())
    assert probe("run", "--data", "digits")["data"] == "digits"


@pytest.mark.parametrize("command", [["probe"], ["quality"], ["embed", "--out", "f.npz"], ["finetune", "--out", "out"]])
def test_an_encoder_that_is_no_run_needs_the_images_named(command: list[str], finished: RunFolder, here: Path) -> None:
    result = taskrl(command[0], finished.encoder, *command[1:])
    assert result.exit_code == 2 and "give --data" in result.stderr and result.stderr.count("\n") == 1
    assert not any(here.iterdir())


def test_a_table_without_floors_says_where_they_are(finished: RunFolder) -> None:
    alone = taskrl("probe", finished.encoder, "--data", "digits")
    assert alone.exit_code == 0 and "--few-shot" in alone.stdout


@pytest.mark.parametrize("few", ["0", "1,x", "-3", "", ",", "1.5"])
def test_few_shot_takes_numbers_of_labels(few: str, finished: RunFolder) -> None:
    result = taskrl("probe", finished.encoder, "--data", "digits", "--few-shot", few)
    assert result.exit_code == 2 and "write e.g. 1,5,10" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_of_weights_needs_its_architecture(here: Path) -> None:
    torch.save({}, "net.pth")
    result = taskrl("probe", "net.pth", "--data", "digits")
    assert result.exit_code == 2 and "--arch resnet18" in result.stderr


@pytest.mark.parametrize("size", [16, 40])
def test_the_floor_of_a_run_never_holds_all_images(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assembled = assemble(load_config(given=TINY), blob_dataset(1200, size=size))
    fitting, validation = assembled.splits.fitting, assembled.splits.validation
    assert fitting is not None and validation.labels is not None
    whole = [part.inputs.take(torch.arange(len(part.inputs))) for part in (fitting, validation)]
    take, taken = InMemory.take, []
    monkeypatch.setattr(InMemory, "take", lambda self, rows: taken.append(len(rows)) or take(self, rows))
    found, _ = floors(assembled, False, num_seeds=1)
    assert found == pixel_accuracy(whole[0], fitting.labels, whole[1], validation.labels)
    assert sum(taken) == len(fitting.inputs) + len(validation.inputs) and max(taken) < len(fitting.inputs)
