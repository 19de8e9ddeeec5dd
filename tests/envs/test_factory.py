"""Promises of the entry point: every setting is reachable, mistakes are sentences."""

import gymnasium
import pytest
import torch

import envs
from envs.factory import make_task_generation
from taskrl.errors import ConfigError, DataError
from tests.envs.tiny import TINY


def test_importing_envs_registers_the_environment() -> None:
    assert envs.__name__ == "envs"
    assert "taskrl/TaskGeneration-v0" in gymnasium.registry


def test_any_setting_is_given_in_dotted_form() -> None:
    env = make_task_generation(data="digits", settings=TINY | {"episode.decisions": 3, "tasks.forbid": ["mirror"]})
    assert env.episode.decisions == 3
    assert env.problem.task_space.reference.level("mirror") == 0.0
    assert len(next(env.problem.stream.batches(torch.Generator().manual_seed(0)))) == 32


@pytest.mark.parametrize(
    ("keywords", "error", "sentence"),
    [
        ({"data": "digit"}, DataError, "Did you mean 'digits'"),
        ({"data": "./nowhere"}, DataError, "no folder or file"),
        ({"data": "digits", "settings": {"episode.decision": 3}}, ConfigError, "did you mean 'episode.decisions'"),
        ({"data": "digits", "settings": {"episode.decisions": 1}}, ConfigError, "episode.decisions"),
        ({"data": "digits", "settings": {"predictor.batch_size": 4096}}, DataError, "fewer than one batch"),
        ({"data": "digits", "settings": {"tasks.forbid": ["mirrow"]}}, ConfigError, "Did you mean 'mirror'"),
    ],
)
def test_mistakes_are_sentences(keywords: dict[str, object], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        gymnasium.make("taskrl/TaskGeneration-v0", **keywords)
