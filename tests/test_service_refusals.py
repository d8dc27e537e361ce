"""Whatever the caller gets wrong: a 4xx with a code and a sentence, in one shape, and the service goes on."""

import io

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.errors import DecodingTimeoutError, TextError
from service.settings import Settings
from tests.conftest import wav_bytes
from tests.scripted_speech import SECRET, ScriptedSpeech, metric, serving

SMALL = Settings(
    max_upload_mb=1, max_duration_s=30, max_hotwords=3, max_hotword_chars=10, max_lm_text_chars=3000
)


@pytest.fixture(scope="module")
def client() -> TestClient:
    with serving(settings=SMALL) as client:
        yield client


def refusal(response, status: int, code: str) -> str:
    """The message of a refusal, checked for its shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"code", "message", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert "Traceback" not in error["message"]
    return error["message"]


def post(client: TestClient, content: bytes, query: str = ""):
    return client.post(f"/transcribe?{query}", files={"file": ("a.wav", content)})


def test_empty_file(client: TestClient) -> None:
    assert "empty" in refusal(post(client, b""), 400, "empty_audio")


def test_text_file(client: TestClient) -> None:
    refusal(post(client, b"This is a letter, not a recording.\n" * 50), 415, "unreadable_audio")


def test_file_truncated_in_its_header(client: TestClient, recording: bytes) -> None:
    refusal(post(client, recording[:20]), 415, "unreadable_audio")


def test_file_truncated_in_its_samples_gives_what_is_there(client: TestClient, recording: bytes) -> None:
    response = post(client, recording[: len(recording) // 2])
    assert response.status_code == 200
    assert 0 < response.json()["duration_s"] < 0.6


def test_hours_of_silence_in_a_small_file(client: TestClient) -> None:
    content = silent_flac(minutes=20)
    assert len(content) < 500_000
    assert "30 s" in refusal(post(client, content), 413, "audio_too_long")


def test_wrong_decoder_lists_the_right_ones(client: TestClient, recording: bytes) -> None:
    message = refusal(post(client, recording, "decoder=magic"), 422, "invalid_request")
    for word in ("decoder", "greedy", "beam_lm", "beam_lm_rescore", "magic"):
        assert word in message


@pytest.mark.parametrize(
    "query",
    ["nbest=51", "nbest=-1", "nbest=x", "timestamps=char", "hotword_weight=-1", "hotword_weight=nan"],
)
def test_option_out_of_range(client: TestClient, recording: bytes, query: str) -> None:
    message = refusal(post(client, recording, query), 422, "invalid_request")
    assert query.split("=")[0] in message


def test_file_over_the_limit_is_refused_by_its_declared_size(client: TestClient) -> None:
    refusal(post(client, bytes(2**20)), 413, "upload_too_large")


def test_file_over_the_limit_is_refused_while_it_is_read() -> None:
    """No Content-Length: only counting helps, and it stops reading soon after the limit."""
    sent = 0

    def body():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(100):
            sent += 2**17
            yield bytes(2**17)

    with serving(settings=SMALL) as client:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        response = client.post("/transcribe", content=body(), headers=headers)
    refusal(response, 413, "upload_too_large")


def test_no_file_at_all(client: TestClient) -> None:
    assert "file" in refusal(client.post("/transcribe"), 422, "invalid_request")
    assert "file" in refusal(client.post("/transcribe", data={"file": "text"}), 422, "invalid_request")
    assert "file" in refusal(client.post("/transcribe", content=b"RIFF"), 422, "invalid_request")


def test_two_files(client: TestClient, recording: bytes) -> None:
    files = [("file", recording), ("file", recording)]
    refusal(client.post("/transcribe", files=files), 400, "bad_request")


def test_hotwords_are_bounded(client: TestClient, recording: bytes) -> None:
    refusal(post(client, recording, "hotwords=a&hotwords=b&hotwords=c&hotwords=d"), 422, "invalid_option")
    refusal(post(client, recording, "hotwords=abcdefghijk"), 422, "invalid_option")
    for hotwords in (["word"] * 1000, ["w" * 20_000]):
        response = client.post("/transcribe", files={"file": recording}, data={"hotwords": hotwords})
        refusal(response, 400, "bad_request")


def test_posted_texts_are_bounded(client: TestClient, recording: bytes) -> None:
    def sent(**data: str | list[str]):
        return client.post("/transcribe", files={"file": recording}, data=data)

    assert sent(lm_text="we ran " * 400).status_code == 200
    assert "3000 are taken" in refusal(sent(lm_text="we ran " * 500), 422, "invalid_option")
    assert "no words" in refusal(sent(lm_text="12, 13!"), 422, "invalid_option")
    refusal(sent(lm_text="w" * 20_000), 400, "bad_request")
    # Each field is short enough, and there are not too many, but in memory they are too much together.
    refusal(sent(lm_text="w" * 3000, other=["w" * 10_000] * 25), 400, "bad_request")


def test_an_ngram_that_there_is_not(client: TestClient, recording: bytes) -> None:
    assert post(client, recording, "lm=legal&decoder=beam_lm").status_code == 200
    assert "default, legal" in refusal(post(client, recording, "lm=other"), 422, "invalid_option")
    for weight in ("0", "1", "nan"):
        refusal(post(client, recording, f"lm_text_weight={weight}"), 422, "invalid_request")


def test_broken_multipart(client: TestClient) -> None:
    for content_type, body in (("", b"rubbish"), ("; boundary=x", b"--x\r\nrubbish\r\n\r\n--y--")):
        headers = {"Content-Type": f"multipart/form-data{content_type}"}
        response = client.post("/transcribe", content=body, headers=headers)
        refusal(response, 400, "bad_request")


def test_unknown_path_and_method(client: TestClient) -> None:
    refusal(client.get("/nothing"), 404, "not_found")
    response = client.get("/transcribe")
    refusal(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DecodingTimeoutError("beam search passed its deadline"), 504, "timeout"),
        (TextError("a hotword holds characters that cannot be spelled"), 422, "invalid_text"),
    ],
)
def test_decoder_refuses(recording: bytes, error: Exception, status: int, code: str) -> None:
    with serving(ScriptedSpeech(error)) as client:
        assert refusal(post(client, recording), status, code) == str(error)


def test_unforeseen_error_keeps_its_text_to_the_log(
    recording: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(ScriptedSpeech(ZeroDivisionError("inner secret"))) as client:
        message = refusal(post(client, recording), 500, "internal_error")
        assert client.get("/healthz").status_code == 200
        assert metric(client, 'asr_failures_total{code="internal_error"}') == 1
    assert "inner secret" not in message
    assert any(record.exc_info for record in caplog.records)


def test_neither_text_nor_hotwords_are_logged(recording: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="service")
    with serving() as client:
        answer = client.post(
            "/transcribe?hotwords=classified", files={"file": recording}, data={"lm_text": "classified too"}
        )
        assert SECRET in answer.text
    logged = "\n".join(str(vars(record)) for record in caplog.records if record.name.startswith("service"))
    assert "/transcribe" in logged
    assert SECRET not in logged
    assert "classified" not in logged


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADS = st.sampled_from(
    [b"", b"RIFF", b"OggS", b"fLaC", b"ID3\x03", b"\x1aE\xdf\xa3", b"\x00\x00\x00\x18ftypM4A "]
)


@FUZZ
@given(head=HEADS, tail=st.binary(max_size=600))
def test_arbitrary_bytes_as_file_are_never_our_fault(client: TestClient, head: bytes, tail: bytes) -> None:
    assert post(client, head + tail).status_code in (200, 400, 413, 415)


@FUZZ
@given(position=st.floats(0, 1), junk=st.binary(min_size=1, max_size=40))
def test_damaged_recording_is_never_our_fault(client: TestClient, position: float, junk: bytes) -> None:
    content = bytearray(wav_bytes(np.zeros(4000, dtype=np.float32)))
    start = int(position * (len(content) - 1))
    content[start : start + len(junk)] = junk
    assert post(client, bytes(content)).status_code in (200, 400, 413, 415)


@FUZZ
@given(
    content=st.binary(max_size=400), boundary=st.text("abc;=\" /'", max_size=8), query=st.text(max_size=20)
)
def test_arbitrary_requests_are_never_our_fault(
    client: TestClient, content: bytes, boundary: str, query: str
) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    response = client.post("/transcribe", params={"decoder": query}, content=content, headers=headers)
    assert 400 <= response.status_code < 500


def silent_flac(minutes: int) -> bytes:
    """A FLAC file of digital silence, a few kilobytes a minute."""
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16000, layout="mono")
        for _ in range(minutes * 60):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.int16), "s16", "mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
