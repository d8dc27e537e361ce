"""`POST /transcribe`: what goes in, what comes out, and that both are the Transcriber's."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from asr.decoding.options import DECODERS, DecodingOptions
from asr.transcriber import Transcriber
from service.app import create_app
from service.schemas import TranscribeResponse
from service.settings import Settings
from service.speech import load_speech
from tests.conftest import wav_bytes
from tests.scripted_speech import SECRET, ScriptedSpeech, serving, wait_until_ready


def test_answer_has_every_field_of_the_contract(recording: bytes) -> None:
    with serving() as client:
        response = client.post(
            "/transcribe?decoder=beam_lm&nbest=1&timestamps=word",
            files={"file": recording},
            headers={"X-Request-ID": "abc-1"},
        )
    assert response.status_code == 200
    body = response.json()
    assert body.pop("timings_ms").keys() == {"queue", "audio", "acoustic", "decoding"}
    scores = {
        "acoustic": -1.5,
        "pronunciation": 0.0,
        "ngram": -2.25,
        "hotwords": 0.5,
        "gpt2": -3.0,
        "length": 0.75,
        "total": -5.5,
    }
    assert body == {
        "text": SECRET,
        "decoder": "beam_lm",
        "decoder_asked": "beam_lm",
        "degraded": "",
        "duration_s": 1.0,
        "words": [{"word": "attack", "start_s": 0.1, "end_s": 0.4, "confidence": 0.9, "lm_only": False}],
        "calibrated": False,
        "rescoring": "none",
        "hypotheses": [{"text": SECRET, "scores": scores}],
        "decoders": [],
        "hotword_receipts": [],
        "lm": "",
        "lm_text": None,
        "channels": [],
        "model": {"name": "scripted", "sha256": "5" * 64},
        "request_id": "abc-1",
    }


def test_the_ngrams_are_listed() -> None:
    with serving() as client:
        (entry,) = client.get("/v1/models").json()["data"]
    assert entry["lms"] == ["default", "legal"]


def test_a_thousand_hotwords_are_taken_in_one_form(tiny_bundle: Path, recording: bytes) -> None:
    """Words and phrases, each with its receipt, those that are refused too; and a text beside them."""
    letters = "abdehimnorst"
    words = [a + b + c for a in letters for b in letters for c in letters]
    terms = [
        *words[:600],
        *(f"{a} {b}" for a, b in pairwise(words[600:997])),
        "route 66",
        "",
        words[0],
        "the cat",
    ]
    assert len(terms) == 1000
    with TestClient(create_app(Settings(bundle=tiny_bundle, device="cpu"))) as client:
        wait_until_ready(client)
        response = client.post(
            "/transcribe?decoder=all&hotword_weight=2",
            files={"file": recording},
            data={"hotwords": terms, "lm_text": "we ran to the zebra"},
        )
    body = response.json()
    assert response.status_code == 200, body
    receipts = body["hotword_receipts"]
    assert [receipt["term"] for receipt in receipts] == terms
    refused = {receipt["term"]: receipt["reason"] for receipt in receipts if not receipt["accepted"]}
    assert refused == {"route 66": "characters", "": "empty", words[0]: "duplicate"}
    assert body["lm_text"]["new_words"] == ["zebra"]
    assert [one["decoder"] for one in body["decoders"]] == list(DECODERS)


def test_query_and_form_reach_the_decoder(recording: bytes) -> None:
    speech = ScriptedSpeech()
    settings = Settings(default_decoder="greedy", timeout_s=7)
    with serving(speech, settings) as client:
        client.post("/transcribe", files={"file": recording})
        client.post(
            "/transcribe",
            params={
                "decoder": "beam_lm",
                "nbest": 50,
                "hotwords": ["ada", "bob"],
                "hotword_weight": 2.5,
                "lm": "legal",
                "lm_text_weight": 0.2,
            },
            files={"file": recording},
            data={"hotwords": ["new york", "cy"], "lm_text": "ada in new york"},
        )
        client.post("/transcribe?decoder=all", files={"file": recording})
    assert speech.calls.pop() == DecodingOptions("beam_lm_rescore", compare=True)
    assert speech.calls == [
        DecodingOptions(decoder="greedy"),
        DecodingOptions(
            "beam_lm",
            50,
            hotwords=("ada", "bob", "new york", "cy"),
            hotword_weight=2.5,
            lm="legal",
            lm_text="ada in new york",
            lm_text_weight=0.2,
        ),
    ]
    assert all(0 < seconds <= 7 for seconds in speech.seconds_left)


@pytest.mark.parametrize("given", ["", "spaces are not taken", "x" * 129, "caf\u00e9"])
def test_a_request_id_that_is_none_is_replaced(given: str) -> None:
    with serving() as client:
        response = client.get("/healthz", headers={"X-Request-ID": given.encode("latin-1")})
    assert response.headers["X-Request-ID"] not in ("", given)


@pytest.fixture(scope="module")
def tiny_settings(tiny_bundle: Path) -> Settings:
    return Settings(bundle=tiny_bundle, device="cpu", workers=3)


def test_http_answer_is_the_transcribers(tiny_settings: Settings, recording: bytes) -> None:
    transcriber = Transcriber.load(tiny_settings.bundle, device="cpu")
    with TestClient(create_app(tiny_settings)) as client:
        wait_until_ready(client)
        for decoder in DECODERS:
            query = {"decoder": decoder, "nbest": 5, "timestamps": "word", "hotwords": "dog"}
            body = client.post("/transcribe", params=query, files={"file": recording}).json()
            options = DecodingOptions(decoder, nbest=5, word_timestamps=True, hotwords=("dog",))
            transcript = transcriber.transcribe(recording, options)
            expected = TranscribeResponse.of(transcript, transcriber, body["request_id"], waited_s=0)
            assert body | {"timings_ms": 0} == expected.model_dump() | {"timings_ms": 0}


def test_answers_do_not_depend_on_what_runs_beside_them(tiny_settings: Settings, recording: bytes) -> None:
    with TestClient(create_app(tiny_settings)) as client:
        wait_until_ready(client)
        together = threading.Barrier(3)

        def answer(decoder: str) -> tuple[list[str], list[float]]:
            together.wait()
            query = {"decoder": decoder, "nbest": 5}
            found = client.post("/transcribe", params=query, files={"file": recording}).json()["hypotheses"]
            scores = [score for one in found for score in one["scores"].values()]
            return [one["text"] for one in found], pytest.approx(scores, abs=1e-3)

        with ThreadPoolExecutor(3) as callers:
            first = list(callers.map(answer, DECODERS))
            second = list(callers.map(answer, DECODERS))
        together = threading.Barrier(1)
        alone = [answer(decoder) for decoder in DECODERS]
    for one, other in ((first, second), (first, alone)):
        assert [texts for texts, _ in one] == [texts for texts, _ in other]
        assert [scores.expected for _, scores in one] == [scores for _, scores in other]


def test_silence_gives_no_words(tiny_settings: Settings) -> None:
    silence = wav_bytes(np.zeros(16000, dtype=np.float32))
    with TestClient(create_app(tiny_settings)) as client:
        wait_until_ready(client)
        for decoder in DECODERS:
            body = client.post(f"/transcribe?decoder={decoder}", files={"file": silence}).json()
            assert (body["text"], body["words"], body["duration_s"]) == ("", [], 1.0)


def test_the_rescoring_budget_is_the_requests_or_the_services(recording: bytes) -> None:
    speech = ScriptedSpeech()
    with serving(speech, Settings(rescore_budget_s=2.5)) as client:
        for query in ("", "?rescore_budget_s=0"):
            assert client.post(f"/transcribe{query}", files={"file": recording}).status_code == 200
        refused = client.post("/transcribe?rescore_budget_s=-1", files={"file": recording})
    assert [options.rescore_budget_s for options in speech.calls] == [2.5, 0.0]
    assert refused.status_code == 422


def test_the_scorer_computes_in_what_the_settings_say(tiny_bundle: Path) -> None:
    for precision in ("float32", "bfloat16"):
        speech = load_speech(Settings(bundle=tiny_bundle, device="cpu", rescore_precision=precision))
        assert isinstance(speech, Transcriber)
        assert speech.gpt2.precision == precision
