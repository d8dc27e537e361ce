"""How likely texts are, given piece posteriors: CTC forward sums over all their spellings, compiled.

A spelling cuts each word into pieces. Several texts are gone through as a trie of words, depth first, so that
a beginning that texts share is summed once (as `asr.decoding.pronunciation_kernels` does with phones). A word
is entered from the blank or from the last piece of the word before, and ends in a blank of its own or in its
last piece. Which label that is matters only where the next word begins with the same one, which is then the
whole word: a piece with a word mark. Sums are divided by their largest where the word begins, and kept only
for the frames in which they matter.

Shapes: T frames, V pieces (blank included), N words of the trie, W different words, L letters of all those,
D depth of the trie + 1, B room for sums, M letters of the longest word + 1, E edges of a word at most.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel, kernel
from asr.decoding.word_trie import OUTSIDE, ROOT, WordTrie, walk

_FADED = 1e-130  # of the largest sum where a word begins: less is nothing
_NOTHING = 1e-300
BLANK = 0
NONE = -1


class Spelled(NamedTuple):
    """The words of all texts as a trie, in depth-first order, and their letters."""

    depth: NDArray[np.int64]  # (N,) of each word, from 1
    word: NDArray[np.int64]  # (N,) 0..W-1
    first_letter: NDArray[np.int64]  # (W + 1,)
    letters: NDArray[np.int64]  # (L,) codes
    pieces: WordTrie  # letters of pieces, their marks being letters, too; a piece is a word of it
    mark: int  # node behind the mark


class Edges(NamedTuple):
    """Room for the pieces that a word may be cut into: edges from a place between letters to another."""

    first: NDArray[np.int64]  # (M + 1,) where the edges that leave a place begin
    begin: NDArray[np.int64]  # (E,) place that an edge leaves, ascending
    end: NDArray[np.int64]  # (E,) and reaches
    piece: NDArray[np.int64]  # (E,)
    same: NDArray[
        np.int64
    ]  # (E,) edge of the same piece that reaches the place that this one leaves, or NONE
    state: NDArray[np.float64]  # (E,) sum of the paths whose last frame is the piece
    blank: NDArray[np.float64]  # (M,) of those whose last frame is the blank, by the place reached
    reached: NDArray[np.float64]  # (M,) all edges' that reach a place


class SpellingSums(NamedTuple):
    """What is kept of the words on the way from the root to the present one: a stack.

    Of each word three rows of sums: its last frame is blank; a piece; the piece that is the whole word.
    """

    start: NDArray[np.int64]  # (D,) frames gone before a word's first sum
    length: NDArray[np.int64]  # (D,) of its rows
    at: NDArray[np.int64]  # (D + 1,) where in `values` a word's rows begin
    whole: NDArray[np.int64]  # (D,) the piece that is the whole word, mark and all, or NONE
    log_scale: NDArray[np.float64]  # (D,) natural log of what the sums were divided by
    values: NDArray[np.float64]  # (B,)


@kernel
def score_spelled(
    scaled_TV: NDArray[np.float64],
    spelled: Spelled,
    edges: Edges,
    sums: SpellingSums,
    ends: NDArray[np.float64],
) -> bool:
    """Fills `ends` (N,) with the log-probability that the audio is the words down to each.

    scaled_TV: posteriors divided by each frame's largest. False when `values` was too short.
    """
    if not _begin(scaled_TV, sums):
        return False
    for n in range(len(spelled.depth)):
        depth, word = spelled.depth[n], spelled.word[n]
        _cut(spelled, edges, word, depth == 1)
        n_letters = spelled.first_letter[word + 1] - spelled.first_letter[word]
        if not _add_word(scaled_TV, edges, n_letters, sums, depth):
            return False
        ends[n] = _at_end(sums, depth, len(scaled_TV))
    return True


@inner_kernel
def _begin(scaled_TV: NDArray[np.float64], sums: SpellingSums) -> bool:
    """The root: only blanks so far."""
    room = len(scaled_TV) + 1
    if len(sums.values) < 3 * room:
        return False
    value, length = 1.0, 0
    while length < room and value > _FADED:
        sums.values[length] = value
        if length < room - 1:
            value *= scaled_TV[length, BLANK]
        length += 1
    for i in range(length, 3 * length):
        sums.values[i] = 0.0
    sums.start[0], sums.length[0], sums.log_scale[0], sums.whole[0] = 0, length, 0.0, NONE
    sums.at[0], sums.at[1] = 0, 3 * length
    return True


@inner_kernel
def _cut(spelled: Spelled, edges: Edges, word: int, is_first: bool) -> None:
    """Fills in the edges of a word. A text may begin with a piece without a mark."""
    letters, pieces = spelled.letters, spelled.pieces
    first, last = spelled.first_letter[word], spelled.first_letter[word + 1]
    n = 0
    for place in range(last - first):
        edges.first[place] = n
        for marked in range(2):
            if place == 0 and not marked and not is_first:
                continue
            if place > 0 and marked:
                continue
            node = spelled.mark if marked else ROOT
            for end in range(place, last - first):
                node = walk(pieces, node, letters[first + end])
                if node == OUTSIDE:
                    break
                if pieces.word[node] >= 0:
                    edges.begin[n], edges.end[n], edges.piece[n] = place, end + 1, pieces.word[node]
                    edges.same[n] = NONE
                    for e in range(edges.first[place]):
                        if edges.end[e] == place and edges.piece[e] == edges.piece[n]:
                            edges.same[n] = e
                    n += 1
    edges.first[last - first] = n
    edges.first[last - first + 1] = n


@inner_kernel
def _add_word(
    scaled_TV: NDArray[np.float64], edges: Edges, n_letters: int, sums: SpellingSums, depth: int
) -> bool:
    """Puts a word on the stack, after the one above it. False when there is no room."""
    n_frames, above = len(scaled_TV), depth - 1
    n_above, at_above = sums.length[above], sums.at[above]
    n_edges = edges.first[n_letters]
    values, at = sums.values, sums.at[depth]
    largest, begin = 0.0, -1
    for i in range(n_above):
        largest = max(largest, _entering(values, at_above, n_above, i, True))
    for i in range(n_above):
        if begin < 0 and _entering(values, at_above, n_above, i, True) > largest * _FADED:
            begin = i
    start = sums.start[above] + max(begin, 0)
    whole = NONE
    for e in range(edges.first[1]):
        if edges.end[e] == n_letters:  # the last of these is the one with a mark
            whole = e
    sums.start[depth], sums.log_scale[depth] = start, sums.log_scale[above]
    sums.whole[depth] = edges.piece[whole] if whole != NONE else NONE
    if begin < 0 or start >= n_frames or n_edges == 0:
        sums.length[depth], sums.at[depth + 1] = 0, at
        return True
    room = n_frames - start + 1
    if at + 3 * room > len(values):
        return False
    sums.log_scale[depth] += np.log(largest)
    for e in range(n_edges):
        edges.state[e] = 0.0
    for place in range(n_letters + 1):
        edges.blank[place], edges.reached[place] = 0.0, 0.0
    for row in range(3):
        values[at + row * room] = 0.0
    length = 1
    for i in range(n_frames - start):
        comes = begin + i < n_above
        everything = _entering(values, at_above, n_above, begin + i, True) / largest if comes else 0.0
        but_whole = _entering(values, at_above, n_above, begin + i, False) / largest if comes else 0.0
        held = _step(scaled_TV, start + i, edges, n_letters, everything, but_whole, sums.whole[above])
        values[at + i + 1] = edges.blank[n_letters]
        values[at + room + i + 1] = 0.0
        for e in range(n_edges):
            if edges.end[e] == n_letters and e != whole:
                values[at + room + i + 1] += edges.state[e]
        values[at + 2 * room + i + 1] = edges.state[whole] if whole != NONE else 0.0
        length = i + 2
        if held <= _FADED and begin + i + 1 >= n_above:
            break
    for row in range(1, 3):  # closed up
        for i in range(length):
            values[at + row * length + i] = values[at + row * room + i]
    sums.length[depth], sums.at[depth + 1] = length, at + 3 * length
    return True


@inner_kernel
def _entering(values: NDArray[np.float64], at: int, length: int, i: int, whole: bool) -> float:
    """Sum of the paths that may go on, those that end in the whole word's piece among them or not."""
    entering = values[at + i] + values[at + length + i]
    return float(entering + values[at + 2 * length + i] if whole else entering)


