"""Build the word n-gram: asr-train ngram --text books.txt.xz --manifest data/train.jsonl --out runs/ngram

Writes `ngram.arrays` (`asr.decoding.ngram_file`; quantised), `unigrams.txt` (its words, one a line, sorted)
and `ngram.json` (settings, sizes, perplexity and share of unknown words on each set of `--dev` and `--test`);
with `--kenlm` also `ngram.bin`, KenLM's trie, for other programs. With
`--interpolate` every text, and the transcripts, get a model of their own, and the mixture that makes dev
likeliest is written as one (training/ngram_mix.py). Needs lmplz, and for `--kenlm` build_binary, which
training/build_kenlm.sh makes. Texts are streamed: they may be larger than memory.
"""

import argparse
import contextlib
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from asr.bundle import KENLM, NGRAM, UNIGRAMS
from asr.decoding.arpa import BEGIN, END, UNKNOWN, read_model
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.ngram_file import encoded
from training.ngram_mix import Component, mixture_of
from training.text_corpus import read_corpus, transcripts_by_set
from training.text_fit import TextFit
from training.whole_file import write_bytes, write_json, write_text

SPECIAL_WORDS = frozenset({BEGIN, END, UNKNOWN})


@dataclass(frozen=True)
class NgramSettings:
    """What goes into the model and how small it is made."""

    order: int = 4
    max_words: int = 80_000  # the most frequent ones; the others are unknown
    prune: tuple[int, ...] = (
        0,
        0,
        1,
        1,
    )  # n-grams seen no oftener are dropped, per order; the last repeats
    manifest_repeat: int = 1  # transcripts count this many times
    quantised_bits: int = 8  # of probabilities and backoffs; 0: not quantised
    pointer_bits: int = 22  # of KenLM's trie: at most this many of a pointer are compressed away

    def __post_init__(self) -> None:
        if not 2 <= self.order <= 6:
            raise ValueError("order must be between 2 and 6")
        if self.max_words < 1 or self.manifest_repeat < 1:
            raise ValueError("max_words and manifest_repeat must be at least 1")
        if (
            not 1 <= len(self.prune) <= self.order
            or list(self.prune) != sorted(self.prune)
            or self.prune[0] != 0
        ):
            raise ValueError("prune takes at most one number per order, not falling, and 0 for single words")
        if not 0 <= self.quantised_bits <= 25 or not 0 <= self.pointer_bits <= 64:
            raise ValueError("quantised_bits is between 0 and 25, pointer_bits between 0 and 64")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = NgramSettings()
    parser.add_argument(
        "--text", type=Path, nargs="*", default=[], help=".txt, .gz or .xz, one sentence a line"
    )
    parser.add_argument(
        "--manifest", type=Path, nargs="*", default=[], help="manifests to take transcripts from"
    )
    parser.add_argument(
        "--manifest-repeat", type=int, default=1, help="count the transcripts this many times"
    )
    parser.add_argument(
        "--dev", type=Path, nargs="*", default=[], help="manifests to report perplexity and tune weights on"
    )
    parser.add_argument(
        "--test", type=Path, nargs="*", default=[], help="manifests to report on, and nothing else"
    )
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help="a model for each text and for the transcripts, mixed with weights tuned on --dev",
    )
    parser.add_argument("--arpa", type=Path, help="a model that is there already, in place of texts")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--order", type=int, default=defaults.order)
    parser.add_argument("--max-words", type=int, default=defaults.max_words, help="size of the vocabulary")
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        help=f"drop n-grams seen so often, per order (default: {defaults.prune}, as far as --order goes)",
    )
    parser.add_argument(
        "--quantised-bits",
        type=int,
        default=defaults.quantised_bits,
        help="8: one byte a probability and backoff, 16: two, 0: full precision",
    )
    parser.add_argument("--pointer-bits", type=int, default=defaults.pointer_bits)
    parser.add_argument("--kenlm", action="store_true", help="write KenLM's ngram.bin, too")
    parser.add_argument("--kenlm-bin", type=Path, default=Path("build/kenlm/bin"), help="where lmplz is")
    parser.add_argument("--memory", default="1G", help="that lmplz may sort in, as its -S")


