"""What a policy chooses, part by part, as rows of a table."""

from collections.abc import Mapping
from typing import Any

TITLES = ("choice", "reference", "first decision", "last decision")


def choice_rows(parts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """For each part of the action (`choices` of result.json): its name, the reference's level, and the likeliest level
    with its probability at the first and the last decision of the final runs; under TITLES.
    """
    rows = []
    for name, part in parts.items():
        levels, probabilities = part["levels"], part["probabilities"]
        cells = []
        for row in (probabilities[0], probabilities[-1]):
            best = max(range(len(row)), key=row.__getitem__)
            cells.append(f"{levels[best]:g} ({row[best]:.0%})")
        rows.append((name, f"{levels[part['reference']]:g}", *cells))
    return rows
