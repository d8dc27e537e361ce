"""Exceptions of the speech code.

AsrError
├── AudioError                the caller's recording
│   ├── EmptyAudioError           no bytes, or no decoded samples
│   ├── UnreadableAudioError      not audio, or a container and codec we do not read
│   └── AudioTooLongError         more decoded samples than the cap
├── OptionsError              a decoding option out of range
├── TextError                 a text with characters outside the vocabulary
├── DecodingTimeoutError      beam search passed its deadline
│   └── RescoringTimeoutError     GPT-2 did; caught by the transcriber when it was only rescoring's budget
└── BundleError               a bundle that must not be served
    ├── MissingFileError          a file named in bundle.json is absent
    ├── ChecksumError             a file is truncated or altered
    └── MismatchError             files that do not belong together, or an unknown format version
"""


class AsrError(Exception):
    """Root of everything that `asr` raises on purpose."""


class AudioError(AsrError):
    """The recording cannot be transcribed."""


class EmptyAudioError(AudioError):
    """The recording has no samples."""


class UnreadableAudioError(AudioError):
    """The bytes are not audio that we read."""


class AudioTooLongError(AudioError):
    """The recording decodes to more samples than the cap."""


class OptionsError(AsrError, ValueError):
    """A decoding option is out of range."""


class TextError(AsrError, ValueError):
    """A text holds characters that the vocabulary cannot spell."""


class DecodingTimeoutError(AsrError):
    """Beam search passed its deadline."""


class RescoringTimeoutError(DecodingTimeoutError):
    """GPT-2 did not finish in time."""


class BundleError(AsrError):
    """The bundle cannot be served."""


class MissingFileError(BundleError):
    """A file that bundle.json names is absent."""


class ChecksumError(BundleError):
    """A file's size or SHA-256 is not what bundle.json says."""


class MismatchError(BundleError):
    """The bundle's files do not belong together."""