def main(args: argparse.Namespace) -> None:
    """Raises OSError for absent files or tools, ValueError for settings or texts, RuntimeError of KenLM."""
    settings = NgramSettings(
        order=args.order,
        max_words=args.max_words,
        prune=tuple(args.prune) if args.prune else NgramSettings().prune[: args.order],
        manifest_repeat=args.manifest_repeat,
        quantised_bits=args.quantised_bits,
        pointer_bits=args.pointer_bits,
    )
    if args.interpolate and not args.dev:
        raise ValueError("--interpolate needs --dev: the weights are tuned on it")
    build_binary = find_tool(args.kenlm_bin, "build_binary") if args.kenlm else None
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out, prefix="ngram-") as name:
        if args.arpa:
            arpa, made = args.arpa, {}
        else:
            arpa, made = _made(args, settings, Path(name))
        table = read_model(arpa)
        write_text(args.out / UNIGRAMS, "".join(f"{w}\n" for w in table.words if w not in SPECIAL_WORDS))
        write_bytes(args.out / NGRAM, encoded(table, settings.quantised_bits))
        if build_binary:
            compile_binary(build_binary, arpa, Path(name), args.out / KENLM, settings)
    lm = ArrayNgram.load(args.out / NGRAM, args.out / UNIGRAMS)
    report = {
        **made,
        "vocabulary": len(lm.words),
        "ngrams": [len(level.keys) for level in table.levels],
        "bytes": (args.out / NGRAM).stat().st_size,
        "fit": {name: fit.as_json() for name, fit in fit_sets(lm, args.dev).items()},
        "test_fit": {name: fit.as_json() for name, fit in fit_sets(lm, args.test).items()},
    }
    write_json(args.out / "ngram.json", report)
    _print_report(report, args.out)


def _made(args: argparse.Namespace, settings: NgramSettings, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The ARPA of the texts in `folder`, and what the report says of how it came about."""
    lmplz = find_tool(args.kenlm_bin, "lmplz")
    counts = count_words(_corpus(args))
    words = choose_words(counts, settings.max_words)
    interpolation: list[dict[str, Any]] = []
    if args.interpolate:
        arpa, interpolation = _interpolate(lmplz, args, words, settings, folder)
    else:
        arpa = estimate(lmplz, _corpus(args), words, settings, folder, args.memory)
    report = {
        "settings": asdict(settings),
        "sentences": counts.sentences,
        "words": counts.words,
        "distinct_words": len(counts.per_word),
        "interpolation": interpolation,
    }
    return arpa, report


@dataclass(frozen=True)
class WordCounts:
    """What a corpus holds."""

    per_word: Counter[str]
    sentences: int

    @property
    def words(self) -> int:
        return self.per_word.total()


def count_words(sentences: Iterable[str]) -> WordCounts:
    """Raises ValueError when there is no sentence."""
    per_word: Counter[str] = Counter()
    n_sentences = 0
    for sentence in sentences:
        per_word.update(sentence.split())
        n_sentences += 1
    if not n_sentences:
        raise ValueError("the texts and manifests hold no sentence")
    return WordCounts(per_word, n_sentences)


def choose_words(counts: WordCounts, max_words: int) -> list[str]:
    """The `max_words` most frequent words; among equally frequent ones the alphabet decides. Sorted."""
    ranked = sorted(counts.per_word.items(), key=lambda pair: (-pair[1], pair[0]))
    return sorted(word for word, _ in ranked[:max_words])


def find_tool(folder: Path, name: str) -> Path:
    """Path of a KenLM tool. Raises FileNotFoundError saying how to build it."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: build KenLM's tools with `sh training/build_kenlm.sh`")
    return path


def estimate(
    lmplz: Path,
    sentences: Iterable[str],
    words: Sequence[str],
    settings: NgramSettings,
    folder: Path,
    memory: str,
) -> Path:
    """Stream the sentences through lmplz; the ARPA file it writes into `folder`.

    N-grams holding a word that is not among `words` are dropped after counting. Raises RuntimeError with
    lmplz's last words when it fails.
    """
    vocabulary, arpa = folder / "words.txt", folder / "lm.arpa"
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    command = [lmplz, "--order", settings.order, "--memory", memory, "--temp_prefix", folder / "sort-"]
    command += ["--limit_vocab_file", vocabulary, "--arpa", arpa]
    # A few minutes of speech have no n-gram seen thrice, from which the discounts are estimated.
    command += ["--discount_fallback", "--prune", *settings.prune]
    _run(command, sentences)
    return arpa


