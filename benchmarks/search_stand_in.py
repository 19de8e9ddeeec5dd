"""What searches find, on stand-ins for real data: hundreds of searches in minutes, from episodes that were played once.

    python benchmarks/search_stand_in.py                 # 12 minutes on one core
    python benchmarks/search_stand_in.py --quick

A stand-in is a Gaussian process fitted to the recipes that plain searches of the study played (one-knob, random-search,
static, bandit; cells in results/pays): what each level adds to the quality after an episode, what pairs of levels add,
and how much episodes of one recipe differ. Searches then play 64 episodes (plain ones 71, for the agent's A/A test) on
its mean with such noise, and are judged by the mean quality, beside the reference's, of what they end with. It says how
well a search does what it is asked to do, nothing of long final runs. The trials come from development data and from
seeds of finished studies.
"""

import json
from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
from measure import RESULTS, finish, parser
from numpy.typing import NDArray

from agents.sb3 import SB3MetaOptimizer
from agents.searches.catalogue import searches
from agents.searches.thompson import TaskFeatures
from taskrl.assemble import task_space
from taskrl.config import AgentConfig, ExperimentConfig
from taskrl.evaluation.detectability import Description
from taskrl.meta import ObservationSpec, SearchBudget
from taskrl.tasks.spec import TaskSpec
from taskrl.tracking import NullTracker
from tests.agents.fake_pool import FakeEpisodes, FakePool, fake_setting

Vector = NDArray[np.float64]
SETS = {"cluttered-digits": range(10, 15), "fashion-mnist": range(40, 43)}  # seeds of the studies
DECISIONS, EPISODES, PLAIN_EPISODES = 4, 64, 71
SAME = 0.002
AGENTS: dict[str, dict[str, Any]] = {
    "thompson": {},
    "thompson, again=0": {"options": {"again": 0.0}},
    "thompson, caution=1": {"options": {"caution": 1.0}},
    "thompson, horizon=0": {"options": {"horizon": 0.0}},
    "thompson, drift=0.2": {"options": {"drift": 0.2}},
    "thompson, deviations=1": {"options": {"deviations": 1}},
    "ppo": {"name": "ppo"},
}
PLAIN = ("one-knob", "static", "random-search", "bandit")


def main() -> None:
    """Fit the stand-ins, then let every search play on them."""
    options = parser(__doc__).parse_args()
    num = 1 if options.quick else 40
    table: dict[str, dict[str, Any]] = {}
    for name, seeds in SETS.items():
        stand_in = StandIn(trials(name, seeds), quick=options.quick)
        rows: dict[str, dict[str, Any]] = {}
        for label, changes in AGENTS.items():
            rows[label] = summary([stand_in.agent(seed, changes) for seed in range(num)])
        for label in PLAIN:
            rows[label] = summary([stand_in.plain(seed, label) for seed in range(num)])
        table[name] = {"fit": stand_in.fit, "searches": rows}
        for label, row in rows.items():
            print(name, label, row, flush=True)
    headline = {name: {label: row["mean"] for label, row in found["searches"].items()} for name, found in table.items()}
    finish(__file__, options, headline, {"num_searches": num, "sets": table})


def trials(name: str, seeds: Sequence[int]) -> list[tuple[TaskSpec, tuple[int, int], Vector]]:
    """Recipe, (search seed, number of the common seed) and the curve of quality of every episode of one recipe."""
    found = []
    for file in sorted((RESULTS / "pays").glob("search-*/cell.json")):
        content = json.loads(file.read_text(encoding="utf-8"))["content"]
        if "record" not in content or name not in content["config"]["data"]["source"]:
            continue
        if content["config"]["seed"] not in seeds:
            continue
        for trial in content["record"]["trials"]:
            curve = np.array(trial["qualities"])
            if len(set(trial["tasks"])) == 1 and np.isfinite(curve).all():
                seed = (content["config"]["seed"], trial["seed"])
                found.append((TaskSpec.from_json(trial["tasks"][0]), seed, curve))
    return found


