"""Encoders to judge a reward by: random tasks over all objectives, two training lengths, with their accuracies.

    python benchmarks/checkpoints.py --work build/checkpoints --sets cluttered-digits
    python benchmarks/checkpoints.py --work build/checkpoints --sets fashion-mnist=PATH gtsrb=PATH
    python benchmarks/checkpoints.py --work build/checkpoints --worlds 0 48

Every run is trained once: its record (task, steps, losses, accuracies) and its weights stay in the work folder, so that
signals can be changed and measured again without training. `reward_validity.py` and `calibrate_panel.py` read it.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from encoder_scores import fine_tuned_accuracy, linear_accuracies, patch_accuracy
from safetensors.torch import load_file, save_file

from taskrl.assemble import Assembled, assemble, load_data
from taskrl.config import ExperimentConfig, load_config
from taskrl.data.dataset import InMemory, Part, RawDataset, Subset
from taskrl.evaluation.accuracy import pixel_accuracy
from taskrl.modalities.image.datasets import load_images
from taskrl.modalities.image.simulated.sets import simulated_set
from taskrl.modalities.image.simulated.world import draw_world
from taskrl.predictor.predictor import Predictor
from taskrl.run_folder import write_result
from taskrl.seeding import derive_seed, numpy_generator, torch_generator
from taskrl.tasks.spec import TaskSpec
from taskrl.types import Budget

IMAGE_SIZE = {"cluttered-digits": 28, "fashion-mnist": 28}
MAX_TRAIN, MAX_TEST = 6000, {"cifar10": 5000}
USUAL_MAX_TEST = 1500
# 240 steps of 64 grey images of 28 pixels are 5 s of one core. Colour sets are trained for longer, CIFAR-10 most:
# its validation and test accuracies ordered encoders alike with rank correlations of 0.49 (240 steps) and 0.56 (400)
STEPS = {"grey": (60, 240), "colour": (100, 400), "cifar10": (400, 1600), "simulated": (30, 100)}
KNOB_STEPS = 400  # at most
# all that there are; the order decides which tasks are drawn
OBJECTIVES = ("contrastive", "rotation", "jigsaw", "masked", "block_masked", "context_restoration", "relation",
              "relative_position")  # fmt: skip
NUM_TASKS = {"contrastive": 8, "rotation": 8, "masked": 8, "jigsaw": 8}
NUM_TASKS_OF_OTHERS = 2
NUM_SIMULATED = 6
KNOB_SEEDS = (0, 1)
NUM_DRAWS = {"grey": 2, "colour": 1, "simulated": 1}  # of the few labels to fine-tune on
GROUPS = r"group-([0-9]+)_"  # tracks of GTSRB, speakers of FSDD


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run. kind: "random" task, or "knob": the reference with one knob at another level."""

    name: str
    kind: str
    objective: str
    knob: str
    level: float
    spec: TaskSpec
    seed: int
    index: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """An encoder at `steps` of a run, and what is known of it."""

    run: dict[str, Any]
    steps: int
    facts: dict[str, Any]
    weights: Path

    @property
    def key(self) -> str:
        return f"{self.run['name']}-{self.steps}"

    def load(self, predictor: Predictor) -> Predictor:
        """Put the weights into `predictor`'s encoder."""
        predictor.encoder.load_state_dict(load_file(self.weights), strict=False)
        return predictor


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=[], metavar="NAME[=PATH]")
    parser.add_argument("--worlds", type=int, nargs=2, default=(0, 0), metavar=("FIRST", "END"))
    parser.add_argument("--kinds", nargs="+", default=["random", "knob", "long", "attack"])
    parser.add_argument("--most", type=int, default=max(NUM_TASKS.values()), help="Random tasks an objective.")
    parser.add_argument("--quick", action="store_true", help="Two runs a set, a few steps.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    limits = {"most": options.most, "quick": options.quick}
    for text in options.sets:
        name, _, path = text.partition("=")
        collect(open_set(name, path), options.work / name, options.kinds, **limits)
    for seed in range(*options.worlds):
        collect(open_world(seed), options.work / f"world-{seed:03d}", options.kinds, **limits)


def configuration(image_size: int, **data: Any) -> ExperimentConfig:
    """The default predictor, with everything that a timing decides pinned."""
    pinned = ["predictor.precision=bf16", "predictor.compile=never", "envs=processes", "workers=1"]
    objectives = {"tasks.objectives": list(OBJECTIVES)}
    return load_config(None, pinned, {"data.image_size": image_size, **data, **objectives})


def open_set(name: str, path: str) -> Assembled:
    """A real set, at most 6,000 training and 1,500 test images (CIFAR-10: 5,000) of it, drawn once."""
    return assemble(set_configuration(name, path), dataset_of(name, path))


def set_configuration(name: str, path: str) -> ExperimentConfig:
    """How a real set is read."""
    groups = {"data.groups": GROUPS} if name == "gtsrb" else {}
    return configuration(IMAGE_SIZE.get(name, 32), **{"data.source": path or name, **groups})


def dataset_of(name: str, path: str) -> RawDataset:
    """The images of a real set that the study uses."""
    dataset = _spoken_digits(path) if name == "fsdd" else load_data(set_configuration(name, path))
    assert dataset.test is not None
    return RawDataset(
        name=name,
        train=_at_most(dataset.train, MAX_TRAIN),
        test=_at_most(dataset.test, MAX_TEST.get(name, USUAL_MAX_TEST)),
        class_names=dataset.class_names,
    )


def open_world(seed: int) -> Assembled:
    """A simulated set at 28 pixels, 2,500 training and 600 test images."""
    return assemble(configuration(28), simulated_set(draw_world(seed), image_size=28, num_train=2500, num_test=600))


def _spoken_digits(path: str) -> RawDataset:
    """Spoken digits with the last speaker held out as the test (docs/protocol.md: leave one speaker out)."""
    halves = [load_images(f"{path}/{half}", image_size=32, groups=GROUPS) for half in ("train", "test")]
    parts = [half.train for half in halves]
    images = torch.cat([part.inputs.take(torch.arange(len(part.inputs))) for part in parts])
    labels = torch.cat([part.labels for part in parts if part.labels is not None])
    speakers = torch.cat([part.groups for part in parts if part.groups is not None])
    held = speakers == speakers.max()
    train = Part(inputs=InMemory(images[~held]), labels=labels[~held], groups=speakers[~held])
    test = Part(inputs=InMemory(images[held]), labels=labels[held])
    return RawDataset(name="fsdd", train=train, test=test, class_names=halves[0].class_names)


def collect(assembled: Assembled, folder: Path, kinds: list[str], *, most: int, quick: bool = False) -> None:
    """Train and score every planned run that has no record yet."""
    folder.mkdir(parents=True, exist_ok=True)
    source = source_of(assembled)
    _floors(assembled, folder)
    plans = [plan for plan in plan_runs(assembled, folder.name, source) if plan.kind in kinds and plan.index < most]
    for plan in plans[: 2 if quick else None]:
        record = folder / f"{plan.name}.json"
        if record.is_file():
            continue
        found = list(
            _run(assembled, plan, folder, (2, 4) if quick else lengths_of(plan, STEPS.get(folder.name, STEPS[source])))
        )
        write_result(record, {**asdict(plan), "spec": plan.spec.to_json(), "checkpoints": found})
        print(folder.name, plan.name, [round(facts["test"]["linear"], 1) for facts in found], flush=True)


def source_of(assembled: Assembled) -> str:
    """Which lengths a set is trained for."""
    if assembled.splits.name.startswith("simulated"):
        return "simulated"
    return "colour" if assembled.splits.pretraining.inputs.sample_shape[0] == 3 else "grey"


def plan_runs(assembled: Assembled, name: str, source: str) -> list[Plan]:
    """The runs of one set: fixed by its name, whatever has been measured."""
    rng = numpy_generator(0, "checkpoints", name)
    plans = []
    if source == "simulated":
        picks = [str(pick) for pick in rng.choice(list(NUM_TASKS), NUM_SIMULATED - 2)] + ["contrastive"] * 2
        plans = [_random_task(assembled, objective, index, rng) for index, objective in enumerate(picks)]
    else:
        for objective in OBJECTIVES:
            for index in range(NUM_TASKS.get(objective, NUM_TASKS_OF_OTHERS)):
                plans.append(_random_task(assembled, objective, index, rng))
    deviations = [("reference", 0.0), *_deviations(assembled)]
    if source == "simulated":
        deviations = [deviations[0], *(deviations[i + 1] for i in rng.permutation(len(deviations) - 1)[:2])]
    for seed in (0,) if source == "simulated" else KNOB_SEEDS:
        plans += [_knob_task(assembled, knob, level, seed) for knob, level in deviations]
    if source != "simulated":
        plans += [_long_task(assembled, objective) for objective in NUM_TASKS]
        plans.append(_weakest_views(assembled))
    return plans


def _random_task(assembled: Assembled, objective: str, index: int, rng: Any) -> Plan:
    """Views and mask drawn uniformly over their levels."""
    knobs = assembled.problem.task_space.knobs
    levels = {knob.name: knob.levels[int(rng.integers(len(knob.levels)))] for knob in knobs}
    used = {k.name for k in knobs if k.used_by is None or objective in k.used_by}
    spec = TaskSpec(mixture=((objective, 1.0),), levels=tuple((name, v) for name, v in levels.items() if name in used))
    name = f"random-{objective}-{index}"
    return Plan(
        name=name, kind="random", objective=objective, knob="", level=0.0, spec=spec, seed=100 + index, index=index
    )


def _deviations(assembled: Assembled) -> list[tuple[str, float]]:
    return [
        (knob.name, level)
        for knob in assembled.problem.task_space.knobs
        if knob.used_by is None
        for index, level in enumerate(knob.levels)
        if index != knob.reference
    ]


def _knob_task(assembled: Assembled, knob: str, level: float, seed: int) -> Plan:
    reference = assembled.problem.task_space.reference
    levels = dict(reference.levels) | ({} if knob == "reference" else {knob: level})
    spec = TaskSpec(mixture=reference.mixture, levels=tuple(levels.items()))
    name = f"knob-{knob}-{level:g}-{seed}"
    return Plan(name=name, kind="knob", objective="contrastive", knob=knob, level=level, spec=spec, seed=seed)


def _long_task(assembled: Assembled, objective: str) -> Plan:
    """The reference's views, trained twice as long as the others, looked at eight times on the way."""
    space = assembled.problem.task_space
    used = [knob for knob in space.knobs if knob.used_by is None or objective in knob.used_by]
    levels = tuple((knob.name, knob.levels[knob.reference]) for knob in used)
    spec = TaskSpec(mixture=((objective, 1.0),), levels=levels)
    name = f"long-{objective}"
    return Plan(name=name, kind="long", objective=objective, knob="", level=0.0, spec=spec, seed=200)


def _weakest_views(assembled: Assembled) -> Plan:
    """Contrastive learning between an image and itself: solved at once, teaches nothing."""
    levels = {knob.name: knob.levels[0] for knob in assembled.problem.task_space.knobs if knob.used_by is None}
    spec = TaskSpec(mixture=(("contrastive", 1.0),), levels=tuple(levels.items()))
    return Plan(name="weakest-views", kind="attack", objective="contrastive", knob="", level=0.0, spec=spec, seed=300)


def lengths_of(plan: Plan, lengths: tuple[int, int]) -> tuple[int, ...]:
    """Steps of the reference recipe at which a run is looked at."""
    short, full = lengths
    if plan.kind == "long":
        return tuple(range(short, 2 * full + 1, short))
    return (short, full) if plan.kind == "random" else (min(full, KNOB_STEPS),)


def _run(assembled: Assembled, plan: Plan, folder: Path, lengths: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Train to each length under one cosine schedule; facts and weights at each."""
    problem = assembled.problem
    predictor = problem.make_predictor(derive_seed(plan.seed, "checkpoints"))
    batches, rng = problem.stream.batches(torch_generator(plan.seed, "order")), torch_generator(plan.seed, "views")
    done, spent = 0, 0
    for steps in lengths:
        target = steps * problem.reference_step_flops
        budget = Budget(flops=target - spent, start=done / lengths[-1], end=steps / lengths[-1])
        report = problem.inner_loop.adapt(predictor, problem.build_task(plan.spec), batches, rng, budget)
        done, spent = steps, spent + report.compute.flops
        predictor.recalibrate(problem.calibration)
        weights = {name: value.contiguous() for name, value in predictor.encoder.state_dict().items()}
        save_file(weights, folder / f"{plan.name}-{steps}.safetensors")
        facts = {"steps": steps, "loss": report.losses[plan.objective], **_linear(assembled, predictor)}
        if steps == lengths[-1] and plan.kind == "random":
            facts |= _with_few_labels(assembled, predictor)
        yield facts


def _linear(assembled: Assembled, predictor: Predictor) -> dict[str, Any]:
    return {role: {"linear": value} for role, value in linear_accuracies(assembled, predictor.encode).items()}


def _with_few_labels(assembled: Assembled, predictor: Predictor) -> dict[str, float]:
    num_draws = NUM_DRAWS[source_of(assembled)]
    return {
        "fine_tuned": fine_tuned_accuracy(assembled, predictor, num_draws=num_draws),
        "patch": patch_accuracy(assembled, predictor),
    }


def _floors(assembled: Assembled, folder: Path) -> None:
    """The untrained encoder (as a checkpoint of 0 steps) and raw pixels."""
    record = folder / "untrained.json"
    if record.is_file():
        return
    predictor = assembled.problem.make_predictor(derive_seed(0, "checkpoints"))
    predictor.recalibrate(assembled.problem.calibration)
    save_file(
        {name: value.contiguous() for name, value in predictor.encoder.state_dict().items()},
        folder / "untrained-0.safetensors",
    )
    splits = assembled.splits
    test, fitting = splits.open_test(lambda _: None, "floors of checkpoints"), splits.fitting
    assert fitting is not None
    assert test.labels is not None
    everything = [part.take(torch.arange(len(part))) for part in (fitting.inputs, test.inputs)]
    real = not splits.name.startswith("simulated")
    pixels = pixel_accuracy(everything[0], fitting.labels, everything[1], test.labels) if real else None
    facts = {"steps": 0, "loss": 0.0, **_linear(assembled, predictor)}
    facts |= _with_few_labels(assembled, predictor)
    plan = {"name": "untrained", "kind": "untrained", "objective": "untrained", "seed": 0}
    write_result(record, {**plan, "checkpoints": [facts], "pixels": pixels})


def read(folder: Path) -> list[Checkpoint]:
    """Every finished checkpoint of a set."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name == "signals.json":
            continue
        run = json.loads(path.read_text(encoding="utf-8"))
        for facts in run["checkpoints"]:
            weights = folder / f"{run['name']}-{facts['steps']}.safetensors"
            found.append(Checkpoint(run, facts["steps"], facts, weights))
    return found


def _at_most(part: Part, count: int) -> Part:
    if len(part.inputs) <= count:
        return part
    rows = torch.randperm(len(part.inputs), generator=torch_generator(0, "subset"))[:count].sort().values
    groups = None if part.groups is None else part.groups[rows]
    labels = None if part.labels is None else part.labels[rows]
    return Part(inputs=Subset(part.inputs, rows), labels=labels, groups=groups)


if __name__ == "__main__":
    main()
