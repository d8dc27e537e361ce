"""The steps from a recording to words, in order: what the service, the command line and evaluation all call.

`transcribe` is all of them. A service runs them apart: `prepare` on any thread, `listen_batch` on several
recordings at once, `search` on any thread, `rescore_batch` on several lists at once, `finish` on any thread.

Shapes: B recordings, T output frames, F mel bands, V CTC outputs (blank included).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from asr.acoustic.huggingface_ctc import HuggingFaceCtcSettings, normalised_samples
from asr.acoustic.kinds import AcousticModel, build
from asr.acoustic.listener import AcousticPrecision, listener
from asr.acoustic.residual_gru import ResidualGruSettings
from asr.audio import SAMPLE_RATE, Samples, Source, read_audio
from asr.bundle import ACOUSTIC, G2P, GPT2, INDEX, KENLM, LEXICON, NGRAM, TOKENIZER, UNIGRAMS, Bundle
from asr.decoding.array_ngram import ArrayNgram, WordNgram, load_ngram
from asr.decoding.greedy import greedy
from asr.decoding.languages import Language, Languages
from asr.decoding.mixed_ngram import AnyNgram, MixedNgram
from asr.decoding.options import DECODERS, DEFAULT_LM, MAX_NBEST, DecodingOptions, Engine
from asr.decoding.posted_text import TextReceipt, fit_of
from asr.decoding.receipts import HotwordReceipt, judged, unused, with_effect
from asr.decoding.rescoring import Gpt2Scorer, Precision, rescore_lists
from asr.decoding.result import Compared, Hypothesis, NBest, Scores, Transcript, Word
from asr.decoding.reweighting import reweight_for_gpt2
from asr.decoding.two_searches import search_both, seconds_left
from asr.decoding.words import describe_words
from asr.drift import Signs, clipped_share, signs_of, silent_share
from asr.errors import (
    AsrError,
    BundleError,
    MismatchError,
    MissingFileError,
    RescoringTimeoutError,
)
from asr.features import log_mel
from asr.long_audio import LongReader, Part, parts, whole
from asr.pronunciation import Pronunciations
from asr.recording import Posteriors, Prepared
from asr.self_test import self_test
from asr.sentences import Weights, goes_on
from asr.silence import is_silent
from asr.stopwatch import Stopwatch
from asr.tokenizer import Tokenizer
from asr.windows import WindowSettings

Device = Literal["auto", "cpu", "cuda"]

MAX_DURATION_S = 4 * 3600.0


class Transcriber:
    """A loaded bundle. Nothing in it changes after loading: several threads may call it at once."""

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer,
        acoustic: AcousticModel,
        ngrams: Mapping[str, WordNgram],
        gpt2: Gpt2Scorer,
        device: torch.device,
        engine: Engine | None = None,
        acoustic_precision: AcousticPrecision = "int16",
        pronunciations: Pronunciations | None = None,
    ) -> None:
        self.bundle = bundle
        self.tokenizer = tokenizer
        self.lm = ngrams[DEFAULT_LM]
        self.gpt2 = gpt2
        self.settings = bundle.settings.decoding
        self.calibration = bundle.settings.calibration
        self.name = bundle.settings.name
        self.sha256 = bundle.sha256
        self.sample_rate = SAMPLE_RATE
        self.device = str(device)
        self.windows = WindowSettings()
        self.pronunciations = pronunciations  # None: the model hears no phones
        self._acoustic = acoustic
        self._hear = listener(acoustic, device, acoustic_precision)
        # A request asks several times, and a caller's next one brings the same list.
        self._judged = lru_cache(maxsize=32)(partial(judged, tokenizer=tokenizer))
        self.languages = Languages(tokenizer, ngrams, self.settings, engine, pronunciations)

    @classmethod
    def load(
        cls,
        bundle_dir: str | Path,
        device: Device = "auto",
        *,
        rescore_precision: Precision = "float32",
        engine: Engine | None = None,
        acoustic_precision: AcousticPrecision = "int16",
    ) -> "Transcriber":
        """Verify a bundle and load its models. `auto` takes CUDA where there is one.

        rescore_precision: what GPT-2 computes in, see `Gpt2Scorer`. engine: of beam search; None: the
        bundle's, see `make_beam_decoder`. acoustic_precision: what the acoustic model computes in where it
        can, see `asr.acoustic.listener`. Raises BundleError (see `asr.errors`) naming the file at fault.
        """
        bundle = Bundle.load(bundle_dir)
        place = _place(device)
        try:
            acoustic = build(bundle.settings.acoustic)
            acoustic.load_state_dict(load_file(bundle.path / ACOUSTIC), strict=True)
            return cls(
                bundle,
                Tokenizer.load(bundle.path / TOKENIZER),
                acoustic.eval().requires_grad_(False).to(place),
                _load_ngrams(bundle),
                Gpt2Scorer.load(bundle.path / GPT2, place, rescore_precision),
                place,
                engine,
                acoustic_precision,
                _load_pronunciations(bundle),
            )
        except AsrError:
            raise
        except (
            Exception
        ) as error:  # every file has its right hash: whatever a library says, the bundle is at fault
            raise BundleError(f"{bundle.path} cannot be loaded: {error}") from error

    @property
    def frame_s(self) -> float:
        """Seconds between two output frames."""
        settings = self.bundle.settings
        return float(settings.features.hop_ms * settings.acoustic.features_per_output / 1000)

    @property
    def frame_samples(self) -> int:
        """Samples of audio between two output frames."""
        return round(self.frame_s * SAMPLE_RATE)

    @property
    def blank_id(self) -> int:
        return self.tokenizer.blank_id

    def transcribe(
        self,
        source: Source,
        options: DecodingOptions,
        *,
        max_duration_s: float = MAX_DURATION_S,
        timeout_s: float | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Transcript:
        """The words of a recording: the file's bytes, its path, or the open file.

        timeout_s: seconds from now, after which decoding gives up; None: never. on_part: told of each part
        of a long recording as soon as it is decoded; what it raises ends the work. The same recording and
        options give the same answer, `timings_ms` apart. Raises AudioError or DecodingTimeoutError.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        reader = LongReader(self, source, self.windows, max_duration_s=max_duration_s)
        found: list[Part] = []
        for one in parts(self, reader, options, self.windows, deadline=deadline):
            found.append(one)
            if on_part is not None:
                on_part(one)
        return whole(found, options, duration_s=reader.duration_s, calibrated=self.is_calibrated(options))

    def listen(self, source: Source, *, max_duration_s: float = MAX_DURATION_S) -> Posteriors:
        """The steps that all decoders share. Raises AudioError."""
        return self.listen_batch([self.prepare(source, max_duration_s=max_duration_s)])[0]

    def prepare(self, source: Source, *, max_duration_s: float = MAX_DURATION_S) -> Prepared:
        """Read a recording and compute its features; no model runs. Raises AudioError."""
        stopwatch = Stopwatch()
        with stopwatch.stage("audio"):
            samples = read_audio(source, max_duration_s=max_duration_s)
        return self.prepare_samples(samples, stopwatch.timings_ms)

    def prepare_samples(self, samples: Samples, timings_ms: dict[str, float] | None = None) -> Prepared:
        """The features of 16 kHz mono samples; timings_ms: of the steps before."""
        stopwatch = Stopwatch(timings_ms)
        with stopwatch.stage("features"):
            features_TF = self._features(samples)
        return Prepared(
            features_TF,
            len(samples) / SAMPLE_RATE,
            stopwatch.timings_ms,
            clipped=clipped_share(samples),
            silent=silent_share(samples),
        )

    def listen_batch(self, batch: Sequence[Prepared]) -> list[Posteriors]:
        """What the acoustic model hears in each recording.

        In int16 a recording gives the same bits alone and in any batch. In float32, where a batch is one
        padded pass, they differ by rounding: on CPU by at most 1e-3 in any log-probability above -20 (tested;
        in practice 1e-5). `acoustic` is each one's share of the time.
        """
        started = time.perf_counter()
        rows = self._listen(batch)
        share_ms = 1000 * (time.perf_counter() - started) / max(1, len(batch))
        return [
            Posteriors.of_rows(
                rows_TC,
                self.tokenizer.vocab_size,
                prepared.duration_s,
                prepared.timings_ms | {"acoustic": share_ms},
            )
            for prepared, rows_TC in zip(batch, rows, strict=True)
        ]

    def log_probs(self, samples: Samples) -> NDArray[np.float32]:
        """Natural-log posteriors (T, V) of 16 kHz mono samples; T is 0 where `Posteriors` says so."""
        return self.listen_batch([self.prepare_samples(samples)])[0].log_probs

    def decode(
        self, posteriors: Posteriors, options: DecodingOptions, *, deadline: float | None = None
    ) -> Transcript:
        """The steps from posteriors to words. deadline: on `time.monotonic`'s clock.

        Raises DecodingTimeoutError.
        """
        found = self.search(posteriors, options, deadline=deadline)
        if options.decoder == "beam_lm_rescore":
            budget_s = options.rescore_budget_s
            (found,) = self.rescore_batch([found], budget_s=budget_s, deadline=deadline)
        return self.finish(posteriors, found, options)

    def search(
        self, posteriors: Posteriors, options: DecodingOptions, *, deadline: float | None = None
    ) -> NBest:
        """The hypotheses of greedy decoding or beam search, before GPT-2.

        Raises DecodingTimeoutError, and OptionsError as `check` does or for a posted text without words.
        """
        stopwatch = Stopwatch(posteriors.timings_ms)
        language = None
        if options.decoder != "greedy":
            with stopwatch.stage("lm_text") if options.lm_text else nullcontext():
                language = self.languages.of(options)
        with stopwatch.stage("decoding"):
            hypotheses = self._search(posteriors, options, language, deadline)
        return NBest(tuple(hypotheses), timings_ms=stopwatch.timings_ms, language=language)

    def rescore_batch(
        self, lists: Sequence[NBest], *, budget_s: float | None = None, deadline: float | None = None
    ) -> list[NBest]:
        """Several recordings' lists in GPT-2's order, scored in one pass.

        budget_s: seconds for the pass; when they run out, the lists stay as they were. Scores alone and in a
        batch differ by rounding (1e-3). `rescoring` is each one's share of the time. Raises
        DecodingTimeoutError when the deadline, on `time.monotonic`'s clock, passes.
        """
        left_s = seconds_left(deadline)
        limits_s = [seconds for seconds in (left_s, budget_s) if seconds is not None]
        stop = time.monotonic() + min(limits_s) if limits_s else None
        limit = self.settings.rescore_nbest
        started = time.perf_counter()
        try:
            reweighted = [
                reweight_for_gpt2(nbest.hypotheses[:limit], self._lm_of(nbest), self.settings)
                for nbest in lists
            ]
            found = rescore_lists(reweighted, self.gpt2, self.settings.gamma, limit, deadline=stop)
            rescored = [
                replace(nbest, hypotheses=tuple(hypotheses), rescoring="done", searched=nbest.hypotheses)
                for nbest, hypotheses in zip(lists, found, strict=True)
            ]
        except RescoringTimeoutError:
            seconds_left(deadline)
            rescored = [replace(nbest, rescoring="out_of_time") for nbest in lists]
        share_ms = 1000 * (time.perf_counter() - started) / max(1, len(lists))
        return [replace(nbest, timings_ms=nbest.timings_ms | {"rescoring": share_ms}) for nbest in rescored]

    def finish(self, posteriors: Posteriors, found: NBest, options: DecodingOptions) -> Transcript:
        """The answer, with its words placed in the recording where they are asked for."""
        stopwatch = Stopwatch(found.timings_ms)
        words: tuple[Word, ...] = ()
        if options.word_timestamps:
            with stopwatch.stage("alignment"):
                words = self._describe(posteriors, found, options)
        return Transcript(
            text=found.hypotheses[0].text,
            decoder=options.decoder,
            duration_s=posteriors.duration_s,
            words=words,
            calibrated=self.is_calibrated(options),
            rescoring=found.rescoring,
            hypotheses=found.hypotheses[: options.nbest],
            compared=self._compared(posteriors, found, options) if options.compare else (),
            hotword_receipts=self._receipts(found, options),
            lm=found.language.name if found.language else "",
            lm_text=_text_receipt(found),
            timings_ms=stopwatch.timings_ms,
        )

    def goes_on(
        self, before: Transcript, after: Transcript, pause_s: float, options: DecodingOptions
    ) -> bool:
        """Whether the language models take two passages, with that pause between them, for one sentence.

        Greedy decoding has none.
        """
        if options.decoder == "greedy":
            return False
        alpha, gamma, lm = self.settings.alpha, 0.0, self.languages.of(options).lm
        if before.rescoring == after.rescoring == "done":
            gamma = self.settings.gamma
            alpha = alpha if self.settings.rescore_alpha is None else self.settings.rescore_alpha
        return goes_on(before.text, after.text, pause_s, lm, self.gpt2.score, Weights(alpha, gamma))

    def check(self, options: DecodingOptions) -> None:
        """Raises OptionsError for what this bundle cannot do: an n-gram that it has not."""
        self.languages.check(options)

    @property
    def lms(self) -> tuple[str, ...]:
        """Names of the bundle's n-grams, the default's first."""
        return self.languages.names

    def signs(self, posteriors: Posteriors, transcript: Transcript) -> Signs:
        """What tells whether texts are still like those that the bundle was made for."""
        return signs_of(posteriors, transcript, self.lm, self.blank_id)

    def is_calibrated(self, options: DecodingOptions) -> bool:
        """Whether words' confidences are probabilities of being right."""
        return self.calibration is not None and options.decoder in self.calibration.maps

    def self_test(self) -> None:
        """Decode seeded tones and noise twice with every decoder. Raises BundleError saying what is wrong."""
        self_test(self)

    def _features(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """Log-mel (T, F), or samples (T, 1) for a model that reads those; none where nothing can be heard."""
        settings, acoustic = self.bundle.settings.features, self.bundle.settings.acoustic
        silent = is_silent(samples)
        if isinstance(acoustic, HuggingFaceCtcSettings):
            if silent or len(samples) < acoustic.fewest_samples:
                return torch.empty(0, 1)
            return normalised_samples(torch.from_numpy(samples).to(self.device), acoustic)
        if silent or len(samples) < settings.hop_length * acoustic.features_per_output:
            return torch.empty(0, settings.n_mels)
        return log_mel(torch.from_numpy(samples).to(self.device), settings)

    def _listen(self, batch: Sequence[Prepared]) -> list[NDArray[np.float32]]:
        """The model's rows of each, phones too where they are wanted; those without frames are not heard."""
        acoustic = self.bundle.settings.acoustic
        n_columns = acoustic.n_columns if isinstance(acoustic, ResidualGruSettings) else acoustic.vocab_size
        heard = [prepared for prepared in batch if len(prepared.features)]
        features, phones = [one.features for one in heard], [one.phones for one in heard]
        rows = iter(self._hear(features, phones) if heard else ())
        return [
            next(rows)
            if len(prepared.features)
            else np.empty((0, n_columns if prepared.phones else acoustic.vocab_size), dtype=np.float32)
            for prepared in batch
        ]

    def _search(
        self,
        posteriors: Posteriors,
        options: DecodingOptions,
        language: Language | None,
        deadline: float | None,
    ) -> list[Hypothesis]:
        """Hypotheses, best first, at least one. language: None for greedy decoding."""
        log_probs_TV = posteriors.log_probs
        if not len(log_probs_TV):
            return [Hypothesis("", Scores(acoustic=0.0))]
        if language is None:
            return [greedy(log_probs_TV, self.tokenizer)]
        return search_both(
            language,
            log_probs_TV,
            posteriors.phones,
            self.pronunciations,
            self.settings,
            hotwords=self._accepted(options),
            hotword_weight=self._hotword_weight(options),
            limit=self._n_listed(options),
            deadline=deadline,
        )

    def _n_listed(self, options: DecodingOptions) -> int:
        """Hypotheses that the steps after the search have a use for."""
        rivals = MAX_NBEST if options.word_timestamps else 1
        rescored = self.settings.rescore_nbest if options.decoder == "beam_lm_rescore" else 1
        return max(options.nbest, rivals, rescored)

    def _compared(
        self, posteriors: Posteriors, found: NBest, options: DecodingOptions
    ) -> tuple[Compared, ...]:
        """The best hypothesis of each decoder up to the one asked for."""
        best = {options.decoder: found.hypotheses[0]}
        if options.decoder == "beam_lm_rescore":
            best["beam_lm"] = (found.searched or found.hypotheses)[0]
        if options.decoder != "greedy":
            (best["greedy"],) = self._search(posteriors, DecodingOptions("greedy"), None, None)
        return tuple(Compared(d, best[d].text, best[d].scores) for d in DECODERS if d in best)

    def _hotword_weight(self, options: DecodingOptions) -> float:
        return self.settings.hotword_weight if options.hotword_weight is None else options.hotword_weight

    def _accepted(self, options: DecodingOptions) -> tuple[str, ...]:
        return tuple(r.phrase for r in self._judged(options.hotwords) if r.accepted)

    def _lm_of(self, found: NBest) -> AnyNgram:
        return self.lm if found.language is None else found.language.lm

    def _receipts(self, found: NBest, options: DecodingOptions) -> tuple[HotwordReceipt, ...]:
        receipts, weight = self._judged(options.hotwords), self._hotword_weight(options)
        if options.decoder == "greedy" or weight == 0.0:
            return unused(receipts)
        text, lm = found.hypotheses[0].text, self._lm_of(found)
        return with_effect(receipts, text, weight, lm, self.settings.unknown_word_logp)

    def _describe(self, posteriors: Posteriors, found: NBest, options: DecodingOptions) -> tuple[Word, ...]:
        return describe_words(
            posteriors.log_probs,
            found.hypotheses,
            options.decoder,
            self.tokenizer,
            lm=self._lm_of(found),
            calibration=self.calibration,
            frame_s=self.frame_s,
            duration_s=posteriors.duration_s,
            hotwords=self._accepted(options),
        )


def _load_ngrams(bundle: Bundle) -> dict[str, WordNgram]:
    """By name. Raises MissingFileError and MismatchError."""
    path = bundle.path
    default = load_ngram(path / NGRAM, path / KENLM, path / UNIGRAMS)
    return {DEFAULT_LM: default} | {
        name: ArrayNgram.load(folder / NGRAM, folder / UNIGRAMS) for name, folder in bundle.lm_folders.items()
    }


def _load_pronunciations(bundle: Bundle) -> Pronunciations | None:
    """None for an acoustic model without phones. Raises MissingFileError and MismatchError."""
    acoustic, decoding = bundle.settings.acoustic, bundle.settings.decoding
    n_phones = acoustic.phones if isinstance(acoustic, ResidualGruSettings) else 0
    if not n_phones:
        return None
    for name in (LEXICON, G2P):
        if name not in bundle.files:
            raise MissingFileError(f"{INDEX} lists no {name}: the acoustic model hears phones")
    pronunciations = Pronunciations.load(bundle.path / LEXICON, bundle.path / G2P)
    if pronunciations.n_outputs != n_phones:
        raise MismatchError(
            f"{bundle.path / G2P} makes {pronunciations.n_outputs} outputs of its phones, the acoustic model "
            f"has {n_phones}"
        )
    if decoding.phone_prior and len(decoding.phone_prior) != n_phones:
        raise MismatchError(f"decoding.phone_prior is of {len(decoding.phone_prior)} outputs, not {n_phones}")
    return pronunciations


def _text_receipt(found: NBest) -> TextReceipt | None:
    """What a posted text did in the chosen hypothesis."""
    language = found.language
    if language is None or language.receipt is None:
        return None
    assert isinstance(language.lm, MixedNgram)
    return replace(language.receipt, written=fit_of(language.lm, [found.hypotheses[0].text]))


def _place(device: Device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
