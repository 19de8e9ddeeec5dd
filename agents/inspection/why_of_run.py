"""Whether a run can be asked why it chooses, and what it answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.compare.folder import is_comparison
from agents.final import FIXED, NAMED
from agents.inspection.explaining import explained
from agents.inspection.learned import image_shape
from agents.inspection.observed import Observed
from agents.online import ONLINE
from agents.policy import SB3TaskPolicy, load_policy
from agents.schedule import SCHEDULE, YAML
from agents.session import pretraining_file
from taskrl.assemble import Assembled, task_space
from taskrl.config import ExperimentConfig
from taskrl.errors import RunFolderError
from taskrl.folders import read_json, typed
from taskrl.run_folder import RunFolder


def why_of(path: Path) -> dict[str, Any]:
    """`explained` of a finished run: as it was stored, or else measured now.

    Raises RunFolderError, a sentence that says what to do, where there is no learned policy or no record of what it
    observed.
    """
    run = RunFolder.open(path)
    if is_comparison(path):
        raise RunFolderError(
            f"{str(path)!r} is a comparison, which keeps no record of what its policies observed; learn one with: "
            f"taskrl train --config {typed(run.config_file)} --out NEW-FOLDER, and inspect that."
        )
    result = run.result()
    if result.get("why"):
        return dict(result["why"])
    plain = plain_answer(run)
    if plain:
        raise RunFolderError(plain)
    if not run.observations.is_file():
        raise RunFolderError(
            f"{str(path)!r} does not record what its policy observed (it has no final runs, or an earlier version made "
            f"it); play the policy again with: taskrl train --mode apply --policy {typed(path)} --config "
            f"{typed(run.config_file)} --eval-seeds 5 --out NEW-FOLDER, and inspect that."
        )
    config = run.config()
    shape = image_shape(run, config, result["choices"]["parts"])
    return explained(policy_in(run.policy, config, shape), Observed.read(run.observations), None)


def plain_answer(run: RunFolder) -> str | None:
    """What is to be said of a run that has no policy to ask; None where it has one. Raises RunFolderError when the run
    is not finished, or lost its policy.
    """
    result = run.result()
    if run.policy.is_dir():
        return None
    note = pretraining_file(run)
    played = str(read_json(note).get("policy", "")) if note.is_file() else run.config().mode
    if (run.path / SCHEDULE).is_file() or played.endswith(YAML):
        return "It plays a schedule: what is trained depends on progress alone, whatever else is observed."
    if played == ONLINE:
        return (
            "Its policy learns within each final run and is not kept: what it chooses depends on progress and on the "
            "gains of its own decisions so far, which are no part of the observation."
        )
    if played == "random":
        return "It draws every open level with the same probability, whatever is observed."
    if played in NAMED or played.startswith(FIXED):
        return f"It plays one recipe, {played}, whatever is observed."
    if not note.is_file() and not result.get("search") and played != "apply":
        return "It searched for no policy, and keeps none."
    if not note.is_file():
        raise RunFolderError(f"{str(run.policy)!r} is missing; copy it from the original run again.")
    return f"It played the policy of {played!r} and keeps no copy of it; give taskrl inspect that run with --why."


def why_of_finals(run: RunFolder, assembled: Assembled, observed: Observed | None) -> dict[str, Any] | None:
    """What a run keeps of it when it ends; None without a learned policy and final runs of it.

    The description of the data set is found out for this, where it is one set.
    """
    if observed is None or not run.policy.is_dir():
        return None
    policy = policy_in(run.policy, assembled.config, assembled.splits.pretraining.inputs.sample_shape)
    return explained(policy, observed, assembled.problem.describe() if assembled.draw is None else None)


def policy_in(folder: Path, config: ExperimentConfig, shape: Sequence[int]) -> SB3TaskPolicy:
    """A run's policy, for images (C, H, W) of `shape`."""
    return load_policy(folder, lambda codec: task_space(config, tuple(shape), codec), seed=0)
