"""Audio without a header: what its bytes are, as a media type says it."""

from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message

from asr.errors import UnreadableAudioError

MAX_RATE_HZ = 384_000
MAX_RAW_CHANNELS = 64

# Media type -> FFmpeg's demuxer by byte order, network order first where the type's own document says so.
_LINEAR = {"audio/l8": ("u8", "u8"), "audio/l16": ("s16be", "s16le"), "audio/l24": ("s24be", "s24le")}
_PCM = {
    "s16le": "s16le",
    "s16be": "s16be",
    "s24le": "s24le",
    "s32le": "s32le",
    "f32le": "f32le",
    "u8": "u8",
}
_TELEPHONE = {"audio/pcmu": "mulaw", "audio/pcma": "alaw"}
RAW_TYPES = frozenset({*_LINEAR, *_TELEPHONE, "audio/pcm", "audio/g722"})


@dataclass(frozen=True)
class RawAudio:
    """How headerless bytes are read."""

    demuxer: str  # FFmpeg's name of the coding
    rate_hz: int | None = None  # None: the coding has only one
    channels: int = 1  # interleaved

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 4000 <= self.rate_hz <= MAX_RATE_HZ:
            raise UnreadableAudioError(f"rate must be between 4000 and {MAX_RATE_HZ} Hz, not {self.rate_hz}")
        if not 1 <= self.channels <= MAX_RAW_CHANNELS:
            raise UnreadableAudioError(
                f"channels must be between 1 and {MAX_RAW_CHANNELS}, not {self.channels}"
            )

    @property
    def options(self) -> dict[str, str]:
        """FFmpeg's options for the demuxer."""
        if self.rate_hz is None:
            return {}
        return {"sample_rate": str(self.rate_hz), "ch_layout": f"{self.channels}C"}


def raw_audio(content_type: str) -> RawAudio | None:
    """What a media type says of bytes without a header; None for every type that is not one of `RAW_TYPES`.

    `audio/L16;rate=16000;channels=2` (also L8, L24) is in network order (RFC 2586, RFC 3190), unless
    `endianness=little-endian`; `audio/pcm;rate=16000` is little-endian 16 bit, unless `encoding=` names
    another coding; `audio/PCMU` and `audio/PCMA` have 8000 Hz unless said; `audio/G722` is always 16 kHz,
    mono. Raises UnreadableAudioError for a missing rate and values out of range.
    """
    message = Message()
    message["Content-Type"] = content_type
    kind = message.get_content_type()
    if kind not in RAW_TYPES:
        return None
    given = {str(key).lower(): str(value) for key, value in (message.get_params() or [])[1:]}
    if kind == "audio/g722":
        return RawAudio("g722")
    channels = _whole(given, "channels", 1)
    if kind in _TELEPHONE:
        return RawAudio(_TELEPHONE[kind], _whole(given, "rate", 8000), channels)
    return RawAudio(_coding(kind, given), _whole(given, "rate", None), channels)


def _coding(kind: str, given: Mapping[str, str]) -> str:
    if kind in _LINEAR:
        orders = ("big-endian", "little-endian")
        order = given.get("endianness", "big-endian").lower()
        if order not in orders:
            raise UnreadableAudioError(f"endianness must be one of {', '.join(orders)}, not {order[:40]!r}")
        return _LINEAR[kind][orders.index(order)]
    encoding = given.get("encoding", "s16le").lower()
    if encoding not in _PCM:
        raise UnreadableAudioError(f"encoding must be one of {', '.join(_PCM)}, not {encoding[:40]!r}")
    return _PCM[encoding]


def _whole(given: Mapping[str, str], name: str, default: int | None) -> int:
    """A parameter as a number. Raises UnreadableAudioError."""
    text = given.get(name, "" if default is None else str(default))
    if not text:
        raise UnreadableAudioError(f"audio without a header needs a {name} in its content type")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UnreadableAudioError(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)
