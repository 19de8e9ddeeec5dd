from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taskrl.errors import DataError
from taskrl.modalities.image.datasets import DEFAULT_SOURCE, known_names, load_images


def save_npz(path: Path, num_images: int = 4) -> Path:
    rng = np.random.default_rng(0)
    np.savez(path, x_train=rng.integers(0, 256, (num_images, 8, 8), dtype=np.uint8), y_train=np.arange(num_images) % 2)
    return path


def save_folder(path: Path, names: tuple[str, ...] = ("a/1.png", "b/2.png")) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (10, 10), 40).save(path / name)
    return path


@pytest.mark.parametrize(("source", "shape"), [("digits", (1, 16, 16)), ("cluttered-digits", (1, 28, 28))])
def test_generated_sets_keep_their_own_size(source: str, shape: tuple[int, ...]) -> None:
    dataset = load_images(source, image_size=64)
    assert dataset.name == source
    assert dataset.train.inputs.sample_shape == shape
    assert dataset.test is not None
    assert len(dataset.class_names) == 10


def test_the_default_needs_no_files() -> None:
    assert load_images(DEFAULT_SOURCE).train.labels is not None


def test_labels_are_dropped_from_train_and_test() -> None:
    dataset = load_images("digits", use_labels=False)
    assert dataset.test is not None
    assert dataset.train.labels is None
    assert dataset.test.labels is None
    assert dataset.class_names == ()


@pytest.mark.parametrize(
    ("given", "nearest"), [("cifar", "cifar10"), ("fashion-mnst", "fashion-mnist"), ("digit", "digits")]
)
def test_an_unknown_name_names_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(DataError, match=f"Did you mean '{nearest}'"):
        load_images(given)


def test_known_names_list_every_source() -> None:
    expected = {
        "cluttered-digits",
        "digits",
        "fashion-mnist",
        "mnist",
        "kmnist",
        "cifar10",
        "cifar100",
        "svhn",
        "stl10",
    }
    assert set(known_names()) == expected


def test_a_path_wins_over_a_name_only_with_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load_images("digits").train.inputs) == 1297
    assert len(load_images("./digits").train.inputs) == 2
    assert len(load_images("digits/").train.inputs) == 2


def test_a_path_that_is_no_name_needs_no_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(tmp_path / "photos")
    save_npz(tmp_path / "packed.npz")
    monkeypatch.chdir(tmp_path)
    assert load_images("photos").name == "photos"
    assert load_images("packed.npz").name == "packed"


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_images("~/photos").name == "photos"


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing", "missing.npz", "x" * 5000 + "/"])
def test_a_missing_path_is_refused(source: str) -> None:
    with pytest.raises(DataError, match="There is no folder or file"):
        load_images(source)


@pytest.mark.parametrize("source", ["", "no\0name"])
def test_a_senseless_source_is_refused(source: str) -> None:
    with pytest.raises(DataError):
        load_images(source)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"neither a folder nor a \.npz file"):
        load_images(str(tmp_path / "images.zip"))


def test_groups_of_a_named_set_are_refused() -> None:
    with pytest.raises(DataError, match="leave --groups out"):
        load_images("digits", groups="track")


def test_an_image_size_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="0 pixels a side"):
        load_images("digits", image_size=0)


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_labels_are_optional_in_files(tmp_path: Path, kind: str) -> None:
    source = save_folder(tmp_path / "set") if kind == "folder" else save_npz(tmp_path / "set.npz")
    assert load_images(str(source)).train.labels is not None
    without = load_images(str(source), use_labels=False)
    assert without.train.labels is None
    assert without.class_names == ()
