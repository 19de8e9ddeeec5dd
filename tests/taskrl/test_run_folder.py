"""The run folder is made once, read back equal, and never half written."""

import json
import math
import os
from pathlib import Path

import pytest
from filelock import FileLock

from taskrl.config import load_config
from taskrl.errors import RunFolderError
from taskrl.folders import write_atomically
from taskrl.machine import PACKAGES, machine, versions
from taskrl.run_folder import RunFolder, write_result

CONFIG = load_config(given={"seed": 5, "tasks.limit": ["rotation<=0.2"]})


def test_a_new_folder_holds_its_configuration_and_opens_again(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "deep" / "run", CONFIG)
    assert folder.checkpoints.is_dir() and folder.artifacts.is_dir()
    again = RunFolder.open(tmp_path / "deep" / "run")
    assert again == folder and again.config() == CONFIG


def test_paths_stay_right_when_the_working_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.create(Path("run"), CONFIG)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert folder.config() == CONFIG and folder.path == tmp_path / "run"


@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_whatever_lies_there_already_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    else:
        os.symlink(tmp_path / "nowhere", path)
    with pytest.raises(RunFolderError, match="exists already; name another --out"):
        RunFolder.create(path, CONFIG)
    assert os.path.lexists(path)


def test_a_place_where_no_folder_can_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot be made \(.+\); name another --out"):
        RunFolder.create(tmp_path / "file" / "run", CONFIG)


def test_a_folder_without_configuration_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunFolderError, match="is not a run folder"):
            RunFolder.open(path)


def test_a_run_without_result_says_how_to_finish_it(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(RunFolderError, match=r"no result\.json yet; finish it with: taskrl resume"):
        folder.result()
    write_result(folder.result_file, {"linear": 91.5})
    assert folder.result() == {"linear": 91.5}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_without_a_number_is_refused_and_the_old_one_stays(tmp_path: Path, value: float) -> None:
    path = tmp_path / "result.json"
    write_result(path, {"linear": 91.5})
    with pytest.raises(ValueError, match="JSON"):
        write_result(path, {"linear": value})
    assert json.loads(path.read_text()) == {"linear": 91.5}


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    write_atomically(path, "old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("killed before the rename")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="killed"):
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"


def test_reads_of_the_test_images_are_appended(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    folder.log_test_read("first")
    folder.log_test_read("second")
    assert folder.test_reads.read_text() == "first\nsecond\n"


@pytest.mark.parametrize("read", [True, False])
def test_reads_that_may_have_been_made_before_a_stop_are_on_record(read: bool, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    with folder.watching_test_reads(read):
        pass
    assert not folder.test_reads.exists()
    with pytest.raises(KeyboardInterrupt), folder.watching_test_reads(read):
        raise KeyboardInterrupt
    assert folder.test_reads.exists() == read
    assert not read or "may have been read" in folder.test_reads.read_text()


@pytest.mark.parametrize("answer", [OSError(38, "no locks"), NotImplementedError("no flock")])
def test_a_file_system_without_locks_stops_nothing_and_hides_no_error(
    answer: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise answer

    monkeypatch.setattr(FileLock, "acquire", refuse)
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(ValueError, match="of the block") as raised, folder.held():
        raise ValueError("of the block")
    assert raised.value.__context__ is None


def test_the_machine_and_the_versions_are_plain_values() -> None:
    described = machine("cpu")
    assert described["device"] == "cpu" and described["cores"] >= 1 and described["cpu"]
    found = versions()
    assert set(found) == {"python", "taskrl", *PACKAGES} and found["torch"][0].isdigit()
    json.dumps([described, found])
