"""The search of a run: reinforcement learning of its task policy, saved and charged."""

import math
import shutil
from pathlib import Path
from typing import Any

from agents.final import reference_episode
from agents.preparation import mean_curve, reference_seeds
from agents.sb3 import Decision, SB3MetaOptimizer
from agents.session import Session, decision_metrics, preparation_of
from taskrl.config import AgentConfig, EpisodeConfig, ExperimentConfig
from taskrl.folders import read_json
from taskrl.meta import MetaProblem, SearchBudget
from taskrl.report_figures import duration
from taskrl.run_folder import write_result
from taskrl.tracking import Tracker
from taskrl.types import AdaptReport, Compute, Outcome, Quality

PRIOR = "prior"


def search(session: Session) -> dict[str, Any]:
    """Learn the policy (or find it finished) and save it; what the search cost."""
    run, config, problem = session.run, session.config, session.assembled.problem
    record = run.checkpoints / "search.json"
    if record.is_file() and run.policy.is_dir():
        return read_json(record)
    log = SearchLog(session.tracker, config.episode.decisions)
    with session.reporter.task("Search", num_episodes(config.agent), "episode") as progress:

        def observe(decision: Decision) -> None:
            quality = log.add(decision)
            if quality is not None:
                progress.advance(f"quality {quality:.3f}")

        optimizer = SB3MetaOptimizer(
            agent=config.agent,
            pool=session.pool,
            decisions=config.episode.decisions,
            seed=config.seed,
            checkpoints=run.checkpoints,
            observer=observe,
            without_gain=_without_gain(problem, config.episode),
        )
        _save_policy(optimizer.prior(problem), run.checkpoints / PRIOR, config)
        policy = optimizer.fit(
            problem, budget=SearchBudget(num_episodes=config.agent.episodes), tracker=session.tracker
        )
    _save_policy(policy, run.policy, config)
    total = optimizer.spent + preparation_of(run).spent
    curve = config.reward.reference_curve if config.reward.shaping == "relative" else []
    reached: list[float] = []
    if not curve:
        references = [result for _, result in session.pool.map(reference_episode, reference_seeds(config))]
        curve = mean_curve([qualities for qualities, _ in references])
        reached = [qualities[-1] for qualities, _ in references]
        total = sum((compute for _, compute in references), total)
    spent: dict[str, Any] = {
        "flops": total.flops,
        "images": total.images,
        "reference_quality": curve[-1],
        "reference_qualities": reached,
        "wall_seconds": round(optimizer.seconds, 2),
        "overhead_share": round(optimizer.overhead_share, 4),
        "warning": falling_reference(curve[0], curve[-1]),
    }
    session.reporter.say(
        f"Search took {duration(spent['wall_seconds'])}; {100 * spent['overhead_share']:.1f} % of its decisions' "
        "time was not training (measuring, policy, log)."
    )
    if spent["warning"]:
        session.reporter.say(f"Warning: {spent['warning']}")
    write_result(record, spent)
    return spent


def falling_reference(before: float, after: float) -> str | None:
    """What to think of a quality that was `before` and `after` an episode of the reference; None where it rose."""
    if after > before:
        return None
    moved = f"fell from {before:.3f} to {after:.3f}" if after < before else f"stayed at {before:.3f}"
    return (
        f"quality {moved} while the reference recipe trained for an episode: either it does harm, or what is paid says "
        "little and the search was led astray; give more labels (of more groups), or longer episodes, or pay without "
        "labels (--probe panel)."
    )


def _without_gain(problem: MetaProblem, episode: EpisodeConfig) -> float:
    """What an episode of the reference is paid where quality stays as it is: minus all that shaping takes off."""
    same, spent = Quality(value=0.0), Compute(flops=episode.steps_per_decision * problem.reference_step_flops)
    report = AdaptReport(losses={}, num_steps={}, compute=spent)
    outcomes = [Outcome(index=index, before=same, after=same, report=report) for index in range(episode.decisions)]
    return sum(problem.reward(outcome).total for outcome in outcomes)


def num_episodes(agent: AgentConfig) -> int:
    """Of a whole search: groups are always full."""
    return math.ceil(agent.episodes / agent.group_size) * agent.group_size


def _save_policy(policy: Any, folder: Path, config: ExperimentConfig) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    policy.save(folder, {"data": config.data.source, "search_seed": config.seed, "episodes": config.agent.episodes})


class SearchLog:
    """Every decision of the search to the tracker: one batch a decision, one line an episode."""

    def __init__(self, tracker: Tracker, decisions: int) -> None:
        self._tracker = tracker
        self._decisions = decisions

    def add(self, decision: Decision) -> float | None:
        """Log it; the final quality when the decision ends its episode."""
        step = decision.episode * self._decisions + decision.index
        self._tracker.log_metrics(decision_metrics(decision.info, decision.reward), step=step)
        if decision.index + 1 < self._decisions:
            return None
        quality = float(decision.info["quality"])
        metrics = {"return": decision.info["return"], "final_quality": quality}
        if "hidden_quality" in decision.info:
            metrics["hidden_quality"] = float(decision.info["hidden_quality"])
        self._tracker.log_metrics(metrics, step=decision.episode, kind="episode")
        return quality
