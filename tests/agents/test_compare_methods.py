"""Which methods a comparison has, and what it says of a reward that is not to be trusted."""

import io
from pathlib import Path
from typing import Any

import pytest

import agents.compare.methods
from agents import policy_search
from agents.compare.claims import judge
from agents.compare.comparison import compare
from agents.compare.methods import catalogue, chosen_methods
from envs import workers
from taskrl.config import load_config
from taskrl.errors import ConfigError
from taskrl.folders import read_json
from tests.agents.conftest import quiet
from tests.agents.test_compare_claims import entry_of, paired
from tests.envs.tiny import tiny_config

ONE: dict[str, Any] = {"compare__searches": 1, "compare__finals": 1}


def test_the_constant_recipe_is_listed_where_the_package_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "constant.yaml"
    monkeypatch.setattr(agents.compare.methods, "CONSTANT_FILE", file)
    assert "constant" not in catalogue(load_config(), 1)
    file.write_text("grey: no-mirror,rotation=0.3\ncolour: reference\n")
    assert catalogue(load_config(), 1)["constant"].source == "fixed:no-mirror,rotation=0.3"
    assert catalogue(load_config(), 3)["constant"].source == "fixed:reference"
    for damage in ("grey: no-mirror\n", "- grey\n", "grey: [\n"):
        file.write_text(damage)
        with pytest.raises(ConfigError, match="no recipe for colour images"):
            catalogue(load_config(), 3)


def test_a_recipe_of_another_reference_is_left_out_of_the_default() -> None:
    config = load_config(given={"tasks.objectives": ["rotation"]})
    names = {method.name for method in chosen_methods(config, labelled=True, paid_by_labels=True, num_channels=1)}
    assert "rotation" in names and not names & {"constant", "hard-views"}
    named = load_config(given={"tasks.objectives": ["rotation"], "compare.methods": ["constant"]})
    with pytest.raises(ConfigError, match="'constant' cannot be compared here: the reference recipe is not contrast"):
        chosen_methods(named, labelled=True, paid_by_labels=True, num_channels=1)


def test_a_bandit_whose_schedule_would_be_cut_short_cannot_be_compared() -> None:
    given = {"episode.decisions": 8, "compare.methods": ["bandit"]}
    with pytest.raises(ConfigError, match=r"more than final\.decisions would play"):
        chosen_methods(load_config(given=given), labelled=True, paid_by_labels=True, num_channels=1)
    given["final.decisions"] = 8
    methods = chosen_methods(load_config(given=given), labelled=True, paid_by_labels=True, num_channels=1)
    assert "bandit" in {method.name for method in methods}


def test_the_default_is_every_method_that_the_data_allow() -> None:
    config = load_config()
    assert config.compare.methods is None
    assert {"learned", "reference", "prior", "pixels"} <= {*catalogue(config, 1)}


def test_a_reward_that_reads_no_labels_leaves_supervised_out_and_scores_by_labels(tmp_path: Path) -> None:
    options = ONE | {"reward__probe": "panel", "reward__panel_images": 32}
    compare(tiny_config(**options, compare__methods=["random"]), tmp_path / "out", quiet())
    result = read_json(tmp_path / "out" / "result.json")
    assert {entry["method"] for entry in result["table"]} == {"random", "reference", "untrained", "pixels"}
    assert all(row["linear_accuracy"] > 0 for row in result["rows"])
    with pytest.raises(ConfigError, match="'supervised' cannot be compared here: it trains on the labels that the rew"):
        compare(tiny_config(**options, compare__methods=["supervised"]), tmp_path / "other", quiet())


def test_what_a_search_found_against_its_reward_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(**ONE, compare__methods=["learned"], agent__episodes=2)
    with monkeypatch.context() as patch:
        patch.setattr(policy_search, "falling_reference", lambda before, after: "quality fell while it trained.")
        compare(config, tmp_path / "out", quiet())
    said = io.StringIO()
    compare(config, tmp_path / "out", quiet(said))  # nothing is searched
    assert "In 1 of 1 search quality fell while it trained." in read_json(tmp_path / "out" / "result.json")["notes"]
    assert "Warning: In 1 of 1 search quality fell" in said.getvalue()


def test_what_several_searches_found_is_not_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = iter(["quality fell from 3 to 2.", "quality stayed at 1."])
    monkeypatch.setattr(policy_search, "falling_reference", lambda before, after: next(sentences))
    options = ONE | {"compare__searches": 2, "agent__episodes": 2}
    result = compare(tiny_config(**options, compare__methods=["learned"]), tmp_path / "out", quiet())
    said = [note for note in result["notes"] if "quality" in note]
    assert said == ["In 2 of 2 searches the reward is to be doubted; of the first of them: quality fell from 3 to 2."]


def test_an_agent_that_no_method_learns_with_is_not_judged(tmp_path: Path) -> None:
    config = tiny_config(**ONE, compare__methods=["random"], agent__group_relative=False)
    assert compare(config, tmp_path / "out", quiet())["table"]


def test_workers_that_cannot_be_had_are_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(address: str) -> None:
        raise ConfigError("Ray is not here.")

    monkeypatch.setattr(workers, "check_ray", missing)
    with pytest.raises(ConfigError, match="not here"):
        compare(tiny_config(**ONE, envs="ray"), tmp_path / "out", quiet())
    assert not (tmp_path / "out").exists()


def test_a_claim_that_one_opponent_settles_fails_whatever_is_open_against_others() -> None:
    learned = paired("learned", [90.0] * 5)
    settled = paired("constant", [91.5, 86.0, 91.5, 86.0, 89.0])  # 1.2 behind on average, but ahead in two of five
    open_ = paired("one-knob", [90.6, 88.8, 90.6, 88.8, 89.7])  # less than a point, which five pairs do not decide
    for rows in ([*learned, *settled], [*learned, *settled, *open_]):
        entry = entry_of(judge(rows, 1, "elsewhere"), "beats one fixed recipe")
        assert (entry["strictest"], entry["status"]) == ("constant", "failed")
    entry = entry_of(judge([*learned, *open_], 1, "elsewhere"), "beats one fixed recipe")
    assert (entry["strictest"], entry["status"]) == ("one-knob", "not measured")
