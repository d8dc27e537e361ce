"""Jobs: taken, worked through, cancelled, forgotten, and never lost."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient

from asr.decoding.options import DecodingOptions
from asr.raw_audio import RawAudio
from service.errors import BusyError, UnknownJobError
from service.job_store import MAX_ATTEMPTS, JobStore, Wish
from service.settings import Settings
from tests.scripted_speech import PATIENCE_S, SECRET, ScriptedSpeech, serving, wait_for
from tests.test_service_refusals import refusal

WISH = Wish(
    DecodingOptions("greedy", hotwords=("ada",), lm="legal", lm_text="ada"),
    "mixed",
    RawAudio("s16le", 16000, 2),
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(jobs_dir=tmp_path / "jobs")


def submit(client: TestClient, content: bytes, query: str = "") -> str:
    response = client.post(f"/v1/jobs?{query}", files={"file": content})
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["result"], job["error"]) == (None, None)
    return job["id"]


def ended(client: TestClient, job_id: str) -> dict:
    wait_for(lambda: client.get(f"/v1/jobs/{job_id}").json()["status"] in ("done", "failed"))
    return client.get(f"/v1/jobs/{job_id}").json()


def test_a_job_is_what_the_request_would_have_been(settings: Settings, recording: bytes) -> None:
    query = "decoder=beam_lm&nbest=2&timestamps=word&hotwords=ada&lm=legal"
    speech = ScriptedSpeech()
    with serving(speech, settings) as client:
        job = ended(client, submit(client, recording, query))
        direct = client.post(f"/transcribe?{query}", files={"file": recording}).json()
    assert (job["status"], job["error"], job["audio_s"]) == ("done", None, 1.0)
    changing = {"request_id", "timings_ms"}
    assert {k: v for k, v in job["result"].items() if k not in changing} == {
        k: v for k, v in direct.items() if k not in changing
    }
    assert job["result"]["request_id"] == job["id"]
    assert speech.calls[0] == speech.calls[1]
    assert not list(settings.jobs_dir.glob("*.audio"))


def test_a_failed_job_says_what_the_request_would_have_been_refused_with(settings: Settings) -> None:
    with serving(settings=settings) as client:
        job = ended(client, submit(client, b"no recording"))
    assert (job["status"], job["result"]) == ("failed", None)
    assert job["error"]["code"] == "unreadable_audio"


def test_an_ngram_that_there_is_not_is_refused_at_once(settings: Settings, recording: bytes) -> None:
    with serving(settings=settings) as client:
        response = client.post("/v1/jobs?lm=other", files={"file": recording})
    assert response.status_code == 422
    assert "default, legal" in response.json()["error"]["message"]
    assert not list(settings.jobs_dir.glob("*.audio"))


def test_a_failing_job_hurts_nobody(settings: Settings, recording: bytes) -> None:
    speech = ScriptedSpeech(ZeroDivisionError("inner secret"))
    with serving(speech, settings) as client:
        job = ended(client, submit(client, recording))
        assert job["error"]["code"] == "internal_error"
        assert "secret" not in str(job)
        speech.error = None
        assert ended(client, submit(client, recording))["result"]["text"] == SECRET


def test_cancelling_a_job(settings: Settings, recording: bytes) -> None:
    speech = ScriptedSpeech()
    speech.gate.clear()
    with serving(speech, settings) as client:
        running, waiting = (submit(client, recording) for _ in range(2))
        assert speech.entered.acquire(timeout=PATIENCE_S)
        wait_for(lambda: client.get(f"/v1/jobs/{running}").json()["status"] == "running")
        for job_id in (waiting, running):
            assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
            refusal(client.get(f"/v1/jobs/{job_id}"), 404, "unknown_job")
        assert not list(settings.jobs_dir.glob("*.audio"))
        speech.gate.set()
        assert ended(client, submit(client, recording))["status"] == "done"
    assert len(speech.calls) == 1


def test_unknown_and_impossible_ids(settings: Settings) -> None:
    with serving(settings=settings) as client:
        refusal(client.get(f"/v1/jobs/{'0' * 32}"), 404, "unknown_job")
        refusal(client.delete(f"/v1/jobs/{'0' * 32}"), 404, "unknown_job")
        refusal(client.get("/v1/jobs/..%2F..%2Fetc%2Fpasswd"), 404, "not_found")
        refusal(client.get("/v1/jobs/passwd"), 422, "invalid_request")


def test_without_a_folder_no_jobs_are_taken(recording: bytes) -> None:
    with serving() as client:
        refusal(client.post("/v1/jobs", files={"file": recording}), 404, "no_jobs")


def test_a_stopped_service_goes_on_with_its_jobs(settings: Settings, recording: bytes) -> None:
    speech = ScriptedSpeech()
    speech.gate.clear()
    with serving(speech, settings) as client:
        job_id = submit(client, recording)
        assert speech.entered.acquire(timeout=PATIENCE_S)
        speech.gate.set()
    with serving(settings=settings) as client:
        assert ended(client, job_id)["result"]["text"] == SECRET


_KILLED = """
import sys, uvicorn
from pathlib import Path
from service.app import create_app
from service.settings import Settings
from tests.scripted_speech import ScriptedSpeech

