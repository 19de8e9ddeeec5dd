"""Bandit search: linear Thompson sampling over tasks, decision by decision, against a control on the same seed."""

from dataclasses import dataclass, field
from typing import final

import numpy as np

from agents.searches.base import SEARCHES, Found, SearchSetting
from agents.searches.playing import Player, Schedule, best_schedule
from agents.searches.thompson import LinearThompson, TaskFeatures, Vector, log_evidence
from taskrl.seeding import numpy_generator

CONTROL_SHARE = 8  # one seed in eight episodes, each with its control
MIN_CONTROLS = 2
CHECK_SHARE = 6  # a sixth of the budget
FORGETTING = 0.99  # an episode
SCALES = (0.03, 0.1, 0.3, 1.0)  # of effects and of noise, in units of the gains' root mean square


@final
@dataclass
class Memory:
    """What was observed, episode by episode: tasks as vectors (N, D), and their gains over the control's (N,)."""

    prior_mean: Vector
    x: list[Vector] = field(default_factory=list)
    gains: list[Vector] = field(default_factory=list)

    def add(self, x: Vector, gains: Vector) -> None:
        self.x.append(x)
        self.gains.append(gains)

    def model(self) -> LinearThompson:
        """The posterior. The sds of effects and noise are those that explain the gains best (empirical Bayes)."""
        mean = self.prior_mean
        if not self.gains:
            return LinearThompson(mean, np.ones_like(mean), noise_sd=1.0)
        x, gains = np.concatenate(self.x), np.concatenate(self.gains)
        scale = max(float(np.sqrt(np.mean(np.square(gains)))), 1e-9)

        def evidence(pair: tuple[float, float]) -> float:
            effect, noise = pair
            return log_evidence(x, gains, effect * mean, np.full_like(mean, effect), noise_sd=noise)

        effect, noise = max(((scale * first, scale * second) for first in SCALES for second in SCALES), key=evidence)
        model = LinearThompson(effect * mean, np.full_like(mean, effect), noise_sd=noise, forgetting=FORGETTING)
        for rows, row_gains in zip(self.x, self.gains, strict=True):
            model.update(rows, row_gains)
        return model


@SEARCHES.register("bandit")
def bandit(setting: SearchSetting) -> Found:
    """Linear Thompson sampling (Agrawal and Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs",
    2013). An episode plays the schedule that is best under one draw of the weights; each of its decisions is worth its
    gain minus that of the reference at the same decision of the same seed. The control's episodes come first; the
    others go round their seeds.

    Gains of single decisions are greedy: a task may gain early and end poorly. So the schedule that is best under the
    posterior mean is played on fresh seeds against the recipe that is best under a model of whole episodes, and against
    the reference; the best mean is found.
    """
    player = Player(setting)
    features = TaskFeatures(player.space, setting.prior_strength)
    rng = numpy_generator(setting.seed, "bandit")
    num = setting.episode.decisions
    # the middle of the decision, so that effects drift symmetrically about mid-episode
    middles = [(index + 0.5) / num for index in range(num)]
    num_seeds = min(max(MIN_CONTROLS, setting.num_episodes // CONTROL_SHARE), setting.num_episodes - 1)
    reference = (player.space.reference,)
    controls = player.play([(reference, number) for number in range(num_seeds)])
    control_gains = [np.diff(played.qualities) for played in controls]

    def schedule(weights: Vector) -> Schedule:
        specs = tuple(features.best(weights, at) for at in middles)
        return specs if len(set(specs)) > 1 else specs[:1]

    decisions, episodes = Memory(features.prior_mean), Memory(features.prior_mean)
    kept, played = setting.num_episodes // CHECK_SHARE, 0
    while player.left > kept:
        model = decisions.model()
        batch = [
            (schedule(model.sample(rng)), (played + slot) // setting.num_slots % num_seeds)
            for slot in range(min(setting.num_slots, player.left - kept))
        ]
        played += len(batch)
        for (specs, number), episode in zip(batch, player.play(batch), strict=True):
            x = features.rows(specs if len(specs) > 1 else specs * num, middles)
            gains = np.diff(episode.qualities) - control_gains[number]
            decisions.add(x, gains)
            episodes.add(x.mean(axis=0, keepdims=True), gains.sum(keepdims=True))
    by_decisions = schedule(decisions.model().mean)
    by_episodes = (features.best(episodes.model().mean, 0.5),)
    best, notes = best_schedule(player, [by_decisions, by_episodes, reference], first_seed=num_seeds)
    return player.found(best, num_controls=num_seeds, checked=notes)
