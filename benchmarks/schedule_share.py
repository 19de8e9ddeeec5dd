"""How much of a learned policy's gain its plain schedule keeps (taskrl inspect RUN --schedule).

    python benchmarks/schedule_share.py --run runs/demo --seeds 10                    # the demo's cluttered digits
    python benchmarks/schedule_share.py --run runs/demo --seeds 10 --rows 1 --final
    python benchmarks/schedule_share.py --quick                                       # a tiny run of its own

The policy, its schedule and the reference recipe each train final encoders from the same new seeds, which the schedule
was not read from. The share is the mean of schedule - reference over that of policy - reference, both resampled
together (95 % bootstrap interval); there is none where the policy's own gain is not above 0.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measure import finish, parser

from agents.catalogue import AGENTS
from agents.final import FinalJob, Generator, train_final
from agents.inspection.learned import learned_schedule, write_schedule
from agents.preparation import prepare
from agents.progress import Reporter
from agents.training import train
from envs.host import WorkerSetup
from envs.workers import open_pool
from taskrl.config import load_config
from taskrl.errors import RunFolderError
from taskrl.evaluation.statistics import hierarchical_ratio, paired_difference
from taskrl.run_folder import RunFolder

QUICK = {
    "data.source": "digits",
    "predictor.width": 8,
    "predictor.batch_size": 32,
    "agent.episodes": 8,
    "episode.steps_per_decision": 2,
    "final.steps_per_decision": 2,
    "final.seeds": 1,
    "final.generators": ["reference"],
    "tracking.uri": "none",
    "reward.noise_test": "off",
}
POLICY, SCHEDULE, REFERENCE = "policy", "schedule", "reference"


def main() -> None:
    """Train what is compared, and say the share."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--run", type=Path, help="A finished run with labels and a policy.")
    options_parser.add_argument("--seeds", type=int, default=5, help="Final encoders of each, paired.")
    options_parser.add_argument("--rows", type=int, help="Of the schedule; default as taskrl inspect.")
    options_parser.add_argument("--workers", type=int, default=2)
    options_parser.add_argument("--final", action="store_true", help="Score on test images, and log the reads.")
    options = options_parser.parse_args()
    if not options.quick and options.run is None:
        options_parser.error("--run names the finished run; without one, only --quick runs")
    with tempfile.TemporaryDirectory() as scratch:
        run = RunFolder.open(options.run) if options.run else train(
            load_config(None, [], QUICK), Path(scratch) / "run", Reporter()
        )  # fmt: skip
        if not run.policy.is_dir():
            raise RunFolderError(f"{str(run.path)!r} has no policy/; give a run that searched for one.")
        learned = learned_schedule(run.path, options.rows)
        schedule = Path(scratch) / "schedule.yaml"
        write_schedule(learned, schedule)
        accuracies = final_accuracies(run, schedule, options)
        details = {
            "schedule": [spec.describe() for spec in learned.specs],
            "accuracies": accuracies,
            "split": "test" if options.final else "validation",
            "config": run.config().model_dump(),
        }
    finish(__file__, options, headline(accuracies), details)


def final_accuracies(run: RunFolder, schedule: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Linear accuracy of every final encoder, in the order of the seeds."""
    config = run.config().model_copy(update={"workers": options.workers})
    dataset, assembled = prepare(config)
    first, num = config.final.seeds, 2 if options.quick else options.seeds
    sources = {POLICY: str(run.policy), SCHEDULE: str(schedule), REFERENCE: REFERENCE}
    jobs = [
        FinalJob(
            # the policy draws as it does in the run's own table
            generator=Generator(name="learned" if name == POLICY else name, source=source),
            episode=config.final.episode,
            search_seed=config.seed,
            train_seed=seed,
            export_to=None,
            read_test=options.final,
        )
        for seed in range(first, first + num)
        for name, source in sources.items()
    ]
    found: dict[int, float] = {}
    reporter = Reporter()
    pool = open_pool(WorkerSetup(assembled.config, dataset, AGENTS[config.agent.name].codec), warn=print)
    try:
        with reporter.task("Final encoders", len(jobs), "encoder") as progress:
            for index, result in pool.map(train_final, [(job,) for job in jobs]):
                if result.row["linear_accuracy"] is None:
                    raise RunFolderError("The share is one of accuracies; give a run on images with labels.")
                found[index] = result.row["linear_accuracy"]
                for sentence in result.test_reads:
                    run.log_test_read(f"{sentence} (benchmarks/schedule_share.py)")
                progress.advance()
    finally:
        pool.close()
    return {name: [found[index] for index in range(place, len(jobs), 3)] for place, name in enumerate(sources)}


def headline(accuracies: dict[str, list[float]]) -> dict[str, Any]:
    """The gains over the reference and the share of the one in the other, with intervals."""
    gains = {
        name: [ours - theirs for ours, theirs in zip(accuracies[name], accuracies[REFERENCE], strict=True)]
        for name in (POLICY, SCHEDULE)
    }
    share = hierarchical_ratio([gains[SCHEDULE]], [gains[POLICY]])
    return {
        "num_seeds": len(gains[POLICY]),
        "policy_minus_reference": vars(paired_difference(accuracies[POLICY], accuracies[REFERENCE])),
        "schedule_minus_reference": vars(paired_difference(accuracies[SCHEDULE], accuracies[REFERENCE])),
        "schedule_minus_policy": vars(paired_difference(accuracies[SCHEDULE], accuracies[POLICY])),
        "share": None if share is None else vars(share),
    }


if __name__ == "__main__":
    main()
