"""Sentences that go on over a cut of a long recording: told by language models, heard and decoded anew."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE
from asr.decoding.options import DecodingOptions
from asr.decoding.result import Transcript
from asr.long_audio import Part
from asr.sentences import Weights, as_one, fit_together, goes_on
from asr.transcriber import Transcriber
from asr.windows import Stretch, stretches
from service.engine import Engine
from service.journey import Answer
from service.settings import Settings
from tests.conftest import wav_bytes
from tests.test_engine import on_engine
from tests.test_long_audio import FRAME, SMALL, in_pieces, silence, speech, tones
from tests.tiny_lm import make_array_lm

WEIGHTS = Weights(ngram=1.0, gpt2=0.0)


def nobody(texts: Sequence[str]) -> list[float]:
    raise AssertionError("GPT-2 has no weight")


def test_a_sentence_goes_on_where_its_words_belong_together(tmp_path: Path) -> None:
    lm = make_array_lm(tmp_path)
    assert goes_on("pear new", "york pear", 0.3, lm, nobody, WEIGHTS)
    assert not goes_on("pear new", "an apple", 0.3, lm, nobody, WEIGHTS)  # "an" begins sentences
    assert not goes_on(
        "pear new", "york pear", 3.0, lm, nobody, WEIGHTS
    )  # after so long a pause nothing does
    assert not goes_on("", "york pear", 0.1, lm, nobody, WEIGHTS)
    assert not goes_on("pear new", "", 0.1, lm, nobody, WEIGHTS)


def test_gpt2_is_heard_beside_the_ngram(tmp_path: Path) -> None:
    lm = make_array_lm(tmp_path)
    likes = {"pear new an apple": -1.0, "pear new": -8.0, "an apple": -8.0}
    both = Weights(ngram=1.0, gpt2=1.0)
    assert goes_on("pear new", "an apple", 0.3, lm, lambda texts: [likes[t] for t in texts], both)
    assert not goes_on("pear new", "york pear", 0.3, lm, lambda texts: [-30.0, -1.0, -1.0], both)


def test_stretches_tell_how_long_a_pause_they_end_in() -> None:
    samples = np.concatenate([speech(2), silence(0.6), speech(2, 1), silence(0.9), speech(2, 2)])
    found = list(stretches(in_pieces(samples), SMALL, FRAME))
    assert [s.pause_s for s in found] == pytest.approx([0.6, 0.9, 0.0], abs=0.05)


def test_only_neighbours_that_fit_become_one_stretch() -> None:
    first = Stretch(speech(3), 1000, pause_s=0.3)
    second = Stretch(speech(2, 1), first.end, pause_s=0.7)
    assert fit_together(first, second, longest_s=5.0)
    one = as_one(first, second)
    assert (one.start, one.end, one.pause_s) == (1000, second.end, 0.7)
    np.testing.assert_array_equal(one.samples, np.concatenate([first.samples, second.samples]))
    assert not fit_together(first, second, longest_s=4.9)
    assert not fit_together(first, replace(second, start=first.end + 1), 9.0)  # a long pause was left out
    assert not fit_together(replace(first, continues=True), replace(second, overlap=160), 9.0)


class Believing(Transcriber):
    """Takes every two passages for one sentence."""

    def goes_on(
        self, before: Transcript, after: Transcript, pause_s: float, options: DecodingOptions
    ) -> bool:
        return True


SPOKEN = [part for hz in (300, 500, 900, 700) for part in (tones(11, hz), silence(0.8, 1e-5))]


@pytest.mark.parametrize("decoder", ["beam_lm", "beam_lm_rescore"])
def test_a_sentence_over_a_cut_is_what_its_own_recording_gives(tiny_bundle: Path, decoder: str) -> None:
    options = DecodingOptions(decoder, nbest=2, word_timestamps=True)  # type: ignore[arg-type]
    transcriber = Believing.load(tiny_bundle, device="cpu")
    samples = np.concatenate(SPOKEN)
    told: list[Part] = []
    found = transcriber.transcribe(wav_bytes(samples), options, on_part=told.append)
    assert len(told) == 2  # two of eleven seconds each: three would be longer than a stretch may be
    for part in told:
        span = slice(round(part.start_s * SAMPLE_RATE), round(part.end_s * SAMPLE_RATE))
        alone = transcriber.transcribe(wav_bytes(samples[span]), options)
        assert part.transcript.text == alone.text
        assert part.transcript.hypotheses == alone.hypotheses
    assert found.text == " ".join(part.transcript.text for part in told)
    starts = [word.start_s for word in found.words]
    assert starts == sorted(starts)
    scores = found.hypotheses[0].scores
    parts = (scores.acoustic, scores.ngram, scores.hotwords, scores.gpt2, scores.length, scores.pronunciation)
    assert scores.total == pytest.approx(sum(parts))


def test_the_service_joins_sentences_as_the_transcriber_does(tiny_bundle: Path) -> None:
    transcriber = Believing.load(tiny_bundle, device="cpu")
    content, options = wav_bytes(np.concatenate(SPOKEN)), DecodingOptions(nbest=2, word_timestamps=True)
    told: list[Part] = []
    answers: list[Answer] = []

    async def check(engine: Engine) -> None:
        answers.append(await engine.transcribe(io.BytesIO(content), options, on_part=told.append))

    metrics = on_engine(check, transcriber, Settings(workers=1, isolate_audio=False))
    assert len(told) == 2
    direct = transcriber.transcribe(content, options)
    found = answers[0].transcript
    assert found.text == direct.text == " ".join(part.transcript.text for part in told)
    assert found.words == direct.words
    assert [h.scores.total for h in found.hypotheses] == pytest.approx(
        [h.scores.total for h in direct.hypotheses], abs=1e-3
    )
    assert metrics.registry.get_sample_value("asr_lm_perplexity_count") == 2  # of what is said in the end


def test_greedy_decoding_asks_no_language_model(tiny_bundle: Path) -> None:
    transcriber = Transcriber.load(tiny_bundle, device="cpu")
    said = Transcript("the cat", "greedy", 1.0)
    assert not transcriber.goes_on(said, said, -100.0, DecodingOptions("greedy"))
    assert transcriber.goes_on(said, said, -100.0, DecodingOptions("beam_lm"))


def test_gpt2_is_asked_only_where_it_has_scored(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcriber = Transcriber.load(tiny_bundle, device="cpu")
    asked: list[int] = []

    def score(texts: Sequence[str], **_: object) -> list[float]:
        asked.append(len(texts))
        return [0.0] * len(texts)

    monkeypatch.setattr(transcriber.gpt2, "score", score)
    plain, done = (
        Transcript("the cat", "beam_lm", 1.0),
        Transcript("the cat", "beam_lm_rescore", 1.0, rescoring="done"),
    )
    transcriber.goes_on(plain, plain, 0.3, DecodingOptions("beam_lm"))
    transcriber.goes_on(done, replace(done, rescoring="out_of_time"), 0.3, DecodingOptions())
    assert not asked
    transcriber.goes_on(done, done, 0.3, DecodingOptions())
    assert asked == [3]
