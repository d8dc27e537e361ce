"""What a caller may ask for, wherever he asks: the parameters of `POST /transcribe` and `POST /v1/jobs`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Form, Query, Request

from asr.decoding.options import DECODERS, MAX_NBEST, DecodingOptions
from asr.errors import OptionsError
from service.recording import Channels
from service.settings import Settings

# One list, not DecoderName with another beside it: a wrong name is then answered with the right ones.
AskedDecoder = Literal["greedy", "beam_lm", "beam_lm_rescore", "all"]


@dataclass(frozen=True)
class Asked:
    """One request's wishes."""

    options: DecodingOptions
    channels: Channels
    degrade: bool  # whether a lesser decoder may be used under pressure; jobs can wait and never do


async def asked_parameters(
    request: Request,
    decoder: Annotated[
        AskedDecoder | None,
        Query(
            description="`all`: the last one, and in `decoders` what each makes of it. Default: a setting."
        ),
    ] = None,
    nbest: Annotated[int, Query(ge=0, le=MAX_NBEST, description="Hypotheses returned.")] = 0,
    timestamps: Annotated[Literal["none", "word"], Query(description="`word` fills `words`.")] = "none",
    hotwords: Annotated[
        list[str] | None, Query(description="Words or phrases to favour; repeatable.")
    ] = None,
    form_hotwords: Annotated[
        list[str] | None, Form(alias="hotwords", description="The same, for long lists.")
    ] = None,
    hotword_weight: Annotated[
        float | None, Query(ge=0, le=100, description="Bonus per matched hotword, natural logarithm.")
    ] = None,
    lm: Annotated[
        str | None,
        Query(description="One of the bundle's n-grams, as `GET /v1/models` lists them."),
    ] = None,
    lm_text: Annotated[
        str, Form(description="A text of the recording's topic, whose own n-gram is mixed in.")
    ] = "",
    lm_text_weight: Annotated[
        float | None, Query(gt=0, lt=1, description="Of that n-gram in the mixture. Default: the bundle's.")
    ] = None,
    channels: Annotated[
        Channels, Query(description="`separate` transcribes each channel by itself and fills `channels`.")
    ] = "mixed",
    rescore_budget_s: Annotated[
        float | None, Query(ge=0, le=3600, description="Seconds for GPT-2. Default: the service's setting.")
    ] = None,
    degrade: Annotated[bool, Query(description="Whether pressure may change the decoder.")] = True,
) -> Asked:
    """The parameters, with the settings' values where none is given. Raises OptionsError."""
    settings: Settings = request.app.state.service.settings
    options = DecodingOptions(
        decoder=DECODERS[-1] if decoder == "all" else decoder or settings.default_decoder,
        compare=decoder == "all",
        nbest=nbest,
        word_timestamps=timestamps == "word",
        hotwords=bounded_hotwords([*(hotwords or ()), *(form_hotwords or ())], settings),
        hotword_weight=hotword_weight,
        rescore_budget_s=settings.rescore_budget_s if rescore_budget_s is None else rescore_budget_s,
        lm=lm,
        lm_text=bounded_text(lm_text, settings),
        lm_text_weight=lm_text_weight,
    )
    request.state.decoder = options.decoder
    return Asked(options, channels, degrade)


Parameters = Annotated[Asked, Depends(asked_parameters)]


def bounded_hotwords(hotwords: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """Raises OptionsError for too many or too long ones."""
    if len(hotwords) > settings.max_hotwords:
        raise OptionsError(f"{len(hotwords)} hotwords given, at most {settings.max_hotwords} are taken")
    if any(len(hotword) > settings.max_hotword_chars for hotword in hotwords):
        raise OptionsError(f"a hotword is longer than {settings.max_hotword_chars} characters")
    return tuple(hotwords)


def bounded_text(text: str, settings: Settings) -> str:
    """A posted text. Raises OptionsError for one that is too long or plainly has no words."""
    if len(text) > settings.max_lm_text_chars:
        raise OptionsError(
            f"lm_text has {len(text)} characters, at most {settings.max_lm_text_chars} are taken"
        )
    if text and not any(map(str.isalpha, text)):
        raise OptionsError("lm_text has no words that could be spoken")
    return text
