"""Pronunciations: what the lexicon says, what the g2p guesses, and as which labels of the phone layer."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asr.errors import MismatchError
from asr.graphones import LONGEST, GraphoneModel
from asr.pronunciation import Pronunciations
from tests.speech_of_letters import made_up_words, spoken_by_rule
from training.graphones import accuracy, train_graphones


@pytest.fixture(scope="module")
def g2p() -> GraphoneModel:
    return train_graphones([(word, spoken_by_rule(word)) for word in made_up_words(800, seed=1)])


@pytest.fixture(scope="module")
def files(g2p: GraphoneModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lexicon")
    (folder / "lexicon.txt").write_text("bad\tB AA D\nbite\tB IH T\tB EH T\n")
    (folder / "g2p.json").write_text(g2p.to_json())
    return folder / "lexicon.txt", folder / "g2p.json"


def test_the_g2p_learns_the_rules_of_a_spelling(g2p: GraphoneModel) -> None:
    known = set(made_up_words(800, seed=1))
    held_out = [(word, spoken_by_rule(word)) for word in made_up_words(300, seed=2) if word not in known]
    phone_errors, right = accuracy(g2p, held_out)
    assert len(held_out) > 200
    assert phone_errors < 0.01
    assert right > 0.95


def test_a_saved_g2p_speaks_the_same(g2p: GraphoneModel, files: tuple[Path, Path]) -> None:
    loaded = GraphoneModel.load(files[1])
    for word in made_up_words(50, seed=3):
        assert loaded.spoken(word) == g2p.spoken(word)
    assert loaded.to_json() == g2p.to_json()


def test_what_is_longer_than_any_word_is_spoken_letter_by_letter(g2p: GraphoneModel) -> None:
    longest, longer = "tisho" * (LONGEST // 5), "tisho" * (LONGEST // 5 + 1)
    assert g2p.spoken(longest) == ("T", "IH", "SH", "OW") * (LONGEST // 5)
    assert len(g2p.spoken(longer)) == len(longer)  # "sh" is two
    assert g2p.spoken(longer * 2) == g2p.spoken(longer) * 2


def test_first_phones_are_labels_of_their_own(files: tuple[Path, Path]) -> None:
    words = Pronunciations.load(*files)
    assert list(words.phones) == sorted(words.phones)
    n = len(words.phones)
    assert words.n_outputs == 2 * n + 1
    inside = {phone: i + 1 for i, phone in enumerate(words.phones)}
    assert words.of("bite") == (
        (n + inside["B"], inside["IH"], inside["T"]),
        (n + inside["B"], inside["EH"], inside["T"]),
    )
    ((first, *others),) = words.of("tisho")  # guessed
    assert [first - n, *others] == [inside[phone] for phone in ("T", "IH", "SH", "OW")]
    assert "bite" in words
    assert "tisho" not in words


@pytest.mark.parametrize("word", ["'", "e", "'''", "", "42", "żółć", "a" * 300, "mañana", "x'x"])
def test_every_word_is_spoken(word: str, files: tuple[Path, Path]) -> None:
    words = Pronunciations.load(*files)
    (labels,) = words.of(word)
    assert labels
    assert labels[0] > len(words.phones)
    assert all(0 < label <= len(words.phones) for label in labels[1:])


def test_threads_hear_the_same(files: tuple[Path, Path]) -> None:
    alone, shared = Pronunciations.load(*files), Pronunciations.load(*files)
    asked = made_up_words(200, seed=4) * 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(shared.of, asked)) == [alone.of(word) for word in asked]


@pytest.mark.parametrize(
    ("lexicon", "reason"),
    [
        ("bad B AA D\n", "without a tab"),
        ("bad\tB QQ D\n", "QQ"),
        ("bad\t\n", "no pronunciation for 'bad'"),
    ],
)
def test_a_wrong_lexicon_is_refused(
    lexicon: str, reason: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "lexicon.txt").write_text(lexicon)
    with pytest.raises(MismatchError, match=reason):
        Pronunciations.load(tmp_path / "lexicon.txt", files[1])


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        json.dumps({"format": 2, "graphones": [], "contexts": {}}),
        json.dumps({"format": 1, "graphones": [["a", ""]], "contexts": {"": ";"}}),
        json.dumps({"format": 1, "graphones": [["a", "AH"]], "contexts": {}}),
        json.dumps({"format": 1, "graphones": [["a", "AH"]], "contexts": {"": 3}}),
    ],
)
def test_a_wrong_g2p_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "g2p.json").write_text(content)
    with pytest.raises(MismatchError, match=r"g2p\.json|graphones"):
        GraphoneModel.load(tmp_path / "g2p.json")
