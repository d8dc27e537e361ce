"""Under load: a bounded queue, callers who leave, time-outs, shutdown; and starting up."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from asr.errors import ChecksumError
from service.app import create_app
from service.errors import BusyError, CallerLeftError, UploadTimeoutError
from service.settings import Settings
from service.upload_limit import UploadLimit
from tests.scripted_speech import PATIENCE_S, ScriptedSpeech, metric, serving, wait_for


@pytest.fixture
def closed() -> ScriptedSpeech:
    """A model that does not answer until its gate is opened."""
    speech = ScriptedSpeech()
    speech.gate.clear()
    return speech


def test_health_answers_while_every_worker_works(closed: ScriptedSpeech, recording: bytes) -> None:
    with serving(closed, Settings(workers=1)) as client, ThreadPoolExecutor(1) as callers:
        answer = callers.submit(client.post, "/transcribe", files={"file": recording})
        assert closed.entered.acquire(timeout=PATIENCE_S)
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").status_code == 200
        assert metric(client, "asr_in_flight") == 1
        closed.gate.set()
        assert answer.result().status_code == 200
        wait_for(lambda: metric(client, "asr_in_flight") == 0)


def test_full_queue_answers_at_once(closed: ScriptedSpeech, recording: bytes) -> None:
    # Two workers: the second recording is measured while the first one keeps its worker.
    with serving(closed, Settings(workers=2, max_queued_s=2)) as client, ThreadPoolExecutor(2) as callers:
        answers = [callers.submit(client.post, "/transcribe", files={"file": recording}) for _ in range(2)]
        wait_for(lambda: metric(client, "asr_in_flight_audio_seconds") == 2)

        def body():
            pytest.fail("the body of a refused request was read")
            yield b""

        response = client.post("/transcribe", content=body())
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "busy"
        assert int(response.headers["Retry-After"]) >= 1
        assert metric(client, 'asr_rejected_total{reason="budget"}') == 1
        closed.gate.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert client.post("/transcribe", files={"file": recording}).status_code == 200


def test_no_result_in_time(closed: ScriptedSpeech, recording: bytes) -> None:
    with serving(closed, Settings(timeout_s=0.05)) as client:
        response = client.post("/transcribe", files={"file": recording})
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "timeout"
        assert client.get("/healthz").status_code == 200
        closed.gate.set()


def test_until_the_models_are_loaded_the_service_says_why_not(recording: bytes) -> None:
    gate = threading.Event()

    def load(_: Settings) -> ScriptedSpeech:
        assert gate.wait(PATIENCE_S)
        return ScriptedSpeech()

    with TestClient(create_app(Settings(), load)) as client:
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "being loaded" in ready.json()["reasons"][0]
        for response in (client.post("/transcribe", files={"file": recording}), client.get("/v1/models")):
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "not_ready"
            assert "Retry-After" in response.headers
        gate.set()
        wait_for(lambda: client.get("/readyz").json() == {"ready": True, "reasons": []})
        assert metric(client, "asr_model_info") == 1


def test_failed_load_and_failed_self_test_are_said() -> None:
    class Unwell(ScriptedSpeech):
        def self_test(self) -> None:
            raise ChecksumError("ngram.bin has 3 bytes")

    def load_fails(_: Settings) -> ScriptedSpeech:
        raise ChecksumError("ngram.bin has 3 bytes")

    for load in (load_fails, lambda _: Unwell()):
        failures: list[Exception] = []
        with TestClient(create_app(Settings(), load, failures.append)) as client:
            wait_for(lambda failures=failures: len(failures) == 1)
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert "ngram.bin has 3 bytes" in ready.json()["reasons"][0]


def test_models_are_listed() -> None:
    with serving(settings=Settings(default_decoder="greedy")) as client:
        body = client.get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert model.pop("created") > 0
    assert model == {
        "id": "scripted",
        "object": "model",
        "owned_by": "asr-sound",
        "sha256": "5" * 64,
        "device": "cpu",
        "sample_rate": 16000,
        "decoders": ["greedy", "beam_lm", "beam_lm_rescore"],
        "default_decoder": "greedy",
        "lms": ["default", "legal"],
    }


def test_metrics_count_what_happened(recording: bytes) -> None:
    with serving() as client:
        assert metric(client, "asr_blank_share_count") == 0
        client.post("/transcribe?decoder=greedy", files={"file": recording})
        client.post("/transcribe?decoder=greedy", files={"file": b""})
        client.get("/no/such/path")
        ok = 'asr_requests_total{decoder="greedy",endpoint="/transcribe",status="200"}'
        assert metric(client, ok) == 1
        assert metric(client, ok.replace("200", "400")) == 1
        assert metric(client, 'asr_requests_total{decoder="",endpoint="other",status="404"}') == 1
        assert metric(client, 'asr_failures_total{code="empty_audio"}') == 1
        assert metric(client, "asr_audio_seconds_total") == 1.0
        assert metric(client, 'asr_stage_seconds_sum{stage="decoding"}') == pytest.approx(0.003)
        assert metric(client, 'asr_real_time_factor_sum{decoder="greedy"}') == pytest.approx(0.006)
        assert metric(client, "asr_queue_wait_seconds_count") == 1
        assert metric(client, "asr_wait_error_seconds_count") == 1
        assert metric(client, 'asr_batch_size_sum{stage="acoustic"}') == 1
        assert metric(client, 'asr_batch_padded_fraction_sum{stage="acoustic"}') == 0
        assert metric(client, 'asr_decoders_total{asked="greedy",used="greedy"}') == 1
        assert metric(client, "asr_blank_share_sum") == 0.5
        assert metric(client, "asr_lm_perplexity_sum") == 200
        assert metric(client, "asr_unknown_word_share_count") == 1
        assert metric(client, "asr_word_confidence_count") == 0
        assert metric(client, "asr_silent_share_count") == metric(client, "asr_clipped_share_count") == 1


# The door by itself: what a test client cannot send.


def test_slow_and_broken_uploads_are_refused_and_give_their_place_back() -> None:
    async def read_all(scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        assert (await receive())["type"] == "http.disconnect"

    def check_room(uploading: int) -> None:
        if uploading:
            raise BusyError("an upload is being read", retry_after_s=1)

    async def check() -> None:
        limit = UploadLimit(
            read_all,
            max_bytes=10,
            timeout_s=0.01,
            guards={"/transcribe": check_room},
        )
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/transcribe",
            "headers": [],
            "state": {"request_id": "1"},
        }
        answered: list[dict] = []

        async def send(message) -> None:
            answered.append(message)

        slow = asyncio.create_task(limit(scope, asyncio.Event().wait, send))
        await asyncio.sleep(0)
        await limit(scope, asyncio.Event().wait, send)
        assert answered[0]["status"] == 429
        with pytest.raises(UploadTimeoutError):
            await slow
        messages = iter([{"type": "http.disconnect"}])

        async def receive() -> dict:
            return next(messages)

        with pytest.raises(CallerLeftError):
            await limit(scope, receive, send)
        messages = iter([{"type": "http.request", "body": b"x"}, {"type": "http.disconnect"}])
        await limit(scope, receive, send)

    asyncio.run(check())
