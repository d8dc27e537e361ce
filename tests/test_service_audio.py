"""Recordings as they come over HTTP: bodies without a form, raw PCM, channels."""

import io
import wave

import numpy as np
import pytest
from fastapi.testclient import TestClient

from asr.audio import SAMPLE_RATE
from service.settings import Settings
from tests.scripted_speech import SECRET, ScriptedSpeech, metric, serving
from tests.test_audio import FORMATS, encoded
from tests.test_service_refusals import refusal


@pytest.fixture(scope="module")
def client():
    with serving(settings=Settings(max_duration_s=30)) as client:
        yield client


def body(client: TestClient, content: bytes, content_type: str, query: str = ""):
    return client.post(f"/transcribe?{query}", content=content, headers={"Content-Type": content_type})


def wav(channels: int, seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(bytes(2 * channels * round(seconds * SAMPLE_RATE)))
    return file.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_by_content_whatever_its_name(client: TestClient, name: str) -> None:
    content = encoded(*FORMATS[name])
    for file in (("speech.txt", content, "text/plain"), ("speech.mp3", content, "audio/mpeg")):
        answer = client.post("/transcribe", files={"file": file})
        assert answer.status_code == 200, answer.text
        assert answer.json()["duration_s"] == pytest.approx(2, abs=0.1)
    assert body(client, content, "application/octet-stream").json()["text"] == SECRET


def test_raw_pcm_as_the_body_and_in_a_form(client: TestClient) -> None:
    content = np.zeros(2 * 8000, dtype=">i2").tobytes()
    assert body(client, content, "audio/L16;rate=8000;channels=2").json()["duration_s"] == 1.0
    assert body(client, content, "audio/pcm;rate=16000").json()["duration_s"] == 1.0
    form = {"file": ("a", content, "audio/pcm;rate=8000")}
    assert client.post("/transcribe", files=form).json()["duration_s"] == 2.0
    refusal(body(client, content, "audio/L16"), 415, "unreadable_audio")
    refusal(body(client, b"", "audio/pcm;rate=16000"), 400, "empty_audio")
    refusal(body(client, bytes(31 * 2 * 8000), "audio/pcm;rate=8000"), 413, "audio_too_long")


def test_m4a_with_its_index_at_the_end_has_text(client: TestClient) -> None:
    """Others answer 200 and an empty text."""
    content = encoded(*FORMATS["m4a"])
    assert content.index(b"moov") > content.index(b"mdat")
    assert client.post("/transcribe", files={"file": content}).json()["text"] == SECRET


def test_channels_one_by_one(client: TestClient) -> None:
    stereo = wav(2)
    answer = client.post(
        "/transcribe?channels=separate&nbest=2&timestamps=word", files={"file": stereo}
    ).json()
    assert answer["text"] == f"{SECRET}\n{SECRET}"
    assert (answer["words"], answer["hypotheses"], answer["duration_s"]) == ([], [], 1.0)
    assert len(answer["channels"]) == 2
    for channel in answer["channels"]:
        parts = {"text", "words", "rescoring", "hypotheses", "hotword_receipts", "lm_text"}
        assert channel.keys() == parts
        assert channel["text"] == SECRET
        assert len(channel["hypotheses"]) == 2
        assert len(channel["words"]) == 1
    mixed = client.post("/transcribe", files={"file": stereo}).json()
    assert (mixed["text"], mixed["channels"]) == (SECRET, [])
    refusal(client.post("/transcribe?channels=separate", files={"file": wav(9)}), 422, "invalid_option")


def test_separate_channels_are_what_their_own_files_are(recording: bytes) -> None:
    with wave.open(io.BytesIO(recording)) as file:
        mono = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(np.stack([mono, mono[::-1]], axis=1).tobytes())
    heard: list[np.ndarray] = []

    class Listening(ScriptedSpeech):
        def prepare_samples(self, samples, timings_ms=None):
            heard.append(samples)
            return super().prepare_samples(samples, timings_ms)

    with serving(Listening()) as client:
        client.post("/transcribe?channels=separate", files={"file": buffer.getvalue()})
        assert metric(client, "asr_audio_seconds_total") == 2.0
    np.testing.assert_array_equal(heard[0], mono / np.float32(32768))
    np.testing.assert_array_equal(heard[1], mono[::-1] / np.float32(32768))
