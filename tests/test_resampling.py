"""Our own filter graph against PyAV's resampler, which looks for output after every frame."""

import io

import av
import numpy as np
import pytest

from asr.audio import SAMPLE_RATE
from asr.resampling import Resampler
from tests.test_audio import FORMATS, encoded


@pytest.mark.parametrize("name", ["opus", "mp3", "wav-8k-mulaw", "wav", "wav-48k-stereo", "wav-double"])
def test_the_same_samples_as_pyavs_resampler(name: str) -> None:
    frames = decoded(encoded(*FORMATS[name], seconds=5.03))
    theirs = av.AudioResampler("flt", rate=SAMPLE_RATE, frame_size=8000)
    expected = [out.to_ndarray() for frame in [*frames, None] for out in theirs.resample(frame)]
    ours = Resampler(frames[0], SAMPLE_RATE)
    found = [piece for frame in frames if ours.push(frame) for piece in ours.ready()]
    assert found  # some of it is there before the end
    found += ours.finish()
    interleaved = np.concatenate(expected, axis=1).reshape(-1, frames[0].layout.nb_channels)
    np.testing.assert_array_equal(np.concatenate(found, axis=1), interleaved.T)


def test_it_takes_frames_of_its_own_kind_only() -> None:
    first, of_kind = decoded(encoded(*FORMATS["wav-48k-stereo"]))[:2]
    ours = Resampler(first, SAMPLE_RATE)
    assert ours.takes(of_kind)
    for layout, sample_format, rate in (
        ("mono", "s16", 48000),
        ("stereo", "flt", 48000),
        ("stereo", "s16", 44100),
    ):
        other = av.AudioFrame(format=sample_format, layout=layout, samples=160)
        other.sample_rate = rate
        assert not ours.takes(other)


def test_nothing_comes_of_nothing() -> None:
    frames = decoded(encoded(*FORMATS["wav-8k"]))
    assert list(Resampler(frames[0], SAMPLE_RATE).finish()) == []


def decoded(content: bytes) -> list[av.AudioFrame]:
    with av.open(io.BytesIO(content)) as container:
        frames = list(container.decode(audio=0))
    for frame in frames:
        frame.pts = None
    return frames
