"""Learn to guess phones from letters (asr/graphones.py): align a dictionary, then count what follows what.

Every word is cut together with its phones by Viterbi training: the likeliest cut under the graphones' counts,
which are then counted again. The first counts come from where letters and phones lie in their words.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from asr.graphones import BOUNDARY, FIRST_SYMBOL, Graphone, GraphoneModel

Entry = tuple[str, tuple[str, ...]]  # a word and one of its pronunciations
Cut = list[Graphone]

SHAPES = ((1, 1), (1, 0), (2, 1), (1, 2))  # letters and phones of a graphone
FIRST_ROUNDS = 3  # of alignment on part of the dictionary, before the one on all of it
FIRST_SHARE = 4  # every so many entries, in those
LARGE = 10_000  # entries of a dictionary that is taken in parts
SILENT = -4.5  # log P of a letter that is not spoken, before anything is counted
MIN_GRAPHONES = 3  # rarer ones are the dictionary's slips, and words that need them are left out
ORDER = 6
MIN_COUNT = 2  # of a context that is longer than SURE_LENGTH
SURE_LENGTH = 3
UNKNOWN = -25.0  # log P of a graphone that was not counted yet


def train_graphones(
    entries: Sequence[Entry],
    *,
    order: int = ORDER,
    min_count: int = MIN_COUNT,
    sure_length: int = SURE_LENGTH,
) -> GraphoneModel:
    """A model of the entries. Raises ValueError when none of them can be cut into graphones."""
    return count_contexts(align(entries), order=order, min_count=min_count, sure_length=sure_length)


def align(entries: Sequence[Entry]) -> list[Cut]:
    """The entries' cuts, those with rare graphones left out. Raises ValueError when nothing is left."""
    part = entries[::FIRST_SHARE] if len(entries) > LARGE else entries
    scores = _Scores(_first_guess(part))
    cuts: list[Cut] = []
    counts: Counter[Graphone] = Counter()
    for chosen in [part] * FIRST_ROUNDS + [entries]:
        cuts = [cut for word, phones in chosen if (cut := cut_entry(word, phones, scores))]
        counts = Counter(graphone for cut in cuts for graphone in cut)
        total = sum(counts.values())
        scores = _Scores(lambda graphone: UNKNOWN)
        scores.update((graphone, math.log(count / total)) for graphone, count in counts.items())
    kept = {graphone for graphone, count in counts.items() if count >= MIN_GRAPHONES}
    cuts = [cut for cut in cuts if kept.issuperset(cut)]
    if not cuts:
        raise ValueError("the dictionary has too few words to learn from")
    return cuts


class _Scores(dict[Graphone, float]):
    """log P of graphones; of those that it has not, what a function says, once."""

    def __init__(self, of: Callable[[Graphone], float]) -> None:
        self._of = of

    def __missing__(self, graphone: Graphone) -> float:
        score = self[graphone] = self._of(graphone)
        return score


def _first_guess(entries: Sequence[Entry]) -> Callable[[Graphone], float]:
    """log P of a graphone from how often its letter and phone lie at the same part of a word."""
    together: Counter[tuple[str, str]] = Counter()
    for word, phones in entries:
        for place, letter in enumerate(word):
            phone = phones[min(len(phones) - 1, int((place + 0.5) * len(phones) / len(word)))]
            together[letter, phone] += 1
    total = sum(together.values())

    def pair(letter: str, phone: str) -> float:
        return math.log((together[letter, phone] + 0.1) / total)

    def log_prob(graphone: Graphone) -> float:
        letters, phones = graphone
        if not phones:
            return SILENT
        if len(phones) == 2:
            return sum(pair(letters, phone) for phone in phones) - 1.0
        return max(pair(letter, phones[0]) for letter in letters) - 5.0 * (len(letters) - 1)

    return log_prob


def cut_entry(word: str, phones: tuple[str, ...], scores: Mapping[Graphone, float]) -> Cut | None:
    """The likeliest graphones that spell the word and speak the phones; None where there are none."""
    n_letters, n_phones = len(word), len(phones)
    best = [[-math.inf] * (n_phones + 1) for _ in range(n_letters + 1)]
    shapes = [[(0, 0)] * (n_phones + 1) for _ in range(n_letters + 1)]
    best[0][0] = 0.0
    for i in range(n_letters):
        for j in range(max(0, n_phones - 2 * (n_letters - i)), n_phones + 1):
            score = best[i][j]
            if score == -math.inf:
                continue
            for shape in SHAPES:
                to_i, to_j = i + shape[0], j + shape[1]
                if to_i > n_letters or to_j > n_phones:
                    continue
                total = score + scores[Graphone(word[i:to_i], phones[j:to_j])]
                if total > best[to_i][to_j]:
                    best[to_i][to_j], shapes[to_i][to_j] = total, shape
    if best[n_letters][n_phones] == -math.inf:
        return None
    cut: Cut = []
    i, j = n_letters, n_phones
    while i or j:
        letters, sounds = shapes[i][j]
        cut.append(Graphone(word[i - letters : i], phones[j - sounds : j]))
        i, j = i - letters, j - sounds
    return cut[::-1]


def count_contexts(
    cuts: Iterable[Cut], *, order: int, min_count: int = MIN_COUNT, sure_length: int = SURE_LENGTH
) -> GraphoneModel:
    """The n-gram of the cuts.

    In a context of more than `sure_length` graphones, what followed fewer than `min_count` times is left out.
    """
    cuts = list(cuts)
    counts = Counter(graphone for cut in cuts for graphone in cut)
    graphones = sorted(counts, key=lambda g: (-counts[g], g.letters, g.phones))
    symbols = {graphone: chr(FIRST_SYMBOL + number) for number, graphone in enumerate(graphones)}
    followers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for cut in cuts:
        written = BOUNDARY + "".join(symbols[graphone] for graphone in cut) + BOUNDARY
        for place in range(1, len(written)):
            for length in range(min(order, place + 1)):
                followers[written[place - length : place]][written[place]] += 1
    contexts = {
        context: written
        for context, counted in sorted(followers.items())
        if (written := _written(counted, 1 if len(context) <= sure_length else min_count))
    }
    return GraphoneModel(graphones, contexts)


def _written(counted: Counter[str], min_count: int) -> str:
    return "".join(
        symbol + (str(count) if count > 1 else "")
        for symbol, count in sorted(counted.items())
        if count >= min_count
    )


def accuracy(model: GraphoneModel, held_out: Iterable[Entry]) -> tuple[float, float]:
    """(phone error rate, share of words right): of a word's pronunciations the closest counts."""
    spoken: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
    for word, phones in held_out:
        spoken[word].append(phones)
    errors = n_phones = right = 0
    for word, pronunciations in spoken.items():
        guess = model.spoken(word)
        wrong, length = min((_distance(guess, phones), len(phones)) for phones in pronunciations)
        errors, n_phones, right = errors + wrong, n_phones + length, right + (wrong == 0)
    return errors / max(1, n_phones), right / max(1, len(spoken))


def _distance(guess: Sequence[str], truth: Sequence[str]) -> int:
    """Edits between two sequences."""
    row = list(range(len(truth) + 1))
    for i, one in enumerate(guess, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(truth, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]
