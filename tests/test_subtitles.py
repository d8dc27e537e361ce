"""Subtitles: the rounding faults of other servers, and what holds for any words."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding.result import Word
from service.subtitles import MAX_CUE_S, Cue, cues, srt, timestamp, vtt

SRT_TIME = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d),(\d{3})")
SRT_BLOCK = re.compile(rf"(\d+)\n{SRT_TIME.pattern} --> {SRT_TIME.pattern}\n(.+)\n")


def words(*edges: tuple[float, float]) -> list[Word]:
    return [Word("word", start, end, 0.9) for start, end in edges]


def test_srt_never_has_a_thousand_milliseconds() -> None:
    """WhisperLive writes `00:00:01,1000` for 1.9996 s."""
    text = srt(cues(words((1.9996, 2.4))))
    assert text == "1\n00:00:02,000 --> 00:00:02,400\nword\n"


def test_vtt_never_has_sixty_seconds() -> None:
    """WhisperLiveKit writes `00:00:60.000` for 59.9999 s."""
    assert "00:01:00.000 --> 01:00:00.000" in vtt([Cue(59.9999, 3599.9999, (Word("a", 0, 0, 1),))])


def test_vtt_has_its_header_even_without_words() -> None:
    assert vtt([]) == "WEBVTT\n"
    assert vtt(cues(words((0.5, 1.0)))).startswith("WEBVTT\n\n00:00:00.500 --> ")
    assert srt([]) == ""


def test_hours() -> None:
    assert timestamp(359_999_999, ",") == "99:59:59,999"
    assert timestamp(360_000_000, ".") == "100:00:00.000"


def test_cues_end_at_pauses_and_when_full() -> None:
    assert [len(cue.words) for cue in cues(words((0, 1), (1.1, 2), (3, 4)))] == [2, 1]
    long = cues(words(*((s * 0.5, s * 0.5 + 0.5) for s in range(60))))
    assert all(cue.end_s - cue.start_s <= MAX_CUE_S for cue in long)
    assert sum(len(cue.words) for cue in long) == 60


def test_markup_is_escaped_in_vtt() -> None:
    text = vtt(cues([Word("a-->b&<i>", 0, 1, 1)]))
    assert text.count("-->") == 1
    assert "a--&gt;b&amp;&lt;i&gt;" in text


EDGES = st.lists(st.floats(0, 400_000, allow_nan=False), min_size=0, max_size=40).map(sorted)


@settings(deadline=None)
@given(EDGES)
def test_any_words_make_well_formed_subtitles(edges: list[float]) -> None:
    placed = words(*zip(edges[::2], edges[1::2], strict=False))
    found = cues(placed)
    assert [word for cue in found for word in cue.words] == placed
    blocks = SRT_BLOCK.findall(srt(found))
    assert len(blocks) == len(found) == vtt(found).count(" --> ")
    assert "".join(SRT_BLOCK.sub("", srt(found)).split()) == ""
    previous = 0
    for (number, *parts, _), cue in zip(blocks, found, strict=True):
        start, end = (_milliseconds(parts[i : i + 4]) for i in (0, 4))
        assert int(number) == found.index(cue) + 1 or cue in found[: int(number)]
        assert previous <= start < end
        assert abs(start - cue.start_s * 1000) <= 0.5
        previous = start


def _milliseconds(parts: list[str]) -> int:
    h, m, s, ms = map(int, parts)
    return ((h * 60 + m) * 60 + s) * 1000 + ms
