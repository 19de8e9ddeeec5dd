"""Bad input: one sentence on stderr, exit code 2, no traceback, nothing made and nothing overwritten."""

import errno
import math
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from taskrl.predictor.inner_loop import PlainSteps
from taskrl.predictor.predictor import Predictor
from taskrl.run_folder import RunFolder
from taskrl.seeding import isolated_global_rng
from taskrl.types import AdaptReport
from tests.agents.page.made import make_run
from tests.agents.runs import snapshot, taskrl, tiny_options

CONFIGS = {
    "broken.yaml": "agent: [1,\n b: }",
    "list.yaml": "- 1\n",
    "code.yaml": "seed: !!python/object/apply:os.mkdir [made]\n",
    "twice.yaml": "seed: 1\nseed: 2\n",
    "bomb.yaml": "a: &a [1, 1]\nb: [*a, *a]\n",
    "unknown.yaml": "agent:\n  episode: 3\n",
    "binary.yaml": "\x00\x01",
}
TRAINING: dict[str, tuple[list[str], str]] = {
    "unknown data": (["--data", "digit"], "Did you mean 'digits'"),
    "missing folder": (["--data", "./nowhere"], "'./nowhere'"),
    "empty folder": (["--data", "./empty"], "holds no images"),
    "corrupt images": (["--data", "./corrupt"], "cannot be read"),
    "too few images": (["--data", "./few"], "too few"),
    "a file that is no data": (["--data", "./file.txt"], "neither a folder nor a .npz"),
    "unknown key": (["--set", "agent.episode=4"], "did you mean 'agent.episodes'"),
    "unknown section": (["--set", "agents.episodes=4"], "Unknown config key 'agents'"),
    "wrong type": (["--set", "agent.episodes=many"], "'agent.episodes' has the value 'many'"),
    "a section": (["--set", "agent=3"], "it is a section; give one of its keys: episodes, group"),
    "an unknown device": (["--device", "tpu"], "it is auto, cpu, cuda, or cuda: and a number"),
    "out of range": (["--episodes", "-1"], "greater than or equal to 1"),
    "not a number": (["--set", "reward.scale=.nan"], "finite"),
    "infinite": (["--set", "reward.scale=.inf"], "finite"),
    "a text for a section": (["--set", "agent=3"], "'agent'"),
    "no key": (["--set", "agent.episodes"], "KEY=VALUE"),
    "no yaml": (["--set", "agent.episodes=[1"], "YAML"),
    "unknown agent": (["--agent", "pp0"], "Did you mean 'ppo'"),
    "unknown option of the agent": (
        ["--agent", "ppo", "--set", "agent.options.gae_lamda=0.9"],
        "Did you mean 'gae_lambda'",
    ),
    "wrong option of the agent": (["--agent", "ppo", "--set", "agent.options.gae_lambda=much"], "'much'"),
    "an option out of range": (["--set", "agent.options.again=0.9"], "expected 0 to 0.5"),
    "workers on a cluster that is not there": (["--envs", "ray", "--set", "ray_address=127.0.0.1:1"], "Ray"),
    "a group that is none": (["--set", "agent.group_relative=false"], "does nothing for thompson"),
    "a layer of no size": (["--set", "agent.hidden=[0]"], "agent.hidden.0"),
    "unknown objective": (["--objectives", "contrastiv"], "Did you mean 'contrastive'"),
    "an objective twice": (["--objectives", "rotation,rotation"], "once"),
    "no objective": (["--objectives", ","], "tasks.objectives"),
    "unknown encoder": (["--encoder", "resnet19"], "Did you mean 'resnet18'"),
    "unknown view": (["--forbid", "mirrow"], "Did you mean 'mirror'"),
    "a limit without relation": (["--limit", "rotation=0.2"], "rotation<=0.2"),
    "a limit of nothing": (["--limit", "rotatoin<=0.2"], "Did you mean 'rotation'"),
    "a limit out of range": (["--limit", "rotation<=9"], "outside the range"),
    "a limit that is no number": (["--limit", "rotation<=nan"], "outside the range"),
    "unknown generator": (["--set", "final.generators=[refrence]"], "Unknown generator"),
    "bad recipe": (["--set", 'final.generators=["fixed:no-mirrow"]'], "Did you mean 'no-mirror'"),
    "recipe out of range": (["--set", 'final.generators=["fixed:mirror=2"]'], "out of range"),
    "recipe of nothing": (["--set", 'final.generators=["fixed:contrastive=0"]'], "weight 0"),
    "ridge without labels": (["--probe", "ridge", "--no-labels"], "needs labels"),
    "unknown probe": (["--probe", "rigde"], "'rigde'"),
    "unknown device": (["--device", "tpu"], "'tpu'"),
    "groups of a known set": (["--groups", "track"], "leave --groups out"),
    "batch larger than the data": (["--set", "predictor.batch_size=4096"], "predictor.batch_size"),
    "image size": (["--image-size", "4"], "greater than or equal to 8"),
    "missing data set": (["--data", "cifar10", "--data-root", "./empty"], "--data-root"),
    "missing config": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "a folder for a config": (["--config", "empty"], "empty"),
    **{f"config {name}": (["--config", name], name) for name in CONFIGS if name != "unknown.yaml"},
    "config with an unknown key": (["--config", "unknown.yaml"], "did you mean 'agent.episodes'"),
}
OTHERS: dict[str, tuple[list[str], str]] = {
    **{f"{command} of no run": ([command, "empty"], "not a run folder") for command in ("resume", "inspect", "export")},
    **{f"{command} of nothing": ([command, "nowhere"], "nowhere") for command in ("resume", "inspect", "export")},
    "a name that no file can have": (["inspect", "x" * 256], "give a shorter name"),
    "mlflow of no run": (["mlflow", "empty"], "not a run folder"),
    "mlflow of a run without it": (["mlflow", "untracked"], "no mlflow.db"),
    "probe of no encoder": (["probe", "empty", "--data", "digits"], "manifest.json"),
    "probe of nothing": (["probe", "nowhere", "--data", "digits"], "nowhere"),
    "probe of a damaged encoder": (["probe", "damaged", "--data", "digits"], "model.safetensors"),
    "probe without labels": (["probe", "encoder", "--data", "./plain"], "no labels"),
    "export onto a folder": (["export", "RUN", "--out", "empty"], "exists already"),
    "export below a file": (["export", "RUN", "--out", "file.txt/x"], "could not be written"),
}
QUALITY: dict[str, tuple[list[str], str]] = {
    "nothing": (["nowhere"], "nowhere"),
    "no encoder": (["empty"], "manifest.json"),
    "a damaged encoder": (["damaged"], "model.safetensors"),
    "a file without its architecture": (["net.pth"], "--arch resnet18"),
    "an unknown architecture": (["net.pth", "--arch", "resnet81"], "Did you mean 'resnet18'"),
    "a vision transformer": (["net.pth", "--arch", "vit_b_16"], "torchvision's resnet"),
    "another architecture": (["net.pth", "--arch", "resnet34"], "missing (layer1.2.conv1.weight, "),
    "a larger architecture": (["large.pth", "--arch", "resnet18"], "unexpected (layer1.2.conv1.weight, "),
    "another width": (["wide.pth", "--arch", "resnet18"], "conv1.weight has shape (32, 3, 7, 7), not (64, 3, 7, 7)"),
    "images of four channels": (["four.pth", "--arch", "resnet18"], "1 or 3 channels"),
    "a file of text": (["file.txt", "--arch", "resnet18"], ".safetensors, .pth"),
    "text that is called weights": (["text.pth", "--arch", "resnet18"], "cannot be read"),
    "half of a file": (["half.pth", "--arch", "resnet18"], "cannot be read"),
    "half of a safetensors file": (["half.safetensors", "--arch", "resnet18"], "cannot be read"),
    "a pickle that runs code": (["code.pth", "--arch", "resnet18"], "would run code"),
    "a whole module": (["module.pth", "--arch", "resnet18"], "torch.save(model.state_dict(), FILE)"),
    "no weights": (["numbers.pth", "--arch", "resnet18"], "no weights by name"),
    "weights that are no numbers": (["nan.pth", "--arch", "shufflenet_v2_x0_5"], "not all finite"),
    "an encoder with an architecture": (["encoder", "--arch", "resnet18"], "leave --arch"),
    "colour for a grey encoder": (["encoder", "--data", "./colour"], "3 channels"),
    "too few images": (["encoder", "--data", "./plain"], "the panel needs 32"),
    "an unknown goal": (["encoder", "--goal", "frozzen"], "'frozzen'"),
    "a goal without data": (["encoder", "--data", "./nowhere"], "'./nowhere'"),
}
PRETRAINING: dict[str, tuple[list[str], str]] = {
    "nonsense": (["nonsense"], "'nonsense'"),
    "an empty folder": (["empty"], "policy/"),
    "a bad recipe": (["fixed:no-mirrow"], "Did you mean 'no-mirror'"),
    "no recipe": (["fixed:"], "fixed:RECIPE (e.g. fixed:no-mirror)"),
    "a recipe without a number": (["fixed:mirror=much"], "NAME=NUMBER"),
    "a policy for other tasks": (["RUN", "--objectives", "contrastive"], "--objectives"),
    "an unknown stop": (["reference", "--stop", "soon"], "'final.stop' has the value 'soon'"),
    "no patience": (["reference", "--stop", "auto", "--set", "final.patience=0"], "greater than or equal to 1"),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, finished: RunFolder) -> Path:
    """A folder full of things that cannot be used."""
    root = tmp_path_factory.mktemp("bad")
    for name, text in CONFIGS.items():
        (root / name).write_text(text)
    (root / "file.txt").write_text("text")
    (root / "empty").mkdir()
    for name, count, content in (("corrupt", 30, b"no image"), ("few", 3, None), ("plain", 60, None)):
        folder = root / name if name == "plain" else root / name / "a"
        folder.mkdir(parents=True)
        for index in range(count):
            path = folder / f"{index}.png"
            if content is None:
                Image.new("L", (16, 16), index).save(path)
            else:
                path.write_bytes(content)
    (root / "untracked").mkdir()
    (root / "untracked" / "config.yaml").write_text("seed: 1\n")
    for name in ("damaged", "encoder"):
        shutil.copytree(finished.encoder, root / name)
    _bad_weights(root)
    weights = root / "damaged" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    return root


