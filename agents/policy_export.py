"""A run's task policy as a folder to carry away: safetensors and JSON, with a card that says what it chooses."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.inspection.choices import TITLES, choice_rows
from agents.policy import CARD, WEIGHTS, SB3TaskPolicy, load_policy
from taskrl.assemble import task_space
from taskrl.errors import RunFolderError
from taskrl.export import README
from taskrl.folders import new_folder, read_json, verify, write_manifest, write_text
from taskrl.report_figures import duration
from taskrl.run_folder import RunFolder
from taskrl.seeding import numpy_generator

NUM_OBSERVATIONS = 7


def write_policy(run: RunFolder, folder: Path, license_name: str) -> None:
    """Copy the policy of `run` to the new `folder`, add its card, and check that the copy proposes the same tasks.

    Raises RunFolderError where the run has no policy, it is damaged, or the folder cannot be written.
    """
    if not run.policy.is_dir():
        raise RunFolderError(
            f"{str(run.path)!r} has no policy/; name a run of taskrl train, which learns one (in a comparison each "
            "search keeps its own, under cells/)."
        )
    original = _load(run.policy, run)
    with new_folder(folder) as draft:
        for name in (WEIGHTS, CARD):
            shutil.copyfile(run.policy / name, draft / name)
        write_text(draft / README, readme(read_json(draft / CARD), run.result(), license_name))
        write_manifest(draft)
        copied = _load(draft, run)
        num = len(read_json(draft / CARD)["observation"])
        for observation in numpy_generator(0, "export check").random((NUM_OBSERVATIONS, num), dtype=np.float32):
            ours, theirs = original.probabilities(observation), copied.probabilities(observation)
            if any(not np.array_equal(ours[name], theirs[name]) for name in ours):
                raise RunFolderError(
                    f"The copy of {str(run.policy)!r} proposes other tasks; free the disk and try again."
                )
        verify(draft, (WEIGHTS, CARD, README))


def _load(folder: Path, run: RunFolder) -> SB3TaskPolicy:
    """The policy, for images like those that it was learned on."""
    verify(folder, (WEIGHTS, CARD))
    channels = 3 if "greyscale" in read_json(folder / CARD).get("knobs", ()) else 1
    config = run.config()
    size = config.data.image_size
    return load_policy(folder, lambda codec: task_space(config, (channels, size, size), codec), seed=0)


def readme(card: Mapping[str, Any], result: Mapping[str, Any], license_name: str) -> str:
    """README.md: what the policy chooses first and last, what it was learned on, what that cost, how to use it."""
    agent, search = card["agent"], result["search"]
    origin = card["card"]
    cost = "not recorded"
    if search:
        cost = f"{search['flops'] / 1e9:.4g} GFLOP, {duration(search['wall_seconds'])}"
    return f"""---
license: {license_name}
library_name: taskrl
tags: [reinforcement-learning, self-supervised-learning, task-policy, taskrl]
---

# Task policy

Chooses the pretext task on which an image encoder trains next. Learned by taskrl {card["taskrl_version"]}.

```bash
taskrl pretrain --policy . --data ./images --out runs/again   # here "." is this folder
```

It meets images with as many channels as it was learned on, and the same `--objectives`, `--forbid` and `--limit`.
Loading runs no code of this folder: `{WEIGHTS}` are weights, `{CARD}` is text.

| | |
|---|---|
| data | {origin.get("data")} |
| agent | {agent["name"]}, {origin.get("episodes")} episodes, search seed {origin.get("search_seed")} |
| search cost | {cost} |
| objectives | {", ".join(card["objectives"])} |
| knobs | {", ".join(card["knobs"])} |

## What it chooses

{_choices(result)}

## What came of it

{result["verdict"]}
"""


def _choices(result: Mapping[str, Any]) -> str:
    """The likeliest level of each part, at the first and the last decision of the final runs."""
    parts = result["choices"]["parts"]
    if not parts:
        return "No final encoder was trained with it."
    rows = [TITLES, ("---",) * len(TITLES), *choice_rows(parts)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
