"""CTC prefix beam search over texts, compiled, without the GIL (`asr.decoding.prefix_state` has the legend).

A frame takes four steps: every text stays (by the blank, or by its last token again); every text grows by
every label tried; texts that come out the same are one candidate, their paths added up; the best candidates
are the next beam. Ranked is acoustics + language, which is

    weighted n-gram of finished words + what stands for the unfinished one + beta x words begun + hotwords

An unfinished word is given the best single-word probability among the words that it may still become (or the
unknown word's and its penalty), which is taken back when it ends and the n-gram has its say.

Ties are decided: the candidate found first wins, and texts are gone through from the best on, first staying,
then growing by labels in ascending order. A growth that would rank below `floor` is not counted: that is
`prune` below the best of all staying texts and of the first text's growths.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import hotword_trie, mixture_kernels, ngram_kernels
from asr.decoding.hotword_trie import DEAD, START
from asr.decoding.jit import inner_kernel, kernel, step_kernel
from asr.decoding.phone_state import PhoneSearch
from asr.decoding.prefix_state import STAYS, Beam, History, Pieces, Search, Spelling, Workspace
from asr.decoding.word_trie import OUTSIDE, ROOT, SPACE, WordTrie, walk

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no letter is forgotten
_NEVER = -np.inf
_SPACE, _LINE_FEED = np.uint32(ord(" ")), np.uint32(ord("\n"))


@inner_kernel
def log_add(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    if a < b:
        a, b = b, a
    if b == _NEVER:
        return a
    return a + math.log1p(math.exp(b - a))


@inner_kernel
def hash_letter(state: np.uint64, letter: int) -> np.uint64:
    return state * FACTOR + np.uint64(letter + 1)


@kernel
def prepare(search: Search, beam: Beam, work: Workspace) -> None:
    """Before the first frame."""
    if search.weights.has_mixture:
        mixture_kernels.begin_mixed(search.ngram, search.mixture, beam.contexts[0])
    elif search.weights.has_ngram:
        ngram_kernels.begin_context(search.ngram, beam.contexts[0])
    pieces, weights = search.pieces, search.weights
    if weights.has_hotwords:
        for token in range(len(pieces.starts)):
            state = spell_hot(search.hotwords.goto, pieces, START, token)
            outside = pieces.trie[token] == OUTSIDE
            work.start_hot[token] = state
            work.start_hope[token] = hotword_trie.hope(
                search.hotwords, state, 0, 0, outside, weights.hotword, weights.penalty
            )


@inner_kernel
def spell_hot(goto: NDArray[np.int32], pieces: Pieces, state: int, token: int) -> int:
    """The hotwords' state after the letters of a piece."""
    for place in range(pieces.first[token], pieces.first[token + 1]):
        state = goto[state, pieces.letters[place]]
    return state


@inner_kernel
def spell_word(trie: WordTrie, pieces: Pieces, node: int, token: int) -> int:
    """The vocabulary's node after the letters of a piece."""
    for place in range(pieces.first[token], pieces.first[token + 1]):
        node = walk(trie, node, pieces.letters[place])
    return node


@kernel
def place_pieces(trie: WordTrie, pieces: Pieces) -> None:
    """Fills in which nodes of the vocabulary the pieces lead to."""
    for token in range(len(pieces.trie)):
        pieces.trie[token] = spell_word(trie, pieces, ROOT, token)


@inner_kernel
def ahead_of(ahead_N: NDArray[np.float64], unknown_ahead: float, node: int) -> float:
    """What stands for an unfinished word."""
    if node == ROOT:
        return 0.0
    return unknown_ahead if node == OUTSIDE else float(ahead_N[node])


@inner_kernel
def copy_context(source: NDArray[np.int64], i: int, target: NDArray[np.int64], j: int) -> None:
    """Row i of one array to row j of another."""
    for k in range(source.shape[1]):
        target[j, k] = source[i, k]


@step_kernel
def advance(
    search: Search | PhoneSearch, context: NDArray[np.int64], word: int, after: NDArray[np.int64]
) -> float:
    """log10 P(word | context) of the n-gram, a text's own mixed in or not; writes the context after it."""
    own, mixture = word, search.mixture
    if search.weights.has_mixture and word >= mixture.first_size:
        own = search.ngram.unknown
    logp = ngram_kernels.advance(search.ngram, context, own, after)
    if search.weights.has_mixture:
        logp = mixture_kernels.mix_in(mixture, context, word, logp, after)
    return logp