def _interpolate(
    lmplz: Path, args: argparse.Namespace, words: Sequence[str], settings: NgramSettings, folder: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """The mixture's ARPA and its report.

    The transcripts' model is not pruned: they are few, and closest to what will be said.
    """

    def component(name: str, sentences: Iterable[str], own: NgramSettings) -> Component:
        return Component(name, lambda place: estimate(lmplz, sentences, words, own, place, args.memory))

    components = [component(path.name, read_corpus([path]), settings) for path in args.text]
    if args.manifest:
        unpruned = replace(settings, prune=(0,))
        components.append(component("transcripts", read_corpus([], args.manifest), unpruned))
    return mixture_of(components, words, transcripts_by_set(args.dev), folder)


def compile_binary(
    build_binary: Path, arpa: Path, folder: Path, target: Path, settings: NgramSettings
) -> None:
    """ARPA -> KenLM's trie, whole or not at all; `folder` for what is written on the way.

    Raises RuntimeError with build_binary's last words.
    """
    quantised = (
        ["-q", settings.quantised_bits, "-b", settings.quantised_bits] if settings.quantised_bits else []
    )
    temporary = folder / "lm.bin"
    command = [build_binary, "-T", folder / "trie-", *quantised, "-a", settings.pointer_bits]
    _run([*command, "trie", arpa, temporary])
    temporary.replace(target)


def fit(lm: ArrayNgram, sentences: Iterable[str]) -> TextFit:
    """How well an n-gram model expects sentences, each by itself with its end."""
    n_sentences = n_words = n_unknown = 0
    logp = unknown_logp = 0.0
    for sentence in sentences:
        words, state = sentence.split(), lm.start_state()
        for word in [*words, END]:
            word_logp, state = lm.advance(state, word)
            logp += word_logp
            if word != END and word not in lm:
                n_unknown += 1
                unknown_logp += word_logp
        n_sentences += 1
        n_words += len(words)
    return TextFit(n_sentences, n_words, n_unknown, logp, unknown_logp)


def fit_sets(lm: ArrayNgram, manifests: Sequence[Path]) -> dict[str, TextFit]:
    """The fit per set of prepared manifests."""
    return {name: fit(lm, sentences) for name, sentences in transcripts_by_set(manifests).items()}


def _corpus(args: argparse.Namespace) -> Iterator[str]:
    return read_corpus(args.text, args.manifest, manifest_repeat=args.manifest_repeat)


def _run(command: Sequence[object], lines: Iterable[str] = ()) -> None:
    """Run a tool, feeding it lines. Raises RuntimeError with the end of what it said when it fails."""
    arguments = [str(part) for part in command]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=said, stderr=said)
        try:
            # A tool that gives up stops reading; its exit status says so, and its words say why.
            with contextlib.suppress(BrokenPipeError):
                _feed(process.stdin, lines)
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status:
            said.seek(0)
            words = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{Path(arguments[0]).name} ended with status {status}: {words}")


def _feed(stdin: IO[bytes] | None, lines: Iterable[str]) -> None:
    assert stdin is not None
    with stdin:
        for line in lines:
            stdin.write(line.encode() + b"\n")


def _print_report(report: dict[str, Any], out: Path) -> None:
    if "words" in report:
        print(f"{report['words']:,} words in {report['sentences']:,} sentences")
    print(f"{report['vocabulary']:,} words kept")
    print(f"n-grams {' '.join(f'{n:,}' for n in report['ngrams'])}; {report['bytes'] / 1e6:.1f} MB")
    for part in report.get("interpolation", ()):
        print(f"weight {part['weight']:.4f}: {part['name']}")
    tested = {f"test {name}": figures for name, figures in report["test_fit"].items()}
    for name, figures in [*report["fit"].items(), *tested.items()]:
        perplexity, known = figures["perplexity"], figures["known_perplexity"]
        unknown = f"{100 * figures['unknown_share']:.2f} %"
        print(f"{name}: perplexity {perplexity:.1f}, {known:.1f} without the {unknown} of unknown words")
    print(f"-> {out / NGRAM}")
