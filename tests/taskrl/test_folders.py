"""Folders appear whole or not at all, and damage shows."""

import json
import os
from pathlib import Path

import pytest

import taskrl.folders
from taskrl.errors import RunFolderError
from taskrl.folders import (
    FORMAT_VERSION,
    MANIFEST,
    fingerprint,
    new_folder,
    read_json,
    to_json,
    verify,
    write_manifest,
    write_text,
)


def make(folder: Path) -> Path:
    with new_folder(folder) as draft:
        write_text(draft / "a.txt", "alpha\n")
        write_text(draft / "b.txt", "beta\n")
        write_manifest(draft)
    return folder


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with new_folder(folder) as draft:
        write_text(draft / "a.txt", "alpha\n")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert list(folder.parent.iterdir()) == [folder]


def test_every_file_is_on_the_disk_before_the_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(taskrl.folders, "sync", synced.append)
    with new_folder(tmp_path / "folder") as draft:
        (draft / "inner").mkdir()
        write_text(draft / "inner" / "a.txt", "alpha\n")
    assert set(synced) == {draft, draft / "inner", draft / "inner" / "a.txt", tmp_path}


def test_a_block_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with new_folder(tmp_path / "folder") as draft:
            write_text(draft / "a.txt", "alpha\n")
            raise KeyError("mistake")

    with pytest.raises(KeyError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_error_is_a_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        pytest.raises(RunFolderError, match=r"could not be written .*no space.*; free the disk"),
        new_folder(tmp_path / "folder"),
    ):
        raise OSError("no space")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_with_content_is_not_overwritten(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RunFolderError), new_folder(folder) as draft:
        write_text(draft / "c.txt", "gamma\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_draft_of_a_crashed_run_is_cleared(tmp_path: Path) -> None:
    stale = tmp_path / f"folder.tmp-{os.getpid()}"
    stale.mkdir()
    (stale / "old.txt").write_text("old")
    folder = make(tmp_path / "folder")
    assert not (folder / "old.txt").exists() and not stale.exists()


def test_an_intact_folder_verifies(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder")
    verify(folder, ["a.txt", "b.txt"])
    manifest = read_json(folder / MANIFEST)
    assert manifest["format_version"] == FORMAT_VERSION
    assert manifest["files"] == {name: fingerprint(folder / name) for name in ("a.txt", "b.txt")}
    assert fingerprint(folder / "a.txt")["bytes"] == 6


@pytest.mark.parametrize("damage", [b"alphA\n", b"alpha\n\n", b"alph", b""])
def test_a_changed_file_is_found(tmp_path: Path, damage: bytes) -> None:
    folder = make(tmp_path / "folder")
    (folder / "a.txt").write_bytes(damage)
    with pytest.raises(RunFolderError, match=r"a\.txt.* differs from manifest\.json"):
        verify(folder, [])


def test_a_missing_file_a_missing_manifest_and_a_missing_folder_are_found(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder")
    (folder / "b.txt").unlink()
    with pytest.raises(RunFolderError, match=r"b\.txt.* is missing"):
        verify(folder, ["a.txt"])
    (folder / MANIFEST).unlink()
    with pytest.raises(RunFolderError, match=r"manifest\.json.* is missing"):
        verify(folder, ["a.txt"])
    with pytest.raises(RunFolderError, match="There is no folder"):
        verify(tmp_path / "none", [])


def test_a_required_file_that_the_manifest_does_not_list_is_not_trusted(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder")
    write_text(folder / "c.txt", "gamma\n")
    with pytest.raises(RunFolderError, match=r"c\.txt.* differs from"):
        verify(folder, ["c.txt"])


def rewrite(folder: Path, content: object) -> None:
    (folder / MANIFEST).write_text(json.dumps(content))


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    rewrite(folder, {"format_version": FORMAT_VERSION, "files": {"../secret.txt": fingerprint(secret)}})
    with pytest.raises(RunFolderError, match="missing"):
        verify(folder, [])


@pytest.mark.parametrize("content", [[], {"format_version": 99, "files": {}}, {"files": {}}, {"format_version": 1}])
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, content: object) -> None:
    folder = make(tmp_path / "folder")
    rewrite(folder, content)
    with pytest.raises(RunFolderError):
        verify(folder, ["a.txt"])


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "\udcff"])
def test_text_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunFolderError, match=r"x\.json"):
        read_json(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_json_holds_finite_plain_values_only(value: object) -> None:
    with pytest.raises(RunFolderError, match="finite numbers, texts and lists only"):
        to_json({"value": value})
    assert json.loads(to_json({"value": [1, 2.5, "é", None]})) == {"value": [1, 2.5, "é", None]}


def test_text_has_unix_line_ends_and_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "é\nb\n")
    assert (tmp_path / "x.txt").read_bytes() == "é\nb\n".encode()
