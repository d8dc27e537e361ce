"""Words as the label sequences of an acoustic model's phone layer.

A bundle has two files for it: `lexicon.txt`, a word a line with its pronunciations, tabs between them
("read<TAB>R EH D<TAB>R IY D"), sorted by word; and `g2p.json`, which guesses the others from their letters
(asr/graphones.py). `asr-train lexicon` writes both.

The layer's outputs: 0 is the CTC blank, 1..P are the phones inside a word in sorted order, P+1..2P are the
same phones as the first of a word. So a sequence of words needs no label between them.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from asr.errors import MismatchError
from asr.graphones import GraphoneModel

CACHED = 65536  # words whose pronunciations are kept


class Pronunciations:
    """Label sequences of words. Thread-safe; the same word always gives the same ones.

    lexicon: word -> its pronunciations as in lexicon.txt, tabs between them.
    """

    def __init__(self, lexicon: Mapping[str, str], g2p: GraphoneModel) -> None:
        """Raises MismatchError for a lexicon with phones that the g2p has not, or with an empty entry."""
        self.phones: tuple[str, ...] = g2p.phones
        self.n_outputs = 2 * len(self.phones) + 1
        self._lexicon, self._g2p = lexicon, g2p
        self._inside = {phone: number for number, phone in enumerate(self.phones, start=1)}
        foreign = set(" ".join(lexicon.values()).split()) - set(self.phones)
        if foreign:
            raise MismatchError(f"the lexicon has phones that the g2p has not: {', '.join(sorted(foreign))}")
        if empty := next((word for word, spoken in lexicon.items() if not spoken), None):
            raise MismatchError(f"the lexicon has no pronunciation for {empty!r}")
        self.of = lru_cache(maxsize=CACHED)(self._of)

    @classmethod
    def load(cls, path_of_lexicon: Path, path_of_g2p: Path) -> "Pronunciations":
        """Raises MismatchError for files that are no lexicon and g2p, OSError when one cannot be read."""
        lines = path_of_lexicon.read_text(encoding="utf-8").splitlines()
        try:
            lexicon = dict(line.split("\t", 1) for line in lines)
        except ValueError as error:
            raise MismatchError(f"{path_of_lexicon.name}: a line without a tab") from error
        return cls(lexicon, GraphoneModel.load(path_of_g2p))

    def __contains__(self, word: str) -> bool:
        """Whether the lexicon has the word; else its pronunciation is guessed."""
        return word in self._lexicon

    def spoken(self, word: str) -> tuple[tuple[str, ...], ...]:
        """One or more pronunciations, each of at least one phone: the lexicon's, or the g2p's guess."""
        known = self._lexicon.get(word)
        if known is None:
            return (self._g2p.spoken(word),)
        return tuple(tuple(one.split()) for one in known.split("\t"))

    def _of(self, word: str) -> tuple[tuple[int, ...], ...]:
        """The same as outputs of the phone layer: the first of each is a word-initial one, no blanks."""
        first = len(self.phones)
        return tuple(
            (first + self._inside[one[0]], *(self._inside[phone] for phone in one[1:]))
            for one in self.spoken(word)
        )
