"""`why` of result.json -> what the report draws of it: a heat map of choices by observed entries, sentences and trees.

Every value may be missing, None or NaN; what cannot be drawn is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taskrl.report_figures import MAX_COLUMNS, MISSING, Cell, listed, mapping, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_SHOWN = 0.001
MAX_ROWS = 60
EVERYTHING = "everything"


@dataclass(frozen=True, kw_only=True)
class WhyRow:
    """A choice. cells: how much permuting each entry changes it. tree: text, or "" where the choice never varied."""

    choice: str
    cells: tuple[Cell, ...]
    tree: str
    fidelity: str


@dataclass(frozen=True, kw_only=True)
class WhyView:
    """entries: titles of the cells' columns, "everything" first, then what changes any choice the most. shade of a
    cell is its `probability` over `largest`.
    """

    sentences: tuple[str, ...]
    entries: tuple[str, ...]
    rows: tuple[WhyRow, ...]
    largest: float

    @property
    def moved(self) -> list[WhyRow]:
        """Rows of choices that any entry changes."""
        return [row for row in self.rows if any((cell.probability or 0.0) >= LEAST_SHOWN for cell in row.cells)]

    @property
    def still(self) -> list[str]:
        """The other choices."""
        moved = {row.choice for row in self.moved}
        return [row.choice for row in self.rows if row.choice not in moved]


def why_view(why: object) -> WhyView | None:
    """Numbers are mean total variation distances, 0 to 1. None where there is nothing to show."""
    record = mapping(why)
    choices = {str(name): mapping(row) for name, row in list(mapping(record.get("choices")).items())[:MAX_ROWS]}
    if not choices:
        return None
    numbers = {name: _numbers(row) for name, row in choices.items()}
    most: dict[str, float] = {}
    for row in numbers.values():
        for entry, value in row.items():
            most[entry] = max(most.get(entry, 0.0), value)
    kept = sorted((entry for entry, value in most.items() if value >= LEAST_SHOWN), key=lambda entry: -most[entry])
    columns = (EVERYTHING, *(entry for entry in kept if entry != EVERYTHING))[:MAX_COLUMNS]
    rows = tuple(
        WhyRow(choice=name, cells=_cells(name, numbers[name], columns), tree=_tree(row), fidelity=_fidelity(row))
        for name, row in choices.items()
    )
    sentences = tuple(str(sentence) for sentence in listed(record.get("sentences")))
    return WhyView(sentences=sentences, entries=columns, rows=rows, largest=max(most.values(), default=0.0))


def why_figure(why: object) -> "Figure | None":
    """The heat map of `why_view` for print: a matplotlib figure (canvas Agg), or None."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, which a page does not need
    from matplotlib.figure import Figure

    view = why_view(why)
    if view is None:
        return None
    values = np.array([[cell.probability for cell in row.cells] for row in view.rows], dtype=float)  # None is nan
    figure = Figure(figsize=(2.4 + 0.45 * len(view.entries), 1.8 + 0.3 * len(view.rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    image = axis.imshow(values, cmap="Blues", vmin=0.0, vmax=max(view.largest, LEAST_SHOWN), aspect="auto")
    axis.set_xticks(range(len(view.entries)), list(view.entries), rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(view.rows)), [row.choice for row in view.rows], fontsize=8)
    axis.axvline(0.5, color="black", linewidth=0.8)
    figure.colorbar(image, label="change of probabilities (total variation)")
    axis.set_title("What each choice hangs on: entries permuted", fontsize=10)
    return figure


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    found = {str(name): number(value) for name, value in mapping(row.get("sensitivity")).items()}
    found[EVERYTHING] = number(row.get("any"))
    return {name: min(max(value, 0.0), 1.0) for name, value in found.items() if value is not None}


def _cells(choice: str, numbers: Mapping[str, float], columns: tuple[str, ...]) -> tuple[Cell, ...]:
    cells = []
    for entry in columns:
        value = numbers.get(entry)
        told = MISSING if value is None else f"{value:.3f}"
        cells.append(Cell(probability=value, hint=f"{choice} when {entry} is permuted: {told}"))
    return tuple(cells)


def _tree(row: Mapping[str, Any]) -> str:
    text = mapping(row.get("tree")).get("text")
    return text if isinstance(text, str) else ""


def _fidelity(row: Mapping[str, Any]) -> str:
    tree = mapping(row.get("tree"))
    fidelity, commonest = number(tree.get("fidelity")), number(tree.get("commonest"))
    if fidelity is None or commonest is None:
        return ""
    return f"right for {fidelity:.0%} of held-out decisions, the commonest level alone for {commonest:.0%}"
