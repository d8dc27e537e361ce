"""Transcript normalisation: one spelling for training targets, scoring, language models and output.

The alphabet is a-z, the apostrophe and single spaces. Numbers are not spelled out here: a corpus whose
transcripts hold digits is refused by `asr-train prepare` rather than guessed at.
"""

import re
import unicodedata

ALPHABET = "abcdefghijklmnopqrstuvwxyz'"

_APOSTROPHES = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'", "\u00b4": "'", "&": " and "}
)
_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "\u0131": "i"}
)
_OTHER = re.compile(r"[^a-z']+")
_LONE_APOSTROPHES = re.compile(r"(?<![a-z])'+|'+(?![a-z])")


def normalise(text: str) -> str:
    """Lower case, accents removed, everything but letters and inner apostrophes turned into single spaces.

    "Don't shout: CAFÉ!" gives "don't shout cafe". Idempotent. A text without letters gives an empty string.
    """
    lowered = text.translate(_APOSTROPHES).lower().translate(_LETTERS)
    decomposed = unicodedata.normalize("NFKD", lowered)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c)).lower()
    return " ".join(_LONE_APOSTROPHES.sub(" ", _OTHER.sub(" ", plain)).split())


def unspellable(text: str) -> set[str]:
    """Characters that `normalise` would drop although they carry sound:

    digits and letters of other scripts.
    """
    return {c for c in text if c.isdigit() or (c.isalpha() and not normalise(c))}
