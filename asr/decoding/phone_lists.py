"""A search over phones ended and written down: readings with the same words made one, their texts; compiled.

`asr.decoding.phone_state` has the legend. Shapes: R readings, X texts, H slots of a hash table (a power of
two).
"""

import math

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel, kernel
from asr.decoding.phone_kernels import finish
from asr.decoding.phone_state import Asked, PhoneBeam, PhoneSearch, WordHistory
from asr.decoding.text_arrays import Texts

_SPACE = np.uint32(ord(" "))
_LN_2 = math.log(2.0)


@kernel
def list_readings(
    search: PhoneSearch,
    beam: PhoneBeam,
    n: int,
    history: WordHistory,
    n_entries: int,
    asked: Asked,
    context: NDArray[np.int64],
    entries: NDArray[np.int64],
    parts: NDArray[np.float64],
    slots: NDArray[np.int64],
) -> int:
    """As `finish`, but that words are there once, the paths of all their pronunciations added up.

    slots: (H,) free ones are -1.
    """
    size, kept = finish(search, beam, n, history, n_entries, asked, context, entries, parts), 0
    mask = len(slots) - 1
    for r in range(size):
        key = history.entries[entries[r]].hash
        slot = np.int64(key >> np.uint64(20)) & mask
        while slots[slot] >= 0 and history.entries[entries[slots[slot]]].hash != key:
            slot = (slot + 1) & mask
        acoustic, place = parts[r, 0], slots[slot]
        if place < 0:
            place = slots[slot] = kept
            kept += 1
        else:
            acoustic = log_sum(parts[place, 0], acoustic)
        entries[place], parts[place, 0], parts[place, 1] = entries[r], acoustic, parts[r, 1]
    return kept


@inner_kernel
def log_sum(a: float, b: float) -> float:
    """log(e^a + e^b) of finite numbers."""
    if a == b:
        return a + _LN_2
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


@kernel
def write_texts(
    history: WordHistory,
    entries: NDArray[np.int64],
    words: Texts,
    points: NDArray[np.uint32],
    first: NDArray[np.int64],
) -> None:
    """Writes the texts of entries (X,), one space between words. words: the lexicon's."""
    first[0] = 0
    for i in range(len(entries)):
        first[i + 1] = first[i] + _length(history, entries[i], words)
        entry, place = entries[i], first[i + 1]
        while entry > 0:
            word = history.entries[entry].word
            for k in range(words.first[word + 1] - 1, words.first[word] - 1, -1):
                place -= 1
                points[place] = words.points[k]
            if place > first[i]:
                place -= 1
                points[place] = _SPACE
            entry = np.int64(history.entries[entry].parent)


@inner_kernel
def _length(history: WordHistory, entry: int, words: Texts) -> int:
    """Letters and spaces of an entry's words."""
    length = -1
    while entry > 0:
        word = history.entries[entry].word
        length += 1 + int(words.first[word + 1] - words.first[word])
        entry = int(np.int64(history.entries[entry].parent))
    return max(length, 0)
