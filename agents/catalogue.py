"""The agents by name: which SB3 algorithm, through which codec, with which settings."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sb3_contrib import TQC, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.posterior_sampling import PosteriorSampling
from taskrl.config import AgentConfig
from taskrl.errors import ConfigError, unknown_name
from taskrl.registry import Registry
from taskrl.tasks.space import Codec

Settings = Callable[[AgentConfig, int], dict[str, Any]]
CRITIC_LAYERS = (32, 32)
REPLAY_SIZE = 10_000
RESERVED = {
    *("policy", "env", "seed", "device", "policy_kwargs", "n_steps", "train_freq", "tensorboard_log", "verbose"),
    *("rollout_buffer_class", "rollout_buffer_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "action_noise"),
    *("task_space", "names", "prior_strength", "persistence", "without_gain"),
    *("use_sde", "sde_sample_freq", "use_sde_at_warmup", "optimize_memory_usage", "_init_setup_model"),
}
SHARES = ("gamma", "gae_lambda", "tau", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
# of options that are numbers, smallest and largest; of all others 0 or more
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("n_epochs", "stats_window_size", "target_update_interval", "deviations"), (1, math.inf)),
    **dict.fromkeys(("drift", "caution", "horizon"), (0, 100)),
    "buffer_size": (1, 10_000_000),
    **dict.fromkeys(("batch_size", "num_draws"), (2, math.inf)),
    **dict.fromkeys(SHARES, (0, 1)),
    "again": (0, 0.5),
    "clip_range_vf": (1e-6, math.inf),
    "gradient_steps": (-1, math.inf),
    "target_entropy": (-math.inf, math.inf),
    "top_quantiles_to_drop_per_net": (0, 24),  # of TQC's 25
}


@dataclass(frozen=True, kw_only=True)
class AgentKind:
    """family: how the policy is centred and read ("logits", "values" or "gaussian"). settings: from config and
    decisions. version: of what it learns; one that learns otherwise than before is another (agents/compare/cells.py).
    """

    algorithm: type[BaseAlgorithm]
    codec: Codec
    family: str
    policy: str
    settings: Settings
    version: int = 1

    @property
    def plans(self) -> bool:
        """Whether it is PosteriorSampling, which has to know what actions mean."""
        return self.algorithm is PosteriorSampling


AGENTS: Registry[AgentKind] = Registry("agent")


def check_agent(agent: AgentConfig) -> None:
    """Raises ConfigError for a setting that the agent would pass over in silence."""
    if AGENTS[agent.name].plans and not agent.group_relative:
        raise ConfigError(
            f"agent.group_relative=false does nothing for {agent.name}, which compares the episodes of a group; "
            "leave it out, or choose agent.name=ppo."
        )


def algorithm_settings(agent: AgentConfig, decisions: int) -> dict[str, Any]:
    """Keyword arguments of the algorithm. Raises ConfigError for an option that it does not have or cannot take."""
    kind = AGENTS[agent.name]
    known = inspect.signature(kind.algorithm).parameters
    for name, value in agent.options.items():
        if name not in known or name in RESERVED:
            raise ConfigError(unknown_name(f"option of {agent.name}", name, set(known) - RESERVED))
        _check_option(f"agent.options.{name}", name, value, known[name].default)
    _check_group(agent)
    if kind.plans:
        _check_posterior_sampling(agent)
    # later rewards are relative to branches that all begin where this decision was gone on from: they say nothing of it
    horizon = {"gamma": 0.0} if agent.group == "branches" else {}
    return kind.settings(agent, decisions) | dict(agent.options) | horizon


def _check_group(agent: AgentConfig) -> None:
    """Comparing actions, and dealing rewards out anew, needs several of them."""
    keys = {"group=branches": agent.group == "branches", "shuffle_rewards=true": agent.shuffle_rewards}
    for key in (key for key, used in keys.items() if used and agent.group_size < 2):
        raise ConfigError(f"agent.{key} needs agent.group_size of at least 2; it is {agent.group_size}.")
    if agent.group == "branches" and agent.options.get("gamma"):
        raise ConfigError(
            f"agent.options.gamma is {agent.options['gamma']!r}; with agent.group=branches a decision is paid for "
            "itself alone, so leave gamma out."
        )


def _check_posterior_sampling(agent: AgentConfig) -> None:
    """What a policy gradient can use and a Bayesian linear model cannot."""
    unused = {
        "group=branches": agent.group == "branches",
        "group_size=1": agent.group_size < 2,
        f"hidden={agent.hidden}": bool(agent.hidden),
        f"learning_rate={agent.learning_rate}": agent.learning_rate is not None,
    }
    for key in (key for key, used in unused.items() if used):
        raise ConfigError(
            f"agent.{key} cannot be used by {agent.name}, which fits a linear model to groups of whole episodes; leave "
            "it out, or choose agent.name=ppo."
        )


def _check_option(key: str, name: str, value: bool | int | float | str, default: object) -> None:
    """SB3 would meet a value of the wrong type or size in the middle of a run. A default of None or a text is that of a
    number that may be left open.
    """
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(value, str):
        fits = isinstance(default, str) and _is_automatic(name, value)
    else:
        fits = not isinstance(value, bool) and isinstance(value, int if isinstance(default, int) else int | float)
    if not fits:
        example = 0.1 if default is None else default
        raise ConfigError(f"Config key {key!r} has the value {value!r}; expected one like {example!r}.")
    least, most = RANGES.get(name, (0, math.inf))
    if isinstance(value, int | float) and not least <= value <= most:
        expected = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        raise ConfigError(f"Config key {key!r} has the value {value!r}; expected {expected}.")


def _is_automatic(name: str, text: str) -> bool:
    """Whether SB3 finds the number itself; that of the entropy from a given one on ("auto_0.1")."""
    word, _, start = text.partition("_")
    try:
        begun = not start or (name == "ent_coef" and 0 < float(start) < math.inf)
    except ValueError:
        return False
    return word == "auto" and begun


def policy_settings(agent: AgentConfig, kind: AgentKind) -> dict[str, Any]:
    """Keyword arguments of the policy class: what `agents.policy` needs again to load it."""
    if kind.family == "gaussian":
        return {"net_arch": {"pi": list(agent.hidden), "qf": list(CRITIC_LAYERS)}}
    if kind.policy == "MlpLstmPolicy":
        return {"net_arch": list(agent.hidden), "lstm_hidden_size": 16}
    return {"net_arch": list(agent.hidden)}


def _rollout(agent: AgentConfig, decisions: int) -> int:
    """Decisions between two updates: a group of whole episodes, or one decision's branches.

    SB3 scales advantages by their spread within a minibatch. Rewards spread ten times less at the last decision than at
    the first, so that of branches scaled together the later ones would go unheard (ADR 0019).
    """
    return 1 if agent.group == "branches" else decisions


def _ppo(agent: AgentConfig, decisions: int) -> dict[str, Any]:
    """One minibatch is the whole rollout. Branches have a rollout at every decision, and fewer epochs for each."""
    num_steps = _rollout(agent, decisions)
    return {
        "learning_rate": agent.learning_rate or 2e-2,
        "n_steps": num_steps,
        "batch_size": num_steps * agent.group_size,
        "n_epochs": 5 if agent.group == "branches" else 20,
        "gamma": 1.0,
        "gae_lambda": 1.0,
        "clip_range": 0.3,
        "ent_coef": 0.0,
    }


def _a2c(agent: AgentConfig, decisions: int) -> dict[str, Any]:
    return {
        "learning_rate": agent.learning_rate or 2e-2,
        "n_steps": _rollout(agent, decisions),
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "normalize_advantage": True,
    }


def _thompson(agent: AgentConfig, decisions: int) -> dict[str, Any]:
    """Its prior is the agent's: the same as that of every other agent."""
    return {"n_steps": decisions, "prior_strength": agent.prior_strength}


