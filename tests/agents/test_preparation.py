"""What is measured before a run: once, charged, written down; and what is said about the reward after it."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

import agents.preparation
from agents.inspect_policy import inspect_run
from agents.preparation import Preparation, lengthened, prepare, settle
from agents.training import resume, train
from agents.trust import validity_record
from envs.noise import NoiseReport
from taskrl.config import ExperimentConfig, load_config
from taskrl.evaluation.noise import noise_of
from taskrl.folders import read_json
from taskrl.run_folder import RunFolder
from taskrl.types import Compute
from tests.agents.conftest import quiet
from tests.agents.runs import metrics_of, taskrl, tiny_options
from tests.envs.tiny import tiny_config
from tests.taskrl.mlflow_runs import client_of

Settled = tuple[ExperimentConfig, Preparation, str]
CALM, NOISY = [[0.1, 0.11], [0.5, 0.51]], [[0.1, 0.5], [0.5, 0.1]]


def made_up(monkeypatch: pytest.MonkeyPatch, *tables: list[list[float]]) -> list[list[list[float]]]:
    """A/A tests find these tables of gains, one each, and cost 1,000 FLOPs each; those that are left."""
    waiting = list(tables)

    def measured(problem: Any, episode: Any, *, seed: int, after_decision: Any) -> NoiseReport:
        table = waiting.pop(0)
        return NoiseReport(
            noise=noise_of(table),
            actions=("a", "b"),
            gains=tuple(map(tuple, table)),
            index=1,
            steps_per_decision=episode.steps_per_decision,
            compute=Compute(flops=1000, images=10),
        )

    monkeypatch.setattr(agents.preparation, "measure_noise", measured)
    return waiting


def settled(monkeypatch: pytest.MonkeyPatch, *tables: list[list[float]], **changes: Any) -> Settled:
    """`settle` with made-up A/A tests."""
    waiting = made_up(monkeypatch, *tables)
    said = io.StringIO()
    _, assembled = prepare(tiny_config(**({"reward__noise_test": "warn"} | changes)))
    assembled, preparation = settle(assembled, quiet(said))
    assert not waiting
    return assembled.config, preparation, said.getvalue()


def test_a_calm_reward_gets_its_unit_and_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    config, preparation, said = settled(monkeypatch, CALM)
    assert config.reward.scale == pytest.approx(0.01 / noise_of(CALM).aa_sd, rel=1e-2)
    assert preparation.noise is not None and preparation.noise["warning"] is None
    assert "A/A test: one decision of 2 steps moves quality by 0.28 between tasks against 0.0071 of chance" in said
    assert "Warning" not in said
    assert config.model_copy(update={"reward": tiny_config().reward}) == tiny_config(), "nothing else was changed"


def test_noise_above_the_signal_is_warned_of_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    config, preparation, said = settled(monkeypatch, NOISY)
    assert config.episode == tiny_config().episode
    assert preparation.noise is not None and preparation.spent == Compute(flops=1000, images=10)
    assert f"Warning: {preparation.noise['warning']}\n" in said
    assert "reward.noise_test=lengthen" in said


def test_quality_that_is_not_finite_is_told_and_leaves_the_unit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config, preparation, said = settled(monkeypatch, [[0.1, math.nan], [0.5, 0.1]])
    assert config.reward.scale == 1.0 and "quality was not finite" in said
    json.dumps(preparation.to_json(), allow_nan=False)


def test_lengthening_stops_when_tasks_move_the_gain_more_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    config, preparation, said = settled(
        monkeypatch, NOISY, CALM, reward__noise_test="lengthen", agent__episodes=8, agent__group_size=2
    )
    assert (config.episode.steps_per_decision, config.agent.episodes) == (4, 4)
    assert "Decisions were lengthened from 2 to 4 steps, episodes cut from 8 to 4." in said and "Warning" not in said
    assert preparation.noise is not None
    assert [steps for steps, _ in preparation.noise["tried"]] == [2, 4]
    assert preparation.spent.flops == preparation.noise["flops"] == 2000, "every test is charged"


def test_a_policy_that_learned_from_lengthened_episodes_knows_their_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(monkeypatch, NOISY, CALM)
    config = tiny_config(reward__noise_test="lengthen", final__seeds=0)
    run = train(config, tmp_path / "run", quiet())
    assert run.config().episode.num_steps == 2 * config.episode.num_steps == 8
    for folder in (run.policy, run.checkpoints / "prior"):
        assert read_json(folder / "policy.json")["shown"]["lengths"] == [8, 8]


def test_lengthening_gives_up_after_two_doublings_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    config, _, said = settled(
        monkeypatch, NOISY, NOISY, NOISY, reward__noise_test="lengthen", agent__episodes=16, agent__group_size=2
    )
    assert (config.episode.steps_per_decision, config.agent.episodes) == (8, 4)
    assert "Warning: chance moves" in said


def test_a_single_group_is_not_lengthened_since_the_search_would_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    config, _, _ = settled(monkeypatch, NOISY, reward__noise_test="lengthen", agent__episodes=2, agent__group_size=2)
    assert config.episode == tiny_config().episode
    assert lengthened(config) is None


@pytest.mark.parametrize(("episodes", "group_size"), [(112, 8), (64, 8), (5, 2), (3, 1)])
def test_lengthening_never_costs_the_search_more(episodes: int, group_size: int) -> None:
    config = load_config(given={"agent.episodes": episodes, "agent.group_size": group_size})
    longer = lengthened(config)
    assert longer is not None and longer.agent.episodes % group_size == 0 and longer.agent.episodes >= group_size
    rounded_up = math.ceil(episodes / group_size) * group_size
    spent = longer.agent.episodes * longer.episode.steps_per_decision
    assert 0.6 * rounded_up * config.episode.steps_per_decision <= spent
    assert spent <= rounded_up * config.episode.steps_per_decision


def test_without_a_test_the_scale_is_one_and_a_given_scale_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    config, preparation, said = settled(monkeypatch, reward__noise_test="off")
    assert config.reward.scale == 1.0 and preparation == Preparation(None, Compute()) and "A/A" not in said
    config, _, _ = settled(monkeypatch, CALM, reward__scale=7.0)
    assert config.reward.scale == 7.0


def flops_of_episodes(run: RunFolder) -> float:
    """What the search's own episodes cost, from what was logged at their ends."""
    last = run.config().episode.decisions - 1
    decisions = [entry for entry in metrics_of(run) if entry["kind"] == "decision"]
    ends = [entry["metrics"] for entry in decisions if entry["step"] % (last + 1) == last]
    return float(sum(end["compute/train_flops"] + end["compute/measure_flops"] for end in ends))


