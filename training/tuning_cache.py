"""What tuning has heard and found, kept in its work folder: log-probabilities and n-best components.

Files are named after a checksum of everything they depend on (models, settings, recordings), so another
bundle or another manifest gets files of its own. Delete the folder after a change to the decoder's code.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.bundle import ACOUSTIC, Bundle
from training.manifest import Utterance
from training.tuning import Candidate
from training.whole_file import write_text

LogProbs = list[NDArray[np.float32]]  # (T, V) of each utterance


class TuningCache:
    """The work folder's files for one bundle and one list of utterances."""

    def __init__(self, folder: Path, bundle: Bundle, utterances: Sequence[Utterance]) -> None:
        self._folder = folder
        self._bundle = bundle
        settings = [asdict(bundle.settings.features), asdict(bundle.settings.acoustic)]
        heard = [(str(u.audio), u.offset, u.size) for u in utterances]
        self._heard = _checksum([bundle.files[ACOUSTIC].sha256, settings, heard])

    def log_probs(self, listen: Callable[[], LogProbs]) -> LogProbs:
        """The log-probabilities; `listen` is called when this model has not yet heard the recordings."""
        path = self._folder / f"log-probs-{self._heard}.npz"
        if path.exists():
            with np.load(path) as cached:
                frames, lengths = cached["frames"], cached["lengths"]
            return np.split(frames, np.cumsum(lengths)[:-1])
        log_probs = listen()
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, frames=np.concatenate(log_probs), lengths=[len(frames) for frames in log_probs])
        temporary.replace(path)
        return log_probs

    def lists(
        self, what: str, depends_on: Any, make: Callable[[], list[list[Candidate]]]
    ) -> list[list[Candidate]]:
        """Candidates of every utterance, found by `make` unless they were before.

        depends_on: what they follow from beside the recordings and the bundle's n-gram and GPT-2, as JSON.
        """
        files = {n: f.sha256 for n, f in self._bundle.files.items() if n.startswith(("ngram", "unigr", what))}
        path = self._folder / f"{what}-{_checksum([self._heard, sorted(files.items()), depends_on])}.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            return [[Candidate(*values) for values in json.loads(line)] for line in lines]
        found = make()
        rows = (json.dumps([astuple(candidate) for candidate in row], ensure_ascii=False) for row in found)
        write_text(path, "".join(f"{row}\n" for row in rows))
        return found


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
