"""Audio without a header, channels one by one, and what may be asked of a decoder."""

import io
import wave
from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import LOUDEST, SAMPLE_RATE, AudioFile, count_channels, read_audio, read_pieces
from asr.errors import AudioError, EmptyAudioError, UnreadableAudioError
from asr.raw_audio import RawAudio, raw_audio
from tests.test_audio import FORMATS, encoded


def as_type(content: bytes, content_type: str) -> np.ndarray:
    """The samples of bytes that come with a media type."""
    return read_audio(AudioFile(content, raw_audio(content_type)), max_duration_s=10)


RAMP = np.arange(-16000, 16000, dtype=np.int16)


@pytest.mark.parametrize(
    ("content_type", "dtype", "scale"),
    [
        ("audio/L16;rate=16000", ">i2", 1),
        ("audio/l16; rate=16000; channels=1; endianness=little-endian", "<i2", 1),
        ("audio/pcm;rate=16000", "<i2", 1),
        ("audio/pcm;rate=16000;encoding=s16be", ">i2", 1),
        ("audio/pcm;rate=16000;encoding=s32le", "<i4", 65536),
        ("audio/pcm;rate=16000;encoding=f32le", "<f4", 1 / 32768),
    ],
)
def test_raw_pcm_by_content_type(content_type: str, dtype: str, scale: float) -> None:
    content = (RAMP.astype(np.float64) * scale).astype(dtype).tobytes()
    samples = as_type(content, content_type)
    np.testing.assert_array_equal(samples, RAMP / np.float32(32768))


def test_raw_24_bit_and_8_bit() -> None:
    wide = (RAMP.astype("<i4") * 256).view(np.uint8).reshape(-1, 4)[:, :3]
    samples = as_type(wide.tobytes(), "audio/pcm;rate=16000;encoding=s24le")
    np.testing.assert_array_equal(samples, RAMP / np.float32(32768))
    samples = as_type(bytes([0, 64, 128, 192]), "audio/L8;rate=16000")
    np.testing.assert_array_equal(samples, np.float32([-1, -0.5, 0, 0.5]))


@pytest.mark.parametrize(("content_type", "codec"), [("audio/PCMU", "pcm_mulaw"), ("audio/PCMA", "pcm_alaw")])
def test_raw_telephone_audio_is_what_a_wav_of_it_is(content_type: str, codec: str) -> None:
    wav = encoded("wav", codec, 8000, "mono", "s16")
    payload = wav[wav.index(b"data") + 8 :]
    np.testing.assert_array_equal(
        as_type(payload, content_type),
        read_audio(wav, max_duration_s=10),
    )


def test_raw_g722() -> None:
    wav = encoded("wav", "g722", 16000, "mono", "s16")
    samples = as_type(wav[wav.index(b"data") + 8 :], "audio/G722")
    assert len(samples) == pytest.approx(2 * SAMPLE_RATE, abs=400)


@pytest.mark.parametrize("channels", [1, 2, 3, 10])
def test_raw_channels_are_interleaved(channels: int) -> None:
    frames = np.tile(1000 * np.arange(channels), (1600, 1)).astype(">i2")
    file = AudioFile(frames.tobytes(), raw_audio(f"audio/L16;rate=16000;channels={channels}"))
    assert count_channels(file) == channels
    mixed = read_audio(file, max_duration_s=10)
    np.testing.assert_allclose(mixed, np.full(1600, 1000 * (channels - 1) / 2 / 32768), atol=1e-6)
    for channel in range(channels):
        (level,) = set(read_audio(replace(file, channel=channel), max_duration_s=10).tolist())
        assert round(level * 32768) == 1000 * channel


@pytest.mark.parametrize(
    ("content_type", "named"),
    [
        ("audio/L16", "rate"),
        ("audio/pcm;rate=1", "rate"),
        ("audio/pcm;rate=-16000", "rate"),
        ("audio/pcm;rate=" + "9" * 30, "rate"),
        ("audio/pcm;rate=16000;channels=0", "channels"),
        ("audio/pcm;rate=16000;channels=65", "channels"),
        ("audio/pcm;rate=16000;encoding=opus", "encoding"),
        ("audio/L16;rate=16000;endianness=middle", "endianness"),
    ],
)
def test_raw_type_that_says_too_little_or_too_much(content_type: str, named: str) -> None:
    with pytest.raises(UnreadableAudioError, match=named):
        raw_audio(content_type)


