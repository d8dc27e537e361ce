"""OpenTelemetry spans: what there are, whose they are, what is in them, and that there are none while off."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from service.app import create_app
from service.cli import main
from service.logs import JsonFormatter
from service.settings import Settings
from service.traces import Traces
from tests.scripted_speech import SECRET, ScriptedSpeech, serving, wait_for, wait_until_ready

CALLER = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = {"traceparent": f"00-{CALLER}-b7ad6b7169203331-01"}


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def speech() -> ScriptedSpeech:
    return ScriptedSpeech()


@pytest.fixture
def client(spans: InMemorySpanExporter, speech: ScriptedSpeech, tmp_path) -> Iterator[TestClient]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    settings = Settings(isolate_audio=False, jobs_dir=tmp_path / "jobs")
    app = create_app(settings, lambda _: speech, traces=Traces(provider))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in spans.get_finished_spans() if span.name == name]
    return found


def test_a_request_its_recording_and_its_steps_in_the_callers_trace(
    client: TestClient, spans: InMemorySpanExporter, recording: bytes
) -> None:
    query = "?decoder=beam_lm_rescore&timestamps=word&hotwords=zanzibar"
    files = {"file": ("diary.wav", recording)}
    with_id = TRACEPARENT | {"X-Request-ID": "mine-1"}
    assert client.post("/transcribe" + query, files=files, headers=with_id).status_code == 200
    request, transcribe = named(spans, "POST /transcribe"), named(spans, "transcribe")
    assert f"{request.context.trace_id:032x}" == CALLER
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert transcribe.parent.span_id == request.context.span_id
    steps = [named(spans, name) for name in ("read", "acoustic", "search", "rescoring", "finish")]
    assert {step.parent.span_id for step in steps} == {transcribe.context.span_id}
    times = [moment for step in steps for moment in (step.start_time, step.end_time)]
    assert times == sorted(times)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/transcribe",
        "http.response.status_code": 200,
        "asr.request_id": "mine-1",
        "asr.decoder": "beam_lm_rescore",
        "asr.audio_s": 1.0,
    }
    everything = "".join(span.to_json() for span in spans.get_finished_spans())
    for secret in (SECRET, "attack", "zanzibar", "diary"):
        assert secret not in everything


def test_without_a_traceparent_every_request_is_a_trace(
    client: TestClient, spans: InMemorySpanExporter, recording: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            client.post("/transcribe?decoder=greedy", files={"file": recording})
    traces = {span.context.trace_id for span in spans.get_finished_spans()}
    assert len(traces) == 2
    logged = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert {line["trace_id"] for line in logged if line["message"] == "request"} == {
        f"{trace:032x}" for trace in traces
    }


def test_waiting_for_a_thread_is_a_span_before_the_step(
    client: TestClient, spans: InMemorySpanExporter
) -> None:
    traces: Traces = client.app.state.service.engine._house.traces
    traces.step("search", 0.5, 1_000_000_000, 2.0)
    queue, search = named(spans, "queue"), named(spans, "search")
    assert (queue.start_time, queue.end_time) == (1_000_000_000, 1_500_000_000)
    assert queue.attributes == {"asr.stage": "search"}
    assert search.start_time == 1_500_000_000


def test_failures_have_their_code_and_no_message(
    client: TestClient, spans: InMemorySpanExporter, speech: ScriptedSpeech, recording: bytes
) -> None:
    client.post("/transcribe", content=b"rubbish", headers={"Content-Type": "audio/wav"})
    refused = named(spans, "POST /transcribe")
    assert refused.attributes["error.type"] == "unreadable_audio"
    assert refused.status.status_code is StatusCode.UNSET
    assert named(spans, "transcribe").attributes["error.type"] == "UnreadableAudioError"
    spans.clear()
    speech.error = ZeroDivisionError("inner secret")
    assert client.post("/transcribe", files={"file": recording}).status_code == 500
    failed = named(spans, "POST /transcribe")
    assert failed.attributes["error.type"] == "internal_error"
    assert failed.attributes["http.response.status_code"] == 500
    assert failed.status.status_code is StatusCode.ERROR
    assert "inner secret" not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_a_job_is_a_trace_of_its_own_and_probes_are_none(
    client: TestClient, spans: InMemorySpanExporter, recording: bytes
) -> None:
    client.get("/healthz")
    assert not spans.get_finished_spans()
    job = client.post("/v1/jobs", files={"file": recording}, headers=TRACEPARENT).json()["id"]
    wait_for(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "done")
    transcribe = named(spans, "transcribe")
    assert transcribe.parent is None
    assert f"{transcribe.context.trace_id:032x}" != CALLER
    assert job not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_a_stream_is_one_span_with_its_stretches_below(
    client: TestClient, spans: InMemorySpanExporter
) -> None:
    with client.websocket_connect("/v1/stream?partials=false") as socket:
        socket.send_bytes(b"\1\0" * 16_000)
        socket.send_text('{"type": "finish"}')
        while socket.receive_json()["type"] != "done":
            pass
    wait_for(lambda: any(span.name == "WS /v1/stream" for span in spans.get_finished_spans()))
    stream = named(spans, "WS /v1/stream")
    assert named(spans, "transcribe").parent.span_id == stream.context.span_id


def test_asked_for_without_the_packages_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setenv("ASR_TRACES", "true")
    monkeypatch.setattr("service.logs.set_up_logs", lambda level: None)
    assert main(["serve"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'asr-sound[otel]'" in line


def test_off_nothing_of_it_is_needed(monkeypatch: pytest.MonkeyPatch, recording: bytes) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    with serving() as client:
        response = client.post("/transcribe", files={"file": recording}, headers=TRACEPARENT)
        assert response.status_code == 200
