"""What an encoder is worth elsewhere: fine-tuned on few labels, distilled to a quarter of its size, gone on from.

    python benchmarks/transfer.py --sets cluttered-digits fashion-mnist=PATH cifar10=PATH
    python benchmarks/transfer.py --sets cifar10=PATH --parts finetune --seeds 5 --ours runs/photos
    python benchmarks/transfer.py --sets fashion-mnist=PATH cluttered-digits --parts init
    python benchmarks/transfer.py --sets cluttered-digits --quick

Test images, paired by seed: the same initial encoder, order of data, drawn labels, batches and views on every side.

finetune  10 labels a class. Encoders pretrained without labels by --ours and by the reference recipe, fine-tuned
          (linear-then-full) or frozen under a linear probe, beside the same net from fresh weights: in as many steps,
          and in as many as the FLOPs of pretraining and fine-tuning together buy. All meet the same learning rates and
          stop by the same inner part of the labels.
distill   A student of half the width, a quarter of the parameters, of a teacher pretrained by --ours; beside the same
          student pretrained by --ours itself, with the FLOPs of the distillation, and with those of the teacher, too.
          Not on colour sets.
init      --init, on every pair of --sets of which the first comes before the second and has as many channels or more.
          The reference recipe goes on from the first set's encoder in a quarter of the steps; beside that encoder's
          frozen features, and fresh weights: in as many steps, and with the FLOPs of both.

Every cell is a file named by a hash of what decides it, and is never measured twice; encoders stay in --work. One core
is used: it may be started several times, each for a set; started for all of them, it then writes the page.
"""

import argparse
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch
from measure import RESULTS, finish, parser
from transfer_cells import Bench, Content, Recipe, Sizes
from transfer_page import KEPT, THEIRS, Section, headline, page

from agents.compare.cells import Store
from agents.final import UNTRAINED
from taskrl.report_figures import duration
from taskrl.transfer.finetune import LEARNING_RATES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results-transfer.md"
REFERENCE = "reference"
FULL, QUICK = Sizes(), Sizes(width=8, student=4, batch_size=16, pretrain=8, finetune=10, distil=10)


