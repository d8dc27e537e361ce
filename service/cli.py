"""The `asr-sound` command.

asr-sound serve                       # settings from ASR_* variables, see docs/service.md
asr-sound transcribe speech.ogg --decoder greedy
asr-sound bundle verify models/default
asr-sound key                         # an API key, and its hash for ASR_API_KEY_HASHES
asr-sound lm-doctor domain.txt        # or the text itself
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from asr.decoding.options import DECODERS, MAX_NBEST, DecodingOptions
from asr.errors import AsrError
from service.errors import SettingsError
from service.memory import bound_caches, made_for_good
from service.settings import Settings, load_settings

MAX_PATH_CHARS = 4096  # longer arguments of lm-doctor are texts
MAX_HEADER_BYTES = 64 * 1024  # that are collected; service/upload_limit.py refuses sooner
MAX_MESSAGE_BYTES = 1024 * 1024  # of a WebSocket
DEVICES = ("auto", "cpu", "cuda")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Errors that we foresee end in one line on standard error."""
    args = _parser().parse_args(arguments)
    bound_caches(os.environ)
    command: Callable[[argparse.Namespace], int] = args.command
    try:
        return command(args)
    except (AsrError, SettingsError, OSError) as error:
        print(f"asr-sound: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asr-sound", description="Speech to text.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve a bundle over HTTP; settings are ASR_* variables")
    serve.set_defaults(command=_serve)

    transcribe = commands.add_parser("transcribe", help="write the text of recordings")
    transcribe.add_argument("files", nargs="+", type=Path, metavar="FILE")
    transcribe.add_argument(
        "--decoder", choices=(*DECODERS, "all"), help="default: as the service; all: what each makes of it"
    )
    transcribe.add_argument("--nbest", type=int, default=0, help=f"hypotheses in --json, 0-{MAX_NBEST}")
    transcribe.add_argument("--timestamps", choices=("none", "word"), default="none", help="words in --json")
    transcribe.add_argument(
        "--hotword", action="append", default=[], help="word or phrase to favour; repeatable"
    )
    transcribe.add_argument("--hotword-weight", type=float, help="natural-log bonus per matched hotword")
    _add_lm_flags(transcribe)
    transcribe.add_argument(
        "--json", action="store_true", help="one JSON object a line, as the service answers"
    )
    transcribe.add_argument("--bundle", type=Path, help="bundle folder; default: as the service")
    transcribe.add_argument("--device", choices=DEVICES, help="default: as the service")
    transcribe.set_defaults(command=_transcribe)

    doctor = commands.add_parser("lm-doctor", help="what the language models make of a text of your domain")
    doctor.add_argument("text", metavar="TEXT|FILE", help="a text, or a file of one sentence a line")
    doctor.add_argument("--terms", type=int, default=30, help="distinct words shown, the worst first")
    _add_lm_flags(doctor)
    doctor.add_argument("--json", action="store_true", help="one JSON object, with every distinct word")
    doctor.add_argument("--bundle", type=Path, help="bundle folder; default: as the service")
    doctor.set_defaults(command=_lm_doctor)

    key = commands.add_parser("key", help="make an API key and its hash")
    key.set_defaults(command=_key)

    bundle = commands.add_parser("bundle", help="look after bundles")
    verify = bundle.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "verify", help="check every file of a bundle against bundle.json"
    )
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.set_defaults(command=_verify)
    return parser


def _add_lm_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lm", metavar="NAME", help="one of the bundle's n-grams; default: its first")
    parser.add_argument(
        "--lm-text", type=Path, metavar="FILE", help="a text of the topic, whose own n-gram is mixed in"
    )
    parser.add_argument("--lm-text-weight", type=float, help="of that n-gram in the mixture, 0-1")


# The commands import what they need themselves: torch takes seconds, and `--help` should not.


def _serve(_: argparse.Namespace) -> int:
    """Serve until stopped; 1 when the bundle cannot be served."""
    settings = load_settings()
    with ExitStack() as until_loaded:
        until_loaded.enter_context(made_for_good())  # libraries are among it
        return _run_server(settings, until_loaded)


def _run_server(settings: Settings, until_loaded: ExitStack) -> int:
    """until_loaded: closed as soon as the models are there, or cannot be loaded."""
    import uvicorn

    from service.app import create_app
    from service.logs import set_up_logs
    from service.server import Server
    from service.speech import Speech, load_speech

    failures: list[Exception] = []

    def load(settings: Settings) -> Speech:
        with until_loaded:
            return load_speech(settings)

    def stop(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    set_up_logs(settings.log_level)
    app = create_app(settings, load, on_load_failure=stop)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        http="h11",  # the one with a limit on headers
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=round(settings.timeout_s),
    )
    server = Server(config, app.state.service.engine.stop_admitting)
    server.run()
    if failures:
        raise failures[0]
    return 0 if server.started else 1


