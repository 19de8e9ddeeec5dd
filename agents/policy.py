"""SB3TaskPolicy: a trained SB3 policy as a TaskPolicy, with its own random generator, saved without pickles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from stable_baselines3.common.policies import BasePolicy

import taskrl
from agents.catalogue import AGENTS, AgentKind, policy_settings
from agents.prior import exploring_space
from envs.observation import ObservationBuilder
from taskrl.config import AgentConfig
from taskrl.errors import RunFolderError, in_short
from taskrl.folders import FORMAT_VERSION, new_folder, read_json, to_json, verify, write_manifest, write_text
from taskrl.meta import Action, Observation, ObservationSpec
from taskrl.seeding import numpy_generator
from taskrl.tasks.space import TaskSpace

WEIGHTS, CARD = "policy.safetensors", "policy.json"
FINAL_EXPLORATION = 0.1
NUM_DRAWS = 256


@final
class SB3TaskPolicy:
    """Proposes tasks with the networks of an SB3 policy; sampling draws from `seed`'s named generator, never the
    global one.
    """

    def __init__(
        self,
        policy: BasePolicy,
        kind: AgentKind,
        space: TaskSpace,
        agent: AgentConfig,
        shown: ObservationSpec,
        *,
        seed: int,
    ) -> None:
        """shown: what it observes; whoever plays it makes the environment accordingly."""
        self.policy = policy.to("cpu")
        self.space = space
        self.agent = agent
        self.shown = shown
        self._kind = kind
        self._rng = numpy_generator(seed, "task policy")
        self._prior = exploring_space(space, agent.prior_strength)
        self._prior.seed(int(self._rng.integers(2**31)))

    def propose(
        self, observation: Observation, state: Any = None, *, deterministic: bool = False
    ) -> tuple[Action, Any]:
        """A sampled action, or the most likely one."""
        self.policy.set_training_mode(False)
        with torch.no_grad():
            if self._kind.family == "logits":
                parts, state = self._part_probabilities(observation[None], state)
                rows = [int(p.argmax()) if deterministic else int(self._rng.choice(len(p), p=p)) for (p,) in parts]
                return np.array(rows, dtype=np.int64), state
            if self._kind.family == "values":
                if not deterministic and self._rng.random() < FINAL_EXPLORATION:
                    return np.array(self._prior.sample(), dtype=np.int64), state
                return np.array(int(self._values(observation[None])[0].argmax()), dtype=np.int64), state
            (mean,), (std,) = self._gaussian(observation[None])
            noise = np.zeros_like(mean) if deterministic else self._rng.standard_normal(len(mean))
            return np.tanh(mean + std * noise).astype(np.float32), state

    def probabilities(self, observation: Observation) -> Mapping[str, NDArray[np.float64]]:
        """Part of the canonical action -> probability of each level (Gaussian policies: from 256 fixed draws)."""
        return {name: rows[0] for name, rows in self.probabilities_of(observation[None]).items()}

    def probabilities_of(self, observations: NDArray[np.float32]) -> Mapping[str, NDArray[np.float64]]:
        """`probabilities` of several observations (N, size) at once: part -> (N, levels). Each is asked about as if it
        was the first of an episode.
        """
        with torch.no_grad():
            if self._kind.family == "logits":
                tables, _ = self._part_probabilities(observations, None)
            elif self._kind.family == "values":
                tables = self._choice_probabilities(observations)
            else:
                tables = self._drawn_probabilities(observations)
        return dict(zip(self.space.part_names(), tables, strict=True))

    def save(self, folder: Path, card: Mapping[str, object]) -> None:
        """Write a new folder: weights as safetensors, everything else as JSON, a manifest; no pickle."""
        described = {
            "format_version": FORMAT_VERSION,
            "taskrl_version": taskrl.__version__,
            "agent": self.agent.model_dump(),
            "codec": self.space.codec,
            "objectives": list(self.space.objectives),
            "knobs": {knob.name: list(knob.levels) for knob in self.space.knobs},
            "open": {knob.name: knob.open_range() for knob in self.space.knobs},
            "observation": list(ObservationBuilder(self.space, self.shown).names),
            "shown": self.shown.to_json(),
            "card": dict(card),
        }
        with new_folder(folder) as draft:
            weights = {name: value.detach().contiguous().clone() for name, value in self.policy.state_dict().items()}
            save_file(weights, draft / WEIGHTS)
            (draft / WEIGHTS).chmod(0o644)
            write_text(draft / CARD, to_json(described))
            write_manifest(draft)

    def _part_probabilities(
        self, observations: NDArray[np.float32], state: Any
    ) -> tuple[list[NDArray[np.float64]], Any]:
        """Probabilities (N, levels) of each part."""
        policy: Any = self.policy
        tensor = torch.as_tensor(observations, dtype=torch.float32)
        if self._kind.policy == "MlpLstmPolicy":
            start = torch.zeros(len(tensor)) if state is not None else torch.ones(len(tensor))
            num_layers, _, size = policy.lstm_hidden_state_shape
            shape = (num_layers, len(tensor), size)
            hidden = state or (torch.zeros(shape), torch.zeros(shape))
            distribution, state = policy.get_distribution(tensor, hidden, start)
        else:
            distribution = policy.get_distribution(tensor)
        categoricals = getattr(distribution, "distributions", None) or distribution.distribution
        tables = [categorical.probs.double().numpy() for categorical in categoricals]
        return [table / table.sum(axis=1, keepdims=True) for table in tables], state

    def _values(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        values: torch.Tensor = self.policy.q_net(torch.as_tensor(observations, dtype=torch.float32))  # type: ignore[operator]
        return values.double().numpy()

    def _gaussian(self, observations: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        actor: Any = self.policy.actor
        mean, log_std, _ = actor.get_action_dist_params(torch.as_tensor(observations, dtype=torch.float32))
        return mean.double().numpy(), log_std.double().exp().numpy()

    def _choice_probabilities(self, observations: NDArray[np.float32]) -> list[NDArray[np.float64]]:
        prior = FINAL_EXPLORATION * self.space.prior_weights(self.agent.prior_strength)
        weights = np.tile(prior, (len(observations), 1))
        weights[np.arange(len(weights)), self._values(observations).argmax(axis=1)] += 1 - FINAL_EXPLORATION
        levels = np.array([self.space.level_indices(self.space.decode(i)) for i in range(weights.shape[1])])
        parts = zip(self.space.parts, levels.T, strict=True)
        return [weights @ np.eye(len(part.levels))[column] for part, column in parts]

    def _drawn_probabilities(self, observations: NDArray[np.float32]) -> list[NDArray[np.float64]]:
        mean, std = self._gaussian(observations)
        draws = numpy_generator(0, "level probabilities").standard_normal((NUM_DRAWS, mean.shape[1]))
        actions = np.tanh(mean[:, None] + std[:, None] * draws).astype(np.float32)
        levels = self.space.box_level_indices(actions.reshape(-1, mean.shape[1])).reshape(actions.shape)
        return [
            np.stack([(levels[:, :, column] == level).mean(axis=1) for level in range(len(part.levels))], axis=1)
            for column, part in enumerate(self.space.parts)
        ]


def load_policy(folder: Path, space_for: Any, *, seed: int) -> SB3TaskPolicy:
    """The policy in `folder` (no code of the folder runs). space_for: codec -> TaskSpace of the data it will
    meet.

    Strengths may be limited further than they were when it learned, not less. Raises RunFolderError when they are, when
    the folder is damaged, was learned on other knobs than these data have, or observes other entries than this version
    of taskrl shows.
    """
    verify(folder, (WEIGHTS, CARD))
    card = read_json(folder / CARD)
    try:
        agent = AgentConfig.model_validate_json(json.dumps(card["agent"]))
        space: TaskSpace = space_for(card["codec"])
        known = {"objectives": card["objectives"], "knobs": list(card["knobs"])}
        learned = {name: (float(min(levels)), float(max(levels))) for name, levels in card["knobs"].items()}
        if card["codec"] == "box":  # nothing but the settings keeps it from levels that were closed
            learned |= {name: (float(low), float(high)) for name, (low, high) in card.get("open", {}).items()}
        # a card from before there was anything to choose has other entries, too
        entries = list(card["observation"])
        shown = ObservationSpec.from_json(card.get("shown", ObservationSpec().to_json()))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{str(folder / CARD)!r} is not a task policy of this taskrl ({in_short(error)}); copy the folder again."
        ) from error
    present = {"objectives": list(space.objectives), "knobs": [knob.name for knob in space.knobs]}
    if known != present:
        raise RunFolderError(
            f"The policy in {str(folder)!r} was learned for {known}, these data have {present}; "
            "use the same --objectives and images with as many channels."
        )
    _refuse_stronger(folder, learned, space)
    if entries != list(ObservationBuilder(space, shown).names):
        raise RunFolderError(
            f"The policy in {str(folder)!r} observes other entries than this version of taskrl shows; "
            "learn it anew with this version."
        )
    policy = build_policy(agent, space, shown)
    try:
        policy.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError:
        raise RunFolderError(
            f"The policy in {str(folder)!r} has other choices than these data leave open; "
            "use the same --forbid and --limit as its run."
        ) from None
    return SB3TaskPolicy(policy, AGENTS[agent.name], space, agent, shown, seed=seed)


def _refuse_stronger(folder: Path, learned: Mapping[str, tuple[float, float]], space: TaskSpace) -> None:
    """Levels are chosen by their number: without the limits of its run a policy would play strengths that it never met.
    learned: the least and the greatest strength by knob.
    """
    for knob in space.knobs:
        low, high = learned[knob.name]
        least, greatest = knob.open_range()
        bound = f"<={high}" if greatest > high else f">={low}" if least < low else ""
        if bound:
            raise RunFolderError(
                f"The policy in {str(folder)!r} was learned with {knob.name} from {low} to {high}, and these settings "
                f"leave more open; limit it as its run did: --limit '{knob.name}{bound}'."
            )


def build_policy(agent: AgentConfig, space: TaskSpace, shown: ObservationSpec) -> BasePolicy:
    """An SB3 policy of the right shape (weights from the global generator), without an algorithm or environment."""
    kind = AGENTS[agent.name]
    with torch.random.fork_rng(devices=[]):
        policy_class: Any = kind.algorithm.policy_aliases[kind.policy]
        observation_space = ObservationBuilder(space, shown).observation_space
        policy: BasePolicy = policy_class(
            observation_space, space.action_space, lambda _: 0.0, **policy_settings(agent, kind)
        )
    return policy
