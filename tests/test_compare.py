"""All decoders from one acoustic pass."""

from pathlib import Path

from asr.decoding.options import DECODERS, DecodingOptions
from asr.decoding.result import Compared, Hypothesis, Scores, Transcript
from asr.merging import merged
from asr.transcriber import Transcriber


def test_each_decoders_text_is_what_it_gives_alone(tiny_bundle: Path, recording: bytes) -> None:
    transcriber = Transcriber.load(tiny_bundle, device="cpu")
    posteriors = transcriber.listen(recording)
    together = transcriber.decode(posteriors, DecodingOptions("beam_lm_rescore", compare=True))
    assert tuple(compared.decoder for compared in together.compared) == DECODERS
    for compared in together.compared:
        alone = transcriber.decode(posteriors, DecodingOptions(compared.decoder, nbest=1))
        assert compared.text == alone.text
        assert compared.scores == alone.hypotheses[0].scores
    assert transcriber.decode(posteriors, DecodingOptions("beam_lm_rescore")).compared == ()
    fewer = transcriber.decode(posteriors, DecodingOptions("beam_lm", compare=True)).compared
    assert [compared.decoder for compared in fewer] == ["greedy", "beam_lm"]


def test_parts_of_a_long_recording_are_put_together() -> None:
    def part(text: str, score: float) -> Transcript:
        scores = Scores(acoustic=score)
        compared = (Compared("greedy", text + "g", scores), Compared("beam_lm", text, scores))
        return Transcript(text, "beam_lm", 1.0, hypotheses=(Hypothesis(text, scores),), compared=compared)

    parts = [part("a", -1.0), part("b", -2.0)]
    whole = merged(parts, decoder="beam_lm", duration_s=2.0, nbest=1, calibrated=False)
    assert [(c.decoder, c.text) for c in whole.compared] == [("greedy", "ag bg"), ("beam_lm", "a b")]
    assert [c.scores.total for c in whole.compared] == [-3.0, -3.0]
