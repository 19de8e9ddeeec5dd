"""What `taskrl export` writes loads without taskrl and gives the features of the run's encoder."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torchvision import models

from agents import exporting
from taskrl import export_graphs
from taskrl.errors import RunFolderError
from taskrl.export import export_encoder, load_exported
from taskrl.export_card import fits_timm, fits_torchvision
from taskrl.folders import verify
from taskrl.mlflow_model import Registration, register
from taskrl.mlflow_store import sqlite_uri
from taskrl.modalities.image.encoders import make_encoder
from taskrl.modalities.image.modeling import Encoder
from taskrl.run_folder import RunFolder
from tests.agents.runs import snapshot, taskrl, tiny_options

ALL = "folder,onnx,pt2,mlflow,policy"
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("taskrl", "agents", "envs"):
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Blocker())
try:
    import taskrl
except ImportError:
    pass
else:
    raise SystemExit("taskrl can be imported")
import numpy as np
names = {}
exec(open("snippet.py").read(), names)
np.savez("out.npz", images=np.asarray(names["images"]), features=np.asarray(names["features"]))
"""


def snippets(output: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", output, flags=re.DOTALL)


def run_alone(snippet: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and features of a snippet that was run elsewhere, where taskrl cannot be imported."""
    folder.mkdir()
    (folder / "snippet.py").write_text(snippet)
    (folder / "script.py").write_text(BLOCKED)
    command = [sys.executable, "-I", "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert {path.name for path in folder.iterdir()} == {"snippet.py", "script.py", "out.npz"}
    with np.load(folder / "out.npz") as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["features"])


@pytest.fixture(scope="module")
def everything(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """All formats of one run, and what was printed."""
    out = tmp_path_factory.mktemp("exports") / "all"
    before = snapshot(finished.path)
    result = taskrl("export", finished.path, "--format", ALL, "--out", out, "--license", "mit")
    assert result.exit_code == 0, result.output
    assert result.stderr == "", "no stray warnings"
    assert snapshot(finished.path) == before
    return out, result.stdout


def test_every_format_lies_in_the_folder_and_nothing_else(everything: tuple[Path, str]) -> None:
    out, _ = everything
    assert {path.name for path in out.iterdir()} == set(exporting.PLACES.values())
    assert [path.name for path in out.parent.iterdir()] == ["all"]


@pytest.mark.parametrize(("index", "name"), [*enumerate(("folder", "onnx", "pt2", "mlflow"))])
def test_the_printed_snippet_gives_the_same_features_where_taskrl_cannot_be_imported(
    index: int, name: str, everything: tuple[Path, str], finished: RunFolder, tmp_path: Path
) -> None:
    images, features = run_alone(snippets(everything[1])[index], tmp_path / name)
    with torch.no_grad():
        expected = load_exported(finished.encoder)(images)
    torch.testing.assert_close(features, expected, atol=1e-4 if name == "onnx" else 1e-5, rtol=0)


def test_onnx_takes_any_batch_and_says_where_it_comes_from(everything: tuple[Path, str], finished: RunFolder) -> None:
    import onnx

    model = onnx.load(everything[0] / "encoder.onnx")
    onnx.checker.check_model(model)
    (opset,) = [entry.version for entry in model.opset_import if entry.domain == ""]
    assert opset >= 17
    assert [entry.name for entry in (*model.graph.input, *model.graph.output)] == ["images", "features"]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    manifest = json.loads((finished.encoder / "manifest.json").read_text())
    assert facts["weights_sha256"] == manifest["files"]["model.safetensors"]["sha256"]
    assert facts["architecture"] == "small"
    assert str(Path(__file__).parents[2]).encode() not in (everything[0] / "encoder.onnx").read_bytes()


def test_the_mlflow_model_holds_no_pickle_and_no_path_of_this_machine(everything: tuple[Path, str]) -> None:
    folder = everything[0] / "mlflow-model"
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pth", ".pt", ".joblib")]
    text = (folder / "MLmodel").read_text()
    assert str(Path(__file__).parents[2]) not in text and str(everything[0].parent) not in text and "/tmp" not in text


def test_config_and_model_card_are_hugging_faces(everything: tuple[Path, str], finished: RunFolder) -> None:
    folder = everything[0] / "encoder"
    config, old = (json.loads((path / "config.json").read_text()) for path in (folder, finished.encoder))
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("small", 0, 32)
    assert config["pretrained_cfg"]["input_size"] == [1, 16, 16]
    assert config["pretrained_cfg"]["mean"] == config["mean"] == old["mean"]
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["pipeline_tag"]) == ("mit", "image-feature-extraction")
    assert yaml.safe_load((finished.encoder / "README.md").read_text().split("---")[1])["license"] == "unknown"
    (row,) = [
        row
        for row in finished.result()["rows"]
        if (row["generator"], row["train_seed"]) == ("learned", config["card"]["train_seed"])
    ]
    assert config["card"]["search_flops"] == row["search_flops"] > 0
    for section in ("## Data", "## Tasks", "decision", "## Quality", "linear_accuracy", "## Compute"):
        assert section in text


def test_the_exported_policy_is_the_runs_and_pretrain_takes_it(
    everything: tuple[Path, str], finished: RunFolder, here: Path
) -> None:
    folder = everything[0] / "policy"
    verify(folder, ("policy.safetensors", "policy.json", "README.md"))
    for name in ("policy.safetensors", "policy.json"):
        assert (folder / name).read_bytes() == (finished.policy / name).read_bytes()
    text = (folder / "README.md").read_text()
    assert "first decision" in text and "mirror" in text and "thompson" in text and "FLOP" in text
    assert f"taskrl pretrain --policy {folder}" in everything[1]
    result = taskrl("pretrain", "--policy", folder, "--out", "again", *tiny_options())
    assert result.exit_code == 0, result.output
    assert RunFolder(here / "again").result()["rows"][0]["generator"] == "learned"


KEPT = {"encoder": "last", "encoder-best": "best", "encoder-ema": "ema"}


def three_weights(finished: RunFolder, root: Path) -> Path:
    """A run with a best encoder that is not the last one, and an averaged one."""
    run = root / "run"
    run.mkdir()
    (run / "config.yaml").write_bytes(finished.config_file.read_bytes())
    for seed, (place, checkpoint) in enumerate(KEPT.items()):
        encoder, config = make_encoder("small", in_channels=1, image_size=16, width=4, mean=[0.3], std=[0.2], seed=seed)
        export_encoder(encoder, config, run / place, example=torch.rand(2, 1, 16, 16), card={"checkpoint": checkpoint})
    return run


def test_weights_chooses_the_best_the_last_or_the_averaged(finished: RunFolder, tmp_path: Path) -> None:
    run = three_weights(finished, tmp_path)
    for options, place in (
        ([], "encoder"),
        (["--weights", "last"], "encoder"),
        (["--weights", "best"], "encoder-best"),
        (["--weights", "ema"], "encoder-ema"),
    ):
        out = tmp_path / "-".join(["out", *options])
        result = taskrl("export", run, "--out", out, *options)
        assert result.exit_code == 0, result.output
        assert (out / "model.safetensors").read_bytes() == (run / place / "model.safetensors").read_bytes()
        assert f"{run / place}\n" in taskrl("export", run, *options).stdout


def resnet18_run(finished: RunFolder, root: Path, size: int) -> tuple[Path, Encoder]:
    """A run whose encoder is a torchvision model."""
    run = root / "run"
    run.mkdir()
    (run / "config.yaml").write_bytes(finished.config_file.read_bytes())
    mean = [0.3, 0.4, 0.5]
    encoder, config = make_encoder("resnet18", in_channels=3, image_size=size, width=8, mean=mean, std=mean, seed=0)
    export_encoder(encoder, config, run / "encoder", example=torch.rand(1, 3, size, size), card={})
    return run, encoder.eval()


def test_resnet18_loads_by_torchvision_alone_where_the_stem_is_torchvisions(
    finished: RunFolder, tmp_path: Path
) -> None:
    run, encoder = resnet18_run(finished, tmp_path, 96)
    result = taskrl("export", run, "--format", "safetensors", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (snippet,) = snippets(result.stdout)
    assert "models.resnet18()" in snippet and "modeling" not in snippet
    images, features = run_alone(snippet, tmp_path / "alone")
    with torch.no_grad():
        torch.testing.assert_close(features, encoder(images), atol=1e-5, rtol=0)
    assert "local-dir:" in (tmp_path / "out" / "README.md").read_text()


def test_a_small_stem_is_said_and_needs_modeling(finished: RunFolder, tmp_path: Path) -> None:
    run, _ = resnet18_run(finished, tmp_path, 32)
    result = taskrl("export", run, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Note: not quite torchvision's resnet18: the first convolution is 3x3" in result.stdout
    assert "from modeling import" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "index"), [("onnx", 0), ("pt2", 1)])
def test_graphs_of_resnet18_give_the_same_features(name: str, index: int, finished: RunFolder, tmp_path: Path) -> None:
    run, encoder = resnet18_run(finished, tmp_path, 96)
    result = taskrl("export", run, "--format", "onnx,pt2", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    images, features = run_alone(snippets(result.stdout)[index], tmp_path / name)
    with torch.no_grad():
        torch.testing.assert_close(features, encoder(images), atol=1e-4 if name == "onnx" else 1e-5, rtol=0)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "regnet_y_400mf", "squeezenet1_1"])
def test_torchvisions_own_model_is_claimed_exactly_where_it_gives_the_same_features(name: str) -> None:
    encoder, config = make_encoder(name, in_channels=3, image_size=64, width=8, mean=[0.3] * 3, std=[0.2] * 3, seed=0)
    theirs: Any = models.get_model(name)
    setattr(theirs, "fc" if hasattr(theirs, "fc") else "classifier", torch.nn.Identity())
    theirs.load_state_dict(encoder.backbone.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        ours, own = encoder.eval()(images), theirs.eval()(encoder.normalise(images))
    assert fits_torchvision(config) == (ours.shape == own.shape and torch.allclose(ours, own, atol=1e-5))
    assert not fits_timm(config)


def test_a_model_registered_in_the_runs_own_store_is_loaded_by_its_alias(finished: RunFolder, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.path, run)
    command = ["--format", "mlflow", "--register", "encoder-of-digits", "--alias", "champion"]
    result = taskrl("export", run, *command, "--out", tmp_path / "model")
    assert result.exit_code == 0, result.output
    uri = sqlite_uri(run / "mlflow.db")
    assert f"models:/encoder-of-digits@champion (version 1) at {uri}" in result.stdout
    snippet = snippets(result.stdout)[1]
    assert "models:/encoder-of-digits@champion" in snippet
    shutil.rmtree(tmp_path / "model")
    images, features = run_alone(snippet, tmp_path / "alone")
    with torch.no_grad():
        torch.testing.assert_close(features, load_exported(finished.encoder)(images), atol=1e-5, rtol=0)


def test_a_model_that_cannot_be_registered_is_not_kept(finished: RunFolder, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'file'}"
    (tmp_path / "file").write_text("no database")
    command = ["--format", "mlflow", "--register", "encoder-of-digits", "--tracking-uri", uri]
    result = taskrl("export", finished.path, *command, "--out", tmp_path / "model")
    assert result.exit_code == 2, result.output
    assert "could not be registered" in result.stderr and "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("uri", ["sqlite:foo.db", "mysql://u@127.0.0.1:1/db"])
def test_a_place_that_cannot_be_registered_at_is_one_sentence(uri: str, here: Path) -> None:
    (here / "model").mkdir()
    where = Registration(uri=uri, name="a", alias=None, experiment="taskrl", run_id=None, artifact_root=None)
    with pytest.raises(RunFolderError, match=r"could not be registered as 'a' at .*leave --register out\.$"):
        register(here / "model", {"architecture": "small"}, where)


def test_an_export_that_differs_leaves_nothing(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*arguments: object) -> float:
        raise RunFolderError("The exported encoder's features differ.")

    monkeypatch.setattr(export_graphs, "check_parity", differs)
    for names, out in (("pt2", "encoder.pt2"), ("folder,pt2", "both")):
        result = taskrl("export", finished.path, "--format", names, "--out", tmp_path / out)
        assert result.exit_code == 2 and "differ" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_registered_when_another_format_fails(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*arguments: object, **options: object) -> float:
        raise RunFolderError("The exported encoder differs.")

    monkeypatch.setattr(exporting, "write_onnx", differs)
    monkeypatch.setattr(exporting, "write_model", lambda *arguments: pytest.fail("a model was registered"))
    command = ["--format", "mlflow,onnx", "--register", "a", "--tracking-uri", f"sqlite:///{tmp_path / 'new.db'}"]
    result = taskrl("export", finished.path, *command, "--out", tmp_path / "all")
    assert result.exit_code == 2 and "differs" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_parity_tells_a_wrong_encoder_from_a_right_one(finished: RunFolder) -> None:
    from taskrl.export import check_images, check_parity

    encoder = load_exported(finished.encoder)
    images = check_images(json.loads((finished.encoder / "config.json").read_text()))
    assert check_parity(encoder, encoder, images) == 0
    with pytest.raises(RunFolderError, match="differ"):
        check_parity(encoder, lambda batch: encoder(batch) + 2e-5, images)


REGISTERED = ["--format", "mlflow", "--out", "x", "--tracking-uri", "sqlite:///new.db", "--register"]
REFUSED = {
    "an unknown format": (["--format", "onx"], "Did you mean 'onnx'"),
    "nowhere to write": (["--format", "onnx"], "--out"),
    "a wrong suffix": (["--format", "onnx", "--out", "x.pt2"], "end it in .onnx"),
    "unknown weights": (["--weights", "worst"], "best, last or ema"),
    "averaged weights where there are none": (["--weights", "ema"], "final.ema=0.999"),
    "weights of a policy": (["--policy", "--weights", "best", "--out", "x"], "leave --weights out"),
    "no format": (["--format", "", "--out", "x"], "--format '' names no format; known: folder, onnx"),
    "no format but commas": (["--format", " ,", "--out", "x"], "names no format"),
    "a license of nothing": (["--license", "mit"], "--license mit is for what is written; say where with --out."),
    "a license of two lines": (["--license", "a\nb", "--out", "x"], "--license"),
    "an alias without a name": (["--alias", "a"], "--register"),
    "a name without a model": (["--register", "a", "--out", "x"], "--format mlflow"),
    "a name with a slash": ([*REGISTERED, "a/b"], "--register 'a/b'"),
    "no name of a model": ([*REGISTERED, " "], "--register ' '"),
    **{
        f"the alias {alias!r}": ([*REGISTERED, "a", "--alias", alias], f"--alias is {alias!r}")
        for alias in ("", "latest", "v1", "of digits")
    },
    "a name that MLflow reads as another": (["--format", "mlflow", "--out", "new\nmodel"], "name another --out"),
    "something there": (["--format", "onnx", "--out", "there.onnx"], "exists already"),
}


@pytest.mark.parametrize(("options", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_export_refuses(options: list[str], sentence: str, finished: RunFolder, here: Path) -> None:
    (here / "there.onnx").write_text("mine")
    before = snapshot(here), snapshot(finished.path)
    result = taskrl("export", finished.path, *options)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr and "Traceback" not in result.output
    assert result.stderr.count("\n") == 1
    assert (snapshot(here), snapshot(finished.path)) == before


def test_without_its_packages_onnx_says_what_to_install(
    finished: RunFolder, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_graphs, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    result = taskrl("export", finished.path, "--format", "onnx", "--out", "x.onnx")
    assert result.exit_code == 2
    assert "needs no_such_package" in result.stderr and "pip install 'taskrl[onnx]'" in result.stderr


def test_what_was_exported_is_exported_again(finished: RunFolder, here: Path) -> None:
    """An encoder's folder is as good as the run that it came from, but has no second encoder, policy or store."""
    assert taskrl("export", finished.path, "--out", "encoder", "--license", "mit").exit_code == 0
    result = taskrl("export", "encoder", "--format", "folder,onnx", "--out", "again")
    assert result.exit_code == 0, result.output
    first, second = (json.loads((here / name / "config.json").read_text()) for name in ("encoder", "again/encoder"))
    assert first["card"] == second["card"] and (here / "again" / "encoder.onnx").is_file()
    assert second["pretrained_cfg"]["license"] == "mit"
    assert taskrl("export", "encoder").exit_code == 0
    for options, sentence in (
        (["--weights", "best"], "leave --weights out"),
        (["--policy"], "not a run folder"),
        (["--format", "mlflow", "--register", "a"], "--tracking-uri"),
    ):
        result = taskrl("export", "encoder", *options, "--out", "x")
        assert result.exit_code == 2 and sentence in result.stderr, result.output
        assert not (here / "x").exists()
