"""`taskrl embed`: every image, in order, to the bit the same however often it was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import models

from agents import embedding
from taskrl.export import load_exported
from taskrl.folders import fingerprint
from taskrl.modalities.image.folder import decode_image
from taskrl.run_folder import RunFolder
from taskrl.seeding import isolated_global_rng
from tests.agents.runs import snapshot, taskrl
from tests.builders import random_images

HOSTILE = ('a,b "c".png', "line\nbreak.png", "ünïcödé 图.png", "'; drop.png", " space .png", "#1.png", "=1+1.png")
KILLED = """
import os, signal, sys
from agents import embedding
from agents.cli import app
embedding.IMAGES_A_PART = 16
store, left = embedding._store, 2
def store_and_die(*arguments):
    global left
    if left == 0:
        embedding.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)  # a draft is written, and has no name yet
    left -= 1
    store(*arguments)
embedding._store = store_and_die
app(sys.argv[1:])
"""


@pytest.fixture
def photos(here: Path) -> Path:
    """56 grey images of 20 x 20 pixels with hostile names, in two classes, in two parts."""
    for number, image in enumerate(random_images(56, size=20)):
        split, kind = ("test" if number % 4 == 0 else "train"), "cat" if number % 3 else 'do,g "x"'
        name = HOSTILE[number] if number < len(HOSTILE) else f"{number}.png"
        folder = here / "photos" / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / name)
    return here / "photos"


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "IMAGES_A_PART", 16)


def embed(*arguments: object) -> str:
    result = taskrl("embed", *arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def read_npz(path: str) -> dict[str, Any]:
    with np.load(path) as archive:
        return dict(archive)


def refuse(sentence: str, here: Path, *arguments: object) -> None:
    before = snapshot(here)
    result = taskrl("embed", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert sentence in result.stderr
    assert snapshot(here) == before, "nothing may be made or changed"


def own_features(encoder: Path, paths: list[Path], size: int) -> Tensor:
    images = torch.stack([torch.from_numpy(decode_image(str(path), size)) for path in paths])
    with torch.no_grad():
        return load_exported(encoder)(images)


def test_every_image_has_a_row_in_sorted_order_with_the_encoders_own_features(
    finished: RunFolder, photos: Path, short_parts: None
) -> None:
    said = embed(finished.path, "--data", "./photos", "--out", "new/f.parquet", "--batch-size", "8")
    assert "at 16 pixels a side, as the encoder was trained" in said and "Features of 56 images" in said
    frame = pd.read_parquet("new/f.parquet")
    paths = sorted(str(path.relative_to(photos).as_posix()) for path in photos.rglob("*.png"))
    assert frame["name"].tolist() == paths
    assert frame["split"].tolist() == [path.split("/")[0] for path in paths]
    assert frame["class"].tolist() == [path.split("/")[1] for path in paths]
    assert frame["label"].tolist() == [int(path.split("/")[1] != "cat") for path in paths]
    expected = own_features(finished.encoder, [photos / path for path in paths], 16)
    np.testing.assert_allclose(np.stack(frame["features"]), expected.numpy(), atol=1e-6)
    assert os.listdir("new") == ["f.parquet"]


def test_parquet_says_what_made_it(finished: RunFolder, photos: Path) -> None:
    embed(finished.encoder, "--data", "./photos", "--out", "f.parquet", "--image-size", "20")
    table = pa.parquet.read_table("f.parquet")
    assert table.schema.field("features").type == pa.list_(pa.float32(), load_exported(finished.encoder).feature_dim)
    about = json.loads(table.schema.metadata[b"taskrl"])
    assert about["encoder_sha256"] == fingerprint(finished.encoder / "model.safetensors")["sha256"]
    assert (about["architecture"], about["image_shape"], about["num_images"]) == ("small", [1, 20, 20], 56)


def test_the_three_formats_hold_the_same(finished: RunFolder, photos: Path, short_parts: None) -> None:
    for ending in ("parquet", "npz", "csv"):
        embed(finished.encoder, "--data", "./photos", "--out", f"f.{ending}")
    frame, archive, text = pd.read_parquet("f.parquet"), read_npz("f.npz"), pd.read_csv("f.csv")
    features = np.stack(frame["features"])
    np.testing.assert_array_equal(archive["features"], features)
    np.testing.assert_array_equal(text.filter(regex=r"^f\d+$").to_numpy(np.float32), features)
    for column, plural in (("name", "names"), ("class", "classes"), ("label", "labels"), ("split", "splits")):
        assert frame[column].tolist() == archive[plural].tolist() == text[column].tolist()
    facts = json.loads(Path("f.csv.json").read_text())
    assert facts == json.loads(str(archive["metadata"])) and facts["num_images"] == 56


def test_a_spreadsheet_finds_no_formula_in_the_names(finished: RunFolder, here: Path) -> None:
    """OWASP, CSV injection: a folder of images may come from anyone."""
    names = ["+sum/a.png", "=cmd|calc!A0/a.png", "@x/a.png", "good/a.png"]
    for index, name in enumerate(names):
        (here / "images" / name).parent.mkdir(parents=True)
        Image.new("L", (16, 16), 40 * index).save(here / "images" / name)
    for ending in ("csv", "parquet"):
        embed(finished.encoder, "--data", "./images", "--out", f"f.{ending}")
    text, frame = pd.read_csv("f.csv"), pd.read_parquet("f.parquet")
    assert text["name"].tolist() == ["./+sum/a.png", "./=cmd|calc!A0/a.png", "./@x/a.png", "good/a.png"]
    assert text["class"].tolist() == ["'+sum", "'=cmd|calc!A0", "'@x", "good"]
    assert [Path("images", name).is_file() for name in text["name"]] == [True] * 4
    assert frame["name"].tolist() == names, "only spreadsheets take a text for a formula"


def test_arrays_are_named_by_part_and_row(finished: RunFolder, here: Path) -> None:
    images = random_images(30)[:, 0].numpy()
    np.savez("d.npz", x_train=images[:20], y_train=np.arange(20) % 2, x_test=images[20:], y_test=np.arange(10) % 2)
    embed(finished.encoder, "--data", "./d.npz", "--out", "f.parquet")
    frame = pd.read_parquet("f.parquet")
    assert frame["name"].tolist() == [f"train/{row}" for row in range(20)] + [f"test/{row}" for row in range(10)]
    assert frame["label"].tolist() == [row % 2 for row in [*range(20), *range(10)]]
    with torch.no_grad():
        expected = load_exported(finished.encoder)(torch.from_numpy(images)[:, None])
    np.testing.assert_allclose(np.stack(frame["features"]), expected.numpy(), atol=1e-6)


def test_no_labels_and_no_parts_are_needed(finished: RunFolder, here: Path) -> None:
    (here / "few").mkdir()
    for name in ("b.png", "a.png", os.fsdecode(b"\xff.png")):
        Image.new("L", (16, 16), 7).save(here / "few" / name)
    embed(finished.encoder, "--data", "./few", "--out", "f.npz")
    embed(finished.encoder, "--data", "./few", "--out", "f.parquet")
    archive = read_npz("f.npz")
    assert archive["names"].tolist() == ["a.png", "b.png", "\\xff.png"]
    assert archive["labels"].tolist() == [-1] * 3 and archive["splits"].tolist() == [""] * 3
    assert pd.read_parquet("f.parquet")["class"].isna().all()


@pytest.mark.parametrize("ending", ["parquet", "npz", "csv"])
def test_ctrl_c_loses_nothing(
    ending: str, finished: RunFolder, photos: Path, short_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (finished.encoder, "--data", "./photos", "--batch-size", "8")
    embed(*command, "--out", f"whole.{ending}")
    encode_part, encoded = embedding._encode_part, []

    def interrupted(job: embedding._Job, start: int, *arguments: object) -> object:
        if start == 32 and 32 not in encoded:
            encoded.append(start)
            raise KeyboardInterrupt
        encoded.append(start)
        return encode_part(job, start, *arguments)

    monkeypatch.setattr(embedding, "_encode_part", interrupted)
    result = taskrl("embed", *command, "--out", f"f.{ending}")
    assert result.exit_code == 130 and "Stopped. The same command goes on" in result.stderr
    assert not Path(f"f.{ending}").exists()
    assert "2 of 4 parts" in embed(*command, "--out", f"f.{ending}")
    assert encoded == [0, 16, 32, 32, 48], "what was finished is not encoded again"
    assert Path(f"f.{ending}").read_bytes() == Path(f"whole.{ending}").read_bytes()
    assert not Path(f"f.{ending}.parts").exists()


def test_kill_9_loses_nothing(finished: RunFolder, photos: Path, short_parts: None) -> None:
    command = ["embed", str(finished.encoder), "--data", "./photos", "--batch-size", "4", "--out"]
    root = str(Path(embedding.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", KILLED, *command, "f.parquet"], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(Path("f.parquet.parts").glob("*.safetensors"))) == 2
    assert len(list(Path("f.parquet.parts").glob("*.tmp-*"))) == 1 and not Path("f.parquet").exists()
    assert "2 of 4 parts" in embed(*command[1:], "f.parquet")
    embed(*command[1:], "whole.parquet")
    assert Path("f.parquet").read_bytes() == Path("whole.parquet").read_bytes()


def test_parts_that_another_command_removed_are_a_sentence(
    finished: RunFolder, photos: Path, short_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = embedding._judge

    def removed(job: Any, bad: Any) -> tuple[str, ...]:
        if len(list(job.parts.glob("*.safetensors"))) == 4:
            shutil.rmtree(job.parts)
            job.parts.mkdir()
        return judge(job, bad)

    monkeypatch.setattr(embedding, "_judge", removed)
    result = taskrl("embed", finished.encoder, "--data", "./photos", "--batch-size", "8", "--out", "f.npz")
    assert result.exit_code == 2 and "another taskrl embed with the same --out ended first" in result.stderr


@pytest.fixture
def stopped(finished: RunFolder, photos: Path, short_parts: None, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A command that was stopped when its four parts were finished."""

    def stop(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    command = [finished.encoder, "--data", "./photos", "--batch-size", "8", "--out", "f.npz"]
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_write", stop)
        assert taskrl("embed", *command).exit_code == 130
    return command


def test_parts_of_another_command_are_refused(stopped: list[object], here: Path) -> None:
    refuse("made with another batch size;", here, *stopped, "--batch-size", "4")
    refuse("made with another image size;", here, *stopped, "--image-size", "20")
    assert "4 of 4 parts" in embed(*stopped)


def test_parts_of_changed_images_and_damaged_parts_are_made_anew(stopped: list[object], here: Path) -> None:
    parts = sorted((here / "f.npz.parts").glob("*.safetensors"))
    parts[2].write_bytes(parts[2].read_bytes()[:100])
    first = sorted((here / "photos").rglob("*.png"))[0]
    Image.new("L", (20, 20), 3).save(first)
    said = embed(*stopped)
    assert "2 of 4 parts" in said and "1 finished parts are of images that have changed" in said
    embed(*stopped[:-1], "whole.npz")
    assert Path("f.npz").read_bytes() == Path("whole.npz").read_bytes()


def test_a_few_damaged_images_are_left_out_and_named(finished: RunFolder, here: Path) -> None:
    (here / "many").mkdir()
    for number in range(120):
        Image.new("L", (8, 8), number).save(here / "many" / f"{number:03d}.png")
    (here / "many" / "007.png").write_bytes(b"no image")
    said = embed(finished.encoder, "--data", "./many", "--out", "f.parquet")
    assert "1 of 120 image files" in said and "'007.png' (it is no" in said
    frame = pd.read_parquet("f.parquet")
    assert frame["name"].tolist() == [f"{number:03d}.png" for number in range(120) if number != 7]
    paths = [here / "many" / name for name in frame["name"]]
    np.testing.assert_allclose(np.stack(frame["features"]), own_features(finished.encoder, paths, 16), atol=1e-6)
    (here / "many" / "100.png").write_bytes(b"")
    refuse("the first is '007.png'", here, finished.encoder, "--data", "./many", "--out", "g.parquet")


def test_weights_of_others_are_read_at_the_size_of_their_stem(here: Path) -> None:
    with isolated_global_rng(0):
        torch.save(models.shufflenet_v2_x0_5().state_dict(), "net.pth")
    (here / "few").mkdir()
    for number in range(3):
        Image.new("RGB" if number else "L", (30, 30)).save(here / "few" / f"{number}.png")
    refuse("--arch resnet18", here, "net.pth", "--data", "./few", "--out", "f.npz")
    said = embed("net.pth", "--arch", "shufflenet_v2_x0_5", "--data", "./few", "--out", "f.npz")
    assert "at 224 pixels a side, since the file does not say" in said
    assert read_npz("f.npz")["features"].shape == (3, 1024)


def test_bad_input_is_refused(finished: RunFolder, here: Path) -> None:
    for folder in ("empty", "colour"):
        (here / folder).mkdir()
    Image.new("RGB", (16, 16), "red").save(here / "colour" / "x.png")
    (here / "file.csv").write_text("mine")
    encoder, photo = finished.encoder, ("--data", "./colour")
    refuse("end it in .parquet, .npz, .csv", here, encoder, *photo, "--out", "f.txt")
    refuse("exists already", here, encoder, *photo, "--out", "file.csv")
    refuse("cannot be made", here, encoder, *photo, "--out", "file.csv/f.npz")
    refuse("holds no images", here, encoder, "--data", "./empty", "--out", "f.npz")
    refuse("'./nowhere'", here, encoder, "--data", "./nowhere", "--out", "f.npz")
    refuse("'x.png' in 'colour' is in colour and the encoder takes grey", here, encoder, *photo, "--out", "f.npz")
    refuse("manifest.json", here, "empty", *photo, "--out", "f.npz")
