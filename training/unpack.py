"""What a download becomes: an archive's folder, or a lower-cased ARPA language model.

Both appear under their final name only when they are whole.
"""

import gzip
import lzma
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

DAMAGED = (tarfile.TarError, EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError)
NGRAM_COUNT = re.compile(r"ngram (\d+)\s*=\s*(\d+)")


def unpack(archive: Path, folder: Path, makes: str) -> None:
    """Extract a tar (gzip, bzip2, xz or plain), read as a stream, so that `folder/makes` appears.

    Only plain members below `folder` come out (tarfile's `data` filter: no absolute paths, `..` or devices).
    Files that lie beside `makes` in the archive (licences) come along unless they are there already. Raises
    ValueError when the archive is damaged or does not hold `makes`, OSError when the disk is full; what was
    extracted until then is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".unpacking-{archive.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with tarfile.open(archive, "r|*") as tar:
            tar.extractall(temporary, filter="data")
        if not (temporary / makes).exists():
            raise ValueError(f"{archive} holds no {makes}")
        (folder / makes).parent.mkdir(parents=True, exist_ok=True)
        for other in (temporary / makes).parent.iterdir():
            if other.is_file() and not (folder / makes).with_name(other.name).exists():
                other.replace((folder / makes).with_name(other.name))
        (temporary / makes).replace(folder / makes)
    except DAMAGED as error:
        raise ValueError(f"{archive} is damaged ({error}): remove it to fetch it anew") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def lower_arpa(source: Path, target: Path) -> int:
    """An ARPA file, gzipped or not, lower-cased line by line; returns the number of its n-grams.

    `<s>`, `</s>` and `<unk>` (`<UNK>` in some files) come out as just these. Raises ValueError when the file
    is cut short, its counts are wrong, or two words differ in case only (their probabilities would have to
    be added up).
    """
    temporary = target.with_name(target.name + ".tmp")
    opener = gzip.open if source.suffix == ".gz" else open
    try:
        with opener(source, "rt", encoding="utf-8") as lines, temporary.open("w", encoding="utf-8") as out:
            n_ngrams = _lower_lines(lines, out)
    except (*DAMAGED, ValueError) as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{source}: {error}") from error
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk is not made fuller
        raise
    temporary.replace(target)
    return n_ngrams


def _lower_lines(lines: Iterator[str] | TextIO, out: TextIO) -> int:
    declared: dict[int, int] = {}
    found: dict[int, int] = {}
    words: set[str] = set()
    order, ended = 0, False
    for line in lines:
        lowered = line.lower()
        out.write(lowered)
        stripped = lowered.strip()
        if stripped.startswith("\\"):
            ended = stripped == "\\end\\"
            order = int(stripped[1:].partition("-")[0]) if stripped.endswith("-grams:") else 0
        elif not stripped:
            continue
        elif order:
            found[order] = found.get(order, 0) + 1
            if order == 1:
                word = stripped.split()[1]
                if word in words:
                    raise ValueError(f"{word!r} is there in two spellings that differ in case only")
                words.add(word)
        elif match := NGRAM_COUNT.match(stripped):
            declared[int(match[1])] = int(match[2])
    if not ended:
        raise ValueError("ends before \\end\\")
    if declared != found:
        raise ValueError(f"declares n-grams {declared} and holds {found}")
    return sum(found.values())
