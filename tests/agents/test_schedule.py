"""Promises of schedules: tasks by progress, files that people can read, and one sentence for those that do not fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from agents.final import Generator, make_policy
from agents.rollout import run_episode
from agents.schedule import SchedulePolicy, load_schedule, save_schedule
from envs.factory import make_env
from envs.observation import ObservationBuilder
from taskrl.assemble import task_space
from taskrl.config import EpisodeConfig
from taskrl.errors import ConfigError
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from tests.agents.learning import space_for
from tests.agents.runs import taskrl, tiny_options
from tests.envs.tiny import tiny_config, tiny_problem

RECIPES = ("no-mirror", "crop=0.6,masked=0.5,mask_ratio=0.75", "rotation=0.3", "contrastive=0,weight/rotation=1")


def box(**changes: object) -> TaskSpace:
    return space_for(tiny_config(**changes), "box")


def rows(space: TaskSpace, count: int) -> list[TaskSpec]:
    return [space.recipe(RECIPES[index % len(RECIPES)]) for index in range(count)]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 6, 7, 49])
def test_a_row_is_played_from_its_progress_until_the_next(num_rows: int) -> None:
    space = box()
    specs = rows(space, num_rows)
    policy = SchedulePolicy(space, specs)
    decisions = 2 * num_rows
    played = []
    for index in range(decisions):
        observation = np.zeros(len(ObservationBuilder(space).names), dtype=np.float32)
        observation[0] = index / decisions
        action, _ = policy.propose(observation)
        played.append(space.decode(action))
        table = policy.probabilities(observation)
        assert [int(row.argmax()) for row in table.values()] == space.level_indices(specs[index // 2])
    assert played == [specs[index // 2] for index in range(decisions)]


def test_an_environment_plays_the_schedule() -> None:
    problem = tiny_problem("box").problem
    specs = rows(problem.task_space, 3)
    env = make_env(problem, EpisodeConfig(decisions=3, steps_per_decision=1))
    trace = run_episode(env, SchedulePolicy(problem.task_space, specs), seed=0)
    assert [TaskSpec.from_json(text) for text in trace.specs] == specs


def test_an_empty_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        SchedulePolicy(box(), [])


@pytest.mark.parametrize("num_rows", [1, 3, 4, 7])
def test_a_saved_schedule_comes_back_equal(tmp_path: Path, num_rows: int) -> None:
    space = box()
    specs = rows(space, num_rows)
    save_schedule(tmp_path / "schedule.yaml", specs, {"search": "static", "seed": 3})
    assert load_schedule(tmp_path / "schedule.yaml", space) == tuple(specs)
    content = yaml.safe_load((tmp_path / "schedule.yaml").read_text())
    assert content["tasks"][0]["mixture"] == dict(specs[0].mixture)
    assert content["card"] == {"search": "static", "seed": 3}


def test_every_recipe_of_the_levels_can_be_saved(tmp_path: Path) -> None:
    space, levels = box(), space_for(tiny_config(), "multidiscrete")
    levels.action_space.seed(0)
    specs = [levels.decode(levels.action_space.sample()) for _ in range(200)]
    save_schedule(tmp_path / "schedule.yaml", specs, {})
    assert load_schedule(tmp_path / "schedule.yaml", space) == tuple(specs)


def test_people_may_write_one_by_hand(tmp_path: Path) -> None:
    space = box()
    levels = {knob.name: knob.levels[knob.reference] for knob in space.knobs}
    row = {"from": 0, "mixture": {"contrastive": 2, "rotation": 2}, "levels": levels | {"mirror": 0}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"format_version": 1, "tasks": [row]}))
    (spec,) = load_schedule(tmp_path / "mine.yaml", space)
    assert dict(spec.mixture) == {"contrastive": 0.5, "rotation": 0.5}
    assert spec.level("mirror") == 0


def write(path: Path, text: str) -> Callable[[TaskSpace], object]:
    path.write_text(text)
    return lambda space: load_schedule(path, space)


DAMAGE = {
    "not YAML": ("tasks: [", "not plain YAML"),
    "code": ("tasks: !!python/object/apply:os.mkdir [made]\n", "not plain YAML"),
    "a bomb": ("a: &a [1]\ntasks: [*a, *a]\n", "aliases"),
    "a list": ("- 1\n", "holds a list"),
    "empty": ("", "format_version"),
    "no rows": ("format_version: 1\ntasks: []\n", "at least 1 item"),
    "a later format": ("format_version: 2\ntasks: []\n", "format_version"),
    "an unknown key": ("format_version: 1\ntask: []\n", "task"),
    "not a number": ("format_version: 1\ntasks: [{from: 0, mixture: {contrastive: .nan}, levels: {}}]\n", "finite"),
    "no mixture": ("format_version: 1\ntasks: [{from: 0, mixture: {contrastive: 0}, levels: {}}]\n", "positive"),
    "a negative share": (
        "format_version: 1\ntasks: [{from: 0, mixture: {contrastive: 2, rotation: -1}, levels: {}}]\n",
        "positive",
    ),
    "shares beyond all numbers": (
        "format_version: 1\ntasks: [{from: 0, mixture: {contrastive: 1.0e+308, rotation: 1.0e+308}, levels: {}}]\n",
        "finite sum",
    ),
    "a missing level": ("format_version: 1\ntasks: [{from: 0, mixture: {contrastive: 1}, levels: {}}]\n", "crop"),
    "too large": ("#" * 300_000, "at most 200000"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, damage: str) -> None:
    text, complaint = DAMAGE[damage]
    with pytest.raises(ConfigError, match=complaint) as error:
        write(tmp_path / "schedule.yaml", text)(box())
    assert "schedule.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_of_other_lengths_are_refused(tmp_path: Path) -> None:
    path, space = tmp_path / "schedule.yaml", box()
    save_schedule(path, rows(space, 4), {})
    path.write_text(path.read_text().replace("from: 0.25", "from: 0.4"))
    with pytest.raises(ConfigError, match=r"row from 0\.4.*begins at 0\.25"):
        load_schedule(path, space)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tasks__objectives": ["contrastive"]}, "Unknown objective 'rotation'"),
        ({"tasks__forbid": ["mirror"]}, "wants mirror 0.5, these data leave 0 open"),
        ({"tasks__limit": ["crop>=0.6"]}, "wants crop 0.3, these data leave 0.6 open"),
    ],
)
def test_a_schedule_of_other_knobs_is_one_sentence(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    save_schedule(tmp_path / "schedule.yaml", [box().recipe("weight/rotation=0.5")], {})
    with pytest.raises(ConfigError, match=complaint):
        load_schedule(tmp_path / "schedule.yaml", box(**changes))


def test_a_schedule_of_colour_images_does_not_fit_grey_ones(tmp_path: Path) -> None:
    save_schedule(tmp_path / "schedule.yaml", [task_space(tiny_config(), (3, 16, 16), "box").reference], {})
    with pytest.raises(ConfigError, match=r"Unknown knob 'greyscale'.*as many channels"):
        load_schedule(tmp_path / "schedule.yaml", box())


def test_a_generator_may_be_a_schedule(tmp_path: Path) -> None:
    space = box()
    save_schedule(tmp_path / "schedule.yaml", rows(space, 2), {})
    generator = Generator(name="static", source=str(tmp_path / "schedule.yaml"))
    policy, codec = make_policy(
        generator, lambda codec: space_for(tiny_config(), codec), tiny_problem().problem, seed=0
    )
    assert codec == "box"
    assert isinstance(policy, SchedulePolicy) and list(policy.specs) == rows(space, 2)


def test_pretrain_plays_a_schedule_and_refuses_a_broken_one(tmp_path: Path) -> None:
    path, out = tmp_path / "schedule.yaml", tmp_path / "run"
    save_schedule(path, rows(box(), 2), {})
    short = path.rename(path.with_suffix(".yml"))  # the other usual ending
    result = taskrl("pretrain", "--policy", short, "--out", out, *tiny_options())
    assert result.exit_code == 0, result.output
    save_schedule(path, rows(box(), 3), {})
    result = taskrl("pretrain", "--policy", path, "--out", tmp_path / "other", *tiny_options(final__decisions=2))
    assert result.exit_code == 2 and "give --set final.decisions=3" in result.stderr
    path.write_text("tasks: [")
    result = taskrl("pretrain", "--policy", path, "--out", tmp_path / "other", *tiny_options())
    assert result.exit_code == 2 and "not plain YAML" in result.stderr
    assert not (tmp_path / "other").exists()