@step_kernel
def end_word(search: Search, beam: Beam, i: int) -> None:
    """Fills in what the text would be if its unfinished word ended here."""
    text, weights = beam.texts[i], search.weights
    if text.ended:
        return
    text.ended = 1
    text.end_finished, text.end_hot = text.finished, text.hot
    text.end_covered, text.end_unknown = text.covered, text.unknown
    text.end_earned, text.end_hope = text.earned, text.hope
    copy_context(beam.contexts, i, beam.end_contexts, i)
    if text.trie == ROOT:
        return
    word = search.trie.word[text.trie] if text.trie != OUTSIDE else -1
    is_unknown = word < 0
    if weights.has_ngram:
        number = search.ngram.unknown if is_unknown else word
        logp = advance(search, beam.contexts[i], number, beam.end_contexts[i])
        text.end_finished += weights.alpha * logp + (weights.penalty if is_unknown else 0.0)
    if weights.has_hotwords:
        hot, covered, unknown, earned = hotword_trie.finish_word(
            search.hotwords,
            text.hot,
            text.covered,
            text.unknown,
            is_unknown,
            weights.hotword,
            weights.penalty,
        )
        text.end_hot, text.end_covered, text.end_unknown = hot, covered, unknown
        text.end_earned += earned
        text.end_hope = hotword_trie.hope(
            search.hotwords, hot, covered, unknown, False, weights.hotword, weights.penalty
        )


@inner_kernel
def find_slot(work: Workspace, key: np.uint64, frame: int) -> int:
    """The table's slot of a hash, filled or free."""
    mask = len(work.slots) - 1
    slot = np.int64(key >> np.uint64(20)) & mask
    while work.frames[slot] == frame and work.candidates[work.slots[slot]].hash != key:
        slot = (slot + 1) & mask
    return int(slot)


@inner_kernel
def add_path(work: Workspace, c: int, token: int, logp: float) -> None:
    """Adds paths that end in a token to a candidate."""
    candidate = work.candidates[c]
    candidate.total = log_add(candidate.total, logp)
    for e in range(candidate.n_last):
        if work.last_tokens[c, e] == token:
            work.last_logps[c, e] = log_add(work.last_logps[c, e], logp)
            return
    work.last_tokens[c, candidate.n_last] = token
    work.last_logps[c, candidate.n_last] = logp
    candidate.n_last += 1


@step_kernel
def stay(search: Search, beam: Beam, i: int, work: Workspace, frame_V: NDArray[np.float64]) -> None:
    """Candidate i is text i itself: by the blank, or by its last token again."""
    text, candidate, pieces = beam.texts[i], work.candidates[i], search.pieces
    candidate.hash, candidate.source, candidate.token = text.hash, i, STAYS
    candidate.language = (
        text.finished + text.ahead + search.weights.beta * text.words + text.earned + text.hope
    )
    candidate.blank = text.total + frame_V[pieces.blank]
    candidate.total = candidate.blank
    candidate.n_last = 0
    between = pieces.separator >= 0 and text.trie == ROOT
    for e in range(text.n_last):
        token = beam.last_tokens[i, e]
        logp = beam.last_logps[i, e] + frame_V[token]
        if logp > _NEVER and not (between and token == pieces.separator):
            add_path(work, i, token, logp)
    if between and frame_V[pieces.separator] > _NEVER:  # between words another separator changes nothing
        add_path(work, i, pieces.separator, text.total + frame_V[pieces.separator])
    candidate.rank = candidate.total + candidate.language


@inner_kernel
def paths_that_grow(beam: Beam, i: int, token: int) -> float:
    """Log-probability of the text's paths that do not end in the token."""
    text = beam.texts[i]
    for e in range(text.n_last):
        if beam.last_tokens[i, e] == token:
            rest = text.blank
            for other in range(text.n_last):
                if other != e:
                    rest = log_add(rest, beam.last_logps[i, other])
            return float(rest)
    return float(text.total)


