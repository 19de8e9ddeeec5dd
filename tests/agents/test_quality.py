"""`taskrl quality`: the panel for encoders of ours and of others."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from taskrl.evaluation.panel import calibrated
from taskrl.modalities.image.state_dicts import load_weights
from taskrl.run_folder import RunFolder
from taskrl.seeding import isolated_global_rng
from tests.agents.runs import snapshot, taskrl

State = dict[str, Tensor]
Wrap = Callable[[State], Any]


def resnet18(seed: int = 0, **changes: Any) -> State:
    with isolated_global_rng(seed):
        net = models.resnet18()
        for name, module in changes.items():
            setattr(net, name, module)
    return dict(net.state_dict())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's resnet18."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet18(), path)
    return path


def reading(*arguments: object) -> dict[str, Any]:
    result = taskrl("quality", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_torchvision_file_gets_every_part_beside_an_untrained_net(weights: Path) -> None:
    result = taskrl("quality", weights, "--arch", "resnet18", "--data", "digits")
    assert result.exit_code == 0, result.output
    for name in calibrated("frozen", "full"):
        (line,) = [line for line in result.stdout.splitlines() if re.match(rf"\W+{name}\b", line)]
        assert len(re.findall(r"-?\d+\.\d{3}", line)) == 4, "value and points, twice"
    for text in ("untrained", "collapse: feature_std", "collapse penalty", "total", "no label", "Larger is better"):
        assert text in result.stdout
    assert "repeated 3 times" in result.stdout


def test_json_says_the_same_without_anything_else(weights: Path) -> None:
    found = reading(weights, "--arch", "resnet18", "--data", "digits")
    assert (found["architecture"], found["data"], found["goal"]) == ("resnet18", "digits", "frozen")
    for which in ("panel", "untrained"):
        panel = found[which]
        assert set(panel["values"]) == set(panel["points"]) == set(calibrated("frozen", "full"))
        assert panel["total"] == pytest.approx(
            sum(panel["points"].values()) - panel["collapse_penalty"] - panel["copy_penalty"]
        )
        assert set(panel["signals"]) == {"feature_std", "effective_rank", "uniformity"}
    assert any("repeated" in note for note in found["notes"])
    assert reading(weights, "--arch", "resnet18", "--data", "digits") == found


def test_weights_that_were_never_trained_look_untrained(weights: Path) -> None:
    found = reading(weights, "--arch", "resnet18", "--data", "digits")
    gap = found["panel"]["total"] - found["untrained"]["total"]
    assert gap < 0.5 * abs(found["untrained"]["total"])


def test_a_goal_has_its_own_weights(weights: Path) -> None:
    found = reading(weights, "--arch", "resnet18", "--data", "digits", "--goal", "dense")
    parts = calibrated("dense", "full")
    assert found["goal"] == "dense"
    for name, value in found["panel"]["values"].items():
        assert found["panel"]["points"][name] == pytest.approx(parts[name].points(value))


def test_a_run_and_an_encoder_folder_are_read_and_left_alone(finished: RunFolder) -> None:
    before = snapshot(finished.path)
    of_run, of_folder = (reading(path, "--data", "digits") for path in (finished.path, finished.encoder))
    assert of_run["panel"] == of_folder["panel"] != of_run["untrained"]
    assert of_run["architecture"] == "small"
    assert snapshot(finished.path) == before


def test_no_labels_are_needed(finished: RunFolder, here: Path) -> None:
    folder = here / "photos"
    folder.mkdir()
    rng = torch.Generator().manual_seed(0)
    for index in range(400):
        pixels = (torch.rand(4, 4, generator=rng) * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).resize((16, 16)).save(folder / f"{index}.png")
    found = reading(finished.encoder, "--data", "./photos")
    assert found["sample_shape"] == [1, 16, 16]
    assert any("read at 16 pixels a side, as the encoder was trained" in note for note in found["notes"])
    found = reading(finished.encoder, "--data", "./photos", "--image-size", "24")
    assert any("trained on images of 16 pixels" in note for note in found["notes"])


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def without(start: str, state: State) -> State:
    return {name: value for name, value in state.items() if start not in name}


def two_encoders(state: State) -> State:
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    return prefixed("module.encoder_q.", state) | prefixed("module.encoder_k.", other)


WRAPS: dict[str, tuple[str, Wrap, str]] = {
    "plain": ("w.pth", lambda state: state, ""),
    "of an old torch": ("w.pt", lambda state: without("num_batches", state), ""),
    "in a checkpoint": ("w.pth.tar", lambda state: {"epoch": 3, "state_dict": state}, ""),
    "in two": ("w.ckpt", lambda state: {"model": {"state_dict": state}}, ""),
    "of parallel training": ("w.pth", lambda state: prefixed("module.", state), "'module.'"),
    "with a head": ("w.pt", lambda state: prefixed("backbone.", state) | {"mlp.0.bias": torch.ones(1)}, "'backbone.'"),
    "with another head": ("w.pt", lambda state: {"projector.0.weight": torch.zeros(1)} | state, "projector"),
    "of momentum contrast": ("w.pth", two_encoders, "'module.encoder_q.', 'module.encoder_k.'"),
    "without a classifier": ("w.pth", lambda state: without("fc.", state), ""),
}


@pytest.mark.parametrize(("name", "wrap", "note"), WRAPS.values(), ids=WRAPS.keys())
def test_weights_are_found_where_others_put_them(name: str, wrap: Wrap, note: str, tmp_path: Path) -> None:
    state = resnet18()
    torch.save(wrap(state), tmp_path / name)
    loaded = load_weights(tmp_path / name, "resnet18")
    assert note in " ".join(loaded.notes) and bool(note) == bool(loaded.notes)
    for key, value in loaded.encoder.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in resnet18().items()}, tmp_path / "w.pth")
    encoder = load_weights(tmp_path / "w.pth", "resnet18").encoder
    assert encoder(torch.rand(1, 3, 16, 16)).dtype == torch.float32


def test_the_features_are_torchvisions_own(tmp_path: Path) -> None:
    save_file(resnet18(3), tmp_path / "w.safetensors")
    encoder = load_weights(tmp_path / "w.safetensors", "resnet18").encoder
    net = models.resnet18()
    net.load_state_dict(resnet18(3))
    net.fc = torch.nn.Identity()
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = net.eval()((images - mean[:, None, None]) / std[:, None, None])
        assert torch.allclose(encoder(images), expected, atol=1e-5)


def test_small_stems_and_grey_nets_are_recognised(tmp_path: Path) -> None:
    small = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    torch.save(resnet18(conv1=small), tmp_path / "small.pth")
    loaded = load_weights(tmp_path / "small.pth", "resnet18")
    assert loaded.config["small_stem"] and "3x3" in loaded.notes[0]
    assert loaded.encoder.feature_map(torch.rand(1, 3, 32, 32)).shape[-1] == 4
    grey = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    torch.save(resnet18(conv1=grey), tmp_path / "grey.pth")
    assert load_weights(tmp_path / "grey.pth", "resnet18").config["in_channels"] == 1


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_other_families_fit_under_their_own_names(name: str, tmp_path: Path) -> None:
    with isolated_global_rng(0):
        net = models.get_model(name)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    loaded = load_weights(tmp_path / "w.pth", name)
    assert loaded.encoder(torch.rand(2, 3, 64, 64)).shape == (2, loaded.encoder.feature_dim)
