"""Static interpolation: a mixture is a distribution, KenLM reads it, and dev chooses the weights."""

import argparse
import inspect
import itertools
import json
import math
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import kenlm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding.arpa import NgramTable, read_table, write_table
from training import ngram
from training.ngram_mix import BEGIN, END, LEAST_WEIGHT, UNKNOWN, mix, token_probabilities, tune_weights

KENLM_BIN = Path(__file__).parents[1] / "build/kenlm/bin"
WORDS = ["ant", "bee", "cat", "dog", "eel", "fox"]
VOCABULARY = [BEGIN, END, UNKNOWN, *WORDS]
NUMBERS = {word: i for i, word in enumerate(VOCABULARY)}


def arpa_text(sentences: Iterable[str], order: int, words: Sequence[str]) -> str:
    """An interpolated absolute-discounting model, written out: complete, normalised, and simple.

    Only the standard library: a stand-in for lmplz runs this source in a process of its own.
    """
    import math
    from collections import Counter

    known = set(words)
    counts: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        marked = ["<s>", *(w if w in known else "<unk>" for w in sentence.split()), "</s>"]
        for n in range(1, order + 1):
            for i in range(max(1, n - 1), len(marked)):
                gram = tuple(marked[i - n + 1 : i + 1])
                if "<unk>" not in gram:
                    counts[n - 1][gram] += 1
    half, total = 0.5, sum(counts[0].values()) + 1
    logp = {gram: count / total for gram, count in counts[0].items()} | {("<unk>",): 1 / total}
    backoff: dict[tuple[str, ...], float] = {}
    for n in range(1, order):
        by_context: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for gram in counts[n]:
            by_context.setdefault(gram[:-1], []).append(gram)
        for context, grams in by_context.items():
            seen = sum(counts[n][gram] for gram in grams)
            backoff[context] = half * len(grams) / seen  # the share left for the shorter model, interpolated
            for gram in grams:
                shorter = logp[gram[1:]]
                logp[gram] = (counts[n][gram] - half) / seen + backoff[context] * shorter
    lines = ["\\data\\", *(f"ngram {n + 1}={len(c) + 2 * (n == 0)}" for n, c in enumerate(counts))]
    for n in range(1, order + 1):
        lines += ["", f"\\{n}-grams:"]
        grams = [gram for gram in logp if len(gram) == n] + [("<s>",)] * (n == 1)
        for gram in grams:
            p = -99.0 if gram == ("<s>",) else math.log10(logp[gram])
            b = f"\t{math.log10(backoff[gram]):.7f}" if gram in backoff else ""
            lines.append(f"{p:.7f}\t{' '.join(gram)}{b}")
    return "\n".join([*lines, "", "\\end\\", ""])


def _table(folder: Path, name: str, sentences: Sequence[str], order: int = 3) -> NgramTable:
    path = folder / f"{name}.arpa"
    path.write_text(arpa_text(sentences, order, WORDS), encoding="utf-8")
    return read_table(path, VOCABULARY, NUMBERS)


