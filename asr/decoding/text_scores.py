"""Texts that others have found, scored by native beam search's language: compiled.

`asr.decoding.prefix_state` has the legend. X texts.
"""

import numpy as np
from numpy.typing import NDArray

from asr.decoding import prefix_search
from asr.decoding.jit import kernel
from asr.decoding.prefix_state import Beam, Search, Workspace
from asr.decoding.text_arrays import Texts


@kernel
def score_language(
    search: Search,
    beam: Beam,
    work: Workspace,
    texts: Texts,
    codes: NDArray[np.int64],
    letters: NDArray[np.int64],
    parts: NDArray[np.float64],
) -> bool:
    """Fills in parts (X, 4) as `prefix_search.finish` does. False when a text has a letter without a code.

    beam: with the empty text, and room for X; codes: of each code point, -1: none; the last stands for all
    beyond; letters: (S,) room.
    """
    for place in range(len(texts.points)):
        letters[place] = codes[np.int64(min(texts.points[place], np.uint32(len(codes) - 1)))]
        if letters[place] < 0:
            return False
    prefix_search.prepare(search, beam, work)
    for i in range(1, len(parts)):
        beam.texts[i] = beam.texts[0]
        prefix_search.copy_context(beam.contexts, 0, beam.contexts, i)
    prefix_search.read_texts(search, beam, letters, texts.first, len(parts))
    prefix_search.finish(search, beam, len(parts), parts)
    return True
