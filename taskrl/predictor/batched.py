"""BatchedSteps: many small predictors stepped as one, for devices that one small predictor cannot keep busy.

Weights of N predictors lie side by side as the rows of one matrix; `torch.func` maps forward and backward over them.
Equal to N separate runs of `PlainSteps` up to rounding. Legend: N predictors, n of them in a step, P parameters.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.inner_loop import DEFAULT_RULES, MAX_GRADIENT_NORM, Assignment, Run, StepRules, Turn
from taskrl.predictor.predictor import LiveNetworks, Nets, Predictor
from taskrl.types import AdaptReport

ENCODER = "encoder"


@final
class BatchedSteps:
    """The steps that `PlainSteps` would take, those of predictors on the same objective taken together."""

    def __init__(self, *, meter: FlopMeter, rules: StepRules = DEFAULT_RULES) -> None:
        self.meter = meter
        self.rules = rules

    def adapt_all(self, assignments: Sequence[Assignment]) -> list[AdaptReport]:
        """Carry out the assignments, one a predictor; all on one device, with one architecture, one precision and one
        normalisation of images.
        """
        runs = [Run(assignment, self.meter, self.rules) for assignment in assignments]
        stack = _Stack([assignment.predictor for assignment in assignments])
        while turns := {row: turn for row, run in enumerate(runs) if (turn := run.next_turn())}:
            for rows in _alike(turns):
                views = [runs[row].draw_views(turns[row]) for row in rows]
                losses, finite = stack.step(rows, [turns[row] for row in rows], views)
                for position, row in enumerate(rows):
                    runs[row].record(turns[row], losses[position], finite[position])
        stack.write_back([row for row, run in enumerate(runs) if not run.diverged])
        return [run.report() for run in runs]


def _alike(turns: Mapping[int, Turn]) -> list[list[int]]:
    """Rows whose turns train the same objective with the same parts frozen."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for row, turn in turns.items():
        groups.setdefault((turn.part.name, turn.frozen), []).append(row)
    return list(groups.values())


