"""The report of a run: one self-contained HTML file, without script and without any request."""

import base64
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jinja2
import markupsafe

from taskrl.data.splits import STOPPED
from taskrl.report_choices import choices_view, departures
from taskrl.report_compute import compute_rows, search_cost, search_ratio, spent_view
from taskrl.report_curves import finals_view, opponents, series_of
from taskrl.report_figures import amount, brief, listed, mapping, number, records, search_view
from taskrl.report_images import Gallery
from taskrl.report_tables import LEARNED, RUN_COLUMNS, pixel_floor, result_table, run_rows, text_of
from taskrl.report_trust import goodhart_findings, trust_view
from taskrl.report_why import why_view

MAX_GALLERY_BYTES = 6_000_000
MAX_CONFIG_CHARACTERS = 200_000
MAX_GENERATORS = 60
MAX_TITLE_CHARACTERS = 120
MAX_TEST_READS = 300


def render_report(
    result: Mapping[str, Any], galleries: Sequence[Gallery], *, name: str = "", test_reads: Sequence[str] = ()
) -> str:
    """The whole page for `result`, which is result.json of a run.

    Accuracies and their differences are in percent. Missing, None and NaN values are left out of the page. name: of the
    run's folder. test_reads: lines of test_reads.log.
    """
    page = environment().get_template("report.html.j2").render(context(result, galleries, name, test_reads))
    return page.encode("utf-8", "replace").decode("utf-8")


def context(
    result: Mapping[str, Any], galleries: Sequence[Gallery] = (), name: str = "", test_reads: Sequence[str] = ()
) -> dict[str, Any]:
    """What the templates read, as plain data: any of `_*.html.j2` can be rendered from it alone."""
    table = [row for row in records(result.get("table")) if row.get("generator") is not None][:MAX_GENERATORS]
    order = [str(row["generator"]) for row in table]
    longest = max((len(line) for lines in series_of(result.get("curves")).values() for line in lines), default=0)
    rivals, rivals_from = opponents(result, order)
    headline, further = _split_verdict(text_of(result.get("verdict")) or "No verdict was recorded for this run.")
    rows, floors = records(result.get("rows")), mapping(result.get("floors"))
    return {
        "name": brief(name, MAX_TITLE_CHARACTERS),
        "data": text_of(result.get("data")),
        "split": text_of(result.get("split")),
        "began": _day(mapping(result.get("log")).get("began")),
        "headline": headline,
        "further": further,
        "num_paired": _num_paired(table),
        "short": _in_short(result),
        "notes": [text_of(note) for note in listed(result.get("notes"))],
        "table": result_table(table, floors),
        "pixels": pixel_floor(floors),
        "search": search_view(result.get("search"), opponents=rivals),
        "opponents_from": rivals_from,
        "search_cost": search_cost(mapping(result.get("search"))),
        "finals": finals_view(result, order, first=0 if longest > len(records(result.get("schedule"))) > 0 else 1),
        "choices": choices_view(result),
        "why": why_view(result.get("why")),
        **_gallery_context(galleries),
        "trust": trust_view(result),
        "spent": spent_view(result),
        "compute": compute_rows(table, rows),
        "runs": run_rows(rows),
        "num_runs": len(rows),
        "run_columns": [label for _, label in RUN_COLUMNS],
        "seeds": _seeds(rows),
        "test_reads": [text_of(line) for line in test_reads[:MAX_TEST_READS]],
        "num_test_reads": sum(not line.startswith(STOPPED) for line in test_reads),
        "facts": [("Machine", _pairs(result.get("machine"))), ("Versions", _pairs(result.get("versions")))],
        "config": _config_text(result.get("config")),
    }


@cache
def environment() -> jinja2.Environment:
    """The templates of the report, everything escaped that they are given."""
    templates = jinja2.Environment(
        autoescape=True,
        loader=jinja2.PackageLoader("taskrl"),
        undefined=jinja2.StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["brief"] = brief
    return templates


def _inert(value: object) -> object:
    """Text whose marks of direction are spelt out: they would turn what follows them."""
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    if not value.isascii():
        value = "".join(f"\\u{ord(letter):04x}" if _turns(letter) else letter for letter in value)
    return value


def _turns(letter: str) -> bool:
    return unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI") or (
        letter in "\u200e\u200f\u061c"
    )


def _split_verdict(verdict: str) -> tuple[str, str]:
    """The first clause, which has the difference and its interval; what qualifies it comes below."""
    first, _, rest = re.sub(r"(; |(?<=\.) )", "\0", verdict, count=1).partition("\0")
    rest = rest[:1].upper() + rest[1:]
    return (first if first.endswith(".") else f"{first}."), rest


def _num_paired(table: Sequence[Mapping[str, Any]]) -> str:
    """Seeds of the learned policy's difference to the reference; empty where it has no interval."""
    rows = [row for row in table if row["generator"] == LEARNED and mapping(row.get("difference"))]
    seeds = number(rows[0].get("num_seeds")) if rows else None
    return amount(seeds, 0) if seeds and seeds > 1 else ""


def _in_short(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What somebody who missed the training has to know: (of what, the sentence)."""
    search, ratio = mapping(result.get("search")), search_ratio(result)
    cost = search_cost(search)
    if cost and ratio:
        cost += f"; that is {amount(ratio, 2, trim=True)} times the training of one final encoder"
    found = goodhart_findings(mapping(result.get("validity")))
    told = (
        ("What it chooses", departures(result)),
        ("What the search cost", f"{cost}." if cost else ""),
        ("Whether to trust the reward", f"{found[0].title}: {found[0].text}" if found else ""),
    )
    return [(title, text) for title, text in told if text]


def _gallery_context(galleries: Sequence[Gallery]) -> dict[str, Any]:
    kept, total = [], 0
    for gallery in galleries:
        total += gallery.num_bytes
        if total <= MAX_GALLERY_BYTES:
            kept.append((gallery, [(strip, base64.b64encode(strip.image).decode("ascii")) for strip in gallery.strips]))
    return {"galleries": kept, "num_left_out": len(galleries) - len(kept)}


def _seeds(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Which seeds of each kind the final encoders used."""
    found = []
    for title, key in (("Search seed", "search_seed"), ("Train seeds", "train_seed"), ("Split seed", "split_seed")):
        seeds = sorted({seed for row in rows if (seed := number(row.get(key))) is not None})
        if seeds:
            shown = ", ".join(amount(seed, 0) for seed in seeds[:20])
            found.append((title, shown + (f" and {len(seeds) - 20} more" if len(seeds) > 20 else "")))
    return found


def _day(began: object) -> str:
    seconds = number(began)
    if seconds is None or not 0 < seconds < 4e9:
        return ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _pairs(value: object) -> list[tuple[str, str]]:
    return [(text_of(str(key)), text_of(item)) for key, item in mapping(value).items()]


def _config_text(config: object) -> str:
    if not mapping(config):
        return ""
    text = json.dumps(config, indent=2, default=str, ensure_ascii=False, skipkeys=True)
    return text if len(text) <= MAX_CONFIG_CHARACTERS else text[:MAX_CONFIG_CHARACTERS] + "\n... (cut here)"
