"""The configuration of a run: strict, frozen, written into the run folder as it was resolved."""

import difflib
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from taskrl.errors import ConfigError

MAX_CONFIG_BYTES = 200_000
# PyYAML's constructors raise the plain ones on values such as 2024-99-99, "!!int ''" and "!!timestamp soon"
YAML_ERRORS = (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError)
DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
PATTERNS = {DEVICE: "it is auto, cpu, cuda, or cuda: and a number"}


class Section(BaseModel):
    """Frozen; unknown keys and loose types are errors; no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """source: a name or a path. image_size: pixels a side. groups: npz column or regular expression on file names."""

    source: str = "cluttered-digits"
    root: str | None = None
    image_size: int = Field(default=32, ge=8, le=1024)
    download: bool = False
    groups: str | None = None
    use_labels: bool = True
    split_seed: int = Field(default=0, ge=0)
    memory_limit_mb: int = Field(default=2048, ge=1)


class TaskConfig(Section):
    """objectives: the first is the reference's. forbid, limit: what the user knows (knob names; "rotation<=0.2")."""

    objectives: list[str] = Field(default=["contrastive", "rotation", "masked", "jigsaw"], min_length=1)
    forbid: list[str] = []
    limit: list[str] = []


class PredictorConfig(Section):
    """The model that solves pretext tasks. width: of the small encoder. precision auto: bf16 where it is
    measured to be faster. compile auto: torch.compile where it is measured to save more time than compiling costs.
    init: an encoder to go on from: a folder that taskrl wrote, or a file of weights of `encoder`; init_sha256: of it.
    """

    encoder: str = "small"
    init: str = ""
    init_sha256: str = ""
    width: int = Field(default=32, ge=4, le=512)
    batch_size: int = Field(default=64, ge=8, le=8192)
    learning_rate: float = Field(default=3e-3, gt=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0, le=1)
    device: str = Field(default="auto", pattern=DEVICE)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "always", "never"] = "auto"


class RewardConfig(Section):
    """What quality is (docs/reward.md). probe auto: ridge where labels exist, few (labels and panel) where
    labels_per_class is below 20, the probe images hold fewer than 10 a class or the goal is not frozen features, the
    label-free panel elsewhere; solvability is the mean of held-out tasks. goal: what the encoder is for.
    labels_per_class caps the labels that are read.

    shaping: what a decision is paid: its gain, or its gain minus the reference's at the same decision (reference_curve:
    quality of the reference before and after each decision; measured when empty). cost_weight: what one reference
    decision's FLOPs cost. scale auto: such that chance alone moves a decision's reward by 0.01. noise_test: what an A/A
    test at the start does when chance moves rewards more than tasks do: warn, or lengthen the decisions.
    """

    probe: Literal["auto", "ridge", "few", "panel", "solvability"] = "auto"
    goal: Literal["frozen", "finetune", "dense"] = "frozen"
    labels_per_class: int = Field(default=30, ge=1)
    num_folds: int = Field(default=5, ge=2, le=20)
    panel_images: int = Field(default=512, ge=16)
    shaping: Literal["gain", "relative"] = "gain"
    cost_weight: float = Field(default=0.0, ge=0)
    reference_curve: list[float] = []
    scale: float | Literal["auto"] = "auto"
    noise_test: Literal["warn", "lengthen", "off"] = "warn"

    @field_validator("scale", mode="plain")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        """One sentence for both kinds of value, where a union would give one each."""
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max:
            return float(value)
        if value == "auto":
            return value
        raise PydanticCustomError("scale", "Input should be a finite number above 0, or auto")


class EpisodeConfig(Section):
    """decisions of `steps_per_decision` steps of the reference recipe each (counted in FLOPs)."""

    decisions: int = Field(default=4, ge=2, le=1000)
    steps_per_decision: int = Field(default=15, ge=1)

    @property
    def num_steps(self) -> int:
        """Of the whole episode."""
        return self.decisions * self.steps_per_decision


