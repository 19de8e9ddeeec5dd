"""The opponent `constant`: the best single recipe on simulated sets, one for grey and one for colour images.

    python benchmarks/constant_recipe.py --kind grey --workers 2
    python benchmarks/constant_recipe.py --kind colour --workers 2
    python benchmarks/constant_recipe.py --kind grey --quick

Recipes drawn from the prior, and every single deviation of the reference, are played on the same simulated sets as the
reference; a recipe is worth its mean gain over the reference, in units of the set's own spread. The better half goes
on to twice as many sets (successive halving, Jamieson and Talwalkar 2016). Writes agents/compare/constant.yaml, and the
rounds as a result. No real set is looked at.
"""

import argparse
from typing import Any

import numpy as np
import yaml
from measure import RESULTS, finish, parser

from agents.compare.methods import CONSTANT_FILE
from agents.searches.base import SearchSetting
from agents.searches.playing import Player, new_prior_recipe
from envs.host import WorkerSetup
from envs.workers import open_pool
from taskrl.assemble import assemble, load_data
from taskrl.config import load_config
from taskrl.folders import write_atomically
from taskrl.seeding import numpy_generator
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

SOURCES = {"grey": "simulated-grey", "colour": "simulated"}
NUM_SETS = (4, 8, 16, 32)  # of each round
NUM_DRAWN = 24
STEPS = 30  # a decision, four to an episode
QUICK_SETS, QUICK_DRAWN = (1, 2), 2


def main() -> None:
    """Search, then write the recipe beside the other kind's."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--kind", choices=list(SOURCES), required=True)
    options_parser.add_argument("--workers", type=int, default=2)
    options = options_parser.parse_args()
    options.out = options.out or (None if options.quick else RESULTS / f"constant_recipe_{options.kind}.json")
    rounds = halving(options)
    recipe = rounds[-1]["recipes"][0]
    if not options.quick:
        known = yaml.safe_load(CONSTANT_FILE.read_text(encoding="utf-8")) if CONSTANT_FILE.is_file() else {}
        write_atomically(CONSTANT_FILE, yaml.safe_dump({**known, options.kind: recipe["recipe"]}))
    finish(__file__, options, {"kind": options.kind, **recipe}, {"rounds": rounds})


def halving(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rounds: number of sets, and recipes with their worth, best first; the reference's worth is 0."""
    pinned = ["predictor.precision=bf16", "predictor.compile=never", "envs=processes", f"workers={options.workers}"]
    given = {"data.source": SOURCES[options.kind], "data.image_size": 28, "episode.steps_per_decision": STEPS}
    if options.quick:
        given |= {"episode.steps_per_decision": 2, "predictor.width": 8, "predictor.batch_size": 16}
    config = load_config(None, pinned, given)
    dataset = load_data(config)
    problem = assemble(config, dataset).problem
    pool = open_pool(WorkerSetup(config, dataset, "multidiscrete"), warn=print)
    try:
        sets = QUICK_SETS if options.quick else NUM_SETS
        setting = SearchSetting(problem=problem, pool=pool, episode=config.episode, num_episodes=100_000, seed=0)
        return _rounds(Player(setting), setting.space, sets, QUICK_DRAWN if options.quick else NUM_DRAWN)
    finally:
        pool.close()


def _rounds(player: Player, space: TaskSpace, sets: tuple[int, ...], num_drawn: int) -> list[dict[str, Any]]:
    left = list(space.deviations)
    rng = numpy_generator(0, "constant recipe")
    while len(left) < len(space.deviations) + num_drawn:
        left.append(new_prior_recipe(space, 1.0, rng, [space.reference, *left]))
    gaps: dict[TaskSpec, list[float]] = {spec: [] for spec in left}
    rounds, first = [], 0
    for end in sets:
        for number in range(first, end):
            reference, *scores = player.score([space.reference, *left], number)
            spread = float(np.std([reference, *scores])) or 1.0
            for spec, score in zip(left, scores, strict=True):
                gaps[spec].append((score - reference) / spread)
        first = end
        left.sort(key=lambda spec: -float(np.mean(gaps[spec])))
        rounds.append({"num_sets": end, "recipes": [_entry(spec, gaps[spec]) for spec in left]})
        print(rounds[-1]["num_sets"], rounds[-1]["recipes"][0], flush=True)
        left = left[: max(2, len(left) // 2)]
    return rounds


def _entry(spec: TaskSpec, gaps: list[float]) -> dict[str, Any]:
    error = float(np.std(gaps) / np.sqrt(len(gaps)))
    return {"recipe": recipe_text(spec), "worth": round(float(np.mean(gaps)), 3), "standard_error": round(error, 3)}


def recipe_text(spec: TaskSpec) -> str:
    """What `TaskSpace.recipe` reads back to `spec`, up to the scale of the weights."""
    largest = max(share for _, share in spec.mixture)
    named = {f"weight/{name}": share / largest for name, share in spec.mixture}
    if spec.share("contrastive") == 0:
        named["weight/contrastive"] = 0.0
    return ",".join(f"{name}={value:g}" for name, value in {**named, **dict(spec.levels)}.items())


if __name__ == "__main__":
    main()
