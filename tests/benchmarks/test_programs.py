"""Programs that measure keep up with the code that they measure: each can be read, with all that it imports."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OTHERS = ("lightly", "kornia")  # what we are compared with; not everybody has it
READ = f"""
import importlib, pathlib, sys
sys.path[:0] = ["benchmarks", "."]
for file in sorted(pathlib.Path("benchmarks").glob("*.py")):
    try:
        importlib.import_module(file.stem)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {OTHERS}:
            raise
    print(file.stem)
"""


def test_every_program_can_be_imported() -> None:
    done = subprocess.run([sys.executable, "-c", READ], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(file.stem for file in (ROOT / "benchmarks").glob("*.py"))
