"""The settings of a GPT-2 run, and the schedule that follows from them."""

import math
from dataclasses import dataclass

from training.gpt2_checkpoint import Progress

HEAD_WIDTH = 64
OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True)
class Gpt2Settings:
    """A run, whole: two runs with equal settings, steps and data give equal weights."""

    layers: int = 4
    width: int = 256  # a multiple of HEAD_WIDTH
    context: int = 256  # tokens, the longest text that can be scored in one piece
    vocab_size: int = 4000  # at most
    batch_tokens: int = 4096
    joined_share: float = 0.05  # sentences run on into longer rows, see BatchSettings
    optimizer: str = "muon"  # of the blocks' matrices, AdamW of the rest; or "adamw"
    learning_rate: float = 6e-3  # the highest; a third of it for AdamW
    final_lr_share: float = 0.1  # of the highest, at the end
    warmup_share: float = 0.03  # of the run
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    held_out_per_10k: int = 20  # distinct sentences of 10,000 that are not trained on
    manifest_repeat: int = 1
    bf16: bool = True  # matrix products in bfloat16, weights and optimiser in float32
    seed: int = 0
    max_steps: int = 0  # 0: by the clock
    minutes: float = 0.0  # of training; 0: by steps

    def __post_init__(self) -> None:
        if (self.max_steps > 0) == (self.minutes > 0):
            raise ValueError("give either max_steps or minutes")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}")
        if self.width % HEAD_WIDTH:
            raise ValueError(f"width must be a multiple of {HEAD_WIDTH}")

    def done(self, progress: Progress) -> float:
        """The part of the run that lies behind, 0-1."""
        share = progress.step / self.max_steps if self.max_steps else progress.elapsed_s / (60 * self.minutes)
        return min(1.0, share)

    def learning_rate_at(self, done: float) -> float:
        """Linear warm-up, then half a cosine down to `final_lr_share` of the highest rate."""
        if done < self.warmup_share:
            return self.learning_rate * max(0.01, done / self.warmup_share)
        falling = 0.5 * (1 + math.cos(math.pi * (done - self.warmup_share) / (1 - self.warmup_share)))
        return self.learning_rate * (self.final_lr_share + (1 - self.final_lr_share) * falling)
