"""What a change of the inputs does to their features; label-free. Legend: N inputs, D feature size.

Row i of both matrices is the same input. Features that are not finite give nan.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.evaluation.clusters import centred_unit
from taskrl.evaluation.labelled import ridge_fit, splits_of
from taskrl.evaluation.probes import standardise
from taskrl.evaluation.spectrum import all_finite

TIE = 1e-9


def alignment(first_ND: Tensor, second_ND: Tensor) -> float:
    """Mean squared distance of paired unit features; 0 the same, 2 unrelated, at most 4. Smaller is better.

    Wang & Isola 2020, the alignment loss with alpha = 2. Not centred: a collapsed encoder scores 0, so never alone.
    """
    if not all_finite(first_ND, second_ND):
        return math.nan
    first, second = F.normalize(first_ND.double(), dim=1), F.normalize(second_ND.double(), dim=1)
    return float((first - second).square().sum(1).mean())


def consistency(first_ND: Tensor, second_ND: Tensor) -> float:
    """Mean cosine of paired centred features less the mean cosine over all pairs of rows; in [-1, 1].

    1 when the change leaves features as they are and these differ from input to input, 0 when pairs are no more alike
    than strangers, as in a collapsed encoder. The mean over all pairs has an input's own among them: it is a
    covariance of unit features and so bounded.
    """
    if not all_finite(first_ND, second_ND):
        return math.nan
    first, second = centred_unit(first_ND), centred_unit(second_ND)
    return float((first * second).sum(1).mean() - first.mean(0) @ second.mean(0))


def detectability(clean_ND: Tensor, changed_ND: Tensor, folds_N: Tensor) -> float:
    """Cross-fitted area under the ROC curve of a ridge probe that tells changed inputs from clean ones.

    0.5 is invisible, 1 always told. Targets are -1 and 1 (Fisher's discriminant, shrunk); folds are of inputs, so that
    both copies of one input lie in the same. The area is taken
    within each fold (Hanley & McNeil 1982, ties one half) and averaged by the folds' sizes. A classifier two-sample
    test (Lopez-Paz & Oquab 2017).
    """
    if not all_finite(clean_ND, changed_ND):
        return math.nan
    num = len(clean_ND)
    features = standardise(torch.cat([clean_ND, changed_ND]))
    targets = torch.ones((2 * num, 1), dtype=features.dtype, device=features.device)
    targets[:num] = -1
    area = 0.0
    for split in splits_of(folds_N.repeat(2)):
        fit = ridge_fit(features, targets, split)
        clean, changed = fit.scored_MK[:, 0].chunk(2)
        lead = changed[:, None] - clean
        above, tied = (lead > TIE).double(), (lead.abs() <= TIE).double()
        area += float((above + 0.5 * tied).mean()) * len(clean)
    return area / num
