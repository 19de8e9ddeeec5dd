"""Cross-fitted scores of labelled features, down to one label a class. Legend: N inputs, D feature size, C classes.

No input is scored by a fit that saw its label. Folds are given as a fold of each input (as in `ridge_r2`) or as splits
(`few_label_folds`). Labels are 0 to C - 1. Features that are not finite give nan, features that do not vary chance.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.errors import ConfigError
from taskrl.evaluation.clusters import centred_unit, neighbour_vote
from taskrl.evaluation.probes import RIDGE_STRENGTHS, standardise
from taskrl.evaluation.spectrum import all_finite

NUM_NEIGHBOURS = 20
KNN_TEMPERATURE = 0.07
MAX_SHARPNESS = 1e3
NEWTON_STEPS = 30
WALK_TEMPERATURE = 0.1
GOLDEN_RATIO = 0.6180339887498949


class FewLabelSplit(NamedTuple):
    """Rows (int64) that a probe is fitted on and rows that it is scored on; disjoint."""

    fit_rows: Tensor
    score_rows: Tensor


Folds = Tensor | Sequence[FewLabelSplit]


class RidgeFit(NamedTuple):
    """Ridge predictions of the scored rows, and of every fitted row by a fit without it."""

    scored_MK: Tensor
    left_out_NK: Tensor


def few_label_folds(
    labels_N: Tensor, per_class: int, num_draws: int, rng: torch.Generator
) -> tuple[FewLabelSplit, ...]:
    """Draws of `per_class` fitted rows a class, all other rows scored.

    A class with no more than `per_class` rows keeps one back: with exactly L labels a class, per_class = L fits L - 1
    and scores the one left out, and L draws score every row once. Draws go round each class in random order, so that
    every row is fitted equally often. Raises ConfigError when a class has a single row: scoring it needs a second.
    """
    classes, counts = labels_N.unique(return_counts=True)
    lonely = classes[counts < 2].tolist()
    if lonely:
        raise ConfigError(
            f"Class {lonely[0]} has one labelled image, but a cross-fitted probe needs at least 2 labels a class; "
            "label a second image of each class, or use one_label_score, which needs one."
        )
    splits = []
    orders: dict[int, Tensor] = {}
    for draw in range(num_draws):
        fitted = torch.zeros(len(labels_N), dtype=torch.bool)
        for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
            num = min(per_class, count - 1)
            cycle = count // math.gcd(count, num)
            if draw % cycle == 0:
                rows = (labels_N == label).nonzero().flatten().cpu()
                orders[label] = rows[torch.randperm(count, generator=rng, device=rng.device).cpu()]
            window = (torch.arange(num) + draw * num) % count
            fitted[orders[label][window]] = True
        rows = fitted.nonzero().flatten(), (~fitted).nonzero().flatten()
        splits.append(FewLabelSplit(rows[0].to(labels_N.device), rows[1].to(labels_N.device)))
    return tuple(splits)


def splits_of(folds: Folds) -> Sequence[FewLabelSplit]:
    """Each fold's rows scored by a fit on the rows of the others; splits stay as they are. Raises ConfigError for one
    fold.
    """
    if not isinstance(folds, Tensor):
        return folds
    held = [folds == fold for fold in folds.unique()]
    if len(held) < 2:
        raise ConfigError(f"Cross-fitting got {len(held)} fold, but needs at least 2; give more probe images or folds.")
    return tuple(FewLabelSplit((~rows).nonzero().flatten(), rows.nonzero().flatten()) for rows in held)


def ridge_fit(features_ND: Tensor, targets_NK: Tensor, split: FewLabelSplit) -> RidgeFit:
    """Ridge regression with a free mean; features already standardised, float64.

    Of the strengths of `ridge_r2`, the one of least squared error on the left-out predictions, so that nothing is
    chosen on scored rows. Left-out predictions are exact: y - (y - prediction) / (1 - leverage) (Allen 1974). One
    eigendecomposition of the smaller Gram matrix serves all strengths.
    """
    x, y, scored = features_ND[split.fit_rows], targets_NK[split.fit_rows], features_ND[split.score_rows]
    num, dim = x.shape
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y, scored = x - mean_x, y - mean_y, scored - mean_x
    strengths = num * torch.tensor(RIDGE_STRENGTHS, dtype=x.dtype, device=x.device)[:, None]
    if num < dim:
        values, basis = torch.linalg.eigh(x @ x.T)
        values = values.clamp(min=0)
        fitted, projected = values * basis, (scored @ x.T) @ basis
        across = basis.T @ y
        leverage = (values / (values + strengths)) @ basis.square().T
    else:
        values, basis = torch.linalg.eigh(x.T @ x)
        values = values.clamp(min=0)
        fitted, projected = x @ basis, scored @ basis
        across = fitted.T @ y
        leverage = (1 / (values + strengths)) @ fitted.square().T
    weights = across / (values + strengths)[:, :, None]
    rest = (1 - leverage - 1 / num).clamp(min=1e-9)[:, :, None]
    errors = (y - fitted @ weights) / rest
    best = int(errors.square().sum(dim=(1, 2)).argmin())
    return RidgeFit(scored_MK=mean_y + projected @ weights[best], left_out_NK=mean_y + y - errors[best])


def ridge_accuracy(features_ND: Tensor, labels_N: Tensor, folds: Folds) -> float:
    """Cross-fitted accuracy of the ridge classifier: one-hot targets, the largest prediction wins; in [0, 1].

    Pooled over the scored rows of all splits. Coarse for a reward: it moves in steps of 1 / N.
    """
    if not all_finite(features_ND):
        return math.nan
    features, targets = standardise(features_ND), F.one_hot(labels_N).double()
    hits, num = 0, 0
    for split in splits_of(folds):
        fit = ridge_fit(features, targets, split)
        hits += int((fit.scored_MK.argmax(1) == labels_N[split.score_rows]).sum())
        num += len(split.score_rows)
    return hits / max(num, 1)


def log_loss_score(features_ND: Tensor, labels_N: Tensor, folds: Folds) -> float:
    """1 - log loss of a cross-fitted probe / log loss of the fitted rows' class shares; 1 perfect, 0 no better.

    The probe is a softmax of log(share) + sharpness * (ridge prediction - share), a one-parameter stand-in for
    logistic regression. The sharpness (at least 0) is that of least log loss on the left-out predictions of the fitted
    rows (Platt 1999), so nothing is chosen on scored rows. With one fitted row a class nothing can be left out:
    sharpness and score are 0. Shares count one more row a class than there is (Laplace).
    """
    if not all_finite(features_ND):
        return math.nan
    features, targets = standardise(features_ND), F.one_hot(labels_N).double()
    loss, baseline = 0.0, 0.0
    for split in splits_of(folds):
        fitted, scored = labels_N[split.fit_rows], labels_N[split.score_rows]
        counts = targets[split.fit_rows].sum(0) + 1
        log_shares = (counts / counts.sum()).log()
        shares = targets[split.fit_rows].mean(0)
        fit = ridge_fit(features, targets, split)
        logits = log_shares + _sharpness(fit.left_out_NK - shares, fitted, log_shares) * (fit.scored_MK - shares)
        loss += float(F.cross_entropy(logits, scored, reduction="sum"))
        baseline -= float(log_shares[scored].sum())
    return 1 - loss / max(baseline, 1e-12)


def _sharpness(evidence_NC: Tensor, labels_N: Tensor, log_shares_C: Tensor) -> float:
    """The factor in [0, 1000] on the evidence that makes the log loss least; Newton, convex."""

    def loss_at(value: float) -> float:
        return float(F.cross_entropy(log_shares_C + value * evidence_NC, labels_N))

    own = evidence_NC.gather(1, labels_N[:, None])[:, 0]
    sharpness, loss = 0.0, loss_at(0.0)
    for _ in range(NEWTON_STEPS):
        p = (log_shares_C + sharpness * evidence_NC).softmax(1)
        mean = (p * evidence_NC).sum(1)
        slope = float((mean - own).mean())
        curvature = float(((p * evidence_NC.square()).sum(1) - mean.square()).mean())
        step = -slope / max(curvature, 1e-12)
        # halved until the loss falls: far from the minimum Newton overshoots
        for _ in range(NEWTON_STEPS):
            candidate = min(max(sharpness + step, 0.0), MAX_SHARPNESS)
            new = loss_at(candidate)
            if new <= loss:
                break
            step /= 2
        if new > loss or abs(candidate - sharpness) <= 1e-9 * (1 + sharpness):
            break
        sharpness, loss = candidate, new
    return sharpness


def knn_accuracy(features_ND: Tensor, labels_N: Tensor, folds: Folds) -> float:
    """Cross-fitted accuracy of the weighted vote of the 20 nearest fitted rows by cosine, or of all if fewer.

    Weights exp(similarity / 0.07) (Wu et al. 2018). Not centred: the same vote as for a finished encoder's accuracy.
    Pooled over splits; in [0, 1].
    """
    if not all_finite(features_ND):
        return math.nan
    unit = F.normalize(features_ND.double(), dim=1)
    hits, num = 0, 0
    for split in splits_of(folds):
        fit, score = split
        predicted = neighbour_vote(unit[fit], labels_N[fit], unit[score], NUM_NEIGHBOURS, KNN_TEMPERATURE)
        hits += int((predicted == labels_N[score]).sum())
        num += len(score)
    return hits / max(num, 1)


def one_label_score(features_ND: Tensor, labelled_rows: Tensor, labels: Tensor) -> float:
    """Whether walks over unlabelled inputs lead from each class's labelled input back to it; 1 always, 0 chance.

    One label a class cannot be cross-fitted, so the second opinion comes from unlabelled inputs (all other rows), cut
    into two halves. A walk goes from a class to one half, on to the other and back to a class, each step a softmax of
    cosines / 0.1 of centred features; the score is (mean P(return to the start) - 1 / C) / (1 - 1 / C), over classes
    and both orders of the halves. The round trip is Haeusser et al. 2017, "Learning by association", as a measurement;
    the step between halves is added so that a walk cannot turn back where it stood, which asks for regions that hold
    together and lie apart. Bounded, smooth in the features, no draws: the halves are fixed by row. `labels` are those
    of `labelled_rows`, in order; several rows of a class are averaged. Raises ConfigError with fewer than 2 classes or
    2 unlabelled inputs.

    Weaknesses. It cannot see whether a region holds one class: clusters of a nuisance score as high if they part the
    labelled inputs, and features of few dimensions score above chance without any class in them. It depends on which
    inputs are labelled. Use it as a part of a panel, and two labels a class (`few_label_folds`) wherever there are.
    """
    classes, index = labels.unique(return_inverse=True)
    unlabelled = torch.ones(len(features_ND), dtype=torch.bool, device=features_ND.device)
    unlabelled[labelled_rows] = False
    if len(classes) < 2 or int(unlabelled.sum()) < 2:
        raise ConfigError(
            f"The one-label score got {len(classes)} classes and {int(unlabelled.sum())} unlabelled images, but needs "
            "at least 2 of each; give it the unlabelled probe images as well."
        )
    if not all_finite(features_ND):
        return math.nan
    unit = centred_unit(features_ND)
    sums = torch.zeros((len(classes), unit.shape[1]), dtype=unit.dtype, device=unit.device)
    prototypes = F.normalize(sums.index_add_(0, index, unit[labelled_rows]), dim=1)
    rest = unit[unlabelled]
    # the golden ratio's sequence follows no order that files may lie in; every other row might part the classes
    half = torch.arange(len(rest), dtype=torch.float64, device=rest.device) * GOLDEN_RATIO % 1 < 0.5
    parts = rest[half], rest[~half]
    returned = [
        _step(prototypes, near) @ _step(near, far) @ _step(far, prototypes) for near, far in (parts, parts[::-1])
    ]
    mean = float(torch.stack(returned).diagonal(dim1=1, dim2=2).mean())
    return (mean - 1 / len(classes)) / (1 - 1 / len(classes))


def _step(from_ND: Tensor, to_MD: Tensor) -> Tensor:
    return (from_ND @ to_MD.T / WALK_TEMPERATURE).softmax(1)
