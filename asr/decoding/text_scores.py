"""Texts that others have found, scored by native beam search's language: compiled.

`asr.decoding.prefix_state` has the legend. X texts, N words of their trie, S letters of the different ones.
"""

import numpy as np
from numpy.typing import NDArray

from asr.decoding import prefix_search
from asr.decoding.jit import kernel
from asr.decoding.prefix_state import Beam, Search, Workspace
from asr.decoding.text_trie import TextTrie


@kernel
def score_language(
    search: Search,
    beam: Beam,
    work: Workspace,
    trie: TextTrie,
    codes: NDArray[np.int64],
    letters: NDArray[np.int64],
    ends: NDArray[np.float64],
    parts: NDArray[np.float64],
) -> bool:
    """Fills in parts (X, 4) as `prefix_search.finish` does. False when a text has a letter without a code.

    beam: with the empty text, and room for as many as the longest has words; codes: of each code point, -1:
    none; the last stands for all beyond; letters: (S,) room, ends: (N, 4).
    """
    words = trie.words
    for place in range(len(words.points)):
        letters[place] = codes[np.int64(min(words.points[place], np.uint32(len(codes) - 1)))]
        if letters[place] < 0:
            return False
    prefix_search.prepare(search, beam, work)
    for n in range(len(trie.depth)):
        depth, word = trie.depth[n], trie.word[n]
        prefix_search.read_word(
            search, beam, depth, letters, words.first[word], words.first[word + 1], depth - 1
        )
        prefix_search.finish_text(search, beam, depth, ends[n])
    for i in range(len(parts)):
        if trie.last[i] < 0:
            prefix_search.finish(search, beam, 1, parts[i : i + 1])
        else:
            for k in range(4):
                parts[i, k] = ends[trie.last[i], k]
    return True
