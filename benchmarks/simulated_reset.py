"""What it costs to draw a simulated data set at a reset, against the episode that is played on it.

    python benchmarks/simulated_reset.py                       # about 2 minutes on one core
    python benchmarks/simulated_reset.py --data simulated-grey
    python benchmarks/simulated_reset.py --quick               # shows that it runs

Processor time of one thread; default search episodes of the reference recipe (4 decisions of 15 steps of 64), each on a
world of its own. `share` (goal: at most 0.1) is drawing over drawing and playing, summed over the worlds;
`share_largest` that of the worst one. Drawing is painting, splitting and measuring data: all that `Assembled.draw`
does. `share_in_groups`: in a search, episodes of a group share their world and each worker draws it once, so that (8
episodes, 2 workers) one drawing serves 4 episodes.
"""

import argparse
import itertools
import time
from dataclasses import dataclass
from typing import Any

import measure
import torch

from envs.factory import make_env
from envs.task_generation import TaskGenerationEnv
from taskrl.assemble import Assembled, assemble, load_data
from taskrl.config import ExperimentConfig, load_config
from taskrl.modalities.image.datasets import load_images

QUICK = {"predictor.width": 8, "predictor.batch_size": 32, "episode.steps_per_decision": 2}
EPISODES_A_DRAWING = 4


@dataclass(frozen=True)
class World:
    """Seconds of one world: painting alone, all of the drawing (painting too), and playing one episode."""

    seed: int
    family: str
    paint_s: float
    draw_s: float
    play_s: float

    @property
    def share(self) -> float:
        return self.draw_s / (self.draw_s + self.play_s)


def main() -> None:
    """Draw and play one world after the other."""
    options = arguments()
    torch.set_num_threads(1)
    config = configuration(options)
    assembled = assemble(config, load_data(config))
    env = make_env(assembled.problem, config.episode)
    one_world(assembled, env, options.worlds)  # counts FLOPs, fills torch's caches
    worlds = [one_world(assembled, env, seed) for seed in range(3 if options.quick else options.worlds)]
    drawn, played = (sum(getattr(world, name) for world in worlds) for name in ("draw_s", "play_s"))
    headline = {
        "share": round(drawn / (drawn + played), 4),
        "share_largest": round(max(world.share for world in worlds), 4),
        "share_in_groups": round(drawn / (drawn + EPISODES_A_DRAWING * played), 4),
        "paint_ms": round(1000 * measure.median([world.paint_s for world in worlds]), 1),
        "draw_ms": round(1000 * measure.median([world.draw_s for world in worlds]), 1),
        "episode_ms": round(1000 * measure.median([world.play_s for world in worlds]), 1),
    }
    details: dict[str, Any] = {
        "data": config.data.source,
        "precision": assembled.config.predictor.precision,
        "worlds": [{**vars(world), "share": world.share} for world in worlds],
    }
    measure.finish(__file__, options, headline, details)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = measure.parser(__doc__)
    parser.add_argument("--data", default="simulated", help="simulated or simulated-grey.")
    parser.add_argument("--worlds", type=int, default=40)
    return parser.parse_args()


def configuration(options: argparse.Namespace) -> ExperimentConfig:
    """The default configuration on the CPU, small with --quick."""
    given = {"data.source": options.data, "predictor.device": "cpu", "envs": "processes", "predictor.compile": "never"}
    return load_config(given={**given, **(QUICK if options.quick else {})})


def one_world(assembled: Assembled, env: TaskGenerationEnv, seed: int) -> World:
    """Paint its images once more than needed, draw it, and play an episode of the reference recipe on it."""
    assert assembled.draw is not None
    data, space = assembled.config.data, assembled.problem.task_space
    times = [time.process_time()]
    load_images(data.source, seed=seed, image_size=data.image_size)
    times.append(time.process_time())
    assembled.draw(seed)
    times.append(time.process_time())
    _, info = env.reset(seed=seed)  # the set is kept: no drawing
    for _ in range(assembled.config.episode.decisions):
        env.step(space.encode(space.reference))
    times.append(time.process_time())
    paint_s, draw_s, play_s = (after - before for before, after in itertools.pairwise(times))
    return World(info["world"]["seed"], info["world"]["family"], paint_s, draw_s, play_s)


if __name__ == "__main__":
    main()
