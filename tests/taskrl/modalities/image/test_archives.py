import gzip
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import utils

from taskrl.errors import DataError
from taskrl.modalities.image.datasets import load_images
from tests.taskrl.modalities.image.made import UInt8Array, labels_of, noise_array, pixels_of


def idx(values: UInt8Array, kind: int = 8) -> bytes:
    return bytes((0, 0, kind, values.ndim)) + np.array(values.shape, dtype=">u4").tobytes() + values.tobytes()


IDX_IMAGES = (noise_array(0, 6, 28, 28), noise_array(1, 3, 28, 28))
IDX_LABELS = (np.array([0, 9, 3, 3, 1, 2], dtype=np.uint8), np.array([9, 0, 5], dtype=np.uint8))


def idx_files() -> dict[str, bytes]:
    return {
        "train-images-idx3-ubyte": idx(IDX_IMAGES[0]),
        "train-labels-idx1-ubyte": idx(IDX_LABELS[0]),
        "t10k-images-idx3-ubyte": idx(IDX_IMAGES[1]),
        "t10k-labels-idx1-ubyte": idx(IDX_LABELS[1]),
    }


def write_files(folder: Path, files: Mapping[str, bytes], *, zipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)


def tar(files: Mapping[str, bytes], inside: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class TestIdx:
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize(
        ("name", "folder"),
        [
            ("fashion-mnist", "fashion-mnist"),
            ("fashion-mnist", "FashionMNIST/raw"),
            ("mnist", "MNIST/raw"),
            ("mnist", "."),
            ("kmnist", "KMNIST/raw"),
            ("kmnist", "kmnist"),
        ],
    )
    def test_sets_are_read_where_they_are_usually_kept(
        self, tmp_path: Path, name: str, folder: str, zipped: bool
    ) -> None:
        write_files(tmp_path / folder, idx_files(), zipped=zipped)
        dataset = load_images(name, root=tmp_path, image_size=64)
        assert dataset.name == name
        assert len(dataset.class_names) == 10
        for part, images, labels in zip((dataset.train, dataset.test), IDX_IMAGES, IDX_LABELS, strict=True):
            assert (pixels_of(part)[..., 0] == images).all()
            assert labels_of(part) == labels.tolist()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[:-1],
            lambda content: content + b"x",
            lambda content: b"\0\0\x09\x03" + content[4:],
            lambda content: b"\0\0\x08\x02" + content[4:],
            lambda content: content[:7],
            lambda content: b"",
        ],
    )
    def test_a_wrong_magic_number_or_size_is_refused(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        files = idx_files()
        files["t10k-images-idx3-ubyte"] = damage(files["t10k-images-idx3-ubyte"])
        write_files(tmp_path, files)
        with pytest.raises(DataError, match="t10k-images-idx3-ubyte is no idx file"):
            load_images("mnist", root=tmp_path)

    @pytest.mark.parametrize("labels", [np.zeros(5, dtype=np.uint8), np.full(6, 10, dtype=np.uint8)])
    def test_labels_that_do_not_fit_are_refused(self, tmp_path: Path, labels: UInt8Array) -> None:
        write_files(tmp_path, idx_files() | {"train-labels-idx1-ubyte": idx(labels)})
        with pytest.raises(DataError, match="6 images and"):
            load_images("mnist", root=tmp_path)

    def test_a_damaged_gz_is_refused(self, tmp_path: Path) -> None:
        write_files(tmp_path, idx_files(), zipped=True)
        path = tmp_path / "train-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(DataError, match="damaged"):
            load_images("mnist", root=tmp_path)

    def test_missing_files_say_where_they_were_sought(self, tmp_path: Path) -> None:
        files = idx_files()
        del files["t10k-labels-idx1-ubyte"]
        write_files(tmp_path / "fashion-mnist", files)
        with pytest.raises(DataError, match=r"FashionMNIST/raw.*t10k-labels.*--data-root.*--download"):
            load_images("fashion-mnist", root=tmp_path)


CIFAR_PIXELS = noise_array(2, 8, 3, 32, 32)


def cifar10_files() -> dict[str, bytes]:
    records = [bytes([row]) + pixels.tobytes() for row, pixels in enumerate(CIFAR_PIXELS)]
    train = {f"data_batch_{number}.bin": records[number - 1] for number in range(1, 5)}
    return train | {"data_batch_5.bin": records[4] + records[5], "test_batch.bin": records[6] + records[7]}


class TestCifar:
    @pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin", "."])
    def test_binary_batches_are_read(self, tmp_path: Path, folder: str) -> None:
        write_files(tmp_path / folder, cifar10_files())
        dataset = load_images("cifar10", root=tmp_path)
        assert (pixels_of(dataset.train) == CIFAR_PIXELS[:6].transpose(0, 2, 3, 1)).all()
        assert (pixels_of(dataset.test) == CIFAR_PIXELS[6:].transpose(0, 2, 3, 1)).all()
        assert labels_of(dataset.train) == [0, 1, 2, 3, 4, 5]
        assert labels_of(dataset.test) == [6, 7]
        assert dataset.class_names[3] == "cat"

    def test_the_archive_is_read_and_not_unpacked(self, tmp_path: Path) -> None:
        content = tar({"readme.html": b"hello"} | cifar10_files(), "cifar-10-batches-bin")
        write_files(tmp_path, {"cifar-10-binary.tar.gz": content})
        dataset = load_images("cifar10", root=tmp_path)
        assert (pixels_of(dataset.train) == CIFAR_PIXELS[:6].transpose(0, 2, 3, 1)).all()
        assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]

    def test_cifar100_takes_the_fine_labels(self, tmp_path: Path) -> None:
        records = [bytes([19, 90 + row]) + pixels.tobytes() for row, pixels in enumerate(CIFAR_PIXELS)]
        names = "\n".join(f"thing_{number:02d}" for number in range(100)) + "\n"
        files = {"fine_label_names.txt": names.encode(), "test.bin": b"".join(records[6:])}
        files["train.bin"] = b"".join(records[:6])
        write_files(tmp_path, {"cifar-100-binary.tar.gz": tar(files, "cifar-100-binary")})
        dataset = load_images("cifar100", root=tmp_path)
        assert labels_of(dataset.train) == [90, 91, 92, 93, 94, 95]
        assert (pixels_of(dataset.test) == CIFAR_PIXELS[6:].transpose(0, 2, 3, 1)).all()
        assert dataset.class_names[99] == "thing_99"

    def test_half_a_record_is_refused(self, tmp_path: Path) -> None:
        files = cifar10_files()
        write_files(tmp_path, files | {"data_batch_2.bin": files["data_batch_2.bin"][:-1]})
        with pytest.raises(DataError, match=r"data_batch_2\.bin has 3072 bytes, not a multiple of 3073"):
            load_images("cifar10", root=tmp_path)

    @pytest.mark.parametrize("cut", [20, 5000, -10])
    def test_a_damaged_archive_is_refused(self, tmp_path: Path, cut: int) -> None:
        write_files(tmp_path, {"cifar-10-binary.tar.gz": tar(cifar10_files(), "cifar-10-batches-bin")[:cut]})
        if cut == -10:  # only the padding is gone: every member is whole
            assert len(load_images("cifar10", root=tmp_path).train.inputs) == 6
        else:
            with pytest.raises(DataError, match="damaged"):
                load_images("cifar10", root=tmp_path)

    def test_an_archive_without_a_batch_is_refused(self, tmp_path: Path) -> None:
        files = cifar10_files()
        del files["test_batch.bin"]
        write_files(tmp_path, {"cifar-10-binary.tar.gz": tar(files, "cifar-10-batches-bin")})
        with pytest.raises(DataError, match=r"lacks test_batch\.bin"):
            load_images("cifar10", root=tmp_path)

    def test_pickled_batches_are_not_taken(self, tmp_path: Path) -> None:
        write_files(
            tmp_path / "cifar-10-batches-py", {"data_batch_1": pickle.dumps({}), "test_batch": pickle.dumps({})}
        )
        with pytest.raises(DataError, match="was not found"):
            load_images("cifar10", root=tmp_path)


