import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from taskrl.data.dataset import InMemory, RawDataset
from taskrl.errors import DataError
from taskrl.modalities.image.datasets import DEFAULT_SOURCE, known_names, load_images
from taskrl.modalities.image.folder import FolderImages
from taskrl.types import Inputs


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def pixels(seed: int, *shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def noise(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    return Image.fromarray(pixels(seed, size[1], size[0], 3)).convert(mode)


def save_many(root: Path, names: list[str], mode: str = "RGB") -> None:
    for seed, name in enumerate(names):
        save(noise(seed, mode=mode), root / name)


def npz(path: Path, **columns: Any) -> str:
    np.savez(path / "set.npz", **columns)
    return str(path / "set.npz")


def everything(inputs: Inputs) -> torch.Tensor:
    return inputs.take(torch.arange(len(inputs)))


def save_npz(path: Path) -> Path:
    np.savez(path, x_train=pixels(0, 4, 8, 8), y_train=[0, 1, 0, 1])
    return path


def save_folder(path: Path) -> Path:
    save_many(path, ["a/1.png", "b/2.png"])
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


@pytest.mark.parametrize(("source", "channels"), [("simulated", 3), ("simulated-grey", 1)])
def test_a_seed_draws_a_simulated_set(source: str, channels: int) -> None:
    first, second = (load_images(source, image_size=16, seed=seed) for seed in (1, 2))
    assert first.train.inputs.sample_shape == second.train.inputs.sample_shape == (channels, 16, 16)
    assert first.name != second.name
    bare = load_images(source, image_size=16, seed=1, use_labels=False)
    assert torch.equal(everything(bare.train.inputs), everything(first.train.inputs))
    assert bare.validation is not None and bare.test is not None
    assert all(part.labels is None for part in (bare.train, bare.validation, bare.test))


@pytest.mark.parametrize("source", ["digits", "simulated"])
def test_a_made_set_has_no_groups_to_choose(source: str) -> None:
    with pytest.raises(DataError, match="no column of groups"):
        load_images(source, groups="track")


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
        "simulated",
        "simulated-grey",
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


@pytest.fixture
def mixed_folder(tmp_path: Path) -> Path:
    for seed, (name, mode) in enumerate(
        (("train/a/0.png", "L"), ("train/a/1.jpg", "RGB"), ("train/b/2.webp", "RGB"), ("test/a/3.gif", "P"),
         ("test/b/4.jpg", "L"), ("train/b/5.png", "RGBA"))
    ):  # fmt: skip
        save(noise(seed, (30 + 7 * seed, 41), mode), tmp_path / name)
    return tmp_path


def both(root: Path, image_size: int = 32) -> tuple[RawDataset, RawDataset]:
    on_disk = load_images(str(root), image_size=image_size, memory_limit_bytes=100)
    return load_images(str(root), image_size=image_size), on_disk


class TestOnDisk:
    def test_images_on_disk_equal_images_in_memory(self, mixed_folder: Path) -> None:
        memory, disk = both(mixed_folder, image_size=16)
        assert memory.test is not None and disk.test is not None
        for held, lazy in ((memory.train, disk.train), (memory.test, disk.test)):
            assert isinstance(held.inputs, InMemory)
            assert isinstance(lazy.inputs, FolderImages)
            assert lazy.inputs.sample_shape == held.inputs.sample_shape == (3, 16, 16)
            assert torch.equal(everything(lazy.inputs), everything(held.inputs))
            assert held.labels is not None and lazy.labels is not None
            assert torch.equal(held.labels, lazy.labels)

    def test_take_obeys_order_and_repetition(self, mixed_folder: Path) -> None:
        memory, disk = both(mixed_folder)
        for rows in ([3, 0, 0, 2], [-1], []):
            indices = torch.tensor(rows, dtype=torch.int64)
            assert torch.equal(disk.train.inputs.take(indices), memory.train.inputs.take(indices))

    def test_the_limit_counts_the_bytes_of_all_images(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/1.png", "train/2.png", "test/1.png"])
        num_bytes = 3 * 3 * 8 * 8
        fits = load_images(str(tmp_path), image_size=8, memory_limit_bytes=num_bytes)
        assert isinstance(fits.train.inputs, InMemory)
        too_large = load_images(str(tmp_path), image_size=8, memory_limit_bytes=num_bytes - 1)
        assert isinstance(too_large.train.inputs, FolderImages)

    def test_a_grey_folder_on_disk_keeps_one_channel(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["1.png", "2.png"], mode="L")
        inputs = load_images(str(tmp_path), memory_limit_bytes=1).train.inputs
        assert inputs.sample_shape == (1, 32, 32)
        assert everything(inputs).shape == (2, 1, 32, 32)

    def test_a_store_on_disk_survives_pickling_and_a_change_of_folder(
        self, mixed_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(mixed_folder.parent)
        inputs = load_images(f"./{mixed_folder.name}", memory_limit_bytes=1).train.inputs
        monkeypatch.chdir("/")
        copy = pickle.loads(pickle.dumps(inputs))
        assert torch.equal(everything(copy), everything(inputs))

    def test_a_file_that_vanished_is_named(self, mixed_folder: Path) -> None:
        inputs = load_images(str(mixed_folder), memory_limit_bytes=1).train.inputs
        (mixed_folder / "train/a/1.jpg").unlink()
        with pytest.raises(DataError, match=r"'train/a/1\.jpg' .* has changed"):
            everything(inputs)


class TestGroupsOfFolders:
    def test_the_first_group_of_the_expression_is_the_group(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["x/track-b_1.png", "x/track-a_2.png", "y/track-b_3.png", "y/track-c_1.png"])
        groups = load_images(str(tmp_path), groups=r"track-(\w)_").train.groups
        assert groups is not None
        assert groups[0] != groups[1]
        assert groups[1] == groups[2]  # sorted: x/track-a, x/track-b, y/track-b, y/track-c
        assert len(groups.unique()) == 3

    def test_the_expression_sees_file_names_without_folders(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["f7/g1_a.png", "f8/g1_b.png"])
        groups = load_images(str(tmp_path), groups=r"^.*?(\d+)").train.groups
        assert groups is not None
        assert groups.tolist() == [0, 0]

    def test_groups_of_train_and_test_are_numbered_together(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/a_1.png", "train/b_1.png", "test/c_1.png"])
        dataset = load_images(str(tmp_path), groups="(.)_")
        assert dataset.test is not None
        assert dataset.train.groups is not None and dataset.test.groups is not None
        assert len({*dataset.train.groups.tolist(), *dataset.test.groups.tolist()}) == 3

    def test_a_group_on_both_sides_is_refused(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/a_1.png", "train/b_1.png", "test/b_2.png"])
        with pytest.raises(DataError, match="'b', have images in both train and test"):
            load_images(str(tmp_path), groups="(.)_")

    @pytest.mark.parametrize(
        ("pattern", "said"),
        [
            ("(", "no regular expression"),
            ("track", "has no"),
            (r"id-(\d+)", "finds no group id"),
            ("t(x)?", "finds no"),
        ],
    )
    def test_an_expression_that_does_not_fit_is_refused(self, tmp_path: Path, pattern: str, said: str) -> None:
        save_many(tmp_path, ["track-1.png"])
        with pytest.raises(DataError, match=said):
            load_images(str(tmp_path), groups=pattern)


class TestGroupsOfNpz:
    @pytest.mark.parametrize("groups", ["track", "track_train"])
    def test_a_column_gives_the_groups_of_both_parts(self, tmp_path: Path, groups: str) -> None:
        columns = {"track_train": [5, 9, 5], "track_test": [8, 8]}
        dataset = load_images(
            npz(tmp_path, x_train=pixels(0, 3, 8, 8), x_test=pixels(1, 2, 8, 8), **columns), groups=groups
        )
        assert dataset.test is not None
        assert dataset.train.groups is not None and dataset.test.groups is not None
        assert dataset.train.groups.tolist() == [0, 1, 0]
        assert dataset.test.groups.tolist() == [2, 2]

    def test_groups_may_be_names_and_the_test_part_without_any(self, tmp_path: Path) -> None:
        columns = {"x_train": pixels(0, 3, 8, 8), "x_test": pixels(1, 2, 8, 8), "who_train": ["ann", "bob", "ann"]}
        dataset = load_images(npz(tmp_path, **columns), groups="who")
        assert dataset.test is not None
        assert dataset.train.groups is not None
        assert dataset.train.groups.tolist() == [0, 1, 0]
        assert dataset.test.groups is None
        assert any("there is no who_test" in note for note in dataset.notes)

    def test_a_group_in_train_and_test_is_refused(self, tmp_path: Path) -> None:
        columns = {"x_train": pixels(0, 2, 8, 8), "x_test": pixels(1, 2, 8, 8), "who_train": [1, 2], "who_test": [2, 3]}
        with pytest.raises(DataError, match="'2', have images in both train and test"):
            load_images(npz(tmp_path, **columns), groups="who")

    def test_an_unknown_column_names_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="Did you mean 'track'"):
            load_images(npz(tmp_path, x_train=pixels(0, 2, 8, 8), track_train=[1, 2]), groups="tracks")

    @pytest.mark.parametrize("column", [[1, 2, 3], [0.5, 1.5], [[1], [2]]])
    def test_a_column_that_is_no_group_is_refused(self, tmp_path: Path, column: Any) -> None:
        with pytest.raises(DataError, match=r"groups of train in .* not 2 integers or names"):
            load_images(npz(tmp_path, x_train=pixels(0, 2, 8, 8), odd_train=column), groups="odd")
