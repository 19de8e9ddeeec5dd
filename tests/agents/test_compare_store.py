"""Promises of a store of cells, whose comparisons are made up here."""

from pathlib import Path

import pytest

import agents.compare.comparison
from agents.compare.cells import Cell, Store
from agents.compare.comparison import compare
from tests.agents.conftest import quiet
from tests.envs.tiny import tiny_config


def test_of_two_comparisons_that_end_a_search_at_once_the_first_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cell, found = Store(tmp_path / "cells"), Cell("search", {"kind": "static"}), tmp_path / "schedule.yaml"
    found.write_text("tasks: []")
    store.write_search(cell, {"flops": 1}, found)
    answers = iter([False])  # it was not there when the second one looked
    monkeypatch.setattr(Store, "has", lambda self, cell: next(answers, True))
    store.write_search(cell, {"flops": 2}, found)
    assert store.read(cell)["flops"] == 1


@pytest.mark.parametrize("cells", ["out/cells", "out", "elsewhere"])
def test_a_store_may_lie_in_the_folder_that_is_about_to_be_made(
    cells: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents.compare.comparison, "_carry_out", lambda plan, folder, tools: {})
    config = tiny_config(compare__methods=["reference"], compare__searches=1, compare__finals=1)
    for _ in range(2):
        compare(config, Path("out"), quiet(), cells=Path(cells))
    assert (here / "out" / "comparison.json").is_file()
