"""TaskSpace: the only codec between actions and TaskSpecs.

Parts of the canonical MultiDiscrete action: one weight part for each objective (when there are several), then one part
a knob. `docs/glossary.md` has the words, `knobs` of a modality have the levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from taskrl.errors import ConfigError, unknown_name
from taskrl.tasks.spec import TaskSpec

Codec = Literal["multidiscrete", "discrete", "box"]
WEIGHT_LEVELS = (0.0, 0.5, 1.0)
WEIGHT_RANGE = (min(WEIGHT_LEVELS), max(WEIGHT_LEVELS))
WEIGHT_LOGIT = 2.0
SMALLEST_SHARE = 0.05
FORBIDDEN_LOGIT = -20.0
MAX_DISCRETE_ACTIONS = 64


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A strength with a few levels, ordered from weak to strong.

    reference: index of the reference recipe's level. logit: its prior logit at strength 1 (all others 0). used_by:
    objectives that read it; None means all. allowed: levels that the user's limits leave open.
    """

    name: str
    levels: tuple[float, ...]
    reference: int
    logit: float
    used_by: tuple[str, ...] | None = None
    allowed: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.allowed:
            object.__setattr__(self, "allowed", (True,) * len(self.levels))

    def open_range(self) -> tuple[float, float]:
        """The least and the greatest strength that may be played."""
        open_ = [level for level, flag in zip(self.levels, self.allowed, strict=True) if flag]
        return min(open_), max(open_)

    def nearest_allowed(self, index: int) -> int:
        """The allowed level whose strength is nearest to that of level `index`, the weaker one on a tie."""
        open_ = [i for i, flag in enumerate(self.allowed) if flag]
        return min(open_, key=lambda i: (abs(self.levels[i] - self.levels[index]), i))

    def limited(self, relation: str, bound: float) -> "Knob":
        """Clip the levels to `bound` ("<=" or ">="); levels that clipping made equal to an earlier one are closed."""
        clip = min if relation == "<=" else max
        levels = tuple(clip(level, bound) for level in self.levels)
        allowed = tuple(
            open_ and level not in levels[:index]
            for index, (level, open_) in enumerate(zip(levels, self.allowed, strict=True))
        )
        limited = replace(self, levels=levels, allowed=allowed)
        return replace(limited, reference=limited.nearest_allowed(self.reference))

    def forbidden(self) -> "Knob":
        """Only the weakest level stays open."""
        only_weakest = tuple(index == 0 for index in range(len(self.levels)))
        return replace(self, allowed=only_weakest, reference=0)


def split_limit(text: str) -> tuple[str, str, str]:
    """Knob, relation and bound of a limit such as "crop>=0.6"; a text without a relation has an empty bound."""
    relation = ">=" if ">=" in text and "<=" not in text else "<="
    name, _, bound = text.partition(relation)
    return name.strip(), relation, bound


def restrict(knobs: Sequence[Knob], *, forbid: Sequence[str], limit: Sequence[str]) -> tuple[Knob, ...]:
    """Apply what the user knows: `forbid` names knobs, `limit` holds texts such as "rotation<=0.2" or "crop>=0.6"."""
    by_name = {knob.name: knob for knob in knobs}

    def known(name: str) -> Knob:
        if name not in by_name:
            raise ConfigError(unknown_name("knob", name, by_name))
        return by_name[name]

    for name in forbid:
        by_name[name] = known(name).forbidden()
    for text in limit:
        name, relation, bound = split_limit(text)
        try:
            value = float(bound)
        except ValueError:
            raise ConfigError(
                f"Limit {text!r} is not KNOB<=NUMBER or KNOB>=NUMBER; write e.g. rotation<=0.2."
            ) from None
        knob = known(name)
        low, high = min(knob.levels), max(knob.levels)
        if not (low <= value <= high):
            raise ConfigError(
                f"Limit {text!r} is outside the range of {knob.name}; choose a number in [{low:g}, {high:g}]."
            )
        limited = knob.limited(relation, value)
        if knob.name in forbid and limited.levels[0] != knob.levels[0]:
            raise ConfigError(
                f"Limit {text!r} leaves out {knob.levels[0]:g}, the only strength of {knob.name} that forbidding it "
                "leaves; give one of the two."
            )
        by_name[knob.name] = limited
    return tuple(by_name.values())


