"""Which pool a configuration asks for."""

from envs.host import WorkerSetup
from envs.pool import Pool, SerialPool, Transport, Warn, WorkerPool
from envs.processes import Processes
from envs.ray_actors import RayActors, check_ray
from taskrl.config import ExperimentConfig


def check_workers(config: ExperimentConfig) -> None:
    """Raises ConfigError where it can be told at once that the workers cannot be had."""
    if config.envs == "ray":
        check_ray(config.ray_address)


def open_pool(setup: WorkerSetup, *, warn: Warn, job_steps: int = 0) -> Pool:
    """The pool for `setup.config`. Results do not depend on which it is, except that batched predictors round
    differently.

    warn: gets a sentence for every worker that was lost and replaced. job_steps: training steps of the longest job,
    where it is longer than an episode of the search. One worker runs in this process, several in processes of their
    own.
    """
    config = setup.config
    if config.envs == "batched":
        return SerialPool(setup, batched=True)
    if config.envs == "processes" and config.workers == 1:
        return SerialPool(setup)
    transport: Transport
    if config.envs == "ray":
        transport = RayActors(setup, config.workers, address=config.ray_address)
    else:
        transport = Processes(setup, config.workers)
    episode, deadline_s = config.episode, config.worker_deadline_s  # of one decision of the search
    num_decisions = max(episode.decisions, job_steps / episode.steps_per_decision)
    return WorkerPool(transport, deadline_s=deadline_s, job_deadline_s=num_decisions * deadline_s, warn=warn)
