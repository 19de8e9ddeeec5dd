"""A run on a distribution of sets: every final encoder is trained and scored on the set of its own seed."""

import json
from pathlib import Path

import pytest
import torch

from agents.final import final_seed, floors
from taskrl.assemble import Assembled, assemble, load_data
from taskrl.export import load_exported
from taskrl.run_folder import RunFolder
from tests.agents.runs import rows_of, taskrl, tiny_options
from tests.envs.tiny import tiny_config, tiny_problem

SIMULATED = {"data__image_size": 16, "final__generators": ["reference"]}


def options(**changes: object) -> list[str]:
    return tiny_options(**{**SIMULATED, **changes})


@pytest.fixture(scope="module")
def assembled() -> Assembled:
    config = tiny_config(data__source="simulated", **SIMULATED)
    return assemble(config, load_data(config))


def test_a_run_on_simulated_sets_ends_with_a_table(assembled: Assembled, here: Path) -> None:
    result = taskrl("train", "--out", "run", *options(), "--data", "simulated", "--final")
    assert result.exit_code == 0, result.output
    assert "Note: every episode and every train seed has a simulated set of its own" in result.stdout
    run = RunFolder(here / "run")
    found = run.result()
    assert found["data"] == "simulated"
    assert {row["generator"] for row in rows_of(run)} == {
        *("learned", "learned-argmax", "reference", "untrained", "supervised")
    }
    names = [assembled.at(final_seed(assembled, seed)).splits.name for seed in (0, 1)]
    assert len({*names, assembled.splits.name}) == 3
    reads = (run.path / "test_reads.log").read_text()
    assert all(f"test images of {name}" in reads for name in names)
    each = [floors(assembled.at(final_seed(assembled, seed)), True, num_seeds=1)[0] for seed in (0, 1)]
    assert found["floors"]["pixels"]["best"] == pytest.approx(sum(pixels["best"] for pixels in each if pixels) / 2)
    for seed, name in enumerate(names):
        folder = run.checkpoints / f"encoder-{seed}"
        card = json.loads((folder / "config.json").read_text())
        assert card["mean"] == pytest.approx(assembled.at(final_seed(assembled, seed)).encoder_config["mean"])
        assert name in (folder / "README.md").read_text()
        assert load_exported(folder)(torch.rand(2, 3, 16, 16)).shape[0] == 2


def test_without_labels_it_runs_on_the_panel(here: Path) -> None:
    changes = options(final__seeds=1, final__generators=["reference"])
    result = taskrl("train", "--out", "run", *changes, "--data", "simulated-grey", "--no-labels")
    assert result.exit_code == 0, result.output
    found = RunFolder(here / "run").result()
    assert found["config"]["reward"]["probe"] == "panel"
    assert all(row["linear_accuracy"] is None and row["quality"] is not None for row in found["rows"])
    assert found["floors"]["pixels"] is None


def test_a_shaped_reward_stays_with_a_drawn_set(assembled: Assembled) -> None:
    drawn = assembled.at(5)
    assert drawn.problem.reward is assembled.problem.reward and drawn.config is assembled.config
    assert drawn.at(6) is drawn, "a drawn set is a fixed one"
    assert drawn.problem.of_episode(6) is drawn.problem


def test_ordinary_data_are_what_they_are_at_every_seed() -> None:
    plain = tiny_problem()
    assert plain.at(5) is plain and plain.problem.of_episode(5) is plain.problem
    assert plain.data_name == "digits" and plain.problem.facts == {}
