"""Bandit search: linear Thompson sampling over tasks, decision by decision, against a control on the same seed."""

from dataclasses import dataclass, field
from typing import final

import numpy as np

from agents.searches.base import SEARCHES, Found, SearchSetting
from agents.searches.playing import Player, Schedule
from agents.searches.thompson import LinearThompson, TaskFeatures, Vector, log_evidence
from taskrl.seeding import numpy_generator

CONTROL_SHARE = 8  # one seed in eight episodes, each with its control
MIN_CONTROLS = 2
FORGETTING = 0.99  # a batch of episodes
SCALES = (0.03, 0.1, 0.3, 1.0)  # of effects and of noise, in units of the gains' root mean square


@final
@dataclass
class Memory:
    """Batches of what was observed: tasks as vectors (N, D), and their gains over the control's (N,)."""

    features: TaskFeatures
    x: list[Vector] = field(default_factory=list)
    gains: list[Vector] = field(default_factory=list)

    def model(self) -> LinearThompson:
        """The posterior. The sds of effects and noise are those that explain the gains best (empirical Bayes)."""
        mean = self.features.prior_mean
        if not self.gains:
            return LinearThompson(mean, np.ones_like(mean), noise_sd=1.0)
        x, gains = np.concatenate(self.x), np.concatenate(self.gains)
        scale = max(float(np.sqrt(np.mean(np.square(gains)))), 1e-9)

        def evidence(pair: tuple[float, float]) -> float:
            effect, noise = pair
            return log_evidence(x, gains, effect * mean, np.full_like(mean, effect), noise_sd=noise)

        pairs = [(scale * effect, scale * noise) for effect in SCALES for noise in SCALES]
        effect, noise = max(pairs, key=evidence)
        model = LinearThompson(effect * mean, np.full_like(mean, effect), noise_sd=noise, forgetting=FORGETTING)
        for rows, row_gains in zip(self.x, self.gains, strict=True):
            model.update(rows, row_gains)
        return model


@SEARCHES.register("bandit")
def bandit(setting: SearchSetting) -> Found:
    """Linear Thompson sampling (Agrawal and Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs",
    2013). An episode plays the schedule that is best under one draw of the weights; each of its decisions is worth its
    gain minus that of the reference at the same decision of the same seed. Found: the schedule that is best under the
    posterior mean.

    The control's episodes come first; the others go round their seeds.
    """
    player = Player(setting)
    features = TaskFeatures(player.space, setting.prior_strength)
    rng = numpy_generator(setting.seed, "bandit")
    progress = [index / setting.episode.decisions for index in range(setting.episode.decisions)]
    # the middle of the decision, so that effects drift symmetrically about mid-episode
    middles = [at + 0.5 / len(progress) for at in progress]
    num_seeds = min(max(MIN_CONTROLS, setting.num_episodes // CONTROL_SHARE), setting.num_episodes - 1)
    reference = (player.space.reference,)
    controls = player.play([(reference, number) for number in range(num_seeds)])
    control_gains = [np.diff(played.qualities) for played in controls]

    def schedule(weights: Vector) -> Schedule:
        return tuple(features.best(weights, at) for at in middles)

    memory = Memory(features)
    played = 0
    while player.left:
        model = memory.model()
        batch = [
            (schedule(model.sample(rng)), (played + slot) // setting.num_slots % num_seeds)
            for slot in range(min(setting.num_slots, player.left))
        ]
        played += len(batch)
        for (specs, number), episode in zip(batch, player.play(batch), strict=True):
            memory.x.append(features.rows(specs, middles))
            memory.gains.append(np.diff(episode.qualities) - control_gains[number])
    model = memory.model()
    found = schedule(model.mean)
    x = features.rows(found, middles).sum(axis=0)
    notes = {
        "expected_gain": float(x @ model.mean),
        "expected_gain_sd": float(np.sqrt(x @ model.covariance @ x)),
        "num_controls": num_seeds,
    }
    return player.found(found if len(set(found)) > 1 else found[:1], **notes)