class AgentConfig(Section):
    """The learner. group_size: episodes that run in lock-step from the same initial encoder and data order.

    persistence: logit that the level of the last decision gets at first, so that exploration is steady over an episode
    (group: episodes and a linear policy only).
    options: further keywords of the SB3 algorithm, e.g. {gae_lambda: 0.9}.

    group: what a group of `group_size` is: whole episodes side by side, or branches, which try several actions from one
    snapshot at every decision and go on from one of them. observe: what the policy sees; all but full are ablations.
    shuffle_rewards: the control in which rewards of a decision are dealt out anew within a group. group_relative: the
    group's mean reward is taken off; not for thompson, which compares the episodes of a group itself.
    """

    name: str = "thompson"
    episodes: int = Field(default=112, ge=1, le=1_000_000)
    group_size: int = Field(default=8, ge=1, le=256)
    prior_strength: float = Field(default=2.0, ge=0, le=10)
    persistence: float = Field(default=4.0, ge=0, le=10)
    group_relative: bool = True
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    hidden: list[Annotated[int, Field(ge=1, le=4096)]] = []
    options: dict[str, bool | int | float | str] = {}
    group: Literal["episodes", "branches"] = "episodes"
    observe: Literal["full", "zeroed", "shuffled", "progress", "descriptor"] = "full"
    shuffle_rewards: bool = False


class FinalConfig(Section):
    """Final encoders: paired seeds for every generator; test reads the test images instead of the validation images.

    stop auto: training ends when quality has not risen by more than its noise for `patience` decisions, and the encoder
    of best quality counts; never: the last one does. ema: above 0, an exponential moving average of the weights with
    this decay a step is kept, too, beside the encoder that counts.
    """

    seeds: int = Field(default=5, ge=0, le=1000)
    decisions: int = Field(default=4, ge=2, le=1000)
    steps_per_decision: int = Field(default=40, ge=1)
    generators: list[str] = ["reference", "profile", "random", "prior"]
    test: bool = False
    stop: Literal["never", "auto"] = "never"
    patience: int = Field(default=3, ge=1, le=1000)
    ema: float = Field(default=0.0, ge=0.0, lt=1.0)

    @property
    def episode(self) -> EpisodeConfig:
        """How a final encoder is trained."""
        return EpisodeConfig(decisions=self.decisions, steps_per_decision=self.steps_per_decision)


class CompareConfig(Section):
    """taskrl compare. methods: None is all that there are (docs/compare.md). searches: independent searches of every
    method that searches; finals: final encoders of each; methods without a search get searches x finals. lengths: of
    the final runs, in multiples of final.steps_per_decision.
    """

    methods: list[str] | None = Field(default=None, min_length=1)
    searches: int = Field(default=5, ge=1, le=1000)
    finals: int = Field(default=2, ge=1, le=1000)
    lengths: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(default=[1], min_length=1)


class TrackingConfig(Section):
    """uri: MLflow tracking URI; empty is a sqlite file in the run folder, "none" turns MLflow off."""

    uri: str = ""
    experiment: str = "taskrl"


class ExperimentConfig(Section):
    """Everything that decides a run, in one record.

    mode: search for a task policy and then train with it; online: learn it within each final run; apply: train with
    the one at `policy` (a run, a policy folder or a schedule.yaml).

    envs: where the episodes of a group run: in `workers` processes, batched in this one, or in `workers` Ray actors
    (ray_address: of their cluster; empty starts one here). auto: whichever of the first two is faster here.
    worker_deadline_s: what a decision of the search may take in one of several workers; jobs that train longer get as
    many times more.
    """

    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    mode: Literal["search", "online", "apply"] = "search"
    policy: str = ""
    envs: Literal["auto", "processes", "batched", "ray"] = "auto"
    ray_address: str = ""
    workers: int = Field(default=2, ge=1, le=256)
    worker_deadline_s: float = Field(default=1800.0, gt=0)
    data: DataConfig = DataConfig()
    tasks: TaskConfig = TaskConfig()
    predictor: PredictorConfig = PredictorConfig()
    reward: RewardConfig = RewardConfig()
    episode: EpisodeConfig = EpisodeConfig()
    agent: AgentConfig = AgentConfig()
    final: FinalConfig = FinalConfig()
    compare: CompareConfig = CompareConfig()
    tracking: TrackingConfig = TrackingConfig()


