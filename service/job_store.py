"""Asynchronous jobs in a folder: a SQLite file, and each job's recording beside it under the job's id.

Everything that a caller was told is on disk before he is told: a job survives the process at any moment.
Methods block and may be called from several threads; one lock and one connection serve them all.
"""

import json
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from asr.decoding.options import DecodingOptions
from asr.raw_audio import RawAudio
from service.errors import BusyError, UnknownJobError
from service.recording import Channels

State = Literal["queued", "running", "done", "failed"]
RETRY_AFTER_S = 60
MAX_ATTEMPTS = 3  # a recording that has ended the process so often is not tried again

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    asked TEXT NOT NULL,
    size INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    audio_s REAL NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    ended REAL,
    result TEXT,
    error TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, created);
"""


@dataclass(frozen=True)
class Wish:
    """What is to be done with a job's recording."""

    options: DecodingOptions
    channels: Channels
    raw: RawAudio | None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Wish":
        found = json.loads(text)
        options = found["options"] | {"hotwords": tuple(found["options"]["hotwords"])}
        raw = None if found["raw"] is None else RawAudio(**found["raw"])
        return cls(DecodingOptions(**options), found["channels"], raw)


@dataclass(frozen=True)
class Job:
    """A job as it stands."""

    id: str
    state: State
    wish: Wish
    audio_s: float  # seconds of audio that have been transcribed
    created: float  # Unix time
    ended: float | None
    result: dict[str, Any] | None
    error: dict[str, str] | None  # code, message


class JobStore:
    """At most `max_jobs` jobs and `max_bytes` of recordings; what has ended is kept for `expiry_s`."""

    def __init__(
        self,
        folder: Path,
        *,
        max_jobs: int,
        max_bytes: int,
        expiry_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._expiry_s = expiry_s
        self._now = now
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def recover(self) -> None:
        """After a start: jobs that were running wait again, recordings without a job go."""
        with self._rows() as db:
            db.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
            known = {row[0] for row in db.execute("SELECT id FROM jobs WHERE state = 'queued'")}
        for file in self._folder.glob("*.audio"):
            if file.stem not in known:
                file.unlink(missing_ok=True)
        for file in self._folder.glob("*.part"):
            file.unlink(missing_ok=True)

    def add(self, wish: Wish, recording: BinaryIO, owner: str) -> Job:
        """A new job. Raises BusyError when there is no room for it."""
        self.expire()
        size = recording.seek(0, os.SEEK_END)
        recording.seek(0)
        job_id = uuid.uuid4().hex
        self._check_room(size)
        part = self._folder / f"{job_id}.part"
        try:
            with part.open("wb") as file:
                shutil.copyfileobj(recording, file)
                file.flush()
                os.fsync(file.fileno())
            part.rename(self.file(job_id))
            with self._rows() as db:
                db.execute(
                    "INSERT INTO jobs (id, owner, state, asked, size, created) "
                    "VALUES (?, ?, 'queued', ?, ?, ?)",
                    (job_id, owner, wish.to_json(), size, self._now()),
                )
        except BaseException:
            part.unlink(missing_ok=True)
            self.file(job_id).unlink(missing_ok=True)
            raise
        return self.get(job_id, owner)

    def get(self, job_id: str, owner: str) -> Job:
        """Raises UnknownJobError; another owner's job is unknown too."""
        self.expire()
        with self._rows() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)).fetchone()
        if row is None:
            raise UnknownJobError("no such job; it may have expired")
        return _job(row)

    def remove(self, job_id: str, owner: str) -> None:
        """Forget a job, whatever its state. Raises UnknownJobError."""
        self.get(job_id, owner)
        with self._rows() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        self.file(job_id).unlink(missing_ok=True)

    def take(self) -> Job | None:
        """The job that has waited longest, which runs from now on; None when none waits."""
        with self._rows() as db:
            row = db.execute("SELECT * FROM jobs WHERE state = 'queued' ORDER BY created LIMIT 1").fetchone()
            if row is None:
                return None
            if row["attempts"] >= MAX_ATTEMPTS:
                error = {"code": "internal_error", "message": "the service could not finish this job"}
                self._end(db, row["id"], "failed", None, error)
            else:
                db.execute(
                    "UPDATE jobs SET state = 'running', attempts = attempts + 1 WHERE id = ?", (row["id"],)
                )
        return self.take() if row["attempts"] >= MAX_ATTEMPTS else _job(row)

    def progress(self, job_id: str, audio_s: float) -> bool:
        """Note how far a job is; False when nobody wants it any more."""
        with self._rows() as db:
            return db.execute("UPDATE jobs SET audio_s = ? WHERE id = ?", (audio_s, job_id)).rowcount > 0

    def put_back(self, job_id: str, *, was_tried: bool) -> None:
        """The job waits again. was_tried: whether this counts as an attempt."""
        with self._rows() as db:
            db.execute(
                "UPDATE jobs SET state = 'queued', attempts = attempts - ? WHERE id = ?",
                (0 if was_tried else 1, job_id),
            )

    def finish(self, job_id: str, result: dict[str, Any], audio_s: float) -> None:
        with self._rows() as db:
            db.execute("UPDATE jobs SET audio_s = ? WHERE id = ?", (audio_s, job_id))
            self._end(db, job_id, "done", result, None)
        self.file(job_id).unlink(missing_ok=True)

    def fail(self, job_id: str, code: str, message: str) -> None:
        with self._rows() as db:
            self._end(db, job_id, "failed", None, {"code": code, "message": message})
        self.file(job_id).unlink(missing_ok=True)

    def expire(self) -> None:
        """Forget what ended long ago."""
        with self._rows() as db:
            db.execute("DELETE FROM jobs WHERE ended < ?", (self._now() - self._expiry_s,))

    def file(self, job_id: str) -> Path:
        """Where a job's recording is."""
        return self._folder / f"{job_id}.audio"

    def _check_room(self, size: int) -> None:
        with self._rows() as db:
            n_jobs, n_bytes = db.execute(
                "SELECT COUNT(*), COALESCE(SUM(CASE WHEN ended IS NULL THEN size ELSE 0 END), 0) FROM jobs"
            ).fetchone()
        if n_jobs >= self._max_jobs or n_bytes + size > self._max_bytes:
            message = (
                f"{n_jobs} jobs with {n_bytes} bytes of recordings are kept; there is no room for another"
            )
            raise BusyError(message, RETRY_AFTER_S)

    def _end(
        self,
        db: sqlite3.Connection,
        job_id: str,
        state: State,
        result: dict[str, Any] | None,
        error: dict[str, str] | None,
    ) -> None:
        db.execute(
            "UPDATE jobs SET state = ?, ended = ?, result = ?, error = ? WHERE id = ?",
            (
                state,
                self._now(),
                *(None if one is None else json.dumps(one) for one in (result, error)),
                job_id,
            ),
        )

    @contextmanager
    def _rows(self) -> Iterator[sqlite3.Connection]:
        """The connection, in one transaction."""
        with self._lock:
            self._db.row_factory = sqlite3.Row
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        state=row["state"],
        wish=Wish.from_json(row["asked"]),
        audio_s=row["audio_s"],
        created=row["created"],
        ended=row["ended"],
        result=None if row["result"] is None else json.loads(row["result"]),
        error=None if row["error"] is None else json.loads(row["error"]),
    )
