"""Words with times as subtitles: cues that can be read, and their text as SubRip (SRT) and WebVTT.

Times are rounded once, to whole milliseconds, and split afterwards: rounding the parts one by one is how
others come to write `00:00:01,1000` and `00:00:60.000`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asr.decoding.result import Word

MAX_CUE_CHARS = 84  # two lines of 42, as broadcasters have it
MAX_CUE_S = 7.0
PAUSE_S = 0.8  # a cue ends where nobody speaks for so long


@dataclass(frozen=True)
class Cue:
    """Some words that are shown together."""

    start_s: float
    end_s: float
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        return " ".join(word.word for word in self.words)


def cues(words: Sequence[Word]) -> list[Cue]:
    """The words in order, each in exactly one cue; a cue ends at a pause or when it is full."""
    found: list[list[Word]] = []
    for word in words:
        if not found or _ends_before(found[-1], word):
            found.append([])
        found[-1].append(word)
    return [Cue(group[0].start_s, group[-1].end_s, tuple(group)) for group in found]


def _ends_before(group: Sequence[Word], word: Word) -> bool:
    n_chars = sum(len(one.word) + 1 for one in group) + len(word.word)
    paused = word.start_s - group[-1].end_s >= PAUSE_S
    return paused or n_chars > MAX_CUE_CHARS or word.end_s - group[0].start_s > MAX_CUE_S


def srt(found: Sequence[Cue]) -> str:
    """SubRip: numbered cues, `00:00:01,500 --> 00:00:02,000`."""
    blocks = (f"{number}\n{times}\n{text}\n" for number, (times, text) in enumerate(_shown(found, ","), 1))
    return "\n".join(blocks)


def vtt(found: Sequence[Cue]) -> str:
    """WebVTT: its header, always, and cues `00:00:01.500 --> 00:00:02.000`."""
    return "\n".join(["WEBVTT\n", *(f"{times}\n{_escaped(text)}\n" for times, text in _shown(found, "."))])


def _shown(found: Sequence[Cue], point: str) -> Iterator[tuple[str, str]]:
    """Times and text of each cue. A cue is shown for a millisecond at least, as players want it."""
    for cue in found:
        start_ms = round(cue.start_s * 1000)
        end_ms = max(round(cue.end_s * 1000), start_ms + 1)
        yield f"{timestamp(start_ms, point)} --> {timestamp(end_ms, point)}", cue.text


def timestamp(milliseconds: int, point: str) -> str:
    """`HH:MM:SS` and three digits after the point; hours grow beyond 99 when they must."""
    seconds, ms = divmod(milliseconds, 1000)
    minutes, s = divmod(seconds, 60)
    h, m = divmod(minutes, 60)
    return f"{h:02}:{m:02}:{s:02}{point}{ms:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
