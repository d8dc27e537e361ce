"""A corpus whose words are spoken letter by letter: what a run that learns phones takes."""

from collections.abc import Collection, Sequence
from pathlib import Path

from asr.bundle import G2P, LEXICON
from asr.features import FeatureSettings
from tests.speech_of_tones import write_corpus
from training.graphones import train_graphones
from training.prepare import find_utterances, prepare
from training.tokenizer import train_tokenizer


def sounds(word: str) -> tuple[str, ...]:
    """Every letter is spoken as itself."""
    return tuple(word.upper())


def write_lettered(folder: Path, texts: Sequence[str], *, unlisted: Collection[str] = ()) -> str:
    """Writes what a configuration names in `[data]`; returns that section. unlisted: not in the lexicon."""
    write_corpus(folder / "corpus", texts)
    prepare(find_utterances(folder / "corpus"), folder / "data", FeatureSettings(), workers=1)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(texts, 55, kind="char").model_proto)
    words = sorted({word for text in texts for word in text.split()})
    (folder / "lexicon").mkdir()
    lines = [f"{word}\t{' '.join(sounds(word))}\n" for word in words if word not in unlisted]
    (folder / "lexicon" / LEXICON).write_text("".join(lines))
    g2p = train_graphones(3 * [(word, sounds(word)) for word in words])
    (folder / "lexicon" / G2P).write_text(g2p.to_json())
    return f"""
[data]
train = "{folder / "data"}"
dev = "{folder / "data"}"
tokenizer = "{folder / "tokenizer.model"}"
lexicon = "{folder / "lexicon"}"
"""
