"""Other decoders behind one call, for bench/decoding.py: pyctcdecode, and flashlight-text's lexicon decoder.

flashlight-text is no dependency of the project: `pip install 'asr-sound[bench]'`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from asr.decoding.arpa import Level, NgramTable, write_table
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.ngram import NgramLM
from asr.decoding.ngram_file import (
    BACKOFF_AT,
    BACKOFF_TABLE,
    BACKOFF_WIDTH,
    CHILD_AT,
    CHILD_WIDTH,
    COLUMNS,
    LOGP_AT,
    LOGP_TABLE,
    LOGP_WIDTH,
    WORD_AT,
    NgramArrays,
)
from asr.decoding.options import DecodingSettings
from asr.decoding.pyctcdecode_beam import PyctcdecodeDecoder
from asr.errors import TextError
from asr.tokenizer import Tokenizer

Decode = Callable[[np.ndarray], list[str]]  # natural-log posteriors (T, V) -> texts, best first

FLASHLIGHT_TOKENS = 12  # tried per frame, as ours
FLASHLIGHT_THRESHOLD = 12.0  # as our beam_prune_logp


def arpa_of(lm: ArrayNgram, path: Path) -> Path:
    """The arrays' very values as ARPA, so that others score with the same model."""
    arrays = lm.arrays
    words = sorted(lm.numbers, key=lm.numbers.__getitem__)
    counts, levels = [len(words)], []
    for n in range(arrays.order):
        last = n + 1 == arrays.order
        count = counts[n]
        keys = np.arange(count)
        if n:
            firsts = _children(arrays, n - 1, counts[n - 1])
            parents = np.repeat(np.arange(counts[n - 1]), np.diff(firsts))
            (word_at,) = _layout(arrays, n, WORD_AT)
            keys = parents * len(words) + _numbers(arrays.data, word_at, arrays.word_width, count)
        if not last:
            counts.append(int(_children(arrays, n, count)[-1]))
        logp = _values(arrays, _layout(arrays, n, LOGP_AT, LOGP_WIDTH, LOGP_TABLE), count)
        backoff = np.zeros(count, np.float32)
        if not last:
            columns = _layout(arrays, n, BACKOFF_AT, BACKOFF_WIDTH, BACKOFF_TABLE)
            backoff = _values(arrays, columns, count)
        levels.append(Level(keys, logp, backoff))
    write_table(NgramTable(words, levels), path)
    return path


def pyctcdecode(tokenizer: Tokenizer, lm: NgramLM, settings: DecodingSettings) -> Decode:
    decoder = PyctcdecodeDecoder(tokenizer, lm, settings)
    return lambda log_probs_TV: [h.text for h in decoder.decode(log_probs_TV)]


class FlashlightLexicon:
    """Its dictionary, KenLM and trie, which take seconds to build; weights come later."""

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str], model: Path) -> None:
        """Raises ImportError where flashlight-text is not installed."""
        from flashlight.lib.text import decoder, dictionary

        self._decoder, self._blank = decoder, tokenizer.blank_id
        lexicon: dict[str, list[list[str]]] = {"<unk>": []}  # which the dictionary insists on
        spelled: dict[str, list[int]] = {}
        for word in words:
            try:
                spelled[word] = tokenizer.encode(word)
            except TextError:
                continue
            lexicon[word] = [[tokenizer.pieces[i] for i in spelled[word]]]
        self._words = dictionary.create_word_dict(lexicon)
        self._lm = decoder.KenLM(str(model), self._words)
        self._trie = decoder.Trie(tokenizer.vocab_size, self._blank)
        start = self._lm.start(False)
        for word, ids in spelled.items():
            number = self._words.get_index(word)
            _, score = self._lm.score(start, number)
            self._trie.insert(ids, number, score)
        self._trie.smear(decoder.SmearingMode.MAX)

    def decode(self, settings: DecodingSettings) -> Decode:
        """Its n-gram weight is of decimal logarithms; words outside the lexicon cannot be written."""
        decoder = self._decoder
        options = decoder.LexiconDecoderOptions(
            beam_size=settings.beam_width,
            beam_size_token=FLASHLIGHT_TOKENS,
            beam_threshold=FLASHLIGHT_THRESHOLD,
            lm_weight=settings.alpha * math.log(10),
            word_score=settings.beta,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=True,
            criterion_type=decoder.CriterionType.CTC,
        )
        unknown = self._words.get_index("<unk>")
        lexicon = decoder.LexiconDecoder(
            options, self._trie, self._lm, self._blank, self._blank, unknown, [], False
        )

        def decode(log_probs_TV: np.ndarray) -> list[str]:
            frames = np.ascontiguousarray(log_probs_TV, dtype=np.float32)
            results = lexicon.decode(frames.ctypes.data, *frames.shape)
            return [" ".join(self._words.get_entry(w) for w in r.words if w >= 0) for r in results]

        return decode


def _numbers(data: np.ndarray, at: int, width: int, count: int) -> np.ndarray:
    """(count,) of a section whose numbers take `width` bytes."""
    content = data[at : at + count * width].reshape(count, width).astype(np.int64)
    return (content << (8 * np.arange(width))).sum(axis=1)


def _children(arrays: NgramArrays, n: int, count: int) -> np.ndarray:
    """(count + 1,): where the children of each node of a level begin."""
    return _numbers(arrays.data, *_layout(arrays, n, CHILD_AT, CHILD_WIDTH), count + 1)


def _layout(arrays: NgramArrays, n: int, *columns: int) -> list[int]:
    """What the layout says of a level."""
    said: list[int] = arrays.layout.reshape(-1, COLUMNS)[n, list(columns)].tolist()
    return said


def _values(arrays: NgramArrays, columns: list[int], count: int) -> np.ndarray:
    at, width, table = columns
    return arrays.values[table + _numbers(arrays.data, at, width, count)]
