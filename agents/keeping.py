"""Best and last: the encoder after the decision of best quality is kept beside the last one, and may end training."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import final

from torch import Tensor, nn

from taskrl.config import FinalConfig
from taskrl.evaluation.stopping import StopRule
from taskrl.predictor.average import WeightAverage
from taskrl.predictor.predictor import Predictor

BEST, LAST, EMA = "best", "last", "ema"


@final
class Keeper:
    """Told the quality after every decision of an episode; holds the weights of the best encoder.

    num_decisions: told so far. best_decision: after how many decisions quality was best. average: of the weights of the
    predictor that it follows, where there is to be one.
    """

    def __init__(self, *, patience: int, stops: bool, ema: float = 0.0) -> None:
        """stops: whether `add` ever asks to stop. ema: decay of the average a step; 0 for none."""
        self._ema = ema
        self.average: WeightAverage | None = None
        self._rule = StopRule(patience)
        self._stops = stops
        self._best: Mapping[str, Tensor] = {}
        self.num_decisions = self.best_decision = 0

    def follow(self, predictor: Predictor) -> Predictor:
        """Average the weights of `predictor` from here on; gives it back."""
        if self._ema:
            self.average = WeightAverage(predictor, self._ema)
        return predictor

    def add(self, quality: float, encoder: nn.Module) -> bool:
        """Whether to stop after this decision, which left `encoder`."""
        rises_no_more = self._rule.add(quality)
        self.num_decisions += 1
        self.best_decision = self._rule.best_index + 1
        if self.best_decision == self.num_decisions:
            self._best = weights_of(encoder)
        return self._stops and rises_no_more

    @property
    def chosen(self) -> str:
        """Which encoder counts: the best where quality decides when to stop, else the last."""
        return BEST if self._stops else LAST

    @property
    def chosen_decision(self) -> int:
        """After how many decisions the encoder that counts was left."""
        return self.best_decision if self._stops else self.num_decisions

    def swap(self, encoder: nn.Module) -> None:
        """Put the best weights into `encoder`, and hold those that it had; once more puts them back."""
        held = weights_of(encoder)
        encoder.load_state_dict(dict(self._best))
        self._best = held


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state that later training leaves alone."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def stop_notes(final: FinalConfig) -> list[str]:
    """What stopping does to the forecast, or why it cannot happen; nothing where it was not asked for."""
    if final.stop == "never":
        return []
    if final.decisions > final.patience + 1:
        return ["Note: final encoders stop when quality rises no more; the forecast is for all their decisions."]
    return [
        f"Note: {final.decisions} decisions are too few to stop early with a patience of {final.patience}; "
        "set final.decisions higher and final.steps_per_decision lower."
    ]


def beside(folder: Path, checkpoint: str) -> Path:
    """Where the best, the last or the averaged encoder goes when another one is in `folder`."""
    return folder.with_name(f"{folder.name}-{checkpoint}")


def kept_folders(folder: Path) -> list[Path]:
    """Where encoders may lie when one was written to `folder`; that one comes last."""
    return [*(beside(folder, name) for name in (BEST, LAST, EMA)), folder]


def discard_kept(folder: Path) -> None:
    """Remove what was written to `folder` and beside it."""
    for old in kept_folders(folder):
        shutil.rmtree(old, ignore_errors=True)


def copy_kept(source: Path, target: Path) -> None:
    """Copy the encoder in `source` and what lies beside it; each folder appears whole, `target` last."""
    for old, new in zip(kept_folders(source), kept_folders(target), strict=True):
        if old.is_dir():
            draft = new.with_name(f"{new.name}.tmp")
            for folder in (draft, new):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(old, draft)
            draft.rename(new)
