"""Speed of one training step by model shape and arithmetic: python -m bench.training_step

Seconds of audio per CPU second of one process with one thread, forward, CTC loss and backward, on random
features.
"""

import argparse
import time

import torch
from torch.nn import functional

from asr.acoustic.conformer import ConformerSettings
from asr.acoustic.kinds import AcousticModel, AcousticSettings, build
from asr.acoustic.residual_gru import ResidualGruSettings

SHAPES: dict[str, AcousticSettings] = {
    "8x, 2 conv blocks, 4 BiGRU-256 (gru-s, default)": ResidualGruSettings(vocab_size=256, gru_blocks=4),
    "8x, no conv block": ResidualGruSettings(vocab_size=256, gru_blocks=4, conv_blocks=0),
    "8x, 3 BiGRU-384": ResidualGruSettings(vocab_size=256, gru_blocks=3, gru_hidden=384),
    "4x, 2 conv blocks, 4 BiGRU-256": ResidualGruSettings(vocab_size=256, gru_blocks=4, subsampling=4),
    "Conformer 8x, 8 x 144 (conformer-xs)": ConformerSettings(
        vocab_size=256, subsampling=8, blocks=8, kernel=15
    ),
    "Conformer 8x, 12 x 256": ConformerSettings(
        vocab_size=256, subsampling=8, blocks=12, kernel=15, width=256
    ),
    "Conformer 4x, 16 x 144": ConformerSettings(vocab_size=256),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'shape':<50}{'M parameters':>14}{'fp32':>8}{'bf16':>8}")
    for name, settings in SHAPES.items():
        torch.manual_seed(0)
        model = build(settings)
        speeds = [
            audio_per_cpu_s(model, bf16, args.batch, args.seconds, args.steps) for bf16 in (False, True)
        ]
        size = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"{name:<50}{size:>14.2f}{speeds[0]:>8.1f}{speeds[1]:>8.1f}", flush=True)


def audio_per_cpu_s(model: AcousticModel, bf16: bool, batch: int, seconds: float, steps: int) -> float:
    n_frames = int(seconds * 100)
    features_BTF = torch.randn(batch, n_frames, model.settings.n_mels)
    lengths_B = torch.full((batch,), n_frames)
    targets_BL = torch.randint(1, model.settings.vocab_size, (batch, int(seconds * 4)))
    target_lengths_B = torch.full((batch,), targets_BL.shape[1])

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            log_probs_BTV, out_lengths_B = model(features_BTF, lengths_B)
        log_probs_TBV = log_probs_BTV.transpose(0, 1)
        functional.ctc_loss(log_probs_TBV, targets_BL, out_lengths_B, target_lengths_B).backward()

    step()
    began = time.process_time()
    for _ in range(steps):
        step()
    return steps * batch * seconds / (time.process_time() - began)


if __name__ == "__main__":
    main()
