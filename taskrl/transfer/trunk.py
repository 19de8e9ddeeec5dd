"""The modules of an encoder in the order that images pass them, and which of them are trained."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from taskrl.errors import ConfigError, unknown_name
from taskrl.modalities.image.modeling import Encoder

FULL, LINEAR_THEN_FULL, LAST = "full", "linear-then-full", "last-"
# the whole trunk, or most of it, in one sequence: its members are counted
SEQUENCES = ("features", "trunk_output", "blocks")


@dataclass(frozen=True)
class How:
    """What is trained. last: the number of modules at the end, None for all of them. linear_first: the classifier
    starts from the linear probe's solution, made smaller, else from 0 (after LP-FT: Kumar et al. 2022).
    """

    last: int | None
    linear_first: bool


def parse_how(text: str) -> How:
    """Raises ConfigError for anything but full, linear-then-full and last-K."""
    if text in (FULL, LINEAR_THEN_FULL):
        return How(None, text == LINEAR_THEN_FULL)
    number = text.removeprefix(LAST)
    if text.startswith(LAST) and number.isdecimal() and int(number) >= 1:
        return How(int(number), False)
    raise ConfigError(unknown_name("--how", text, [FULL, LINEAR_THEN_FULL, "last-1", "last-2"]))


def trunk(encoder: Encoder) -> Mapping[str, nn.Module]:
    """The top-level modules with parameters by name, first to last. Small net: stem, each residual block, widen.
    torchvision: the modules of its feature map, members of a sequence that holds most of them one by one.
    """
    found: dict[str, nn.Module] = {}
    for name in encoder.net.trunk_names:
        module = encoder.backbone.get_submodule(name)
        members = module.named_children() if name in SEQUENCES else [("", module)]
        found |= {f"{name}.{inner}" if inner else name: member for inner, member in members}
    return {name: module for name, module in found.items() if any(True for _ in module.parameters())}


def freeze(encoder: Encoder, last: int | None) -> tuple[nn.Module, ...]:
    """Let gradients into the last `last` modules of the trunk alone, and into what follows it (convnext's norm); the
    modules that are trained. None: everything. Raises ConfigError when there are fewer.
    """
    if last is None:
        encoder.requires_grad_(True)
        return (encoder,)
    modules = trunk(encoder)
    if last > len(modules):
        raise ConfigError(
            f"The encoder has {len(modules)} modules ({', '.join(modules)}), not {last}; give --how last-K with a K of "
            f"at most {len(modules)}, or --how full."
        )
    after = [child for name, child in encoder.backbone.named_children() if name not in encoder.net.trunk_names]
    trained = (*list(modules.values())[-last:], *after)
    encoder.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    return trained


def set_modes(encoder: Encoder, trained: tuple[nn.Module, ...]) -> None:
    """Training mode for what is trained; what is frozen normalises by the statistics that it came with."""
    encoder.eval()
    for module in trained:
        module.train()
