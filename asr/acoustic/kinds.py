"""The acoustic models by the name that bundle.json and configurations give them (`kind`)."""

from dataclasses import asdict
from typing import Any

from asr.acoustic.conformer import Conformer, ConformerSettings
from asr.acoustic.huggingface_ctc import HuggingFaceCtc, HuggingFaceCtcSettings
from asr.acoustic.residual_gru import ResidualGru, ResidualGruSettings

AcousticSettings = ResidualGruSettings | ConformerSettings | HuggingFaceCtcSettings
AcousticModel = ResidualGru | Conformer | HuggingFaceCtc

FIRST_KIND = "residual_gru"  # what an index or run without `kind` holds
KINDS: dict[str, type[AcousticSettings]] = {
    FIRST_KIND: ResidualGruSettings,
    "conformer": ConformerSettings,
    "huggingface_ctc": HuggingFaceCtcSettings,  # made by `asr-train import-hf`, not trained here
}

# Settings that came later, with the value of the models made before: absent means this, and at this value
# they are not written, so that an old bundle's index keeps its bytes and hash.
ADDED_LATER: dict[str, dict[str, Any]] = {
    FIRST_KIND: {
        "upsampling": 1,
        "self_condition_every": 0,
        "phones": 0,
        "tower_blocks": 0,
        "tower_channels": 32,
        "tower_width": 512,
        "tower_bottleneck": 192,
        "tower_share": 1.0,
        "tower_pieces_share": 0.0,
    }
}


def build(settings: AcousticSettings) -> AcousticModel:
    """The model of these settings, with random weights."""
    if isinstance(settings, ConformerSettings):
        return Conformer(settings)
    if isinstance(settings, HuggingFaceCtcSettings):
        return HuggingFaceCtc(settings)
    return ResidualGru(settings)


def kind_of(settings: AcousticSettings) -> str:
    return next(kind for kind, cls in KINDS.items() if isinstance(settings, cls))


def to_section(settings: AcousticSettings) -> dict[str, Any]:
    """`kind` and the settings, as bundle.json and train.json hold them."""
    kind = kind_of(settings)
    implied = ADDED_LATER.get(kind, {})
    values = {
        key: value for key, value in asdict(settings).items() if key not in implied or value != implied[key]
    }
    return {"kind": kind} | values
