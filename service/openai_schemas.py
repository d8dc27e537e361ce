"""What `POST /v1/audio/transcriptions` answers, in OpenAI's shapes."""

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import BaseModel

from asr.decoding.result import Transcript, Word
from service.openai_form import Granularity
from service.subtitles import Cue, cues

_LEAST_CONFIDENCE = 1e-6


class DurationUsage(BaseModel):
    """Seconds of audio."""

    type: Literal["duration"] = "duration"
    seconds: float


class TokenLogprob(BaseModel):
    """A word with the space before it; the natural logarithm of its confidence."""

    token: str
    bytes: list[int]
    logprob: float


class Transcription(BaseModel):
    """`response_format=json`."""

    text: str
    logprobs: list[TokenLogprob] | None = None
    usage: DurationUsage


class TimedWord(BaseModel):
    word: str
    start: float
    end: float


class Segment(BaseModel):
    """Some words between two pauses. What this model does not have is 0 or empty.

    avg_logprob: mean natural logarithm of the words' confidence.
    """

    id: int
    seek: int = 0
    start: float
    end: float
    text: str
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float = 0.0


class VerboseTranscription(BaseModel):
    """`response_format=verbose_json`."""

    task: Literal["transcribe"] = "transcribe"
    language: Literal["english"] = "english"
    duration: float
    text: str
    segments: list[Segment] | None = None
    words: list[TimedWord] | None = None
    usage: DurationUsage


class TextDelta(BaseModel):
    """A piece of the text; the pieces together are the text."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str
    logprobs: list[TokenLogprob] | None = None


class TextDone(BaseModel):
    """The last event, with the whole text."""

    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str
    logprobs: list[TokenLogprob] | None = None
    usage: DurationUsage


def transcription(transcript: Transcript, logprobs: bool) -> Transcription:
    return Transcription(
        text=transcript.text,
        logprobs=list(token_logprobs(transcript.words)) if logprobs else None,
        usage=DurationUsage(seconds=transcript.duration_s),
    )


def verbose(transcript: Transcript, granularities: Sequence[Granularity]) -> VerboseTranscription:
    """Segments unless only words are asked for, as OpenAI does it."""
    words = [TimedWord(word=w.word, start=w.start_s, end=w.end_s) for w in transcript.words]
    found = [_segment(i, cue) for i, cue in enumerate(cues(transcript.words))]
    return VerboseTranscription(
        duration=transcript.duration_s,
        text=transcript.text,
        segments=found if "segment" in granularities or not granularities else None,
        words=words if "word" in granularities else None,
        usage=DurationUsage(seconds=transcript.duration_s),
    )


def token_logprobs(words: Iterable[Word], *, continued: bool = False) -> Iterator[TokenLogprob]:
    """continued: the words follow others, so the first has a space before it too."""
    for word in words:
        token = f" {word.word}" if continued else word.word
        yield TokenLogprob(token=token, bytes=list(token.encode()), logprob=_logprob(word))
        continued = True


def _segment(number: int, cue: Cue) -> Segment:
    content = cue.text.encode()
    return Segment(
        id=number,
        start=cue.start_s,
        end=cue.end_s,
        text=cue.text,
        avg_logprob=sum(map(_logprob, cue.words)) / len(cue.words),
        compression_ratio=round(len(content) / len(zlib.compress(content)), 4),
    )


def _logprob(word: Word) -> float:
    return math.log(max(word.confidence, _LEAST_CONFIDENCE))
