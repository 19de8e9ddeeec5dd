"""Choices by measured speed: the faster one wins, is remembered, and what the user fixed is never overruled."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from taskrl import tuning
from taskrl.assemble import assemble, load_data
from taskrl.config import EpisodeConfig, ExperimentConfig, dump_config, load_config
from taskrl.errors import ConfigError
from taskrl.meta import MetaProblem
from tests.conftest import TINY

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty memory."""
    monkeypatch.setenv(tuning.CACHE_VARIABLE, str(tmp_path))
    return tmp_path / tuning.CACHE_FILE


def config(**changes: Any) -> ExperimentConfig:
    return load_config(given=TINY | {key.replace("__", "."): value for key, value in changes.items()})


def undecided() -> ExperimentConfig:
    return config(envs="auto", predictor__precision="auto")


def at_rates(monkeypatch: pytest.MonkeyPatch, rates: dict[tuple[str, str], float]) -> list[tuple[str, str]]:
    """Measuring gives these rates; returns the list of what was measured."""
    asked: list[tuple[str, str]] = []

    def rate(settled: ExperimentConfig, problem: MetaProblem) -> float:
        asked.append((settled.envs, settled.predictor.precision))
        return rates[asked[-1]]

    monkeypatch.setattr(tuning, "_training_rate", rate)
    monkeypatch.setattr(tuning, "has_bf16", lambda device: True)
    return asked


def choice(settled: ExperimentConfig) -> tuple[str, str]:
    return settled.envs, settled.predictor.precision


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((100, 300, 90, 0), ("processes", "bf16")),
        ((100, 105, 90, 80), ("processes", "fp32")),
        ((100, 120, 200, 500), ("batched", "bf16")),
        ((100, 105, 111, 0), ("batched", "fp32")),
    ],
)
def test_the_fastest_wins_and_the_plainer_one_when_it_is_close(
    monkeypatch: pytest.MonkeyPatch, rates: tuple[float, ...], expected: tuple[str, str]
) -> None:
    ways = [(envs, precision) for envs in ("processes", "batched") for precision in ("fp32", "bf16")]
    asked = at_rates(monkeypatch, dict(zip(ways, rates, strict=True)))
    assert choice(tuning.tuned(undecided(), lambda _: None, SHAPE)) == expected  # type: ignore[arg-type,return-value]
    assert asked == ways
    assert choice(tuning.tuned(undecided(), lambda _: None, SHAPE)) == expected  # type: ignore[arg-type,return-value]
    assert asked == ways, "measured once, remembered afterwards"


def test_what_the_user_fixed_is_not_measured_and_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = at_rates(monkeypatch, {})
    fixed = config(envs="processes", predictor__precision="bf16")
    assert tuning.tuned(fixed, lambda _: None, SHAPE) == fixed  # type: ignore[arg-type,return-value]
    assert not asked


def test_batched_predictors_that_cannot_train_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    at_rates(monkeypatch, {("batched", "bf16"): 0.0})
    with pytest.raises(ConfigError, match=r"cannot train in bf16 on this device; use predictor\.precision=fp32"):
        tuning.tuned(config(envs="batched", predictor__precision="bf16"), lambda _: None, SHAPE)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("spoilt", ["{", "[]", '{"x": 3}', "\x00"])
def test_a_spoilt_memory_is_measured_anew(monkeypatch: pytest.MonkeyPatch, cache: Path, spoilt: str) -> None:
    at_rates(monkeypatch, {("processes", "fp32"): 1.0, ("processes", "bf16"): 2.0})
    cache.write_text(spoilt)
    settled = tuning.tuned(config(predictor__precision="auto"), lambda _: None, SHAPE)  # type: ignore[arg-type,return-value]
    assert settled.predictor.precision == "bf16"
    (rows,) = [rows for rows in json.loads(cache.read_text()).values() if isinstance(rows, dict)]
    assert rows == {"processes fp32": 1.0, "processes bf16": 2.0}, "and remembered again"


