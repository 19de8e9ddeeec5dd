"""What a comparison will cost, and the bound on it."""

import math
import re
import time
from dataclasses import dataclass

import torch

from agents.compare.cells import Store
from agents.compare.plan import Plan, SearchPlan
from agents.final import UNTRAINED, score
from agents.forecast import Cost, Rates, rates
from taskrl.errors import ConfigError
from taskrl.report_figures import counted, duration
from taskrl.tuning import threads, workers_at_once

UNITS_S = {"": 60.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is missing, and what it costs; scoring is in the seconds only."""

    num_searches: int
    num_finals: int
    searches: Cost
    finals: Cost
    scoring_s: float

    @property
    def seconds(self) -> float:
        """At least: workers slow each other down, agents learn in between."""
        return self.searches.seconds + self.finals.seconds + self.scoring_s

    def notes(self, plan: Plan) -> list[str]:
        """Sentences for the screen."""
        searches = counted(len(plan.searches) - self.num_searches, "search", "searches")
        finals = counted(len(plan.finals) - self.num_finals, "final encoder")
        return [
            f"Searches: {self.num_searches} of {len(plan.searches)} to run, {self.searches}.",
            f"Final encoders: {self.num_finals} of {len(plan.finals)} to train, {self.finals}; "
            f"scoring {duration(self.scoring_s)}.",
            f"Together at least {duration(self.seconds)}; there already: {searches} and {finals}.",
        ]


def forecast(plan: Plan, store: Store) -> Forecast:
    """The cost of every cell that is missing."""
    searches = [search for search in plan.searches if not store.has(search.cell)]
    measured = rates(plan.assembled)
    flops_of = {search.cell.name: _search_flops(search, plan, store, measured) for search in plan.searches}
    wanted = {}
    for final in plan.finals:
        spent = flops_of[final.search.cell.name] if final.search else 0
        # what a search costs is known for certain only once it has been run
        known = final.search is None or store.has(final.search.cell)
        if not (known and plan.is_trained(final, spent, store)):
            episode = None if final.method.source == UNTRAINED else plan.episode_of(final, spent)
            wanted[plan.cell_of(final, spent).name] = episode
    finals = sum((measured.of(1, episode) for episode in wanted.values() if episode), Cost())
    return Forecast(
        num_searches=len(searches),
        num_finals=len(wanted),
        searches=sum((measured.of(search.num_episodes, plan.config.episode) for search in searches), Cost()),
        finals=finals,
        scoring_s=len(wanted) * _seconds_to_score(plan) / workers_at_once(plan.config) if wanted else 0.0,
    )


def budget_seconds(text: str) -> float:
    """The bound in seconds: minutes, or with a unit as in 90s, 30m, 2h, 1.5h, 1d. Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if not found or found[2] not in UNITS_S or not 0 < float(found[1]) < math.inf:
        raise ConfigError(f"Budget {text!r} is no time; write minutes, or e.g. 90s, 30m or 2h.")
    return float(found[1]) * UNITS_S[found[2]]


def check_budget(bound_s: float | None, expected: Forecast) -> None:
    """Raises ConfigError when the forecast is above the bound; nothing is cut to fit it."""
    if bound_s is not None and expected.seconds > bound_s:
        raise ConfigError(
            f"This comparison takes at least {duration(expected.seconds)}, more than --budget allows "
            f"({duration(bound_s)}); name fewer "
            "--methods, lower compare.searches, compare.finals or compare.lengths, or raise --budget."
        )


def _search_flops(search: SearchPlan, plan: Plan, store: Store, measured: Rates) -> int:
    if store.has(search.cell):
        return int(store.read(search.cell)["flops"])
    return int(measured.of(search.num_episodes, plan.config.episode).flops)


def _seconds_to_score(plan: Plan) -> float:
    """Of one encoder on validation images, in one worker."""
    problem = plan.assembled.problem
    predictor = problem.make_predictor(0)
    predictor.recalibrate(problem.calibration)
    with threads(1 if plan.config.predictor.device == "cpu" else torch.get_num_threads()):
        started = time.perf_counter()
        score(plan.assembled, predictor, plan.assembled.splits.validation)
        return time.perf_counter() - started
