"""One large file over HTTP: resumed where it was cut, from several mirrors in turn, checked before use.

The bytes go to `NAME.part` beside the target and are renamed when size and checksum are right, so a file
that has its final name is whole. A cut connection, a restart and a change of mirror all go on from the
bytes that are there; from servers that ignore `Range` those are read once more and thrown away.
"""

import fcntl
import hashlib
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20  # bytes
BROKEN = (TimeoutError, ConnectionError, ssl.SSLError)  # of a connection; other OSErrors are the disk's
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

Report = Callable[[int, int], None]  # (bytes there, bytes in all or 0), called after every chunk


class DownloadError(OSError):
    """No mirror gave the file, or what they gave is not the file; the message says what each answered."""


@dataclass(frozen=True)
class Expected:
    """What the file must be."""

    size: int = 0  # bytes; 0: unknown
    algorithm: str = "sha256"  # of hashlib
    digest: str = ""  # hexadecimal; empty: unknown
    strict: bool = True  # False: other archives of the name are known to exist, so a difference is only told


@dataclass(frozen=True)
class Patience:
    """How long a download goes on trying."""

    timeout_s: float = 30.0  # without a byte
    rounds: int = 4  # over all mirrors, one after another without a new byte
    pause_s: float = 2.0  # before a second round; doubled for each after it


USUAL = Patience()


class _RefusedError(Exception):
    """A mirror's answer is of no use; the next one is asked."""


def fetch(
    urls: Sequence[str],
    target: Path,
    expected: Expected,
    *,
    patience: Patience = USUAL,
    report: Report = lambda done, total: None,
    warn: Callable[[str], None] = lambda line: None,
) -> None:
    """Bring one file to `target`, from the first of `urls` that has it whole.

    Does nothing when `target` is there. Raises DownloadError when every mirror failed `patience.rounds` times
    in a row without giving a new byte, and OSError when the disk is full: the bytes so far stay for the
    next call.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with part.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"{part} is being written by another download") from error
        _until_whole(urls, part, expected, patience, report, warn)
        part.replace(target)


def _until_whole(
    urls: Sequence[str],
    part: Path,
    expected: Expected,
    patience: Patience,
    report: Report,
    warn: Callable[[str], None],
) -> None:
    """Ask the mirrors in turn until `part` is the file."""
    answers: dict[str, str] = {}
    wrong: set[str] = set()  # mirrors that gave other bytes: not asked again
    most, fruitless = _size(part), 0
    while fruitless < patience.rounds and set(urls) - wrong:
        if fruitless:
            time.sleep(patience.pause_s * 2 ** (fruitless - 1))
        before = most
        for url in (u for u in urls if u not in wrong):
            try:
                resumed = _size(part) > 0
                _continue(url, part, expected, patience.timeout_s, report)
                problem = _problem(part, expected)
                if problem and expected.strict and resumed:  # perhaps the earlier bytes were another mirror's
                    part.open("wb").close()
                    _continue(url, part, expected, patience.timeout_s, report)
                    problem = _problem(part, expected)
                if problem and expected.strict:
                    part.open("wb").close()
                    wrong.add(url)
                    raise _RefusedError(problem)
                if problem:
                    warn(f"{url}: {problem}; taken all the same, other archives of this name exist")
                return
            except (_RefusedError, urllib.error.URLError, http.client.HTTPException, *BROKEN) as error:
                answers[url] = str(error) or type(error).__name__
            most = max(most, _size(part))
        fruitless = 0 if most > before else fruitless + 1
    raise DownloadError(
        f"{part.name.removesuffix('.part')} could not be fetched: "
        + "; ".join(f"{url}: {answer}" for url, answer in answers.items())
    )


def _continue(url: str, part: Path, expected: Expected, timeout_s: float, report: Report) -> None:
    """Append to `part` what it lacks. Raises _RefusedError or what urllib raises when that ends early."""
    have = _size(part)
    if expected.size and have == expected.size:
        return
    if expected.strict and expected.size and have > expected.size:
        part.open("wb").close()
        have = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if error.code == 416 and total == str(have):
            return  # we have all of it
        if error.code == 416:
            part.open("wb").close()
        raise
    with answer:
        done, total = _place(answer, have)
        if expected.strict and expected.size and total and total != expected.size:
            raise _RefusedError(f"offers {total} bytes, not {expected.size}")
        with part.open("ab") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk[max(0, have - done) :])  # Range ignored: what we have comes again
                done += len(chunk)
                report(done, total or expected.size)
    if total and done < total:
        raise _RefusedError(f"the connection was cut at {done} of {total} bytes")


def _place(answer: http.client.HTTPResponse, have: int) -> tuple[int, int]:
    """(first byte of the answer, size of the whole file or 0). Raises _RefusedError when it fits nowhere."""
    if answer.status == 206:
        match = CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
        if not match or int(match[1]) != have:
            raise _RefusedError(f"answered bytes {answer.headers.get('Content-Range')!r}, asked from {have}")
        return have, 0 if match[2] == "*" else int(match[2])
    if answer.status != 200:
        raise _RefusedError(f"answered {answer.status}")
    return 0, int(answer.headers.get("Content-Length") or 0)


def _size(path: Path) -> int:
    return path.stat().st_size


def _problem(path: Path, expected: Expected) -> str:
    """What is wrong with a fetched file; empty when nothing is."""
    size = _size(path)
    if expected.size and size != expected.size:
        return f"{size} bytes, expected {expected.size}"
    if not expected.digest:
        return ""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, expected.algorithm).hexdigest()
    return "" if found == expected.digest else f"{expected.algorithm} {found}, expected {expected.digest}"
