"""Who may ask, from where, and that what one caller does reaches no other."""

import hashlib
import re

import httpx2
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from service import cli
from service.keys import OPEN_PATHS, new_key
from service.settings import Settings
from tests.live_server import live_server
from tests.scripted_speech import SECRET, ScriptedSpeech, serving
from tests.test_service_refusals import refusal

ANN, BOB = "asr-ann", "asr-bob"
HASHES = ",".join(hashlib.sha256(key.encode()).hexdigest() for key in (ANN, BOB))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("guarded") / "jobs"
    with serving(settings=Settings(api_key_hashes=HASHES, jobs_dir=folder)) as client:
        yield client


def test_without_a_key_nothing_is_done_and_no_body_is_read(guarded: TestClient) -> None:
    def body():
        pytest.fail("the body of a refused request was read")
        yield b""

    for headers in (
        {},
        bearer("asr-eve"),
        bearer(""),
        {"X-API-Key": "asr-eve"},
        {"Authorization": "Basic YTpi"},
    ):
        response = guarded.post("/transcribe", content=body(), headers=headers)
        refusal(response, 401, "wrong_key")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    refusal(guarded.get("/v1/models"), 401, "wrong_key")
    refusal(guarded.get("/no/such/path"), 401, "wrong_key")
    strange = {"Authorization": b"Bearer \xff\xfe" + b"x" * 9000}
    refusal(guarded.get("/v1/models", headers=strange), 401, "wrong_key")


def test_with_a_key(guarded: TestClient, recording: bytes) -> None:
    for headers in (bearer(ANN), {"Authorization": f"bearer  {BOB}"}, {"X-API-Key": BOB}):
        assert (
            guarded.post("/transcribe", files={"file": recording}, headers=headers).json()["text"] == SECRET
        )


def test_open_paths(guarded: TestClient) -> None:
    for path in OPEN_PATHS:
        assert guarded.get(path).status_code == 200


def test_a_stream_needs_a_key(guarded: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect) as refused, guarded.websocket_connect("/v1/stream"):
        pass
    assert refused.value.code == 1008
    with guarded.websocket_connect("/v1/stream", headers=bearer(ANN)) as socket:
        socket.send_text('{"type": "finish"}')
        assert socket.receive_json()["type"] == "done"


def test_jobs_are_shown_to_their_own_key_only(guarded: TestClient, recording: bytes) -> None:
    job = guarded.post("/v1/jobs", files={"file": recording}, headers=bearer(ANN)).json()
    address = f"/v1/jobs/{job['id']}"
    refusal(guarded.get(address, headers=bearer(BOB)), 404, "unknown_job")
    refusal(guarded.delete(address, headers=bearer(BOB)), 404, "unknown_job")
    assert guarded.get(address, headers=bearer(ANN)).status_code == 200


def test_new_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["key"]) == 0
    key, digest = re.findall(r": +(\S+)", capsys.readouterr().out)
    assert hashlib.sha256(key.encode()).hexdigest() == digest
    assert len({new_key() for _ in range(10)}) == 10
    with pytest.raises(ValueError, match="api_key_hashes"):
        Settings(api_key_hashes=key)


def test_pages_of_listed_origins_may_call(recording: bytes) -> None:
    settings = Settings(cors_origins="https://a.example, https://b.example", api_key_hashes=HASHES)
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serving(settings=settings) as client:
        preflight = client.options("/transcribe", headers=asked | {"Origin": "https://b.example"})
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://b.example"
        other = client.options("/transcribe", headers=asked | {"Origin": "https://c.example"})
        assert "Access-Control-Allow-Origin" not in other.headers
        headers = bearer(ANN) | {"Origin": "https://a.example"}
        answer = client.post("/transcribe", files={"file": recording}, headers=headers)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"


def test_no_page_may_call_unless_it_is_listed(recording: bytes) -> None:
    with serving() as client:
        answer = client.post(
            "/transcribe", files={"file": recording}, headers={"Origin": "https://a.example"}
        )
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "http://127.0.0.1:1/x.wav", "file:///etc/passwd"]
)
def test_names_and_addresses_are_never_opened(name: str, recording: bytes) -> None:
    """whisper.cpp's server loads any path that a caller names."""
    with serving() as client:
        assert client.post("/transcribe", files={"file": (name, recording)}).json()["text"] == SECRET
        refusal(client.post("/transcribe", files={"file": (name, name.encode())}), 415, "unreadable_audio")
        refusal(client.post("/transcribe", data={"file": name}), 422, "invalid_request")
        refusal(client.post(f"/transcribe?file={name}"), 422, "invalid_request")


def test_headers_are_bounded() -> None:
    with live_server(ScriptedSpeech()) as address:
        answer = httpx2.get(f"{address}/healthz", headers={"X-Long": "x" * 100_000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (431, "headers_too_large")
        assert httpx2.get(f"{address}/healthz").status_code == 200