def test_the_reference_curve_is_measured_once_charged_and_reused_for_the_comparison(tmp_path: Path) -> None:
    paid_alone = {"agent__name": "ppo", "agent__group_relative": False, "final__seeds": 0}
    changes = {"reward__shaping": "relative", **paid_alone}
    said = io.StringIO()
    run = train(tiny_config(**changes), tmp_path / "run", quiet(said))
    curve = load_config(run.config_file).reward.reference_curve
    assert len(curve) == 3
    assert run.result()["search"]["reference_quality"] == curve[-1]
    plain = train(tiny_config(**paid_alone), tmp_path / "plain", quiet())
    assert plain.result()["search"]["reference_quality"] == pytest.approx(curve[-1])
    beside_episodes = [each.result()["search"]["flops"] - flops_of_episodes(each) for each in (run, plain)]
    assert beside_episodes[0] == pytest.approx(beside_episodes[1], rel=1e-6), "charged to the search either way"
    assert beside_episodes[0] > 0
    first, second = ({e["step"]: e["metrics"] for e in metrics_of(r) if e["kind"] == "episode"} for r in (run, plain))
    # the first group is played by the same prior, whatever it is paid
    assert first[0]["final_quality"] == second[0]["final_quality"]
    assert first[0]["return"] == pytest.approx(second[0]["return"] - (curve[-1] - curve[0]))
    assert "pays the agent nothing else" not in said.getvalue()


@pytest.mark.parametrize(
    ("name", "remedy"), [("ppo", "set agent.group_relative=false."), ("thompson", "nothing else; leave it out.")]
)
def test_shaping_that_a_group_cancels_is_told(name: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"reward__shaping": "relative", "reward__reference_curve": [0.1, 0.2, 0.3], "agent__name": name}
    _, _, said = settled(monkeypatch, CALM, **changes)
    assert remedy in said


def test_a_curve_that_fits_no_episode_is_a_sentence(here: Path) -> None:
    options = tiny_options(reward__shaping="relative", reward__reference_curve=[0.1, 0.2])
    result = taskrl("train", "--out", "run", *options)
    assert result.exit_code == 2 and not (here / "run").exists()
    assert "reward.reference_curve has 2 values; 2 decisions need 3" in result.stderr


