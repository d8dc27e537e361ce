"""Named sizes of acoustic models for `[model] preset = "…"`; any other key of the section overrides one.

Millions of parameters at 256 outputs in brackets (docs/training.md has the table with speeds).
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # the ancestor's shape, smaller than it ever was: trains on minutes of speech (1.0)
    "gru-xs": {
        "kind": "residual_gru", "subsampling": 8, "conv_channels": 16, "conv_blocks": 1,
        "width": 192, "gru_hidden": 128, "gru_blocks": 3,
    },
    # the default: a few hours of speech, an hour or two on two CPU cores (5.3)
    "gru-s": {
        "kind": "residual_gru", "subsampling": 8, "conv_channels": 32, "conv_blocks": 2,
        "width": 384, "gru_hidden": 256, "gru_blocks": 4,
    },
    # twice the frames, wider: tens of hours, or a GPU (13)
    "gru-m": {
        "kind": "residual_gru", "subsampling": 4, "conv_channels": 32, "conv_blocks": 3,
        "width": 512, "gru_hidden": 384, "gru_blocks": 5,
    },
    # Deep Speech 2's class: hundreds of hours and a GPU (26)
    "gru-l": {
        "kind": "residual_gru", "subsampling": 4, "conv_channels": 32, "conv_blocks": 3,
        "width": 640, "gru_hidden": 512, "gru_blocks": 6,
    },
    # for CPUs: half the frames, half the depth (4.0)
    "conformer-xs": {
        "kind": "conformer", "subsampling": 8, "conv_channels": 64,
        "width": 144, "heads": 4, "blocks": 8, "kernel": 15,
    },
    # NeMo's Conformer-CTC small (12)
    "conformer-s": {
        "kind": "conformer", "subsampling": 4, "conv_channels": 96,
        "width": 176, "heads": 4, "blocks": 16, "kernel": 31,
    },
    # ESPnet's 18 x 256 for LibriSpeech-100 (28)
    "conformer-m": {
        "kind": "conformer", "subsampling": 4, "conv_channels": 128,
        "width": 256, "heads": 4, "blocks": 18, "kernel": 31,
    },
}  # fmt: skip
