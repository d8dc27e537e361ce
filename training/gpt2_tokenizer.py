"""The vocabulary of a GPT-2: a BPE of our own, or that of a published model.

Ours has a-z, the apostrophe and word starts, without byte-level pieces. Saved as `tokenizer.json` and
`tokenizer_config.json`, which transformers' AutoTokenizer reads back.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

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


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int, end_id: int = 0) -> None:
    """Write the tokenizer in Hugging Face layout; `context` is the longest input of the model, in tokens.

    The token `end_id` begins and ends a sentence, in training as in scoring.
    """
    end = tokenizer.id_to_token(end_id)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=end,
        eos_token=end,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def load_tokenizer(folder: Path) -> tuple[Tokenizer, int]:
    """(tokenizer, id of the token that ends a text) of a folder in Hugging Face layout, whatever its files.

    Raises OSError when there is none, ValueError when it names no such token.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(f"{folder} holds no tokenizer.json and no vocab.json")
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if loaded.eos_token_id is None:
        raise ValueError(f"the tokenizer in {folder} names no end of text (eos_token)")
    return loaded.backend_tokenizer, loaded.eos_token_id
