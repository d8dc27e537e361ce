"""How likely texts are, given piece posteriors: CTC forward sums over all their spellings, compiled.

A spelling cuts each word into pieces. Several texts are gone through as a trie of words, depth first, so that
a beginning that texts share is summed once (as `asr.decoding.pronunciation_kernels` does with phones). The
words that follow the same words are gone through together, frame by frame, as a trie of their letters: what
beam search writes over noise are words of hundreds of letters that differ in the last ones. A word is entered
from the blank or from the last piece of the word before, and ends in a blank of its own or in its last piece.
Which label that is matters only where the next word begins with the same one, which is then the whole word: a
piece with a word mark. Sums are divided by their largest where the word begins, and kept only for the frames
in which they matter.

Shapes: T frames, V pieces (blank included), N words of the trie, W different words, L letters of all those,
D depth of the trie + 1, B room for sums, M nodes of the letters' trie at most, E its edges at most, K letters
of the longest word + 1.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel, kernel, step_kernel
from asr.decoding.word_trie import OUTSIDE, ROOT, WordTrie, walk

_FADED = 1e-130  # of the largest sum where a word begins: less is nothing
_NOTHING = 1e-300
BLANK = 0
NONE = -1
REPEATS = -2  # an edge of the same piece as that which is the whole word before


class Spelled(NamedTuple):
    """The words of all texts as a trie, in depth-first order, and their letters."""

    depth: NDArray[np.int64]  # (N,) of each word, from 1
    word: NDArray[np.int64]  # (N,) 0..W-1
    beside: NDArray[np.int64]  # (N,) the next word after the same words, alphabetically, or NONE
    first_letter: NDArray[np.int64]  # (W + 1,)
    letters: NDArray[np.int64]  # (L,) codes
    pieces: WordTrie  # letters of pieces, their marks being letters, too; a piece is a word of it
    mark: int  # node behind the mark
    longest_piece: int  # letters, its mark included


class Letters(NamedTuple):
    """Room for a trie of words' letters. Node 0 is where they begin; each other node is a place behind a
    letter. An edge is a piece that leads from one node to another."""

    first: NDArray[np.int64]  # (M + 1,) where the edges that reach a node begin
    blank: NDArray[np.float64]  # (M,) sum of the paths whose last frame is the blank
    total: NDArray[np.float64]  # (M,) and of those that a piece led here
    begin: NDArray[np.int64]  # (E,) node that an edge leaves
    piece: NDArray[np.int64]  # (E,)
    same: NDArray[np.int64]  # (E,) edge of the same piece that reaches the node left, NONE or REPEATS
    state: NDArray[np.float64]  # (E,) sum of the paths whose last frame is the piece
    path: NDArray[np.int64]  # (K,) nodes of the present word
    walked: NDArray[np.int64]  # (K,) node of the pieces' trie after the letters from a place on


class SpellingSums(NamedTuple):
    """What is kept of the words on the way from the root to the present one, and of those beside them.

    Words after the same words have the same frames; of each frame, two sums a word: the paths that end in the
    piece that is the whole word are the second.
    """

    start: NDArray[np.int64]  # (D,) frames gone before a depth's first sums
    length: NDArray[np.int64]  # (D,) frames of sums
    at: NDArray[np.int64]  # (D + 1,) where in `values` they begin
    n_words: NDArray[np.int64]  # (D,)
    log_scale: NDArray[np.float64]  # (D,) natural log of what the sums were divided by
    row: NDArray[np.int64]  # (N,) of a word, among those after the same words
    whole: NDArray[np.int64]  # (N,) the piece that is the whole word, mark and all, or NONE
    end: NDArray[np.int64]  # (N,) the word's last node
    whole_edge: NDArray[np.int64]  # (N,) its edge, or NONE
    values: NDArray[np.float64]  # (B,)


@kernel
def score_spelled(
    scaled_TV: NDArray[np.float64],
    spelled: Spelled,
    letters: Letters,
    sums: SpellingSums,
    ends: NDArray[np.float64],
    first: int,
) -> int:
    """Fills `ends` (N,) with the log-probability that the audio is the words down to each.

    scaled_TV: posteriors divided by each frame's largest. Begins with the word `first`: 0, or what the call
    before returned. Returns N, or the word for which there was no room in the letters' trie or in `values`.
    """
    if first == 0 and not _begin(scaled_TV, sums):
        return 0
    for n in range(first, len(spelled.depth)):
        depth = spelled.depth[n]
        if n > 0 and depth <= spelled.depth[n - 1]:
            continue  # gone through with the first of the words beside it
        n_nodes = _plant(spelled, letters, sums, n)
        if n_nodes == 0 or not _add_words(scaled_TV, spelled, letters, sums, n, n_nodes):
            return n
        word = n
        while word != NONE:
            ends[word] = _at_end(sums, depth, word, len(scaled_TV))
            word = spelled.beside[word]
    return len(spelled.depth)


@inner_kernel
def _begin(scaled_TV: NDArray[np.float64], sums: SpellingSums) -> bool:
    """The root: only blanks so far. False when there is no room."""
    room = len(scaled_TV) + 1
    if len(sums.values) < 2 * room:
        return False
    value, length = 1.0, 0
    while length < room and value > _FADED:
        sums.values[2 * length], sums.values[2 * length + 1] = value, 0.0
        if length < room - 1:
            value *= scaled_TV[length, BLANK]
        length += 1
    sums.start[0], sums.length[0], sums.log_scale[0], sums.n_words[0] = 0, length, 0.0, 1
    sums.at[0], sums.at[1] = 0, 2 * length
    return True


@step_kernel
def _plant(spelled: Spelled, letters: Letters, sums: SpellingSums, first: int) -> int:
    """Makes the letters' trie of a word and those beside it. Returns its nodes, 0 when there is no room."""
    n_nodes, n_edges, n_words, before, word = 1, 0, 0, NONE, first
    letters.first[0] = letters.first[1] = letters.path[0] = 0
    is_first = spelled.depth[first] == 1
    repeats = NONE if is_first else sums.whole[first - 1]
    while word != NONE:
        begin = spelled.first_letter[spelled.word[word]]
        n_letters = spelled.first_letter[spelled.word[word] + 1] - begin
        most_edges = n_edges + n_letters * (spelled.longest_piece + 1)
        if n_nodes + n_letters > len(letters.total) or most_edges > len(letters.state):
            return 0
        shared = _shared(spelled, before, spelled.word[word])
        for place in range(max(0, shared - spelled.longest_piece), shared):
            node = spelled.mark if place == 0 else ROOT
            for behind in range(place, shared):
                node = walk(spelled.pieces, node, spelled.letters[begin + behind])
            letters.walked[place] = node
        for place in range(shared, n_letters):
            letters.walked[place] = spelled.mark if place == 0 else ROOT
            letters.path[place + 1] = n_nodes
            n_edges = _reach(spelled, letters, begin, place + 1, is_first, repeats, n_edges)
            n_nodes += 1
            letters.first[n_nodes] = n_edges
        _note_end(letters, sums, word, letters.path[n_letters], n_words)
        before, word, n_words = spelled.word[word], spelled.beside[word], n_words + 1
    for e in range(n_edges):
        letters.state[e] = 0.0
    for node in range(n_nodes):
        letters.blank[node] = letters.total[node] = 0.0
    sums.n_words[spelled.depth[first]] = n_words
    return n_nodes


