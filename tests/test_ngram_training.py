"""Building the n-gram: the vocabulary, the report, the errors, and KenLM's tools where they are built.

CI has no lmplz. There a stand-in writes a fixed ARPA file, which KenLM's Python module then really loads.
"""

import argparse
import json
import math
import stat
import sys
from pathlib import Path

import kenlm
import pytest

from asr.decoding.arpa import read_model, read_words
from asr.decoding.array_ngram import ArrayNgram
from training import ngram

KENLM_BIN = Path(__file__).parents[1] / "build/kenlm/bin"

# Bigram, log10. "rare" has no backoff column, as lmplz writes it for words that end no kept n-gram.
ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-2.0\t<unk>\t0
0\t<s>\t-0.5
-1.0\t</s>
-0.7\tcat\t-0.3
-0.8\tthe\t-0.2
-1.5\trare

\\2-grams:
-0.2\t<s> the
-0.1\tthe cat
-0.4\tcat </s>

\\end\\
"""
TEXT = "the cat\nthe cat sat\nthe dog\n"


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA, encoding="utf-8")
    return path


def _manifest(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [{"audio": "a.wav", "text": text, "duration": 1.0, "set": name} for text, name in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _arguments(tmp_path: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    ngram.add_arguments(parser)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    dev = _manifest(tmp_path / "dev.jsonl", [("the cat", "cv"), ("the zebra", "cv"), ("the cat", "libri")])
    fixed = ["--text", str(tmp_path / "text.txt"), "--dev", str(dev), "--out", str(tmp_path / "out")]
    return parser.parse_args([*fixed, *more])


def _tool(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def stand_ins(tmp_path: Path, arpa: Path) -> Path:
    """An lmplz that notes its arguments and input and writes ARPA, and a build_binary that copies it."""
    folder = tmp_path / "bin"
    lmplz = f"""
