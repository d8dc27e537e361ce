"""A bundle: one folder with everything that transcribing takes, verified whenever it is loaded.

bundle.json           settings, where it comes from, size and SHA-256 of every other file
acoustic.safetensors  weights of the acoustic model
tokenizer.model       SentencePiece
ngram.arrays          the n-gram in arrays (`asr.decoding.ngram_file`)
ngram.bin             in its place in older bundles: KenLM, binary or ARPA
unigrams.txt          the n-gram's words, one a line
lexicon.txt, g2p.json how words are pronounced; of a model that hears phones (`asr.pronunciation`)
gpt2/                 GPT-2 and its tokenizer in Hugging Face layout
lms/NAME/             another n-gram that a request may name: `ngram.arrays` and `unigrams.txt`
evaluation.json       measured error rates        } absent until evaluated
MODEL_CARD.md         the same for people         }
calibration.json      how well confidence and times fit   } absent until `asr-train calibrate`
reliability.svg       the same as a picture               }
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from asr.acoustic.kinds import AcousticSettings, to_section
from asr.bundle_checks import acoustic_from_dict, check_files_fit, features_from_dict, settings_from_dict
from asr.decoding.calibration import Calibration, calibration_from_json
from asr.decoding.options import DEFAULT_LM, DecodingSettings, decoding_to_section
from asr.errors import ChecksumError, MismatchError, MissingFileError
from asr.features import FeatureSettings
from asr.features import to_section as features_to_section

FORMAT_VERSION = 1
INDEX = "bundle.json"
ACOUSTIC = "acoustic.safetensors"
TOKENIZER = "tokenizer.model"
NGRAM = "ngram.arrays"
KENLM = "ngram.bin"
UNIGRAMS = "unigrams.txt"
LEXICON = "lexicon.txt"
G2P = "g2p.json"
GPT2 = "gpt2"
LMS = "lms"
LM_NAME = re.compile("[a-z0-9][a-z0-9_-]{0,31}")
EVALUATION = "evaluation.json"
MODEL_CARD = "MODEL_CARD.md"
CALIBRATION = "calibration.json"
RELIABILITY = "reliability.svg"
MEASUREMENTS = (EVALUATION, MODEL_CARD, CALIBRATION, RELIABILITY)  # not needed for transcribing
REQUIRED = (ACOUSTIC, TOKENIZER, UNIGRAMS, f"{GPT2}/config.json", f"{GPT2}/model.safetensors")


@dataclass(frozen=True)
class BundleFile:
    """What bundle.json says of one file."""

    sha256: str  # hexadecimal
    size: int  # bytes


@dataclass(frozen=True)
class BundleSettings:
    """What bundle.json says beside the files."""

    name: str
    created: str  # ISO 8601, UTC
    commit: str  # of the training code, `-dirty` where it was
    features: FeatureSettings
    acoustic: AcousticSettings
    decoding: DecodingSettings
    training: Mapping[str, Any] = field(default_factory=dict)  # free summary for people: config, data, steps
    calibration: Calibration | None = None  # fitted by `asr-train calibrate`; never changes a text


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were verified when this was made."""

    path: Path
    settings: BundleSettings
    files: Mapping[str, BundleFile]  # by path relative to the bundle, with forward slashes
    sha256: str  # of bundle.json, which holds every other file's

    @classmethod
    def load(cls, path: str | Path) -> "Bundle":
        """Read and verify a bundle: every hash, and that the files belong together.

        Raises MissingFileError, ChecksumError or MismatchError, naming the file and what was expected of it.
        """
        path = Path(path)
        settings, files, sha256 = _read_index(path)
        _check_hashes(path, files)
        check_files_fit(
            settings.features,
            settings.acoustic,
            weights=path / ACOUSTIC,
            tokenizer=path / TOKENIZER,
            unigrams=path / UNIGRAMS,
            gpt2=path / GPT2,
            more_unigrams=[path / name / UNIGRAMS for name in _lm_folders(files).values()],
        )
        return cls(path, settings, files, sha256)

    @classmethod
    def save(
        cls, path: str | Path, settings: BundleSettings, contents: Mapping[str, Path | bytes]
    ) -> "Bundle":
        """Write a bundle, replacing one that is already there, and return it verified.

        contents: a file to copy, or its bytes, by the path it gets in the bundle. The folder is filled and
        verified under a temporary name first: a failure leaves the old bundle untouched.
        Raises as `load` does.
        """
        path = Path(path).absolute()
        with _replacing(path) as temporary:
            for name, content in contents.items():
                target = temporary / _inner_path(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    target.write_bytes(content)
                else:
                    shutil.copyfile(content, target)
            files = {name: _describe(temporary / name) for name in sorted(contents)}
            index = _index_text(settings, files)
            (temporary / INDEX).write_text(index, encoding="utf-8")
            cls.load(temporary)
        return cls(path, settings, files, hashlib.sha256(index.encode()).hexdigest())

    @property
    def lm_folders(self) -> dict[str, Path]:
        """Where the further n-grams are, by name."""
        return {name: self.path / folder for name, folder in _lm_folders(self.files).items()}

    @property
    def measured_sha256(self) -> str:
        """Of bundle.json without measurements, calibration and further n-grams: what an evaluation of texts
        depends on."""
        files = {
            n: file for n, file in self.files.items() if n not in MEASUREMENTS and not n.startswith(f"{LMS}/")
        }
        return hashlib.sha256(
            _index_text(replace(self.settings, calibration=None), files).encode()
        ).hexdigest()

    def with_changes(self, settings: BundleSettings, changed: Mapping[str, bytes | None]) -> "Bundle":
        """Save this bundle over itself with other settings and files (None removes one), hashed anew."""
        contents: dict[str, Path | bytes] = {name: self.path / name for name in self.files}
        for name, content in changed.items():
            contents.pop(name, None)
            if content is not None:
                contents[name] = content
        return Bundle.save(self.path, settings, contents)


def _index_text(settings: BundleSettings, files: Mapping[str, BundleFile]) -> str:
    """bundle.json: the same settings and files give the same bytes."""
    index = {
        "format_version": FORMAT_VERSION,
        "name": settings.name,
        "created": settings.created,
        "commit": settings.commit,
        "features": features_to_section(settings.features),
        "acoustic": to_section(settings.acoustic),
        "decoding": decoding_to_section(settings.decoding),
        "training": dict(settings.training),
        "files": {name: asdict(file) for name, file in sorted(files.items())},
    }
    if settings.calibration is not None:
        index["calibration"] = settings.calibration.as_json()
    return json.dumps(index, indent=2, ensure_ascii=False) + "\n"


def _read_index(path: Path) -> tuple[BundleSettings, dict[str, BundleFile], str]:
    """bundle.json's settings, files and SHA-256."""
    index_path = path / INDEX
    if not index_path.is_file():
        raise MissingFileError(f"{index_path} is missing: {path} is no bundle")
    content = index_path.read_bytes()
    try:
        index = json.loads(content)
    except ValueError as error:
        raise MismatchError(f"{index_path} is not JSON: {error}") from error
    if not isinstance(index, dict) or index.get("format_version") != FORMAT_VERSION:
        version = index.get("format_version") if isinstance(index, dict) else None
        raise MismatchError(
            f"{index_path} has format_version {version!r}, this program reads {FORMAT_VERSION}"
        )
    keys = {"name", "created", "commit", "features", "acoustic", "decoding", "training", "files"}
    if missing := keys - index.keys():
        raise MismatchError(f"{index_path} lacks {', '.join(sorted(missing))}")
    sections = {key: index[key] for key in ("features", "acoustic", "decoding", "training", "files")}
    for key, section in sections.items():
        if not isinstance(section, dict):
            raise MismatchError(f"{index_path}: {key} must be an object")
    settings = BundleSettings(
        name=str(index["name"]),
        created=str(index["created"]),
        commit=str(index["commit"]),
        features=features_from_dict(index["features"], "features"),
        acoustic=acoustic_from_dict(index["acoustic"], "acoustic"),
        decoding=settings_from_dict(DecodingSettings, index["decoding"], "decoding"),
        training=index["training"],
        calibration=calibration_from_json(index["calibration"]) if "calibration" in index else None,
    )
    files = {
        str(_inner_path(name)): settings_from_dict(BundleFile, file, f"files.{name}")
        for name, file in index["files"].items()
    }
    if settings.calibration and ACOUSTIC in files:
        expected, found = settings.calibration.acoustic_sha256, files[ACOUSTIC].sha256
        if expected != found:
            raise MismatchError(
                f"{index_path}: the calibration is of acoustic weights {expected}, {ACOUSTIC} is {found}: "
                "calibrate again"
            )
    return settings, files, hashlib.sha256(content).hexdigest()


def _check_hashes(path: Path, files: Mapping[str, BundleFile]) -> None:
    """Raises unless the folder holds exactly the listed files, unaltered. Hidden files are not looked at."""
    for name in REQUIRED:
        if name not in files:
            raise MissingFileError(f"{INDEX} lists no {name}, which every bundle needs")
    if NGRAM not in files and KENLM not in files:
        raise MissingFileError(f"{INDEX} lists neither {NGRAM} nor {KENLM}: every bundle needs an n-gram")
    for name, expected in files.items():
        if not (path / name).is_file():
            raise MissingFileError(f"{path / name} is missing: {INDEX} lists it with {expected.size} bytes")
        size = (path / name).stat().st_size
        if size != expected.size:
            raise ChecksumError(f"{path / name} has {size} bytes, {INDEX} expects {expected.size}")
    for name, expected in files.items():
        sha256 = _describe(path / name).sha256
        if sha256 != expected.sha256:
            raise ChecksumError(f"{path / name} has SHA-256 {sha256}, {INDEX} expects {expected.sha256}")
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        hidden = any(part.startswith(".") for part in relative.parts)
        if file.is_file() and not hidden and relative.as_posix() not in {INDEX, *files}:
            raise MismatchError(f"{file} is not listed in {INDEX}: it would be used unverified")


def _lm_folders(files: Mapping[str, BundleFile]) -> dict[str, str]:
    """Folders of the further n-grams, by name. Raises BundleError unless each is whole and nothing else."""
    found: dict[str, set[str]] = {}
    for file in files:
        folder, _, rest = file.partition("/")
        if folder == LMS:
            name, _, inner = rest.partition("/")
            found.setdefault(name, set()).add(inner)
    for name, held in sorted(found.items()):
        if not LM_NAME.fullmatch(name) or name == DEFAULT_LM:
            raise MismatchError(f"{LMS}/{name}: an n-gram's name is {LM_NAME.pattern}, not {DEFAULT_LM}")
        for needed in (NGRAM, UNIGRAMS):
            if needed not in held:
                raise MissingFileError(f"{INDEX} lists no {LMS}/{name}/{needed}, which the n-gram needs")
        if strangers := held - {NGRAM, UNIGRAMS}:
            raise MismatchError(f"{LMS}/{name}/{min(strangers)} is no part of an n-gram")
    return {name: f"{LMS}/{name}" for name in sorted(found)}


def _describe(path: Path) -> BundleFile:
    with path.open("rb") as file:
        return BundleFile(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _inner_path(name: str) -> PurePosixPath:
    """Raises MismatchError for a path that leaves the bundle."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) in (".", INDEX):
        raise MismatchError(f"{name!r} cannot be a file of a bundle: paths are relative and stay inside it")
    return path


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place at the end, or is removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            old = temporary.with_name(temporary.name + "-old")
            path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
