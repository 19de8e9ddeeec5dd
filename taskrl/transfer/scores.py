"""How well class scores agree with labels."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.evaluation.accuracy import mean_auroc


@dataclass(frozen=True, kw_only=True)
class Scores:
    """accuracy, balanced (mean recall of the classes that occur) and auroc (one class against the rest, mean over the
    classes; None where there is but one) in percent. loss: mean cross-entropy in nats.
    """

    accuracy: float
    balanced: float
    auroc: float | None
    loss: float

    @property
    def order(self) -> tuple[float, float]:
        """Greater is better: by balanced accuracy; where it is equal, as often on few images, by cross-entropy."""
        return self.balanced, -self.loss


def score(logits_NC: Tensor, labels_N: Tensor) -> Scores:
    """Scores of logits, float, for labels that may name classes beyond C: these are never right."""
    logits_NC, labels_N = logits_NC.double().cpu(), labels_N.cpu()
    right = (logits_NC.argmax(1) == labels_N).double()
    classes = labels_N.unique().tolist()
    recalls = [float(right[labels_N == label].mean()) for label in classes]
    known = labels_N < logits_NC.shape[1]
    probabilities = logits_NC.softmax(1)
    finite = bool(torch.isfinite(probabilities).all())
    names = np.arange(logits_NC.shape[1])
    return Scores(
        accuracy=100 * float(right.mean()),
        balanced=100 * sum(recalls) / len(recalls),
        auroc=mean_auroc(probabilities.numpy(), names, labels_N.numpy()) if finite else None,
        loss=float(F.cross_entropy(logits_NC[known], labels_N[known])) if bool(known.any()) else math.inf,
    )
