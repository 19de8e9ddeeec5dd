"""How many directions features use, from their spectrum; label-free. Legend: N inputs, Q views, D feature size.

Every function computes in float64, gives the same value for rotated features, gives nan for features that are not
finite, and has a stated value for features that do not vary. Variation below a millionth of the features' size is
float32 round-off and counts as none.
"""

import math

import torch
from torch import Tensor

ROUND_OFF = 1e-6
RANK_EPSILON = 1e-7
ALPHA_RANKS = (3, 50)
LIDAR_DELTA = 1e-4


def all_finite(*tensors: Tensor) -> bool:
    """Whether no entry of any of the tensors is infinite or nan."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def centred(features_ND: Tensor) -> Tensor:
    """Features minus their mean, float64; rows that are their mean up to round-off are exactly 0."""
    features = features_ND.double()
    offsets = features - features.mean(0)
    largest = features.norm(dim=1).max()
    return torch.where(offsets.norm(dim=1, keepdim=True) > ROUND_OFF * largest, offsets, torch.zeros_like(offsets))


def rankme(features_ND: Tensor) -> float:
    """RankMe: exp(entropy) of the singular values over their sum plus 1e-7, not centred; in [1, min(N, D)].

    Garrido et al. 2023, "RankMe". Not centred, so a common offset matters: constant features give
    about 1. Blind to noise, which raises it; meant for runs of one method.
    """
    if not all_finite(features_ND):
        return math.nan
    values = _gram_eigenvalues(features_ND.double()).sqrt()
    return _entropy_rank(values)


def alpha_req(features_ND: Tensor, ranks: tuple[int, int] = ALPHA_RANKS) -> float:
    """Decay of the covariance's spectrum: the alpha of eigenvalue_i ~ i^-alpha, by least squares in log-log.

    Agrawal et al. 2022, "alpha-ReQ", fitted as in Stringer et al. 2019: ranks from ranks[0] to ranks[1]
    (both included, counted from 1, cut at min(D, N - 1)), each weighted by 1 / rank. Eigenvalues below 1e-12 of the
    largest are left out. Not monotone in quality: good encoders lie near 1. 0 when fewer than two ranks are left, as
    for constant features.
    """
    if not all_finite(features_ND):
        return math.nan
    values = _gram_eigenvalues(centred(features_ND)).flip(0)[: max(len(features_ND) - 1, 0)]
    rank = torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    chosen = (rank >= ranks[0]) & (rank <= ranks[1]) & (values > 1e-12 * values[:1])
    if int(chosen.sum()) < 2:
        return 0.0
    x, y, weight = rank[chosen].log(), values[chosen].log(), 1 / rank[chosen]
    x = x - (weight * x).sum() / weight.sum()
    return float(-(weight * x * y).sum() / (weight * x * x).sum())


def lidar(features_NQD: Tensor, delta: float = LIDAR_DELTA) -> float:
    """LiDAR: effective rank of the linear discriminant matrix whose N classes are inputs, each with Q views.

    Thilak et al. 2023: S_b = mean over classes of (class mean - mean)(...)^T, S_w = mean over views of
    (view - class mean)(...)^T + delta I, and exp(entropy) of the eigenvalues of S_w^-1/2 S_b S_w^-1/2 over their sum
    plus 1e-7. In [1, min(N - 1, D)], 1 when class means do not differ. delta is absolute, so the scale of the features
    matters, and so do the views that it is measured with.
    """
    if not all_finite(features_NQD):
        return math.nan
    features = features_NQD.double()
    num_classes, num_views, dim = features.shape
    means = features.mean(1)
    within = (features - means[:, None]).reshape(-1, dim)
    scatter = within.T @ within / (num_classes * num_views)
    factor = torch.linalg.cholesky(scatter + delta * torch.eye(dim, dtype=scatter.dtype, device=scatter.device))
    # L^-1 S_b L^-T has the eigenvalues of S_w^-1/2 S_b S_w^-1/2 for S_w = L L^T
    whitened = torch.linalg.solve_triangular(factor, centred(means).T, upper=False).T / math.sqrt(num_classes)
    return min(_entropy_rank(_gram_eigenvalues(whitened)), float(max(num_classes - 1, 1)))


def participation_ratio(features_ND: Tensor) -> float:
    """(sum of eigenvalues)^2 / sum of squared eigenvalues of the covariance; in [1, min(N - 1, D)].

    Gao et al. 2017, "A theory of multineuronal dimensionality"; 1 for constant features.
    """
    if not all_finite(features_ND):
        return math.nan
    features = centred(features_ND)
    narrow = features if len(features) < features.shape[1] else features.T
    gram = narrow @ narrow.T
    trace = gram.diagonal().sum()
    return max(float(trace**2 / gram.square().sum()), 1.0) if trace > 0 else 1.0


def _gram_eigenvalues(features_ND: Tensor) -> Tensor:
    """Squared singular values, ascending; of the smaller Gram matrix, a third of the time of a decomposition."""
    narrow = features_ND if len(features_ND) < features_ND.shape[1] else features_ND.T
    values: Tensor = torch.linalg.eigvalsh(narrow @ narrow.T)
    return values.clamp(min=0)


def _entropy_rank(values: Tensor) -> float:
    total = values.sum()
    if not total > 0:
        return 1.0
    shares = values / total + RANK_EPSILON
    rank = float((-(shares * shares.log()).sum()).exp())
    return min(max(rank, 1.0), float(len(values)))
