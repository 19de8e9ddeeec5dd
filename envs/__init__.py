"""Gymnasium environments of taskrl; importing this package registers them."""

import gymnasium

gymnasium.register(id="taskrl/TaskGeneration-v0", entry_point="envs.factory:make_task_generation")
