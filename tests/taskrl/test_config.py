"""A configuration is strict: every mistake is one sentence, nothing in a file can run code or blow up."""

from pathlib import Path
from typing import Any

import pytest

from taskrl.config import MAX_CONFIG_BYTES, ExperimentConfig, dump_config, flatten, load_config, validate
from taskrl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    """The sentence of the ConfigError that `call` raises."""
    with pytest.raises(ConfigError) as error:
        call(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and "pydantic" not in text
    return text


def test_nothing_given_is_the_defaults() -> None:
    assert load_config() == ExperimentConfig()


def test_given_values_win_over_overrides_and_these_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\nagent: {episodes: 1, group_size: 1}\npredictor:\n  width: 16\n")
    config = load_config(path, ["agent.episodes=2", "agent.group_size=2"], {"agent.group_size": 3})
    assert (config.seed, config.predictor.width) == (1, 16)
    assert (config.agent.episodes, config.agent.group_size) == (2, 3)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=7", "seed", 7),
        (" seed = 7", "seed", 7),
        ("predictor.learning_rate=0.01", "predictor.learning_rate", 0.01),
        ("predictor.learning_rate=1", "predictor.learning_rate", 1.0),
        ("predictor.learning_rate=1e-3", "predictor.learning_rate", 0.001),
        ("predictor.learning_rate=2.5E-3", "predictor.learning_rate", 0.0025),
        ("data.download=true", "data.download", True),
        ("data.groups=null", "data.groups", None),
        ("data.groups='^(a=b)'", "data.groups", "^(a=b)"),
        ("tasks.objectives=[masked, rotation]", "tasks.objectives", ["masked", "rotation"]),
        ("tasks.limit=['rotation<=0.2']", "tasks.limit", ["rotation<=0.2"]),
        ("reward.scale=auto", "reward.scale", "auto"),
        ("reward.scale=2", "reward.scale", 2.0),
        ("reward.reference_curve=[0.1, 0.25]", "reward.reference_curve", [0.1, 0.25]),
        ("agent.options={gae_lambda: 0.9}", "agent.options", {"gae_lambda": 0.9}),
        ("agent.options.gae_lambda=0.9", "agent.options", {"gae_lambda": 0.9}),
    ],
)
def test_overrides_are_read_as_yaml(override: str, key: str, value: Any) -> None:
    found = load_config(overrides=[override])
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_dumped_configuration_loads_to_an_equal_one(tmp_path: Path) -> None:
    config = load_config(
        given={
            "data.source": "./imágenes: 3 #x",
            "data.groups": r"^(\d+)_",
            "tasks.limit": ["rotation<=0.2", "crop>=0.6"],
            "predictor.learning_rate": 1e-05,
            "agent.options": {"gae_lambda": 0.9, "normalize": True, "n": 3, "text": "yes", "number": "1e-3"},
            "agent.learning_rate": None,
            "tracking.uri": "none",
        }
    )
    assert load_config(written(tmp_path, dump_config(config))) == config
    assert load_config(written(tmp_path, dump_config(ExperimentConfig()))) == ExperimentConfig()


