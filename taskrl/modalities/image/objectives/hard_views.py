"""Contrastive learning on the hardest of several views (Ferreira et al. 2023, "Beyond Random Augmentations: Pretraining
with Hard Views", arXiv:2310.03940): an opponent, never an action (it is not in the registry).
"""

from collections.abc import Mapping
from itertools import combinations
from typing import final

import torch
from torch import Tensor

from taskrl.modalities.image.objectives.contrastive import HEAD, TEMPERATURE, Contrastive
from taskrl.modalities.image.objectives.losses import nt_xent_of_each
from taskrl.modalities.image.views import make_view
from taskrl.tasks.task import PretextTask
from taskrl.types import HeadSpec, Networks

NUM_VIEWS = 4
PAIRS = tuple(combinations(range(NUM_VIEWS), 2))


@final
class HardViews(PretextTask):
    """The contrastive task on those two of an image's four views that it loses most on at present.

    The passes that choose them, without gradient, belong to the loss: whoever counts its FLOPs counts them.
    """

    def __init__(self, levels: Mapping[str, float], sample_shape: tuple[int, ...]) -> None:
        self.levels = levels
        self._contrastive = Contrastive(levels, sample_shape)

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        """The contrastive task's."""
        return self._contrastive.head_specs(feature_dim)

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Tensor:
        """All views one after the other, (4B, C, H, W)."""
        return make_view(torch.cat([batch] * NUM_VIEWS), rng, self.levels)

    def loss(self, nets: Networks, views: Tensor) -> Tensor:
        """The contrastive loss on the hardest pair of each image."""
        with torch.no_grad():
            embeddings = nets.head(HEAD, nets.features(views)).chunk(NUM_VIEWS)
            pairs_B2 = hardest_pairs(embeddings, TEMPERATURE)
        # autocast keeps its casts of the weights; in some versions of torch those of this pass, which have no gradient
        torch.clear_autocast_cache()
        views_VBCHW = torch.stack(views.chunk(NUM_VIEWS))
        images_B = torch.arange(len(pairs_B2), device=views.device)
        return self._contrastive.loss(nets, torch.cat([views_VBCHW[chosen_B, images_B] for chosen_B in pairs_B2.T]))

    def num_encoded(self, batch_size: int) -> int:
        """Every view to choose, two to train on."""
        return (NUM_VIEWS + 2) * batch_size


def hardest_pairs(embeddings: tuple[Tensor, ...], temperature: float) -> Tensor:
    """The two views (B, 2) of each image whose loss is largest, among other images' views of the same pair.

    embeddings: (B, D) of each view.
    """
    losses_PB = torch.stack([nt_xent_of_each(embeddings[i], embeddings[j], temperature) for i, j in PAIRS])
    return torch.tensor(PAIRS, device=losses_PB.device)[losses_PB.argmax(0)]
