"""Pronunciations for a model with a phone layer: asr-train lexicon --dictionary cmudict.dict
    --unigrams runs/ngram/unigrams.txt --manifest data/train/manifest.jsonl --out runs/lexicon

The dictionary is in CMUdict's format: a word and its phones a line, further pronunciations as `word(2)`,
stress digits dropped, `;;;` and `#` before comments. Writes `lexicon.txt` (the words of the n-gram and of the
manifests with their pronunciations), `g2p.json` (what guesses those of other words from their letters) and
`lexicon.json` (how many words came from where, and how good the guesses are on words held out).

The possessive of a word that the dictionary has is spoken by rule; other words as the g2p guesses.
"""

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from asr.bundle import G2P, LEXICON
from asr.graphones import GraphoneModel
from asr.text import normalise
from training.graphones import ORDER, Entry, accuracy, align, count_contexts
from training.manifest import read_manifest
from training.whole_file import write_json, write_text

Dictionary = Mapping[str, Sequence[tuple[str, ...]]]  # word -> pronunciations

HELD_OUT_EVERY = 40  # words; to measure the g2p on

_VARIANT = re.compile(r"\(\d+\)$")
_STRESS = re.compile(r"(?<=[A-Z])[0-2]$")
_HISSING = {"S", "Z", "SH", "ZH", "CH", "JH"}
_VOICELESS = {"P", "T", "K", "F", "TH"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dictionary", type=Path, required=True, help="pronunciations in CMUdict's format")
    parser.add_argument("--unigrams", type=Path, help="words of the n-gram, one a line")
    parser.add_argument("--manifest", type=Path, nargs="+", default=[], help="transcripts with further words")
    parser.add_argument("--order", type=int, default=ORDER, help="of the g2p's n-gram")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")


def main(args: argparse.Namespace) -> None:
    dictionary = read_dictionary(args.dictionary)
    words = set(args.unigrams.read_text(encoding="utf-8").split()) if args.unigrams else set()
    words |= {word for path in args.manifest for u in read_manifest(path) for word in u.text.split()}
    g2p, measured = train_g2p(dictionary, order=args.order)
    lexicon, sources = spoken_words(words, dictionary, g2p)
    lines = ("\t".join([word, *map(" ".join, spoken)]) for word, spoken in sorted(lexicon.items()))
    write_text(args.out / LEXICON, "".join(line + "\n" for line in lines))
    write_text(args.out / G2P, g2p.to_json())
    report = {"dictionary_words": len(dictionary), "words": sources, "g2p": measured}
    write_json(args.out / "lexicon.json", report)
    print(
        f"{len(lexicon):,} words: {', '.join(f'{n:,} {source}' for source, n in sources.items())}; "
        f"of {measured['held_out_words']:,} words held out the g2p has {measured['words_right']:.1%} right, "
        f"{measured['phone_error_rate']:.1%} of phones wrong -> {args.out}"
    )


def read_dictionary(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """The words that `asr.text.normalise` leaves as they are, with their pronunciations in the file's order.

    Raises ValueError for a line without phones and for a file that holds no word.
    """
    dictionary: dict[str, list[tuple[str, ...]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith(";;;"):
            continue
        word, *phones = line.split("#")[0].split()
        if not phones:
            raise ValueError(f"{path}, line {number}: a word and its phones are expected")
        word = _VARIANT.sub("", word).lower()
        spoken = tuple(_STRESS.sub("", phone) for phone in phones)
        if word == normalise(word) and spoken not in (known := dictionary.setdefault(word, [])):
            known.append(spoken)
    if not dictionary:
        raise ValueError(f"{path}: no words of letters")
    return dictionary


def train_g2p(dictionary: Dictionary, *, order: int = ORDER) -> tuple[GraphoneModel, dict[str, float]]:
    """A g2p from the whole dictionary, and how good one is that did not see every HELD_OUT_EVERYth word."""
    words = sorted(dictionary)
    held_out = set(words[::HELD_OUT_EVERY]) if len(words) >= 2 * HELD_OUT_EVERY else set()
    cuts = align(list(_entries(words, dictionary)))
    word_of = ["".join(graphone.letters for graphone in cut) for cut in cuts]
    seen = [cut for cut, word in zip(cuts, word_of, strict=True) if word not in held_out]
    phone_errors, right = accuracy(
        count_contexts(seen, order=order), list(_entries(sorted(held_out), dictionary))
    )
    measured = {
        "order": order,
        "held_out_words": len(held_out),
        "phone_error_rate": round(phone_errors, 4),
        "words_right": round(right, 4),
    }
    return count_contexts(cuts, order=order), measured


def _entries(words: Iterable[str], dictionary: Dictionary) -> Iterator[Entry]:
    return ((word, phones) for word in words for phones in dictionary[word])


def spoken_words(
    words: Iterable[str], dictionary: Dictionary, g2p: GraphoneModel
) -> tuple[dict[str, Sequence[tuple[str, ...]]], dict[str, int]]:
    """The words' pronunciations, and how many of them came from where."""
    lexicon: dict[str, Sequence[tuple[str, ...]]] = {}
    sources = {"dictionary": 0, "possessive": 0, "g2p": 0}
    for word in sorted(words):
        owner = word.removesuffix("'s")
        if word in dictionary:
            source, lexicon[word] = "dictionary", dictionary[word]
        elif owner != word and owner in dictionary:
            source = "possessive"
            lexicon[word] = [phones + possessive(phones) for phones in dictionary[owner]]
        else:
            source, lexicon[word] = "g2p", [g2p.spoken(word)]
        sources[source] += 1
    return lexicon, sources


def possessive(phones: tuple[str, ...]) -> tuple[str, ...]:
    """What English adds to a word for "'s"."""
    if phones[-1] in _HISSING:
        return ("IH", "Z")
    return ("S",) if phones[-1] in _VOICELESS else ("Z",)