@inner_kernel
def _shared(spelled: Spelled, one: int, other: int) -> int:
    """How many letters two words begin with in common."""
    if one == NONE:
        return 0
    letters, at_one, at_other = spelled.letters, spelled.first_letter[one], spelled.first_letter[other]
    most = min(spelled.first_letter[one + 1] - at_one, spelled.first_letter[other + 1] - at_other)
    shared = 0
    while shared < most and letters[at_one + shared] == letters[at_other + shared]:
        shared += 1
    return shared


@step_kernel
def _reach(
    spelled: Spelled, letters: Letters, begin: int, place: int, is_first: bool, repeats: int, n_edges: int
) -> int:
    """Adds the edges that end behind a word's letter. A text may begin with a piece without a mark. Returns
    the number of all edges."""
    pieces = spelled.pieces
    for left in range(max(0, place - spelled.longest_piece), place):
        if left == 0 and is_first:
            node = ROOT
            for behind in range(place):
                node = walk(pieces, node, spelled.letters[begin + behind])
            n_edges = _add_edge(letters, pieces, node, 0, repeats, n_edges)
        node = walk(pieces, letters.walked[left], spelled.letters[begin + place - 1])
        letters.walked[left] = node
        n_edges = _add_edge(letters, pieces, node, letters.path[left], repeats, n_edges)
    return n_edges


@inner_kernel
def _add_edge(letters: Letters, pieces: WordTrie, node: int, left: int, repeats: int, n_edges: int) -> int:
    """The piece that ends at a node of the pieces' trie, where there is one, as an edge."""
    if node == OUTSIDE or pieces.word[node] < 0:
        return n_edges
    piece = pieces.word[node]
    same = NONE
    if left == 0 and piece == repeats:
        same = REPEATS
    for e in range(letters.first[left], letters.first[left + 1]):
        if letters.piece[e] == piece:
            same = e
    letters.begin[n_edges], letters.piece[n_edges], letters.same[n_edges] = left, piece, same
    return n_edges + 1


@inner_kernel
def _note_end(letters: Letters, sums: SpellingSums, word: int, end: int, row: int) -> None:
    """Where a word of the trie ends, and in which piece if that is the whole word."""
    sums.row[word], sums.end[word] = row, end
    sums.whole[word] = sums.whole_edge[word] = NONE
    for e in range(letters.first[end], letters.first[end + 1]):
        if letters.begin[e] == 0:  # the last of these is the one with a mark
            sums.whole[word], sums.whole_edge[word] = letters.piece[e], e