def _off_policy(agent: AgentConfig, decisions: int) -> dict[str, Any]:
    """Two groups of warm-up drawn from the prior (one where the search has no more), and from the end of the warm-up on
    as many gradient steps as environment steps after each group.
    """
    warm_up = max(min(2 * agent.group_size, agent.episodes), agent.group_size)
    return {
        "learning_rate": agent.learning_rate or 3e-3,
        "buffer_size": REPLAY_SIZE,
        "learning_starts": decisions * warm_up - 1,  # SB3 learns once more steps than these were taken
        "batch_size": 64,
        "train_freq": (decisions, "step"),
        "gradient_steps": -1,
        "gamma": 1.0,
    }


def _dqn(agent: AgentConfig, decisions: int) -> dict[str, Any]:
    return _off_policy(agent, decisions) | {
        "target_update_interval": 2 * decisions,
        "exploration_fraction": 0.6,
        "exploration_initial_eps": 1.0,
        "exploration_final_eps": 0.1,
    }


def _register(
    name: str, algorithm: type[BaseAlgorithm], codec: Codec, family: str, settings: Settings, *, version: int = 1
) -> None:
    policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
    kind = AgentKind(algorithm=algorithm, codec=codec, family=family, policy=policy, settings=settings, version=version)
    AGENTS.register(name)(kind)


_register("thompson", PosteriorSampling, "multidiscrete", "logits", _thompson, version=3)
_register("ppo", PPO, "multidiscrete", "logits", _ppo)
_register("a2c", A2C, "multidiscrete", "logits", _a2c)
_register("maskable-ppo", MaskablePPO, "multidiscrete", "logits", _ppo)
_register("recurrent-ppo", RecurrentPPO, "multidiscrete", "logits", _ppo)
_register("dqn", DQN, "discrete", "values", _dqn, version=2)
_register("sac", SAC, "box", "gaussian", _off_policy, version=2)
_register("tqc", TQC, "box", "gaussian", _off_policy, version=2)
