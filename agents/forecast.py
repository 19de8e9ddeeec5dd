"""What a command will cost, before it starts."""

from taskrl.assemble import Assembled
from taskrl.config import EpisodeConfig
from taskrl.report_figures import duration
from taskrl.tuning import images_per_second, seconds_to_measure, workers_at_once


def forecast(assembled: Assembled, num_episodes: int, episode: EpisodeConfig) -> tuple[int, float]:
    """FLOPs and seconds of training and measuring in `num_episodes` episodes, from speeds measured on this machine."""
    config, problem = assembled.config, assembled.problem
    shape = assembled.splits.pretraining.inputs.sample_shape
    predictor = problem.make_predictor(0)
    quality = problem.probe(predictor.encode, problem.probe_data)
    num_encoded = quality.num_encoded + len(problem.calibration)
    per_measuring = num_encoded * problem.meter.encode(predictor) + quality.solve_flops
    num_steps = episode.decisions * episode.steps_per_decision
    num_measurings = episode.decisions + 1
    flops = num_episodes * (num_steps * problem.reference_step_flops + num_measurings * per_measuring)
    rate = images_per_second(config, lambda _: problem, shape)
    training_s = num_episodes * num_steps * config.predictor.batch_size / rate
    measuring_s = num_episodes * num_measurings * seconds_to_measure(config, problem, shape)
    return flops, training_s + measuring_s / workers_at_once(config)


def cost_note(assembled: Assembled, what: str, num_episodes: int, episode: EpisodeConfig) -> str:
    """The forecast in a sentence. At least: workers slow each other down a little, and agents learn in between."""
    flops, seconds = forecast(assembled, num_episodes, episode)
    return f"{what}: {num_episodes} episodes, about {flops / 1e12:.1f} TFLOP, at least {duration(seconds)}."