def main() -> None:
    """Say what it will cost, measure what is missing, write the page."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--sets", nargs="+", required=True, metavar="NAME[=PATH]")
    options_parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=["finetune", "distill"])
    options_parser.add_argument("--seeds", type=int, default=3)
    options_parser.add_argument("--ours", default="profile", help="A recipe, or a policy, as taskrl pretrain takes it.")
    options_parser.add_argument("--results", type=Path, default=RESULTS / "transfer")
    options_parser.add_argument("--work", type=Path, default=Path("build/transfer"))
    options = options_parser.parse_args()
    torch.set_num_threads(1)
    work = options.work / "quick" if options.quick else options.work
    store = Store(work / "cells" if options.quick else options.results)
    sizes = QUICK if options.quick else FULL
    sets = dict(text.partition("=")[::2] for text in options.sets)
    benches = [Bench(name, path, sizes, store, work.absolute()) for name, path in sets.items()]
    forecast(benches, options)
    sections = [section for part in options.parts for section in PARTS[part](benches, options)]
    text = page(sections, options.ours, sizes)
    print(text)
    if not options.quick:
        PAGE.write_text(text, encoding="utf-8")
    finish(__file__, options, headline(sections), {"sections": [section.to_json() for section in sections]})


def forecast(benches: list[Bench], options: argparse.Namespace) -> None:
    """Seconds of one core for all cells, from the FLOPs of their training and the speed of the reference recipe's
    steps of the large and the small net here; scoring is not in it.
    """
    total = 0.0
    for bench in benches:
        sizes, seconds = bench.sizes, 0.0
        step = {width: bench.seconds_of_step(width) for width in (sizes.width, sizes.student)}
        pretraining = sizes.pretrain * step[sizes.width]
        tuning = len(LEARNING_RATES) * sizes.finetune * step[sizes.width] / 2  # one view an image
        if "finetune" in options.parts:
            seconds += 2 * pretraining + 3 * tuning + (pretraining + tuning)
        if "distill" in options.parts and bench.shape[0] == 1:
            seconds += 0 if "finetune" in options.parts else pretraining
            small = step[sizes.student] / bench.step_flops(sizes.student)
            distilling = (
                sizes.distil * (bench.step_flops(sizes.width) / 6 + bench.step_flops(sizes.student) / 2) * small
            )
            direct = sizes.pretrain * bench.step_flops(sizes.width) * small
            seconds += 3 * distilling + direct
        print(f"{bench.name}: about {duration(options.seeds * seconds)} of one core", flush=True)
        total += options.seeds * seconds
    if "init" in options.parts:
        print("init is not in it: a quarter more than a pretraining for every seed and pair, beside what is shared")
    print(f"Forecast: about {duration(total)} of one core where nothing is measured yet.", flush=True)


def finetune(benches: list[Bench], options: argparse.Namespace) -> list[Section]:
    """A section a set."""
    found = []
    for bench in benches:
        sizes, ours, theirs, probes, scratch = bench.sizes, [], [], ([], []), ([], [])
        for seed in range(options.seeds):
            starts = [bench.recipe(generator, seed) for generator in (options.ours, REFERENCE)]
            pretraining = [bench.pretrained(start)["flops"] for start in starts]
            tuned = [bench.finetuned(start, "linear-then-full", sizes.finetune, seed) for start in starts]
            for arm, content, flops in zip((ours, theirs), tuned, pretraining, strict=True):
                arm.append(with_flops(content, flops))
            for arm, start, flops in zip(probes, starts, pretraining, strict=True):
                arm.append(with_flops(bench.finetuned(start, "probe", 0, seed), flops))
            short = bench.finetuned(None, "full", sizes.finetune, seed)
            longer = -(-sizes.finetune * (pretraining[0] + tuned[0]["flops"]) // short["flops"])
            scratch[0].append(short)
            scratch[1].append(bench.finetuned(None, "full", longer, seed))
        arms = {
            f"{options.ours}, fine-tuned": ours,
            THEIRS: theirs,
            "fresh weights, as many steps": scratch[0],
            "fresh weights, as many FLOPs in all": scratch[1],
            f"{options.ours}, frozen": probes[0],
            "reference, frozen": probes[1],
        }
        found.append(Section(part="finetune", name=bench.name, arms=arms, imbalanced=bench.imbalanced))
    return found


def distill(benches: list[Bench], options: argparse.Namespace) -> list[Section]:
    """A section a grey set."""
    found = []
    for bench in benches:
        if bench.shape[0] > 1:
            continue
        width, arms = bench.sizes.student, {name: [] for name in KEPT}
        for seed in range(options.seeds):
            teacher = bench.recipe(options.ours, seed)
            student = Recipe(generator=UNTRAINED, steps=0, width=width, seed=seed)
            taught, told = bench.pretrained(teacher), bench.distilled(teacher, student)
            budgets = told["flops"], told["flops"] + taught["flops"]
            alone = [replace(student, generator=options.ours, steps=bench.steps_for(f, width)) for f in budgets]
            direct = [bench.pretrained(recipe) for recipe in alone]
            contents = with_flops(told, taught["flops"]), *direct, bench.pretrained(student), taught, bench.pixels()
            for name, content in zip(KEPT, contents, strict=True):
                arms[name].append(content)
        found.append(Section(part="distill", name=bench.name, arms=arms, imbalanced=bench.imbalanced))
    return found


def init(benches: list[Bench], options: argparse.Namespace) -> list[Section]:
    """A section a pair of sets."""
    found = []
    for source, target in combinations(benches, 2):
        if source.shape[0] < target.shape[0]:
            continue
        width, steps = target.sizes.width, max(1, target.sizes.pretrain // 4)
        on, frozen, short, longer = [], [], [], []
        for seed in range(options.seeds):
            start = source.recipe(REFERENCE, seed)
            folder, flops = source.encoder(start), source.pretrained(start)["flops"]
            fresh = Recipe(generator=REFERENCE, steps=steps, width=width, seed=seed)
            given = replace(fresh, init=folder)
            on.append(with_flops(target.pretrained(given), flops))
            frozen.append(with_flops(target.pretrained(replace(given, generator=UNTRAINED, steps=0)), flops))
            short.append(target.pretrained(fresh))
            longer.append(target.pretrained(replace(fresh, steps=target.steps_for(on[-1]["flops"], width))))
        arms = {
            "gone on with": on,
            "its frozen features": frozen,
            "fresh weights, as many steps": short,
            "fresh weights, as many FLOPs in all": longer,
            "pixels": [target.pixels()] * options.seeds,
        }
        name = f"{source.name} to {target.name}"
        found.append(Section(part="init", name=name, arms=arms, imbalanced=target.imbalanced))
    return found


def with_flops(content: Content, flops: int) -> Content:
    """The content, with what came before it charged."""
    return {**content, "flops": content["flops"] + flops}


PARTS = {"finetune": finetune, "distill": distill, "init": init}


if __name__ == "__main__":
    main()
