import os
from pathlib import Path

import pytest
from PIL import Image

from taskrl.errors import DataError
from taskrl.modalities.image.datasets import load_images
from taskrl.modalities.image.folder import FolderImages
from taskrl.modalities.image.listing import list_folder
from tests.taskrl.modalities.image.made import everything, save, save_many


class TestLayout:
    def test_class_folders_give_labels_in_sorted_order(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["dog/2.png", "cat/1.png", "cat/deep/er/3.png", "emu/0.png"])
        dataset = load_images(str(tmp_path))
        assert dataset.class_names == ("cat", "dog", "emu")
        assert dataset.train.labels is not None
        assert dataset.train.labels.tolist() == [0, 0, 1, 2]
        assert dataset.test is None
        assert dataset.name == tmp_path.name

    def test_images_come_in_the_order_of_their_paths(self, tmp_path: Path) -> None:
        for level in (3, 1, 2):
            save(Image.new("L", (4, 4), level), tmp_path / f"{level}.png")
        assert everything(load_images(str(tmp_path)).train.inputs)[:, 0, 0, 0].tolist() == [1, 2, 3]

    def test_a_flat_folder_and_a_single_class_have_no_labels(self, tmp_path: Path) -> None:
        save_many(tmp_path / "flat", ["1.png", "2.png"])
        save_many(tmp_path / "one", ["only/1.png", "only/2.png"])
        for name in ("flat", "one"):
            dataset = load_images(str(tmp_path / name))
            assert dataset.train.labels is None
            assert dataset.class_names == ()
            # one folder looks like labels, and is none
            assert any("one folder, 'only'; every class needs its own" in note for note in dataset.notes) == (
                name == "one"
            )

    def test_a_stray_image_takes_the_labels_away_and_is_named(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["a/1.png", "b/1.png", "stray.png"])
        dataset = load_images(str(tmp_path))
        assert dataset.train.labels is None
        assert any("stray.png" in note for note in dataset.notes)

    def test_train_and_test_are_kept_apart(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["Train/a/1.png", "Train/b/2.png", "Train/b/3.png", "Test/a/4.png", "Test/b/5.png"])
        dataset = load_images(str(tmp_path))
        assert dataset.test is not None
        assert dataset.train.labels is not None and dataset.test.labels is not None
        assert dataset.train.labels.tolist() == [0, 1, 1]
        assert dataset.test.labels.tolist() == [0, 1]
        assert (len(dataset.train.inputs), len(dataset.test.inputs)) == (3, 2)

    def test_flat_train_and_test_have_no_labels(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/1.png", "train/2.png", "test/1.png"])
        dataset = load_images(str(tmp_path))
        assert dataset.test is not None
        assert dataset.train.labels is None
        assert dataset.test.labels is None

    def test_a_flat_test_beside_classes_has_no_labels_and_says_so(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/a/1.png", "train/b/2.png", "test/1.png"])
        dataset = load_images(str(tmp_path))
        assert dataset.test is not None
        assert dataset.train.labels is not None
        assert dataset.test.labels is None
        assert any("test/ has no class folders" in note for note in dataset.notes)

    def test_train_alone_is_the_root(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/a/1.png", "train/b/2.png"])
        dataset = load_images(str(tmp_path))
        assert dataset.class_names == ("a", "b")
        assert dataset.test is None

    def test_different_classes_in_train_and_test_are_refused(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/a/1.png", "train/b/2.png", "test/a/1.png", "test/zebra/2.png", "test/b/2.png"])
        with pytest.raises(DataError, match=r"different classes .*'zebra' in test/"):
            load_images(str(tmp_path))
        assert load_images(str(tmp_path), use_labels=False).test is not None

    def test_val_in_place_of_test_is_refused_not_taken_for_a_class(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/a/1.png", "train/b/2.png", "val/a/1.png"])
        with pytest.raises(DataError, match="val/ but no test/"):
            load_images(str(tmp_path))

    def test_parts_beside_another_folder_are_refused_too(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/a/1.png", "train/b/2.png", "val/a/1.png", "extra/3.png"])
        with pytest.raises(DataError, match="train/ and val/ but no test/"):
            load_images(str(tmp_path))
        listing = list_folder(tmp_path)  # as they are embedded
        assert listing.parts == (None, "train", "train", "val") and listing.classes == (None, "a", "b", "a")

    def test_a_class_that_is_called_like_a_part_is_told(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/1.png", "test1/2.png", "test1/3.png"])
        dataset = load_images(str(tmp_path))
        assert dataset.class_names == ("test1", "train")
        assert any("'train' is taken for one of the classes ('test1', 'train')" in note for note in dataset.notes)
        save_many(tmp_path / "other", ["cat/1.png", "dog/2.png"])
        assert not any("taken for" in note for note in load_images(str(tmp_path / "other")).notes)

    @pytest.mark.parametrize("parts", [("testing", "training"), ("test", "val"), ("Dev", "eval"), ("testing", "train")])
    def test_parts_under_other_names_are_refused_not_taken_for_classes(
        self, tmp_path: Path, parts: tuple[str, str]
    ) -> None:
        save_many(tmp_path, [f"{part}/{kind}/1.png" for part in parts for kind in ("a", "b")])
        with pytest.raises(
            DataError, match=f"{parts[0].lower()}/.*(no classes; call its parts train/ and|but no test/)"
        ):
            load_images(str(tmp_path))
        listing = list_folder(tmp_path)
        assert listing.parts == tuple(part.lower() for part in parts for _ in "ab")
        assert listing.classes == ("a", "b", "a", "b")

    def test_a_note_says_which_folders_are_the_classes_where_all_hold_the_same_folders(self, tmp_path: Path) -> None:
        alike = [f"{outer}/{inner}/1.png" for outer in ("first", "second") for inner in ("cat", "dog")]
        save_many(tmp_path / "alike", alike)
        dataset = load_images(str(tmp_path / "alike"))
        assert dataset.class_names == ("first", "second")
        assert any(
            "the 2 outer folders, which all hold the same folders ('cat', 'dog')" in note for note in dataset.notes
        )
        save_many(tmp_path / "sure" / "train", alike)
        save_many(tmp_path / "other", [*alike[:3], "second/2.png"])
        for name in ("sure", "other"):
            dataset = load_images(str(tmp_path / name))
            assert dataset.class_names == ("first", "second") and not dataset.notes

    def test_what_lies_beside_train_and_test_is_named(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/1.png", "test/1.png", "val/1.png"])
        (tmp_path / "docs").mkdir()
        dataset = load_images(str(tmp_path))
        assert len(dataset.train.inputs) == 1
        assert any("'val'" in note and "docs" not in note for note in dataset.notes)

    def test_a_name_that_is_no_text_can_be_written_in_a_note(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/1.png", "test/1.png", "caf\udce9/1.png"])
        assert any(r"caf\udce9" in note.encode().decode() for note in load_images(str(tmp_path)).notes)

    def test_hidden_files_and_other_files_are_passed_over(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["a/1.png", "b/2.png"])
        for name in (".hidden.png", "a/._1.png", "__MACOSX/b/1.png", "labels.csv", "a/Thumbs.db"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("no image")
        assert len(load_images(str(tmp_path)).train.inputs) == 2

    @pytest.mark.parametrize("parts", [("",), ("train/", "test/")])
    def test_image_files_that_are_not_read_are_counted(self, tmp_path: Path, parts: tuple[str, ...]) -> None:
        for part in parts:
            save_many(tmp_path, [f"{part}a/1.png", f"{part}b/2.jfif", f"{part}b/3.jpe"])
        for name in ("a/4.heic", "b/5.HEIC", "b/6.avif", "b/notes.txt"):
            (tmp_path / parts[0] / name).touch()
        dataset = load_images(str(tmp_path))
        assert len(dataset.train.inputs) == 3
        (note,) = dataset.notes
        assert note == "left out, because taskrl does not read them: 2 .heic and 1 .avif files; convert to PNG or JPEG"

    def test_a_folder_of_files_that_are_not_read_is_refused_naming_them(self, tmp_path: Path) -> None:
        (tmp_path / "1.heic").touch()
        with pytest.raises(DataError, match=r"holds no images but 1 \.heic file, which taskrl does not read; give"):
            load_images(str(tmp_path))

    @pytest.mark.parametrize("names", [[], ["readme.txt"], ["empty/deep/"]])
    def test_a_folder_without_images_is_refused(self, tmp_path: Path, names: list[str]) -> None:
        for name in names:
            path = tmp_path / name
            path.mkdir(parents=True) if name.endswith("/") else path.write_text("text")
        with pytest.raises(DataError, match="holds no images"):
            load_images(str(tmp_path))

    def test_an_empty_test_folder_is_refused(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["train/1.png"])
        (tmp_path / "test").mkdir()
        with pytest.raises(DataError, match=r"test/ in .* holds no"):
            load_images(str(tmp_path))

    def test_names_with_spaces_and_accents_are_read(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["ein Hund/für.png", "日本/猫 1.png"])
        assert load_images(str(tmp_path)).class_names == ("ein Hund", "日本")


class TestLinks:
    def test_a_loop_of_links_ends(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["a/1.png", "b/2.png"])
        os.symlink(tmp_path, tmp_path / "a" / "loop", target_is_directory=True)
        os.symlink(tmp_path / "b", tmp_path / "b" / "self", target_is_directory=True)
        dataset = load_images(str(tmp_path))
        assert len(dataset.train.inputs) == 2
        assert dataset.class_names == ("a", "b")

    def test_a_file_is_read_once_under_its_own_name(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["z.png"])
        os.symlink(tmp_path / "z.png", tmp_path / "a.png")
        os.symlink(tmp_path / "z.png", tmp_path / "b.png")
        inputs = load_images(str(tmp_path), memory_limit_bytes=1).train.inputs
        assert isinstance(inputs, FolderImages)
        assert inputs.names == ("z.png",)

    def test_a_linked_folder_is_followed(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["store/1.png", "store/2.png", "set/b/3.png"])
        os.symlink(tmp_path / "store", tmp_path / "set" / "a", target_is_directory=True)
        assert load_images(str(tmp_path / "set")).class_names == ("a", "b")

    def test_train_and_test_of_links_into_a_store_beside_them_are_whole(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["all/1.png", "all/2.png"])
        for role, number in (("train", 1), ("test", 2)):
            (tmp_path / role).mkdir()
            os.symlink(tmp_path / "all" / f"{number}.png", tmp_path / role / f"{number}.png")
        dataset = load_images(str(tmp_path))
        assert dataset.test is not None
        assert (len(dataset.train.inputs), len(dataset.test.inputs)) == (1, 1)

    def test_a_link_to_nothing_counts_as_unreadable(self, tmp_path: Path) -> None:
        save_many(tmp_path, ["1.png"])
        os.symlink(tmp_path / "gone.png", tmp_path / "2.png")
        with pytest.raises(DataError, match=r"'2\.png' \(it is no file"):
            load_images(str(tmp_path))
