"""CTC beam search over phones with a lexicon's tree and a word n-gram, compiled, without the GIL.

`asr.decoding.phone_state` has the legend. A frame takes three steps: every hypothesis stays (by the blank, or
by its node's label again); it grows by every label tried that leads further in the tree, and where words end
at its node, by every label that begins a word, once for each of them, the n-gram having its say; the best are
the next beam. The same words at the same node are one candidate, their masses added up: so pronunciations
of a word count together from the word behind on. Ranked is

    acoustics + weighted n-gram of finished words + what stands for the unfinished one + beta x words begun

What stands for an unfinished word is the best single-word probability among the words that it may still
become, which is taken back when it ends.

Growths that are pruned, by the best mass found so far, are not counted; nor are those, when the last frame
had more candidates than the beam could take, that lie three nats lower than the last that it took. Of
candidates that no longer fit into the beam those found first are kept where masses differ by less than 6 %.
"""

import math

import numpy as np
from numpy.typing import NDArray

from asr.decoding import mixture_kernels, ngram_kernels
from asr.decoding.jit import inner_kernel, kernel, step_kernel
from asr.decoding.lexicon_tree import ROOT
from asr.decoding.phone_state import (
    N_BINS,
    UNMADE,
    Asked,
    PhoneBeam,
    PhoneSearch,
    PhoneWorkspace,
    WordHistory,
)
from asr.decoding.prefix_search import advance

BLANK = 0
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word is forgotten
_OTHER_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_BINS_PER_OCTAVE = 12.0
_FULL = -1
_SLACK = math.exp(-3.0)


@kernel
def begin(search: PhoneSearch, context: NDArray[np.int64]) -> None:
    """Writes the n-gram's context before the first word."""
    if search.weights.has_mixture:
        mixture_kernels.begin_mixed(search.ngram, search.mixture, context)
    elif search.weights.has_ngram:
        ngram_kernels.begin_context(search.ngram, context)


@inner_kernel
def find_slot(work: PhoneWorkspace, key: np.uint64, node: int, frame: int) -> int:
    """The table's slot of words and a node, filled or free."""
    mask = len(work.slots) - 1
    slot = np.int64(((key ^ (np.uint64(node) * _OTHER_FACTOR)) * _FACTOR) >> np.uint64(24)) & mask
    while work.frames[slot] == frame:
        candidate = work.candidates[work.slots[slot]]
        if candidate.hash == key and candidate.node == node:
            break
        slot = (slot + 1) & mask
    return int(slot)


@inner_kernel
def add(
    work: PhoneWorkspace, n: int, frame: int, key: np.uint64, history: int, node: int, mass: float
) -> int:
    """Adds paths that end in a node's label to its candidate. Returns the number of candidates, or _FULL."""
    slot = find_slot(work, key, node, frame)
    if work.frames[slot] == frame:
        work.candidates[work.slots[slot]].other += mass
        return n
    if n == len(work.candidates):
        return _FULL
    candidate = work.candidates[n]
    candidate.hash, candidate.node, candidate.history = key, node, history
    candidate.blank, candidate.other = 0.0, mass
    candidate.ends, candidate.n_ends = UNMADE, 0
    work.frames[slot], work.slots[slot] = frame, n
    return n + 1


@step_kernel
def stay_all(
    search: PhoneSearch,
    beam: PhoneBeam,
    n: int,
    work: PhoneWorkspace,
    frame: int,
    probs_P: NDArray[np.float64],
) -> float:
    """Candidate i is hypothesis i itself. Returns the largest mass."""
    top = 0.0
    for i in range(n):
        before, candidate = beam.hypotheses[i], work.candidates[i]
        work.candidates[i] = before
        candidate.blank = (before.blank + before.other) * probs_P[BLANK]
        candidate.other = before.other * probs_P[search.tree.label[before.node]]
        top = max(top, candidate.blank + candidate.other)
        slot = find_slot(work, before.hash, before.node, frame)
        work.frames[slot], work.slots[slot] = frame, i
    return top


@step_kernel
def first_labels(
    search: PhoneSearch, work: PhoneWorkspace, probs_P: NDArray[np.float64]
) -> tuple[int, float]:
    """Fills in which nodes may begin a word. Returns their number, and the largest of their masses."""
    tree, n, most = search.tree, 0, 0.0
    word = math.exp(search.weights.beta)
    for node in range(tree.first_child[ROOT], tree.first_child[ROOT + 1]):
        mass = probs_P[tree.label[node]] * search.words.step[node] * word
        if mass > 0.0:
            work.starts[n], work.start_masses[n] = node, mass
            most = max(most, mass)
            n += 1
    return n, most


