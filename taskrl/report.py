"""The report of a run: one self-contained HTML file, without script and without any request."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
import numpy as np
from PIL import Image
from torch import Tensor

from taskrl.report_figures import listed, mapping, most_changed_first, records, run_charts, search_view, strips
from taskrl.report_tables import (
    RUN_COLUMNS,
    compute_rows,
    pixel_floor,
    result_table,
    run_rows,
    search_cost,
    task_steps,
    text_of,
    trust_rows,
)

GAP_PX = 2
MAX_GALLERY_BYTES = 6_000_000
MAX_CONFIG_CHARACTERS = 200_000
MAX_GENERATORS = 60


@dataclass(frozen=True)
class Gallery:
    """Real images for the report; png holds the bytes of a PNG file."""

    title: str
    caption: str
    png: bytes


def render_report(result: Mapping[str, Any], galleries: Sequence[Gallery]) -> str:
    """The whole page for `result`, which is result.json of a run.

    Accuracies and their differences are in percent. Missing, None and NaN values are left out of the page.
    """
    page = environment().get_template("report.html.j2").render(context(result, galleries))
    return page.encode("utf-8", "replace").decode("utf-8")


def context(result: Mapping[str, Any], galleries: Sequence[Gallery]) -> dict[str, Any]:
    """What the templates read, as plain data: any of `_*.html.j2` can be rendered from it alone."""
    table = [row for row in records(result.get("table")) if row.get("generator") is not None][:MAX_GENERATORS]
    schedule = records(result.get("schedule"))
    found = strips(result.get("choices"))
    order = [str(row["generator"]) for row in table]
    curves = mapping(result.get("curves"))
    longest = max((len(listed(seed)) for seeds in curves.values() for seed in listed(seeds)), default=0)
    kept, total = [], 0
    for gallery in galleries:
        total += len(gallery.png)
        if total <= MAX_GALLERY_BYTES:
            kept.append((gallery, base64.b64encode(gallery.png).decode("ascii")))
    return dict(
        data=text_of(result.get("data")),
        split=text_of(result.get("split")),
        verdict=text_of(result.get("verdict")) or "No verdict was recorded for this run.",
        notes=[text_of(note) for note in listed(result.get("notes"))],
        table=result_table(table, mapping(result.get("floors"))),
        pixels=pixel_floor(mapping(result.get("floors"))),
        search=search_view(result.get("search")),
        search_cost=search_cost(mapping(result.get("search"))),
        charts=run_charts(curves, order, first=0 if longest > len(schedule) > 0 else 1),
        objectives=most_changed_first([strip for strip in found if strip.name.startswith("weight/")]),
        knobs=most_changed_first([strip for strip in found if not strip.name.startswith("weight/")]),
        steps=task_steps(schedule, mapping(mapping(result.get("choices")).get("parts"))),
        galleries=kept,
        num_left_out=len(galleries) - len(kept),
        trust=trust_rows(mapping(result.get("noise")), mapping(result.get("validity"))),
        trust_sentences=[text_of(text) for text in listed(mapping(result.get("validity")).get("sentences"))],
        compute=compute_rows(table, records(result.get("rows"))),
        runs=run_rows(records(result.get("rows"))),
        num_runs=len(records(result.get("rows"))),
        run_columns=[label for _, label in RUN_COLUMNS],
        facts=[("Machine", _pairs(result.get("machine"))), ("Versions", _pairs(result.get("versions")))],
        config=_config_text(result.get("config")),
    )


def image_grid(images: Sequence[Tensor], *, columns: int, scale: int) -> bytes:
    """A PNG of `images`, float (C, H, W) in [0, 1] with 1 or 3 channels, row by row with thin transparent gaps.

    scale: whole-number upscaling by nearest neighbour. Raises ValueError for no images or another shape.
    """
    if not images or columns < 1 or scale < 1:
        raise ValueError(f"got {len(images)} images, columns {columns}, scale {scale}; each must be at least 1")
    tiles = [_tile(image, scale) for image in images]
    columns = min(columns, len(tiles))
    height, width = max(tile.shape[0] for tile in tiles) + GAP_PX, max(tile.shape[1] for tile in tiles) + GAP_PX
    num_rows = -(-len(tiles) // columns)
    canvas = np.zeros((num_rows * height - GAP_PX, columns * width - GAP_PX, 4), dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _tile(image: Tensor, scale: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGBA (H * scale, W * scale, 4)."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"image of shape {tuple(image.shape)} is not (1, H, W) or (3, H, W)")
    levels = image.detach().float().cpu().nan_to_num().clamp(0, 1).mul(255).round().byte()
    colours = levels.expand(3, -1, -1).permute(1, 2, 0).numpy().repeat(scale, axis=0).repeat(scale, axis=1)
    opaque = np.full((*colours.shape[:2], 1), 255, dtype=np.uint8)
    return np.concatenate([colours, opaque], axis=2)


@cache
def environment() -> jinja2.Environment:
    """The templates of the report, everything escaped that they are given."""
    return jinja2.Environment(
        autoescape=True,
        loader=jinja2.PackageLoader("taskrl"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _pairs(value: object) -> list[tuple[str, str]]:
    return [(str(key), text_of(item)) for key, item in mapping(value).items()]


def _config_text(config: object) -> str:
    if not mapping(config):
        return ""
    text = json.dumps(config, indent=2, default=str, ensure_ascii=False, skipkeys=True)
    return text if len(text) <= MAX_CONFIG_CHARACTERS else text[:MAX_CONFIG_CHARACTERS] + "\n... (cut here)"