def _sentences(seed: int, count: int, words: Sequence[str] = WORDS) -> list[str]:
    """Each word likes the next one of the list, so that contexts say something."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        at = int(rng.integers(len(words)))
        sentence = []
        for _ in range(int(rng.integers(1, 8))):
            sentence.append(words[at])
            at = int((at + (1 if rng.random() < 0.7 else rng.integers(len(words)))) % len(words))
        made.append(" ".join(sentence))
    return made


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[NgramTable]:
    """Three models of different texts, vocabularies and orders."""
    folder = tmp_path_factory.mktemp("arpa")
    return [
        _table(folder, "a", _sentences(1, 40)),
        _table(folder, "b", _sentences(2, 25, WORDS[::-1][:4])),
        _table(folder, "c", _sentences(3, 15, WORDS[:3]), order=2),
    ]


def _distribution(table: NgramTable, context: Sequence[str]) -> np.ndarray:
    """P(word | context) of all words that can follow."""
    ids = np.array([[*(NUMBERS[w] for w in context), i] for i in range(1, len(VOCABULARY))], dtype=np.int32)
    return 10.0 ** table.logp(ids)


contexts = st.tuples(st.booleans(), st.lists(st.sampled_from(WORDS), max_size=3)).map(
    lambda drawn: [BEGIN] * drawn[0] + drawn[1]
)


@settings(deadline=None, max_examples=60)
@given(context=contexts, raw=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3))
def test_every_distribution_of_a_mixture_adds_up_to_one(
    tables: list[NgramTable], context: list[str], raw: list[float]
) -> None:
    mixed = mix(tables, [w / sum(raw) for w in raw])
    assert _distribution(mixed, context).sum() == pytest.approx(1.0, abs=1e-5)


def test_what_any_model_holds_has_the_weighted_sum_of_their_probabilities(tables: list[NgramTable]) -> None:
    weights = [0.5, 0.3, 0.2]
    mixed = mix(tables, weights)
    held = 0
    for n in range(1, 4):
        grams = mixed.ngrams(n)
        grams = grams[grams[:, -1] != NUMBERS[BEGIN]]
        expected = sum(w * 10.0 ** table.logp(grams) for w, table in zip(weights, tables, strict=True))
        np.testing.assert_allclose(10.0 ** mixed.logp(grams), expected, rtol=2e-6)
        own = {tuple(g) for t in tables if n <= t.order for g in t.ngrams(n).tolist()}
        assert {tuple(g) for g in mixed.ngrams(n).tolist()} == own
        held += len(own)
    assert held > 100


def test_one_model_alone_is_itself(tables: list[NgramTable]) -> None:
    alone = mix(tables, [1.0, 0.0, 0.0])
    grams = np.array(list(itertools.product(range(1, len(VOCABULARY)), repeat=3)), dtype=np.int32)
    np.testing.assert_allclose(alone.logp(grams), tables[0].logp(grams), atol=1e-4)


def test_kenlm_reads_the_mixture_and_agrees_on_every_word(tables: list[NgramTable], tmp_path: Path) -> None:
    mixed = mix(tables, [0.6, 0.3, 0.1])
    write_table(mixed, tmp_path / "mixed.arpa")
    model = kenlm.Model(str(tmp_path / "mixed.arpa"))
    assert model.order == 3
    sentences = [*_sentences(9, 60), "", "zebra cat zebra"]
    for sentence in sentences:
        scored = [logp for logp, _, _ in model.full_scores(sentence)]
        ids = [NUMBERS[BEGIN], *(NUMBERS.get(w, NUMBERS[UNKNOWN]) for w in sentence.split()), NUMBERS[END]]
        for end, logp in zip(range(2, len(ids) + 1), scored, strict=True):
            own = mixed.logp(np.array([ids[max(0, end - 3) : end]], dtype=np.int32))[0]
            assert own == pytest.approx(logp, abs=1e-4)
    again = read_table(tmp_path / "mixed.arpa", VOCABULARY, NUMBERS)
    for one, two in zip(mixed.levels, again.levels, strict=True):
        np.testing.assert_array_equal(one.keys, two.keys)
        np.testing.assert_allclose(one.logp, two.logp, rtol=1e-5)
        np.testing.assert_allclose(one.backoff, two.backoff, rtol=1e-4, atol=1e-6)


def test_the_weights_are_those_of_the_lowest_perplexity(tables: list[NgramTable]) -> None:
    dev = {"s": _sentences(11, 12) + _sentences(12, 8, WORDS[::-1][:4])}
    found = tune_weights(tables, dev)
    p_MK = token_probabilities(tables, dev["s"])
    p_MK = p_MK[p_MK.sum(axis=1) > 0]

    def perplexity(weights: Sequence[float]) -> float:
        return math.exp(-float(np.log(p_MK @ np.array(weights)).mean()))

    assert sum(found.weights) == pytest.approx(1.0)
    assert found.perplexity == pytest.approx(perplexity(found.weights), rel=1e-3)
    grid = [(a / 50, b / 50, (50 - a - b) / 50) for a in range(1, 50) for b in range(0, 50 - a)]
    assert found.perplexity <= min(map(perplexity, grid)) * (1 + 1e-5)


def test_a_text_that_dev_is_like_gets_nearly_all_the_weight_and_a_useless_one_none(tmp_path: Path) -> None:
    like, unlike = _sentences(5, 300, WORDS[:3]), _sentences(6, 300, WORDS[3:])
    pair = [_table(tmp_path, "like", like), _table(tmp_path, "unlike", unlike)]
    found = tune_weights(pair, {"s": _sentences(7, 50, WORDS[:3])})
    assert found.weights[0] > 0.99
    assert found.weights[1] == pytest.approx(LEAST_WEIGHT, rel=0.01)  # its words stay known
    assert found.own_unknown[0] == pytest.approx(0.0, abs=1e-9)
    assert found.own_unknown[1] > 0.5  # only sentence ends are known to it


def test_sets_count_alike_however_long_they_are(tmp_path: Path) -> None:
    first, second = _sentences(5, 200, WORDS[:3]), _sentences(6, 200, WORDS[3:])
    pair = [_table(tmp_path, "first", first), _table(tmp_path, "second", second)]
    dev = {"long": _sentences(7, 400, WORDS[:3]), "short": _sentences(8, 40, WORDS[3:])}
    assert tune_weights(pair, dev).weights[0] == pytest.approx(0.5, abs=0.05)


def test_dev_without_a_known_word_is_refused(tables: list[NgramTable]) -> None:
    with pytest.raises(ValueError, match="no word that the models know"):
        tune_weights(tables, {"s": []})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("\\2-grams:", "\\3-grams:"), "expected .2-grams"),
        (lambda text: text.replace("ant bee", "ant gnu"), "'gnu'"),
        (lambda text: text[: len(text) // 2], "wrong.arpa"),
        (lambda text: "hello", "announces no n-grams"),
        (lambda text: text.replace("\tant bee cat", "\tbee bee cat"), "is there twice|is not there"),
    ],
)
def test_a_damaged_arpa_is_named(tmp_path: Path, change: object, message: str) -> None:
    text = arpa_text(["ant bee cat", "bee cat dog", "bee bee cat"], 3, WORDS)
    (tmp_path / "wrong.arpa").write_text(change(text), encoding="utf-8")  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "wrong.arpa", VOCABULARY, NUMBERS)


def _manifest(path: Path, texts: Sequence[str], name: str) -> Path:
    rows = [{"audio": "a.wav", "text": text, "duration": 1.0, "set": name} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """An lmplz that estimates with `arpa_text`, and a build_binary that copies."""
    folder = tmp_path / "bin"
    folder.mkdir()
    lmplz = f"""{inspect.getsource(arpa_text)}
