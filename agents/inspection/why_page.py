"""`taskrl inspect --why`: the record of agents/inspection/explaining.py for people to read."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from agents.inspection.why import LEAST_CHANGE, NO_LEVEL
from agents.progress import Reporter
from envs.observation import LAST
from taskrl.evaluation.detectability import DETECTABLE

NUM_ENTRIES = 3
LEAST_SHOWN = 0.001
NUM_SWEEPS = 10
NUM_POINTS = 5


def show_why(why: Mapping[str, Any], parts: Mapping[str, Any], reporter: Reporter) -> None:
    """Sentences, sensitivities, sweeps, trees, and the description beside what was chosen. parts: of `choices` in
    result.json.
    """
    for sentence in why["sentences"]:
        reporter.say(sentence)
    if any(choice["any"] >= LEAST_SHOWN for choice in why["choices"].values()):
        reporter.console.print(sensitivity_table(why))
    lines = sweep_lines(why)
    if lines:
        reporter.say("Sweeps (* where no final run went; -: before the first decision):")
    for line in lines:
        reporter.say(f"  {line}")
    for line in tree_lines(why):
        reporter.say(line)
    if why["description"] is None and any(entry["name"].startswith(DETECTABLE) for entry in why["entries"]):
        reporter.say("Sets differ from run to run: their description is observed (detectable/*, statistic/*).")
    elif why["description"] is None:
        reporter.say("The description of the data was not recorded with this run.")
    else:
        reporter.console.print(description_table(why["description"], parts))
        told = ", ".join(f"{name} {_number(value)}" for name, value in why["description"]["statistics"].items())
        reporter.say(f"Statistics of the images, from 0 to 1: {told}.")


def sensitivity_table(why: Mapping[str, Any]) -> Table:
    """For each choice what permuting changes: everything at once, and the entries that it hangs on most."""
    table = Table(title=f"Change of probabilities when an entry is permuted ({why['num_permutations']} times)")
    for title in ("choice", "everything", "entries"):
        table.add_column(title)
    for name, choice in why["choices"].items():
        largest = sorted(choice["sensitivity"].items(), key=lambda pair: -pair[1])[:NUM_ENTRIES]
        shown = [f"{entry} {value:.3f}" for entry, value in largest if value >= LEAST_SHOWN]
        table.add_row(name, f"{choice['any']:.3f}", ", ".join(shown) or "none")
    return table


def sweep_lines(why: Mapping[str, Any]) -> list[str]:
    """The largest sweeps: probability of the level that moves most, at some points."""
    choices = why["choices"]
    lines = []
    for sweep in why["sweeps"][:NUM_SWEEPS]:
        within = sweep["change"] >= LEAST_CHANGE
        rows = [row for row, met in zip(sweep["probabilities"], sweep["recorded"], strict=True) if met or not within]
        moved = [max(column) - min(column) for column in zip(*rows, strict=True)]
        level = moved.index(max(moved))
        known = [index for index, met in enumerate(sweep["recorded"]) if met]
        step = max(1, -(-len(known) // NUM_POINTS))
        every = range(len(sweep["points"]))
        shown = every if sweep["entry"].startswith(LAST) else sorted({0, *known[::step], *known[-1:], every[-1]})
        cells = [f"{_point(sweep, index, choices)} {sweep['probabilities'][index][level]:.0%}" for index in shown]
        value = choices[sweep["choice"]]["levels"][level]
        lines.append(f"{sweep['choice']} {value:g} by {sweep['entry']}: {', '.join(cells)}")
    return lines


def tree_lines(why: Mapping[str, Any]) -> list[str]:
    """A tree for each choice that varies, and one line for those that do not."""
    lines, constant = [], []
    for name, choice in why["choices"].items():
        tree = choice["tree"]
        if tree["text"] is None:
            constant.append(f"{name} {tree['constant']:g}")
            continue
        fidelity = "fidelity unknown (one final run)"
        if tree["fidelity"] is not None:
            fidelity = f"right for {tree['fidelity']:.0%} of held-out decisions, the commonest level alone for "
            fidelity += f"{tree['commonest']:.0%}"
        lines += [f"Likeliest {name} as a tree, {fidelity}:", *(f"  {row}" for row in tree["text"].splitlines())]
    if constant:
        lines.append(f"Likeliest level the same in every recorded decision: {', '.join(constant)}.")
    return lines


def description_table(description: Mapping[str, Any], parts: Mapping[str, Any]) -> Table:
    """How well each view can be told from untouched images, beside the strengths that were chosen."""
    table = Table(title="What the data are like, and what was chosen")
    for title in ("view", "told from untouched images", "reference", "first decision", "last decision"):
        table.add_column(title)
    for name, accuracy in description["detectability"].items():
        if name not in parts:
            continue
        part = parts[name]
        rows = (part["probabilities"][0], part["probabilities"][-1])
        likeliest = [f"{part['levels'][row.index(max(row))]:g}" for row in rows]
        table.add_row(name, _number(accuracy), f"{part['levels'][part['reference']]:g}", *likeliest)
    return table


def _point(sweep: Mapping[str, Any], index: int, choices: Mapping[str, Any]) -> str:
    point = sweep["points"][index]
    mark = "" if sweep["recorded"][index] else "*"
    if not sweep["entry"].startswith(LAST):
        return f"{point:.3g}{mark}"
    if point == NO_LEVEL:
        return f"-{mark}"
    return f"{choices[sweep['entry'].removeprefix(LAST)]['levels'][int(point)]:g}{mark}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
