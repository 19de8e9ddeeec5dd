"""Label-free signs of collapse, for the observation and the log. Legend: N inputs, D feature size."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.evaluation.spectrum import all_finite


def feature_std(features_ND: Tensor) -> float:
    """Mean sd of the L2-normalised features times sqrt(D): about 1 when spread out, 0 when collapsed (SimSiam,
    section 4.1).
    """
    return float(F.normalize(features_ND.float(), dim=1).std(0).mean() * math.sqrt(features_ND.shape[1]))


def effective_rank(features_ND: Tensor) -> float:
    """exp(entropy of the normalised singular values) of the centred features, over D: in (0, 1] (Roy & Vetterli
    2007). nan for features that are not finite.
    """
    if not all_finite(features_ND):
        return math.nan
    centred = features_ND.double() - features_ND.double().mean(0)
    narrow = centred if len(centred) < centred.shape[1] else centred.T
    # singular values as roots of the smaller Gram matrix's eigenvalues: a third of the time of a decomposition
    values = torch.linalg.eigvalsh(narrow @ narrow.T).clamp(min=0).sqrt()
    if float(values.sum()) <= 1e-12:
        return 0.0
    shares = values / values.sum()
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return float(entropy.exp() / features_ND.shape[1])


def uniformity(features_ND: Tensor) -> float:
    """log mean exp(-2 |zi - zj|^2) over pairs of unit features: 0 when collapsed, about -4 when uniform (Wang &
    Isola 2020).
    """
    unit = F.normalize(features_ND.double(), dim=1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1)
    squared_distances = 2 - 2 * (unit @ unit.T)[first, second]
    return float((-2 * squared_distances).exp().mean().log())
