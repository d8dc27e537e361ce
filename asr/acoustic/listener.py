"""An acoustic model as something that hears recordings: features in, log-probabilities out.

Shapes: B recordings, T frames, F mel bands (or samples, F = 1), V outputs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from asr.acoustic import int16_gru
from asr.acoustic.int16_gru import Int16Gru
from asr.acoustic.kinds import AcousticModel
from asr.acoustic.residual_gru import ResidualGru

AcousticPrecision = Literal["int16", "float32"]

# Each recording's (T, F), T at least 1, and whether its phones are wanted -> its (T, V); without phones where
# they are not, if the model has any.
Listener = Callable[[Sequence[torch.Tensor], Sequence[bool]], list[NDArray[np.float32]]]


def listener(model: AcousticModel, device: torch.device, precision: AcousticPrecision) -> Listener:
    """What computes in `precision` where that can be: int16 is for residual GRUs on CPU (`Int16Gru`)."""
    wanted = precision == "int16" and device.type == "cpu"
    if wanted and isinstance(model, ResidualGru) and int16_gru.fits(model.settings):
        quantised = Int16Gru(model)
        return lambda features, phones: quantised([one.numpy() for one in features], phones)
    return partial(heard_in_one_pass, model)


def heard_in_one_pass(
    model: AcousticModel, features: Sequence[torch.Tensor], phones: Sequence[bool] | None = None
) -> list[NDArray[np.float32]]:
    """By the torch model, padded. phones: None for all."""
    wanted = [True] * len(features) if phones is None else phones
    features_BTF = torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    lengths_B = torch.tensor([len(features_TF) for features_TF in features], device=features_BTF.device)
    with torch.inference_mode():
        if isinstance(model, ResidualGru):
            log_probs_BTV, lengths_B = model(features_BTF, lengths_B, phones=any(wanted))
        else:
            log_probs_BTV, lengths_B = model(features_BTF, lengths_B)
    n_pieces = model.settings.vocab_size
    # Copies: a view would keep the whole batch alive for as long as its slowest decoding takes.
    return [
        log_probs_TV[:length, : None if all_columns else n_pieces].float().cpu().numpy().copy()
        for log_probs_TV, length, all_columns in zip(log_probs_BTV, lengths_B.tolist(), wanted, strict=True)
    ]
