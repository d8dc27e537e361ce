"""Recordings of any common container to float32 at 16 kHz, in bounded memory.

PyAV (which brings its own FFmpeg) decodes frame by frame, because header durations lie: a four-hour silence
is a 3 MB FLAC, and a truncated MP3 still claims its full length. The cap therefore counts decoded samples.

Shapes: C channels, N samples.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from asr.errors import AudioTooLongError, EmptyAudioError, UnreadableAudioError
from asr.raw_audio import RawAudio
from asr.resampling import Resampler

SAMPLE_RATE = 16000

Samples = NDArray[np.float32]  # (n_samples,), mono, nominally in -1..1
Content = bytes | str | Path | BinaryIO  # a file's bytes, its path, or the open file, which can seek

# By content, not by name. HLS playlists and concat scripts can name other files: they are not on the list.
CONTAINERS = "wav,flac,mp3,ogg,mov,matroska"
# FFmpeg has hundreds of decoders, and a Matroska file may ask for any; those that nobody records speech with
# are only ways to crash.
_LINEAR = ["u8", "s8", "s16le", "s16be", "s24le", "s24be", "s32le", "s32be", "f32le", "f32be", "f64le"]
_OTHERS = [
    "g722",
    "flac",
    "mp3",
    "mp3float",
    "vorbis",
    "opus",
    "libopus",
    "aac",
    "alac",
    "amrnb",
    "libopencore_amrnb",
]
CODECS = frozenset([*(f"pcm_{kind}" for kind in (*_LINEAR, "alaw", "mulaw")), *_OTHERS])
RATES_HZ = (4000, 384_000)  # a header may claim 1 Hz, and one byte would become 16000 samples
LOUDEST = 1e5  # float files may hold anything; its square must stay a number in the features


@dataclass(frozen=True)
class AudioFile:
    """A recording and how it is read."""

    content: Content
    raw: RawAudio | None = None  # what the bytes are where they have no header
    channel: int | None = None  # from 0; None: all of them, averaged


Source = Content | AudioFile


def read_audio(source: Source, *, max_duration_s: float) -> Samples:
    """Decode a recording to one channel.

    max_duration_s: seconds of audio, the most that may be decoded. Returns float32 samples (n_samples,), mono
    (channels averaged) at 16 kHz, nominally in -1..1. Raises EmptyAudioError, UnreadableAudioError or
    AudioTooLongError.
    """
    return np.concatenate(list(read_pieces(source, max_duration_s=max_duration_s)))


def read_pieces(
    source: Source, *, max_duration_s: float, on_claim: Callable[[float], None] | None = None
) -> Iterator[Samples]:
    """The same samples as `read_audio`'s, some milliseconds at a time: an hour need not be held.

    on_claim: told the seconds that the header claims, if it does. At least one piece. Raises the same errors,
    while the pieces are taken.
    """
    file = source if isinstance(source, AudioFile) else AudioFile(source)
    max_samples = int(max_duration_s * SAMPLE_RATE)
    n_samples = 0
    for piece_CN in _decoded_pieces(_opened(file.content), file.raw, on_claim):
        n_samples += piece_CN.shape[1]
        if n_samples > max_samples:
            raise AudioTooLongError(f"the recording is longer than {max_duration_s:g} s")
        yield _one_channel(_bounded(piece_CN), file.channel)
    if not n_samples:
        raise EmptyAudioError("the file holds no audio samples")


def count_channels(source: Source) -> int:
    """How many channels the recording begins with. Raises EmptyAudioError, UnreadableAudioError."""
    file = source if isinstance(source, AudioFile) else AudioFile(source)
    for piece_CN in _decoded_pieces(_opened(file.content), file.raw):
        return len(piece_CN)
    raise EmptyAudioError("the file holds no audio samples")


def _bounded(piece_CN: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without NaN and infinities, which a float WAV may hold: they would spread over the whole utterance."""
    if not (piece_CN.min() >= -LOUDEST and piece_CN.max() <= LOUDEST):  # so asked, NaN is caught
        np.nan_to_num(piece_CN, copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
        np.clip(piece_CN, -LOUDEST, LOUDEST, out=piece_CN)
    return piece_CN


def _one_channel(piece_CN: NDArray[np.float32], channel: int | None) -> Samples:
    """(N,). Raises UnreadableAudioError when there is no such channel."""
    if channel is None and len(piece_CN) > 1:
        mixed: Samples = piece_CN.mean(axis=0)
        return mixed
    channel = channel or 0
    if channel >= len(piece_CN):
        raise UnreadableAudioError("the recording's number of channels changes on the way")
    chosen: Samples = piece_CN[channel]
    return chosen


def _opened(source: Content) -> BinaryIO | str:
    """What PyAV opens. Raises EmptyAudioError, UnreadableAudioError."""
    if isinstance(source, bytes):
        if not source:
            raise EmptyAudioError("the file is empty")
        return io.BytesIO(source)
    if not isinstance(source, str | Path):
        if source.seek(0, io.SEEK_END) == 0:
            raise EmptyAudioError("the file is empty")
        source.seek(0)
        return source
    path = Path(source)
    if not path.is_file():
        raise UnreadableAudioError(f"{path.name} is not a file")
    if path.stat().st_size == 0:
        raise EmptyAudioError("the file is empty")
    return str(path)


def _decoded_pieces(
    opened: BinaryIO | str, raw: RawAudio | None, on_claim: Callable[[float], None] | None = None
) -> Iterator[NDArray[np.float32]]:
    """(C, N) pieces at 16 kHz, in order.

    Ends early, without an error, where a file is cut off mid-stream.
    """
    demuxer = None if raw is None else raw.demuxer
    options = {"format_whitelist": CONTAINERS, "codec_whitelist": ",".join(sorted(CODECS))}
    if raw is not None:
        options |= {"format_whitelist": raw.demuxer} | raw.options
    try:
        with av.open(opened, "r", format=demuxer, options=options) as container:
            if on_claim is not None and container.duration:
                on_claim(container.duration / av.time_base)
            yield from _resampled_frames(_frames(container))
    except av.error.FFmpegError as error:
        raise UnreadableAudioError("the file is not audio that we can read") from error
    except (ValueError, UnicodeDecodeError, MemoryError, OverflowError) as error:  # seen on fuzzed headers
        raise UnreadableAudioError("the file is not audio that we can read") from error


def _frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """The first audio stream's frames. Raises UnreadableAudioError when not even one can be decoded."""
    if not container.streams.audio:
        raise UnreadableAudioError("the file holds no audio stream")
    stream = container.streams.audio[0]
    codec = None if stream.codec_context is None else stream.codec_context.name
    if codec not in CODECS:
        raise UnreadableAudioError(f"the file's audio is coded as {codec}, which is not read")
    started = False
    frames = container.decode(stream)
    while True:
        try:
            frame = next(frames)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            if started:  # a damaged tail: what was decoded before it stands
                return
            raise UnreadableAudioError("the file cannot be decoded as audio") from error
        started = True
        yield frame


def _resampled_frames(frames: Iterator[av.AudioFrame]) -> Iterator[NDArray[np.float32]]:
    """The frames as (C, N) at 16 kHz; format, channels and rate may change on the way."""
    resampler: Resampler | None = None
    for frame in frames:
        if resampler is None or not resampler.takes(frame):
            if resampler is not None:
                yield from resampler.finish()
            if not RATES_HZ[0] <= frame.sample_rate <= RATES_HZ[1]:
                raise UnreadableAudioError(f"the recording has a sample rate of {frame.sample_rate} Hz")
            # Channels are averaged later, unscaled.
            resampler = Resampler(frame, SAMPLE_RATE)
        if resampler.push(frame):
            yield from resampler.ready()
    if resampler is not None:
        yield from resampler.finish()