@step_kernel
def _add_words(
    scaled_TV: NDArray[np.float64],
    spelled: Spelled,
    letters: Letters,
    sums: SpellingSums,
    first: int,
    n_nodes: int,
) -> bool:
    """Puts the words of the letters' trie on the stack, after the one above. False when there is no room."""
    n_frames, depth, values = len(scaled_TV), spelled.depth[first], sums.values
    above = depth - 1
    step = 2 * sums.n_words[above]
    entering = sums.at[above] + (2 * sums.row[first - 1] if above else 0)
    largest, begin, n_entering = 0.0, -1, 0
    for i in range(sums.length[above]):
        largest = max(largest, values[entering + i * step] + values[entering + i * step + 1])
    for i in range(sums.length[above]):
        value = values[entering + i * step] + values[entering + i * step + 1]
        if begin < 0 and value > largest * _FADED:
            begin = i
        if value > 0.0:
            n_entering = i + 1
    start, at, width = sums.start[above] + max(begin, 0), sums.at[depth], 2 * sums.n_words[depth]
    sums.start[depth], sums.log_scale[depth] = start, sums.log_scale[above]
    sums.length[depth], sums.at[depth + 1] = 0, at
    if begin < 0 or start >= n_frames:
        return True
    if at + width * (n_frames - start + 1) > len(values):
        return False
    sums.log_scale[depth] += np.log(largest)
    for k in range(width):
        values[at + k] = 0.0
    length = 1
    for i in range(n_frames - start):
        but_whole, letters.total[0] = 0.0, 0.0
        if begin + i < n_entering:
            place = entering + (begin + i) * step
            but_whole = values[place] / largest
            letters.total[0] = (values[place] + values[place + 1]) / largest
        held = _step(scaled_TV[start + i], letters, n_nodes, but_whole)
        if held == 0.0 and begin + i + 1 >= n_entering:
            break
        _keep(spelled, letters, sums, first, at + length * width)
        length += 1
    sums.length[depth], sums.at[depth + 1] = length, at + length * width
    return True


@step_kernel
def _step(frame_V: NDArray[np.float64], letters: Letters, n_nodes: int, but_whole: float) -> float:
    """One frame of the letters' trie, from its leaves on, so that nothing is read that the frame has changed.

    but_whole: what enters without the paths that end in a piece that REPEATS. Returns the sum of all.
    """
    begin, piece, same, state = letters.begin, letters.piece, letters.same, letters.state
    blank, total, blank_p, held = letters.blank, letters.total, frame_V[BLANK], 0.0
    for node in range(n_nodes - 1, 0, -1):
        arrived = reached = 0.0
        for e in range(letters.first[node], letters.first[node + 1]):
            incoming = total[begin[e]]
            if same[e] == REPEATS:
                incoming = but_whole
            elif same[e] != NONE:
                incoming = blank[begin[e]]
                for other in range(letters.first[begin[e]], letters.first[begin[e] + 1]):
                    if other != same[e]:
                        incoming += state[other]
            arrived += incoming
            state[e] = (state[e] + incoming) * frame_V[piece[e]]
            reached += state[e]
        blank[node] = total[node] * blank_p
        total[node] = blank[node] + reached
        if arrived == 0.0 and total[node] <= _FADED:  # decided by what leads here alone, words beside or not
            blank[node] = total[node] = 0.0
            for e in range(letters.first[node], letters.first[node + 1]):
                state[e] = 0.0
        held += total[node]
    return held


@inner_kernel
def _keep(spelled: Spelled, letters: Letters, sums: SpellingSums, first: int, at: int) -> None:
    """Writes a frame's sums of all words that end in the letters' trie."""
    word = first
    while word != NONE:
        node, edge = sums.end[word], sums.whole_edge[word]
        sums.values[at], sums.values[at + 1] = letters.total[node], 0.0
        if edge != NONE:
            rest = letters.blank[node]
            for e in range(letters.first[node], letters.first[node + 1]):
                if e != edge:
                    rest += letters.state[e]
            sums.values[at], sums.values[at + 1] = rest, letters.state[edge]
        word, at = spelled.beside[word], at + 2


@inner_kernel
def _at_end(sums: SpellingSums, depth: int, word: int, n_frames: int) -> float:
    """Log of what a word's sums are when all frames are gone."""
    length, place = sums.length[depth], n_frames - sums.start[depth]
    total = 0.0
    if 0 <= place < length:
        at = sums.at[depth] + 2 * (place * sums.n_words[depth] + sums.row[word])
        total = sums.values[at] + sums.values[at + 1]
    return float(np.log(max(total, _NOTHING)) + sums.log_scale[depth])
