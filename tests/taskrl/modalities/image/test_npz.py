import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskrl.errors import DataError
from taskrl.modalities.image.datasets import load_images
from tests.taskrl.modalities.image.made import labels_of, noise_array, pixels_of


def npz(path: Path, **columns: Any) -> str:
    np.savez(path / "set.npz", **columns)
    return str(path / "set.npz")


class TestNpz:
    def test_images_labels_and_test_part_are_read(self, tmp_path: Path) -> None:
        x_train, x_test = noise_array(0, 5, 8, 8, 3), noise_array(1, 2, 8, 8, 3)
        dataset = load_images(
            npz(tmp_path, x_train=x_train, y_train=[7, -2, 7, 40, 7], x_test=x_test, y_test=[[40], [7]])
        )
        assert dataset.name == "set"
        assert (pixels_of(dataset.train) == x_train).all()
        assert (pixels_of(dataset.test) == x_test).all()
        assert dataset.class_names == ("-2", "7", "40")
        assert labels_of(dataset.train) == [1, 0, 1, 2, 1]
        assert labels_of(dataset.test) == [2, 1]

    def test_x_train_alone_is_enough(self, tmp_path: Path) -> None:
        x_train = noise_array(0, 4, 9, 9)
        dataset = load_images(npz(tmp_path, x_train=x_train), image_size=32)
        assert dataset.train.inputs.sample_shape == (1, 9, 9)
        assert (pixels_of(dataset.train)[..., 0] == x_train).all()
        assert dataset.train.labels is None
        assert dataset.test is None

    def test_labels_of_one_part_alone_are_kept(self, tmp_path: Path) -> None:
        dataset = load_images(
            npz(tmp_path, x_train=noise_array(0, 4, 8, 8), x_test=noise_array(1, 2, 8, 8), y_test=[1, 0])
        )
        assert dataset.train.labels is None
        assert labels_of(dataset.test) == [1, 0]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (
                {"x_test": noise_array(1, 3, 8, 8), "y_test": [10, 11, 1]},
                "2 classes that y_train lacks, such as 10; number",
            ),
            ({"y_test": [0, 1, 0]}, "has y_test but no x_test"),
            ({"y_train": np.array([2**63, 1, 0, 1], dtype=np.uint64)}, "holds 9223372036854775808, above"),
        ],
    )
    def test_labels_that_contradict_the_rest_are_refused_unless_unused(
        self, tmp_path: Path, columns: dict[str, Any], message: str
    ) -> None:
        source = npz(tmp_path, **{"x_train": noise_array(0, 4, 8, 8), "y_train": [0, 1, 0, 1], **columns})
        with pytest.raises(DataError, match=message):
            load_images(source)
        assert load_images(source, use_labels=False).train.labels is None

    def test_labels_of_one_class_alone_are_none(self, tmp_path: Path) -> None:
        x = noise_array(0, 4, 8, 8)
        dataset = load_images(npz(tmp_path, x_train=x, y_train=[3, 3, 3, 3], x_test=x, y_test=[3, 3, 1, 3]))
        assert dataset.train.labels is None and dataset.test is not None and dataset.test.labels is None
        assert dataset.class_names == () and "one class alone" in dataset.notes[0]

    @pytest.mark.parametrize("shape", [(3, 10, 16), (3, 16, 10, 1), (3, 10, 16, 3)])
    def test_oblong_images_become_squares_of_the_image_size(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        dataset = load_images(npz(tmp_path, x_train=noise_array(0, *shape)), image_size=8)
        assert dataset.train.inputs.sample_shape == (3 if shape[-1] == 3 else 1, 8, 8)

    @pytest.mark.parametrize(
        "x_train",
        [
            noise_array(0, 4, 8, 8).astype(np.float32),
            noise_array(0, 4, 3, 8, 8),
            noise_array(0, 4, 8, 8, 4),
            noise_array(0, 4, 64),
            noise_array(0, 0, 8, 8),
            np.array(["a", "b"]),
        ],
    )
    def test_images_of_another_kind_are_refused(self, tmp_path: Path, x_train: Any) -> None:
        with pytest.raises(DataError, match=r"x_train of .* not uint8 of shape"):
            load_images(npz(tmp_path, x_train=x_train))

    @pytest.mark.parametrize("y_train", [[0, 1], [0.5, 1, 2, 3], np.eye(4, dtype=np.int64), ["a", "b", "c", "d"], 3])
    def test_labels_that_do_not_fit_are_refused_unless_unused(self, tmp_path: Path, y_train: Any) -> None:
        source = npz(tmp_path, x_train=noise_array(0, 4, 8, 8), y_train=y_train)
        with pytest.raises(DataError, match=r"y_train of .* not 4 integers"):
            load_images(source)
        assert load_images(source, use_labels=False).train.labels is None

    def test_python_objects_are_refused_unopened(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
                return pytest.fail, ("an object was unpickled",)

        source = npz(tmp_path, x_train=np.array([Trap(), None], dtype=object))
        with pytest.raises(DataError, match="holds Python objects"):
            load_images(source)

    @pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps([1]), b"\x93NUMPY"])
    def test_a_file_that_is_no_npz_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "set.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"is no \.npz file, or is damaged"):
            load_images(str(tmp_path / "set.npz"))

    @pytest.mark.parametrize("compressed", [True, False])
    def test_a_damaged_npz_is_refused(self, tmp_path: Path, compressed: bool) -> None:
        write = np.savez_compressed if compressed else np.savez
        write(tmp_path / "set.npz", x_train=noise_array(0, 40, 8, 8))
        content = bytearray((tmp_path / "set.npz").read_bytes())
        content[500:900] = bytes(400)
        (tmp_path / "set.npz").write_bytes(bytes(content))
        with pytest.raises(DataError, match="is damaged"):
            load_images(str(tmp_path / "set.npz"))

    def test_a_missing_x_train_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="has no array x_train, only images, y_train"):
            load_images(npz(tmp_path, images=noise_array(0, 4, 8, 8), y_train=[0]))

    def test_parts_of_different_shape_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="differ in shape"):
            load_images(npz(tmp_path, x_train=noise_array(0, 4, 8, 8), x_test=noise_array(1, 4, 8, 8, 3)))
