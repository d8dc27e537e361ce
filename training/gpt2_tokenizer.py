"""A BPE vocabulary for a GPT-2 of our own: a-z, the apostrophe and word starts, without byte-level pieces.

Saved as `tokenizer.json` and `tokenizer_config.json`, which transformers' AutoTokenizer reads back.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from asr.text import ALPHABET

END_OF_TEXT = "<|endoftext|>"  # before and after every sentence, as GPT-2 has it
_WORD_MARK = "\u2581"


def train_tokenizer(sentences: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of at most `vocab_size` ids, END_OF_TEXT (id 0) included. Few sentences give a smaller one.

    Raises ValueError when the size has no room for the alphabet.
    """
    smallest = len(ALPHABET) + 2
    if vocab_size < smallest:
        raise ValueError(
            f"a vocabulary of {vocab_size} is too small: letters, word mark and end of text are {smallest}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_WORD_MARK, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=_WORD_MARK, prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=[*ALPHABET, _WORD_MARK],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write the tokenizer in Hugging Face layout; `context` is the longest input of the model, in tokens."""
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def load_tokenizer(folder: Path) -> tuple[Tokenizer, int]:
    """(tokenizer, id of END_OF_TEXT) of a folder in Hugging Face layout.

    Raises OSError when tokenizer.json is absent, ValueError when it has no END_OF_TEXT.
    """
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    end_id = tokenizer.token_to_id(END_OF_TEXT)
    if end_id is None:
        raise ValueError(f"{path} has no {END_OF_TEXT}")
    return tokenizer, end_id