@step_kernel
def ask(
    search: PhoneSearch, asked: Asked, contexts: NDArray[np.int64], before: int, word: int, after: int
) -> float:
    """log10 P(word | context `before`) of the n-gram; writes context `after`."""
    if search.weights.has_mixture:
        return advance(search, contexts[before], word, contexts[after])
    size = contexts.shape[1]
    longest = size - 1
    while longest > 0 and contexts[before, longest] < 0:
        longest -= 1
    context = contexts[before, longest] * size + longest  # whose shorter ones follow from it
    key = np.uint64(context) * _OTHER_FACTOR + np.uint64(word) * _FACTOR
    place = np.int64(key >> np.uint64(20)) & (len(asked.word) - 1)
    if asked.word[place] != word or asked.context[place] != context:
        asked.logp[place] = advance(search, contexts[before], word, asked.after[place])
        asked.word[place], asked.context[place] = word, context
    for k in range(size):
        contexts[after, k] = asked.after[place, k]
    return float(asked.logp[place])


@step_kernel
def end_words(
    search: PhoneSearch, beam: PhoneBeam, i: int, history: WordHistory, n_entries: int, asked: Asked
) -> int:
    """Makes the entries of a hypothesis whose word ends. Returns the number of all, or _FULL."""
    hypothesis, tree, weights = beam.hypotheses[i], search.tree, search.weights
    first, last = tree.first_word[hypothesis.node], tree.first_word[hypothesis.node + 1]
    if n_entries + last - first > len(history.entries):
        return _FULL
    before = history.entries[hypothesis.history]
    made = n_entries
    for place in range(first, last):
        word = tree.words[place]
        number = search.words.number[word]
        if number < 0:
            continue
        entry = history.entries[made]
        entry.parent, entry.word, entry.n_words = hypothesis.history, word, before.n_words + 1
        entry.hash = before.hash * _FACTOR + np.uint64(word + 1)
        entry.finished = before.finished
        if weights.has_ngram:
            logp = ask(search, asked, history.contexts, hypothesis.history, number, made)
            entry.finished += weights.alpha * logp
        entry.factor = math.exp(entry.finished - before.finished - search.words.ahead[hypothesis.node])
        made += 1
    hypothesis.ends, hypothesis.n_ends = n_entries, made - n_entries
    return made


@step_kernel
def grow_all(
    search: PhoneSearch,
    beam: PhoneBeam,
    n_hypotheses: int,
    work: PhoneWorkspace,
    history: WordHistory,
    n_entries: int,
    asked: Asked,
    frame: int,
    probs_P: NDArray[np.float64],
) -> tuple[int, int]:
    """All candidates of a frame. Returns their number, _FULL when there is no room for all, and that of
    history entries."""
    tree, words, weights = search.tree, search.words, search.weights
    least = max(weights.prune, _SLACK * beam.least[0])
    top = stay_all(search, beam, n_hypotheses, work, frame, probs_P)
    n_starts, most_start = first_labels(search, work, probs_P)
    most = best_label(probs_P)
    n = n_hypotheses
    for i in range(n_hypotheses):
        hypothesis = beam.hypotheses[i]
        node, blank = hypothesis.node, hypothesis.blank
        total = blank + hypothesis.other
        if node == ROOT:
            for s in range(n_starts):
                mass = total * work.start_masses[s]
                if mass >= top * least:
                    top = max(top, mass)
                    n = add(work, n, frame, hypothesis.hash, hypothesis.history, work.starts[s], mass)
                    if n == _FULL:
                        return n, n_entries
            continue
        own = tree.label[node]
        if total * most >= top * least:
            for child in range(tree.first_child[node], tree.first_child[node + 1]):
                label = tree.label[child]
                mass = (blank if label == own else total) * probs_P[label] * words.step[child]
                if mass > 0.0 and mass >= top * least:
                    top = max(top, mass)
                    n = add(work, n, frame, hypothesis.hash, hypothesis.history, child, mass)
                    if n == _FULL:
                        return n, n_entries
        if n_starts == 0 or tree.first_word[node] == tree.first_word[node + 1]:
            continue
        if hypothesis.ends == UNMADE:
            hope = total * most_start * math.exp(-words.ahead[node])
            if weights.optimistic and hope < top * least:
                continue
            made = end_words(search, beam, i, history, n_entries, asked)
            if made == _FULL:
                return _FULL, n_entries
            n_entries = made
        for e in range(hypothesis.ends, hypothesis.ends + hypothesis.n_ends):
            entry = history.entries[e]
            if total * entry.factor * most_start < top * least:
                continue
            for s in range(n_starts):
                start = work.starts[s]
                mass = (blank if tree.label[start] == own else total) * entry.factor * work.start_masses[s]
                if mass > 0.0 and mass >= top * least:
                    top = max(top, mass)
                    n = add(work, n, frame, entry.hash, e, start, mass)
                    if n == _FULL:
                        return n, n_entries
    return n, n_entries


@step_kernel
def choose(work: PhoneWorkspace, n: int, width: int, prune: float) -> tuple[int, float, float]:
    """Writes the numbers of the best of n candidates, the best first.

    Returns how many, the best one's mass, and the least one's over that where others had to go, else 0.
    """
    top, best = 0.0, 0
    for c in range(n):
        mass = work.candidates[c].blank + work.candidates[c].other
        if mass > top:
            top, best = mass, c
    size = 0
    for c in range(n):
        mass = work.candidates[c].blank + work.candidates[c].other
        if mass > 0.0 and mass >= top * prune:
            work.chosen[size] = c
            size += 1
    least = 0.0
    if size > width:
        size, least = thin_out(work, size, width, top)
    for j in range(size):
        if work.chosen[j] == best:
            work.chosen[0], work.chosen[j] = best, work.chosen[0]
            break
    return size, top, least


