"""Promises of the forecast: a search that is long beside the run that it is for is told, with by how much."""

from pathlib import Path

import pytest

from agents.compare.cost import budget_seconds
from agents.forecast import Cost, comparison_notes, search_notes
from taskrl import tuning
from taskrl.config import load_config
from taskrl.errors import ConfigError
from tests.agents.runs import taskrl, tiny_options


def notes(episodes: int, final_steps: int) -> list[str]:
    overrides = ["episode.decisions=4", "episode.steps_per_decision=10", "final.decisions=4"]
    given = {"agent.episodes": episodes, "final.steps_per_decision": final_steps}
    return search_notes(load_config(None, overrides, given))


def test_a_search_of_a_quarter_of_the_final_run_is_no_news_and_a_longer_one_is_told_how_long() -> None:
    assert notes(episodes=25, final_steps=1000) == []
    (note,) = notes(episodes=26, final_steps=1000)
    assert "0.26 times" in note
    (long,) = notes(episodes=100, final_steps=100)
    assert "10 times" in long
    assert "compare" in long


def test_of_a_comparison_the_longest_final_runs_count() -> None:
    given = {"agent.episodes": 50, "episode.decisions": 4, "episode.steps_per_decision": 10, "final.decisions": 4}
    config = load_config(given={**given, "final.steps_per_decision": 100, "compare.lengths": [1, 10]})
    (short,) = comparison_notes(config)
    assert "0.5 times as long as the longest" in short and "(now 100)" in short and "(now [1, 10])" in short
    assert (
        comparison_notes(load_config(given={**given, "final.steps_per_decision": 200, "compare.lengths": [10]})) == []
    )


def test_one_encoder_is_not_divided_among_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tuning.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(tuning, "_rate_alone", lambda config, problem: config.predictor.batch_size / 3600)
    result = taskrl("pretrain", "--out", tmp_path / "run", "--policy", "reference", *tiny_options(workers=8))
    assert result.exit_code == 0, result.output
    assert "Pretraining, without scoring: 1 episode, about" in result.output and "at least 4 h 00 min" in result.output


@pytest.mark.parametrize(("flops", "said"), [(6.6e10, "about 66.0 GFLOP, at"), (2e13, "about 20.0 TFLOP, at")])
def test_a_small_cost_is_not_told_as_nothing(flops: float, said: str) -> None:
    assert str(Cost(flops=flops, seconds=2.0)).startswith(said)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 5400), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1 d", 86400)]
)
def test_budgets_are_times(text: str, seconds: float) -> None:
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3h", "0h", "2 weeks", "inf"])
def test_a_budget_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no time"):
        budget_seconds(text)


def test_untrained_encoders_cost_no_training(tmp_path: Path) -> None:
    result = taskrl(
        *("train", "--out", tmp_path / "run", "--mode", "online"),
        *tiny_options(final__seeds=3, final__generators=["reference"]),
    )
    assert result.exit_code == 0, result.output  # learned, reference and supervised
    assert "Final encoders, without scoring: 9 episodes" in result.output