def _transcribe(args: argparse.Namespace) -> int:
    """Write each file's text; 1 when any of them failed."""
    from service.schemas import TranscribeResponse
    from service.speech import load_speech

    settings = _with_flags(load_settings(), args)
    compare = args.decoder == "all"
    options = DecodingOptions(
        decoder=DECODERS[-1] if compare else args.decoder or settings.default_decoder,
        compare=compare,
        nbest=args.nbest,
        word_timestamps=args.timestamps == "word",
        hotwords=tuple(args.hotword),
        hotword_weight=args.hotword_weight,
        rescore_budget_s=settings.rescore_budget_s,
        lm=args.lm,
        lm_text=_posted_text(args, settings),
        lm_text_weight=args.lm_text_weight,
    )
    speech = load_speech(settings)
    speech.check(options)
    failed = False
    for path in args.files:
        try:
            content = path.read_bytes()
            transcript = speech.transcribe(content, options, max_duration_s=settings.max_duration_s)
        except (AsrError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"asr-sound: {path}: {reason}", file=sys.stderr)
            failed = True
            continue
        if args.json:
            body = TranscribeResponse.of(transcript, speech, request_id="", waited_s=0.0)
            print(json.dumps({"file": str(path)} | body.model_dump(exclude={"request_id"})))
        else:
            lines = [f"{one.decoder}\t{one.text}" for one in transcript.compared] or [transcript.text]
            for line in lines:
                print(line if len(args.files) == 1 else f"{path}\t{line}")
    return 1 if failed else 0


def _posted_text(args: argparse.Namespace, settings: Settings) -> str:
    """The text of --lm-text. Raises OSError, and OptionsError as for one that is posted."""
    from service.parameters import bounded_text

    if args.lm_text is None:
        return ""
    return bounded_text(args.lm_text.read_text(encoding="utf-8", errors="replace"), settings)


def _lm_doctor(args: argparse.Namespace) -> int:
    """Write what the bundle's language models make of a text."""
    from asr.decoding.lm_doctor import diagnose
    from asr.decoding.mixed_ngram import MixedNgram
    from asr.decoding.posted_text import fit_of
    from asr.text import normalise
    from asr.transcriber import Transcriber
    from service.schemas import LmTextBody

    settings = load_settings()
    if args.bundle is not None:
        settings = settings.model_copy(update={"bundle": args.bundle})
    path = Path(args.text)
    is_file = len(args.text) < MAX_PATH_CHARS and path.is_file()
    text = path.read_text(encoding="utf-8", errors="replace") if is_file else args.text
    options = DecodingOptions(
        "beam_lm", lm=args.lm, lm_text=_posted_text(args, settings), lm_text_weight=args.lm_text_weight
    )
    models = Transcriber.load(settings.bundle_dir, "cpu")
    language = models.languages.of(options)
    found = diagnose(text.splitlines(), models.tokenizer, language.lm, models.gpt2, models.settings)
    mixed = None
    if language.receipt is not None and isinstance(language.lm, MixedNgram):
        fit = fit_of(language.lm, [normalise(line) for line in text.splitlines()])
        mixed = LmTextBody.model_validate(replace(language.receipt, written=fit))
    if args.json:
        more = {} if mixed is None else {"lm_text": mixed.model_dump()}
        print(json.dumps(asdict(found) | more))
        return 0
    if mixed is not None:
        print(
            f"{args.lm_text} mixed in at {mixed.weight:g}: {mixed.n_new_words} words that the n-gram "
            f"{language.name} does not know; its perplexity {mixed.written.perplexity_alone:.0f} -> "
            f"{mixed.written.perplexity_mixed:.0f}"
        )
    print(
        f"{found.words} words in {found.sentences} sentences, {found.unknown_words} "
        f"({found.unknown_share:.1%}) outside the n-gram's vocabulary\n"
        f"perplexity per word: n-gram {found.ngram_perplexity:.0f} "
        f"(known words alone {found.ngram_known_perplexity:.0f}), GPT-2 {found.gpt2_perplexity:.0f}\n"
    )
    print(f"{'word':20} {'times':>5} {'cost':>6}  {'trouble':17}  pieces")
    for term in found.terms[: args.terms]:
        pieces = " ".join(term.pieces).replace("\u2581", "_")
        print(f"{term.word:20} {term.count:5} {term.cost:6.1f}  {term.trouble or '-':17}  {pieces}")
    if found.hotwords:
        print("\nhotwords to try: " + ", ".join(found.hotwords[: args.terms]))
    return 0


def _key(_: argparse.Namespace) -> int:
    """A new API key for a caller, and its hash for the service."""
    from service.keys import new_key

    key, digest = new_key()
    print(f"key:  {key}\nhash: {digest}  (one of ASR_API_KEY_HASHES)")
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Name and hash of a sound bundle."""
    from asr.bundle import Bundle

    bundle = Bundle.load(args.folder)
    print(
        f"{args.folder}: {bundle.settings.name}, {len(bundle.files)} files as listed, sha256 {bundle.sha256}"
    )
    return 0


def _with_flags(settings: Settings, args: argparse.Namespace) -> Settings:
    """The settings with the flags that were given in place of theirs."""
    flags = {"bundle": args.bundle, "device": args.device}
    return settings.model_copy(update={name: value for name, value in flags.items() if value is not None})


if __name__ == "__main__":
    sys.exit(main())
