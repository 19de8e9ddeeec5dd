"""An exported encoder loads without taskrl, gives the same features, and shows damage."""

import importlib.metadata
import json
import re
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision import models

import taskrl
from taskrl.errors import RunFolderError
from taskrl.export import LISTED, EncoderCard, export_encoder, load_exported
from taskrl.folders import FORMAT_VERSION, fingerprint
from taskrl.modalities.image import modeling
from taskrl.modalities.image.encoders import ENCODERS, make_encoder
from taskrl.modalities.image.modeling import SMALL, TRUNKS, Encoder
from taskrl.modalities.image.state_dicts import load_weights
from taskrl.seeding import isolated_global_rng

CARD: dict[str, object] = {"data": "digits", "generator": "reference", "seeds": [0], "linear_accuracy": 0.9}
ONE_OF_EACH_FAMILY = [next(name for name in ENCODERS if name.startswith(family)) for family in (SMALL, *TRUNKS)]


def images(num_images: int = 5, in_channels: int = 1) -> torch.Tensor:
    return torch.rand(num_images, in_channels, 32, 32, generator=torch.Generator().manual_seed(0))


def make(name: str = "small", in_channels: int = 1) -> tuple[Encoder, dict[str, Any]]:
    mean, std = [0.3] * in_channels, [0.2] * in_channels
    encoder, config = make_encoder(name, in_channels=in_channels, image_size=32, width=8, mean=mean, std=std, seed=0)
    encoder(images(8, in_channels))  # moves the running statistics off their start
    return encoder, config


def export(folder: Path, name: str = "small", in_channels: int = 1) -> tuple[Encoder, EncoderCard]:
    encoder, config = make(name, in_channels)
    return encoder, export_encoder(encoder, config, folder, example=images(3, in_channels), card=CARD)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_the_loaded_encoder_gives_the_same_features(tmp_path: Path, name: str) -> None:
    encoder, card = export(tmp_path / "run" / "encoder", name)
    loaded = load_exported(tmp_path / "run" / "encoder")
    assert not loaded.training
    with torch.no_grad():
        torch.testing.assert_close(loaded(images()), encoder.eval()(images()), atol=1e-5, rtol=0)
    assert card.max_difference <= 1e-5
    assert card.feature_dim == encoder.feature_dim


def test_an_exported_model_of_others_weights_loads_though_no_encoder_has_its_name(tmp_path: Path) -> None:
    with isolated_global_rng(0):
        torch.save(models.shufflenet_v2_x1_5().state_dict(), tmp_path / "w.pth")
    found = load_weights(tmp_path / "w.pth", "shufflenet_v2_x1_5")
    example = images(2, in_channels=3)
    export_encoder(found.encoder, {**found.config, "image_size": 32}, tmp_path / "out", example=example, card=CARD)
    with torch.no_grad():
        torch.testing.assert_close(load_exported(tmp_path / "out")(example), found.encoder(example), atol=1e-5, rtol=0)


def test_exporting_leaves_the_encoder_and_the_global_generator_alone(tmp_path: Path) -> None:
    encoder, config = make()
    encoder.to(memory_format=torch.channels_last)
    before, rng = {key: value.clone() for key, value in encoder.state_dict().items()}, torch.random.get_rng_state()
    export_encoder(encoder, config, tmp_path / "encoder", example=images(), card=CARD)
    load_exported(tmp_path / "encoder")
    assert encoder.training
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    assert torch.equal(rng, torch.random.get_rng_state())


