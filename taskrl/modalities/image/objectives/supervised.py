"""Classification of labelled images: for the floor `supervised` only, never an action (it is not in the registry)."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.modalities.image.objectives.rotation import Labelled
from taskrl.modalities.image.views import make_view
from taskrl.tasks.task import PretextTask
from taskrl.types import HeadSpec, Networks


@final
class Supervised(PretextTask):
    """Cross-entropy on a fixed set of labelled images; the pretraining batch only says how many to draw."""

    def __init__(self, levels: Mapping[str, float], images_BCHW: Tensor, labels_B: Tensor) -> None:
        self.levels = levels
        self.images = images_BCHW
        self.labels = labels_B
        self.num_classes = int(labels_B.max()) + 1

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        """One classifier."""
        head = HeadSpec(kind="mlp", in_dim=feature_dim, hidden_dim=feature_dim, out_dim=self.num_classes)
        return {"supervised": head}

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Labelled:
        """Views of as many labelled images, drawn with replacement."""
        rows = torch.randint(len(self.images), (len(batch),), generator=rng, device=rng.device)
        return Labelled(make_view(self.images[rows], rng, self.levels), self.labels[rows])

    def loss(self, nets: Networks, views: Labelled) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(nets.head("supervised", nets.features(views.images)).float(), views.labels)

    def num_encoded(self, batch_size: int) -> int:
        """One view an image."""
        return batch_size
