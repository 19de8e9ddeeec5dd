"""Moving average of an encoder's weights over its training steps."""

from typing import Any, final

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from taskrl.predictor.predictor import Predictor


@final
class WeightAverage:
    """Exponential moving average (EMA) of the encoder of `predictor`, updated after every step of its optimiser;
    training itself stays what it was. Where a diverged decision puts the predictor back, its steps stay in the average.

    The decay starts low and rises to `decay` as min(decay, (1 + t) / (10 + t)) at step t, so that the untrained weights
    are forgotten in short runs, too (the rule of TensorFlow's ExponentialMovingAverage; averaging: Polyak and Juditsky
    1992). Buffers, such as batch-norm statistics, are the last step's: recalibrate the predictor after `put`.
    """

    def __init__(self, predictor: Predictor, decay: float) -> None:
        """decay: in (0, 1), a step; the average looks back over about 1 / (1 - decay) steps."""
        self.decay, self._num_steps = decay, 0
        self._encoder = predictor.encoder
        self._average = AveragedModel(self._encoder, multi_avg_fn=self._mix)
        predictor.after_steps(self._after_step)

    def put(self) -> None:
        """Give the encoder the averaged weights."""
        self._encoder.load_state_dict(self._average.module.state_dict())

    def _after_step(self, *_: Any) -> None:
        self._average.update_parameters(self._encoder)
        self._num_steps += 1  # AveragedModel's own count may lie on a GPU, and reading it there would wait for it

    def _mix(self, averaged: Any, current: Any, _: Any) -> None:
        """Of one kind of parameters; the first step's are copied and never come here."""
        decay = min(self.decay, (1 + self._num_steps) / (10 + self._num_steps))
        get_ema_multi_avg_fn(decay)(averaged, current, self._num_steps)
