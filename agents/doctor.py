"""`taskrl doctor`: is this machine fit to run taskrl?"""

import re
import shutil
from pathlib import Path

import torch

from taskrl.machine import machine, versions

MIN_FREE_BYTES = 2 * 10**9
MINOR_OFFSET = 15


def findings() -> tuple[list[str], list[str]]:
    """Facts, and problems with their remedies."""
    found = versions()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    facts = [f"{name}: {value}" for name, value in (found | machine(device)).items()]
    problems = [
        f"{name} is not installed; run: pip install {name}" for name, v in found.items() if v == "not installed"
    ]
    mismatch = pair_problem(found["torch"], found["torchvision"])
    if mismatch:
        problems.append(mismatch)
    free = shutil.disk_usage(Path.cwd()).free
    facts.append(f"free disk: {free / 1e9:.1f} GB")
    if free < MIN_FREE_BYTES:
        problems.append(f"Only {free / 1e9:.1f} GB are free here; runs need about 2 GB.")
    return facts, problems


def pair_problem(torch_version: str, torchvision_version: str) -> str | None:
    """torch 2.N goes with torchvision 0.(N+15); a sentence when these do not."""
    ours, theirs = (re.match(r"(\d+)\.(\d+)", text) for text in (torch_version, torchvision_version))
    if not ours or not theirs:
        return None
    expected = int(ours[2]) + MINOR_OFFSET
    if int(ours[1]) == 2 and int(theirs[1]) == 0 and int(theirs[2]) != expected:
        return (
            f"torch {torch_version} goes with torchvision 0.{expected}, not {torchvision_version}; "
            f"run: pip install 'torch=={torch_version.split('+')[0]}' 'torchvision==0.{expected}.*'"
        )
    return None
