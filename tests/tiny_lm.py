"""Word bigrams written by hand as ARPA text, which KenLM reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asr.decoding.arpa import read_model
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.ngram import NgramLM

FRUIT = {"an": -0.9, "apple": -1.1, "ape": -1.3, "pear": -1.2, "new": -1.4, "york": -1.9}
FRUIT_PAIRS = {("<s>", "an"): -0.2, ("an", "apple"): -0.3, ("an", "ape"): -0.8, ("new", "york"): -0.1}


def write_arpa(path: Path, words: Mapping[str, float], pairs: Mapping[tuple[str, str], float]) -> Path:
    """Decimal logarithms. <unk>, <s> and </s> are added; words that begin no pair get no backoff column."""
    openers = {first for first, _ in pairs} | {"<s>"}
    lines = ["\\data\\", f"ngram 1={len(words) + 3}", f"ngram 2={len(pairs)}", "", "\\1-grams:"]
    lines += ["-3.0\t<unk>", "-99\t<s>\t-0.4", "-0.7\t</s>"]
    lines += [f"{logp}\t{word}" + ("\t-0.5" if word in openers else "") for word, logp in words.items()]
    lines += ["", "\\2-grams:"]
    lines += [f"{logp}\t{first} {second}" for (first, second), logp in pairs.items()]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return path


def random_arpa(
    path: Path, rng: np.random.Generator, words: Sequence[str], order: int, share: float = 0.3
) -> Path:
    """A model of random n-grams: any word may follow, with a share of the ends extended; not normalised."""
    levels: list[list[tuple[str, ...]]] = [[("<unk>",), ("<s>",), ("</s>",), *((word,) for word in words)]]
    for n in range(2, order + 1):
        held = set(levels[-1])
        # KenLM wants the suffixes of every n-gram to be there, too
        longer = [
            (*gram, w) for gram in levels[-1] for w in [*words, "</s>"] if gram[-1] not in ("</s>", "<unk>")
        ]
        fitting = [gram for gram in longer if gram[1:] in held]
        levels.append([gram for gram in fitting if rng.random() < share][: 4000 // n])
    lines = ["\\data\\", *(f"ngram {n}={len(level)}" for n, level in enumerate(levels, 1))]
    for n, level in enumerate(levels, 1):
        lines += ["", f"\\{n}-grams:"]
        for gram in level:
            logp = -99.0 if gram == ("<s>",) else -3 * rng.random() - 0.01
            backoff = (
                "" if n == order or gram[-1] == "</s>" else f"\t{-rng.random() * (rng.random() < 0.8):.5f}"
            )
            lines.append(f"{logp:.5f}\t{' '.join(gram)}{backoff}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return path


def make_array_lm(
    folder: Path,
    words: Mapping[str, float] = FRUIT,
    pairs: Mapping[tuple[str, str], float] = FRUIT_PAIRS,
) -> ArrayNgram:
    """The same model as `make_lm`'s, in arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    return ArrayNgram.of(read_model(write_arpa(folder / "ngram.arpa", words, pairs)))


def make_lm(
    folder: Path,
    words: Mapping[str, float] = FRUIT,
    pairs: Mapping[tuple[str, str], float] = FRUIT_PAIRS,
) -> NgramLM:
    folder.mkdir(parents=True, exist_ok=True)
    unigrams = folder / "unigrams.txt"
    unigrams.write_text("\n".join(words) + "\n", encoding="utf-8")
    return NgramLM.load(write_arpa(folder / "ngram.arpa", words, pairs), unigrams)
