"""`POST /v1/audio/transcriptions`: what OpenAI's clients send and expect."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from asr.decoding.result import Transcript
from asr.long_audio import Part
from service.events import OnPart, PartStream, event_stream
from service.form_limit import FormRoute
from service.journey import Answer
from service.openai_form import TranscriptionForm, check_model, transcription_form
from service.openai_schemas import TextDelta, TextDone, Transcription, token_logprobs, transcription, verbose
from service.parameters import bounded_hotwords, bounded_text
from service.recording import audio_of
from service.routes import FAILURES, Shared, decoder_headers, disconnected
from service.subtitles import cues, srt, vtt

router = APIRouter(route_class=FormRoute)

ANSWERS: dict[int | str, dict[str, object]] = {
    200: {
        "model": Transcription,
        "content": {
            "text/plain": {"schema": {"type": "string"}},
            "text/vtt": {"schema": {"type": "string"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}


@router.post("/v1/audio/transcriptions", responses=FAILURES | ANSWERS, response_class=JSONResponse)
async def transcriptions(
    request: Request, service: Shared, form: Annotated[TranscriptionForm, Depends(transcription_form)]
) -> Response:
    """The text of a recording, as OpenAI's clients ask for it."""
    speech, settings = service.readiness.speech, service.settings
    check_model(form.model, speech.name)
    hotwords = bounded_hotwords(form.keywords, settings)
    bounded_text(form.lm_text, settings)
    options = form.options(settings.default_decoder, hotwords, settings.rescore_budget_s)
    request.state.decoder = options.decoder
    recording = audio_of(form.file)

    async def transcribe(on_part: OnPart | None = None) -> Answer:
        answer = await service.engine.transcribe(
            recording,
            options,
            caller_left=lambda: disconnected(request),
            degrade=form.degrade,
            on_part=on_part,
        )
        request.state.audio_s = round(answer.transcript.duration_s, 3)
        return answer

    if form.stream:
        events = await event_stream(
            PartStream(transcribe),
            lambda part, began: _deltas(part, began, form.logprobs),
            lambda answer: _done(answer, form.logprobs),
            request.scope["state"],
        )
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
    answer = await transcribe()
    rendered = _rendered(answer.transcript, form)
    rendered.headers.update(decoder_headers(answer))
    return rendered


def _rendered(transcript: Transcript, form: TranscriptionForm) -> Response:
    """The transcript in the format asked for."""
    match form.response_format:
        case "text":
            return PlainTextResponse(transcript.text + "\n")
        case "srt":
            return PlainTextResponse(srt(cues(transcript.words)))
        case "vtt":
            return PlainTextResponse(vtt(cues(transcript.words)), media_type="text/vtt")
        case "verbose_json":
            body = verbose(transcript, form.granularities)
            return JSONResponse(body.model_dump(exclude_none=True))
        case "json":
            return JSONResponse(transcription(transcript, form.logprobs).model_dump(exclude_none=True))


def _deltas(part: Part, began: bool, logprobs: bool) -> Iterator[TextDelta]:
    """A part's text as one piece, with the space before it."""
    text = part.transcript.text
    if text:
        found = list(token_logprobs(part.transcript.words, continued=began)) if logprobs else None
        yield TextDelta(delta=f" {text}" if began else text, logprobs=found)


def _done(answer: Answer, logprobs: bool) -> TextDone:
    body = transcription(answer.transcript, logprobs)
    return TextDone(text=body.text, logprobs=body.logprobs, usage=body.usage)
