"""Accuracy of a finished encoder's frozen features, and the floors that every table carries (docs/protocol.md)."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

LOGISTIC_STRENGTHS = (0.01, 0.1, 1.0)
MAX_ITERATIONS = 3000
NUM_FOLDS = 5
MAX_PIXEL_SIDE = 32
NUM_NEIGHBOURS = 20
KNN_TEMPERATURE = 0.07
IMBALANCED = 3.0  # docs/protocol.md: balanced accuracy is the headline above it
RIDGE_PIXEL_STRENGTHS = (0.01, 0.1, 1.0)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Percent. balanced: mean recall over the classes of the linear classifier. auroc: of its probabilities."""

    linear: float
    balanced: float
    knn: float
    auroc: float | None = None


def standardised_pair(fit_ND: Tensor, *others_ND: Tensor) -> tuple[NDArray[np.float32], ...]:
    """All feature matrices shifted and scaled by the mean and sd of the first; float32, as features are."""
    mean, sd = fit_ND.double().mean(0), fit_ND.double().std(0)
    sd = torch.where(sd > 1e-8, sd, torch.ones_like(sd))
    return tuple(((part.double() - mean) / sd).float().cpu().numpy() for part in (fit_ND, *others_ND))


def linear_classifier(features_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> LogisticRegression:
    """L2 logistic regression to convergence; its strength by 5-fold cross-validation inside the given data."""
    best, folds = LOGISTIC_STRENGTHS[0], _folds(labels_N)
    if folds:
        scores = [
            np.mean([_fit(features_ND[a], labels_N[a], strength).score(features_ND[b], labels_N[b]) for a, b in folds])
            for strength in LOGISTIC_STRENGTHS
        ]
        best = LOGISTIC_STRENGTHS[int(np.argmax(scores))]
    return _fit(features_ND, labels_N, best)


def _folds(labels_N: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Fitted and held rows of each fold, stratified by label; none where every class has one image.

    A class of fewer images than folds is in some of them only: one rare class does not choose for all others.
    """
    num_folds = min(NUM_FOLDS, int(np.bincount(labels_N).max()))
    if num_folds < 2:
        return []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        found = list(StratifiedKFold(num_folds, shuffle=True, random_state=0).split(labels_N, labels_N))
    # of two classes the rare one may be held as a whole: nothing can be fitted there
    return [(fitted, held) for fitted, held in found if len(np.unique(labels_N[fitted])) > 1]


def _fit(features_ND: NDArray[np.float32], labels_N: NDArray[np.int64], strength: float) -> LogisticRegression:
    """Where features are so alike that single precision cannot tell the last steps, in double precision: what that
    reaches in as many iterations is taken as it is.
    """
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return model.fit(features_ND, labels_N)
        except ConvergenceWarning:
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(features_ND.astype(np.float64), labels_N)


def knn_predictions(fit_ND: Tensor, fit_labels: Tensor, score_ND: Tensor) -> Tensor:
    """Weighted vote of the 20 nearest by cosine, weights exp(similarity / 0.07) (Wu et al. 2018)."""
    fit, score = F.normalize(fit_ND.float(), dim=1), F.normalize(score_ND.float(), dim=1)
    num_classes = int(fit_labels.max()) + 1
    rows = []
    for part in score.split(1024):
        similarity, index = (part @ fit.T).topk(min(NUM_NEIGHBOURS, len(fit)), dim=1)
        votes = torch.zeros(len(part), num_classes, device=fit.device)
        votes.scatter_add_(1, fit_labels[index], (similarity / KNN_TEMPERATURE).exp())
        rows.append(votes.argmax(1))
    return torch.cat(rows)


def measure(fit_ND: Tensor, fit_labels: Tensor, scored: list[tuple[Tensor, Tensor]]) -> list[Accuracy]:
    """Linear, balanced and kNN accuracy on each of `scored` (features, labels), fitted once on `fit_ND`."""
    fit, *rest = standardised_pair(fit_ND, *(features for features, _ in scored))
    # one BLAS thread: workers side by side on all cores would slow each other down many times over
    with threadpool_limits(limits=1):
        model = linear_classifier(fit, fit_labels.cpu().numpy())
    results = []
    for matrix, (features, labels) in zip(rest, scored, strict=True):
        truth, predicted = labels.cpu().numpy(), model.predict(matrix)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true", category=UserWarning)
            balanced = balanced_accuracy_score(truth, predicted)
        neighbours = knn_predictions(fit_ND, fit_labels, features)
        results.append(
            Accuracy(
                linear=100 * float((truth == predicted).mean()),
                balanced=100 * float(balanced),
                knn=100 * float((neighbours == labels).float().mean()),
                auroc=mean_auroc(model.predict_proba(matrix), model.classes_, truth),
            )
        )
    return results


def is_imbalanced(scored_M: Tensor, fitted_N: Tensor) -> bool:
    """Whether the largest class of the scored images has more than 3 times as many as the smallest. A class that was
    fitted and has no scored image counts; one that was not fitted does not.
    """
    num_classes = int(torch.cat([scored_M, fitted_N]).max()) + 1
    scored, fitted = (torch.bincount(part, minlength=num_classes) for part in (scored_M, fitted_N))
    counts = scored[fitted > 0]
    return bool(counts.max() > IMBALANCED * counts.min())


def mean_auroc(
    scores_NC: NDArray[np.float64], classes_C: NDArray[np.int64], labels_N: NDArray[np.int64]
) -> float | None:
    """Area under the ROC curve of each class against the rest, in percent, averaged over the classes that have labels;
    of two classes it is the usual one. None where no class can be told from others.
    """
    areas = [
        roc_auc_score(labels_N == kind, scores_NC[:, column])
        for column, kind in enumerate(classes_C)
        if 0 < (labels_N == kind).sum() < len(labels_N)
    ]
    return 100 * float(np.mean(areas)) if areas else None


def pixel_accuracy(fit_NP: Tensor, fit_labels: Tensor, score_NP: Tensor, score_labels: Tensor) -> dict[str, float]:
    """The floor `pixels`: ridge classifier and 1-NN (Euclidean) on raw pixels, in percent.

    The ridge strength is chosen on a fifth of the fitted images. Images above 32 pixels a side are averaged down first,
    since the solve is cubic in the number of pixels.
    """
    if fit_NP.dim() == 4 and max(fit_NP.shape[2:]) > MAX_PIXEL_SIDE:
        fit_NP, score_NP = (F.adaptive_avg_pool2d(part.float(), MAX_PIXEL_SIDE) for part in (fit_NP, score_NP))
    fit, score = fit_NP.flatten(1).float() / 255, score_NP.flatten(1).float() / 255
    nearest = torch.cat([torch.cdist(part, fit).argmin(1) for part in score.split(512)])
    one_nn = float((fit_labels[nearest] == score_labels).float().mean())
    mean = fit.mean(0)
    x, targets = (fit - mean).double(), F.one_hot(fit_labels).double()
    gram, cross = x.T @ x, x.T @ (targets - targets.mean(0))
    spread = gram.diagonal().mean()
    best = 0.0
    held = torch.arange(len(x)) % 5 == 0
    inner = x[~held].T @ x[~held], x[~held].T @ (targets[~held] - targets[~held].mean(0))
    chosen = RIDGE_PIXEL_STRENGTHS[0]
    for strength in RIDGE_PIXEL_STRENGTHS:
        weights = _solve(inner[0], inner[1], strength * spread)
        accuracy = float(((x[held] @ weights + targets[~held].mean(0)).argmax(1) == fit_labels[held]).float().mean())
        if accuracy > best:
            best, chosen = accuracy, strength
    weights = _solve(gram, cross, chosen * spread)
    ridge = float((((score - mean).double() @ weights + targets.mean(0)).argmax(1) == score_labels).float().mean())
    return {"ridge": 100 * ridge, "one_nn": 100 * one_nn, "best": 100 * max(ridge, one_nn)}


def _solve(gram: Tensor, cross: Tensor, strength: Tensor) -> Tensor:
    weights: Tensor = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), cross)
    return weights
