"""Headerless audio that arrives in pieces, as samples at 16 kHz."""

from typing import cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from asr.audio import LOUDEST, SAMPLE_RATE, Samples
from asr.errors import UnreadableAudioError
from asr.raw_audio import RawAudio

# FFmpeg's decoder and the bytes of one sample of one channel, by demuxer.
_CODECS = {
    "s16le": ("pcm_s16le", 2),
    "s16be": ("pcm_s16be", 2),
    "s24le": ("pcm_s24le", 3),
    "s32le": ("pcm_s32le", 4),
    "f32le": ("pcm_f32le", 4),
    "u8": ("pcm_u8", 1),
    "mulaw": ("pcm_mulaw", 1),
    "alaw": ("pcm_alaw", 1),
}


class PcmStream:
    """Turns bytes into float32 samples, mono (channels averaged), 16 kHz, as `read_audio` would."""

    def __init__(self, raw: RawAudio) -> None:
        """Raises UnreadableAudioError for a coding that cannot be streamed."""
        if raw.demuxer not in _CODECS:
            raise UnreadableAudioError(f"{raw.demuxer} cannot be streamed")
        codec, width = _CODECS[raw.demuxer]
        self._decoder = cast(AudioCodecContext, AudioCodecContext.create(codec, "r"))
        self._decoder.sample_rate = raw.rate_hz or SAMPLE_RATE
        self._decoder.layout = f"{raw.channels}C"
        self._resampler = AudioResampler("flt", rate=SAMPLE_RATE)
        self._block = width * raw.channels
        self._rest = b""

    def push(self, content: bytes) -> Samples:
        """The samples that these bytes complete; there may be none. Raises UnreadableAudioError."""
        content = self._rest + content
        whole = len(content) - len(content) % self._block
        self._rest = content[whole:]
        if not whole:
            return np.empty(0, dtype=np.float32)
        try:
            frames = self._decoder.decode(av.Packet(content[:whole]))
            return _mono([out for frame in frames for out in self._resampler.resample(_untimed(frame))])
        except (av.error.FFmpegError, ValueError) as error:
            raise UnreadableAudioError("the bytes are not what they are said to be") from error

    def finish(self) -> Samples:
        """The samples that the resampler still holds."""
        return _mono(self._resampler.resample(None))


def _untimed(frame: av.AudioFrame) -> av.AudioFrame:
    frame.pts = None
    return frame


def _mono(frames: list[av.AudioFrame]) -> Samples:
    parts = [frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(axis=1) for frame in frames]
    samples: NDArray[np.float32] = np.concatenate([np.empty(0, np.float32), *parts]).astype(np.float32)
    np.nan_to_num(samples, copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
    return np.clip(samples, -LOUDEST, LOUDEST, out=samples)
