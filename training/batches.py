"""Which utterances go into which step: length-bucketed batches, decided by seed and epoch alone."""

import numpy as np


def epoch_batches(
    durations_s: np.ndarray, repeats: np.ndarray, *, batch_s: float, seed: int, epoch: int
) -> list[np.ndarray]:
    """Indices of each step's utterances for one epoch.

    durations_s: seconds per utterance. repeats: how often each is seen per epoch. batch_s: most padded
    seconds a step. The first epoch goes from short to long (it finds the alignment sooner); later ones
    shuffle the batches, whose members have similar lengths. The same arguments give the same batches.
    """
    rng = np.random.default_rng([seed, epoch])
    pool = np.repeat(np.arange(len(durations_s)), repeats)
    noise = rng.uniform(0.9, 1.1, len(pool)) if epoch else 1.0  # neighbours differ between epochs
    pool = pool[np.argsort(durations_s[pool] * noise, kind="stable")]
    batches, start = [], 0
    longest = 0.0
    for end, index in enumerate(pool):
        longest = max(longest, durations_s[index])
        if end > start and longest * (end + 1 - start) > batch_s:
            batches.append(pool[start:end])
            start, longest = end, durations_s[index]
    if start < len(pool):
        batches.append(pool[start:])
    if epoch:
        rng.shuffle(batches)
    return batches