def mat(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, columns)
    return buffer.getvalue()


class TestSvhn:
    def test_matlab_files_are_read_and_ten_is_the_digit_zero(self, tmp_path: Path) -> None:
        pixels, labels = noise_array(3, 32, 32, 3, 5), np.array([[10], [1], [2], [9], [10]], dtype=np.uint8)
        files = {f"{role}_32x32.mat": mat(X=pixels, y=labels) for role in ("train", "test")}
        write_files(tmp_path / "svhn", files)
        dataset = load_images("svhn", root=tmp_path)
        assert (pixels_of(dataset.train) == pixels.transpose(3, 0, 1, 2)).all()
        assert labels_of(dataset.test) == [0, 1, 2, 9, 0]

    @pytest.mark.parametrize(
        "content", [b"no matlab", mat(X=noise_array(0, 2, 2)), mat(X=noise_array(0, 8, 8, 3, 2), y=[[1], [2]])]
    )
    def test_another_content_is_refused(self, tmp_path: Path, content: bytes) -> None:
        write_files(tmp_path, {"train_32x32.mat": content, "test_32x32.mat": content})
        with pytest.raises(DataError, match=r"train_32x32\.mat"):
            load_images("svhn", root=tmp_path)


def stl10_files(pixels: UInt8Array) -> dict[str, bytes]:
    columns_first = pixels.transpose(0, 3, 2, 1).tobytes()
    files = {f"{role}_X.bin": columns_first for role in ("train", "test")}
    return files | {f"{role}_y.bin": bytes(range(1, len(pixels) + 1)) for role in ("train", "test")}


