"""Static search: Optuna's tree-structured Parzen estimator over recipes; the best few again on fresh seeds."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import numpy as np

from agents.searches.base import SEARCHES, Found, SearchSetting
from agents.searches.playing import Player, Shares, best_again, new_prior_recipe, prior_probabilities
from taskrl.seeding import derive_seed, numpy_generator
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from optuna import Trial

STARTUP_SHARE = 6  # a sixth of what is tried comes before the estimator, which knows the prior itself
MAX_REPEATED = 200


@final
class TreeParzen:
    """Optuna's TPE sampler over the open levels of a task space, asked for recipes that were not tried yet.

    Its own prior is uniform, ours is not: a part is a number in [0, 1], divided among the levels, in their order, by
    their probabilities. So what it draws where it knows nothing are draws of our prior.
    """

    def __init__(self, space: TaskSpace, strength: float, *, seed: int, starts: Sequence[TaskSpec]) -> None:
        """strength: of the prior. starts: what it proposes first."""
        import optuna  # takes a second that other commands need not wait

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(n_startup_trials=len(starts), constant_liar=True, seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._space = space
        self._known: dict[TaskSpec, float] = {}
        self._asked: list[tuple[TaskSpec, Trial]] = []
        rows = zip(space.parts, prior_probabilities(space, strength), strict=True)
        # (part, where the share of each level ends), where there is a choice
        self._ends = {part.name: np.cumsum(shares) for part, shares in rows if sum(part.allowed) > 1}
        for spec in starts:
            self._study.enqueue_trial(self._coordinates(spec))
        self._failed = optuna.trial.TrialState.FAIL
        self._rng = numpy_generator(seed, "new proposals")

    def ask(self) -> TaskSpec | None:
        """A recipe that is new: a proposal that was tried before has single parts drawn anew from the prior until it
        is. None when that does not end.
        """
        known = {*self._known, *(spec for spec, _ in self._asked)}
        for _ in range(MAX_REPEATED):
            trial = self._study.ask()
            coordinates = {name: trial.suggest_float(name, 0, 1) for name in self._ends}
            spec = self._spec_at(coordinates)
            if spec not in known:
                self._asked.append((spec, trial))
                return spec
            self._study.tell(trial, state=self._failed)
            if coordinates:
                coordinates[str(self._rng.choice(list(coordinates)))] = float(self._rng.random())
            self._study.enqueue_trial(coordinates)
        return None

    def tell(self, qualities: dict[TaskSpec, float]) -> None:
        """What the recipes that were asked for since the last call are worth."""
        self._known |= qualities
        for spec, trial in self._asked:
            self._study.tell(trial, self._known[spec])
        self._asked.clear()

    def _coordinates(self, spec: TaskSpec) -> dict[str, float]:
        """The middle of each level's share."""
        levels = dict(zip(self._space.part_names(), self._space.level_indices(spec), strict=True))
        ends = {name: np.concatenate([[0.0], row]) for name, row in self._ends.items()}
        return {name: float(row[levels[name] : levels[name] + 2].mean()) for name, row in ends.items()}

    def _spec_at(self, coordinates: dict[str, float]) -> TaskSpec:
        levels = [part.reference for part in self._space.parts]
        for index, part in enumerate(self._space.parts):
            if part.name in coordinates:
                levels[index] = int(np.searchsorted(self._ends[part.name][:-1], coordinates[part.name], side="right"))
        return self._space.decode(np.array(levels, dtype=np.int64))


@SEARCHES.register("static")
def static(setting: SearchSetting) -> Found:
    """The best recipe that TPE finds (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011), started
    from the reference and from draws of the prior. All recipes are tried on one seed.
    """
    player = Player(setting)
    space, shares = player.space, Shares.of(setting.num_episodes)
    rng = numpy_generator(setting.seed, "static")
    starts = [space.reference]
    while len(starts) < shares.tried // STARTUP_SHARE:
        starts.append(new_prior_recipe(space, setting.prior_strength, rng, starts))
    estimator = TreeParzen(space, setting.prior_strength, seed=derive_seed(setting.seed, "tpe") % 2**32, starts=starts)
    tried: dict[TaskSpec, float] = {}
    played = 0
    while played < shares.tried:
        batch: list[TaskSpec] = []
        while len(batch) < min(setting.num_slots, shares.tried - played):
            spec = estimator.ask()
            batch.append(spec or new_prior_recipe(space, setting.prior_strength, rng, [*tried, *batch]))
        played += len(batch)
        scores = dict(zip(batch, player.score(batch, 0), strict=True))
        tried |= scores
        estimator.tell(scores)
    return best_again(player, tried, shares, first_seed=1)
