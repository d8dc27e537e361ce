"""Word bigrams written by hand as ARPA text, which KenLM reads."""

from collections.abc import Mapping
from pathlib import Path

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


def make_lm(
    folder: Path,
    words: Mapping[str, float] = FRUIT,
    pairs: Mapping[tuple[str, str], float] = FRUIT_PAIRS,
) -> NgramLM:
    folder.mkdir(parents=True, exist_ok=True)
    unigrams = folder / "unigrams.txt"
    unigrams.write_text("\n".join(words) + "\n", encoding="utf-8")
    return NgramLM.load(write_arpa(folder / "ngram.arpa", words, pairs), unigrams)
