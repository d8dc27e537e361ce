"""`asr-train lexicon`: from a dictionary and words to the two files that `Pronunciations` loads."""

import json
from pathlib import Path

import pytest

from asr.pronunciation import Pronunciations
from tests.speech_of_letters import made_up_words, spoken_by_rule
from training.cli import main
from training.lexicon import possessive, read_dictionary

WORDS = made_up_words(400, seed=1)


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [";;; a comment", "A.M. EY1 EH1 M", "two-part T UW P AA T"]
    lines += [f"{word}  {' '.join(spoken_by_rule(word))}" for word in WORDS]
    lines += ["bite B IH1 T # stress is dropped", "BITE(2) B EH0 T", "bite(3) B EH T"]
    path = tmp_path_factory.mktemp("dictionary") / "made.dict"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_dictionary_is_read(dictionary: Path, tmp_path: Path) -> None:
    found = read_dictionary(dictionary)
    assert found["bite"] == [("B", "IH", "T"), ("B", "EH", "T")]
    assert found[WORDS[0]] == [spoken_by_rule(WORDS[0])]
    assert set(found) == {*WORDS, "bite"}  # what normalised text cannot hold is left out
    (tmp_path / "bad.dict").write_text("bite B IH T\nlonely\n")
    with pytest.raises(ValueError, match=r"bad\.dict, line 2"):
        read_dictionary(tmp_path / "bad.dict")
    (tmp_path / "empty.dict").write_text(";;; nothing\n")
    with pytest.raises(ValueError, match="no words"):
        read_dictionary(tmp_path / "empty.dict")


def test_the_stage_writes_every_word(dictionary: Path, tmp_path: Path) -> None:
    unknown = [word for word in made_up_words(60, seed=2) if word not in WORDS]
    (tmp_path / "unigrams.txt").write_text("\n".join([*WORDS[:20], "bite", "bite's", *unknown[:10]]) + "\n")
    (tmp_path / "manifest.jsonl").write_text(
        json.dumps({"audio": "a.wav", "text": " ".join(unknown[10:15]), "duration": 1.0}) + "\n"
    )
    out = tmp_path / "out"
    files = ["--unigrams", str(tmp_path / "unigrams.txt"), "--manifest", str(tmp_path / "manifest.jsonl")]
    main(["lexicon", "--dictionary", str(dictionary), *files, "--out", str(out)])
    lines = (out / "lexicon.txt").read_text().splitlines()
    assert lines == sorted(lines)
    spoken = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    assert set(spoken) == {*WORDS[:20], "bite", "bite's", *unknown[:15]}
    assert spoken["bite"] == ["B IH T", "B EH T"]
    assert spoken["bite's"] == ["B IH T S", "B EH T S"]
    words = Pronunciations.load(out / "lexicon.txt", out / "g2p.json")
    right = [words.spoken(word) == (spoken_by_rule(word),) for word in unknown[15:]]  # not in the lexicon
    assert sum(right) > 0.9 * len(right)
    report = json.loads((out / "lexicon.json").read_text())
    assert report["words"] == {"dictionary": 21, "possessive": 1, "g2p": 15}
    assert report["g2p"]["held_out_words"] == 11
    assert report["g2p"]["words_right"] > 0.7


def test_what_a_possessive_adds() -> None:
    assert possessive(("K", "AE", "T")) == ("S",)
    assert possessive(("D", "AO", "G")) == ("Z",)
    assert possessive(("HH", "AO", "R", "S")) == ("IH", "Z")
