from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from taskrl.errors import DataError
from taskrl.modalities.image import folder as folder_module
from taskrl.modalities.image.datasets import load_images
from tests.taskrl.modalities.image.made import everything, noise, save, save_many


def only_image(root: Path, image_size: int = 4) -> torch.Tensor:
    inputs = load_images(str(root), image_size=image_size).train.inputs
    assert len(inputs) == 1
    return everything(inputs)[0]


class TestDecoding:
    def test_16_bit_grey_is_scaled_not_clipped(self, tmp_path: Path) -> None:
        values = np.array([[0, 65535], [32768, 257]], dtype=np.uint16)
        save(Image.fromarray(values), tmp_path / "deep.png")
        assert only_image(tmp_path, 2)[0].tolist() == [[0, 255], [128, 1]]

    def test_16_bit_tiff_of_big_endian_is_scaled_too(self, tmp_path: Path) -> None:
        image = Image.frombytes("I;16B", (2, 2), np.array([[0, 65535], [32896, 514]], dtype=">u2").tobytes())
        save(image, tmp_path / "deep.tif")
        assert only_image(tmp_path, 2)[0].tolist() == [[0, 255], [128, 2]]

    @pytest.mark.parametrize("memory_limit_bytes", [1, 2**30])
    def test_16_bit_images_that_fill_12_bits_are_told(self, tmp_path: Path, memory_limit_bytes: int) -> None:
        dim = (np.arange(64).reshape(8, 8) * 65).astype(np.uint16)
        save(Image.fromarray(dim), tmp_path / "1.png")
        save(Image.fromarray(dim), tmp_path / "2.tif")
        save_many(tmp_path, ["3.png"], mode="L")
        (note,) = load_images(str(tmp_path), memory_limit_bytes=memory_limit_bytes).notes
        assert note.startswith("2 16-bit images have no value above 4095 of 65535")
        save(Image.fromarray(dim * 16), tmp_path / "4.png")
        assert load_images(str(tmp_path), memory_limit_bytes=memory_limit_bytes).notes == ()

    def test_floating_point_pixels_are_refused(self, tmp_path: Path) -> None:
        save(Image.new("F", (4, 4), 0.5), tmp_path / "float.tiff")
        with pytest.raises(DataError, match="floating-point"):
            load_images(str(tmp_path))

    @pytest.mark.parametrize(("mode", "colour"), [("RGBA", (255, 0, 0, 0)), ("LA", (0, 0)), ("RGBA", (9, 9, 9, 0))])
    def test_transparent_becomes_white(self, tmp_path: Path, mode: str, colour: tuple[int, ...]) -> None:
        save(Image.new(mode, (6, 6), colour), tmp_path / "clear.png")
        assert (only_image(tmp_path) == 255).all()

    def test_half_transparent_is_mixed_with_white(self, tmp_path: Path) -> None:
        save(Image.new("RGBA", (6, 6), (255, 0, 0, 128)), tmp_path / "half.png")
        red, green, blue = only_image(tmp_path)[:, 0, 0].tolist()
        assert red == 255
        assert green == blue == 127

    def test_palette_with_transparency_is_laid_on_white(self, tmp_path: Path) -> None:
        image = Image.new("P", (6, 6), 1)
        image.putpalette([0, 0, 0, 200, 0, 0])
        save(image, tmp_path / "opaque.gif")
        save(image, tmp_path / "clear.png", transparency=1)
        images = everything(load_images(str(tmp_path), image_size=4).train.inputs)
        assert (images[0] == 255).all()
        assert images[1, :, 0, 0].tolist() == [200, 0, 0]

    def test_cmyk_is_converted(self, tmp_path: Path) -> None:
        save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "print.jpg", quality=95)
        red, green, blue = only_image(tmp_path)[:, 0, 0].tolist()
        assert red > 245
        assert max(green, blue) < 10

    def test_the_first_frame_is_taken(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
        save(frames[0], tmp_path / "film.gif", save_all=True, append_images=frames[1:])
        assert only_image(tmp_path)[:, 0, 0].tolist() == [255, 0, 0]

    def test_the_orientation_of_the_camera_is_applied(self, tmp_path: Path) -> None:
        lying = np.zeros((16, 16), dtype=np.uint8)
        lying[:, :8] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # turn clockwise by a quarter: the left half comes to the top
        save(Image.fromarray(lying), tmp_path / "phone.jpg", exif=exif, quality=95)
        pixels = only_image(tmp_path, 16)[0].float()
        assert pixels[:6].mean() > 240
        assert pixels[10:].mean() < 15

    def test_the_shorter_side_is_scaled_and_the_middle_kept(self, tmp_path: Path) -> None:
        wide = np.zeros((8, 24), dtype=np.uint8)
        wide[:, 5:19] = 200
        save(Image.fromarray(wide), tmp_path / "wide.bmp")
        assert (only_image(tmp_path, 4) == 200).all()

    def test_scaling_down_is_antialiased(self, tmp_path: Path) -> None:
        checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
        save(Image.fromarray(checks), tmp_path / "checks.png")
        pixels = only_image(tmp_path, 8).float()
        assert (pixels - 127.5).abs().max() < 20

    def test_a_large_jpeg_looks_like_its_full_decoding(self, tmp_path: Path) -> None:
        smooth = noise(0, (8, 8)).resize((512, 512), Image.Resampling.BICUBIC)
        save(smooth, tmp_path / "large.jpg", quality=95)
        full = np.asarray(smooth.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
        assert np.abs(only_image(tmp_path, 32).permute(1, 2, 0).numpy() - full).mean() < 2

    @pytest.mark.parametrize(
        "suffix", [".png", ".jpg", ".JPEG", ".bmp", ".webp", ".tif", ".TIFF", ".gif", ".jfif", ".ppm"]
    )
    def test_every_promised_format_is_read(self, tmp_path: Path, suffix: str) -> None:
        save(Image.new("RGB", (9, 9), (250, 20, 20)), tmp_path / f"image{suffix}")
        assert only_image(tmp_path).shape == (3, 4, 4)

    def test_a_format_that_is_not_allowed_is_not_read_under_a_false_name(self, tmp_path: Path) -> None:
        save(noise(0), tmp_path / "fine.png")
        noise(1).save(tmp_path / "false.png", format="TGA")
        with pytest.raises(DataError, match=r"'false\.png' \(it is no PNG"):
            load_images(str(tmp_path))

    def test_a_decompression_bomb_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save(Image.new("L", (200, 100)), tmp_path / "bomb.png")
        monkeypatch.setattr(folder_module, "MAX_PIXELS", 10_000)
        with pytest.raises(DataError, match=r"bomb\.png.*200 x 100 pixels, more than 10,000"):
            load_images(str(tmp_path))


class TestChannels:
    @pytest.mark.parametrize("mode", ["L", "1", "LA", "RGB"])
    def test_a_folder_without_colour_has_one_channel(self, tmp_path: Path, mode: str) -> None:
        for seed in range(3):
            save(noise(seed).convert("L").convert(mode), tmp_path / f"{seed}.png")
        assert load_images(str(tmp_path)).train.inputs.sample_shape == (1, 32, 32)

    def test_grey_among_colour_gets_three_equal_channels(self, tmp_path: Path) -> None:
        save(noise(0, mode="L"), tmp_path / "a.png")
        save(noise(1), tmp_path / "b.jpg")
        save(noise(2, (40, 31), mode="L"), tmp_path / "c.png")
        images = everything(load_images(str(tmp_path), image_size=8).train.inputs)
        assert images.shape == (3, 3, 8, 8)
        assert images.dtype == torch.uint8
        for grey in (images[0], images[2]):
            assert torch.equal(grey, grey[:1].expand(3, 8, 8))
        assert not torch.equal(images[1, 0], images[1, 1])


def truncated_jpeg(path: Path) -> None:
    save(noise(9, (64, 64)), path)
    path.write_bytes(path.read_bytes()[:-600])


def text_named_jpg(path: Path) -> None:
    path.write_text("not an image")


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def broken_png(path: Path) -> None:
    save(noise(9, (64, 64)), path.with_suffix(".png"))
    content = bytearray(path.with_suffix(".png").read_bytes())
    content[60:90] = bytes(30)
    path.with_suffix(".png").unlink()
    path.write_bytes(bytes(content))


class TestDamage:
    @pytest.mark.parametrize("damage", [truncated_jpeg, text_named_jpg, empty_file, broken_png])
    @pytest.mark.parametrize("memory_limit_bytes", [1, 2**30])
    def test_few_unreadable_files_are_skipped_and_named(
        self, tmp_path: Path, damage: Callable[[Path], None], memory_limit_bytes: int
    ) -> None:
        save_many(tmp_path, ["a/1.png", "a/3.png", "b/1.png"])
        damage(tmp_path / "a" / "2.jpg")
        dataset = load_images(str(tmp_path), max_bad_share=0.25, memory_limit_bytes=memory_limit_bytes)
        assert len(dataset.train.inputs) == 3
        assert dataset.train.labels is not None
        assert dataset.train.labels.tolist() == [0, 0, 1]
        assert len(dataset.notes) == 1
        assert "1 of 4" in dataset.notes[0]
        assert "'a/2.jpg'" in dataset.notes[0]

    @pytest.mark.parametrize("damage", [truncated_jpeg, text_named_jpg, empty_file, broken_png])
    def test_many_unreadable_files_are_refused_naming_the_first(
        self, tmp_path: Path, damage: Callable[[Path], None]
    ) -> None:
        save_many(tmp_path, ["a/1.png", "b/1.png"])
        damage(tmp_path / "b" / "3.jpg")
        damage(tmp_path / "a" / "2.jpg")
        with pytest.raises(DataError, match=r"2 of 4 .*'a/2\.jpg' \(.+\); at most 1\.0%") as caught:
            load_images(str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_a_folder_of_damage_alone_is_refused_whatever_the_share(self, tmp_path: Path) -> None:
        text_named_jpg(tmp_path / "1.jpg")
        with pytest.raises(DataError, match="1 of 1"):
            load_images(str(tmp_path), max_bad_share=1.0)

    def test_a_test_part_of_damage_alone_is_refused(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/1.png", "train/2.png"])
        (tmp_path / "test").mkdir()
        text_named_jpg(tmp_path / "test" / "1.jpg")
        with pytest.raises(DataError, match="No image in test/"):
            load_images(str(tmp_path), max_bad_share=0.5)

    def test_a_skipped_training_file_moves_nothing_into_the_test_part(self, tmp_path: Path) -> None:
        for name, level in (("train/a/1", 10), ("train/b/3", 30), ("test/a/1", 40), ("test/b/2", 50)):
            save(Image.new("L", (4, 4), level), tmp_path / f"{name}.png")
        text_named_jpg(tmp_path / "train" / "a" / "2.jpg")
        dataset = load_images(str(tmp_path), max_bad_share=0.5)
        assert dataset.test is not None
        assert everything(dataset.train.inputs)[:, 0, 0, 0].tolist() == [10, 30]
        assert everything(dataset.test.inputs)[:, 0, 0, 0].tolist() == [40, 50]
