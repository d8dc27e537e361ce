"""Recordings of every container, damaged and hostile files, and the cap on decoded samples."""

import io
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import SAMPLE_RATE, read_audio
from asr.errors import AudioError, AudioTooLongError, EmptyAudioError, UnreadableAudioError

# container, codec, sample rate, layout, sample format
FORMATS = {
    "wav": ("wav", "pcm_s16le", 16000, "mono", "s16"),
    "wav-48k-stereo": ("wav", "pcm_s16le", 48000, "stereo", "s16"),
    "wav-8k-mulaw": ("wav", "pcm_mulaw", 8000, "mono", "s16"),
    "wav-8k": ("wav", "pcm_s16le", 8000, "mono", "s16"),
    "wav-8k-alaw": ("wav", "pcm_alaw", 8000, "mono", "s16"),
    "wav-8-bit": ("wav", "pcm_u8", 22050, "mono", "u8"),
    "wav-24-bit": ("wav", "pcm_s24le", 48000, "stereo", "s32"),
    "wav-32-bit": ("wav", "pcm_s32le", 32000, "mono", "s32"),
    "wav-float": ("wav", "pcm_f32le", 44100, "mono", "flt"),
    "wav-double": ("wav", "pcm_f64le", 44100, "mono", "dbl"),
    "wav-g722": ("wav", "g722", 16000, "mono", "s16"),
    "flac": ("flac", "flac", 48000, "stereo", "s16"),
    "mp3": ("mp3", "libmp3lame", 44100, "mono", "s16p"),
    "opus": ("ogg", "libopus", 48000, "mono", "s16"),
    "m4a": ("ipod", "aac", 44100, "mono", "fltp"),
    "m4a-lossless": ("ipod", "alac", 44100, "mono", "s16p"),
    "webm": ("webm", "libopus", 48000, "stereo", "s16"),
}
SECONDS = 2.0


def encoded(
    container: str, codec: str, rate: int, layout: str, sample_format: str, seconds: float = SECONDS
) -> bytes:
    """A 440 Hz tone at half amplitude in the given container and codec."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    channels = 2 if layout == "stereo" else 1
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        interleaved = np.repeat((tone * 32767).astype(np.int16), channels)[None, :]
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            sample_format, layout, rate, frame_size=stream.codec_context.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_tone(name: str, tmp_path: Path) -> None:
    content = encoded(*FORMATS[name])
    samples = read_audio(content, max_duration_s=10)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(SECONDS * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    middle = samples[4000:28000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * SAMPLE_RATE / len(middle) == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    path = tmp_path / "named.by.nothing"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_audio(path, max_duration_s=10), samples)


def test_m4a_with_its_index_at_the_end_is_read() -> None:
    content = encoded(*FORMATS["m4a"])
    assert content.index(b"moov") > content.index(b"mdat")
    assert len(read_audio(content, max_duration_s=10)) > 1.9 * SAMPLE_RATE


def test_16k_wav_is_bit_exact() -> None:
    ramp = np.arange(-16000, 16000, dtype=np.int16)
    buffer = io.BytesIO()
    import wave

    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(ramp.tobytes())
    np.testing.assert_array_equal(read_audio(buffer.getvalue(), max_duration_s=10), ramp / np.float32(32768))


def test_empty_file() -> None:
    with pytest.raises(EmptyAudioError, match="empty"):
        read_audio(b"", max_duration_s=10)


@pytest.mark.parametrize(
    "content",
    [
        b"hello, I am a text file\n" * 50,
        b"\x00" * 4096,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        encoded(*FORMATS["flac"])[:30],
    ],
    ids=["text", "zeros", "hls-playlist", "concat-script", "header-only"],
)
def test_what_is_not_audio_is_refused(content: bytes) -> None:
    with pytest.raises(AudioError):
        read_audio(content, max_duration_s=10)


def test_missing_path_is_refused_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreadableAudioError, match=r"^absent\.wav"):
        read_audio(tmp_path / "absent.wav", max_duration_s=10)


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "webm"])
def test_truncated_file_keeps_what_was_decoded(name: str) -> None:
    content = encoded(*FORMATS[name])
    try:
        samples = read_audio(content[: len(content) // 2], max_duration_s=10)
    except AudioError:
        pytest.fail("half a file decodes partially")
    assert 0.3 * SAMPLE_RATE < len(samples) < 1.7 * SAMPLE_RATE


def test_duration_is_capped_on_decoded_samples_in_bounded_memory() -> None:
    four_hours = _long_silence(4 * 3600)
    assert len(four_hours) < 4_000_000
    tracemalloc.start()
    with pytest.raises(AudioTooLongError, match="60 s"):
        read_audio(four_hours, max_duration_s=60)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 60 * SAMPLE_RATE * 4 + len(four_hours)


def _long_silence(seconds: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as out:
        stream = out.add_stream("flac", rate=8000, layout="mono")
        block = np.zeros((1, 4608 * 50), np.int16)
        for _ in range(seconds * 8000 // block.shape[1]):
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate = 8000
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def test_nan_in_a_float_wav_does_not_spread() -> None:
    content = bytearray(encoded("wav", "pcm_f32le", 16000, "mono", "flt"))
    content[-4000:-3996] = np.float32(np.nan).tobytes()
    assert np.isfinite(read_audio(bytes(content), max_duration_s=10)).all()


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.sampled_from(sorted(FORMATS)), st.integers(0, 2**31))
def test_damaged_bytes_give_samples_or_an_audio_error(noise: bytes, name: str, seed: int) -> None:
    content = bytearray(_CLEAN[name])
    start = seed % len(content)
    content[start : start + len(noise)] = noise
    try:
        samples = read_audio(bytes(content), max_duration_s=5)
    except AudioError:
        return
    assert np.isfinite(samples).all()
    assert len(samples) <= 5 * SAMPLE_RATE


_CLEAN = {name: encoded(*spec, seconds=0.3) for name, spec in FORMATS.items()}