def _bad_weights(root: Path) -> None:
    """Files of weights that `taskrl quality` cannot use."""

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("this must not run",)

    with isolated_global_rng(0):
        small = models.shufflenet_v2_x0_5().state_dict()
    # names alone where no more than names is looked at: the folder is read before and after every test
    names = {name: torch.zeros(0) for name in models.resnet18().state_dict()}
    more = {name: torch.zeros(0) for name in models.resnet34().state_dict()}
    for name, content in {
        "net": names | {"conv1.weight": torch.zeros(64, 3, 7, 7)},
        "large": more,
        "wide": names | {"conv1.weight": torch.zeros(32, 3, 7, 7)},
        "four": names | {"conv1.weight": torch.zeros(64, 4, 7, 7)},
        "nan": {key: value * math.nan for key, value in small.items() if not key.startswith("fc.")},
        "code": {"state_dict": names, "more": Code()},
        "module": torch.nn.Linear(2, 2),
        "numbers": {"epoch": 3},
    }.items():
        torch.save(content, root / f"{name}.pth")
    save_file(names, root / "whole.safetensors")
    (root / "text.pth").write_text("text")
    for whole, half in (("net.pth", "half.pth"), ("whole.safetensors", "half.safetensors")):
        data = (root / whole).read_bytes()
        (root / half).write_bytes(data[: len(data) // 2])
    (root / "colour").mkdir()
    for index in range(60):
        Image.new("RGB", (16, 16), (index, 9, 200)).save(root / "colour" / f"{index}.png")


def refuses(arguments: list[str], sentence: str, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bad)
    before = snapshot(bad)
    result = taskrl(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert snapshot(bad) == before, "nothing may be made or changed"


@pytest.mark.parametrize(("options", "sentence"), TRAINING.values(), ids=TRAINING.keys())
def test_train_refuses(options: list[str], sentence: str, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses(["train", "--out", "out", *tiny_options(), *options], sentence, bad, monkeypatch)


@pytest.mark.parametrize(("arguments", "sentence"), OTHERS.values(), ids=OTHERS.keys())
def test_commands_refuse(
    arguments: list[str], sentence: str, bad: Path, finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(finished.path) if argument == "RUN" else argument for argument in arguments]
    refuses(arguments, sentence, bad, monkeypatch)


@pytest.mark.parametrize(("arguments", "sentence"), QUALITY.values(), ids=QUALITY.keys())
def test_quality_refuses(arguments: list[str], sentence: str, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [] if "--data" in arguments else ["--data", "digits"]
    refuses(["quality", *arguments, *data], sentence, bad, monkeypatch)


@pytest.mark.parametrize(("arguments", "sentence"), PRETRAINING.values(), ids=PRETRAINING.keys())
def test_pretrain_refuses(
    arguments: list[str], sentence: str, bad: Path, finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = str(finished.path) if arguments[0] == "RUN" else arguments[0]
    command = ["pretrain", "--policy", policy, "--out", "out", *tiny_options(), *arguments[1:]]
    refuses(command, sentence, bad, monkeypatch)


@pytest.mark.parametrize("out", ["empty", "file.txt", "untracked", "file.txt/x"])
@pytest.mark.parametrize("command", [["train"], ["pretrain", "--policy", "reference"]])
def test_an_out_that_cannot_be_made_is_left_alone(
    command: list[str], out: str, bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "cannot be made" if "/" in out else "exists already"
    refuses([*command, "--out", out, *tiny_options()], sentence, bad, monkeypatch)


@pytest.mark.parametrize("command", [["inspect"], ["export"], ["ui"], ["resume"], ["export", "RUN", "--out"]])
def test_a_name_that_is_no_text_is_one_sentence(
    command: list[str], bad: Path, finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(finished.path) if argument == "RUN" else argument for argument in command]
    refuses([*arguments, os.fsdecode(b"caf\xe9")], "'caf\\udce9' is no name in UTF-8", bad, monkeypatch)


def test_a_command_in_a_sentence_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    run = make_run(tmp_path / "it's a run")
    result = taskrl("inspect", run.path)
    assert result.exit_code == 2
    assert shlex.split(result.stderr.split(": ")[-1]) == ["taskrl", "resume", str(run.path)]


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_said(device: str, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ["train", "--out", "out", *tiny_options(), "--device", device]
    refuses(options, "no CUDA GPU found", bad, monkeypatch)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_is_one_sentence(number: int, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number), "runs/x")

    monkeypatch.setattr("agents.training.train", refuse)
    refuses(["train", "--out", "out"], f"{os.strerror(number)} (runs/x); make room", bad, monkeypatch)


def test_several_mistakes_are_named_together(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--set", "agent.episode=1", "--set", "seed=-1"]
    refuses(["train", "--out", "out", *options], "'agent.episode'", bad, monkeypatch)
    refuses(["train", "--out", "out", *options], "'seed'", bad, monkeypatch)


@pytest.mark.parametrize(
    ("command", "whose"),
    [(["pretrain", "--policy", "reference"], "the final encoder reference, train seed 0"), (["train"], "the encoder")],
)
def test_training_that_ruins_every_encoder_is_one_sentence(
    command: list[str], whose: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search bears it; what its policy is compared with does not."""
    adapt = PlainSteps.adapt

    def ruining(self: PlainSteps, predictor: Predictor, *arguments: Any) -> AdaptReport:
        report = adapt(self, predictor, *arguments)
        next(predictor.encoder.parameters()).data.fill_(math.nan)
        return report

    monkeypatch.setattr(PlainSteps, "adapt", ruining)
    result = taskrl(*command, "--out", "run", *tiny_options())
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stderr.startswith(f"Error: Training ruined {whose}") and result.stderr.count("\n") == 1
    assert "from decision 1 on its features are not finite" in result.stderr
    assert not list(here.rglob("finals/*.json")) and not (here / "run" / "result.json").exists()