text = sys.stdin.read()
target = sys.argv[sys.argv.index("--arpa") + 1]
words = pathlib.Path(sys.argv[sys.argv.index("--limit_vocab_file") + 1]).read_text()
pathlib.Path({str(tmp_path / "seen.txt")!r}).write_text(text + "---\\n" + words)
pathlib.Path(target).write_text(pathlib.Path({str(arpa)!r}).read_text())"""
    _tool(folder, "lmplz", lmplz)
    _tool(
        folder,
        "build_binary",
        "pathlib.Path(sys.argv[-1]).write_bytes(pathlib.Path(sys.argv[-2]).read_bytes())",
    )
    return folder


def test_the_vocabulary_is_the_most_frequent_words_and_the_alphabet_breaks_ties() -> None:
    counts = ngram.count_words(["b b b", "d c", "a c", "c"])
    assert (counts.sentences, counts.words) == (4, 8)
    assert ngram.choose_words(counts, 3) == ["a", "b", "c"]
    assert ngram.choose_words(counts, 100) == ["a", "b", "c", "d"]


def test_a_corpus_without_a_sentence_is_refused() -> None:
    with pytest.raises(ValueError, match="no sentence"):
        ngram.count_words([])


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": 1},
        {"order": 7},
        {"max_words": 0},
        {"prune": (1,)},
        {"prune": (0, 2, 1)},
        {"prune": (0, 0, 0, 0, 0)},
        {"quantised_bits": 26},
        {"pointer_bits": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}"):
        ngram.NgramSettings(**wrong)


def test_words_are_read_with_and_without_a_backoff_column(arpa: Path) -> None:
    assert read_words(arpa) == ["</s>", "<s>", "<unk>", "cat", "rare", "the"]
    assert [len(level.keys) for level in read_model(arpa).levels] == [6, 3]


def test_a_file_that_is_not_arpa_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text("hello\n")
    with pytest.raises(ValueError, match="not an ARPA file"):
        read_words(tmp_path / "a.arpa")


def test_fit_adds_up_what_the_model_file_says(arpa: Path) -> None:
    fit = ngram.fit(ArrayNgram.of(read_model(arpa)), ["the cat", "the zebra"])
    known = -0.2 + -0.1 + -0.4 + -0.2 + -1.0  # <s> the cat </s>; <s> the, and </s> after an unknown word
    unknown = -0.2 + -2.0  # backoff of "the", then <unk>
    assert (fit.sentences, fit.words, fit.unknown_words) == (2, 4, 1)
    assert fit.logp == pytest.approx((known + unknown) * math.log(10), abs=1e-5)
    assert fit.perplexity == pytest.approx(10 ** (-(known + unknown) / 6), rel=1e-5)
    assert fit.known_perplexity == pytest.approx(10 ** (-known / 5), rel=1e-5)
    assert fit.unknown_share == 0.25


def test_missing_tools_are_named_with_the_script_that_builds_them(tmp_path: Path) -> None:
    arguments = _arguments(tmp_path, "--kenlm-bin", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"lmplz.*training/build_kenlm\.sh"):
        ngram.main(arguments)


def test_the_stage_writes_model_words_and_report(tmp_path: Path, stand_ins: Path) -> None:
    train = _manifest(tmp_path / "train.jsonl", [("a Cat", "cv")])
    options = ["--manifest", str(train), "--manifest-repeat", "2", "--order", "2"]
    ngram.main(_arguments(tmp_path, "--kenlm-bin", str(stand_ins), "--max-words", "2", *options))
    sentences, words = (tmp_path / "seen.txt").read_text().split("---\n")
    assert sentences == TEXT + "a cat\na cat\n"
    assert words == "cat\nthe\n"
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["ngram.arrays", "ngram.json", "unigrams.txt"]
    assert (out / "unigrams.txt").read_text() == "cat\nrare\nthe\n"
    report = json.loads((out / "ngram.json").read_text())
    assert report["settings"]["prune"] == [0, 0]
    assert (report["words"], report["sentences"], report["distinct_words"]) == (11, 5, 5)
    assert report["fit"]["cv"]["unknown_share"] == 0.25
    assert report["fit"]["libri"]["perplexity"] == pytest.approx(10 ** (0.7 / 3), abs=0.01)


def test_a_model_that_is_there_is_taken_as_it_is(tmp_path: Path, arpa: Path) -> None:
    ngram.main(_arguments(tmp_path, "--arpa", str(arpa)))
    report = json.loads((tmp_path / "out" / "ngram.json").read_text())
    assert (report["vocabulary"], report["ngrams"]) == (3, [6, 3])
    assert report["fit"]["cv"]["unknown_share"] == 0.25
    assert arpa.exists()


@pytest.mark.parametrize(
    "body", ["print('bad discount'); sys.exit(3)", "sys.stdin.read(); print('bad discount'); sys.exit(3)"]
)
def test_a_tool_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path, stand_ins: Path, body: str) -> None:
    _tool(stand_ins, "lmplz", body)
    arguments = _arguments(tmp_path, "--kenlm-bin", str(stand_ins))
    arguments.text[0].write_text(
        "word " * 20 + "\n" + "many words in a line\n" * 20_000
    )  # more than a pipe holds
    with pytest.raises(RuntimeError, match="lmplz ended with status 3: bad discount"):
        ngram.main(arguments)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_corpus_that_breaks_off_stops_the_tool(tmp_path: Path, stand_ins: Path) -> None:
    def sentences() -> object:
        yield "one"
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        ngram.estimate(stand_ins / "lmplz", sentences(), ["one"], ngram.NgramSettings(), tmp_path, "1G")
    assert not (tmp_path / "seen.txt").exists()


@pytest.mark.skipif(
    not (KENLM_BIN / "lmplz").exists(), reason="KenLM's tools are not built: training/build_kenlm.sh"
)
def test_kenlm_builds_a_model_of_a_few_sentences_that_scores_them(tmp_path: Path) -> None:
    options = ["--max-words", "3", "--memory", "50M", "--kenlm", "--quantised-bits", "0"]
    ngram.main(_arguments(tmp_path, "--kenlm-bin", str(KENLM_BIN), *options))
    out = tmp_path / "out"
    assert (out / "ngram.bin").read_bytes().startswith(b"mmap lm")
    assert (out / "unigrams.txt").read_text() == "cat\ndog\nthe\n"
    model = kenlm.Model(str(out / "ngram.bin"))
    assert model.order == 4
    assert model.score("the cat") > model.score("cat the")
    ours = ArrayNgram.load(out / "ngram.arrays", out / "unigrams.txt")
    for text in ("the cat", "cat the", "the dog sat"):
        assert ours.score(text) / math.log(10) == pytest.approx(model.score(text), abs=1e-4)
    assert "sat" not in model
    assert "cat" in model
    assert json.loads((out / "ngram.json").read_text())["fit"]["libri"]["unknown_share"] == 0