@inner_kernel
def _step(
    scaled_TV: NDArray[np.float64],
    frame: int,
    edges: Edges,
    n_letters: int,
    everything: float,
    but_whole: float,
    whole: int,
) -> float:
    """One frame of a word, from its end on, so that nothing is read that the frame has changed.

    everything, but_whole: what enters the word, with and without the paths that end in `whole`. Returns the
    sum of all.
    """
    blank, held = scaled_TV[frame, BLANK], 0.0
    for place in range(n_letters, -1, -1):
        coming = edges.blank[place] + edges.reached[place]
        gone = 0.0
        for e in range(edges.first[place], edges.first[place + 1]):
            incoming = coming
            if place == 0:
                incoming = but_whole if edges.piece[e] == whole else everything
            elif edges.same[e] != NONE:
                incoming = edges.blank[place]
                for other in range(edges.first[place]):
                    if edges.end[other] == place and other != edges.same[e]:
                        incoming += edges.state[other]
            before = edges.state[e]
            edges.state[e] = (before + incoming) * scaled_TV[frame, edges.piece[e]]
            gone += edges.state[e]
        held += gone
        if place > 0:
            edges.blank[place] = coming * blank
            held += edges.blank[place]
    for place in range(1, n_letters + 1):
        edges.reached[place] = 0.0
    for e in range(edges.first[n_letters]):
        edges.reached[edges.end[e]] += edges.state[e]
    return held


@inner_kernel
def _at_end(sums: SpellingSums, depth: int, n_frames: int) -> float:
    """Log of what the sums are when all frames are gone."""
    length, place = sums.length[depth], n_frames - sums.start[depth]
    total = 0.0
    if 0 <= place < length:
        for row in range(3):
            total += sums.values[sums.at[depth] + row * length + place]
    return float(np.log(max(total, _NOTHING)) + sums.log_scale[depth])