speech = ScriptedSpeech()
speech.gate.clear()
app = create_app(Settings(jobs_dir=Path(sys.argv[1])), load=lambda _: speech)
server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
start = server.startup

async def startup(sockets=None):
    await start(sockets)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)

server.startup = startup
server.run()
"""


def test_a_killed_service_loses_no_job(settings: Settings, recording: bytes) -> None:
    """SIGKILL while one job runs and another waits: both are done after the restart."""
    command = [sys.executable, "-c", _KILLED, str(settings.jobs_dir)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as server:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        jobs = []
        for _ in range(2):
            response = httpx2.post(f"{address}/v1/jobs", files={"file": recording})
            assert response.status_code == 202, response.text
            jobs.append(response.json()["id"])
        wait_for(lambda: httpx2.get(f"{address}/v1/jobs/{jobs[0]}").json()["status"] == "running")
        os.kill(server.pid, signal.SIGKILL)
    with serving(settings=settings) as client:
        for job_id in jobs:
            assert ended(client, job_id)["result"]["text"] == SECRET


# The store by itself.


def store(folder: Path, **limits) -> JobStore:
    return JobStore(folder, **{"max_jobs": 3, "max_bytes": 100, "expiry_s": 10, **limits})


def test_jobs_are_taken_in_order_and_their_wishes_are_kept(tmp_path: Path) -> None:
    jobs = store(tmp_path)
    first, second = (jobs.add(WISH, io.BytesIO(b"x" * n), "") for n in (1, 2))
    assert (jobs.take().id, jobs.take().id, jobs.take()) == (first.id, second.id, None)
    assert first.wish == WISH
    assert jobs.file(second.id).read_bytes() == b"xx"
    assert jobs.progress(first.id, 4.5)
    assert jobs.get(first.id, "").audio_s == 4.5
    jobs.remove(first.id, "")
    assert not jobs.progress(first.id, 5)
    jobs.close()


def test_room_is_bounded_by_number_and_bytes(tmp_path: Path) -> None:
    jobs = store(tmp_path)
    with pytest.raises(BusyError):
        jobs.add(WISH, io.BytesIO(bytes(101)), "")
    kept = [jobs.add(WISH, io.BytesIO(bytes(40)), "") for _ in range(2)]
    with pytest.raises(BusyError):
        jobs.add(WISH, io.BytesIO(bytes(40)), "")
    jobs.finish(kept[0].id, {}, 1.0)
    jobs.add(WISH, io.BytesIO(bytes(40)), "")
    with pytest.raises(BusyError, match="3 jobs"):
        jobs.add(WISH, io.BytesIO(b"x"), "")
    jobs.close()


def test_ended_jobs_expire(tmp_path: Path) -> None:
    clock = [time.time()]
    jobs = store(tmp_path, now=lambda: clock[0])
    done, waiting = (jobs.add(WISH, io.BytesIO(b"x"), "") for _ in range(2))
    jobs.finish(done.id, {"text": ""}, 1.0)
    clock[0] += 9
    assert jobs.get(done.id, "").result == {"text": ""}
    clock[0] += 2
    with pytest.raises(UnknownJobError):
        jobs.get(done.id, "")
    assert jobs.get(waiting.id, "").state == "queued"
    jobs.close()


def test_a_job_is_its_owners_alone(tmp_path: Path) -> None:
    jobs = store(tmp_path)
    job = jobs.add(WISH, io.BytesIO(b"x"), "ann")
    for other in ("bob", ""):
        with pytest.raises(UnknownJobError):
            jobs.get(job.id, other)
        with pytest.raises(UnknownJobError):
            jobs.remove(job.id, other)
    assert jobs.get(job.id, "ann").id == job.id
    jobs.close()


def test_a_recording_that_ends_the_process_again_and_again_is_given_up(tmp_path: Path) -> None:
    job_id = ""
    for _ in range(MAX_ATTEMPTS):
        jobs = store(tmp_path)
        jobs.recover()
        job_id = job_id or jobs.add(WISH, io.BytesIO(b"x"), "").id
        assert jobs.take().id == job_id
        jobs.close()
    jobs = store(tmp_path)
    jobs.recover()
    assert jobs.take() is None
    assert jobs.get(job_id, "").error["code"] == "internal_error"
    jobs.close()


def test_what_an_interrupted_upload_left_is_swept_up(tmp_path: Path) -> None:
    jobs = store(tmp_path)
    for name in ("a.part", "b.audio"):
        (tmp_path / name).write_bytes(b"x")
    kept = jobs.add(WISH, io.BytesIO(b"x"), "")
    jobs.recover()
    assert [file.stem for file in tmp_path.glob("*.audio")] == [kept.id]
    assert not list(tmp_path.glob("*.part"))
    jobs.close()
