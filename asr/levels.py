"""How loud a recording is, moment by moment."""

import numpy as np
from numpy.typing import NDArray


def peak(samples: NDArray[np.float32]) -> float:
    """The largest magnitude of samples (N,), at least one; no copy is made of them."""
    return max(float(samples.max()), -float(samples.min()))


def mean_power(samples: NDArray[np.float32], block: int) -> NDArray[np.float64]:
    """Mean square of each whole block of so many samples; no copy is made of them."""
    n_blocks = len(samples) // block
    blocks = samples[: n_blocks * block].reshape(n_blocks, block)
    power: NDArray[np.float64] = np.einsum("bn,bn->b", blocks, blocks, dtype=np.float64) / block
    return power
