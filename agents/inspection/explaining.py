"""Why a learned policy chooses what it chooses: everything that is measured of it as one JSON record."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.catalogue import AGENTS
from agents.inspection.observed import Observed
from agents.inspection.trees import distilled
from agents.inspection.why import (
    DIGITS,
    NUM_PERMUTATIONS,
    Entry,
    answered_to,
    entries_of,
    largest,
    permuted,
    swept,
    thinned,
)
from agents.policy import SB3TaskPolicy
from envs.observation import LAST, ObservationBuilder
from taskrl.errors import RunFolderError
from taskrl.evaluation.detectability import Description
from taskrl.report_figures import counted

WHY_VERSION = 1
STEADY = 0.01
NUM_NAMED = 3
EVERYTHING = ""


def explained(policy: SB3TaskPolicy, observed: Observed, description: Description | None) -> dict[str, Any]:
    """What its choices hang on, by permutation, by sweeps and as trees. Raises RunFolderError when the record is of
    other entries than the policy observes.

    sentences: what is to be said of it. entries: with the range that final runs met. choices: levels, "any" (how much
    permuting everything at once changes), "sensitivity" to each entry, "tree". sweeps: the largest. description: of the
    data set, or null.
    """
    if observed.entries != ObservationBuilder(policy.space, policy.shown).names:
        raise RunFolderError(
            "observations.json has other entries than the policy observes; copy it and policy/ from the same run."
        )
    states = thinned(observed.states)
    entries = entries_of(observed.entries)
    sensitivity = permuted(policy.probabilities_of, states, entries)
    sweeps = [swept(policy.probabilities_of, states, entry) for entry in entries]
    record = {
        "format_version": WHY_VERSION,
        "agent": policy.agent.name,
        "observe": policy.shown.mode,
        "num_runs": len(observed.runs),
        "num_states": len(states),
        "num_permutations": NUM_PERMUTATIONS,
        "entries": [_entry(entry, states) for entry in entries],
        "answers_to": {name: round(value, DIGITS) for name, value in answered_to(sensitivity, sweeps).items()},
        "choices": _choices(policy, observed, sensitivity),
        "sweeps": largest(sweeps),
        "description": None if description is None else _described(description),
    }
    return {"sentences": _sentences(record), **record}


def _entry(entry: Entry, states: Any) -> dict[str, Any]:
    values = states[:, list(entry.columns)]
    varied = bool((values != values[0]).any())
    if entry.is_level:
        return {"name": entry.name, "varied": varied, "levels": len(entry.columns)}
    low, high = (round(float(value), DIGITS) for value in (values.min(), values.max()))
    return {"name": entry.name, "varied": varied, "low": low, "high": high}


def _choices(
    policy: SB3TaskPolicy, observed: Observed, sensitivity: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    states = observed.states
    runs = np.repeat(np.arange(len(observed.runs)), [len(run.observations) for run in observed.runs])
    parts = {part.name: part for part in policy.space.parts}
    names = [_readable(name, policy) for name in observed.entries]
    found = {}
    for name, table in policy.probabilities_of(states).items():
        levels = parts[name].levels
        row = {entry: round(value, DIGITS) for entry, value in sensitivity[name].items() if entry != EVERYTHING}
        found[name] = {
            "levels": list(levels),
            "reference": parts[name].reference,
            "any": round(sensitivity[name][EVERYTHING], DIGITS),
            "sensitivity": row,
            "probability": [round(float(bound(table.max(axis=1))), DIGITS) for bound in (np.min, np.max)],
            "tree": distilled(states, table.argmax(axis=1), runs, entries=names, levels=levels),
        }
    return found


def _readable(name: str, policy: SB3TaskPolicy) -> str:
    """last/crop/1 as last/crop=0.6."""
    if not name.startswith(LAST):
        return name
    stem, _, index = name.rpartition("/")
    (part,) = (part for part in policy.space.parts if part.name == stem.removeprefix(LAST))
    return f"{stem}={part.levels[int(index)]:g}"


def _described(description: Description) -> dict[str, dict[str, float | None]]:
    kinds = {"detectability": description.detectability, "statistics": description.statistics}
    return {
        kind: {name: round(value, DIGITS) if math.isfinite(value) else None for name, value in numbers.items()}
        for kind, numbers in kinds.items()
    }


def _sentences(record: Mapping[str, Any]) -> list[str]:
    """What the numbers say, and what they cannot say."""
    choices, num_entries = record["choices"], len(record["entries"])
    said = [
        f"Measured on {counted(record['num_states'], 'decision')} of {counted(record['num_runs'], 'final run')}; "
        f"{num_entries} entries are observed (what each choice was last counts as one)."
    ]
    said.append(_dependence(record["answers_to"], num_entries))
    pairs = [(value, name, entry) for name, row in choices.items() for entry, value in row["sensitivity"].items()]
    strongest = [f"{name} on {entry} ({value:.2f})" for value, name, entry in sorted(pairs)[::-1] if value >= STEADY]
    if strongest:
        said.append(f"What hangs most on what, by permutation: {', '.join(strongest[:NUM_NAMED])}.")
    largest_any = max(row["any"] for row in choices.values())
    if record["answers_to"] and largest_any < STEADY:
        said.append(
            "In these runs it plays the same whatever it observes: when all entries are dealt out anew at once, no "
            f"choice's probabilities move by more than {largest_any:.3f}."
        )
    unvaried = [entry["name"] for entry in record["entries"] if not entry["varied"]]
    if unvaried:
        said.append(
            f"{len(unvaried)} entries had one value in all of them, so that only sweeps, beyond what was met, say "
            f"anything of them: {_listed(unvaried)}."
        )
    if record["observe"] != "full":
        said.append(f"The policy was learned on an ablated observation (agent.observe={record['observe']}).")
    if AGENTS[record["agent"]].policy == "MlpLstmPolicy":
        said.append(
            "It has a memory, and is asked here as at the first decision of an episode; what it remembers is left out."
        )
    if record["num_runs"] < 2:
        said.append("From one final run trees have no fidelity: it needs runs that a tree was not fitted to.")
    return said


def _dependence(answers: Mapping[str, float], num_entries: int) -> str:
    memory = [name for name in answers if name.startswith(LAST)]
    if not answers:
        return "The policy ignores its observation: no entry, at any value from 0 to 1, changes any probability."
    if len(answers) > len(memory) + ("progress" in answers):
        return f"{len(answers)} of {num_entries} entries change its choices somewhere, permuted or swept from 0 to 1."
    found = []
    if "progress" in answers:
        found.append(f"progress (which changes a probability by {_bound(answers['progress'])})")
    if memory:
        most = max(answers[name] for name in memory)
        found.append(f"what it played last (last/*, {_bound(most)})")
    return (
        f"Its choices depend on {' and '.join(found)} alone; nothing else that it observes, at any value from 0 to 1, "
        "changes any probability."
    )


def _bound(value: float) -> str:
    return f"at most {value:.2f}" if value >= STEADY else f"less than {STEADY}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[: 2 * NUM_NAMED])
    return shown if len(names) <= 2 * NUM_NAMED else f"{shown} and {len(names) - 2 * NUM_NAMED} more"
