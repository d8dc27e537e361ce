"""Two runs' phone towers side by side in one acoustic model, and the shares of what they hear."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from asr.acoustic.kinds import AcousticSettings
from asr.acoustic.residual_gru import ResidualGruSettings

TOWER = "tower."
SECOND_TOWER = "second_tower."

Weights = dict[str, torch.Tensor]


def with_second_tower(
    first: tuple[AcousticSettings, Weights], other: tuple[AcousticSettings, Weights]
) -> tuple[ResidualGruSettings, Weights]:
    """The first model with the other's tower as its second, which has no share yet; nothing else is taken.

    Raises ValueError where they do not fit.
    """
    settings, theirs = _one_tower(first[0]), _one_tower(other[0])
    for name in ("n_mels", "phones", "tower_channels", "tower_bottleneck"):
        ours, found = getattr(settings, name), getattr(theirs, name)
        if ours != found:
            raise ValueError(f"the second tower's {name} is {found}, the first one's {ours}")
    added = {
        SECOND_TOWER + name.removeprefix(TOWER): weight
        for name, weight in other[1].items()
        if name.startswith(TOWER)
    }
    both = replace(settings, second_tower_blocks=theirs.tower_blocks, second_tower_width=theirs.tower_width)
    return both, first[1] | added


def with_shares(settings: AcousticSettings, shares: Sequence[float]) -> ResidualGruSettings:
    """The settings with these shares, one of each tower. Raises ValueError."""
    if not isinstance(settings, ResidualGruSettings):
        raise ValueError("this model has no phone tower")
    n_towers = (settings.tower_blocks > 0) + (settings.second_tower_blocks > 0)
    if len(shares) != n_towers:
        raise ValueError(f"{len(shares)} shares of {n_towers} phone towers")
    return replace(settings, **dict(zip(("tower_share", "second_tower_share"), shares, strict=False)))


def _one_tower(settings: AcousticSettings) -> ResidualGruSettings:
    if (
        not isinstance(settings, ResidualGruSettings)
        or not settings.tower_blocks
        or settings.second_tower_blocks
    ):
        raise ValueError("two towers are put side by side from two models with one each")
    return settings