def test_a_configuration_cannot_be_changed() -> None:
    config = load_config()
    with pytest.raises(Exception, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(Exception, match="frozen"):
        config.agent.name = "a2c"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("agent.episods", "agent.episodes"),
        ("agnet.episodes", "agent.episodes"),
        ("predictor.batchsize", "predictor.batch_size"),
        ("data.image_sizes", "data.image_size"),
        ("episodes", "agent.episodes"),
        ("sead", "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(key: str, near: str) -> None:
    first = key if key != "agnet.episodes" else "agnet"
    text = message(load_config, overrides=[f"{key}=3"])
    assert text.startswith(f"Unknown config key {first!r};")
    assert near in text or (first == "agnet" and "agent" in text)


def test_every_bad_key_is_named_at_once() -> None:
    text = message(load_config, overrides=["agent.episods=3", "predictor.width=wide", "seed=-1"])
    assert all(part in text for part in ("agent.episods", "predictor.width", "'wide'", "seed", "-1"))


@pytest.mark.parametrize(
    "override",
    [
        "seed=1.5",
        "seed='1'",
        "seed=true",
        "seed=null",
        "seed=[1]",
        "seed=-1",
        "seed=99999999999999999999",
        "data.download=1",
        "data.download='yes'",
        "data.source=3",
        "data.image_size=4",
        "predictor.precision=fp16",
        "predictor.device=gpu",
        "predictor.learning_rate=.nan",
        "predictor.learning_rate=.inf",
        "predictor.learning_rate=0",
        "reward.scale=-.inf",
        "reward.scale=0",
        "reward.scale=true",
        "reward.scale=automatic",
        "reward.cost_weight=-1",
        "reward.cost_weight=.nan",
        "reward.shaping=ratio",
        "reward.noise_test=true",
        "reward.reference_curve=[.nan, 1.0]",
        "worker_deadline_s=.nan",
        "agent.options={gae_lambda: .nan}",
        "agent.options={gae_lambda: [1]}",
        "agent.hidden=[1.5]",
        "tasks.objectives=[]",
        "tasks.objectives=masked",
        "episode.decisions=1",
        "agent=3",
        "agent=null",
        "agent.name={a: 1}",
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_with_its_key(override: str) -> None:
    key = override.partition("=")[0]
    assert key in message(load_config, overrides=[override])


@pytest.mark.parametrize("override", ["seed", "=3", "", " =3"])
def test_an_override_without_key_or_value_is_refused(override: str) -> None:
    assert "is not KEY=VALUE" in message(load_config, overrides=[override])


def test_an_override_cannot_go_into_a_value() -> None:
    assert "'seed', which is a value" in message(load_config, overrides=["seed=1", "seed.deeper=3"])


MALICIOUS = [
    "!!python/object/apply:os.system ['true']",
    "!!python/name:os.system",
    "!!python/object:taskrl.config.ExperimentConfig {}",
    "&a [1, *a]",
    "2024-99-99",
    "!!int ''",
    "!!int few",
    "!!float few",
    "!!bool few",
    "!!timestamp few",
    "!!binary few",
    "{a: 1, a: 2}",
    "{[1]: 2}",
    "{{a: 1}: 2}",
    "[" * 1500,
    "'open",
    "\x00",
    "9" * 5000,
    "{<<: {seed: 3}}",
]


@pytest.mark.parametrize("value", MALICIOUS, ids=lambda value: repr(value)[:30])
def test_a_value_that_is_not_plain_yaml_is_refused_in_one_sentence(tmp_path: Path, value: str) -> None:
    assert message(load_config, overrides=[f"seed={value}"])
    assert message(load_config, written(tmp_path, f"seed: {value}\n"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases"),
        ("agent: &agent {episodes: 3}\nfinal: *agent\n", "aliases"),
        ("seed: 1\nseed: 2\n", "'seed' stands there twice"),
        ("agent:\n  episodes: 1\n  name: ppo\n  episodes: 2\n", "'episodes' stands there twice"),
        ("- seed\n- 3\n", "holds a list"),
        ("just text", "holds a str"),
        ("3", "holds a int"),
        ("seed: 1\n---\nseed: 2\n", "not plain YAML"),
        (b"seed: \xff\xfe\n", "not plain YAML"),
        ("seed: [1\n", "not plain YAML"),
        ("1: 2\n", "1"),
    ],
)
def test_a_file_that_is_no_plain_mapping_is_refused_with_the_reason(
    tmp_path: Path, text: str | bytes, reason: str
) -> None:
    assert reason in message(load_config, written(tmp_path, text))


def test_a_huge_or_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "at most" in message(load_config, written(tmp_path, "#" * (MAX_CONFIG_BYTES + 1)))
    assert "cannot be read" in message(load_config, tmp_path / "none.yaml")
    assert "cannot be read" in message(load_config, tmp_path)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_config(written(tmp_path, text)) == ExperimentConfig()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_configurations_load(path: Path) -> None:
    load_config(path)


def test_flattening_names_every_leaf_by_its_path() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]}) == {"a.b": 1, "a.c.d": 2, "e": [3]}
    assert flatten(ExperimentConfig().model_dump())["agent.episodes"] == 112


def test_validate_takes_nested_values() -> None:
    assert validate({"agent": {"episodes": 3}}).agent.episodes == 3