@inner_kernel
def thin_out(work: PhoneWorkspace, size: int, width: int, top: float) -> tuple[int, float]:
    """Leaves `width` of the chosen candidates, by bins of similar mass. Returns it, and the last bin's share
    of the best mass."""
    for b in range(N_BINS):
        work.bins[b] = 0
    for j in range(size):
        candidate = work.candidates[work.chosen[j]]
        octaves = math.log2(top / (candidate.blank + candidate.other))
        b = int(min(N_BINS - 1.0, _BINS_PER_OCTAVE * octaves))
        work.binned[j] = b
        work.bins[b] += 1
    last, room = 0, width
    while work.bins[last] <= room:
        room -= work.bins[last]
        last += 1
    kept = 0
    for j in range(size):
        b = work.binned[j]
        if b < last or (b == last and room > 0):
            work.chosen[kept] = work.chosen[j]
            kept += 1
            room -= b == last
    return kept, 2.0 ** (-last / _BINS_PER_OCTAVE)


@inner_kernel
def only_blank(beam: PhoneBeam, n: int, p: float) -> None:
    """A frame on which nothing but the blank is tried: every hypothesis stays, and the order with it."""
    for i in range(n):
        hypothesis = beam.hypotheses[i]
        hypothesis.blank += hypothesis.other
        hypothesis.other = 0.0
    beam.log_scale[0] += math.log(p)


@inner_kernel
def best_label(probs_P: NDArray[np.float64]) -> float:
    """The largest probability of a label that is not blank."""
    most = 0.0
    for label in range(1, len(probs_P)):
        most = max(most, probs_P[label])
    return most


@kernel
def search_frames(
    search: PhoneSearch,
    beam: PhoneBeam,
    spare: PhoneBeam,
    n: int,
    work: PhoneWorkspace,
    history: WordHistory,
    n_entries: int,
    asked: Asked,
    first_frame: int,
    probs_TP: NDArray[np.float64],
) -> tuple[int, int, int, bool]:
    """Frames one by one; labels that are not tried have probability 0.

    Returns how many frames were gone through, the number of hypotheses, that of history entries, and whether
    `spare` now is the beam. Ends early when there is no more room.
    """
    weights = search.weights
    swapped = False
    for t in range(len(probs_TP)):
        if best_label(probs_TP[t]) <= 0.0:
            only_blank(beam, n, probs_TP[t, BLANK])
            continue
        n_candidates, n_entries = grow_all(
            search, beam, n, work, history, n_entries, asked, first_frame + t, probs_TP[t]
        )
        if n_candidates == _FULL:
            return t, n, n_entries, swapped
        n, top, least = choose(work, n_candidates, weights.width, weights.prune)
        for j in range(n):
            kept = spare.hypotheses[j]
            spare.hypotheses[j] = work.candidates[work.chosen[j]]
            kept.blank /= top
            kept.other /= top
        spare.log_scale[0], spare.least[0] = beam.log_scale[0] + math.log(top), least
        beam, spare = spare, beam
        swapped = not swapped
    return len(probs_TP), n, n_entries, swapped


@kernel
def finish(
    search: PhoneSearch,
    beam: PhoneBeam,
    n: int,
    history: WordHistory,
    n_entries: int,
    asked: Asked,
    context: NDArray[np.int64],
    entries: NDArray[np.int64],
    parts: NDArray[np.float64],
) -> int:
    """Ends the last word and the text. Returns the number of readings; one ends in the beginning of no word.

    entries: (R,) each reading's words; parts: (R, 2) its acoustics and its weighted n-gram. The history must
    have room for all words that end, context is room to work in. Readings may have the same words.
    """
    weights, size = search.weights, 0
    for i in range(n):
        hypothesis = beam.hypotheses[i]
        before = history.entries[hypothesis.history]
        acoustic = math.log(hypothesis.blank + hypothesis.other) + beam.log_scale[0]
        first, n_ends = hypothesis.history, 1
        if hypothesis.node != ROOT:
            acoustic -= before.finished + weights.beta * (before.n_words + 1)
            acoustic -= search.words.ahead[hypothesis.node]
            if hypothesis.ends == UNMADE:
                n_entries = end_words(search, beam, i, history, n_entries, asked)
            first, n_ends = hypothesis.ends, hypothesis.n_ends
        for e in range(first, first + n_ends):
            entries[size] = e
            parts[size, 0], parts[size, 1] = acoustic, history.entries[e].finished
            if weights.has_ngram:
                logp = advance(search, history.contexts[e], search.ngram.end, context)
                parts[size, 1] += weights.alpha * logp
            size += 1
    return size