@step_kernel
def hopeless(search: Search, beam: Beam, i: int, token: int, work: Workspace, least: float) -> bool:
    """Whether growing by the token surely ranks the text `least` too low; quick, and never wrongly True.

    least: what language must add to the growth's acoustics.
    """
    text, weights = beam.texts[i], search.weights
    if not weights.optimistic:
        return False
    most = text.finished + text.earned + weights.beta * text.words
    if weights.has_hotwords and text.hot != DEAD:
        # A growth completes the unfinished word's share at most, and begins another at most; what an unknown
        # word gets back, it has lost before.
        known = weights.unknown_ahead - weights.penalty
        if text.trie == ROOT or search.pieces.starts[token] or token == search.pieces.separator:
            most += max(weights.beta, 0.0) + max(search.trie.ahead[ROOT], known, 0.0) + weights.hotword
        else:
            most += max(text.ahead, known)
        return bool(most + text.hope + weights.hotword < least)
    if token == search.pieces.separator:
        return bool(most < least)
    if text.trie == ROOT or search.pieces.starts[token]:
        most += (
            weights.beta
            + ahead_of(search.trie.ahead, weights.unknown_ahead, search.pieces.trie[token])
            + work.start_hope[token]
        )
    else:
        most += max(text.ahead, weights.unknown_ahead)
    return bool(most < least)


@step_kernel
def grow(
    search: Search,
    beam: Beam,
    i: int,
    token: int,
    logp: float,
    work: Workspace,
    n: int,
    frame: int,
    floor: float,
) -> int:
    """Adds text i grown by a token, `logp` the growth's acoustics. Returns the number of candidates."""
    text, weights, pieces = beam.texts[i], search.weights, search.pieces
    is_separator = token == pieces.separator
    ends = text.trie != ROOT and (is_separator or pieces.starts[token] == 1)
    key = hash_letter(text.hash, SPACE) if ends else text.hash
    if not is_separator:
        key = key * pieces.factor[token] + pieces.term[token]
    if ends:
        end_word(search, beam, i)
    finished = text.end_finished if ends else text.finished
    hot = text.end_hot if ends else text.hot
    earned = text.end_earned if ends else text.earned
    hope = text.end_hope if ends else text.hope
    words = text.words + (1 if not is_separator and (ends or text.trie == ROOT) else 0)
    node = ROOT if ends else text.trie
    if not is_separator:
        node = pieces.trie[token] if node == ROOT else spell_word(search.trie, pieces, node, token)
        if weights.has_hotwords and hot == START:
            hot, hope = work.start_hot[token], work.start_hope[token]
        elif weights.has_hotwords:
            hot = spell_hot(search.hotwords.goto, pieces, hot, token)
            covered, unknown = (text.end_covered, text.end_unknown) if ends else (text.covered, text.unknown)
            hope = hotword_trie.hope(
                search.hotwords, hot, covered, unknown, node == OUTSIDE, weights.hotword, weights.penalty
            )
    ahead = ahead_of(search.trie.ahead, weights.unknown_ahead, node)
    language = finished + ahead + weights.beta * words + earned + hope
    if logp + language < floor:
        return n
    slot = find_slot(work, key, frame)
    if work.frames[slot] == frame:
        add_path(work, work.slots[slot], token, logp)
        return n
    work.frames[slot], work.slots[slot] = frame, n
    candidate = work.candidates[n]
    candidate.hash, candidate.source, candidate.token = key, i, token
    candidate.trie, candidate.ahead, candidate.hot, candidate.hope = node, ahead, hot, hope
    candidate.language = language
    candidate.blank, candidate.total, candidate.n_last = _NEVER, _NEVER, 0
    add_path(work, n, token, logp)
    return n + 1


@step_kernel
def grow_all(
    search: Search,
    beam: Beam,
    n_texts: int,
    work: Workspace,
    n_tokens: int,
    frame: int,
    frame_V: NDArray[np.float64],
) -> int:
    """All candidates of a frame. Returns their number."""
    pieces, best = search.pieces, _NEVER
    for i in range(n_texts):
        stay(search, beam, i, work, frame_V)
        slot = find_slot(work, beam.texts[i].hash, frame)
        work.frames[slot], work.slots[slot] = frame, i
        best = max(best, work.candidates[i].rank)
    n, floor = n_texts, _NEVER
    for i in range(n_texts):
        between = beam.texts[i].trie == ROOT
        for t in range(n_tokens):
            token = work.tokens[t]
            if between and token == pieces.separator:
                continue
            if hopeless(search, beam, i, token, work, floor - (beam.texts[i].total + frame_V[token])):
                continue  # even if all paths grew: to add up those that do takes longer than to see that
            logp = paths_that_grow(beam, i, token) + frame_V[token]
            if logp == _NEVER:
                continue
            first = n
            n = grow(search, beam, i, token, logp, work, n, frame, floor)
            if i == 0 and n > first:
                best = max(best, logp + work.candidates[first].language)
        if i == 0:
            floor = best + search.weights.prune
    return n