def test_a_finished_run_knows_its_noise_and_validity(finished: RunFolder) -> None:
    result = finished.result()
    noise, validity = result["noise"], result["validity"]
    assert noise["sentence"].startswith("A/A test: one decision of 2 steps moves quality by ")
    assert noise["aa_sd"] > 0 and len(noise["gains"]) == 7 and noise["flops"] > 0
    scale = load_config(finished.config_file).reward.scale
    assert scale == pytest.approx(0.01 / noise["aa_sd"], rel=5e-3)
    assert read_json(finished.checkpoints / "preparation.json")["noise"] == noise
    assert validity["hidden"]["before"] is None and validity["warning"] is None
    assert "nothing can be said about the reward from 2 and 2 episodes" in validity["sentences"][0]
    assert all(math.isfinite(episode["hidden_quality"]) for episode in result["search"]["episodes"])
    page = finished.report.read_text()
    assert "Can the reward be trusted?" in page and "signal-to-noise at 2 steps" in page
    history = client_of(finished.path)
    (experiment,) = [found for found in history.search_experiments() if found.name == "taskrl"]
    (parent,) = [
        run
        for run in history.search_runs([experiment.experiment_id], max_results=200)
        if "mlflow.parentRunId" not in run.data.tags
    ]
    assert parent.data.metrics["noise/aa_sd"] == pytest.approx(noise["aa_sd"])
    assert "episode/hidden_quality" in parent.data.metrics
    said = io.StringIO()
    inspect_run(finished.path, quiet(said))
    assert noise["sentence"] in said.getvalue() and validity["sentences"][0] in said.getvalue()


def test_the_aa_test_is_charged_to_the_search(finished: RunFolder, tmp_path: Path) -> None:
    without = train(tiny_config(final__seeds=0), tmp_path / "run", quiet()).result()
    assert without["noise"] is None and without["config"]["reward"]["scale"] == 1.0
    difference = finished.result()["search"]["flops"] - without["search"]["flops"]
    # which tasks are played differs, and with them the rounding to whole steps
    assert difference == pytest.approx(finished.result()["noise"]["flops"], rel=0.2)


def test_resume_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    config = tiny_config(reward__noise_test="warn", final__seeds=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.training, "search", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, out, quiet())
    before = (out / "config.yaml").read_bytes(), (out / "checkpoints" / "preparation.json").read_bytes()
    monkeypatch.setattr(agents.preparation, "measure_noise", interrupt)
    run = resume(out, quiet())
    assert before == (run.config_file.read_bytes(), (out / "checkpoints" / "preparation.json").read_bytes())
    noise = run.result()["noise"]
    assert noise is not None and run.result()["search"]["flops"] > noise["flops"]

    run.result_file.unlink()  # a run of an earlier version has no preparation.json
    (out / "checkpoints" / "preparation.json").unlink()
    assert resume(out, quiet()).result()["noise"] is None


def interrupt(*arguments: Any, **keywords: Any) -> Any:
    raise KeyboardInterrupt


def rows(num_seeds: int) -> list[dict[str, Any]]:
    """Five generators whose quality and accuracy rank alike on every seed; floors that would spoil it."""
    table = [
        {"generator": name, "train_seed": seed, "quality": 0.1 * rank, "linear_accuracy": 50.0 + rank - 3 * seed}
        for seed in range(num_seeds)
        for rank, name in enumerate(("reference", "learned", "prior", "random", "fixed:no-mirror"))
    ]
    floors = [
        {"generator": "untrained", "train_seed": 0, "quality": 9.0, "linear_accuracy": 0.0},
        {"generator": "supervised", "train_seed": 0, "quality": None, "linear_accuracy": 99.0},
    ]
    return table + floors


def test_validity_names_agreement_with_accuracy_where_labels_exist() -> None:
    record = validity_record([], rows(3), group_size=2, split="test")
    assert record["hidden"] is None and record["accuracy"]["num"] == 15
    assert record["accuracy"]["mean"] == pytest.approx(1)
    assert "on test images" in record["sentences"][1] and "no hidden measure" in record["sentences"][0]
    unlabelled = [{**row, "linear_accuracy": None} for row in rows(3)]
    assert validity_record([], unlabelled, group_size=2, split="validation")["accuracy"] is None


def test_a_search_that_serves_the_probe_is_called_goodhart() -> None:
    episodes = [
        {"episode": i, "final_quality": 0.1 * (i % 8) + 0.01 * i, "hidden_quality": sign * 0.1 * (i % 8), "return": 0.0}
        for i in range(96)
        for sign in [1 if i < 48 else -1]
    ]
    record = validity_record(episodes, [], group_size=8, split="validation")
    assert record["hidden"]["num_before"] == 32
    assert record["hidden"]["before"]["mean"] == pytest.approx(1)
    assert record["hidden"]["after"]["mean"] == pytest.approx(-1)
    assert record["warning"].startswith("Goodhart: ")
