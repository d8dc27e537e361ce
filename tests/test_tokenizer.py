"""The vocabulary: every text can be spelled, and no output is a lone word mark or an unknown."""

import io

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import MismatchError, TextError
from asr.text import ALPHABET
from asr.tokenizer import WORD_MARK, Tokenizer
from training.tokenizer import train_tokenizer

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how vexingly quick daft zebras jump",
    "she sells sea shells by the sea shore and the other shore",
    "it's the singer's singing that brings them together again",
]
WORDS = st.text(ALPHABET.replace("'", ""), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 70)


@pytest.mark.parametrize(("size", "kind"), [(70, "unigram"), (64, "unigram"), (70, "bpe"), (55, "char")])
def test_size_counts_outputs_with_the_blank(size: int, kind: str) -> None:
    assert train_tokenizer(TEXTS, size, kind=kind).vocab_size == size


def test_no_lone_word_mark_and_no_unknown_among_the_outputs(tokenizer: Tokenizer) -> None:
    assert tokenizer.blank_id == 0
    assert tokenizer.pieces[0] == ""
    assert WORD_MARK not in tokenizer.pieces
    assert not [p for p in tokenizer.pieces if "<" in p]
    assert {WORD_MARK + c for c in ALPHABET} | set(ALPHABET) <= set(tokenizer.pieces)


@given(st.lists(WORDS, max_size=8))
def test_any_text_of_the_alphabet_round_trips(words: list[str]) -> None:
    text = " ".join(words)
    ids = _TOKENIZER.encode(text)
    assert 0 not in ids
    assert _TOKENIZER.decode(ids) == text


_TOKENIZER = train_tokenizer(TEXTS, 70)


def test_unspellable_text_is_refused_by_name(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match="é"):
        tokenizer.encode("café")


def test_same_texts_give_the_same_model(tokenizer: Tokenizer) -> None:
    assert train_tokenizer(TEXTS, 70).pieces == tokenizer.pieces


def test_word_whose_end_is_a_frequent_piece_is_spelled_without_an_unknown() -> None:
    """Taking the word mark for unknown and "ation" whole beats "▁q" and letters, were it allowed."""
    tokenizer = train_tokenizer(["nation station ration relation creation sation"] * 3 + TEXTS, 72)
    for first in ALPHABET.replace("'", ""):
        for end in tokenizer.pieces[1:]:
            word = first + end.removeprefix(WORD_MARK)
            assert 0 not in tokenizer.encode(f"{word} {word}")
            assert tokenizer.decode(tokenizer.encode(f"{word} {word}")) == f"{word} {word}"


def test_saved_model_loads(tokenizer: Tokenizer, tmp_path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model_proto)
    assert Tokenizer.load(tmp_path / "tokenizer.model").pieces == tokenizer.pieces


def test_plain_sentencepiece_model_is_refused() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=55,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    with pytest.raises(MismatchError, match="lone word mark"):
        Tokenizer(model.getvalue())


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        train_tokenizer(TEXTS, 40)
