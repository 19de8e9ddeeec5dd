"""taskrl: reinforcement learning of which self-supervised pretext task to train on next."""

__version__ = "0.1.0"