class TestStl10:
    def test_images_are_upright_and_labels_start_at_zero(self, tmp_path: Path) -> None:
        pixels = noise_array(4, 3, 96, 96, 3)
        write_files(tmp_path / "stl10_binary", stl10_files(pixels))
        dataset = load_images("stl10", root=tmp_path, image_size=96)
        assert (pixels_of(dataset.train) == pixels).all()
        assert labels_of(dataset.train) == [0, 1, 2]

    def test_images_get_the_image_size_also_from_the_archive(self, tmp_path: Path) -> None:
        write_files(tmp_path, {"stl10_binary.tar.gz": tar(stl10_files(noise_array(4, 3, 96, 96, 3)), "stl10_binary")})
        assert load_images("stl10", root=tmp_path).train.inputs.sample_shape == (3, 32, 32)

    def test_unlabelled_images_are_refused(self, tmp_path: Path) -> None:
        write_files(tmp_path, stl10_files(noise_array(4, 2, 96, 96, 3)) | {"train_y.bin": bytes([0, 1])})
        with pytest.raises(DataError, match=r"in 0\.\.9"):
            load_images("stl10", root=tmp_path)


class TestDownload:
    @pytest.fixture
    def web(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
        """What the pretended web holds, by file name; reading it is noted under the name 'asked'."""
        files: dict[str, bytes] = {"asked": b""}

        def download_url(url: str, root: str, filename: str, md5: str) -> None:
            assert url.startswith("http") and url.endswith(filename)
            assert len(md5) == len(hashlib.md5(b"").hexdigest())
            files["asked"] += url.encode()
            if filename not in files:
                raise RuntimeError("no such host")
            write_files(Path(root), {filename: files[filename]})

        monkeypatch.setattr(utils, "download_url", download_url)
        return files

    def test_nothing_is_downloaded_unasked(self, tmp_path: Path, web: dict[str, bytes]) -> None:
        with pytest.raises(DataError, match="--download"):
            load_images("cifar10", root=tmp_path)
        assert web["asked"] == b""

    @pytest.mark.parametrize("name", ["fashion-mnist", "mnist", "kmnist"])
    def test_idx_sets_are_downloaded_once(self, tmp_path: Path, web: dict[str, bytes], name: str) -> None:
        web.update({f"{file}.gz": gzip.compress(content) for file, content in idx_files().items()})
        first = load_images(name, root=tmp_path, download=True)
        asked = web["asked"]
        second = load_images(name, root=tmp_path, download=True)
        assert asked == web["asked"] != b""
        assert torch.equal(torch.from_numpy(pixels_of(first.train)), torch.from_numpy(pixels_of(second.train)))

    def test_archives_and_matlab_files_are_downloaded(self, tmp_path: Path, web: dict[str, bytes]) -> None:
        svhn = mat(X=noise_array(0, 32, 32, 3, 2), y=[[1], [2]])
        web["cifar-10-binary.tar.gz"] = tar(cifar10_files(), "cifar-10-batches-bin")
        web["stl10_binary.tar.gz"] = tar(stl10_files(noise_array(4, 2, 96, 96, 3)), "stl10_binary")
        web.update({"train_32x32.mat": svhn, "test_32x32.mat": svhn})
        for name in ("cifar10", "stl10", "svhn"):
            assert load_images(name, root=tmp_path, download=True).name == name

    def test_a_failed_download_is_a_sentence(self, tmp_path: Path, web: dict[str, bytes]) -> None:
        with pytest.raises(DataError, match=r"could not be downloaded .*no such host"):
            load_images("cifar100", root=tmp_path, download=True)
