"""Real views for the report: what the learned tasks and the reference recipe make of the same images."""

from collections.abc import Sequence

import torch

from taskrl.assemble import Assembled
from taskrl.modalities.image.views import make_view
from taskrl.report import Gallery, image_grid
from taskrl.seeding import torch_generator
from taskrl.tasks.spec import TaskSpec

NUM_IMAGES = 12
NUM_VIEWS = 3


def view_galleries(assembled: Assembled, learned: Sequence[str]) -> list[Gallery]:
    """Views under the reference and under the learned tasks (JSON specs) of the first, middle and last decision."""
    images = assembled.problem.calibration[:NUM_IMAGES].cpu()
    chosen = [("Reference recipe", assembled.problem.task_space.reference)]
    if learned:
        places = dict.fromkeys((0, len(learned) // 2, len(learned) - 1))
        chosen += [(f"Learned, decision {i + 1} of {len(learned)}", TaskSpec.from_json(learned[i])) for i in places]
    plain = images.float() / 255
    result = []
    for title, spec in chosen:
        rng = torch_generator(assembled.config.seed, "gallery")
        views = [make_view(images, rng, dict(spec.levels)) for _ in range(NUM_VIEWS)]
        rows = torch.cat([plain, *views])
        caption = f"Top row: the images. Below: {NUM_VIEWS} views of each. Task: {spec.describe()}."
        result.append(Gallery(title=title, caption=caption, png=image_grid(list(rows), columns=NUM_IMAGES, scale=2)))
    return result