def test_the_folder_holds_what_the_manifest_lists_readable_by_others_and_nothing_else(tmp_path: Path) -> None:
    export(tmp_path / "encoder")
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == {*LISTED, "manifest.json"}
    assert (tmp_path / "encoder" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    assert (tmp_path / "encoder" / "modeling.py").read_bytes() == Path(modeling.__file__).read_bytes()


def test_config_says_what_the_encoder_is_and_where_it_comes_from(tmp_path: Path) -> None:
    encoder, _ = export(tmp_path / "encoder", "resnet18")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert config["card"] == CARD
    assert (config["architecture"], config["in_channels"], config["image_size"]) == ("resnet18", 1, 32)
    assert config["feature_dim"] == encoder.feature_dim == 512
    assert "3x3" in config["weights"] and "1 channel" in config["weights"]


def test_what_is_exported_again_names_its_own_writer(tmp_path: Path) -> None:
    encoder, config = make()
    older = {**config, "format_version": 0, "taskrl_version": "0.0.1"}
    export_encoder(encoder, older, tmp_path / "encoder", example=images(), card=CARD)
    written = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert (written["format_version"], written["taskrl_version"]) == (FORMAT_VERSION, taskrl.__version__)


def test_exported_resnet18_loads_into_torchvisions_own(tmp_path: Path) -> None:
    encoder, config = make_encoder(
        "resnet18", in_channels=3, image_size=96, width=8, mean=[0.3] * 3, std=[0.2] * 3, seed=0
    )
    export_encoder(encoder, config, tmp_path / "encoder", example=torch.zeros(2, 3, 96, 96), card=CARD)
    loading = models.resnet18().load_state_dict(load_file(tmp_path / "encoder" / "model.safetensors"), strict=False)
    assert loading.missing_keys == ["fc.weight", "fc.bias"]
    assert loading.unexpected_keys == []


def test_small_stem_differs_from_torchvisions_resnet18_in_the_first_convolution_only(tmp_path: Path) -> None:
    export(tmp_path / "encoder", "resnet18", in_channels=3)
    tensors = load_file(tmp_path / "encoder" / "model.safetensors")
    theirs = models.resnet18().state_dict()
    assert [key for key in tensors if tensors[key].shape != theirs[key].shape] == ["conv1.weight"]


def clean_python(folder: Path) -> Path:
    """A Python that sees torch, torchvision, safetensors and what they require, and nothing else."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    todo, done = ["torch", "torchvision", "safetensors"], set()
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in done:
            continue
        done.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # required elsewhere only
        requirements = [text for text in distribution.requires or () if "extra ==" not in text]
        extras = re.findall(r"^cuda-toolkit\[", "\n".join(distribution.requires or ()), flags=re.MULTILINE)
        if extras:  # torch's CUDA libraries hang on the extras of one meta-package
            requirements += importlib.metadata.distribution("cuda-toolkit").requires or []
        todo += [found.group() for text in requirements if (found := re.match(r"[\w.-]+", text))]
        for part in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / part).exists():
                (site / part).symlink_to(Path(str(distribution.locate_file(part))))
    return folder / "bin" / "python"


CLEAN_SCRIPT = """
import sys
try:
    import taskrl
except ImportError:
    pass
else:
    raise SystemExit("taskrl can be imported")
from safetensors.torch import load_file, save_file
images = load_file("images.safetensors")["images"]
for name in ("small", "resnet18"):
    sys.modules.pop("modeling", None)
    text = open(f"{name}/README.md").read().split("```python\\n")[1].split("```")[0]
    names = {}
    exec(text.replace('FOLDER = "."', f"FOLDER = {name!r}"), names)
    assert sys.modules["modeling"].__file__.endswith(f"{name}/modeling.py")
    assert ("torchvision" in sys.modules) == (name == "resnet18")
    assert names["features"].shape == names["feature_map"].shape[:2]
    with names["torch"].no_grad():
        save_file({"features": names["encoder"](images)}, f"{name}.safetensors")
    sys.path.remove(name)
"""


def test_the_readme_snippet_gives_the_same_features_where_taskrl_cannot_be_imported(tmp_path: Path) -> None:
    encoders = {name: export(tmp_path / name, name)[0] for name in ("small", "resnet18")}
    save_file({"images": images()}, tmp_path / "images.safetensors")
    (tmp_path / "script.py").write_text(CLEAN_SCRIPT)
    command = [str(clean_python(tmp_path / "clean")), "-I", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for name, encoder in encoders.items():
        features = load_file(tmp_path / f"{name}.safetensors")["features"]
        with torch.no_grad():
            torch.testing.assert_close(features, encoder.eval()(images()), atol=1e-5, rtol=0)


def test_an_existing_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    with pytest.raises(RunFolderError, match="exists already"):
        export(tmp_path / "encoder")
    assert list((tmp_path / "encoder").iterdir()) == []


@pytest.mark.parametrize("name", LISTED)
def test_one_flipped_bit_is_noticed_and_the_file_named(tmp_path: Path, name: str) -> None:
    export(tmp_path / "encoder")
    content = bytearray((tmp_path / "encoder" / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / "encoder" / name).write_bytes(content)
    with pytest.raises(RunFolderError, match=re.escape(name)):
        load_exported(tmp_path / "encoder")


@pytest.mark.parametrize("name", [*LISTED, "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    export(tmp_path / "encoder")
    (tmp_path / "encoder" / name).unlink()
    with pytest.raises(RunFolderError, match=f"{re.escape(name)}.*is missing"):
        load_exported(tmp_path / "encoder")


@pytest.mark.parametrize("content", ["[]", "{", '{"format_version": 99}', '{"format_version": 1}'])
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, content: str) -> None:
    export(tmp_path / "encoder")
    (tmp_path / "encoder" / "manifest.json").write_text(content)
    with pytest.raises(RunFolderError, match="manifest"):
        load_exported(tmp_path / "encoder")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no folder"):
        load_exported(tmp_path / "encoder")


def refresh_manifest(folder: Path) -> None:
    manifest = {"format_version": 1, "files": {name: fingerprint(folder / name) for name in LISTED}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(("key", "value"), [("architecture", "vit_b_16"), ("width", 16), ("mean", None)])
def test_a_config_that_does_not_fit_the_weights_is_refused(tmp_path: Path, key: str, value: object) -> None:
    export(tmp_path / "encoder")
    path = tmp_path / "encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    refresh_manifest(tmp_path / "encoder")
    with pytest.raises(RunFolderError, match=r"config\.json"):
        load_exported(tmp_path / "encoder")


def test_loading_does_not_run_the_folders_code(tmp_path: Path) -> None:
    export(tmp_path / "encoder")
    (tmp_path / "encoder" / "modeling.py").write_text("raise SystemExit('ran')\n")
    refresh_manifest(tmp_path / "encoder")
    load_exported(tmp_path / "encoder")


def test_weights_that_are_not_finite_and_cards_that_are_no_json_leave_nothing_behind(tmp_path: Path) -> None:
    encoder, config = make()
    with pytest.raises(RunFolderError, match="card"):
        export_encoder(encoder, config, tmp_path / "encoder", example=images(), card={"accuracy": float("nan")})
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    with pytest.raises(RunFolderError, match="finite"):
        export_encoder(encoder, config, tmp_path / "encoder", example=images(), card=CARD)
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="could not be written"):
        export(tmp_path / "file" / "encoder")