class TaskSpace:
    """Actions <-> TaskSpecs in one of three codecs."""

    def __init__(self, *, objectives: Sequence[str], knobs: Sequence[Knob], codec: Codec = "multidiscrete") -> None:
        """objectives: the first one is the reference's. knobs: of the modality, already restricted."""
        if not objectives or len(set(objectives)) != len(objectives):
            raise ConfigError(f"Objectives {list(objectives)} are empty or repeated; name each one once.")
        if codec not in get_args(Codec):
            raise ConfigError(unknown_name("codec", codec, get_args(Codec)))
        self.objectives = tuple(objectives)
        self.knobs = tuple(knobs)
        self.codec: Codec = codec
        weights = tuple(
            Knob(name=f"weight/{name}", levels=WEIGHT_LEVELS, reference=2 if i == 0 else 0, logit=WEIGHT_LOGIT)
            for i, name in enumerate(self.objectives)
        )
        self.parts: tuple[Knob, ...] = (weights if len(self.objectives) > 1 else ()) + self.knobs
        self._num_weights = len(self.parts) - len(self.knobs)
        self._choices = self._enumerate() if codec == "discrete" else ()
        self.action_space = self._make_space()

    @property
    def reference(self) -> TaskSpec:
        """The strong hand-made default."""
        return self._spec_of_indices([part.reference for part in self.parts])

    @property
    def deviations(self) -> tuple[TaskSpec, ...]:
        """The reference with one part at the open level that is farthest from the reference's, for each part where
        that is another task.
        """
        start = [part.reference for part in self.parts]
        rows = []
        for i, part in enumerate(self.parts):
            open_levels = [index for index, open_ in enumerate(part.allowed) if open_]
            farthest = max(open_levels, key=lambda index: (abs(index - part.reference), index))
            rows.append(self._spec_of_indices([*start[:i], farthest, *start[i + 1 :]]))
        return tuple(spec for spec in dict.fromkeys(rows) if spec != self.reference)

    def part_names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def decode(self, action: NDArray[np.generic] | int) -> TaskSpec:
        """The task that `action` chose. Raises ValueError when it is not in the action space."""
        array = np.asarray(action)
        if not np.issubdtype(array.dtype, np.floating) and not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"action {action!r} is not numeric; expected a member of {self.action_space}")
        if self.codec == "box":
            array = array.astype(np.float32)
        if not self.action_space.contains(array if self.codec != "discrete" else array[()]):
            raise ValueError(f"action {action!r} is not in the action space {self.action_space}")
        if self.codec == "discrete":
            return self._choices[int(array)]
        if self.codec == "multidiscrete":
            return self._spec_of_indices([int(index) for index in array])
        return self._spec_of_coordinates(array)

    def encode(self, spec: TaskSpec) -> NDArray[np.generic]:
        """An action that decodes to `spec`. Raises ValueError when this codec cannot express it."""
        if self.codec == "discrete":
            if spec not in self._choices:
                raise ValueError(f"the discrete codec cannot express {spec.describe()!r}; use multidiscrete or box")
            return np.array(self._choices.index(spec), dtype=np.int64)
        values = self._values_of(spec)
        if self.codec == "box":
            pairs = zip(self.parts, values, strict=True)
            return np.array([_coordinate(part.levels, value) for part, value in pairs], dtype=np.float32)
        indices = self.level_indices(spec)
        if self._spec_of_indices(indices) != spec:
            raise ValueError(f"the multidiscrete codec cannot express {spec.describe()!r}; use its levels only")
        return np.array(indices, dtype=np.int64)

    def level_indices(self, spec: TaskSpec) -> list[int]:
        """For each part of the canonical action, the level nearest to what `spec` holds."""
        return [_nearest(part.levels, value) for part, value in zip(self.parts, self._values_of(spec), strict=True)]

    def box_level_indices(self, actions: NDArray[np.floating]) -> NDArray[np.int64]:
        """`level_indices` of what box actions (N, parts) decode to (N, parts), of all of them at once."""
        values = np.empty(actions.shape)
        for column, part in enumerate(self.parts):
            position = (actions[:, column].astype(np.float64) + 1) / 2 * (len(part.levels) - 1)
            values[:, column] = np.interp(position, np.arange(len(part.levels)), part.levels)
            values[:, column] = values[:, column].clip(*part.open_range()).round(6)  # as in a spec
        weights = values[:, : self._num_weights] if self._num_weights else np.ones((len(actions), 1))
        weights[weights.sum(axis=1) == 0, 0] = 1.0
        shares = weights / weights.sum(axis=1, keepdims=True)
        weights = np.where(shares >= SMALLEST_SHARE, weights, 0.0)
        values[:, : self._num_weights] = (weights / weights.max(axis=1, keepdims=True))[:, : self._num_weights]
        for column, knob in enumerate(self.knobs, self._num_weights):
            if knob.used_by is not None:
                unused = ~weights[:, [name in knob.used_by for name in self.objectives]].any(axis=1)
                values[unused, column] = knob.levels[knob.reference]
        distances = [np.abs(np.array(p.levels) - values[:, [column]]) for column, p in enumerate(self.parts)]
        return np.stack([distance.argmin(axis=1) for distance in distances], axis=1)

    def prior_logits(self, strength: float) -> tuple[NDArray[np.float32], ...]:
        """Logits of each MultiDiscrete part: `strength` x the knob's logit at the reference level, closed levels
        shut.
        """
        rows = []
        for part in self.parts:
            row = np.where(part.allowed, 0.0, FORBIDDEN_LOGIT).astype(np.float32)
            row[part.reference] += np.float32(strength * part.logit)
            rows.append(row)
        return tuple(rows)

    def prior_weights(self, strength: float) -> NDArray[np.float64]:
        """Discrete codec: probability of each choice, the reference's logit being `strength` x 2 and all others 0."""
        logits = np.array([strength * WEIGHT_LOGIT if spec == self.reference else 0.0 for spec in self._choices])
        weights = np.exp(logits - logits.max())
        return np.asarray(weights / weights.sum())

    def action_mask(self) -> NDArray[np.bool_]:
        """Which choices are open before the action: one flat array over all parts (or all discrete choices)."""
        if self.codec == "discrete":
            return np.ones(len(self._choices), dtype=np.bool_)
        return np.concatenate([np.array(part.allowed, dtype=np.bool_) for part in self.parts])

    def recipe(self, text: str) -> TaskSpec:
        """A fixed recipe: the reference with changes, "reference", "no-KNOB" or "KNOB=NUMBER,OBJECTIVE=WEIGHT,...".

        "weight/OBJECTIVE=WEIGHT" means the objective where a knob has the same name.
        """
        weights = {name: float(i == 0) for i, name in enumerate(self.objectives)}
        levels = {knob.name: knob.levels[knob.reference] for knob in self.knobs}
        for item in filter(None, (piece.strip() for piece in text.split(","))):
            if item == "reference":
                continue
            name, equals, number = item.partition("=")
            if not equals and name.startswith("no-") and name[3:] in levels:
                levels[name[3:]] = next(knob.levels[0] for knob in self.knobs if knob.name == name[3:])
                continue
            objective = name.removeprefix("weight/")  # a knob and an objective may share a name
            if name not in levels and objective not in weights:
                known = {*levels, *weights, *(f"weight/{k}" for k in weights), *(f"no-{k}" for k in levels)}
                raise ConfigError(unknown_name("recipe part", name, known))
            if name in levels:
                levels[name] = self._recipe_value(item, name, number)
            else:
                weights[objective] = self._recipe_value(item, f"weight/{objective}", number)
        if not any(weights.values()):
            raise ConfigError(
                f"Recipe {text!r} gives every objective the weight 0; give at least one a weight above 0."
            )
        return self._make_spec(weights, levels)

    def _recipe_value(self, item: str, name: str, number: str) -> float:
        try:
            value = float(number)
        except ValueError:
            raise ConfigError(f"Recipe part {item!r} is not NAME=NUMBER; write e.g. mirror=0.") from None
        low, high = next((knob.open_range() for knob in self.knobs if knob.name == name), WEIGHT_RANGE)
        if not low <= value <= high:
            known = (
                f"takes a number in [{low:g}, {high:g}]" if low < high else f"stays at {low:g} (--forbid or --limit)"
            )
            raise ConfigError(f"Recipe part {item!r} is out of range; {name} {known}.")
        return value

    def _make_space(self) -> gymnasium.Space:  # type: ignore[type-arg]
        if self.codec == "discrete":
            return spaces.Discrete(len(self._choices))
        if self.codec == "box":
            return spaces.Box(-1.0, 1.0, (len(self.parts),), np.float32)
        return spaces.MultiDiscrete([len(part.levels) for part in self.parts])

    def _enumerate(self) -> tuple[TaskSpec, ...]:
        """The reference, each single deviation from it, each objective alone; without repetitions."""
        start = [part.reference for part in self.parts]
        rows = [start]
        for i, part in enumerate(self.parts):
            rows += [[*start[:i], level, *start[i + 1 :]] for level, open_ in enumerate(part.allowed) if open_]
        for i in range(self._num_weights):
            rows.append([2 if i == j else 0 for j in range(self._num_weights)] + start[self._num_weights :])
        choices = tuple(dict.fromkeys(self._spec_of_indices(row) for row in rows))
        if len(choices) > MAX_DISCRETE_ACTIONS:
            raise ConfigError(
                f"The discrete codec has {len(choices)} actions, at most {MAX_DISCRETE_ACTIONS} make sense."
            )
        return choices

    def _spec_of_indices(self, indices: Sequence[int]) -> TaskSpec:
        values = [
            part.levels[part.nearest_allowed(index) if not part.allowed[index] else index]
            for part, index in zip(self.parts, indices, strict=True)
        ]
        return self._spec_of_values(values)

    def _spec_of_coordinates(self, action: NDArray[np.floating]) -> TaskSpec:
        values = []
        for part, coordinate in zip(self.parts, action, strict=True):
            least, greatest = part.open_range()
            value = _interpolate(part.levels, float(coordinate))
            values.append(min(max(value, least), greatest))
        return self._spec_of_values(values)

    def _spec_of_values(self, values: Sequence[float]) -> TaskSpec:
        names = self.objectives
        weights = dict(zip(names, values[: self._num_weights], strict=True)) if self._num_weights else {names[0]: 1.0}
        levels = dict(zip((knob.name for knob in self.knobs), values[self._num_weights :], strict=True))
        return self._make_spec(weights, levels)

    def _make_spec(self, weights: Mapping[str, float], levels: Mapping[str, float]) -> TaskSpec:
        total = sum(weights.values())
        shares = {name: weight / total for name, weight in weights.items()} if total else {self.objectives[0]: 1.0}
        kept = {name: share for name, share in shares.items() if share >= SMALLEST_SHARE}
        scale = sum(kept.values())
        mixture = {name: round(share / scale, 6) for name, share in kept.items()}
        # what rounding left over goes to the largest share: shares that sum to 1 come back equal from `encode`
        largest = max(mixture, key=lambda name: mixture[name])
        mixture[largest] = round(mixture[largest] + 1 - sum(mixture.values()), 6)
        used = [knob for knob in self.knobs if knob.used_by is None or set(knob.used_by) & set(kept)]
        return TaskSpec(
            mixture=tuple(mixture.items()),
            levels=tuple((knob.name, round(levels[knob.name], 6)) for knob in used),
        )

    def _values_of(self, spec: TaskSpec) -> list[float]:
        largest = max(share for _, share in spec.mixture)
        weights = [spec.share(name) / largest for name in self.objectives] if self._num_weights else []
        given = dict(spec.levels)
        return weights + [given.get(knob.name, knob.levels[knob.reference]) for knob in self.knobs]


def _interpolate(levels: tuple[float, ...], coordinate: float) -> float:
    """Piecewise-linear strength at `coordinate` in [-1, 1], -1 being the first level and 1 the last."""
    position = (coordinate + 1) / 2 * (len(levels) - 1)
    return float(np.interp(position, np.arange(len(levels)), levels))


def _coordinate(levels: tuple[float, ...], value: float) -> float:
    """Inverse of `_interpolate`."""
    # turned round, not sorted: the copies that a limit makes of one level must keep their order
    order = np.arange(len(levels))[:: -1 if levels[0] > levels[-1] else 1]
    position = np.interp(value, np.array(levels)[order], order.astype(float))
    return float(2 * position / max(len(levels) - 1, 1) - 1)


def _nearest(levels: tuple[float, ...], value: float) -> int:
    return int(np.argmin(np.abs(np.array(levels) - value)))
