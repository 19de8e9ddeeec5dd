"""The cells of benchmarks/transfer.py: pretrained, fine-tuned and distilled encoders of one set, each measured once."""

import datetime
import functools
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import checkpoints
import torch

from agents.compare.cells import Cell, Store, encoder_settings
from agents.final import UNTRAINED, FinalJob, Generator, floors, train_final
from agents.keeping import kept_folders
from agents.pretraining import find_generator
from taskrl.assemble import Assembled, assemble
from taskrl.config import EpisodeConfig, load_config
from taskrl.data.fingerprint import images_fingerprint
from taskrl.evaluation.accuracy import is_imbalanced, measure
from taskrl.export import load_exported
from taskrl.folders import fingerprint
from taskrl.machine import machine, versions
from taskrl.modalities.image.state_dicts import untrained_like
from taskrl.seeding import derive_seed
from taskrl.transfer.distil import distil
from taskrl.transfer.finetune import LEARNING_RATES, PROBE_SCALE, classify, encode_flops, fine_tune, linear_probe
from taskrl.transfer.labelled import draw_labelled
from taskrl.transfer.scores import score
from taskrl.transfer.training import Training, encode_all, view_levels
from taskrl.transfer.trunk import parse_how
from taskrl.tuning import images_per_second

SEED = 40  # of the whole study; no other study has drawn from it
DECISIONS = 4
METHOD = {"rates": LEARNING_RATES, "probe_scale": PROBE_SCALE, "trained": "on all labels"}  # of fine-tuning
FINETUNE_VIEWS, DISTIL_RATE = "crop=0.6,jitter=0.4", 1e-2  # the commands' defaults, as are the learning rates
PINNED = ("predictor.precision=bf16", "predictor.compile=never", "envs=processes", "workers=1", "tracking.uri=none",
          "predictor.device=cpu", "reward.scale=1.0", "final.test=true", f"seed={SEED}")  # fmt: skip

Content = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything. Steps are those of the reference recipe, of fine-tuning (a rate) and of distillation."""

    width: int = 32
    student: int = 16
    batch_size: int = 64
    pretrain: int = 3840
    finetune: int = 200
    distil: int = 1000
    labels_per_class: int = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A pretraining. generator: as `taskrl pretrain --policy`, or untrained. steps: of the reference recipe at this
    width, of which the FLOPs are given. init: an encoder's folder to go on from.
    """

    generator: str
    steps: int
    width: int
    seed: int
    init: Path | None = None


def generator_of(name: str) -> Generator:
    """As `taskrl pretrain --policy` names them, and untrained."""
    return Generator(name=UNTRAINED, source=UNTRAINED) if name == UNTRAINED else find_generator(name)


