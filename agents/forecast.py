"""What a command will cost, before it starts."""

from collections.abc import Sequence

from taskrl.assemble import Assembled
from taskrl.config import EpisodeConfig
from taskrl.report_figures import duration
from taskrl.tuning import images_per_second, seconds_to_measure, workers_at_once


def cost_notes(assembled: Assembled, plans: Sequence[tuple[str, int, EpisodeConfig]]) -> list[str]:
    """A sentence for each (what, number of episodes, their length): FLOPs and seconds of training and measuring, from
    speeds measured on this machine. At least: workers slow each other down a little, and agents learn in between.
    """
    config, problem = assembled.config, assembled.problem
    shape = assembled.splits.pretraining.inputs.sample_shape
    _, _, measuring = problem.measure(problem.make_predictor(0))
    step_s = config.predictor.batch_size / images_per_second(config, lambda _: problem, shape)
    measuring_s = seconds_to_measure(config, problem, shape) / workers_at_once(config)
    notes = []
    for what, num_episodes, episode in plans:
        num_steps = num_episodes * episode.decisions * episode.steps_per_decision
        num_measurings = num_episodes * (episode.decisions + 1)
        flops = num_steps * problem.reference_step_flops + num_measurings * measuring.flops
        seconds = num_steps * step_s + num_measurings * measuring_s
        notes.append(f"{what}: {num_episodes} episodes, about {flops / 1e12:.1f} TFLOP, at least {duration(seconds)}.")
    return notes
