"""A shallow decision tree that says what a policy would choose, and how often it is right (docs/inspect.md)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier, export_text

MAX_DEPTH = 3


def distilled(
    states: NDArray[np.float32],
    likeliest: NDArray[np.int64],
    runs: NDArray[np.int64],
    *,
    entries: Sequence[str],
    levels: Sequence[float],
) -> dict[str, Any]:
    """The tree of one choice as text, with its fidelity: the share of states of a final run for which a tree fitted to
    the other final runs names the policy's likeliest level, and that of always naming these runs' commonest level.

    states: (N, entries). likeliest: index of the level (N,). runs: which final run a state is of (N,). A choice that
    never varies is "constant" and has no tree; fidelities are None for a single run. Bastani et al. (2018) distil
    policies into trees on states that the tree's own play leads to; here they are those that the policy met.
    """
    if len(set(likeliest.tolist())) == 1:
        return {"constant": float(levels[likeliest[0]]), "text": None, "fidelity": None, "commonest": None}
    tree = _fitted(states, likeliest)
    hits, plain = [], []
    for run in np.unique(runs) if len(np.unique(runs)) > 1 else ():
        held = runs == run
        hits += (_fitted(states[~held], likeliest[~held]).predict(states[held]) == likeliest[held]).tolist()
        plain += (np.bincount(likeliest[~held]).argmax() == likeliest[held]).tolist()
    names = [f"{levels[index]:g}" for index in tree.classes_]
    return {
        "constant": None,
        "text": export_text(tree, feature_names=list(entries), class_names=names, decimals=3, show_weights=True),
        "fidelity": float(np.mean(hits)) if hits else None,
        "commonest": float(np.mean(plain)) if hits else None,
    }


def _fitted(states: NDArray[np.float32], likeliest: NDArray[np.int64]) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=MAX_DEPTH, random_state=0).fit(states, likeliest)