def load_config(
    path: Path | None = None, overrides: list[str] | None = None, given: dict[str, Any] | None = None
) -> ExperimentConfig:
    """The defaults, changed by a YAML file, then by "a.b=c" texts, then by `given` ({"a.b": c}).

    Raises ConfigError naming every bad key.
    """
    values = read_yaml(path) if path else {}
    for text in overrides or []:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"Override {text!r} is not KEY=VALUE; write e.g. agent.episodes=32.")
        _put(values, key.strip().split("."), _parse(text, value))
    for key, value in (given or {}).items():
        _put(values, key.split("."), value)
    return validate(values)


def validate(values: dict[str, Any]) -> ExperimentConfig:
    """A configuration from nested dictionaries. Raises ConfigError: one sentence a bad key, the nearest known
    key named.
    """
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(" ".join(_explain(dict(item)) for item in error.errors()[:20])) from None


def dump_config(config: ExperimentConfig) -> str:
    """YAML that `load_config` reads back to an equal configuration."""
    return str(yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class _UniqueKeyLoader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader that refuses duplicate keys and aliases (alias bombs)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.YAMLError(f"the key {key!r} stands there twice")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """SafeDumper that quotes texts which the loader would read as numbers."""


# YAML 1.2, as people write it: PyYAML takes 1e-3 for a text
for _class in (_UniqueKeyLoader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def read_yaml(path: Path, what: str = "Config file") -> dict[str, Any]:
    """The mapping in a plain YAML file. Raises ConfigError, naming it as `what`, when it is none or too large."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read ({error.strerror}); check the path.") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{what} {path} has {len(data)} bytes; it has at most {MAX_CONFIG_BYTES}.")
    try:
        values = yaml.load(data.decode(), Loader=_UniqueKeyLoader)
    except YAML_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{what} {path} is not plain YAML ({reason}); write keys and values only.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{what} {path} holds a {type(values).__name__}; expected keys and values.")
    return values


def _parse(text: str, value: str) -> Any:
    try:
        return yaml.load(value, Loader=_UniqueKeyLoader)
    except YAML_ERRORS:
        raise ConfigError(
            f"Override {text!r} has a value that is not plain YAML; quote it or use a number or list."
        ) from None


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"Override {'.'.join(path)} goes into {key!r}, which is a value and has no keys.")
        values = inner
    values[path[-1]] = value


def _explain(error: dict[str, Any]) -> str:
    where = [str(part) for part in error["loc"]]
    key = ".".join(where)
    if error["type"] == "extra_forbidden":
        known = list(flatten(ExperimentConfig().model_dump()))
        section = ".".join(where[:-1])
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [
            k for k in known if k.endswith(f".{where[-1]}")
        ]
        hint = f" did you mean {near[0]!r}?" if near else f" known keys: {', '.join(sorted(_keys_of(section)))}."
        return f"Unknown config key {key!r};{hint}"
    given = repr(error.get("input"))[:60]
    message = str(error["msg"])
    if error["type"] == "model_type":
        message = f"it is a section; give one of its keys: {', '.join(sorted(_keys_of(key)))}"
    elif error["type"] == "string_pattern_mismatch":
        message = PATTERNS[error["ctx"]["pattern"]]
    return f"Config key {key!r} has the value {given}: {message[:1].lower()}{message[1:]}."


def _keys_of(section: str) -> list[str]:
    known = flatten(ExperimentConfig().model_dump())
    start = f"{section}." if section else ""
    return sorted({key[len(start) :].split(".")[0] for key in known if key.startswith(start)})
