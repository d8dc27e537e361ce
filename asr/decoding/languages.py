"""Which n-gram a beam search scores with: one of the bundle's, a posted text mixed in or not."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from asr.decoding.array_ngram import ArrayNgram, WordNgram
from asr.decoding.beam import BeamDecoder, make_beam_decoder
from asr.decoding.mixed_ngram import AnyNgram, MixedNgram
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.options import DEFAULT_LM, LM_TEXT_WEIGHT, DecodingOptions, DecodingSettings
from asr.decoding.phone_search import Lexicon, PhoneBeamDecoder
from asr.decoding.posted_text import TextReceipt, mixed_in
from asr.errors import OptionsError
from asr.pronunciation import Pronunciations
from asr.tokenizer import Tokenizer

MAX_TEXTS = 8  # posted texts whose mixtures are kept, the latest used; each takes some 10 MB

_Key = tuple[str, bytes, float]


@dataclass(frozen=True)
class Language:
    """An n-gram, and a beam search with it."""

    name: str  # of the bundle's n-gram
    lm: AnyNgram
    beam: BeamDecoder
    receipt: TextReceipt | None = None  # of the posted text that is mixed in
    phones: PhoneBeamDecoder | None = None  # a search over phones with it; beam is then native


class Languages:
    """The bundle's n-grams by name, and mixtures with posted texts, made once. For any number of threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        ngrams: Mapping[str, WordNgram],
        settings: DecodingSettings,
        engine: str | None = None,
        pronunciations: Pronunciations | None = None,
    ) -> None:
        """ngrams: `DEFAULT_LM` among them. engine: see `make_beam_decoder`, which says what is raised.

        pronunciations: of a model that hears phones; the native engine then searches over phones, too, where
        the settings say so.
        """
        self._tokenizer = tokenizer
        self._settings = settings
        self._lexicon: Lexicon | None = None
        if pronunciations is not None and settings.phone_beam_width and settings.pronunciation_weight:
            self._lexicon = Lexicon(pronunciations)
        self._plain = {
            name: self._language(name, lm, make_beam_decoder(tokenizer, lm, settings, engine))
            for name, lm in ngrams.items()
        }
        self._mixed: OrderedDict[_Key, Future[Language]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The default's first."""
        return (DEFAULT_LM, *sorted(self._plain.keys() - {DEFAULT_LM}))

    @property
    def default(self) -> Language:
        return self._plain[DEFAULT_LM]

    def check(self, options: DecodingOptions) -> None:
        """Raises OptionsError for a name that is none, and for a text that cannot be mixed in here."""
        if options.lm is not None and options.lm not in self._plain:
            raise OptionsError(f"lm must be one of {', '.join(self.names)}, not {options.lm[:40]!r}")
        if options.lm_text and not isinstance(self._named(options).beam, NativeBeamDecoder):
            raise OptionsError("lm_text needs the native beam search, this bundle is served by pyctcdecode")

    def of(self, options: DecodingOptions) -> Language:
        """What the options ask for. A new text takes part of a second. Raises OptionsError."""
        self.check(options)
        plain = self._named(options)
        if not options.lm_text:
            return plain
        weight = options.lm_text_weight or self._settings.lm_text_weight or LM_TEXT_WEIGHT
        digest = hashlib.sha256(options.lm_text.encode("utf-8", "surrogatepass")).digest()
        key = (plain.name, digest, weight)
        with self._lock:
            known = self._mixed.get(key)
            future = self._mixed.setdefault(key, Future())
            self._mixed.move_to_end(key)
            while len(self._mixed) > MAX_TEXTS:
                self._mixed.popitem(last=False)
        if known is None:  # whoever else wants it meanwhile waits for this
            try:
                future.set_result(self._mix(plain, options.lm_text, weight))
            except BaseException as error:
                with self._lock:
                    self._mixed.pop(key, None)
                future.set_exception(error)
        return future.result()

    def _named(self, options: DecodingOptions) -> Language:
        return self._plain[options.lm or DEFAULT_LM]

    def _mix(self, plain: Language, text: str, weight: float) -> Language:
        assert isinstance(plain.lm, ArrayNgram)  # the native engine has no other
        mixed, receipt = mixed_in(plain.lm, text, weight)
        beam = NativeBeamDecoder(self._tokenizer, mixed, self._settings)
        return self._language(plain.name, mixed, beam, receipt)

    def _language(
        self, name: str, lm: AnyNgram, beam: BeamDecoder, receipt: TextReceipt | None = None
    ) -> Language:
        phones = None
        if self._lexicon is not None and isinstance(beam, NativeBeamDecoder):
            assert isinstance(lm, ArrayNgram | MixedNgram)  # the native engine has no other
            phones = PhoneBeamDecoder(self._lexicon, lm, self._settings)
        return Language(name, lm, beam, receipt, phones)
