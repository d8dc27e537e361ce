"""`POST /v1/audio/transcriptions` with OpenAI's own client against a running server."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx2
import numpy as np
import openai
import pytest

from asr.audio import SAMPLE_RATE
from asr.decoding.options import DecodingOptions
from asr.decoding.result import Hypothesis, NBest, Scores, Transcript, Word
from asr.windows import WindowSettings
from service.settings import Settings
from tests.conftest import wav_bytes
from tests.live_server import live_server
from tests.scripted_speech import ScriptedSpeech, wait_for

TWO_PARTS = ("attack at dawn", "or rather at noon")


class TwoParts(ScriptedSpeech):
    """Hears two passages in two bursts of noise with a pause between; `fails` breaks off in the second."""

    fails = False
    windows = WindowSettings(longest_s=3.0, shortest_s=0.8, overlap_s=0.5, longest_joined_s=3.0)

    def search(self, *args, **kwargs) -> NBest:
        if self.fails and len(self.calls) % 2:
            raise ZeroDivisionError("inner secret")
        return super().search(*args, **kwargs)

    def finish(self, *args) -> Transcript:
        text = TWO_PARTS[(len(self.calls) + 1) % 2]
        words = tuple(Word(word, i / 8, i / 8 + 0.1, 0.5) for i, word in enumerate(text.split()))
        hypotheses = (Hypothesis(text, Scores(-1.0)),)
        return replace(super().finish(*args), text=text, words=words, hypotheses=hypotheses)


@pytest.fixture(scope="module")
def speech() -> TwoParts:
    return TwoParts()


@pytest.fixture(scope="module")
def client(speech: TwoParts) -> Iterator[openai.OpenAI]:
    settings = Settings(default_decoder="beam_lm", max_hotwords=3)
    with (
        live_server(speech, settings) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@pytest.fixture
def audio() -> tuple[str, bytes]:
    noise = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    return ("speech.wav", wav_bytes(np.concatenate([noise, np.zeros(3 * SAMPLE_RATE), noise])))


def test_json(client: openai.OpenAI, audio: tuple[str, bytes]) -> None:
    answer = client.audio.transcriptions.create(file=audio, model="whisper-1")
    assert answer.text == " ".join(TWO_PARTS)
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == 5.0
    assert answer.logprobs is None


def test_text(client: openai.OpenAI, audio: tuple[str, bytes]) -> None:
    answer = client.audio.transcriptions.create(file=audio, model="scripted", response_format="text")
    assert answer == " ".join(TWO_PARTS) + "\n"


def test_srt(client: openai.OpenAI, audio: tuple[str, bytes]) -> None:
    answer = client.audio.transcriptions.create(file=audio, model="whisper-1", response_format="srt")
    assert answer == (
        "1\n00:00:00,000 --> 00:00:00,350\nattack at dawn\n\n"
        "2\n00:00:03,500 --> 00:00:03,975\nor rather at noon\n"
    )


def test_vtt(client: openai.OpenAI, audio: tuple[str, bytes]) -> None:
    answer = client.audio.transcriptions.create(file=audio, model="whisper-1", response_format="vtt")
    assert answer.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.350\nattack at dawn\n")


def test_verbose_json_with_words_and_segments(client: openai.OpenAI, audio: tuple[str, bytes]) -> None:
    answer = client.audio.transcriptions.create(
        file=audio,
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (answer.text, answer.language, answer.duration) == (" ".join(TWO_PARTS), "english", 5.0)
    assert [word.word for word in answer.words] == " ".join(TWO_PARTS).split()
    assert [(s.id, s.start, s.end, s.text) for s in answer.segments] == [
        (0, 0.0, 0.35, TWO_PARTS[0]),
        (1, 3.5, 3.975, TWO_PARTS[1]),
    ]
    assert answer.segments[0].avg_logprob == pytest.approx(math.log(0.5))
    only = client.audio.transcriptions.create(file=audio, model="whisper-1", response_format="verbose_json")
    assert only.words is None
    assert len(only.segments) == 2


def test_log_probabilities(client: openai.OpenAI, audio: tuple[str, bytes]) -> None:
    answer = client.audio.transcriptions.create(file=audio, model="whisper-1", include=["logprobs"])
    assert "".join(found.token for found in answer.logprobs) == answer.text
    assert answer.logprobs[1].bytes == list(b" at")
    assert answer.logprobs[1].logprob == pytest.approx(math.log(0.5))


def test_stream_the_final_event_carries_the_text(client: openai.OpenAI, audio: tuple[str, bytes]) -> None:
    """speaches sends an empty text in its last event."""
    stream = client.audio.transcriptions.create(
        file=audio, model="gpt-4o-transcribe", stream=True, include=["logprobs"]
    )
    *deltas, done = list(stream)
    assert [event.type for event in deltas] == ["transcript.text.delta"] * 2
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text == " ".join(TWO_PARTS)
    assert "".join(found.token for event in deltas for found in event.logprobs) == done.text
    assert len(done.logprobs) == len(done.text.split())


def test_stream_of_unreadable_audio_is_an_answer_not_an_event(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refusal:
        client.audio.transcriptions.create(file=("a.wav", b"rubbish"), model="whisper-1", stream=True)
    assert refusal.value.status_code == 415
    assert refusal.value.code == "unreadable_audio"


def test_stream_that_breaks_off_says_so(
    client: openai.OpenAI, speech: TwoParts, audio: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    speech.calls.clear()
    monkeypatch.setattr(speech, "fails", True)
    stream = client.audio.transcriptions.create(file=audio, model="whisper-1", stream=True)
    assert next(iter(stream)).delta == TWO_PARTS[0]
    with pytest.raises(openai.APIError) as failure:
        list(stream)
    assert "inner secret" not in str(failure.value)


def test_keywords_are_hotwords_and_prompt_is_tolerated(
    client: openai.OpenAI, speech: TwoParts, audio: tuple[str, bytes]
) -> None:
    speech.calls.clear()
    client.audio.transcriptions.create(
        file=audio,
        model="whisper-1",
        keywords=["ada", "new york"],
        prompt="names of people " * 100,
        language="en",
        temperature=0.2,
        chunking_strategy="auto",
        extra_body={
            "decoder": "greedy",
            "hotword_weight": 3,
            "lm": "legal",
            "lm_text": "ada lives in new york",
            "lm_text_weight": 0.5,
        },
    )
    expected = DecodingOptions(
        "greedy",
        hotwords=("ada", "new york"),
        hotword_weight=3.0,
        lm="legal",
        lm_text="ada lives in new york",
        lm_text_weight=0.5,
    )
    assert speech.calls == [expected] * 2


def test_degrade_opts_out_of_lesser_decoders(audio: tuple[str, bytes]) -> None:
    speech = ScriptedSpeech()
    speech.gate.clear()
    settings = Settings(default_decoder="beam_lm_rescore", workers=1, latency_target_s=0.001)
    with (
        live_server(speech, settings) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(5) as callers,
    ):

        def used(degrade: bool) -> str:
            answer = client.audio.transcriptions.with_raw_response.create(
                file=audio, model="whisper-1", extra_body={"degrade": degrade}
            )
            return str(answer.headers["X-Decoder-Used"])

        exact, *free = [callers.submit(used, degrade) for degrade in (False, True, True, True, True)]
        wait_for(lambda: "asr_in_flight 5.0" in httpx2.get(f"{address}/metrics").text)
        speech.gate.set()
        assert exact.result() == "beam_lm_rescore"
        assert {answer.result() for answer in free} != {"beam_lm_rescore"}


@pytest.mark.parametrize(
    ("asked", "status", "named"),
    [
        ({"response_format": "diarized_json"}, 422, "response_format"),
        ({"known_speaker_names": ["ann"]}, 422, "known_speaker_names[]"),
        ({"chunking_strategy": {"type": "server_vad"}}, 422, "chunking_strategy"),
        ({"language": "de"}, 422, "language"),
        ({"languages": ["en", "fr"]}, 422, "languages[]"),
        ({"temperature": 3}, 422, "temperature"),
        ({"timestamp_granularities": ["word"]}, 422, "timestamp_granularities[]"),
        ({"include": ["logprobs"], "response_format": "srt"}, 422, "include[]"),
        ({"stream": True, "response_format": "vtt"}, 422, "stream"),
        ({"keywords": ["a", "b", "c", "d"]}, 422, "hotwords"),
        ({"extra_body": {"best_of": 5}}, 422, "best_of"),
        ({"extra_body": {"decoder": "all"}}, 422, "decoder"),
        ({"extra_body": {"degrade": "perhaps"}}, 422, "degrade"),
        ({"extra_body": {"lm": "other"}}, 422, "default, legal"),
        ({"extra_body": {"lm_text": "?"}}, 422, "lm_text"),
        ({"model": "whisper-large-v9"}, 404, "whisper-large-v9"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    client: openai.OpenAI, audio: tuple[str, bytes], asked: dict[str, object], status: int, named: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refusal:
        client.audio.transcriptions.create(**{"file": audio, "model": "whisper-1", **asked})
    assert refusal.value.status_code == status
    assert named in refusal.value.message


def test_models_are_listed_as_the_client_expects(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]


def test_silence_streams_one_event(recording: bytes) -> None:
    class Silent(ScriptedSpeech):
        def finish(self, *args) -> Transcript:
            return replace(super().finish(*args), text="", words=())

    with (
        live_server(Silent()) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        events = list(client.audio.transcriptions.create(file=recording, model="whisper-1", stream=True))
    assert [(event.type, event.text) for event in events] == [("transcript.text.done", "")]
