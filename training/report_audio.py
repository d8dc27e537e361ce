"""Recordings inside an HTML page: players whose sound is part of the file, up to a number of bytes."""

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import av
import numpy as np

from asr.audio import SAMPLE_RATE, read_audio
from asr.errors import AsrError
from training.manifest import Utterance, read_bytes

MAX_CLIP_BYTES = 250_000  # a larger recording, or one in a format browsers do not play, becomes MP3
MAX_CLIP_S = 120.0  # of a recording that becomes MP3
_MP3_BITS_PER_S = 32_000
# What browsers play, told by the first bytes.
_PLAYABLE = ((b"OggS", "audio/ogg"), (b"RIFF", "audio/wav"), (b"fLaC", "audio/flac"), (b"ID3", "audio/mpeg"))


class AudioBudget:
    """Gives out players until the bytes are spent, then says so in their place."""

    def __init__(self, n_bytes: int) -> None:
        self._left = n_bytes

    def player(self, audio: Mapping[str, Any] | None) -> str:
        """HTML for a recording (`path`, `offset`, `size` as `asr-train evaluate` notes them).

        A recording that is gone or unreadable is named as such: a report is made of what is there.
        """
        if not audio:
            return _note("no recording noted: evaluate again to hear it")
        place = Utterance(Path(audio["path"]), "", 0.0, offset=audio["offset"], size=audio["size"], name="it")
        try:
            kind, content = playable(read_bytes(place))
        except (AsrError, OSError) as error:
            return _note(f"the recording cannot be read: {error}")
        if len(content) * 4 // 3 > self._left:
            return _note("not embedded: the page's allowance for sound is spent (--audio-mb)")
        self._left -= len(content) * 4 // 3
        data = base64.b64encode(content).decode("ascii")
        return f'<audio controls preload="none" src="data:{kind};base64,{data}"></audio>'


def playable(content: bytes) -> tuple[str, bytes]:
    """(media type, bytes) of a recording for a browser: as it is, or as MP3. Raises AudioError."""
    for start, kind in _PLAYABLE:
        if content.startswith(start) and len(content) <= MAX_CLIP_BYTES:
            return kind, content
    samples = read_audio(content, max_duration_s=3600.0)[: int(MAX_CLIP_S * SAMPLE_RATE)]
    return "audio/mpeg", _as_mp3(samples)


def _as_mp3(samples: np.ndarray) -> bytes:
    """16 kHz mono float32 -> MP3."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = _MP3_BITS_PER_S
        levels = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(levels[None], format="s16p", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()


def _note(text: str) -> str:
    return f'<p class="faint">{escape(text)}</p>'
