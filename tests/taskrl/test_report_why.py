"""What the report draws of `why`: the numbers as they are, and nothing of what is missing or no number."""

import io
import math
from typing import Any

import pytest

from taskrl.report_why import EVERYTHING, why_figure, why_view

TREE = {"constant": None, "text": "|--- loss <= 0.5\n", "fidelity": 0.9, "commonest": 0.5}
WHY: dict[str, Any] = {
    "sentences": ["Measured on 8 decisions."],
    "choices": {
        "crop": {"any": 0.4, "sensitivity": {"progress": 0.1, "loss": 0.3, "budget": 0.0}, "tree": TREE},
        "mirror": {"any": 0.2, "sensitivity": {"progress": 0.2, "loss": 0.0, "budget": 0.0}, "tree": {"text": None}},
    },
}


def test_choices_are_rows_and_the_entries_that_matter_are_columns() -> None:
    view = why_view(WHY)
    assert view
    assert view.entries == (EVERYTHING, "loss", "progress") and view.largest == 0.4
    assert [row.choice for row in view.rows] == ["crop", "mirror"]
    assert [[cell.probability for cell in row.cells] for row in view.rows] == [[0.4, 0.3, 0.1], [0.2, 0.0, 0.2]]
    assert view.rows[0].cells[1].hint == "crop when loss is permuted: 0.300"
    assert view.rows[0].tree.startswith("|---") and "90%" in view.rows[0].fidelity
    assert (view.rows[1].tree, view.rows[1].fidelity) == ("", "")
    assert view.sentences == ("Measured on 8 decisions.",)


@pytest.mark.parametrize("why", [None, 3, {}, {"choices": None}, {"choices": {}}, {"choices": [1]}])
def test_nothing_is_drawn_of_nothing(why: object) -> None:
    assert why_view(why) is None and why_figure(why) is None


def test_what_is_no_number_is_left_out() -> None:
    spoilt = {"any": None, "sensitivity": {"loss": math.nan, "progress": 9, "x": "much"}, "tree": 4}
    view = why_view({"choices": {"crop": WHY["choices"]["crop"], "mirror": spoilt, "blur": None}, "sentences": 3})
    assert view and view.sentences == ()
    values = {row.choice: [cell.probability for cell in row.cells] for row in view.rows}
    assert view.entries == (EVERYTHING, "progress", "loss")
    assert values == {"crop": [0.4, 0.1, 0.3], "mirror": [None, 1.0, None], "blur": [None, None, None]}


@pytest.mark.parametrize("changes", [{}, {"crop": {"any": 0.0}}, {"mirror": None}])
def test_the_figure_is_a_picture(changes: dict[str, Any]) -> None:
    figure = why_figure({"choices": {**WHY["choices"], **changes}})
    assert figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    (axis, _) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["crop", "mirror"]
