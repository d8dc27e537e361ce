"""The form of `POST /v1/audio/transcriptions`, as OpenAI's clients send it, and what of it is refused.

Fields that change nothing here are taken where leaving them out would change nothing either (`prompt`,
`temperature`); those that ask for something that is not done are refused by name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import File, Form, Request, UploadFile

from asr.decoding.options import DecoderName, DecodingOptions
from asr.errors import OptionsError
from service.errors import UnknownModelError

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]

# Names that clients have built in; they mean the bundle that is served.
KNOWN_MODELS = ("whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")
ENGLISH = ("en", "english")
_ONE = (
    "file",
    "model",
    "language",
    "prompt",
    "response_format",
    "temperature",
    "stream",
    "chunking_strategy",
)
_LISTS = ("timestamp_granularities[]", "include[]", "keywords[]", "languages[]")
_OURS = ("decoder", "hotword_weight", "degrade", "lm", "lm_text", "lm_text_weight")
FIELDS = frozenset({*_ONE, *_LISTS, *_OURS})


@dataclass(frozen=True)
class TranscriptionForm:
    """What the caller wants. Raises OptionsError for fields that do not go together."""

    file: UploadFile
    model: str
    response_format: Format
    stream: bool
    granularities: tuple[Granularity, ...]
    logprobs: bool
    keywords: tuple[str, ...]
    decoder: DecoderName | None
    hotword_weight: float | None
    degrade: bool  # whether a lesser decoder may be used under pressure
    lm: str | None
    lm_text: str
    lm_text_weight: float | None

    def __post_init__(self) -> None:
        if self.granularities and self.response_format != "verbose_json":
            raise OptionsError("timestamp_granularities[] needs response_format verbose_json")
        if self.logprobs and self.response_format != "json":
            raise OptionsError("include[] needs response_format json")
        if self.stream and self.response_format not in ("json", "text"):
            raise OptionsError(f"stream needs response_format json or text, not {self.response_format}")

    @property
    def needs_words(self) -> bool:
        """Whether words have to be placed."""
        return self.logprobs or self.response_format in ("srt", "vtt", "verbose_json")

    def options(
        self, default_decoder: DecoderName, hotwords: tuple[str, ...], budget_s: float | None
    ) -> DecodingOptions:
        """What the decoders are asked. Raises OptionsError."""
        return DecodingOptions(
            decoder=self.decoder or default_decoder,
            word_timestamps=self.needs_words,
            hotwords=hotwords,
            hotword_weight=self.hotword_weight,
            rescore_budget_s=budget_s,
            lm=self.lm,
            lm_text=self.lm_text,
            lm_text_weight=self.lm_text_weight,
        )


async def transcription_form(
    request: Request,
    file: Annotated[UploadFile, File(description="The recording: wav, flac, mp3, ogg, m4a or webm.")],
    model: Annotated[str, Form(description="The bundle's name, or one of OpenAI's, which mean the same.")],
    language: Annotated[str | None, Form(description="Only `en`.")] = None,
    languages: Annotated[list[str] | None, Form(alias="languages[]", description="Only `en`.")] = None,
    prompt: Annotated[str | None, Form(description="Taken and not used.")] = None,
    response_format: Annotated[Format, Form(description="What the answer is.")] = "json",
    temperature: Annotated[
        float, Form(ge=0, le=1, description="Taken and not used: the same audio gives the same text.")
    ] = 0.0,
    stream: Annotated[
        bool, Form(description="Server-sent events, while a long recording is decoded.")
    ] = False,
    chunking_strategy: Annotated[
        Literal["auto"] | None, Form(description="Long recordings are always cut at pauses.")
    ] = None,
    granularities: Annotated[
        list[Granularity] | None, Form(alias="timestamp_granularities[]", description="For verbose_json.")
    ] = None,
    include: Annotated[
        list[Literal["logprobs"]] | None, Form(alias="include[]", description="Each word's log-probability.")
    ] = None,
    keywords: Annotated[
        list[str] | None, Form(alias="keywords[]", description="Words or phrases to favour: hotwords.")
    ] = None,
    decoder: Annotated[DecoderName | None, Form(description="Default: the service's setting.")] = None,
    hotword_weight: Annotated[
        float | None, Form(ge=0, le=100, description="Bonus per matched keyword, natural logarithm.")
    ] = None,
    degrade: Annotated[bool, Form(description="Whether pressure may change the decoder.")] = True,
    lm: Annotated[str | None, Form(description="One of the bundle's n-grams.")] = None,
    lm_text: Annotated[str, Form(description="A text of the topic, whose own n-gram is mixed in.")] = "",
    lm_text_weight: Annotated[
        float | None, Form(gt=0, lt=1, description="Of that n-gram in the mixture.")
    ] = None,
) -> TranscriptionForm:
    """The form, checked as far as it can be without a model. Raises OptionsError."""
    _check_fields(await request.form())
    for name, code in [("language", language), *(("languages[]", one) for one in languages or ())]:
        if code is not None and code.lower().split("-")[0] not in ENGLISH:
            raise OptionsError(f"{name} must be en, not {code[:40]!r}")
    return TranscriptionForm(
        file=file,
        model=model,
        response_format=response_format,
        stream=stream,
        granularities=tuple(granularities or ()),
        logprobs=bool(include),
        keywords=tuple(keywords or ()),
        decoder=decoder,
        hotword_weight=hotword_weight,
        degrade=degrade,
        lm=lm,
        lm_text=lm_text,
        lm_text_weight=lm_text_weight,
    )


def _check_fields(names: Iterable[str]) -> None:
    """Raises OptionsError naming the fields that are not known here."""
    unknown = sorted(set(names) - FIELDS)
    if unknown:
        raise OptionsError(f"{', '.join(name[:40] for name in unknown[:5])}: not supported")


def check_model(asked: str, served: str) -> None:
    """Raises UnknownModelError."""
    if asked != served and asked not in KNOWN_MODELS:
        known = ", ".join((served, *KNOWN_MODELS))
        raise UnknownModelError(f"model must be one of {known}, not {asked[:80]!r}")