@final
class Bench:
    """One set, and its cells. Raises TaskrlError where the set cannot be read."""

    def __init__(self, name: str, path: str, sizes: Sizes, store: Store, work: Path) -> None:
        self.name, self.path, self.sizes, self.store, self.work = name, path, sizes, store, work
        self._dataset = checkpoints.dataset_of(name, path)
        self.assembled = functools.cache(self._assembled)
        self.data = self.assembled(sizes.width, None)
        splits = self.data.splits
        self.shape = splits.pretraining.inputs.sample_shape
        assert splits.fitting is not None
        self.fitting = splits.fitting
        self.test = splits.open_test(lambda _: None, "benchmarks/transfer.py")  # the page says that they are read
        assert self.test.labels is not None
        self.test_labels = self.test.labels
        self.imbalanced = is_imbalanced(self.test_labels, self.fitting.labels)

    def _assembled(self, width: int, init: Path | None) -> Assembled:
        given: dict[str, Any] = {
            "data.source": self.path or self.name,
            "data.image_size": checkpoints.IMAGE_SIZE.get(self.name, 32),
            "predictor.width": width,
            "predictor.batch_size": self.sizes.batch_size,
            "predictor.init": str(init) if init else "",
        }
        if self.name == "gtsrb":
            given["data.groups"] = checkpoints.GROUPS
        return assemble(load_config(None, list(PINNED), given), self._dataset)

    def _settings(self, assembled: Assembled) -> Content:
        settings = encoder_settings(assembled.config, images_fingerprint(assembled.splits))
        return settings | {"data": settings["data"] | {"source": self.name}}  # a name, not where it lies here

    def _measured(self, cell: Cell, work: Callable[[], Mapping[str, Any]]) -> Content:
        """The content of a cell, measured now if it is missing."""
        if not self.store.has(cell):
            started = time.monotonic()
            content = {"set": self.name, **work(), "seconds": round(time.monotonic() - started, 2)}
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            self.store.write(cell, {**content, "date": today, "machine": machine("cpu"), "versions": versions()})
            print(self.name, cell.name, f"{content['accuracy']:.1f} %, {content['seconds']:.0f} s", flush=True)
        return self.store.read(cell)

    def _recipe_cell(self, recipe: Recipe) -> Cell:
        policy = Path(generator_of(recipe.generator).source)
        # a policy is what is in it, wherever it lies
        files = sorted(policy.iterdir()) if policy.is_dir() else [policy] if policy.is_file() else []
        named = [fingerprint(file)["sha256"] for file in files] or recipe.generator
        decided_by = {"generator": named, "steps": recipe.steps, "decisions": DECISIONS, "train_seed": recipe.seed}
        return Cell("pretrained", {**self._settings(self.assembled(recipe.width, recipe.init)), **decided_by})

    def pretrained(self, recipe: Recipe) -> Content:
        """accuracy: linear, on test images. flops, seconds: of training; of the whole cell."""
        return self._measured(self._recipe_cell(recipe), lambda: self._train(recipe))

    def encoder(self, recipe: Recipe) -> Path:
        """The folder of a pretrained encoder; trained again where a cell is there but its weights are not."""
        self.pretrained(recipe)
        folder = self.work / self._recipe_cell(recipe).name
        if not folder.is_dir():
            self._train(recipe)
        return folder

    def _train(self, recipe: Recipe) -> Content:
        assembled = self.assembled(recipe.width, recipe.init)
        folder = self.work / self._recipe_cell(recipe).name
        for left_over in kept_folders(folder):
            shutil.rmtree(left_over, ignore_errors=True)
        job = FinalJob(
            generator=generator_of(recipe.generator),
            episode=EpisodeConfig(decisions=DECISIONS, steps_per_decision=max(1, round(recipe.steps / DECISIONS))),
            search_seed=SEED,
            train_seed=recipe.seed,
            export_to=folder,
            read_test=True,
        )
        row = train_final(assembled, job).row
        return {
            "accuracy": row["linear_accuracy"],
            "balanced": row["balanced_accuracy"],
            "knn": row["knn_accuracy"],
            "flops": row["train_flops"],
            "train_seconds": row["wall_seconds"],
            "seed": recipe.seed,
        }

    def recipe(self, generator: str, seed: int) -> Recipe:
        """A pretraining of the usual length and width."""
        return Recipe(generator=generator, steps=self.sizes.pretrain, width=self.sizes.width, seed=seed)

    def step_flops(self, width: int) -> int:
        """Of a step of the reference recipe."""
        return self.assembled(width, None).problem.reference_step_flops

    def seconds_of_step(self, width: int) -> float:
        """Of the reference recipe on one core, as measured here."""
        assembled = self.assembled(width, None)
        rate = images_per_second(assembled.config, lambda _: assembled.problem, self.shape)
        return self.sizes.batch_size / rate

    def steps_for(self, flops: float, width: int) -> int:
        """Steps of the reference recipe at a width that cost at least so much, a multiple of the decisions."""
        return DECISIONS * int(-(-flops // (DECISIONS * self.step_flops(width))))

    def pixels(self) -> Content:
        """The floor of raw pixels."""

        def work() -> Content:
            found, _ = floors(self.data, True, num_seeds=1)
            assert found is not None
            return {"accuracy": found["best"], "flops": 0}

        return self._measured(Cell("pixels", {"images": images_fingerprint(self.data.splits), "set": self.name}), work)

    def finetuned(self, start: Recipe | None, how: str, steps: int, seed: int) -> Content:
        """An encoder, or fresh weights, trained on a few labels. how: as `taskrl finetune --how`; "probe" for the
        frozen features. accuracy, balanced, auroc: on test images. flops: of the sweep alone.
        """
        training = self._training(max(1, steps), FINETUNE_VIEWS)
        parsed = None if how == "probe" else parse_how(how)
        decided_by = {
            **self._settings(self.data),
            "start": "scratch" if start is None else self._recipe_cell(start).name,
            "labels_per_class": self.sizes.labels_per_class,
            "how": how,
            "precision": training.precision,
            **({} if parsed is None else {"steps": steps, "views": FINETUNE_VIEWS, **METHOD}),
            "train_seed": seed,
        }

        def work() -> Content:
            data = draw_labelled(self.data.splits, self.sizes.labels_per_class, seed=derive_seed(SEED, "draw", seed))
            config = self.data.encoder_config
            fresh = untrained_like(config, derive_seed(SEED, "from scratch", seed))
            encoder = fresh if start is None else load_exported(self.encoder(start))
            chosen: Content = {}
            if parsed is None:
                classifier = linear_probe(encoder, data, training.device)
                flops = len(data.together.labels) * encode_flops(encoder, self.shape)
            else:
                order = derive_seed(SEED, "fine-tuning", seed)
                found = fine_tune(encoder, data, parsed, training, seed=order)
                encoder, classifier, flops = found.encoder, found.classifier, found.flops
                chosen = {"learning_rate": found.learning_rate, "step": found.step, "inner": found.inner.balanced}
            scores = score(classify(encoder, classifier, self.test.inputs, training.device), self.test_labels)
            measured = {"accuracy": scores.accuracy, "balanced": scores.balanced, "auroc": scores.auroc}
            return {**measured, "flops": flops, "seed": seed, **chosen}

        return self._measured(Cell("finetuned", decided_by), work)

    def distilled(self, teacher: Recipe, student: Recipe) -> Content:
        """`student` (untrained) taught by `teacher`, as `taskrl distill` does. accuracy: linear, on test images."""
        settings = {
            "steps": self.sizes.distil,
            "learning_rate": DISTIL_RATE,
            "views": "none",
            "train_seed": student.seed,
        }
        names = {"teacher": self._recipe_cell(teacher).name, "student": self._recipe_cell(student).name}

        def work() -> Content:
            found = distil(
                load_exported(self.encoder(teacher)),
                load_exported(self.encoder(student)),
                self.data.splits.pretraining.inputs,
                self._training(self.sizes.distil, "none"),
                seed=derive_seed(SEED, "distillation", student.seed),
                learning_rate=DISTIL_RATE,
            )
            device = torch.device("cpu")
            features = [encode_all(found.encoder, inputs, device) for inputs in (self.fitting.inputs, self.test.inputs)]
            scores = measure(features[0], self.fitting.labels, [(features[1], self.test_labels)])[0]
            measured = {"accuracy": scores.linear, "balanced": scores.balanced, "knn": scores.knn}
            return {**measured, "flops": found.compute.flops, "loss": found.loss, "seed": student.seed}

        return self._measured(Cell("distilled", {**names, **settings}), work)

    def _training(self, steps: int, views: str) -> Training:
        return Training(
            steps=steps,
            batch_size=self.sizes.batch_size,
            weight_decay=self.data.config.predictor.weight_decay,
            levels=view_levels(views, self.shape),
            device=torch.device("cpu"),
        )
