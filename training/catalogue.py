"""The public corpora and language models that `asr-train download` knows: addresses, sizes, checksums.

Addresses and LibriSpeech's checksums are those of openslr.org (resources 11, 12 and 31) and of keithito.com
(LJ Speech). Common Voice is not here: since October 2025 it comes only through an account at Mozilla Data
Collective, so `asr-train prepare` reads the folder that a person has unpacked.
"""

from dataclasses import dataclass
from typing import Literal

from training.fetch import Expected

OPENSLR = (
    "https://www.openslr.org/resources/{}/",
    "https://us.openslr.org/resources/{}/",
    "https://openslr.elda.org/resources/{}/",
    "https://openslr.magicdatatech.com/resources/{}/",
)
LJSPEECH = ("https://data.keithito.com/data/speech/",)


@dataclass(frozen=True)
class Resource:
    """One downloadable file and what it becomes."""

    file: str
    mirrors: tuple[str, ...]  # addresses of folders that hold it, ending in a slash
    expected: Expected
    kind: Literal["tar", "arpa", "text"]  # unpacked; unpacked and lower-cased; kept as it is
    makes: str  # the folder or file that is there afterwards, relative to --to
    growth: float = 1.0  # size of what it becomes, in sizes of the download

    def urls(self, preferred: tuple[str, ...] = ()) -> list[str]:
        """Where to ask, in order: `preferred` folders come before the public ones."""
        return [f"{base.rstrip('/')}/{self.file}" for base in (*preferred, *self.mirrors)]


def _librispeech(part: str, size: int, sha256: str) -> Resource:
    mirrors = tuple(base.format(12) for base in OPENSLR)
    expected = Expected(size, "sha256", sha256)
    return Resource(f"{part}.tar.gz", mirrors, expected, "tar", f"LibriSpeech/{part}", 1.05)


def _mini(part: str, size: int, md5: str) -> Resource:
    mirrors = tuple(base.format(31) for base in OPENSLR)
    expected = Expected(size, "md5", md5, strict=False)
    return Resource(f"{part}.tar.gz", mirrors, expected, "tar", f"LibriSpeech/{part}", 1.05)


def _lm(file: str, size: int = 0, md5: str = "") -> Resource:
    mirrors = tuple(base.format(11) for base in OPENSLR)
    arpa = file.endswith(".arpa.gz")
    return Resource(
        file,
        mirrors,
        Expected(size, "md5", md5),
        kind="arpa" if arpa else "text",
        makes=file.removesuffix(".gz") if arpa else file,
        growth=4.0 if arpa else 0.0,
    )


CATALOGUE = {
    "dev-clean": _librispeech(
        "dev-clean", 337926286, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"
    ),
    "dev-other": _librispeech(
        "dev-other", 314305928, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"
    ),
    "test-clean": _librispeech(
        "test-clean", 346663984, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"
    ),
    "test-other": _librispeech(
        "test-other", 328757843, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"
    ),
    "train-clean-100": _librispeech(
        "train-clean-100", 6387309499, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"
    ),
    "train-clean-360": _librispeech(
        "train-clean-360", 23049477885, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"
    ),
    "train-other-500": _librispeech(
        "train-other-500", 30593501606, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"
    ),
    "dev-clean-2": _mini("dev-clean-2", 126046265, "6d7ab67ac6a1d2c993d050e16d61080d"),
    "train-clean-5": _mini("train-clean-5", 332954390, "5df7d4e78065366204ca6845bb08f490"),
    "ljspeech": Resource(
        "LJSpeech-1.1.tar.bz2",
        LJSPEECH,
        Expected(2748572632, "sha256", "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5"),
        kind="tar",
        makes="LJSpeech-1.1",
        growth=1.5,
    ),
    "4-gram": _lm("4-gram.arpa.gz", 1355172078, "6abdcd5b055bd482e4f9defe91d40408"),
    "3-gram-1e-7": _lm("3-gram.pruned.1e-7.arpa.gz", 34094057, "9a0f1325bcaf3a0f7b7be4be10823c2a"),
    "3-gram-3e-7": _lm("3-gram.pruned.3e-7.arpa.gz", 13654242),
    "lm-text": _lm("librispeech-lm-norm.txt.gz", 1507274412, "c83c64c726a1aedfe65f80aa311de402"),
    "lm-vocabulary": _lm("librispeech-vocab.txt"),
}

# Several at once, by one name.
GROUPS = {
    "librispeech": (
        "dev-clean",
        "dev-other",
        "test-clean",
        "test-other",
        "train-clean-100",
        "train-clean-360",
        "train-other-500",
    ),
    "mini-librispeech": ("dev-clean-2", "train-clean-5"),
}