@pytest.mark.parametrize(
    "content_type", ["", "audio/wav", "application/octet-stream", "rubbish", "audio/basic"]
)
def test_other_types_are_not_believed(content_type: str) -> None:
    assert raw_audio(content_type) is None


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_content_type_is_refused_or_read(text: str) -> None:
    for content_type in (text, f"audio/pcm;{text}"):
        try:
            found = raw_audio(content_type)
        except UnreadableAudioError:
            continue
        assert found is None or isinstance(found, RawAudio)


def test_stereo_is_mixed_or_read_one_by_one() -> None:
    time_s = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    left, right = 0.5 * np.sin(2 * np.pi * 300 * time_s), 0.25 * np.sin(2 * np.pi * 700 * time_s)
    content = _wav(np.stack([left, right]))
    assert count_channels(content) == 2
    for channel, expected in enumerate((left, right)):
        np.testing.assert_allclose(
            read_audio(AudioFile(content, channel=channel), max_duration_s=10), expected, atol=1e-4
        )
    np.testing.assert_allclose(read_audio(content, max_duration_s=10), (left + right) / 2, atol=1e-4)
    with pytest.raises(UnreadableAudioError, match="channels"):
        read_audio(AudioFile(content, channel=2), max_duration_s=10)
    with pytest.raises(EmptyAudioError):
        count_channels(b"")


def test_file_objects_and_pieces_give_the_same_samples() -> None:
    content = encoded(*FORMATS["m4a"])
    expected = read_audio(content, max_duration_s=10)
    np.testing.assert_array_equal(read_audio(io.BytesIO(content), max_duration_s=10), expected)
    pieces = list(read_pieces(io.BytesIO(content), max_duration_s=10))
    assert len(pieces) > 1
    np.testing.assert_array_equal(np.concatenate(pieces), expected)


def test_content_decides_not_the_name(tmp_path) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(encoded(*FORMATS["opus"]))
    assert len(read_audio(path, max_duration_s=10)) > SAMPLE_RATE


@pytest.mark.parametrize(
    ("container", "codec", "sample_format"), [("matroska", "ac3", "fltp"), ("wav", "adpcm_ms", "s16")]
)
def test_codecs_off_the_list_are_refused_by_name(container: str, codec: str, sample_format: str) -> None:
    content = encoded(container, codec, 44100, "mono", sample_format)
    with pytest.raises(UnreadableAudioError, match=codec):
        read_audio(content, max_duration_s=10)


def test_a_recording_of_many_channels_does_not_kill_the_process() -> None:
    """PyAV 18.1 reads beyond its array of planes where a planar frame has more than eight of them."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(64)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(bytes(64 * 2 * SAMPLE_RATE))
    samples = read_audio(file.getvalue(), max_duration_s=10)
    assert len(samples) == SAMPLE_RATE
    assert not samples.any()


def test_a_sample_rate_of_one_hertz_does_not_become_gigabytes() -> None:
    content = bytearray(encoded(*FORMATS["wav"]))
    content[24:28] = (1).to_bytes(4, "little")
    with pytest.raises(UnreadableAudioError, match="sample rate of 1 Hz"):
        read_audio(bytes(content), max_duration_s=1e9)


def test_a_film_is_heard_not_seen() -> None:
    """A browser's webm may hold a picture too; no decoder of pictures runs."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as out:
        picture = out.add_stream("libvpx", rate=25, width=64, height=64, pix_fmt="yuv420p")
        sound = out.add_stream("libopus", rate=48000, layout="mono")
        for _ in range(25):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), "yuv420p")))
        frame = av.AudioFrame.from_ndarray(np.full((1, 48000), 3000, np.int16), "s16", "mono")
        frame.sample_rate = 48000
        for piece in av.AudioResampler("s16", "mono", 48000, frame_size=960).resample(frame):
            out.mux(sound.encode(piece))
        out.mux(sound.encode(None))
        out.mux(picture.encode(None))
    assert len(read_audio(file.getvalue(), max_duration_s=10)) == pytest.approx(SAMPLE_RATE, abs=1600)


def test_loud_float_samples_stay_numbers_in_the_features() -> None:
    loud = np.array([1e38, -1e38, np.inf, np.nan] * 4000, dtype=np.float32)
    samples = as_type(loud.tobytes(), "audio/pcm;rate=16000;encoding=f32le")
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= LOUDEST


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_raw_audio(content: bytes) -> None:
    for content_type in (
        "audio/L16;rate=8000;channels=3",
        "audio/PCMU",
        "audio/G722",
        "audio/pcm;rate=48000",
    ):
        try:
            samples = as_type(content, content_type)
        except AudioError:
            continue
        assert np.isfinite(samples).all()


def _wav(samples_CN: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as out:
        stream = out.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="stereo")
        interleaved = (samples_CN.T * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout="stereo")
        frame.sample_rate = SAMPLE_RATE
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()
