"""`asr-sound`: the same text as the service, one line per fault, and a bad bundle refused at start."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient

from asr.decoding.options import DECODERS
from service.app import create_app
from service.cli import main
from service.server import Server
from service.settings import Settings
from tests.scripted_speech import wait_until_ready

TOPIC = "The zebra ran.\nWe see a zebra on the mat.\n"


@pytest.fixture
def audio(tmp_path: Path, recording: bytes) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(recording)
    return path


@pytest.fixture
def broken_bundle(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A bundle with one byte of its n-gram model changed."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_bundle, folder)
    ngram = folder / "ngram.arrays"
    ngram.write_bytes(ngram.read_bytes()[:-1] + b"x")
    return folder


def test_transcribe_writes_what_the_service_answers(
    audio: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = audio.with_name("topic.txt")
    topic.write_text(TOPIC)
    with TestClient(create_app(Settings(bundle=tiny_bundle, device="cpu"))) as client:
        wait_until_ready(client)
        for decoder in (*DECODERS, "all"):
            query = {"decoder": decoder, "nbest": 3, "timestamps": "word", "hotwords": ["cat"]}
            answer = client.post(
                "/transcribe",
                params=query | {"lm": "default", "lm_text_weight": 0.4},
                files={"file": audio.read_bytes()},
                data={"lm_text": TOPIC},
            ).json()
            flags = [
                "--decoder",
                decoder,
                "--bundle",
                str(tiny_bundle),
                "--device",
                "cpu",
                "--hotword",
                "cat",
                "--lm",
                "default",
                "--lm-text",
                str(topic),
                "--lm-text-weight",
                "0.4",
            ]
            more = ["--json", "--nbest", "3", "--timestamps", "word"]
            assert main(["transcribe", str(audio), *flags, *more]) == 0
            line = json.loads(capsys.readouterr().out)
            assert line.pop("file") == str(audio)
            assert answer.pop("request_id")
            assert line | {"timings_ms": 0} == answer | {"timings_ms": 0}
            assert main(["transcribe", str(audio), *flags]) == 0
            written = [f"{one['decoder']}\t{one['text']}" for one in answer["decoders"]] or [answer["text"]]
            assert capsys.readouterr().out == "".join(f"{line}\n" for line in written)


def test_a_bad_file_is_said_and_the_others_are_done(
    audio: Path, tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("not a recording")
    missing = tmp_path / "missing.wav"
    files = [str(missing), str(letter), str(audio)]
    assert main(["transcribe", *files, "--bundle", str(tiny_bundle), "--decoder", "greedy"]) == 1
    output = capsys.readouterr()
    assert output.out.startswith(f"{audio}\t")
    first, second = output.err.splitlines()
    assert str(missing) in first
    assert "No such file" in first
    assert str(letter) in second


def test_option_out_of_range_is_one_line(
    audio: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", str(audio), "--nbest", "99", "--bundle", str(tiny_bundle)]) == 1
    assert capsys.readouterr().err == "asr-sound: nbest must be between 0 and 50, not 99\n"


def test_an_unknown_ngram_is_one_line_with_the_known_ones(
    audio: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(audio), str(audio)]
    assert main(["transcribe", *files, "--lm", "zoo", "--bundle", str(tiny_bundle)]) == 1
    assert capsys.readouterr().err == "asr-sound: lm must be one of default, not 'zoo'\n"


def test_unknown_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASR_PROT", "1")
    assert main(["serve"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "ASR_PROT" in line


def test_bundle_verify(tiny_bundle: Path, broken_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "verify", str(tiny_bundle)]) == 0
    assert "tiny" in capsys.readouterr().out
    assert main(["bundle", "verify", str(broken_bundle)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "ngram.arrays" in line
    assert main(["bundle", "verify", str(tiny_bundle / "absent")]) == 1


@pytest.mark.parametrize(("absent", "named"), [("unigrams.txt", "unigrams.txt"), (".", "bundle.json")])
def test_serve_refuses_an_incomplete_bundle_and_names_the_file(
    absent: str,
    named: str,
    broken_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = broken_bundle / absent
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    monkeypatch.setattr("service.logs.set_up_logs", lambda level: None)
    monkeypatch.setenv("ASR_BUNDLE", str(broken_bundle))
    monkeypatch.setenv("ASR_PORT", "0")
    assert main(["serve"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("asr-sound: ")
    assert named in line


def test_serve_refuses_an_altered_bundle_without_a_traceback(broken_bundle: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASR_")}
    served = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve"],
        env=environment | {"ASR_BUNDLE": str(broken_bundle), "ASR_PORT": "0", "ASR_DEVICE": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert served.returncode == 1
    assert "Traceback" not in served.stderr
    assert served.stderr.splitlines()[-1].startswith(f"asr-sound: {broken_bundle / 'ngram.arrays'} has ")


def test_a_signal_refuses_new_recordings_at_once() -> None:
    """uvicorn still answers the requests whose upload is under way; they are not let in any more."""
    asked: list[str] = []
    server = Server(uvicorn.Config(app=lambda: None), lambda: asked.append("stop"))
    server.handle_exit(signal.SIGTERM, None)
    assert asked == ["stop"]
    assert server.should_exit
