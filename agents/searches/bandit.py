"""Bandit search: linear Thompson sampling over tasks, decision by decision, against a control on the same seed."""

import numpy as np

from agents.searches.base import SEARCHES, Found, SearchSetting
from agents.searches.playing import Player, Schedule, best_schedule
from agents.searches.thompson import Memory, TaskFeatures, Vector
from taskrl.seeding import numpy_generator

CONTROL_SHARE = 8  # one seed in eight episodes, each with its control
MIN_CONTROLS = 2
CHECK_SHARE = 6  # a sixth of the budget


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
