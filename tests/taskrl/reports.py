"""A made-up run with everything in it, its odd variants, and a page that is read back."""

import math
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import torch

from taskrl.report_images import Gallery, Strip, image_grid

HOSTILE = (
    "<script>alert('x')</script>\"' onload=\"alert(1)\" </style> & {{ 7 * 7 }} \ud800 \u202eesrever\u2066 \u0000 \u6587"
)
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}
NAMES = ("learned", "reference", "prior", "fixed:no-mirror")


class Page(HTMLParser):
    """Collects tags and attributes; fails on tags that don't nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, name: str) -> list[str]:
        """Of every attribute `name`."""
        return [value for other, value in self.attributes if other == name]


def interval(mean: float, half: float = 1.0) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def gallery(title: str = "learned: decision 1 of 2", caption: str = "Trained in 2 of 2 final runs.") -> Gallery:
    image = image_grid([torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))] * 4, columns=2, scale=2)
    strips = (Strip(label="The images", image=image),)
    return Gallery(title=title, told="Differs in crop 0.6.", caption=caption, strips=strips, departs=True)


def result(num_episodes: int = 40) -> dict[str, Any]:
    """A made-up run with everything in it: final runs of 4 decisions, search episodes half as long."""
    episodes = [
        {"episode": i, "final_quality": 0.6 + 0.1 * math.tanh(i / 20), "return": 0.4, "hidden_quality": 3 + i / 40}
        for i in range(num_episodes)
    ]
    table = [_row("learned", 90.6, 2.9), _row("reference", 87.7, None), _row("prior", 84.0, -3.7)]
    table += [_row("fixed:no-mirror", 89.0, 1.3), _row("untrained", 43.9, -43.8, "below pixels")]
    return {
        "format_version": 1,
        "data": "cluttered-digits",
        "split": "validation",
        "verdict": "The learned policy beats the reference recipe: +2.9 [+1.9, +3.9] points; above no-mirror (+1.6).",
        "notes": ["only 5 seeds."],
        "rows": [_run(name, seed) for name in NAMES for seed in range(2)],
        "table": table,
        "floors": {"pixels": {"ridge": 24.5, "one_nn": 68.6, "best": 68.6}},
        "search": {
            "episodes": episodes,
            "reference_quality": 0.648,
            "reference_qualities": [0.640, 0.656],
            "flops": 65 * 10**13,
            "images": 10**7,
            "wall_seconds": 2140.0,
        },
        "choices": {"progress": [0.0, 0.5], "parts": _parts()},
        "shares": {"contrastive": [1.0, 0.75], "rotation": [0.0, 0.25]},
        "curves": {
            name: [[0.2, 0.4 + i / 9, 0.65, 0.7, 0.71], [0.2, 0.5, 0.66, 0.7, 0.73]] for i, name in enumerate(NAMES)
        },
        "schedule": [
            {"progress": 0.0, "task": "contrastive; crop 0.3"},
            {"progress": 0.5, "task": "contrastive; crop 0.6"},
        ],
        "noise": _noise(),
        "validity": _validity(),
        "log": _log(),
        "machine": {"cpu": "a cpu", "cores": 2},
        "versions": {"torch": "2.9.0"},
        "config": {
            "seed": 0,
            "episode": {"decisions": 2, "steps_per_decision": 15},
            "final": {"decisions": 4, "steps_per_decision": 15},
        },
    }


def _row(generator: str, linear: float, difference: float | None, mark: str = "") -> dict[str, Any]:
    return {
        "generator": generator,
        "num_seeds": 5,
        "linear": interval(linear),
        "knn": interval(linear - 4),
        "quality": interval(linear / 130, 0.01),
        "difference": None if difference is None else interval(difference),
        "train_flops": 41 * 10**12,
        "search_flops": 650 * 10**12 if generator == "learned" else 0,
        "wall_seconds": 61.0,
        "mark": mark,
    }


def _run(generator: str, seed: int) -> dict[str, Any]:
    return {
        "generator": generator,
        "search_seed": 0,
        "train_seed": seed,
        "split_seed": 0,
        "linear_accuracy": 90.6,
        "quality": None,
        "num_decisions": 4,
        "planned_decisions": 4,
        "train_flops": 41 * 10**12,
        "train_images": 768_000,
        "search_flops": 65 * 10**13 if generator == "learned" else 0,
        "search_images": 12_300_000 if generator == "learned" else 0,
        "wall_seconds": 61.0,
    }


def _parts() -> dict[str, Any]:
    return {
        "crop": {"levels": [1.0, 0.6, 0.3], "reference": 2, "probabilities": [[0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]},
        "mirror": {"levels": [0.0, 0.5], "reference": 1, "probabilities": [[0.02, 0.98], [0.01, 0.99]]},
        "weight/contrastive": {
            "levels": [0.0, 0.5, 1.0],
            "reference": 2,
            "probabilities": [[0.0, 0.0, 1.0], [0.1, 0.7, 0.2]],
        },
    }


def _noise() -> dict[str, Any]:
    return {
        "aa_sd": 0.0102,
        "signal_sd": 0.0264,
        "signal_to_noise": 2.6,
        "steps_per_decision": 15,
        "gains": {
            "contrastive; crop 0.3, mirror 0.5": [0.01, 0.02, 0.03],
            "contrastive; crop 0.3, mirror 0": [0.03, 0.04],
        },
        "flops": 10**13,
        "images": 10**5,
        "sentence": "A/A test: one decision moves quality by 0.026 between tasks against 0.01 of chance.",
        "warning": None,
    }


def _validity() -> dict[str, Any]:
    return {
        "hidden": {
            "num_before": 32,
            "num_after": 32,
            "before": interval(0.61, 0.2),
            "after": interval(-0.3, 0.2),
            "quality_change": interval(0.09, 0.03),
            "hidden_change": interval(0.67, 0.3),
        },
        "accuracy": {**interval(0.7, 0.1), "num": 30, "split": "validation"},
        "sentences": ["Validity: ranked alike.", "Over 30 final encoders, ranked alike."],
        "warning": None,
    }


def _log() -> dict[str, Any]:
    thirds = {"first": interval(0.13, 0.03), "last": interval(0.2, 0.02)}
    return {
        "began": 1_795_372_793.7,
        "seconds": 2400.0,
        "search": {
            "third": 13,
            "parts": {
                "reward": {"first": interval(1.3), "last": interval(2.0)},
                "gain": thirds,
                "gain/instances": thirds,
                "gain/pixels": {"first": interval(0.1), "last": interval(0.2)},
            },
            "curve": {
                "episode": [7, 15, 23],
                "parts": {"reward": [1.0, 2.0, 2.1], "gain": [0.1, 0.15, 0.2], "gain/pixels": [0.0, 0.1, 0.1]},
            },
            "by_decision": {"first": [0.1, 0.03], "last": [0.15, 0.05]},
            "num_diverged": 3,
            "spent": {
                "train_flops": 5.0e14,
                "measure_flops": 1.2e14,
                "train_images": 8e6,
                "measure_images": 1e6,
                "train_s": 1900.0,
            },
        },
        "finals": {"train_flops": 3e14},
    }


def without_numbers(value: Any, instead: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_numbers(item, instead) for key, item in value.items()}
    if isinstance(value, list):
        return [without_numbers(item, instead) for item in value]
    return instead if isinstance(value, int | float) else value


def hostile(value: Any, text: str = HOSTILE) -> Any:
    """Every text, keys of names among them, replaced by `text`."""
    if isinstance(value, dict):
        named = any(name in value for name in ("cpu", "crop", "learned", "torch", "gain", "contrastive"))
        return {(text + key if named else key): hostile(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, text) for item in value]
    return text if isinstance(value, str) else value


def odd_results() -> Iterator[tuple[str, Any]]:
    full = result()
    yield "empty", {}
    yield "all None", dict.fromkeys(full)
    yield "all wrong types", dict.fromkeys(full, 3)
    yield "all texts", dict.fromkeys(full, "text")
    yield "empty lists and mappings", {key: type(value)() for key, value in full.items()}
    for bad in (None, math.nan, math.inf, -math.inf, 1e308, -1.0, 0, True, "x", 10**400):
        yield f"numbers are {str(bad)[:5]}", without_numbers(full, bad)
    for key in full:
        yield f"no {key}", {other: value for other, value in full.items() if other != key}
    for key in ("hidden", "sentences"):
        yield f"no {key}", {**full, "validity": {**full["validity"], key: None}}
    for key in full["log"]["search"]:
        search = {other: value for other, value in full["log"]["search"].items() if other != key}
        yield f"log without {key}", {**full, "log": {**full["log"], "search": search}}
    yield "one generator", {**full, "table": full["table"][:1], "search": None, "choices": None, "curves": None}
    yield "one seed", {**full, "curves": {name: seeds[:1] for name, seeds in full["curves"].items()}}
    yield "one episode", {**full, "search": {"episodes": [{"episode": 0, "final_quality": 0.5}]}}
    constant = [{"episode": 7, "final_quality": 0.5}] * 30
    yield "constant quality", {**full, "search": {"episodes": constant, "reference_quality": 0.5}}
