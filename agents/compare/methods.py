"""The methods that can be compared: floors, what learns nothing, and learners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agents.final import FIXED, HARD_VIEWS, PROFILE, SUPERVISED, UNTRAINED, is_recipe
from agents.online import ONLINE
from agents.options import pieces
from agents.searches.catalogue import searches
from agents.summary import LEARNED, PIXELS, REFERENCE
from taskrl.config import ExperimentConfig, validate
from taskrl.errors import ConfigError, unknown_name
from taskrl.tasks.space import split_limit

CONSTANT_FILE = Path(__file__).with_name("constant.yaml")
CONTRASTIVE = "contrastive"
CONSTANT = "constant"
AGENT, PRIOR = "agent", "prior"
REFERENCE_TOTAL = "reference-total"
PPO: dict[str, Any] = {"agent.name": "ppo", "agent.learning_rate": None, "agent.options": {}}
# agents, as the rest of the configuration has them but for these keys
VARIANTS: dict[str, dict[str, Any]] = {
    "ppo": PPO | {"agent.group": "episodes", "agent.group_relative": False},
    "branches": PPO | {"agent.group": "branches"},
    "schedule": {
        "agent.name": "thompson",
        "agent.learning_rate": None,
        "agent.hidden": [],
        "agent.group": "episodes",
        "agent.options": {"drift": 0.2},
    },
    "no-state": {"agent.observe": "zeroed"},
    "shuffled": {"agent.shuffle_rewards": True},
}
IN_GROUPS = ("branches", "schedule", "shuffled")
ALWAYS = (REFERENCE, UNTRAINED, SUPERVISED, PIXELS)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the comparison.

    source: of its generator (agents.final.Generator), empty where a search finds it. search: how it is found: "agent"
    (reinforcement learning), "prior" (the agent before training), empty for no search. changes: of the configuration
    that is searched with. whole_sum: its training gets what a search costs, too. needs_labels: of the images.
    reads_labels: of those that the reward reads. objective: that a run must have.
    """

    name: str
    source: str = ""
    search: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    argmax: bool = False
    whole_sum: bool = False
    needs_labels: bool = False
    reads_labels: bool = False
    objective: str = ""

    @property
    def searches(self) -> bool:
        """Whether there are several independent searches to tell apart."""
        return self.search not in ("", PRIOR) and not self.whole_sum

    def configured(self, config: ExperimentConfig) -> ExperimentConfig:
        """`config` as this method searches with it."""
        values = config.model_dump()
        for key, value in self.changes.items():
            section, name = key.split(".")
            values[section][name] = value
        return validate(values)


def catalogue(config: ExperimentConfig, num_channels: int) -> dict[str, Method]:
    """Every method by its name, in the order of the table; images have `num_channels` channels."""
    recipe_of = {name: _alone(config, name) for name in ("masked", "rotation")}
    methods = [
        Method(name=LEARNED, search=AGENT),
        Method(name="learned-argmax", search=AGENT, argmax=True),
        *(Method(name=name, search=AGENT, changes=changes) for name, changes in VARIANTS.items()),
        Method(name=REFERENCE, source=REFERENCE),
        Method(name=REFERENCE_TOTAL, source=REFERENCE, search=AGENT, whole_sum=True),
        *_constant(config, num_channels),
        *(Method(name=name, source=name) for name in (PROFILE, HARD_VIEWS)),
        Method(name=ONLINE, source=ONLINE),
        *(Method(name=name, source=recipe, objective=name) for name, recipe in recipe_of.items()),
        *(Method(name=name, search=name) for name in searches().names()),
        Method(name="prior", search=PRIOR),
        Method(name="prior-argmax", search=PRIOR, argmax=True),
        Method(name="random", source="random"),
        Method(name=SUPERVISED, source=SUPERVISED, needs_labels=True, reads_labels=True),
        Method(name=UNTRAINED, source=UNTRAINED),
        Method(name=PIXELS, source=PIXELS, needs_labels=True),
    ]
    return {method.name: method for method in methods}


