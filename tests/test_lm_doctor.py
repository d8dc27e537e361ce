"""What the language models make of a domain text, by hand on a bigram of a few words."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from asr.decoding.lm_doctor import RARE_COST, diagnose
from asr.decoding.options import DecodingSettings
from asr.errors import TextError
from service.cli import main
from tests.reference_beam import ScriptedTokenizer
from tests.tiny_lm import make_lm

SETTINGS = DecodingSettings(alpha=0.5, unknown_word_logp=-10.0)
LETTERS = ScriptedTokenizer("_a", "n", "p", "l", "e", "_n", "w", "_y", "o", "r", "k", "_z", "y", "x")


class FixedScorer:
    """Every word and every end costs two nats."""

    def score(self, texts: Sequence[str]) -> list[float]:
        return [-2.0 * (len(text.split()) + 1) for text in texts]


def test_figures_and_terms_by_hand(tmp_path: Path) -> None:
    lm = make_lm(tmp_path)
    found = diagnose(
        ["An apple!", "", "An apple. Zyx yx?"],
        LETTERS,
        lm,
        FixedScorer(),
        SETTINGS,  # type: ignore[arg-type]
    )
    assert (found.sentences, found.words, found.unknown_words) == (2, 6, 2)
    assert found.unknown_share == pytest.approx(1 / 3)
    logp = lm.score("an apple") + lm.score("an apple zyx yx")
    assert found.ngram_perplexity == pytest.approx(math.exp(-logp / 8))
    assert found.gpt2_perplexity == pytest.approx(math.exp(2.0))
    terms = {term.word: term for term in found.terms}
    assert [term.word for term in found.terms][:2] == ["yx", "zyx"]
    assert terms["zyx"].trouble == terms["yx"].trouble == "out_of_vocabulary"
    assert [piece[-1] for piece in terms["zyx"].pieces] == ["z", "y", "x"]
    assert terms["an"].count == 2
    assert terms["an"].cost == pytest.approx(0.5 * 0.2 * math.log(10), abs=1e-3)
    assert terms["an"].trouble == ""
    unknown_logp = lm.parts("an apple zyx").logp - lm.parts("an apple").logp
    assert terms["zyx"].cost > RARE_COST
    assert unknown_logp < 0
    assert found.hotwords == ("zyx yx",)


def test_known_words_alone_leave_the_unknown_ones_out(tmp_path: Path) -> None:
    lm = make_lm(tmp_path)
    found = diagnose(["an zyx"], LETTERS, lm, FixedScorer(), SETTINGS)  # type: ignore[arg-type]
    state, total = lm.start_state(), 0.0
    for word in ("an", "zyx", "</s>"):
        logp, state = lm.advance(state, word)
        total += logp if word != "zyx" else 0.0
    assert found.ngram_known_perplexity == pytest.approx(math.exp(-total / 2))


def test_likely_words_are_no_trouble_and_dear_ones_are(tmp_path: Path) -> None:
    lm = make_lm(tmp_path, words={"an": -0.5, "apple": -1.0, "york": -9.0}, pairs={("<s>", "an"): -0.1})
    found = diagnose(["an apple york"], LETTERS, lm, FixedScorer(), SETTINGS)  # type: ignore[arg-type]
    assert {term.word: term.trouble for term in found.terms} == {"york": "rare", "an": "", "apple": ""}
    assert found.hotwords == ("york",)


def test_long_runs_are_cut_and_frequent_ones_come_first(tmp_path: Path) -> None:
    lines = ["zy yx xy zz zx", "zy", "zy yx xy zz"]
    letters = ScriptedTokenizer("_z", "_y", "_x", "y", "x", "z")
    found = diagnose(lines, letters, make_lm(tmp_path), FixedScorer(), SETTINGS)  # type: ignore[arg-type]
    assert found.hotwords == ("zy yx xy zz", "zx", "zy")


def test_a_text_without_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no words"):
        diagnose(["...", "123"], LETTERS, make_lm(tmp_path), FixedScorer(), SETTINGS)  # type: ignore[arg-type]


def test_words_that_the_pieces_cannot_write(tmp_path: Path) -> None:
    class NoY(ScriptedTokenizer):
        def encode(self, text: str) -> list[int]:
            if "y" in text:
                raise TextError("the vocabulary cannot spell 'y'")
            return super().encode(text)

    found = diagnose(["an ny ane"], NoY("_a", "n", "e"), make_lm(tmp_path), FixedScorer(), SETTINGS)  # type: ignore[arg-type]
    terms = {term.word: term for term in found.terms}
    assert (terms["ny"].trouble, terms["ny"].pieces) == ("unspellable", ())
    assert terms["ane"].trouble == "out_of_vocabulary"
    assert found.hotwords == ("ane",)  # a hotword does not help what cannot be written


def test_the_command_takes_a_text_or_a_file(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "The cat sat.\nThe cat sat on a mat, don't know."
    (tmp_path / "domain.txt").write_text(text)
    answers = []
    for given in (text, str(tmp_path / "domain.txt")):
        assert main(["lm-doctor", given, "--json", "--bundle", str(tiny_bundle)]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert answers[0]["words"] == 11
    assert main(["lm-doctor", "the cat saw ada", "--terms", "1", "--bundle", str(tiny_bundle)]) == 0
    printed = capsys.readouterr().out
    assert "4 words in 1 sentences, 2 (50.0%) outside" in printed
    assert "hotwords to try: saw ada" in printed
    topic = tmp_path / "topic.txt"
    topic.write_text("We saw Ada.\nAda saw the cat.\n")
    mixed = ["lm-doctor", "the cat saw ada", "--lm-text", str(topic), "--bundle", str(tiny_bundle)]
    assert main(mixed) == 0
    printed = capsys.readouterr().out
    assert (
        f"{topic} mixed in at 0.2: 2 words that the n-gram default does not know; its perplexity" in printed
    )
    assert "4 words in 1 sentences, 0 (0.0%) outside" in printed
    assert main([*mixed, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["lm_text"]
    assert told["new_words"] == ["ada", "saw"]
    assert told["written"]["perplexity_alone"] > told["written"]["perplexity_mixed"]
    assert main(["lm-doctor", "the cat", "--lm", "zoo", "--bundle", str(tiny_bundle)]) == 1
    assert "lm must be one of default" in capsys.readouterr().err
    assert main(["lm-doctor", "?!", "--bundle", str(tiny_bundle)]) == 1
    assert "no words" in capsys.readouterr().err
