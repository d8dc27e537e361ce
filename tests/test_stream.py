"""`WS /v1/stream`, and what it is made of: PCM in pieces, and pauses in a growing window."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect
from websockets.sync.client import connect

from asr.audio import SAMPLE_RATE, AudioFile, read_audio
from asr.decoding.options import DecodingOptions
from asr.endpoints import STREAM_WINDOWS, LiveWindow
from asr.errors import UnreadableAudioError
from asr.pcm_stream import PcmStream
from asr.raw_audio import RawAudio
from asr.transcriber import Transcriber
from service.app import create_app
from service.settings import Settings
from tests.live_server import live_server
from tests.scripted_speech import ScriptedSpeech, metric, serving, wait_for, wait_until_ready
from tests.test_long_audio import silence, speech, tones

FINISH = json.dumps({"type": "finish"})


def pcm(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def sent(client: TestClient, content: bytes, query: str = "", size: int = 6400) -> list[dict[str, Any]]:
    """Everything that the service says to a stream of this content."""
    with client.websocket_connect(f"/v1/stream?{query}") as socket:
        for start in range(0, len(content), size):
            socket.send_bytes(content[start : start + size])
        socket.send_text(FINISH)
        return list(until_closed(socket))


def until_closed(socket) -> Iterator[dict[str, Any]]:
    while True:
        try:
            yield socket.receive_json()
        except WebSocketDisconnect as end:
            yield {"type": "closed", "code": end.code}
            return


def test_partial_and_final_words() -> None:
    content = pcm(np.concatenate([speech(2), silence(1), speech(2, 1)]))
    scripted = ScriptedSpeech()
    with serving(scripted) as client:
        told = sent(client, content, "decoder=beam_lm&hotwords=ada&hotword_weight=2&lm=legal")
        assert metric(client, 'asr_requests_total{decoder="beam_lm",endpoint="/v1/stream",status="101"}') == 1
        assert metric(client, "asr_streams") == 0
    finals = [message for message in told if message["type"] == "final"]
    assert [message["segment"] for message in finals] == [0, 1]
    assert [message["text"] for message in finals] == ["attack", "attack"]
    assert finals[1]["start_s"] == finals[0]["end_s"] == pytest.approx(2.3, abs=0.1)
    assert finals[1]["words"][0]["start_s"] == pytest.approx(finals[1]["start_s"] + 0.1, abs=2e-3)
    assert told[-2:] == [{"type": "done", "duration_s": 5.0}, {"type": "closed", "code": 1000}]
    assert {message["type"] for message in told[:-2]} <= {"partial", "final"}
    assert (
        DecodingOptions("beam_lm", word_timestamps=True, hotwords=("ada",), hotword_weight=2.0, lm="legal")
        in scripted.calls
    )


def test_partial_words_come_while_somebody_speaks() -> None:
    with serving() as client, client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(pcm(speech(1)))
        first = socket.receive_json()
        assert (first["type"], first["text"], first["segment"]) == ("partial", "attack", 0)
        socket.send_text(FINISH)
        assert [message["type"] for message in until_closed(socket)] == ["final", "done", "closed"]


def test_without_partials() -> None:
    with serving() as client:
        told = sent(client, pcm(speech(3)), "partials=false")
    assert [message["type"] for message in told] == ["final", "done", "closed"]


def test_nothing_said() -> None:
    with serving() as client:
        assert [m["type"] for m in sent(client, b"")] == ["done", "closed"]
        assert [m["type"] for m in sent(client, pcm(np.zeros(20 * SAMPLE_RATE)))][-2:] == ["done", "closed"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("rate=1", "unreadable_audio"),
        ("rate=x", "unreadable_audio"),
        ("encoding=opus", "unreadable_audio"),
        ("channels=0", "unreadable_audio"),
        ("decoder=magic", "invalid_option"),
        ("hotword_weight=many", "invalid_option"),
        ("hotword_weight=nan", "invalid_option"),
        ("partials=perhaps", "invalid_option"),
        ("lm=other", "invalid_option"),
        ("&".join(["hotwords=a"] * 1001), "invalid_option"),
    ],
)
def test_wrong_parameters_are_answered(query: str, code: str) -> None:
    with serving() as client, client.websocket_connect(f"/v1/stream?{query}") as socket:
        error, closed = until_closed(socket)
    assert (error["type"], error["error"]["code"], closed["code"]) == ("error", code, 1008)


def test_messages_that_are_none() -> None:
    with serving() as client:
        for text in ("", "finish", "[]", '{"type": 5}', "\x00" * 100):
            with client.websocket_connect("/v1/stream") as socket:
                socket.send_text(text)
                error, closed = until_closed(socket)
            assert (error["error"]["code"], closed["code"]) == ("invalid_option", 1008)


def test_an_error_of_ours_keeps_its_text_and_hurts_no_other_stream() -> None:
    scripted = ScriptedSpeech(ZeroDivisionError("inner secret"))
    with serving(scripted) as client:
        error, closed = sent(client, pcm(speech(1)), "partials=false")
        assert (error["error"]["code"], closed["code"]) == ("internal_error", 1011)
        assert "secret" not in str(error)
        scripted.error = None
        assert sent(client, pcm(speech(1)), "partials=false")[0]["type"] == "final"


def test_streams_are_bounded_and_idle_ones_closed() -> None:
    with serving(settings=Settings(max_streams=1, stream_idle_s=0.2)) as client:
        with client.websocket_connect("/v1/stream") as socket:
            error, closed = sent(client, b"")
            assert (error["error"]["code"], closed["code"]) == ("too_many_streams", 1013)
            error, closed = until_closed(socket)
            assert (error["error"]["code"], closed["code"]) == ("idle_stream", 1008)
        wait_for(lambda: metric(client, "asr_streams") == 0)
        assert sent(client, b"")[0]["type"] == "done"


def test_a_stream_has_an_end() -> None:
    with serving(settings=Settings(max_duration_s=2)) as client:
        *_, error, closed = sent(client, pcm(speech(3)), "partials=false")
    assert (error["error"]["code"], closed["code"]) == ("audio_too_long", 1008)


def test_a_caller_who_leaves_frees_his_place() -> None:
    with serving(settings=Settings(max_streams=1)) as client:
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_bytes(pcm(speech(1)))
        wait_for(lambda: metric(client, "asr_streams") == 0)
        assert sent(client, b"")[0]["type"] == "done"


def test_final_words_are_what_their_own_file_gives(tiny_bundle: Path) -> None:
    said = tones(3, 400)
    settings = Settings(bundle=tiny_bundle, device="cpu")
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        final, *_ = sent(client, pcm(said), "partials=false&decoder=beam_lm")
    transcriber = Transcriber.load(tiny_bundle, device="cpu")
    content = AudioFile(pcm(said), RawAudio("s16le", SAMPLE_RATE))
    assert final["text"] == transcriber.transcribe(content, DecodingOptions("beam_lm")).text


def test_a_real_socket() -> None:
    with live_server() as address, connect(f"{address.replace('http', 'ws')}/v1/stream") as socket:
        socket.send(pcm(speech(1)))
        socket.send(FINISH)
        told = [json.loads(message) for message in socket]
    assert [message["type"] for message in told[-2:]] == ["final", "done"]


# The parts by themselves.


@pytest.mark.parametrize(
    "raw", [RawAudio("s16le", 16000), RawAudio("s24le", 48000, 2), RawAudio("mulaw", 8000)]
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pcm_in_pieces_is_the_file_at_once(raw: RawAudio, size: int) -> None:
    rng = np.random.default_rng(3)
    content = rng.integers(100, 140, size=6 * 500, dtype=np.uint8).tobytes()
    stream = PcmStream(raw)
    pieces = [stream.push(content[i : i + size]) for i in range(0, len(content), size)]
    together = np.concatenate([*pieces, stream.finish()])
    np.testing.assert_allclose(together, read_audio(AudioFile(content, raw), max_duration_s=10), atol=1e-6)


def test_what_cannot_be_streamed() -> None:
    with pytest.raises(UnreadableAudioError):
        PcmStream(RawAudio("g722"))


def test_a_window_is_cut_at_a_pause_and_no_sooner() -> None:
    window = LiveWindow()
    window.push(speech(3))
    assert window.cut() is None
    window.push(silence(0.4))
    assert window.cut() is None
    window.push(silence(0.4))
    assert window.cut() == pytest.approx(3.4 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


def test_a_window_without_pauses_is_cut_when_full() -> None:
    window = LiveWindow(replace(STREAM_WINDOWS, longest_s=5))
    said = speech(5)
    said[4 * SAMPLE_RATE : round(4.1 * SAMPLE_RATE)] *= 0.6
    window.push(said)
    assert window.room() == 0
    assert window.cut() == pytest.approx(4.05 * SAMPLE_RATE, abs=0.04 * SAMPLE_RATE)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.05, 3), st.sampled_from([0.0, 1e-3, 0.1])), max_size=12), st.integers(0, 9)
)
def test_every_sound_of_a_stream_is_in_one_cut(parts: list[tuple[float, float]], seed: int) -> None:
    window = LiveWindow(replace(STREAM_WINDOWS, longest_s=4))
    kept, end = 0.0, 0
    pushed = np.empty(0, np.float32)
    for i, (seconds, level) in enumerate(parts):
        samples = speech(seconds, seed + i, level)
        pushed = np.concatenate([pushed, samples])
        while len(samples):
            room = window.room()
            assert room > 0
            window.push(samples[:room])
            samples = samples[room:]
            while (cut := window.cut()) is not None:
                assert cut > 0
                assert window.start >= end
                taken = window.take(cut)
                end = window.start
                kept += float(np.square(taken).sum())
    kept += float(np.square(window.samples).sum())
    assert kept == pytest.approx(float(np.square(pushed).sum()), rel=1e-2, abs=1e-3)