given = dict(zip(sys.argv, sys.argv[1:]))
words = pathlib.Path(given["--limit_vocab_file"]).read_text().split()
text = arpa_text(sys.stdin.read().splitlines(), int(given["--order"]), words)
pathlib.Path(given["--arpa"]).write_text(text)"""
    build_binary = "pathlib.Path(sys.argv[-1]).write_bytes(pathlib.Path(sys.argv[-2]).read_bytes())"
    imports = "import pathlib, sys\nfrom collections.abc import Iterable, Sequence\n"
    for name, body in (("lmplz", lmplz), ("build_binary", build_binary)):
        (folder / name).write_text(f"#!{sys.executable}\n{imports}{body}\n", encoding="utf-8")
        (folder / name).chmod(stat.S_IRWXU)
    return folder


def _run(tmp_path: Path, kenlm_bin: Path, *more: str) -> dict[str, object]:
    (tmp_path / "near.txt").write_text("\n".join(_sentences(1, 200, WORDS[:4])), encoding="utf-8")
    (tmp_path / "far.txt").write_text("\n".join(_sentences(2, 900, WORDS[2:])), encoding="utf-8")
    train = _manifest(tmp_path / "train.jsonl", _sentences(3, 30, WORDS[:4]), "")
    dev = _manifest(tmp_path / "dev.jsonl", _sentences(4, 60, WORDS[:4]), "dev-set")
    test = _manifest(tmp_path / "test.jsonl", [*_sentences(5, 60, WORDS[:4]), "zebra"], "test-set")
    parser = argparse.ArgumentParser()
    ngram.add_arguments(parser)
    given = ["--text", str(tmp_path / "near.txt"), str(tmp_path / "far.txt"), "--manifest", str(train)]
    given += ["--dev", str(dev), "--test", str(test), "--order", "3", "--prune", "0", "--memory", "50M"]
    given += ["--kenlm-bin", str(kenlm_bin), "--out", str(tmp_path / "out"), *more]
    ngram.main(parser.parse_args(given))
    report: dict[str, object] = json.loads((tmp_path / "out" / "ngram.json").read_text())
    return report


def _check_better_than_pooled(tmp_path: Path, kenlm_bin: Path) -> None:
    pooled = _run(tmp_path, kenlm_bin)
    mixed = _run(tmp_path, kenlm_bin, "--interpolate")
    parts = mixed["interpolation"]
    assert [part["name"] for part in parts] == ["near.txt", "far.txt", "transcripts"]
    assert sum(part["weight"] for part in parts) == pytest.approx(1.0, abs=1e-4)
    assert parts[0]["weight"] > parts[1]["weight"]
    for key, name in (("fit", "dev-set"), ("test_fit", "test-set")):
        assert mixed[key][name]["perplexity"] < pooled[key][name]["perplexity"]
    assert mixed["test_fit"]["test-set"]["unknown_share"] > 0 == mixed["fit"]["dev-set"]["unknown_share"]
    assert (tmp_path / "out" / "unigrams.txt").read_text().split() == WORDS


def test_the_stage_mixes_texts_better_than_pooling_them(tmp_path: Path, stand_ins: Path) -> None:
    _check_better_than_pooled(tmp_path, stand_ins)


@pytest.mark.skipif(
    not (KENLM_BIN / "lmplz").exists(), reason="KenLM's tools are not built: training/build_kenlm.sh"
)
def test_kenlms_own_models_are_mixed_too(tmp_path: Path) -> None:
    _check_better_than_pooled(tmp_path, KENLM_BIN)


def test_interpolation_needs_dev_and_two_texts(tmp_path: Path, stand_ins: Path) -> None:
    (tmp_path / "one.txt").write_text("ant bee\n")
    dev = _manifest(tmp_path / "d.jsonl", ["ant"], "s")
    parser = argparse.ArgumentParser()
    ngram.add_arguments(parser)
    given = ["--text", str(tmp_path / "one.txt"), "--interpolate", "--kenlm-bin", str(stand_ins)]
    given += ["--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="needs --dev"):
        ngram.main(parser.parse_args(given))
    with pytest.raises(ValueError, match="at least two texts"):
        ngram.main(parser.parse_args([*given, "--dev", str(dev)]))


def test_the_test_models_are_themselves_distributions(tables: list[NgramTable]) -> None:
    """The estimator above is no part of the product, but what it makes must be worth mixing."""
    for table in tables:
        for context in ([], [BEGIN], ["ant"], ["dog", "eel"]):
            assert _distribution(table, context).sum() == pytest.approx(1.0, abs=1e-4)
    assert Counter(len(table.levels) for table in tables) == {3: 2, 2: 1}