class _Block:
    """One module of several predictors: parameters and AdamW's state as rows (n, P)."""

    def __init__(
        self, prefix: str, members: Sequence[int], modules: Sequence[nn.Module], states: Sequence[Any]
    ) -> None:
        """members: the predictors that have the module. states: of their optimisers."""
        self.place = {member: row for row, member in enumerate(members)}
        self.parameters = [list(module.parameters()) for module in modules]
        self.names = [f"{prefix}.{name}" for name, _ in modules[0].named_parameters()]
        self.shapes = [parameter.shape for parameter in self.parameters[0]]
        self.sizes = [parameter.numel() for parameter in self.parameters[0]]
        self.states = states
        self.values = torch.stack([_flat(row) for row in self.parameters])
        self.mean, self.square = (self._stacked(name) for name in ("exp_avg", "exp_avg_sq"))
        steps = [float(state[row[0]]["step"]) if row[0] in state else 0.0 for row, state in self._rows()]
        self.steps = torch.tensor(steps, device=self.values.device)

    def _rows(self) -> list[tuple[list[nn.Parameter], Any]]:
        return list(zip(self.parameters, self.states, strict=True))

    def _stacked(self, name: str) -> Tensor:
        return torch.stack(
            [_flat([state[p][name] if p in state else torch.zeros_like(p) for p in row]) for row, state in self._rows()]
        )

    def rows(self, members: Sequence[int]) -> Tensor | slice:
        """Where `members` lie; a slice, which costs no copy, when they are all."""
        places = [self.place[member] for member in members]
        if places == list(range(len(self.values))):
            return slice(None)
        return torch.tensor(places, device=self.values.device)

    def tensors(self, rows: Tensor | slice) -> dict[str, Tensor]:
        """Parameter name -> (n, *shape)."""
        parts = self.values[rows].split(self.sizes, dim=1)
        named = zip(self.names, parts, self.shapes, strict=True)
        return {name: part.view(-1, *shape) for name, part, shape in named}

    def join(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The gradients of `tensors` as rows (n, P)."""
        return torch.cat([gradients[name].flatten(1) for name in self.names], dim=1).float()

    def update(self, rows: Tensor | slice, gradient: Tensor, rates: Tensor, settings: Mapping[str, Any]) -> None:
        """One step of AdamW (Loshchilov & Hutter 2019) with a learning rate for each row, (n,)."""
        (beta1, beta2), eps = settings["betas"], settings["eps"]
        steps = self.steps[rows] + 1
        mean = torch.lerp(self.mean[rows], gradient, 1 - beta1)
        square = (self.square[rows] * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (rates / (1 - beta1**steps))[:, None]
        spread = square.sqrt().div_((1 - beta2**steps).sqrt()[:, None]).add_(eps)
        decayed = self.values[rows] * (1 - rates * settings["weight_decay"])[:, None]
        self.values[rows] = decayed - scale * mean / spread
        self.mean[rows], self.square[rows], self.steps[rows] = mean, square, steps

    def write_back(self, members: Sequence[int]) -> None:
        """Into the predictors themselves."""
        for member in members:
            if member not in self.place:
                continue
            row = self.place[member]
            parameters, state = self.parameters[row], self.states[row]
            _unflatten(self.values[row], parameters)
            if not self.steps[row]:
                continue
            for parameter in parameters:
                if parameter not in state:
                    zeros = [torch.zeros_like(parameter, memory_format=torch.preserve_format) for _ in range(2)]
                    state[parameter] = {"step": torch.zeros(()), "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}
                state[parameter]["step"] = self.steps[row].detach().clone()
            _unflatten(self.mean[row], [state[parameter]["exp_avg"] for parameter in parameters])
            _unflatten(self.square[row], [state[parameter]["exp_avg_sq"] for parameter in parameters])


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@torch.no_grad()
def _unflatten(row: Tensor, targets: Sequence[Tensor]) -> None:
    parts = row.split([target.numel() for target in targets])
    for part, target in zip(parts, targets, strict=True):
        target.copy_(part.view(target.shape))


class _Stack:
    """N predictors side by side."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        self._predictors = predictors
        everyone = range(len(predictors))
        states = [predictor.optimizer.state for predictor in predictors]
        self._settings = predictors[0].optimizer.param_groups[0]
        encoders = [predictor.nets.encoder for predictor in predictors]
        self._blocks = {ENCODER: _Block(ENCODER, list(everyone), encoders, states)}
        for name in sorted({name for predictor in predictors for name in predictor.nets.heads}):
            members = [row for row in everyone if name in predictors[row].nets.heads]
            heads = [predictors[row].nets.heads[name] for row in members]
            self._blocks[name] = _Block(f"heads.{name}", members, heads, [states[row] for row in members])
        self._skeletons: dict[tuple[str, ...], Nets] = {}

    def step(self, members: Sequence[int], turns: Sequence[Turn], views: Sequence[Any]) -> tuple[Tensor, list[bool]]:
        """One step of the optimiser for `members`, all on one objective; losses (n,) and which were finite."""
        task, frozen = turns[0].part.task, turns[0].frozen
        first = self._predictors[members[0]]
        heads = tuple(task.head_specs(first.feature_dim))
        trained = [self._blocks[name] for name in (heads if frozen else (ENCODER, *heads))]
        nets = self._skeleton(members[0], heads)
        fixed = self._blocks[ENCODER].tensors(self._blocks[ENCODER].rows(members)) if frozen else {}
        stacked, rebuild = _stack_views(views)

        def loss_of(weights: dict[str, Tensor], others: dict[str, Tensor], parts: tuple[Tensor, ...]) -> Tensor:
            with first.autocast():
                return task.loss(LiveNetworks(nets, {**weights, **others}), rebuild(parts))

        weights = {name: part for block in trained for name, part in block.tensors(block.rows(members)).items()}
        gradients, losses = vmap(grad_and_value(loss_of))(weights, fixed, stacked)
        joined = [block.join(gradients) for block in trained]
        norms = torch.stack([rows.square().sum(1) for rows in joined]).sum(0).sqrt()
        finite: list[bool] = torch.isfinite(losses + norms).tolist()
        clip = (MAX_GRADIENT_NORM / (norms + 1e-6)).clamp(max=1.0)
        well = [position for position, fine in enumerate(finite) if fine]
        rates = torch.tensor([turn.rate for turn in turns], device=losses.device)
        chosen: list[int] | slice = slice(None) if len(well) == len(members) else well
        for block, rows in zip(trained, joined, strict=True):
            place = block.rows([members[position] for position in well])
            if well:
                block.update(place, (rows * clip[:, None])[chosen], rates[chosen], self._settings)
        return losses.detach(), finite

    def write_back(self, members: Sequence[int]) -> None:
        for block in self._blocks.values():
            block.write_back(members)

    def _skeleton(self, member: int, heads: tuple[str, ...]) -> Nets:
        """Modules to run other weights through. Running statistics of batch norms are left out: training never reads
        them, and they are set afresh before anything is measured.
        """
        if heads not in self._skeletons:
            nets = copy.deepcopy(self._predictors[member].nets).train()
            nets.compiled = False
            for norm in nets.modules():
                if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                    norm.track_running_stats = False
                    norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            self._skeletons[heads] = nets
        return self._skeletons[heads]


def _stack_views(views: Sequence[Any]) -> tuple[tuple[Tensor, ...], Any]:
    """Views (a tensor, or a dataclass of tensors) as stacked tensors, and how to put one predictor's together."""
    if isinstance(views[0], Tensor):
        return (torch.stack(list(views)),), lambda parts: parts[0]
    names = [field.name for field in dataclasses.fields(views[0])]
    kind = type(views[0])
    stacked = tuple(torch.stack([getattr(view, name) for view in views]) for name in names)
    return stacked, lambda parts: kind(*parts)
