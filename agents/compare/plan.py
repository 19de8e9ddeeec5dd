"""What a comparison consists of: its searches and its final encoders, each with all that decides it."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agents.compare.cells import Cell, Store, encoder_settings, prior_settings, search_settings
from agents.compare.methods import AGENT, PRIOR, Method
from agents.final import UNTRAINED, FinalJob, Generator
from agents.policy_search import num_episodes
from agents.preparation import NUM_REFERENCE_EPISODES
from agents.schedule import SCHEDULE
from agents.summary import LEARNED, PIXELS
from envs.noise import num_decisions
from taskrl.assemble import Assembled
from taskrl.config import EpisodeConfig, ExperimentConfig

POLICY = "policy"


@dataclass(frozen=True)
class SearchPlan:
    """One search of num_episodes. kind: as Method.search. config: what it searches with, its seed in it."""

    kind: str
    config: ExperimentConfig
    data: str
    num_episodes: int

    @cached_property
    def cell(self) -> Cell:
        if self.kind == PRIOR:
            return Cell("search", {"kind": self.kind, **prior_settings(self.config, self.data)})
        settings = search_settings(self.config, self.data)
        if self.kind != AGENT:
            agent = self.config.agent.model_dump(include={"prior_strength"})
            settings = {**settings, "agent": agent, "num_episodes": self.num_episodes}
        return Cell("search", {"kind": self.kind, **settings})


@dataclass(frozen=True, kw_only=True)
class FinalPlan:
    """One final encoder. search: what finds its generator or, for `reference-total`, what pays for its training.
    number: of the search among the method's own, None where it has one or none. length: in multiples of
    final.steps_per_decision.
    """

    method: Method
    length: int
    number: int | None
    search: SearchPlan | None
    search_seed: int
    train_seed: int


@dataclass(frozen=True)
class Plan:
    """The whole comparison. assembled.config: as it was resolved."""

    assembled: Assembled
    methods: tuple[Method, ...]
    data: str

    @property
    def config(self) -> ExperimentConfig:
        return self.assembled.config

    @cached_property
    def finals(self) -> list[FinalPlan]:
        """Every final encoder, paired by train seeds, which the searches take in turns: more finals keep theirs."""
        compare = self.config.compare
        plans = []
        for method in self.methods:
            if method.name == PIXELS:
                continue
            lengths = compare.lengths[:1] if method.source == UNTRAINED else compare.lengths
            for length in dict.fromkeys(lengths):
                for train_seed in range(compare.searches * compare.finals):
                    plans.append(self._final(method, length, train_seed))
        return plans

    @cached_property
    def searches(self) -> list[SearchPlan]:
        """Every search once, whoever needs it."""
        plans = {plan.search.cell.name: plan.search for plan in self.finals if plan.search}
        return list(plans.values())

    @cached_property
    def pixels(self) -> Cell | None:
        """The floor of raw pixels; None where it was not asked for."""
        if not any(method.name == PIXELS for method in self.methods):
            return None
        config, drawn = self.config, self.assembled.draw is not None
        settings = encoder_settings(config, self.data)
        kept = {name: settings[name] for name in ("data", "images")}
        sets = {"seed": config.seed, "sets": config.compare.searches * config.compare.finals} if drawn else {}
        return Cell("pixels", {**kept, **sets, "test": config.final.test})

    @property
    def episodes_of_a_search(self) -> int:
        """What every search may spend: the agent's episodes, its A/A test and its reference episodes."""
        episode = self.config.episode
        tested = self.config.reward.noise_test != "off"
        tests = num_decisions(self.assembled.problem, episode) if tested else 0
        return num_episodes(self.config.agent) + NUM_REFERENCE_EPISODES + math.ceil(tests / episode.decisions)

    def episode_of(self, plan: FinalPlan, search_flops: int) -> EpisodeConfig:
        """How a final encoder is trained; what `search_flops` buy comes on top where the method gets the whole sum."""
        final = self.config.final
        steps = plan.length * final.steps_per_decision
        if plan.method.whole_sum:
            steps += math.ceil(search_flops / (final.decisions * self.assembled.problem.reference_step_flops))
        return EpisodeConfig(decisions=final.decisions, steps_per_decision=steps)

    def cell_of(self, plan: FinalPlan, search_flops: int) -> Cell:
        """search_flops: what the plan's search cost."""
        method, final = plan.method, self.config.final
        generator = _generator(method, Path())
        decided_by = {
            **encoder_settings(self.config, self.data),
            "generator": generator.name,
            "argmax": method.argmax,
            "search": plan.search.cell.decided_by if plan.search and not method.source else None,
            "search_seed": plan.search_seed,
            "train_seed": plan.train_seed,
            "test": final.test,
        }
        if method.source != UNTRAINED:
            decided_by["episode"] = self.episode_of(plan, search_flops).model_dump()
            decided_by["patience"] = final.patience if final.stop == "auto" else None
        return Cell("final", decided_by)

    def is_trained(self, plan: FinalPlan, search_flops: int, store: Store) -> bool:
        """Whether the store has the encoder, trained under what its search found; cells of earlier versions do not say
        under what.
        """
        cell = self.cell_of(plan, search_flops)
        if not store.has(cell):
            return False
        found = store.read(cell).get("found")
        return found is None or found == self.found(plan, store)

    def found(self, plan: FinalPlan, store: Store) -> dict[str, Any] | None:
        """The files that the plan's search left, with their sums; None where no search is played."""
        if plan.search is None or plan.method.source:
            return None
        return dict(store.read(plan.search.cell)["files"])

    def job_of(self, plan: FinalPlan, search_flops: int, store: Store, export_to: Path | None = None) -> FinalJob:
        """What a worker is told; the search has been done."""
        folder = store.place(plan.search.cell) if plan.search else Path()
        return FinalJob(
            generator=_generator(plan.method, folder),
            episode=self.episode_of(plan, search_flops),
            search_seed=plan.search_seed,
            train_seed=plan.train_seed,
            export_to=export_to,
            read_test=self.config.final.test,
        )

    def _final(self, method: Method, length: int, train_seed: int) -> FinalPlan:
        number = train_seed % self.config.compare.searches
        base = self.config.seed
        seed = base if method.search in ("", PRIOR) else base + number
        search = None
        if method.search:
            found_with = method.configured(self.config).model_copy(update={"seed": seed})
            num_episodes = 0 if method.search == PRIOR else self.episodes_of_a_search
            search = SearchPlan(method.search, found_with, self.data, num_episodes)
        return FinalPlan(
            method=method,
            length=length,
            number=number if method.searches else None,
            search=search,
            search_seed=base if method.source else seed,
            train_seed=train_seed,
        )


def _generator(method: Method, folder: Path) -> Generator:
    """folder: of the search. What a policy samples depends on its name: the same for all learners, so that what two of
    them have in common is trained once.
    """
    if method.source:
        return Generator(name=method.source, source=method.source)
    if method.search in (AGENT, PRIOR):
        name = LEARNED if method.search == AGENT else PRIOR
        return Generator(name=name, source=str(folder.absolute() / POLICY), argmax=method.argmax)
    return Generator(name=method.search, source=str(folder.absolute() / SCHEDULE))
