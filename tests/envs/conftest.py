"""Environments that many tests share; a test that changes one resets it first."""

import pytest

from envs.task_generation import TaskGenerationEnv
from tests.envs.tiny import tiny_env


@pytest.fixture(scope="session")
def env() -> TaskGenerationEnv:
    """MultiDiscrete, two decisions of two steps."""
    return tiny_env()


@pytest.fixture(scope="session")
def long_env() -> TaskGenerationEnv:
    """MultiDiscrete, three decisions of twelve steps: long enough for every head's warm-up."""
    return tiny_env(episode__decisions=3, episode__steps_per_decision=12)
