"""docs/walkthrough.md: its Python runs where taskrl is not, on a folder of images and an exported encoder."""

import re
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from taskrl.run_folder import RunFolder
from tests.agents.runs import taskrl
from tests.builders import blobs

ROOT = Path(__file__).resolve().parents[2]
BLOCK_TASKRL = "import sys\nfor name in ('taskrl', 'agents', 'envs'):\n    sys.modules[name] = None\n"


def write_photos(folder: Path) -> None:
    """Two classes of 24 and 8 images of 16 pixels: a wedge above left, or below right."""
    for part, num in (("train", 24), ("test", 8)):
        labels = torch.arange(2 * num) % 2 * 3
        for row, (image, label) in enumerate(zip(blobs(labels, seed=len(part)), labels.tolist(), strict=True)):
            target = folder / part / str(label) / f"{row}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(target)


def test_the_walk_through_ends_in_a_classifier(finished: RunFolder, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    result = taskrl("export", finished.path, "--out", tmp_path / "my-encoder")
    assert result.exit_code == 0, result.output
    text = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_TASKRL + "import torch; torch.manual_seed(0)\n" + code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (accuracy,) = re.findall(r"accuracy ([0-9.]+) %", done.stdout)
    assert float(accuracy) > 80, "places of wedges are easily told"
