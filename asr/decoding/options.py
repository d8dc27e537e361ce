"""What a caller may ask of the decoders, and what a bundle has tuned."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from asr.errors import OptionsError

DecoderName = Literal["greedy", "beam_lm", "beam_lm_rescore"]
Engine = Literal["native", "pyctcdecode"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)
MAX_NBEST = 50
DEFAULT_LM = "default"  # name of the n-gram that a request without a name has
PRONUNCIATION_NBEST = 100  # of bundles that say nothing else
LM_TEXT_WEIGHT = 0.2  # of bundles that say nothing else


@dataclass(frozen=True)
class DecodingOptions:
    """One request's wishes. Raises OptionsError when a field is out of range."""

    decoder: DecoderName = "beam_lm_rescore"
    nbest: int = 0  # hypotheses returned, 0-50; greedy has one
    word_timestamps: bool = False  # align the chosen text and fill `Transcript.words`
    hotwords: tuple[str, ...] = ()  # words or phrases to favour; the beam decoders only
    hotword_weight: float | None = None  # natural-log bonus per matched word; None: the bundle's
    compare: bool = False  # the best hypothesis of each lesser decoder, too, from the same acoustic pass
    rescore_budget_s: float | None = None  # for GPT-2, then beam search's order stands; None: no limit
    lm: str | None = None  # name of one of the bundle's n-grams; None: its default; the beam decoders only
    lm_text: str = field(default="", repr=False)  # whose own n-gram is mixed in; the caller's, never logged
    lm_text_weight: float | None = None  # of that in the mixture, between 0 and 1; None: the bundle's

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise OptionsError(f"decoder must be one of {', '.join(DECODERS)}, not {self.decoder!r}")
        if not 0 <= self.nbest <= MAX_NBEST:
            raise OptionsError(f"nbest must be between 0 and {MAX_NBEST}, not {self.nbest}")
        if self.hotword_weight is not None and not 0.0 <= self.hotword_weight <= 100.0:
            raise OptionsError(f"hotword_weight must be between 0 and 100, not {self.hotword_weight}")
        if self.rescore_budget_s is not None and not 0.0 <= self.rescore_budget_s <= 3600.0:
            raise OptionsError(f"rescore_budget_s must be between 0 and 3600, not {self.rescore_budget_s}")
        if self.lm_text_weight is not None and not 0.0 < self.lm_text_weight < 1.0:
            raise OptionsError(f"lm_text_weight must be above 0 and below 1, not {self.lm_text_weight}")


@dataclass(frozen=True)
class DecodingSettings:
    """Tuned on dev by `asr-train tune`, kept in bundle.json. All scores are natural logarithms."""

    alpha: float = 0.5  # weight of the n-gram's log-probability
    beta: float = 0.5  # added per word
    gamma: float = 0.3  # weight of GPT-2's log-probability
    beam_width: int = 100  # prefixes kept per frame
    beam_prune_logp: float = -12.0  # prefixes this far below the best are dropped
    token_min_logp: float = -8.0  # tokens below this are not tried on a frame (the best one always is)
    max_tokens_per_frame: int = 12  # cap against flat posteriors
    unknown_word_logp: float = -8.0  # added (unweighted) per word outside the n-gram's vocabulary
    rescore_nbest: int = 30  # hypotheses that GPT-2 scores
    rescore_alpha: float | None = None  # alpha once GPT-2 has scored; None: the same
    rescore_beta: float | None = None  # beta once GPT-2 has scored; None: the same
    hotword_weight: float = 5.0  # natural-log bonus per matched word
    engine: str | None = None  # of beam search, of ENGINES; None: native where the n-gram is in arrays
    prior_weight: float | None = None  # power of `label_prior` that beam search divides posteriors by
    label_prior: tuple[float, ...] | None = None  # (V,) mean posterior of each CTC output, on dev
    lm_text_weight: float | None = None  # of a posted text's n-gram in the mixture; None: LM_TEXT_WEIGHT
    # Of phones beside pieces in a text's acoustic score, 0-1; None: beam search's texts stay as they are.
    pronunciation_weight: float | None = None
    pronunciation_nbest: int | None = None  # texts that phones score; None: PRONUNCIATION_NBEST
    phone_prior_weight: float | None = None  # power of `phone_prior` that phones' posteriors are divided by
    phone_prior: tuple[float, ...] | None = None  # (P,) mean posterior of each phone output, on dev
    # Hypotheses kept per frame of phones by a search over them, whose texts join the pieces'; None, 0: none.
    phone_beam_width: int | None = None
    phone_alpha: float | None = None  # alpha in that search alone; None: the same

    def __post_init__(self) -> None:
        if self.beam_width < 1 or self.rescore_nbest < 1 or self.max_tokens_per_frame < 1:
            raise OptionsError("beam_width, rescore_nbest and max_tokens_per_frame must be at least 1")
        if self.beam_prune_logp >= 0 or self.token_min_logp >= 0:
            raise OptionsError("beam_prune_logp and token_min_logp must be negative")
        if self.engine is not None and self.engine not in ENGINES:
            raise OptionsError(f"engine must be one of {', '.join(ENGINES)}, not {self.engine!r}")
        if self.prior_weight and not self.label_prior:
            raise OptionsError("prior_weight needs label_prior")
        if self.label_prior and min(self.label_prior) <= 0:
            raise OptionsError("label_prior must be probabilities above 0")
        if self.lm_text_weight is not None and not 0.0 < self.lm_text_weight < 1.0:
            raise OptionsError("lm_text_weight must be above 0 and below 1")
        if self.pronunciation_weight is not None and not 0.0 <= self.pronunciation_weight < 1.0:
            raise OptionsError("pronunciation_weight must be at least 0 and below 1")
        if self.pronunciation_nbest is not None and self.pronunciation_nbest < 1:
            raise OptionsError("pronunciation_nbest must be at least 1")
        if self.phone_prior_weight and not self.phone_prior:
            raise OptionsError("phone_prior_weight needs phone_prior")
        if self.phone_prior and min(self.phone_prior) <= 0:
            raise OptionsError("phone_prior must be probabilities above 0")
        if self.phone_beam_width is not None and self.phone_beam_width < 0:
            raise OptionsError("phone_beam_width must be at least 0")


_PRIORS = ("label_prior", "phone_prior")
_LEFT_OUT = (  # of bundle.json where no choice was made
    "engine",
    "prior_weight",
    "label_prior",
    "lm_text_weight",
    "pronunciation_weight",
    "pronunciation_nbest",
    "phone_prior_weight",
    "phone_prior",
    "phone_beam_width",
    "phone_alpha",
)


def decoding_for_people(settings: DecodingSettings) -> dict[str, Any]:
    """The settings by name, without the numbers of the priors."""
    return {name: value for name, value in asdict(settings).items() if name not in _PRIORS}


def decoding_to_section(settings: DecodingSettings) -> dict[str, Any]:
    """As in bundle.json; choices that are not made are left out, as in bundles older than the choice."""
    section = asdict(settings)
    for name in _LEFT_OUT:
        if section[name] is None:
            del section[name]
    return section
