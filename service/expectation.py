"""How long things will take: seconds of a thread per second of audio, learned from what they took."""

from collections.abc import Iterable, Mapping

from asr.decoding.options import DecoderName

MEMORY_S = 600.0  # of audio: what is older counts half as much, and so on

# Before anything was measured: a two-core machine with the default bundle.
FIRST_GUESS: Mapping[str, float] = {
    "read": 0.005,
    "acoustic": 0.002,
    "search:greedy": 0.0005,
    "search:beam_lm": 0.02,
    "rescoring": 0.02,
    "finish": 0.001,
    "join": 0.001,  # of long recordings only, and part of no expectation
}
GUESS_AUDIO_S = 10.0  # of audio that the first guess counts as


def search_of(decoder: DecoderName) -> str:
    """The name under which a decoder's search is measured: rescoring begins with a beam search."""
    return "search:greedy" if decoder == "greedy" else "search:beam_lm"


def steps_of(decoder: DecoderName) -> tuple[str, ...]:
    """The measured steps of a recording's way."""
    rescoring = ("rescoring",) if decoder == "beam_lm_rescore" else ()
    return ("read", "acoustic", search_of(decoder), *rescoring, "finish")


class Expectation:
    """The rate of each step: its seconds divided by its audio's, both fading with the audio that passed."""

    def __init__(self) -> None:
        self._worked_s = {step: rate * GUESS_AUDIO_S for step, rate in FIRST_GUESS.items()}
        self._audio_s = dict.fromkeys(FIRST_GUESS, GUESS_AUDIO_S)
        self.mean_duration_s = 8.0  # of the recordings that came

    def learn(self, step: str, worked_s: float, audio_s: float) -> None:
        """A step took so long for so much audio."""
        kept = 0.5 ** (audio_s / MEMORY_S)
        self._worked_s[step] = kept * self._worked_s[step] + worked_s
        self._audio_s[step] = kept * self._audio_s[step] + audio_s

    def learn_duration(self, duration_s: float) -> None:
        self.mean_duration_s += 0.05 * (duration_s - self.mean_duration_s)

    def rate(self, steps: Iterable[str]) -> float:
        """Seconds of a thread per second of audio that these steps take together."""
        return sum(self._worked_s[step] / self._audio_s[step] for step in steps)
