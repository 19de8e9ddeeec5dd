"""Result of a run -> where its compute and time went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskrl.report_figures import brief, counted, duration, mapping, number, records, with_prefix
from taskrl.report_tables import role_of

MAX_GENERATORS = 60


@dataclass(frozen=True, kw_only=True)
class SpentRow:
    """One thing that compute went into. share and width: percent of everything, and of the largest row."""

    what: str
    kind: str
    flops: str
    share: str
    width: float
    images: str
    seconds: str


@dataclass(frozen=True, kw_only=True)
class SpentView:
    """Where the whole run's compute went; total and wall (first to last line of the log) as texts."""

    rows: tuple[SpentRow, ...]
    total: str
    wall: str


@dataclass(frozen=True, kw_only=True)
class ComputeRow:
    """Widths are percent of the largest total."""

    name: str
    role: str
    train_width: float
    search_width: float
    train: str
    search: str
    images: str
    seconds: str


def spent_view(result: Mapping[str, Any]) -> SpentView | None:
    """None where no compute was recorded."""
    items = [*_search_items(result), *_final_items(records(result.get("rows")))]
    total = sum(flops for _, _, flops, _, _ in items)
    if total <= 0:
        return None
    largest = max(flops for _, _, flops, _, _ in items)
    rows = tuple(
        SpentRow(
            what=what,
            kind=kind,
            flops=with_prefix(flops, "FLOP"),
            share=f"{100 * flops / total:.0f} %",
            width=round(100 * flops / largest, 2),
            images=with_prefix(images or None, ""),
            seconds=duration(seconds or None),
        )
        for what, kind, flops, images, seconds in items
    )
    wall = number(mapping(result.get("log")).get("seconds"))
    return SpentView(rows=rows, total=with_prefix(total, "FLOP"), wall="" if not wall else duration(wall))


Item = tuple[str, str, float, float | None, float | None]


def _search_items(result: Mapping[str, Any]) -> list[Item]:
    """What the search was charged, in the parts that are known; the A/A test and the reference's episodes are in it."""
    search, noise = mapping(result.get("search")), mapping(result.get("noise"))
    total, images = number(search.get("flops")) or 0.0, number(search.get("images")) or 0.0
    if total <= 0:
        return []
    spent = mapping(mapping(mapping(result.get("log")).get("search")).get("spent"))
    known: list[Item] = [("A/A test", "usual", *_pair(noise, ""), None)]
    known += [
        (f"Search: {name}", "usual", *_pair(spent, f"{key}_"), number(spent.get(f"{key}_s")))
        for name, key in (("training", "train"), ("measuring quality", "measure"))
    ]
    known = [item for item in known if item[2] > 0]
    rest = total - sum(item[2] for item in known)
    if rest < -1e-6 * total:  # the log and the charge disagree: say only what was charged
        return [("Search", "usual", total, images, number(search.get("wall_seconds")))]
    if not spent:
        return [*known, ("Search", "usual", rest, None, number(search.get("wall_seconds")))]
    if rest > 1e-6 * total:
        num_images = max(images - sum(item[3] or 0.0 for item in known), 0.0)
        known.append(("Search: the reference's episodes and the rest", "usual", rest, num_images, None))
    return known


def _pair(record: Mapping[str, Any], prefix: str) -> tuple[float, float | None]:
    return number(record.get(f"{prefix}flops")) or 0.0, number(record.get(f"{prefix}images"))


def _final_items(rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    items: list[Item] = []
    for name in list(dict.fromkeys(str(row.get("generator")) for row in rows))[:MAX_GENERATORS]:
        mine = [row for row in rows if str(row.get("generator")) == name]
        flops, images, seconds = (
            sum(number(row.get(key)) or 0.0 for row in mine) for key in ("train_flops", "train_images", "wall_seconds")
        )
        if flops > 0:
            title = f"Final runs: {brief(name)}, {counted(len(mine), 'encoder')}"
            items.append((title, "final", flops, images, seconds))
    return items


def search_ratio(result: Mapping[str, Any]) -> float | None:
    """How many final trainings the search cost."""
    search = number(mapping(result.get("search")).get("flops"))
    found = [number(row.get("train_flops")) for row in records(result.get("rows")) if row.get("search_flops")]
    known = [flops for flops in found if flops]
    return search / (sum(known) / len(known)) if search and known else None


def search_cost(search: Mapping[str, Any]) -> str:
    """E.g. "160 episodes, 3.2 PFLOP, 1.2 M images, 1 h 10 min"; empty without a search."""
    images = number(search.get("images"))
    num_episodes = len(records(search.get("episodes")))
    known = (
        (num_episodes or None, counted(num_episodes, "episode")),
        (number(search.get("flops")), with_prefix(number(search.get("flops")), "FLOP")),
        (images, f"{with_prefix(images, '')} images"),
        (number(search.get("wall_seconds")), duration(number(search.get("wall_seconds")))),
    )
    return ", ".join(text for value, text in known if value is not None)


def compute_rows(table: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> list[ComputeRow]:
    """What each generator cost; images are the mean over its runs, search and training together."""
    costs = []
    for row in table:
        train, search = number(row.get("train_flops")), number(row.get("search_flops"))
        images = [
            sum(number(run.get(key)) or 0.0 for key in ("train_images", "search_images"))
            for run in runs
            if run.get("generator") == row["generator"]
        ]
        mean_images = sum(images) / len(images) if images and sum(images) > 0 else None
        costs.append((str(row["generator"]), train, search, mean_images, number(row.get("wall_seconds"))))
    largest = max(((train or 0.0) + (search or 0.0) for _, train, search, _, _ in costs), default=0.0)
    if largest <= 0:
        return []
    return [
        ComputeRow(
            name=brief(name),
            role=role_of(name),
            train_width=round(100 * (train or 0.0) / largest, 2),
            search_width=round(100 * (search or 0.0) / largest, 2),
            train=with_prefix(train or None, "FLOP"),
            search=with_prefix(search or None, "FLOP"),
            images=with_prefix(images, ""),
            seconds=duration(seconds or None),
        )
        for name, train, search, images, seconds in costs
        if train or search or seconds
    ]
