import pytest
import torch

from taskrl.modalities.image.objectives.contrastive import TEMPERATURE, Contrastive
from taskrl.modalities.image.objectives.hard_views import NUM_VIEWS, PAIRS, HardViews, hardest_pairs
from taskrl.modalities.image.objectives.losses import nt_xent, nt_xent_of_each
from taskrl.predictor.batched import BatchedSteps
from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.inner_loop import Assignment, PlainSteps
from taskrl.tasks.task import Mixture, MixturePart
from taskrl.types import Budget
from tests.builders import generator, random_images, reference_levels, tiny_predictor
from tests.taskrl.modalities.image.objectives.stubs import StubNetworks, naive_cross_entropy

BATCH = 6
SHAPE = (1, 16, 16)


def part() -> MixturePart:
    return MixturePart(name="hard-views", share=1.0, task=HardViews(reference_levels(), SHAPE))


def naive_loss_of(image: int, first: torch.Tensor, second: torch.Tensor) -> float:
    """NT-Xent of both views of one image, by the definition: each against all views but itself."""
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    losses = []
    for row, partner in ((image, image + len(first)), (image + len(first), image)):
        others = [k for k in range(len(views)) if k != row]
        logits = torch.stack([views[row] @ views[k] for k in others])[None] / TEMPERATURE
        losses.append(naive_cross_entropy(logits, torch.tensor([others.index(partner)])))
    return sum(losses) / 2


def test_each_image_gets_the_pair_that_a_loop_over_all_pairs_finds_hardest() -> None:
    embeddings = torch.randn((NUM_VIEWS, BATCH, 5), generator=generator()).unbind()
    found = hardest_pairs(embeddings, TEMPERATURE)
    expected = [
        max(PAIRS, key=lambda pair: naive_loss_of(image, embeddings[pair[0]], embeddings[pair[1]]))
        for image in range(BATCH)
    ]
    assert [tuple(row) for row in found.tolist()] == expected
    assert len(set(expected)) > 1, "images must differ in their hardest pair"


def test_the_loss_of_a_batch_is_the_mean_of_its_images() -> None:
    first, second = torch.randn((2, BATCH, 5), generator=generator()).unbind()
    each = nt_xent_of_each(first, second, TEMPERATURE)
    assert each.tolist() == pytest.approx([naive_loss_of(image, first, second) for image in range(BATCH)], rel=1e-5)
    assert float(each.mean()) == pytest.approx(float(nt_xent(first, second, TEMPERATURE)), rel=1e-6)


def test_training_is_the_contrastive_task_on_the_chosen_views() -> None:
    """Embeddings are here the means of the views."""
    views = torch.rand((NUM_VIEWS * BATCH, 5, 4, 4), generator=generator())
    task, nets = HardViews({}, SHAPE), StubNetworks()
    loss = task.loss(nets, views)
    everything, chosen = nets.given
    pairs = hardest_pairs(everything.chunk(NUM_VIEWS), TEMPERATURE)
    rows = [int(view) * BATCH + image for column in pairs.T for image, view in enumerate(column)]
    torch.testing.assert_close(chosen, everything[rows])
    expected = Contrastive({}, SHAPE).loss(StubNetworks(), views[rows])
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_choosing_is_counted_in_flops_and_in_images() -> None:
    predictor = tiny_predictor(1, 16)
    hard, plain = part(), MixturePart(name="contrastive", share=1.0, task=Contrastive(reference_levels(), SHAPE))
    predictor.add_heads(hard.task.head_specs(predictor.feature_dim))
    batch, meter = random_images(BATCH, size=16), FlopMeter()
    ratio = meter.step(predictor, hard, batch) / meter.step(predictor, plain, batch)
    assert 1.6 < ratio < 2, "forward of four views beside forward and backward (two forwards) of two"
    assert hard.task.num_encoded(BATCH) == 6 * BATCH


def test_choosing_gives_no_gradient() -> None:
    predictor, task = tiny_predictor(1, 16), part().task
    predictor.add_heads(task.head_specs(predictor.feature_dim))
    views = task.make_views(random_images(BATCH, size=16), generator()).requires_grad_()
    task.loss(predictor.networks(), views).backward()
    assert views.grad is not None
    touched = views.grad.abs().amax(dim=(1, 2, 3)).view(NUM_VIEWS, BATCH) > 0
    assert touched.sum(0).tolist() == [2] * BATCH


class KeptCasts(StubNetworks):
    """Its features are scaled by a weight whose cast is made once and kept, as under torch's autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.ones((), requires_grad=True)
        self.casts: list[torch.Tensor] = []

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.casts:
            self.casts.append(self.weight.bfloat16())
        return self.casts[0] * super().features(inputs) ** 2


def test_weights_are_trained_whatever_the_choosing_left_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    nets, views = KeptCasts(), torch.rand((NUM_VIEWS * BATCH, 5, 4, 4), generator=generator())
    monkeypatch.setattr(torch, "clear_autocast_cache", nets.casts.clear)
    loss = HardViews({}, SHAPE).loss(nets, views)
    assert loss.requires_grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_weight_gets_a_gradient(precision: str) -> None:
    predictor, task = tiny_predictor(1, 16, precision=precision), part().task
    predictor.add_heads(task.head_specs(predictor.feature_dim))
    with predictor.autocast():
        loss = task.loss(predictor.networks(), task.make_views(random_images(BATCH, size=16), generator()))
    loss.backward()
    gradients = [weight.grad for weight in predictor.nets.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_batched_steps_are_those_of_one_predictor_up_to_rounding() -> None:
    batches = [random_images(BATCH, seed=seed, size=16) for seed in range(3)]
    results = []
    for batched in (False, True):
        predictor, meter = tiny_predictor(1, 16), FlopMeter()
        predictor.add_heads(part().task.head_specs(predictor.feature_dim))
        budget = Budget(flops=2 * meter.step(predictor, part(), batches[0]), start=0.0, end=1.0)
        work = Assignment(
            predictor=predictor, task=Mixture((part(),)), batches=iter(batches), rng=generator(), budget=budget
        )
        if batched:
            (report,) = BatchedSteps(meter=meter).adapt_all([work])
        else:
            report = PlainSteps(meter=meter).adapt(predictor, work.task, work.batches, work.rng, budget)
        assert report.num_steps == {"hard-views": 2}
        results.append((report.losses["hard-views"], predictor.recalibrate(batches[0])))
    assert results[1][0] == pytest.approx(results[0][0], abs=1e-3)
    torch.testing.assert_close(results[1][1], results[0][1], atol=1e-2, rtol=1e-2)
