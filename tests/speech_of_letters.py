"""A made-up language whose spelling has rules, as a pronunciation dictionary: for tests."""

import numpy as np

SOUNDS = {
    "a": "AA",
    "b": "B",
    "d": "D",
    "e": "EH",
    "i": "IH",
    "k": "K",
    "m": "M",
    "n": "N",
    "o": "OW",
    "s": "S",
    "t": "T",
    "u": "UW",
}
VOWELS = "aeiou"


def spoken_by_rule(word: str) -> tuple[str, ...]:
    """One sound is "sh", two are "x"; a doubled letter sounds once, an "e" at the end not at all."""
    phones: list[str] = []
    place = 0
    while place < len(word):
        letter = word[place]
        if word[place : place + 2] == "sh":
            phones.append("SH")
            place += 1
        elif letter == "x":
            phones += ["K", "S"]
        elif not (letter == "e" and place == len(word) - 1) and (place == 0 or word[place - 1] != letter):
            phones.append(SOUNDS[letter])
        place += 1
    return tuple(phones)


def made_up_words(n_words: int, seed: int) -> list[str]:
    """Different words of two to four syllables."""
    rng = np.random.default_rng(seed)
    onsets, codas = ["b", "d", "k", "m", "n", "s", "t", "sh", "tt", "mm"], ["", "", "n", "x", "sh"]
    words: set[str] = set()
    while len(words) < n_words:
        syllables = [
            onsets[rng.integers(len(onsets))] + VOWELS[rng.integers(5)] + codas[rng.integers(len(codas))]
            for _ in range(rng.integers(2, 5))
        ]
        words.add("".join(syllables) + ("e" if rng.random() < 0.3 else ""))
    return sorted(words)