@inner_kernel
def worse(candidates: NDArray[Any], a: int, b: int) -> bool:
    """Whether candidate a comes after b."""
    rank_a, rank_b = candidates[a].rank, candidates[b].rank
    return bool(rank_a < rank_b or (rank_a == rank_b and a > b))


@inner_kernel
def sink(candidates: NDArray[Any], heap: NDArray[np.int64], place: int, size: int) -> None:
    """Restores the heap `heap[:size]` of candidates, whose root is the worst, below a place."""
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and worse(candidates, heap[child + 1], heap[child]):
            child += 1
        if not worse(candidates, heap[child], heap[place]):
            return
        heap[place], heap[child] = heap[child], heap[place]
        place = child


@inner_kernel
def choose(candidates: NDArray[Any], heap: NDArray[np.int64], n: int, width: int, prune: float) -> int:
    """The numbers of the best of n candidates, best first, into `heap`. Returns how many."""
    top = _NEVER
    for c in range(n):
        candidate = candidates[c]
        candidate.rank = candidate.total + candidate.language
        top = max(top, candidate.rank)
    size = 0
    for c in range(n):
        rank = candidates[c].rank
        if rank == _NEVER or rank < top + prune:
            continue
        if size < width:
            heap[size] = c
            size += 1
            if size == width:
                for place in range(size // 2 - 1, -1, -1):
                    sink(candidates, heap, place, size)
        elif worse(candidates, heap[0], c):
            heap[0] = c
            sink(candidates, heap, 0, size)
    if size < width:
        for place in range(size // 2 - 1, -1, -1):
            sink(candidates, heap, place, size)
    for end in range(size - 1, 0, -1):
        heap[0], heap[end] = heap[end], heap[0]
        sink(candidates, heap, 0, end)
    return size


@step_kernel
def settle(
    search: Search, beam: Beam, grown: Beam, j: int, work: Workspace, history: History, n_nodes: int
) -> int:
    """Writes the j-th best candidate into the next beam. Returns the number of history entries."""
    c = work.best[j]
    candidate, text = work.candidates[c], grown.texts[j]
    source = candidate.source
    before = beam.texts[source]
    grown.texts[j] = before
    copy_context(beam.contexts, source, grown.contexts, j)
    if candidate.token == STAYS:
        if before.ended:
            copy_context(beam.end_contexts, source, grown.end_contexts, j)
    else:
        is_separator = candidate.token == search.pieces.separator
        ends = before.trie != ROOT and (is_separator or search.pieces.starts[candidate.token] == 1)
        if ends:
            text.finished, text.earned = before.end_finished, before.end_earned
            text.covered, text.unknown = before.end_covered, before.end_unknown
            copy_context(beam.end_contexts, source, grown.contexts, j)
        if not is_separator and (ends or before.trie == ROOT):
            text.words = before.words + 1
        text.hash, text.trie, text.ahead = candidate.hash, candidate.trie, candidate.ahead
        text.hot, text.hope, text.ended = candidate.hot, candidate.hope, 0
        history.parent[n_nodes], history.token[n_nodes] = before.node, candidate.token
        text.node, text.n_tokens = n_nodes, before.n_tokens + 1
        n_nodes += 1
    text.blank, text.total, text.n_last = candidate.blank, candidate.total, candidate.n_last
    for e in range(candidate.n_last):
        grown.last_tokens[j, e] = work.last_tokens[c, e]
        grown.last_logps[j, e] = work.last_logps[c, e]
    return n_nodes


@inner_kernel
def labels_tried(pieces: Pieces, frame_V: NDArray[np.float64], tokens: NDArray[np.int64]) -> int:
    """Writes the labels that may grow a text, ascending. Returns how many."""
    n = 0
    for token in range(len(frame_V)):
        if frame_V[token] > _NEVER and token != pieces.blank:
            tokens[n] = token
            n += 1
    return n


@inner_kernel
def only_blank(beam: Beam, n_texts: int, logp: float) -> None:
    """A frame on which nothing but the blank is tried: every text stays, and the order with it."""
    for i in range(n_texts):
        text = beam.texts[i]
        text.total += logp
        text.blank, text.n_last = text.total, 0


@kernel
def finish(search: Search, beam: Beam, n_texts: int, parts: NDArray[np.float64]) -> None:
    """Ends the last word and the text. parts: (W, 4) acoustics, n-gram, hotwords, words of each text."""
    for i in range(n_texts):
        finish_text(search, beam, i, parts[i])


@step_kernel
def finish_text(search: Search, beam: Beam, i: int, parts: NDArray[np.float64]) -> None:
    """The same of one text; the context before its last word is gone."""
    end_word(search, beam, i)
    text = beam.texts[i]
    parts[0], parts[1] = text.total, text.end_finished
    parts[2], parts[3] = text.end_earned, text.words
    if search.weights.has_ngram:
        logp = advance(search, beam.end_contexts[i], search.ngram.end, beam.contexts[i])
        parts[1] += search.weights.alpha * logp


@kernel
def search_frames(
    search: Search,
    beam: Beam,
    spare: Beam,
    n_texts: int,
    work: Workspace,
    history: History,
    n_nodes: int,
    first_frame: int,
    frames_TV: NDArray[np.float64],
    parts: NDArray[np.float64],
) -> tuple[int, int, bool]:
    """Frames one by one; labels that are not tried are -inf. Prepares before frame 0.

    parts: as `finish` fills it, for the last frames; empty: more will come. Returns the number of texts, that
    of history entries, and whether `spare` now is the beam.
    """
    if first_frame == 0:
        prepare(search, beam, work)
    swapped = False
    for t in range(len(frames_TV)):
        n_tokens = labels_tried(search.pieces, frames_TV[t], work.tokens)
        if n_tokens == 0:
            only_blank(beam, n_texts, frames_TV[t, search.pieces.blank])
            continue
        n = grow_all(search, beam, n_texts, work, n_tokens, first_frame + t, frames_TV[t])
        n_texts = choose(work.candidates, work.best, n, search.weights.width, search.weights.prune)
        for j in range(n_texts):
            n_nodes = settle(search, beam, spare, j, work, history, n_nodes)
        beam, spare = spare, beam
        swapped = not swapped
    if len(parts):
        finish(search, beam, n_texts, parts)
    return n_texts, n_nodes, swapped


@kernel
def spell_texts(
    history: History,
    texts: NDArray[Any],
    spelling: Spelling,
    tokens: NDArray[np.int64],
    written: NDArray[np.uint32],
) -> int:
    """Writes the texts, a line feed behind each. Returns how many code points that are.

    tokens: room for those of the longest. Words have one space between them, texts none at their ends.
    """
    n = 0
    for i in range(len(texts)):
        node, n_tokens = texts[i].node, texts[i].n_tokens
        for k in range(n_tokens):
            tokens[n_tokens - 1 - k] = history.token[node]
            node = history.parent[node]
        begin = n
        for k in range(n_tokens):
            for place in range(spelling.first[tokens[k]], spelling.first[tokens[k] + 1]):
                point = spelling.points[place]
                if point == _SPACE and (n == begin or written[n - 1] == _SPACE):
                    continue
                written[n] = point
                n += 1
        if n > begin and written[n - 1] == _SPACE:
            n -= 1
        written[n] = _LINE_FEED
        n += 1
    return n


@step_kernel
def read_word(
    search: Search, beam: Beam, i: int, letters: NDArray[np.int64], first: int, last: int, after: int
) -> None:
    """Lets a text be another one, whose last word has ended unless it is empty, and a word's letters (codes)
    behind it. Acoustics apart it is as if the search had found them."""
    beam.texts[i] = beam.texts[after]
    text = beam.texts[i]
    if text.trie == ROOT:
        copy_context(beam.contexts, after, beam.contexts, i)
    else:
        text.finished, text.earned, text.hot = text.end_finished, text.end_earned, text.end_hot
        text.covered, text.unknown = text.end_covered, text.end_unknown
        copy_context(beam.end_contexts, after, beam.contexts, i)
    text.trie, text.ended = ROOT, 0
    text.words += 1
    for place in range(first, last):
        text.trie = walk(search.trie, text.trie, letters[place])
        if search.weights.has_hotwords:
            text.hot = search.hotwords.goto[text.hot, letters[place]]