def chosen_methods(
    config: ExperimentConfig, *, labelled: bool, paid_by_labels: bool, num_channels: int
) -> tuple[Method, ...]:
    """Those of config.compare.methods (None: all that these data allow), the reference and the floors.

    labelled: whether the images have labels; paid_by_labels: whether the reward reads them. Raises ConfigError for a
    name that is unknown or cannot be had here.
    """
    known = catalogue(config, num_channels)
    labels = (labelled, paid_by_labels)
    missing = {name: why for name, method in known.items() if (why := _impossible(method, config, *labels))}
    names = config.compare.methods
    if names is None:
        return tuple(method for name, method in known.items() if name not in missing)
    for name in names:
        if not is_recipe(name) and name not in known:
            hint = " A recipe with commas needs a --methods of its own." if "=" in name else ""
            raise ConfigError(unknown_name("method", name, {*known, f"{FIXED}RECIPE"}) + hint)
        if name in missing:
            raise ConfigError(f"Method {name!r} cannot be compared here: {missing[name]}.")
    recipes = [Method(name=name, source=name) for name in dict.fromkeys(names) if is_recipe(name)]
    wanted = {*names, *(name for name in ALWAYS if name not in missing)}
    chosen = [method for name, method in known.items() if name in wanted]
    first_floor = next(number for number, method in enumerate(chosen) if method.name in (SUPERVISED, UNTRAINED))
    return (*chosen[:first_floor], *recipes, *chosen[first_floor:])


def split_names(values: Sequence[str]) -> list[str]:
    """--methods: names with commas between them; a value that begins with fixed: is one name."""
    names = []
    for value in values:
        names += [value.strip()] if value.startswith(FIXED) else pieces([value])
    return names


def _constant(config: ExperimentConfig, num_channels: int) -> list[Method]:
    """The best single recipe on simulated sets, for grey or for colour images, where the package has one. What the user
    forbids or limits stays the reference's, which keeps to that.
    """
    if not CONSTANT_FILE.is_file():
        return []
    kind = "grey" if num_channels == 1 else "colour"
    try:
        recipe = yaml.safe_load(CONSTANT_FILE.read_text(encoding="utf-8"))[kind]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{CONSTANT_FILE} holds no recipe for {kind} images; install taskrl again.") from error
    settled = {*config.tasks.forbid, *(split_limit(limit)[0] for limit in config.tasks.limit)}
    open_ = [item for item in recipe.split(",") if item.partition("=")[0].removeprefix("no-") not in settled]
    return [Method(name=CONSTANT, source=f"{FIXED}{','.join(open_)}")]


def _alone(config: ExperimentConfig, objective: str) -> str:
    """The reference's views with one objective in place of its own."""
    return f"{FIXED}weight/{config.tasks.objectives[0]}=0,weight/{objective}=1"


def _impossible(method: Method, config: ExperimentConfig, labelled: bool, paid_by_labels: bool) -> str:
    """Why the method cannot be had; empty when it can."""
    if method.needs_labels and not labelled:
        return "it needs labels"
    if method.reads_labels and not paid_by_labels:
        return "it trains on the labels that the reward reads, and this reward reads none"
    if method.search in searches().names() and config.reward.noise_test == "lengthen":
        return "reward.noise_test=lengthen lets an agent's search cost more than its"
    if method.name == "bandit" and config.final.decisions < config.episode.decisions:
        return "the schedule that it finds has episode.decisions rows, more than final.decisions would play"
    if method.name in IN_GROUPS and config.agent.group_size < 2:
        return "it needs agent.group_size of at least 2"
    weighs = method.name == CONSTANT and f"weight/{CONTRASTIVE}" in method.source
    if (method.source == HARD_VIEWS or weighs) and config.tasks.objectives[0] != CONTRASTIVE:
        return "the reference recipe is not contrastive"
    if method.objective and method.objective not in config.tasks.objectives:
        return f"tasks.objectives does not have {method.objective}"
    return ""
