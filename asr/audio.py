"""Recordings of any common container to mono float32 at 16 kHz, in bounded memory.

PyAV (which brings its own FFmpeg) decodes frame by frame, because header durations lie: a four-hour silence
is a 3 MB FLAC, and a truncated MP3 still claims its full length. The cap therefore counts decoded samples.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from asr.errors import AudioTooLongError, EmptyAudioError, UnreadableAudioError

SAMPLE_RATE = 16000

Samples = NDArray[np.float32]  # (n_samples,), mono, nominally in -1..1

# By content, not by name. HLS playlists and concat scripts can name other files: they are not on the list.
CONTAINERS = "wav,flac,mp3,ogg,mov,matroska"


def read_audio(source: bytes | str | Path, *, max_duration_s: float) -> Samples:
    """Decode a recording.

    source: the file's bytes, or its path. max_duration_s: seconds of audio, the most that may be decoded.
    Returns float32 samples (n_samples,), mono (channels averaged) at 16 kHz, nominally in -1..1.
    Raises EmptyAudioError, UnreadableAudioError or AudioTooLongError.
    """
    if isinstance(source, bytes):
        if not source:
            raise EmptyAudioError("the file is empty")
        opened: io.BytesIO | str = io.BytesIO(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise UnreadableAudioError(f"{path.name} is not a file")
        if path.stat().st_size == 0:
            raise EmptyAudioError("the file is empty")
        opened = str(path)
    max_samples = int(max_duration_s * SAMPLE_RATE)
    chunks: list[Samples] = []
    n_samples = 0
    for chunk in _decoded_chunks(opened):
        n_samples += len(chunk)
        if n_samples > max_samples:
            raise AudioTooLongError(f"the recording is longer than {max_duration_s:g} s")
        chunks.append(chunk)
    if not n_samples:
        raise EmptyAudioError("the file holds no audio samples")
    samples = np.concatenate(chunks)
    # A float WAV may hold NaN or infinities; they would spread over the whole utterance.
    finite: Samples = np.nan_to_num(samples, copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
    return finite


def _decoded_chunks(opened: io.BytesIO | str) -> Iterator[Samples]:
    """Mono 16 kHz float32 pieces, in order.

    Ends early, without an error, where a file is cut off mid-stream.
    """
    try:
        with av.open(opened, "r", options={"format_whitelist": CONTAINERS}) as container:
            if not container.streams.audio:
                raise UnreadableAudioError("the file holds no audio stream")
            stream = container.streams.audio[0]
            resampler: AudioResampler | None = None
            layout = None
            started = False
            frames = container.decode(stream)
            while True:
                try:
                    frame = next(frames)
                except StopIteration:
                    break
                except av.error.FFmpegError as error:
                    if started:  # a damaged tail: what was decoded before it stands
                        break
                    raise UnreadableAudioError("the file cannot be decoded as audio") from error
                if resampler is None or layout != (frame.format.name, frame.layout.name, frame.sample_rate):
                    if resampler is not None:
                        yield from _resampled(resampler, None)
                    resampler = AudioResampler(
                        "fltp", rate=SAMPLE_RATE
                    )  # channels are averaged below, unscaled
                    layout = (frame.format.name, frame.layout.name, frame.sample_rate)
                frame.pts = None  # broken time stamps must not make the resampler drop or pad
                started = True
                yield from _resampled(resampler, frame)
            if resampler is not None:
                yield from _resampled(resampler, None)
    except av.error.FFmpegError as error:
        raise UnreadableAudioError("the file is not audio that we can read") from error
    except (ValueError, UnicodeDecodeError, MemoryError, OverflowError) as error:  # seen on fuzzed headers
        raise UnreadableAudioError("the file is not audio that we can read") from error


def _resampled(resampler: AudioResampler, frame: av.AudioFrame | None) -> Iterator[Samples]:
    for out in resampler.resample(frame):
        yield out.to_ndarray().mean(axis=0)
