"""--init: runs go on from an encoder that is there, and say what became of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from agents.compare.cells import encoder_settings
from taskrl.assemble import Assembled, assemble, load_data
from taskrl.config import ExperimentConfig, dump_config
from taskrl.errors import ConfigError
from taskrl.export import export_encoder, load_exported
from taskrl.folders import fingerprint
from taskrl.modalities.image.encoders import make_encoder
from taskrl.run_folder import RunFolder
from tests.agents.runs import taskrl, tiny_options
from tests.envs.tiny import tiny_config


def save_small(folder: Path, *, channels: int = 1, seed: int = 7, width: int = 16) -> Path:
    """An encoder of its own width, mean and sd, exported as taskrl does."""
    mean, std = [0.25] * channels, [0.5] * channels
    encoder, config = make_encoder(
        "small", in_channels=channels, image_size=20, width=width, mean=mean, std=std, seed=seed
    )
    example = torch.rand(8, channels, 20, 20, generator=torch.Generator().manual_seed(0))
    encoder(example)  # moves the running statistics off their start
    export_encoder(encoder, config, folder, example=example, card={"data": "elsewhere"})
    return folder


def assembled_from(path: Path | str, **changes: Any) -> Assembled:
    config = tiny_config(**{"predictor__init": str(path), "predictor__width": 16, **changes})
    return assemble(config, load_data(config))


def weights_of(assembled: Assembled, seed: int = 0) -> dict[str, torch.Tensor]:
    return assembled.problem.make_predictor(seed).encoder.net.state_dict()  # type: ignore[union-attr, operator]


def test_every_predictor_starts_from_the_given_weights_and_normalisation(tmp_path: Path) -> None:
    given = load_exported(save_small(tmp_path / "encoder"))
    assembled = assembled_from(tmp_path / "encoder")
    for seed in (0, 1):
        for name, value in given.backbone.state_dict().items():
            torch.testing.assert_close(weights_of(assembled, seed)[name], value, atol=0, rtol=0)
    images = assembled.splits.validation.inputs.take(torch.arange(5))
    with torch.no_grad():
        expected = given(images)
    torch.testing.assert_close(assembled.problem.make_predictor(0).encode(images), expected, atol=1e-5, rtol=0)


def test_the_configuration_says_what_the_encoder_is(tmp_path: Path) -> None:
    assembled = assembled_from(save_small(tmp_path / "run" / "encoder").parent)
    settings = assembled.config.predictor
    assert (settings.encoder, settings.width) == ("small", 16)
    assert len(settings.init_sha256) == 64 and Path(settings.init).is_absolute()
    assert assembled.encoder_config["mean"] == [0.25] and assembled.encoder_config["feature_dim"] == 64


def test_heads_meet_a_trained_encoder_and_are_warmed_up(tmp_path: Path) -> None:
    assert assembled_from(save_small(tmp_path / "encoder")).problem.make_predictor(0).pretrained
    fresh = tiny_config()
    assert not assemble(fresh, load_data(fresh)).problem.make_predictor(0).pretrained


def test_training_one_predictor_leaves_the_next_one_as_given(tmp_path: Path) -> None:
    assembled = assembled_from(save_small(tmp_path / "encoder"))
    before = {name: value.clone() for name, value in weights_of(assembled).items()}
    predictor = assembled.problem.make_predictor(0)
    for parameter in predictor.nets.parameters():
        parameter.data.add_(1.0)
    for name, value in weights_of(assembled).items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


def test_a_colour_encoder_sums_its_first_convolution_for_grey_images(tmp_path: Path) -> None:
    given = load_exported(save_small(tmp_path / "encoder", channels=3))
    assembled = assembled_from(tmp_path / "encoder")
    images = assembled.splits.validation.inputs.take(torch.arange(5))
    with torch.no_grad():
        expected = given(images.expand(-1, 3, -1, -1))  # equal means and sds: exactly the same function
    torch.testing.assert_close(assembled.problem.make_predictor(0).encode(images), expected, atol=1e-4, rtol=1e-4)


def test_making_predictors_for_grey_images_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    assembled = assembled_from(save_small(tmp_path / "encoder", channels=3))
    before = torch.get_rng_state()
    assembled.problem.make_predictor(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_torchvision_state_dict_is_taken_with_its_architecture(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = models.mobilenet_v3_small()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    assembled = assembled_from(tmp_path / "weights.pth", predictor__encoder="mobilenet_v3_small")
    found = weights_of(assembled)["backbone.features.1.block.0.0.weight"]
    torch.testing.assert_close(found, model.state_dict()["features.1.block.0.0.weight"], atol=0, rtol=0)


def test_a_run_from_an_encoder_scores_it_as_it_is_and_exports_what_became_of_it(tmp_path: Path) -> None:
    save_small(tmp_path / "encoder")
    options = tiny_options(predictor__width=16)
    result = taskrl("train", "--init", tmp_path / "encoder", "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    assert "`untrained` stands for it as it is" in result.output
    run = RunFolder.open(tmp_path / "run")
    untrained = [row["linear_accuracy"] for row in run.result()["rows"] if row["generator"] == "untrained"]
    assert untrained[0] == untrained[1]  # one and the same encoder on both seeds
    assert load_exported(run.encoder).feature_dim == 64


def test_weights_that_changed_meanwhile_are_refused(tmp_path: Path) -> None:
    save_small(tmp_path / "encoder")
    digest = assembled_from(tmp_path / "encoder").config.predictor.init_sha256
    save_small(tmp_path / "other", seed=8)
    message = r"not those that this was begun with \(SHA-256 [0-9a-f]{12}\.\.\., not"
    with pytest.raises(ConfigError, match=message):
        assembled_from(tmp_path / "other", predictor__init_sha256=digest)


def test_cells_of_a_comparison_are_named_by_the_weights_not_by_their_place(tmp_path: Path) -> None:
    def settings(config: ExperimentConfig) -> Any:
        return encoder_settings(config, "data")["predictor"]

    one = assembled_from(save_small(tmp_path / "one")).config
    moved = assembled_from(save_small(tmp_path / "two")).config
    other = assembled_from(save_small(tmp_path / "three", seed=8)).config
    assert settings(one) == settings(moved) != settings(other)
    assert not {"init", "init_sha256"} & set(settings(tiny_config()))  # stores from before --init keep their names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init", "nowhere"], "nowhere' is no encoder; give a run"),
        (["--init", "photos"], "is no encoder; give a run"),
        (["--init", "weights.pth"], "name the torchvision model that they belong to, e.g. --encoder resnet18"),
        (["--init", "weights.pth", "--encoder", "resnet18"], "cannot be read"),
        (["--init", "weights.pth", "--encoder", "resnet9"], "resnet9"),
        (["--init", "encoder", "--encoder", "resnet18"], "holds a small, not a resnet18; leave --encoder resnet18 out"),
        (["--init", "damaged"], "model.safetensors"),
        (["--init", "encoder"], "has width 16, and predictor.width is 8; leave predictor.width out"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    save_small(tmp_path / "encoder")
    (save_small(tmp_path / "damaged") / "model.safetensors").write_bytes(b"cut off")
    result = taskrl("train", *arguments, "--out", "run", *tiny_options())
    assert result.exit_code == 2 and message in result.output, result.output
    assert result.output.count("Error:") == 1 and not (tmp_path / "run").exists()


def test_an_encoder_that_is_given_replaces_that_of_the_config_of_a_run(tmp_path: Path) -> None:
    first, second = save_small(tmp_path / "one"), save_small(tmp_path / "two", seed=8)
    (tmp_path / "run.yaml").write_text(dump_config(assembled_from(first).config))
    play = ("pretrain", "--policy", "reference", "--config", tmp_path / "run.yaml", "--init", second, "--out")
    result = taskrl(*play, tmp_path / "out")
    assert result.exit_code == 0, result.output
    given = str(fingerprint(second / "model.safetensors")["sha256"])
    assert RunFolder(tmp_path / "out").config().predictor.init_sha256 == given
    pinned = taskrl(*play, tmp_path / "pinned", "--set", f"predictor.init_sha256={'f' * 64}")
    assert pinned.exit_code == 2 and "are not those that this was begun with" in pinned.output
    (tmp_path / "wide.yaml").write_text(dump_config(assembled_from("", predictor__width=8).config))
    result = taskrl(*play[:4], tmp_path / "wide.yaml", *play[5:], tmp_path / "other")
    assert result.exit_code == 2 and "or give --set predictor.width=16 where --config names the" in result.output


def test_colour_images_are_refused_by_an_encoder_of_grey_ones(tmp_path: Path) -> None:
    save_small(tmp_path / "encoder")
    result = taskrl(
        *("pretrain", "--policy", "reference", "--init", tmp_path / "encoder", "--out", tmp_path / "run"),
        *tiny_options(data__source="simulated", predictor__width=16),
    )
    assert result.exit_code == 2 and "takes grey images and these have 3 channels" in result.output, result.output