class StandIn:
    """A problem whose answers are known: `worth` of a recipe, and searches that play on it."""

    def __init__(self, rows: Sequence[tuple[TaskSpec, tuple[int, int], Vector]], *, quick: bool) -> None:
        self._space = task_space(ExperimentConfig(), (1, 28, 28), "multidiscrete")
        self._features = TaskFeatures(self._space, 0.0, drift=0.0)
        x = self._levels([spec for spec, _, _ in rows])
        seeds = np.unique([f"{seed}" for _, seed, _ in rows], return_inverse=True)[1]
        _, distinct = np.unique(np.column_stack([x, seeds]), axis=0, return_index=True)
        curves = np.stack([rows[index][2] for index in distinct])
        self._x = x[distinct]
        is_reference = ~self._x.any(axis=1)
        self._gain = float((curves[is_reference, -1] - curves[is_reference, 0]).mean())
        self._learn(seeds[distinct], curves[:, -1] - curves[:, -1].mean(), quick=quick)
        self._worths: dict[TaskSpec, float] = {}
        self._reference = self._mean(self._space.reference)

    def _learn(self, seeds: Vector, y: Vector, *, quick: bool) -> None:
        """The sds of levels, pairs, recipes and noise are those of largest evidence."""
        same = (seeds[:, None] == seeds[None]).astype(float)
        best = -np.inf
        grid = product(
            (0.01, 0.02, 0.04), (0.003, 0.007, 0.015, 0.03), (0.001, 0.005, 0.01), (0.008, 0.012, 0.016, 0.022)
        )
        for level, pair, recipe, noise in [(0.02, 0.007, 0.005, 0.016)] if quick else grid:
            covariance = (
                self._kernel(self._x, level, pair, recipe) + 0.03**2 * same + 0.05**2 + noise**2 * np.eye(len(y))
            )
            lower = np.linalg.cholesky(covariance)
            half = np.linalg.solve(lower, y)
            evidence = -0.5 * half @ half - np.log(np.diag(lower)).sum()
            if evidence > best:
                best, self._sds, self._noise = evidence, (level, pair, recipe), noise
                self._weights = np.linalg.solve(lower.T, half)
        sds = dict(zip(("level", "pair", "recipe"), self._sds, strict=True))
        self.fit = {"episodes": len(y), "reference_gain": self._gain, "sd": sds | {"noise": self._noise}}

    def _kernel(self, x: Vector, level: float, pair: float, recipe: float) -> Vector:
        """Covariance of what recipes x (N, D) are worth with the known ones'."""
        shared = x @ self._x.T
        equal = (shared == x.sum(axis=1)[:, None]) & (shared == self._x.sum(axis=1)[None])
        return level**2 * shared + pair**2 * (shared**2 - shared) / 2 + recipe**2 * equal

    def _levels(self, specs: Sequence[TaskSpec]) -> Vector:
        """Which levels a recipe has that the reference has not (N, D)."""
        return self._features.rows(specs, [0.0] * len(specs))

    def _mean(self, spec: TaskSpec) -> float:
        return float((self._kernel(self._levels([spec]), *self._sds) @ self._weights)[0])

    def worth(self, spec: TaskSpec) -> float:
        """Quality after an episode of `spec`, less the reference's."""
        if spec not in self._worths:
            self._worths[spec] = self._mean(spec) - self._reference
        return self._worths[spec]

    def _effect(self, spec: TaskSpec, progress: float) -> float:
        """For the pools, whose reference gains 0.5."""
        return self.worth(spec) + self._gain - 0.5

    def agent(self, seed: int, changes: dict[str, Any]) -> float:
        """What a search by an agent ends with: the mean of tasks drawn from its policy."""
        config = AgentConfig(**({"name": "thompson", "episodes": EPISODES, "group_size": 8} | changes))
        pool = FakeEpisodes(self._space, self._effect, decisions=DECISIONS, noise=self._noise / np.sqrt(DECISIONS))
        optimizer = SB3MetaOptimizer(agent=config, pool=pool, decisions=DECISIONS, seed=seed)
        problem: Any = SimpleNamespace(
            task_space=self._space, observation=ObservationSpec(), drawn=None, describe=Description
        )
        policy = optimizer.fit(problem, budget=SearchBudget(num_episodes=EPISODES), tracker=NullTracker())
        worths = []
        for _ in range(8):
            observation, _ = pool.reset(0, 0)
            for index in range(DECISIONS):
                action, _ = policy.propose(observation)
                worths.append(self.worth(self._space.decode(action)))
                observation = pool.step(0, index, action).values[0]
        return float(np.mean(worths))

    def plain(self, seed: int, name: str) -> float:
        """What a search without an agent ends with: the mean over its schedule."""
        pool = FakePool(self._effect, noise=self._noise)
        setting = fake_setting(self._space, pool, num_episodes=PLAIN_EPISODES, seed=seed, prior_strength=2.0)
        return float(np.mean([self.worth(spec) for spec in searches()[name](setting).specs]))


def summary(worths: Sequence[float]) -> dict[str, float]:
    """Of several searches."""
    row = np.array(worths)
    return {
        "mean": round(float(row.mean()), 4),
        "standard_error": round(float(row.std(ddof=1) / np.sqrt(len(row))), 4) if len(row) > 1 else 0.0,
        "tenth": round(float(np.quantile(row, 0.1)), 4),
        "worst": round(float(row.min()), 4),
        "reference_kept": round(float((np.abs(row) < SAME).mean()), 3),
    }


if __name__ == "__main__":
    main()
