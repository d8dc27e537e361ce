"""Static linear interpolation: several n-gram models become one ARPA, their weights chosen on dev.

The mixture of models i with weights w_i is P(word | context) = sum of w_i P_i(word | context). For every
n-gram that any of the models holds, that is the probability written, each model answering with its own
backing off; contexts' backoff weights are then computed anew so that every distribution adds up to one. What
no model holds goes through the new backoff, which is the only approximation: one file, at the speed of one
model, as SRILM's `ngram -mix-lm` makes it (Stolcke, "SRILM", 2002, section 3). A word that a model has never
seen has probability 0 there, so the mixture's vocabulary is that of all models together.

The weights maximise the likelihood of dev by expectation maximisation (Jelinek and Mercer 1980), which finds
the one maximum there is. Sets count alike, however long they are.

Shapes: N n-grams, M tokens of dev, K models, n words of an n-gram.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.arpa import BEGIN, END, NEVER, UNKNOWN, Ids, Level, NgramTable, read_table, write_table

_ROWS_AT_ONCE = 500_000
_TINY = 1e-12  # stands for no probability left
_MAX_ITERATIONS = 1000
LEAST_WEIGHT = 1e-3  # of a model in a mixture: its words stay known, however little dev is like its text


@dataclass(frozen=True)
class Component:
    """One text of a mixture."""

    name: str
    estimate: Callable[[Path], Path]  # makes its model in a folder; the ARPA file


@dataclass(frozen=True)
class MixWeights:
    """What expectation maximisation came to."""

    weights: tuple[float, ...]  # of the models, adding up to 1
    iterations: int
    perplexity: float  # of dev under the mixture, per known token, sets alike
    own_perplexities: tuple[float, ...]  # of each model alone, over the tokens that it knows
    own_unknown: tuple[float, ...]  # share of the tokens that each model has never seen


def tune_weights(tables: Sequence[NgramTable], sets: Mapping[str, Sequence[str]]) -> MixWeights:
    """The weights under which dev (sentences per set) is likeliest, none below LEAST_WEIGHT.

    Words that no model knows are left out. Raises ValueError when nothing remains.
    """
    probabilities, shares = [], []
    for sentences in sets.values():
        p_MK = token_probabilities(tables, sentences)
        p_MK = p_MK[p_MK.sum(axis=1) > 0]
        probabilities.append(p_MK)
        shares.append(np.full(len(p_MK), 1.0 / max(1, len(p_MK))))
    p_MK = np.concatenate(probabilities) if probabilities else np.empty((0, len(tables)))
    if not len(p_MK):
        raise ValueError("the dev sets hold no word that the models know")
    share_M = np.concatenate(shares) / sum(len(share) > 0 for share in shares)
    weights = np.full(len(tables), 1.0 / len(tables))
    iterations = 0
    for iterations in range(1, _MAX_ITERATIONS + 1):  # noqa: B007 - reported
        joint_MK = p_MK * weights
        updated = share_M @ (joint_MK / joint_MK.sum(axis=1, keepdims=True))
        moved = float(np.abs(updated - weights).max())
        weights = updated
        if moved < 1e-7:
            break
    weights = np.maximum(weights, LEAST_WEIGHT)
    weights /= weights.sum()
    perplexity = math.exp(-float(share_M @ np.log(p_MK @ weights)))
    known_MK = (p_MK > 0) * share_M[:, None]
    logp_K = (known_MK * np.log(np.maximum(p_MK, _TINY))).sum(axis=0) / np.maximum(
        known_MK.sum(axis=0), _TINY
    )
    return MixWeights(
        tuple(weights.tolist()),
        iterations,
        perplexity,
        tuple(np.exp(-logp_K).tolist()),
        tuple((1.0 - known_MK.sum(axis=0)).tolist()),
    )


def token_probabilities(tables: Sequence[NgramTable], sentences: Sequence[str]) -> NDArray[np.float64]:
    """P(token | the tokens before it in its sentence) of every word and sentence end, (M, K).

    A word outside all vocabularies has a row of zeros.
    """
    numbers = {word: i for i, word in enumerate(tables[0].words)}
    order = max(table.order for table in tables)
    by_length: dict[int, list[list[int]]] = {}
    for sentence in sentences:
        ids = [numbers[BEGIN], *(numbers.get(w, numbers[UNKNOWN]) for w in sentence.split()), numbers[END]]
        for end in range(2, len(ids) + 1):
            ngram = ids[max(0, end - order) : end]
            by_length.setdefault(len(ngram), []).append(ngram)
    parts = []
    for ngrams in by_length.values():
        ids_Mn = np.array(ngrams, dtype=np.int32)
        p_MK = np.stack([10.0 ** table.logp(ids_Mn) for table in tables], axis=1)
        p_MK[ids_Mn[:, -1] == numbers[UNKNOWN]] = 0.0
        parts.append(p_MK)
    return np.concatenate(parts) if parts else np.empty((0, len(tables)))


def mix(tables: Sequence[NgramTable], weights: Sequence[float]) -> NgramTable:
    """One model in place of several over the same numbered vocabulary; weights add up to 1.

    Models with weight 0 are left out altogether.
    """
    used = [(table, weight) for table, weight in zip(tables, weights, strict=True) if weight > 0]
    words = tables[0].words
    begin = list(words).index(BEGIN)
    order = max(table.order for table, _ in used)
    levels: list[Level] = []
    renumbered = [np.zeros(1, dtype=np.int64) for _ in used]  # each model's places, one shorter, in the union
    for n in range(1, order + 1):
        own_keys = []
        for (table, _), places in zip(used, renumbered, strict=True):
            keys_N = table.levels[n - 1].keys if n <= table.order else np.empty(0, np.int64)
            prefixes, last = np.divmod(keys_N, len(words))
            own_keys.append(places[prefixes] * len(words) + last)
        keys_N = np.unique(np.concatenate(own_keys))
        renumbered = [np.searchsorted(keys_N, keys) for keys in own_keys]
        level = Level(keys_N, np.zeros(len(keys_N), np.float32), np.zeros(len(keys_N), np.float32))
        ids_Nn = NgramTable(words, [*levels, level]).ngrams(n)
        logp_N = np.log10(np.maximum(_mixed(used, ids_Nn), _TINY)).astype(np.float32)
        logp_N = np.minimum(logp_N, -1e-7)  # KenLM refuses certainty that rounding has pushed past 1
        logp_N[ids_Nn[:, -1] == begin] = NEVER
        if levels:
            shorter = NgramTable(words, levels)
            backoff_N = _backoffs(shorter, keys_N, ids_Nn, logp_N)
            levels[-1] = Level(levels[-1].keys, levels[-1].logp, backoff_N)
        levels.append(Level(keys_N, logp_N, level.backoff))
    return NgramTable(words, levels)


def _mixed(used: Sequence[tuple[NgramTable, float]], ids_Nn: Ids) -> NDArray[np.float64]:
    """The weighted sum of the models' probabilities of each n-gram's last word."""
    p_N = np.zeros(len(ids_Nn))
    for start in range(0, len(ids_Nn), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        p_N[part] = sum(weight * 10.0 ** table.logp(ids_Nn[part]) for table, weight in used)
    return p_N


def _backoffs(
    shorter: NgramTable, keys_N: NDArray[np.int64], ids_Nn: Ids, logp_N: NDArray[np.float32]
) -> NDArray[np.float32]:
    """log10 of the backoff weights of all contexts one word shorter than the n-grams.

    (1 - what the longer n-grams take) / (1 - what the shorter model gives the same words).
    """
    n_contexts = len(shorter.levels[-1].keys)
    contexts_N = keys_N // len(shorter.words)
    given_N = np.empty(len(ids_Nn))
    for start in range(0, len(ids_Nn), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        given_N[part] = 10.0 ** shorter.logp(ids_Nn[part, 1:])
    taken = np.bincount(contexts_N, weights=10.0 ** logp_N.astype(np.float64), minlength=n_contexts)
    given = np.bincount(contexts_N, weights=given_N, minlength=n_contexts)
    left, right = np.maximum(1.0 - taken, _TINY), np.maximum(1.0 - given, _TINY)
    return np.clip(np.log10(left / right), NEVER, None).astype(np.float32)


def mixture_of(
    components: Sequence[Component], words: Sequence[str], dev: Mapping[str, Sequence[str]], folder: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """The mixture's ARPA in `folder`; per component its name, weight and how it fits dev by itself.

    words: the vocabulary, without sentence marks. Raises ValueError for less than two components, and what
    the components raise.
    """
    if len(components) < 2:
        raise ValueError("an interpolation needs at least two texts, or a text and transcripts")
    vocabulary = [BEGIN, END, UNKNOWN, *words]
    numbers = {word: i for i, word in enumerate(vocabulary)}
    tables = []
    for number, component in enumerate(components):
        own = folder / str(number)
        own.mkdir()
        arpa = component.estimate(own)
        tables.append(read_table(arpa, vocabulary, numbers))
        arpa.unlink()
        n_ngrams = sum(len(level.keys) for level in tables[-1].levels)
        print(f"{component.name}: {n_ngrams:,} n-grams", flush=True)
    found = tune_weights(tables, dev)
    path = folder / "lm.arpa"
    write_table(mix(tables, found.weights), path)
    report = [
        {
            "name": component.name,
            "weight": round(found.weights[k], 5),
            "dev_known_perplexity": round(found.own_perplexities[k], 2),
            "dev_unknown_share": round(found.own_unknown[k], 5),
        }
        for k, component in enumerate(components)
    ]
    return path, report
