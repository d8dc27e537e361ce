"""What the endpoints answer, as JSON; built from the speech code's own results."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict

from asr.decoding.options import DecoderName
from asr.decoding.receipts import Refusal
from asr.decoding.result import RescoringState, Transcript
from asr.stopwatch import added_up


class NamedModel(Protocol):
    """What identifies a loaded bundle."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class Answered(Protocol):
    """A transcript and how it came about."""

    @property
    def transcript(self) -> Transcript: ...
    @property
    def waited_s(self) -> float: ...
    @property
    def asked(self) -> DecoderName: ...
    @property
    def degraded(self) -> str: ...


class _FromObject(BaseModel):
    """Takes its fields from an object's attributes of the same names."""

    model_config = ConfigDict(from_attributes=True)


class ScoresBody(_FromObject):
    """Weighted natural logarithms; the parts add up to `total`."""

    acoustic: float
    pronunciation: float
    ngram: float
    hotwords: float
    gpt2: float
    length: float
    total: float


class HypothesisBody(_FromObject):
    text: str
    scores: ScoresBody


class HotwordReceiptBody(_FromObject):
    """What became of one hotword of the request."""

    term: str
    phrase: str
    accepted: bool
    reason: Refusal | None
    fired: int
    score: float


class FitBody(_FromObject):
    """Perplexities per word, a text's end counting as one: the bundle's n-gram alone, and with the text."""

    tokens: int
    perplexity_alone: float | None
    perplexity_mixed: float | None


class LmTextBody(_FromObject):
    """What became of the posted text."""

    weight: float
    sentences: int
    words: int
    n_new_words: int
    new_words: list[str]
    held_out: FitBody
    written: FitBody


class WordBody(_FromObject):
    word: str
    start_s: float
    end_s: float
    confidence: float
    lm_only: bool


class ComparedBody(_FromObject):
    """What one decoder makes of the recording."""

    decoder: DecoderName
    text: str
    scores: ScoresBody


class ModelBody(_FromObject):
    """The bundle that wrote the text."""

    name: str
    sha256: str


class ChannelBody(_FromObject):
    """One channel of a recording that was transcribed channel by channel."""

    text: str
    words: list[WordBody]
    rescoring: RescoringState
    hypotheses: list[HypothesisBody]
    hotword_receipts: list[HotwordReceiptBody]
    lm_text: LmTextBody | None


class TranscribeResponse(BaseModel):
    """Answer of `POST /transcribe`."""

    text: str
    decoder: DecoderName
    decoder_asked: DecoderName
    degraded: str
    duration_s: float
    words: list[WordBody]
    calibrated: bool
    rescoring: RescoringState
    hypotheses: list[HypothesisBody]
    decoders: list[ComparedBody] = []
    hotword_receipts: list[HotwordReceiptBody] = []
    lm: str = ""
    lm_text: LmTextBody | None = None
    channels: list[ChannelBody] = []
    timings_ms: dict[str, float]
    model: ModelBody
    request_id: str

    @classmethod
    def of(
        cls,
        transcript: Transcript,
        model: NamedModel,
        request_id: str,
        *,
        waited_s: float,
        asked: DecoderName | None = None,
        degraded: str = "",
    ) -> Self:
        """The answer that a transcript makes.

        waited_s: seconds in queues, the first of the timings. asked: the decoder, where the one used may be
        another; degraded: why it is.
        """
        return cls(
            text=transcript.text,
            decoder=transcript.decoder,
            decoder_asked=asked or transcript.decoder,
            degraded=degraded,
            duration_s=transcript.duration_s,
            words=[WordBody.model_validate(word) for word in transcript.words],
            calibrated=transcript.calibrated,
            rescoring=transcript.rescoring,
            hypotheses=[HypothesisBody.model_validate(hypothesis) for hypothesis in transcript.hypotheses],
            decoders=[ComparedBody.model_validate(compared) for compared in transcript.compared],
            hotword_receipts=[HotwordReceiptBody.model_validate(r) for r in transcript.hotword_receipts],
            lm=transcript.lm,
            lm_text=None if transcript.lm_text is None else LmTextBody.model_validate(transcript.lm_text),
            timings_ms={"queue": waited_s * 1000} | transcript.timings_ms,
            model=ModelBody.model_validate(model),
            request_id=request_id,
        )

    @classmethod
    def of_channels(
        cls, answers: Sequence[Answered], model: NamedModel, request_id: str, wanted: str
    ) -> Self:
        """The answer for the channels, each by itself: their texts as lines, the rest in `channels`."""
        first = answers[0]
        if wanted == "mixed":
            return cls.of(
                first.transcript,
                model,
                request_id,
                waited_s=first.waited_s,
                asked=first.asked,
                degraded=first.degraded,
            )
        together = replace(
            first.transcript,
            text="\n".join(answer.transcript.text for answer in answers),
            words=(),
            hypotheses=(),
            compared=(),
            hotword_receipts=(),
            lm_text=None,
            timings_ms=added_up(answer.transcript.timings_ms for answer in answers),
        )
        body = cls.of(
            together,
            model,
            request_id,
            waited_s=sum(answer.waited_s for answer in answers),
            asked=first.asked,
            degraded="; ".join(sorted({answer.degraded for answer in answers} - {""})),
        )
        body.channels = [ChannelBody.model_validate(answer.transcript) for answer in answers]
        return body


class ModelEntry(BaseModel):
    """One served bundle; the first four fields are those of OpenAI's model list."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "asr-sound"
    sha256: str
    device: str
    sample_rate: int
    decoders: Sequence[DecoderName]
    default_decoder: DecoderName
    lms: Sequence[str]


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class HealthResponse(BaseModel):
    """Answer of `GET /healthz`."""

    status: Literal["ok"] = "ok"


class ReadyResponse(BaseModel):
    """Answer of `GET /readyz`; `reasons` says why the service is not ready."""

    ready: bool
    reasons: list[str]


class ErrorDetail(BaseModel):
    code: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    """Answer to every request that fails."""

    error: ErrorDetail
