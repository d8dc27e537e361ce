"""Bundles of every kind of acoustic model load, transcribe and tell their frames' length."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_tensors

from asr.acoustic.conformer import ConformerSettings
from asr.acoustic.kinds import AcousticSettings, build
from asr.acoustic.residual_gru import ResidualGruSettings
from asr.audio import SAMPLE_RATE
from asr.bundle import ACOUSTIC, INDEX, Bundle
from asr.decoding.options import DecodingOptions
from asr.errors import MismatchError
from asr.features import n_frames
from asr.transcriber import Transcriber
from training.model_card import model_card

GRU = ResidualGruSettings(
    vocab_size=55, subsampling=8, upsampling=2, conv_channels=4, conv_blocks=0, width=16, gru_hidden=8
)
CONFORMER = ConformerSettings(
    vocab_size=55, conv_channels=4, width=16, heads=2, blocks=2, kernel=5, self_condition_every=1
)


@pytest.mark.parametrize(
    ("acoustic", "frame_s", "described"),
    [
        (GRU, 0.04, "8x subsampling (40 ms an output frame), 3 residual bidirectional GRU blocks"),
        (CONFORMER, 0.04, "4x subsampling (40 ms an output frame),\n  2 Conformer blocks of width 16"),
        (dataclasses.replace(CONFORMER, subsampling=8), 0.08, "8x subsampling (80 ms an output frame)"),
    ],
    ids=["gru, two outputs a frame", "conformer", "conformer 8x"],
)
def test_a_bundle_of_any_kind_transcribes(
    tiny_bundle: Path,
    tmp_path: Path,
    recording: bytes,
    acoustic: AcousticSettings,
    frame_s: float,
    described: str,
) -> None:
    tiny = Bundle.load(tiny_bundle)
    torch.manual_seed(7)
    weights = build(acoustic).state_dict()
    weights["output.weight"] = 8.0 * weights["output.weight"]  # so that different frames get different labels
    contents: dict[str, Path | bytes] = {name: tiny.path / name for name in tiny.files}
    contents[ACOUSTIC] = save_tensors(weights)
    settings = dataclasses.replace(tiny.settings, acoustic=acoustic)
    bundle = Bundle.save(tmp_path / "bundle", settings, contents)
    assert bundle.settings.acoustic == acoustic
    assert described in model_card(bundle, {"evaluations": []})

    transcriber = Transcriber.load(bundle.path, "cpu")
    transcriber.self_test()
    assert transcriber.frame_s == pytest.approx(frame_s)
    posteriors = transcriber.listen(recording)
    n_features = n_frames(round(posteriors.duration_s * SAMPLE_RATE), settings.features)
    assert len(posteriors.log_probs) == acoustic.output_frames(n_features)
    words = transcriber.transcribe(recording, DecodingOptions("greedy", word_timestamps=True)).words
    assert words
    assert all(0 <= word.start_s <= word.end_s <= posteriors.duration_s for word in words)

    index = json.loads((bundle.path / INDEX).read_text())
    index["acoustic"]["kind"] = "conformer" if isinstance(acoustic, ResidualGruSettings) else "residual_gru"
    (bundle.path / INDEX).write_text(json.dumps(index))
    with pytest.raises(MismatchError, match="acoustic has unknown keys"):
        Bundle.load(bundle.path)
