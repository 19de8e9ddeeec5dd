"""What unlabelled features say about groups and neighbours. Legend: N inputs, D feature size, K clusters.

Cosine measures look at features minus their mean, so that a common offset, a scale and a rotation change nothing.
Features that are not finite give nan; features that do not vary score 0. Draws come from `rng` alone, and as many
whatever the features are: two measurements from generators in one state share their noise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from taskrl.evaluation.spectrum import all_finite, centred

TWONN_DROPPED = 0.1
VOTE_TIE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """assignments_N: int64, the nearest centre of each input. inertia: sum of squared distances to it."""

    assignments_N: Tensor
    centres_KD: Tensor
    inertia: float


def centred_unit(features_ND: Tensor) -> Tensor:
    """Features minus their mean, each of length 1, float64; rows that are the mean up to round-off are 0."""
    offsets = centred(features_ND)
    length = offsets.norm(dim=1, keepdim=True)
    return offsets / torch.where(length > 0, length, torch.ones_like(length))


def squared_distances(first_ND: Tensor, second_MD: Tensor) -> Tensor:
    """Squared Euclidean distances (N, M) by one matrix product."""
    lengths = first_ND.square().sum(1)[:, None] + second_MD.square().sum(1)
    return (lengths - 2 * first_ND @ second_MD.T).clamp(min=0)


def kmeans(features_ND: Tensor, num_clusters: int, rng: torch.Generator, num_iterations: int = 20) -> Clustering:
    """Lloyd's algorithm from greedy k-means++ centres (Arthur & Vassilvitskii 2007), by Euclidean distance; float64.

    At most N clusters. A cluster that runs empty gets the input farthest from its centre. Stops early when no input
    changes its cluster. Features must be finite.
    """
    features = features_ND.double()
    centres = _seed_centres(features, min(num_clusters, len(features)), rng)
    distances, assignments = squared_distances(features, centres).min(1)
    for _ in range(num_iterations):
        members = torch.nn.functional.one_hot(assignments, len(centres)).double()
        counts = members.sum(0)
        centres = members.T @ features / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero().flatten()
        if len(empty):
            centres[empty] = features[distances.topk(len(empty)).indices]
        previous = assignments
        distances, assignments = squared_distances(features, centres).min(1)
        if torch.equal(assignments, previous):
            break
    return Clustering(assignments_N=assignments, centres_KD=centres, inertia=float(distances.sum()))


def _seed_centres(features_ND: Tensor, num_clusters: int, rng: torch.Generator) -> Tensor:
    """k-means++: each next centre is the best of 2 + log K inputs drawn in proportion to their squared distance."""
    num_trials = 2 + int(math.log(num_clusters))
    draws = torch.rand((num_clusters, num_trials), generator=rng, dtype=torch.float64, device=rng.device)
    draws = draws.to(features_ND.device)
    rows = [int(draws[0, 0] * len(features_ND))]
    nearest = squared_distances(features_ND, features_ND[rows])[:, 0]
    for draw in draws[1:]:
        shares = nearest.cumsum(0)
        candidates = torch.searchsorted(shares, draw * shares[-1], right=True).clamp(max=len(nearest) - 1)
        closer = torch.minimum(squared_distances(features_ND, features_ND[candidates]), nearest[:, None])
        best = int(closer.sum(0).argmin())
        rows.append(int(candidates[best]))
        nearest = closer[:, best]
    return features_ND[rows]


def neighbour_vote(
    fit_ND: Tensor, labels_N: Tensor, score_MD: Tensor, num_neighbours: int, temperature: float | None = None
) -> Tensor:
    """Label (M,) that the k nearest rows by dot product vote for; k is cut at N.

    Votes weigh exp(similarity / temperature); without one they are equal and a tie goes to the nearest row.
    """
    similarity, index = (score_MD @ fit_ND.T).topk(min(num_neighbours, len(fit_ND)), dim=1)
    if temperature is None:
        rank = torch.arange(index.shape[1], dtype=similarity.dtype, device=similarity.device)
        weights = (1 + VOTE_TIE * 0.5**rank).expand_as(similarity)
    else:
        weights = (similarity / temperature).exp()
    votes = torch.zeros((len(score_MD), int(labels_N.max()) + 1), dtype=similarity.dtype, device=similarity.device)
    return votes.scatter_add_(1, labels_N[index], weights).argmax(1)


def cluster_learnability(
    features_ND: Tensor, rng: torch.Generator, num_clusters: int | None = None, num_neighbours: int = 1
) -> float:
    """How often the k nearest neighbours (cosine) of the other half of the inputs name an input's k-means cluster.

    Lu et al. 2023, "Using representation expressiveness and learnability": validation accuracy of a kNN
    classifier (k = 1) on k-means pseudo-labels, sqrt(N) clusters unless told otherwise. Both random halves are
    validated, by each other, and features are centred first. Clusters are found on all inputs, so it says how compact
    they are, not how real. A tie of votes goes to the nearest. 0, not 1, when there is but one cluster:
    a collapsed encoder has nothing to learn. Near-duplicates score high; read it beside `intrinsic_dimension`.
    """
    if not all_finite(features_ND):
        return math.nan
    unit = centred_unit(features_ND)
    clustering = kmeans(unit, num_clusters or max(2, round(math.sqrt(len(unit)))), rng)
    labels = clustering.assignments_N
    order = torch.randperm(len(unit), generator=rng, device=rng.device).to(unit.device)
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    if not len(halves[0]) or len(labels.unique()) < 2:
        return 0.0
    hits = 0
    for fitted, held in (halves, halves[::-1]):
        predicted = neighbour_vote(unit[fitted], labels[fitted], unit[held], num_neighbours)
        hits += int((predicted == labels[held]).sum())
    return hits / len(unit)


def intrinsic_dimension(features_ND: Tensor) -> float:
    """TwoNN: dimension of the manifold that features lie on, from distances to the first and second neighbour.

    Facco et al. 2017: the slope through the origin of -log(1 - F(mu)) against log mu, where mu is the ratio of the two
    distances and F = i / N its empirical distribution, without the largest tenth of the ratios. Euclidean. Copies of
    an input count once; 0 when fewer than 3 different inputs are left. Underestimates above about 10 dimensions,
    since N would have to grow exponentially.
    """
    if not all_finite(features_ND):
        return math.nan
    features = centred(features_ND)
    distances = squared_distances(features, features)
    largest = distances.max()
    # below this a squared distance from a matrix product is cancellation, not distance
    same = distances <= 1e-13 * largest
    kept = ~same.tril(diagonal=-1).any(1)
    if int(kept.sum()) < 3 or not largest > 0:
        return 0.0
    distances = distances[kept][:, kept].fill_diagonal_(math.inf)
    first, second = distances.topk(2, dim=1, largest=False).values.unbind(1)
    log_ratio = (0.5 * (second / first).log()).sort().values
    num = len(log_ratio)
    used = max(int(num * (1 - TWONN_DROPPED)), 2)
    share = torch.arange(1, used + 1, dtype=log_ratio.dtype, device=log_ratio.device) / num
    x, y = log_ratio[:used], -(1 - share).log()
    squares = (x * x).sum()
    return float((x * y).sum() / squares) if squares > 0 else 0.0


def clid(
    features_ND: Tensor, rng: torch.Generator, num_clusters: int | None = None, dimension_unit: float | None = None
) -> float:
    """CLID: cluster learnability plus intrinsic dimension over `dimension_unit` (D unless told otherwise).

    Lu et al. 2023 add the two after standardising each over the encoders that they compare. One matrix
    has no such population, so the unit is fixed instead; whoever has many encoders should standardise
    `cluster_learnability` and `intrinsic_dimension` and add them.
    """
    unit = float(features_ND.shape[1]) if dimension_unit is None else dimension_unit
    return cluster_learnability(features_ND, rng, num_clusters) + intrinsic_dimension(features_ND) / unit


def adjusted_rand(first_N: Tensor, second_N: Tensor) -> float:
    """Adjusted Rand index of two clusterings: 1 the same, 0 chance (Hubert & Arabie 1985, equation 5)."""
    num_second = int(second_N.max()) + 1
    table = torch.bincount(first_N * num_second + second_N).double()
    pairs = [(count * (count - 1) / 2).sum() for count in (table, first_N.bincount(), second_N.bincount())]
    both, rows, columns = (float(value) for value in pairs)
    expected = rows * columns / max(len(first_N) * (len(first_N) - 1) / 2, 1.0)
    most = (rows + columns) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def cluster_stability(features_ND: Tensor, rng: torch.Generator, num_clusters: int = 10, num_draws: int = 1) -> float:
    """Whether clusters found in one half of the inputs are found in the other: adjusted Rand index, mean over draws.

    k-means (cosine) is fitted on each of two random halves, and all inputs go to the nearest centre of either
    (Ben-Hur et al. 2002; Lange et al. 2004). 1 is the same clustering, 0 chance; 0 as well when either has one
    cluster. Falls when `num_clusters` is not the number of groups, however clear these are.
    """
    if not all_finite(features_ND):
        return math.nan
    unit = centred_unit(features_ND)
    total = 0.0
    for _ in range(num_draws):
        order = torch.randperm(len(unit), generator=rng, device=rng.device).to(unit.device)
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        if not len(halves[0]):
            return 0.0
        centres = [kmeans(unit[half], num_clusters, rng).centres_KD for half in halves]
        first, second = (squared_distances(unit, centre).argmin(1) for centre in centres)
        if len(first.unique()) > 1 and len(second.unique()) > 1:
            total += adjusted_rand(first, second)
    return total / num_draws


def neighbour_overlap(first_ND: Tensor, second_ND: Tensor, num_neighbours: int = 10) -> float:
    """Mean share of an input's k nearest neighbours (cosine) that are the same in two feature matrices; in [0, 1].

    Mutual k-nearest-neighbour alignment (Huh et al. 2024, "The Platonic representation hypothesis", appendix A).
    Chance is k / (N - 1); k is cut at N - 1. 0 when either matrix does not vary.
    """
    if not all_finite(first_ND, second_ND):
        return math.nan
    first, second = centred_unit(first_ND), centred_unit(second_ND)
    k = min(num_neighbours, len(first) - 1)
    if k < 1 or not first.any() or not second.any():
        return 0.0
    near, other = (
        (unit @ unit.T).fill_diagonal_(-math.inf).topk(k, dim=1, sorted=False).indices for unit in (first, second)
    )
    return float((near[:, :, None] == other[:, None, :]).any(2).double().mean())
