"""Promises of a store of cells, whose comparisons are made up here."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import agents.compare.comparison
from agents.compare.cells import Cell, Store
from agents.compare.comparison import compare
from agents.schedule import SCHEDULE, save_schedule
from taskrl.folders import read_json
from tests.agents.conftest import quiet
from tests.envs.tiny import tiny_config, tiny_problem


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


def test_encoders_are_trained_again_where_a_repeated_search_found_something_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    methods = ["random-search"]
    config = tiny_config(compare__methods=methods, compare__searches=1, compare__finals=1, agent__episodes=2)

    def row_of(result: dict[str, Any]) -> dict[str, Any]:
        return next(row for row in result["rows"] if row["method"] == "random-search")

    first = compare(config, out, quiet())
    (place,) = (out / "cells").glob("search-*")
    record = read_json(place / "cell.json")
    other = tmp_path / SCHEDULE
    other.write_text((place / SCHEDULE).read_text(encoding="utf-8"))
    shutil.rmtree(place)
    Store(out / "cells").write_search(Cell("search", record["decided_by"]), record["content"], other)
    same = compare(config, out, quiet())
    assert row_of(same)["wall_seconds"] == row_of(first)["wall_seconds"], "the same was found: nothing is trained again"
    space = tiny_problem().problem.task_space
    save_schedule(other, [space.recipe("crop=1,jitter=0")], {"search": "random-search", "seed": 0, "episodes": 2})
    shutil.rmtree(place)
    Store(out / "cells").write_search(Cell("search", record["decided_by"]), record["content"], other)
    again = compare(config, out, quiet())
    assert row_of(again)["wall_seconds"] != row_of(first)["wall_seconds"]
    assert row_of(again)["quality"] != row_of(first)["quality"]
