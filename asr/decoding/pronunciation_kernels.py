"""How likely pronunciations are, given phone posteriors: CTC forward sums over word sequences, compiled.

Several texts are gone through as a trie of words, depth first, so that a beginning that texts share is
summed once. A word is entered from the blank or from the last phone of the word before, goes through one of
its pronunciations, and ends in a blank of its own or in its last phone: the sum is exactly that over all CTC
paths of all choices of pronunciations. Sums are kept only for the frames in which they matter, divided by
their largest where the word begins.

Shapes: T frames, P phones (blank included), N words of the trie, W different words, R pronunciations of
all different words, L phones of all those, D depth of the trie + 1, B room for sums.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel, kernel

_FADED = 1e-130  # of a word's largest sum: less is nothing
_NOTHING = 1e-300
BLANK = 0


class WordTries(NamedTuple):
    """The words of all texts as a trie, in depth-first order, and their pronunciations."""

    depth: NDArray[np.int64]  # (N,) of each word, from 1
    word: NDArray[np.int64]  # (N,) 0..W-1
    first_pronunciation: NDArray[np.int64]  # (W + 1,) where each different word's begin
    first_phone: NDArray[np.int64]  # (R + 1,) where each pronunciation's phones begin
    phones: NDArray[np.int64]  # (L,) CTC outputs


class Sums(NamedTuple):
    """What is kept of the words on the way from the root to the present one: a stack."""

    start: NDArray[np.int64]  # (D,) frames gone before a word's first sum
    length: NDArray[np.int64]  # (D,) sums of its blank, and of each pronunciation's last phone
    at: NDArray[np.int64]  # (D + 1,) where in `values` a word's begin: the blank's, then each last phone's
    word: NDArray[np.int64]  # (D,)
    log_scale: NDArray[np.float64]  # (D,) natural log of what the sums were divided by
    values: NDArray[np.float64]  # (B,)
    entry: NDArray[np.float64]  # (T + 1,) room
    states: NDArray[np.float64]  # (2 x the longest pronunciation,) room


@kernel
def score_tries(
    scaled_TP: NDArray[np.float64], tries: WordTries, sums: Sums, ends: NDArray[np.float64]
) -> bool:
    """Fills `ends` (N,) with the log-probability that the audio is the words down to each.

    scaled_TP: posteriors divided by each frame's largest. False when `values` was too short.
    """
    n_frames = len(scaled_TP)
    if not _begin(scaled_TP, sums):
        return False
    for n in range(len(tries.depth)):
        depth = tries.depth[n]
        if not _add_word(scaled_TP, tries, sums, depth, tries.word[n]):
            return False
        ends[n] = _at_end(tries, sums, depth, n_frames)
    return True


@inner_kernel
def _begin(scaled_TP: NDArray[np.float64], sums: Sums) -> bool:
    """The root: only blanks so far."""
    n_frames = len(scaled_TP)
    if len(sums.values) < n_frames + 1:
        return False
    sums.start[0], sums.at[0], sums.word[0], sums.log_scale[0] = 0, 0, -1, 0.0
    value, length = 1.0, 0
    while length <= n_frames and value > _FADED:
        sums.values[length] = value
        if length < n_frames:
            value *= scaled_TP[length, BLANK]
        length += 1
    sums.length[0], sums.at[1] = length, length
    return True


@inner_kernel
def _enter(tries: WordTries, sums: Sums, depth: int, phone: int, entry: NDArray[np.float64]) -> None:
    """Fills in the sums of paths that may go on with the phone, for each frame of the word at a depth."""
    length, at, word = sums.length[depth], sums.at[depth], sums.word[depth]
    for i in range(length):
        entry[i] = sums.values[at + i]
    if word < 0:
        return
    for k in range(tries.first_pronunciation[word], tries.first_pronunciation[word + 1]):
        at += length
        if tries.phones[tries.first_phone[k + 1] - 1] == phone:
            continue  # the same phone again only after a blank
        for i in range(length):
            entry[i] += sums.values[at + i]


@inner_kernel
def _add_word(scaled_TP: NDArray[np.float64], tries: WordTries, sums: Sums, depth: int, word: int) -> bool:
    """Puts a word on the stack, after the one above it. False when there is no room."""
    n_frames, above = len(scaled_TP), depth - 1
    n_above, first_above = sums.length[above], sums.start[above]
    first, last = tries.first_pronunciation[word], tries.first_pronunciation[word + 1]
    n_ends, room = last - first, n_frames + 1
    at = sums.at[depth]
    if at + (n_ends + 1) * room > len(sums.values):
        return False
    sums.word[depth] = word
    # The largest way in decides what the word's sums are divided by, and where its frames begin.
    largest = 0.0
    for k in range(first, last):
        _enter(tries, sums, above, tries.phones[tries.first_phone[k]], sums.entry)
        for i in range(n_above):
            largest = max(largest, sums.entry[i])
    begin = n_above
    for k in range(first, last):
        _enter(tries, sums, above, tries.phones[tries.first_phone[k]], sums.entry)
        for i in range(begin):
            if sums.entry[i] > largest * _FADED:
                begin = i
                break
    start = first_above + begin
    sums.start[depth], sums.log_scale[depth] = start, sums.log_scale[above]
    if largest <= 0.0 or start >= n_frames:
        sums.length[depth], sums.at[depth + 1] = 0, at
        return True
    sums.log_scale[depth] += np.log(largest)
    # Each pronunciation by itself: its last phone's sums; then the blank behind all of them.
    length = 0
    for k in range(first, last):
        n = _last_phone(scaled_TP, tries, sums, above, begin, largest, k, at + (1 + k - first) * room)
        length = max(length, n)
    blank = 0.0
    for i in range(room - start):
        ended = 0.0
        for k in range(n_ends):
            ended += sums.values[at + (1 + k) * room + i]
        sums.values[at + i] = blank
        if i >= length and blank + ended < _FADED:
            break
        length = max(length, i + 1)
        if start + i < n_frames:
            blank = (blank + ended) * scaled_TP[start + i, BLANK]
    for k in range(n_ends):  # closed up
        for i in range(length):
            sums.values[at + (1 + k) * length + i] = sums.values[at + (1 + k) * room + i]
    sums.length[depth] = length
    sums.at[depth + 1] = at + (n_ends + 1) * length
    return True


@inner_kernel
def _last_phone(
    scaled_TP: NDArray[np.float64],
    tries: WordTries,
    sums: Sums,
    above: int,
    begin: int,
    largest: float,
    pronunciation: int,
    at: int,
) -> int:
    """Writes the sums of a pronunciation's last phone, from `start + 0` frames gone on; zeros behind.

    Returns how many are not faded.
    """
    n_frames = len(scaled_TP)
    first = tries.first_phone[pronunciation]
    n_phones = tries.first_phone[pronunciation + 1] - first
    n_above, start = sums.length[above], sums.start[above] + begin
    _enter(tries, sums, above, tries.phones[first], sums.entry)
    states = sums.states  # phone 0, the blank behind it, phone 1, ...
    for s in range(2 * n_phones):
        states[s] = 0.0
    sums.values[at] = 0.0
    n, alive = 1, True
    for i in range(n_frames - start):
        if not alive:
            sums.values[at + i + 1] = 0.0
            continue
        entering = sums.entry[begin + i] / largest if begin + i < n_above else 0.0
        frame = start + i
        blank = scaled_TP[frame, BLANK]
        held = 0.0
        for s in range(n_phones - 1, -1, -1):
            phone = tries.phones[first + s]
            incoming = states[2 * s]
            if s:
                incoming += states[2 * s - 1]
                if tries.phones[first + s - 1] != phone:
                    incoming += states[2 * s - 2]
            else:
                incoming += entering
            if s + 1 < n_phones:
                states[2 * s + 1] = (states[2 * s + 1] + states[2 * s]) * blank
                held += states[2 * s + 1]
            states[2 * s] = incoming * scaled_TP[frame, phone]
            held += states[2 * s]
        sums.values[at + i + 1] = states[2 * n_phones - 2]
        if states[2 * n_phones - 2] > _FADED:
            n = i + 2
        alive = held > _FADED or begin + i + 1 < n_above
    return n


@inner_kernel
def _at_end(tries: WordTries, sums: Sums, depth: int, n_frames: int) -> float:
    """Log of what the sums are when all frames are gone."""
    word, length = sums.word[depth], sums.length[depth]
    place = n_frames - sums.start[depth]
    total = 0.0
    if 0 <= place < length:
        for k in range(1 + tries.first_pronunciation[word + 1] - tries.first_pronunciation[word]):
            total += sums.values[sums.at[depth] + k * length + place]
    return float(np.log(max(total, _NOTHING)) + sums.log_scale[depth])