def test_a_memory_that_cannot_be_written_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    at_rates(monkeypatch, {("processes", "fp32"): 1.0, ("processes", "bf16"): 1.0})
    (tmp_path / "file").touch()
    monkeypatch.setenv(tuning.CACHE_VARIABLE, str(tmp_path / "file" / "below"))
    assert tuning.tuned(config(predictor__precision="auto"), lambda _: None, SHAPE).predictor.precision == "fp32"  # type: ignore[arg-type,return-value]


def test_a_real_measurement_settles_everything_and_resolving_again_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    threads = torch.get_num_threads()
    settled = assemble(undecided(), load_data(undecided())).config
    assert settled.envs in ("processes", "batched") and settled.predictor.precision in ("fp32", "bf16")
    (rows,) = json.loads(cache.read_text()).values()
    assert rows["processes fp32"] > 0 and rows["batched fp32"] > 0
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(tuning, "_training_rate", pytest.fail)
    again = load_config(given=_plain(settled))
    assert dump_config(assemble(again, load_data(again)).config) == dump_config(settled)


def _plain(settled: ExperimentConfig) -> dict[str, Any]:
    return dict(settled.model_dump())


@pytest.mark.parametrize(
    ("rate", "num_seeds", "expected"), [(120.0, 100, "always"), (100.5, 100, "never"), (200.0, 1, "never")]
)
def test_compiling_is_chosen_where_it_saves_more_than_it_costs(
    monkeypatch: pytest.MonkeyPatch, rate: float, num_seeds: int, expected: str
) -> None:
    """100 seeds are about an hour at 100 images a second; one seed is too short to ask."""

    def measured(settled: ExperimentConfig, problem: MetaProblem) -> float:
        return rate if settled.predictor.compile == "always" else 100.0

    monkeypatch.setattr(tuning, "_training_rate", measured)
    monkeypatch.setattr(tuning, "_seconds_to_compile", lambda problem: 10.0)
    asked = config(predictor__compile="auto", final__seeds=num_seeds, final__steps_per_decision=4)
    assert tuning.tuned(asked, lambda _: None, SHAPE).predictor.compile == expected  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(("decisions", "expected"), [(4, "never"), (1000, "always")])
def test_compiling_is_weighed_against_the_one_encoder_that_is_trained(
    monkeypatch: pytest.MonkeyPatch, decisions: int, expected: str
) -> None:
    """However long the search of that configuration is: 4 decisions are too short to ask, 1000 are half an hour."""

    monkeypatch.setattr(tuning, "_rate_alone", lambda settled, problem: 100.0 + 100.0 * compiles(settled))
    monkeypatch.setattr(tuning, "_training_rate", pytest.fail)
    monkeypatch.setattr(tuning, "_seconds_to_compile", lambda problem: 10.0)
    asked = config(predictor__compile="auto", agent__episodes=10**6)
    alone = EpisodeConfig(decisions=decisions, steps_per_decision=6)
    assert tuning.tuned(asked, lambda _: None, SHAPE, alone).predictor.compile == expected  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(("mode", "expected"), [("search", "always"), ("online", "never"), ("apply", "never")])
def test_compiling_is_weighed_against_a_search_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, mode: str, expected: str
) -> None:
    monkeypatch.setattr(tuning, "_training_rate", lambda settled, problem: 100.0 + 100.0 * compiles(settled))
    monkeypatch.setattr(tuning, "_seconds_to_compile", lambda problem: 10.0)
    asked = config(predictor__compile="auto", agent__episodes=10**6, mode=mode, final__seeds=1)
    assert tuning.tuned(asked, lambda _: None, SHAPE).predictor.compile == expected  # type: ignore[arg-type,return-value]


def compiles(settled: ExperimentConfig) -> bool:
    return settled.predictor.compile == "always"


@pytest.mark.parametrize("changes", [{"tasks__objectives": ["masked"]}, {"predictor__init_sha256": "0" * 64}])
def test_the_speed_of_another_recipe_or_encoder_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    asked = at_rates(monkeypatch, {("processes", "fp32"): 100.0})
    for settled, num_measured in ((config(), 1), (config(), 1), (config(**changes), 2)):
        tuning.images_per_second(settled, lambda _: None, SHAPE)  # type: ignore[arg-type, return-value]
        assert len(asked) == num_measured
