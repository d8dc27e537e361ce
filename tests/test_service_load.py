"""Under load: a bounded queue, callers who leave, time-outs, shutdown; and starting up."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from asr.errors import ChecksumError
from service.app import create_app
from service.errors import BusyError, CallerLeftError, StoppingError, TimedOutError, UploadTimeoutError
from service.metrics import Metrics
from service.settings import Settings
from service.upload_limit import UploadLimit
from service.worker import WorkerPool
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
    with serving(closed, Settings(workers=1, max_queued=1)) as client, ThreadPoolExecutor(2) as callers:
        answers = [callers.submit(client.post, "/transcribe", files={"file": recording}) for _ in range(2)]
        wait_for(lambda: metric(client, "asr_in_flight") + metric(client, "asr_queued") == 2)

        def body():
            pytest.fail("the body of a refused request was read")
            yield b""

        response = client.post("/transcribe", content=body())
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "busy"
        assert int(response.headers["Retry-After"]) >= 1
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
    }


def test_metrics_count_what_happened(recording: bytes) -> None:
    with serving() as client:
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
        assert metric(client, "asr_queue_wait_seconds_count") == 2


# The pool by itself, on one event loop: every job ends.


async def never() -> None:
    await asyncio.Event().wait()


def on_pool(test: Callable[[WorkerPool], object], workers: int = 1, max_queued: int = 2) -> None:
    """Run an async test with a pool."""

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test(WorkerPool(workers, max_queued, Metrics()))  # type: ignore[misc]

    asyncio.run(run())


def test_work_that_raises_ends_and_frees_its_worker() -> None:
    async def check(pool: WorkerPool) -> None:
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await pool.run(lambda _: 1 / 0, timeout_s=PATIENCE_S, caller_left=never)
        assert (await pool.run(lambda _: 7, timeout_s=PATIENCE_S, caller_left=never)).result == 7
        await pool.close()

    on_pool(check, max_queued=0)


def test_work_of_a_caller_who_left_never_begins() -> None:
    async def check(pool: WorkerPool) -> None:
        gate, left, begun = threading.Event(), asyncio.Event(), []

        async def leave() -> None:
            await left.wait()

        first = asyncio.create_task(
            pool.run(lambda _: gate.wait(PATIENCE_S), timeout_s=PATIENCE_S, caller_left=never)
        )
        second = asyncio.create_task(pool.run(begun.append, timeout_s=PATIENCE_S, caller_left=leave))
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(CallerLeftError):
            await second
        third = asyncio.create_task(pool.run(lambda _: 3, timeout_s=PATIENCE_S, caller_left=never))
        gate.set()
        assert (await first).result is True
        assert (await third).result == 3
        assert begun == []
        await pool.close()

    on_pool(check)


def test_caller_who_leaves_running_work_is_let_go_and_the_worker_stays_taken() -> None:
    async def check(pool: WorkerPool) -> None:
        gate, begun, left = threading.Event(), asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def work(_: float) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert gate.wait(PATIENCE_S)

        async def leave() -> None:
            await begun.wait()

        with pytest.raises(CallerLeftError):
            await pool.run(work, timeout_s=PATIENCE_S, caller_left=leave)
        with pytest.raises(BusyError):
            await pool.run(lambda _: 1, timeout_s=PATIENCE_S, caller_left=never)
        gate.set()
        assert not left.is_set()
        await pool.close()

    on_pool(check, max_queued=0)


def test_waiting_work_times_out_without_beginning() -> None:
    async def check(pool: WorkerPool) -> None:
        gate, begun = threading.Event(), []
        first = asyncio.create_task(
            pool.run(lambda _: gate.wait(PATIENCE_S), timeout_s=PATIENCE_S, caller_left=never)
        )
        await asyncio.sleep(0)
        with pytest.raises(TimedOutError):
            await pool.run(begun.append, timeout_s=0.01, caller_left=never)
        gate.set()
        await first
        await pool.close()
        assert begun == []

    on_pool(check)


def test_shutdown_ends_what_waits_and_finishes_what_runs() -> None:
    async def check(pool: WorkerPool) -> None:
        gate = threading.Event()
        running = asyncio.create_task(
            pool.run(lambda _: gate.wait(PATIENCE_S), timeout_s=PATIENCE_S, caller_left=never)
        )
        waiting = asyncio.create_task(pool.run(lambda _: 1, timeout_s=PATIENCE_S, caller_left=never))
        await asyncio.sleep(0)
        closing = asyncio.create_task(pool.close())
        with pytest.raises(StoppingError):
            await waiting
        with pytest.raises(StoppingError):
            await pool.run(lambda _: 1, timeout_s=PATIENCE_S, caller_left=never)
        gate.set()
        assert (await running).result is True
        await closing

    on_pool(check)


# The door by itself: what a test client cannot send.


def test_slow_and_broken_uploads_are_refused_and_give_their_place_back() -> None:
    async def read_all(scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        assert (await receive())["type"] == "http.disconnect"

    async def check() -> None:
        limit = UploadLimit(
            read_all,
            max_bytes=10,
            max_uploads=1,
            timeout_s=0.01,
            guarded=["/transcribe"],
            check_room=lambda: None,
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
        await limit(scope, never, send)
        assert answered[0]["status"] == 503
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
