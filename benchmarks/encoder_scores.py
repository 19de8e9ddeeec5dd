"""What a checkpoint is worth with labels: linear accuracy, accuracy after fine-tuning, accuracy of single positions."""

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from taskrl.assemble import Assembled
from taskrl.evaluation.accuracy import standardised_pair
from taskrl.predictor.predictor import Predictor
from taskrl.seeding import torch_generator
from taskrl.types import Encode

NUM_FEW, FINE_TUNE_STEPS, FINE_TUNE_RATE = 10, 60, 1e-3
NUM_MAPS = 600
STRENGTH = 0.1


def linear_accuracies(assembled: Assembled, encode: Encode) -> dict[str, float]:
    """Linear accuracy on validation and test images, percent, as docs/protocol.md has it, but for the strength of the
    classifier, which is the same for all encoders: choosing it anew for each takes sixteen times as long.
    """
    splits = assembled.splits
    assert splits.fitting is not None
    parts = {"validation": splits.validation, "test": splits.open_test(lambda _: None, "linear accuracy")}
    matrices = [encode(part.inputs.take(torch.arange(len(part.inputs)))) for part in (splits.fitting, *parts.values())]
    fit, *scored = standardised_pair(*matrices)
    model = LogisticRegression(C=STRENGTH, max_iter=3000).fit(fit, splits.fitting.labels.numpy())
    found = {}
    for (name, part), matrix in zip(parts.items(), scored, strict=True):
        assert part.labels is not None
        found[name] = 100 * float(model.score(matrix, part.labels.numpy()))
    return found


def fine_tuned_accuracy(assembled: Assembled, predictor: Predictor, *, num_draws: int) -> float:
    """Test accuracy in percent after fine-tuning everything on 10 labels a class, the mean of so many draws."""
    splits, results = assembled.splits, []
    assert splits.fitting is not None
    test = splits.open_test(lambda _: None, "fine-tuning of checkpoints")
    assert test.labels is not None
    num_classes = int(splits.fitting.labels.max()) + 1
    start = predictor.snapshot()
    for draw in range(num_draws):
        predictor.restore(start)
        rng = torch_generator(draw, "fine-tuning", splits.name)
        rows = _few_rows(splits.fitting.labels, rng)
        images, labels = splits.fitting.inputs.take(rows), splits.fitting.labels[rows]
        head = torch.nn.Linear(predictor.feature_dim, num_classes)
        torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
        optimizer = torch.optim.AdamW([*predictor.encoder.parameters(), *head.parameters()], lr=FINE_TUNE_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FINE_TUNE_STEPS)
        predictor.encoder.train()
        for _ in range(FINE_TUNE_STEPS):
            pick = torch.randint(len(rows), (min(64, len(rows)),), generator=rng)
            loss = F.cross_entropy(head(predictor.encoder(images[pick])), labels[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        predictor.recalibrate(assembled.problem.calibration)
        with torch.no_grad():
            guess = head(predictor.encode(test.inputs.take(torch.arange(len(test.inputs))))).argmax(1)
        results.append(100 * float((guess == test.labels).float().mean()))
    predictor.restore(start)
    return sum(results) / len(results)


def patch_accuracy(assembled: Assembled, predictor: Predictor) -> float:
    """Test accuracy in percent of a ridge classifier that sees one position of the feature map at a time."""
    splits = assembled.splits
    assert splits.fitting is not None
    test = splits.open_test(lambda _: None, "patches of checkpoints")
    assert test.labels is not None
    num_classes = int(splits.fitting.labels.max()) + 1
    rows = torch.randperm(len(splits.fitting.inputs), generator=torch_generator(0, "patches"))[:NUM_MAPS]
    fit, labels = _positions(predictor, splits.fitting.inputs.take(rows)), splits.fitting.labels[rows]
    held = torch.arange(min(NUM_MAPS, len(test.inputs)))
    scored, truth = _positions(predictor, test.inputs.take(held)), test.labels[held]
    num = fit.shape[1]
    mean, sd = fit.flatten(0, 1).mean(0), fit.flatten(0, 1).std(0) + 1e-6
    x, targets = ((fit - mean) / sd).flatten(0, 1).double(), F.one_hot(labels, num_classes).double()
    targets = targets.repeat_interleave(num, 0)
    gram = x.T @ x + 0.1 * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, x.T @ (targets - targets.mean(0)))
    guess = (((scored - mean) / sd).flatten(0, 1).double() @ weights + targets.mean(0)).argmax(1)
    return 100 * float((guess == truth.repeat_interleave(num)).double().mean())


def _positions(predictor: Predictor, images: Tensor) -> Tensor:
    """(B, positions, D)."""
    predictor.nets.eval()
    with torch.no_grad():
        maps = torch.cat([predictor.encoder.feature_map(part) for part in images.split(256)])  # type: ignore[operator]
    return maps.flatten(2).transpose(1, 2)


def _few_rows(labels: Tensor, rng: torch.Generator) -> Tensor:
    order = torch.randperm(len(labels), generator=rng)
    return torch.cat([order[labels[order] == label][:NUM_FEW] for label in labels.unique()])
