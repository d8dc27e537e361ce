"""Decoding in other processes: the same samples, and nobody hurt by what kills, hangs or is given up."""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE, AudioFile, count_channels, read_pieces
from asr.audio_worker import ANSWER, _answer, received
from asr.errors import AudioTooLongError, EmptyAudioError, UnreadableAudioError
from asr.raw_audio import RawAudio
from service.audio_pool import AudioPool
from service.settings import Settings
from tests.scripted_speech import SECRET, metric, serving
from tests.test_audio import FORMATS, encoded
from tests.test_service_refusals import refusal

WAV = encoded(*FORMATS["wav-48k-stereo"])
LONG = encoded("flac", "flac", 16000, "mono", "s16", seconds=60)


@pytest.fixture(scope="module")
def pool() -> Iterator[AudioPool]:
    pool = AudioPool(2)
    yield pool
    pool.close()


def samples_of(pool: AudioPool, source, max_duration_s: float = 100) -> np.ndarray:
    return np.concatenate(list(pool.read_pieces(source, max_duration_s=max_duration_s)))


def test_the_same_samples(pool: AudioPool, tmp_path: Path) -> None:
    path = tmp_path / "speech"
    path.write_bytes(WAV)
    raw = AudioFile(bytes(range(256)) * 20, RawAudio("s16le", 8000, 2))
    with tempfile.TemporaryFile() as big:
        big.write(encoded("wav", "pcm_s16le", 48000, "stereo", "s16", seconds=30))
        for source in (WAV, path, str(path), AudioFile(WAV, channel=1), raw, big, AudioFile(big)):
            expected = np.concatenate(list(read_pieces(source, max_duration_s=100)))
            np.testing.assert_array_equal(samples_of(pool, source), expected)
            assert pool.count_channels(source) == count_channels(source)


def test_the_same_refusals(pool: AudioPool, tmp_path: Path) -> None:
    for source, error in (
        (b"", EmptyAudioError),
        (b"rubbish", UnreadableAudioError),
        (tmp_path / "absent", UnreadableAudioError),
        (AudioFile(WAV, channel=7), UnreadableAudioError),
    ):
        with pytest.raises(error):
            samples_of(pool, source)
    with pytest.raises(AudioTooLongError, match="1 s"):
        samples_of(pool, WAV, max_duration_s=1)
    assert len(samples_of(pool, WAV)) == 2 * SAMPLE_RATE


def test_the_headers_claim(pool: AudioPool) -> None:
    claims: list[float] = []
    assert list(pool.read_pieces(LONG, max_duration_s=100, on_claim=claims.append))
    assert claims == pytest.approx([60])


def test_a_recording_that_kills_its_decoder_is_answered_and_hurts_nobody(
    monkeypatch: pytest.MonkeyPatch, recording: bytes
) -> None:
    """The service in one piece: 415 for the one, and the next is transcribed."""
    deadly = (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with serving(settings=Settings(isolate_audio=True)) as client:
        pool = client.app.state.service.engine._audio
        good = pool._command
        for worker in pool._idle:
            worker.end()
        pool._idle.clear()
        monkeypatch.setattr(pool, "_command", deadly)
        refusal(client.post("/transcribe", files={"file": recording}), 415, "unreadable_audio")
        assert metric(client, "asr_decoder_deaths_total") == 1
        monkeypatch.setattr(pool, "_command", good)
        assert client.post("/transcribe", files={"file": recording}).json()["text"] == SECRET


def test_processes_are_used_again(pool: AudioPool) -> None:
    samples_of(pool, WAV)
    before = {worker.pid for worker in pool._idle}
    for _ in range(3):
        samples_of(pool, WAV)
    assert {worker.pid for worker in pool._idle} == before


def test_a_recording_that_kills_its_decoder_is_refused_and_the_next_is_read() -> None:
    deaths: list[str] = []
    pool = AudioPool(1, on_death=lambda: deaths.append("one"))
    samples_of(pool, WAV)
    (worker,) = pool._idle
    pieces = pool.read_pieces(LONG, max_duration_s=100)
    next(pieces)
    os.kill(worker.pid, signal.SIGSEGV)
    with pytest.raises(UnreadableAudioError, match="decoder failed"):
        list(pieces)
    assert deaths == ["one"]
    assert len(samples_of(pool, LONG)) == 60 * SAMPLE_RATE
    pool.close()


def test_a_decoder_that_hangs_is_ended() -> None:
    sleeping = (sys.executable, "-c", "import time; time.sleep(1000)")
    pool = AudioPool(1, command=sleeping, patience_s=0.1)
    with pytest.raises(UnreadableAudioError, match="decoder failed"):
        samples_of(pool, WAV)
    assert not pool._idle


def test_a_recording_given_up_half_way_leaves_no_process_busy() -> None:
    pool = AudioPool(1)
    pieces = pool.read_pieces(LONG, max_duration_s=100)
    next(pieces)
    pieces.close()
    assert not pool._idle
    assert len(samples_of(pool, WAV)) == 2 * SAMPLE_RATE
    assert len(pool._idle) == 1
    pool.close()
    assert len(samples_of(pool, WAV)) == 2 * SAMPLE_RATE
    assert not pool._idle  # a closed pool keeps nobody


def test_samples_in_more_parts_than_the_system_takes_at_once_all_arrive() -> None:
    """A recording whose format changes all the time comes in pieces of a few samples."""
    pieces = [np.full(3, number, np.float32) for number in range(5000)]
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as other:
        sending = other.submit(_answer, theirs, b"S", *(piece.data.cast("B") for piece in pieces))
        kind, size = ANSWER.unpack(received(ours, ANSWER.size))
        found = np.frombuffer(received(ours, size), np.float32)
        sending.result()
    assert kind == b"S"
    np.testing.assert_array_equal(found, np.concatenate(pieces))
