"""Raw log-mel features of a prepared corpus in one memory-mapped file.

`features.f16` holds the frames of all utterances one after another, float16 (n_frames, n_mels);
`features.json` the feature settings and each utterance's number of frames, in manifest order. Values are
`asr.features.raw_log_mel`, so that augmentation comes before normalisation.
"""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from asr.features import FeatureSettings
from training.whole_file import write_text

FRAMES_FILE, INDEX_FILE = "features.f16", "features.json"


class FeatureWriter:
    """Appends utterances' features under a temporary name; `close` puts them and their index in place.

    Until then the folder holds what it held before.
    """

    def __init__(self, folder: Path, settings: FeatureSettings) -> None:
        self._folder, self._settings = folder, settings
        self._temporary = folder / f"{FRAMES_FILE}.tmp"
        self._file = self._temporary.open("wb")
        self._n_frames: list[int] = []

    def __len__(self) -> int:
        return len(self._n_frames)

    def append(self, log_mels_TF: np.ndarray) -> None:
        self._file.write(log_mels_TF.astype(np.float16).tobytes())
        self._n_frames.append(len(log_mels_TF))

    def close(self) -> None:
        self._file.close()
        self._temporary.replace(self._folder / FRAMES_FILE)
        index = {"settings": asdict(self._settings), "n_frames": self._n_frames}
        write_text(self._folder / INDEX_FILE, json.dumps(index))

    def abandon(self) -> None:
        """Remove what was written: the disk may be full."""
        with contextlib.suppress(OSError):  # flushing may fail once more
            self._file.close()
        self._temporary.unlink(missing_ok=True)


class FeatureStore:
    """Reads what `FeatureWriter` wrote. Raises ValueError when frames and index disagree."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        self.settings = FeatureSettings(**index["settings"])
        self.n_frames = np.asarray(index["n_frames"], dtype=np.int64)
        self._ends = np.cumsum(self.n_frames)
        expected = int(self.n_frames.sum()) * self.settings.n_mels * 2
        found = (folder / FRAMES_FILE).stat().st_size
        if found != expected:
            raise ValueError(
                f"{folder / FRAMES_FILE} has {found} bytes, its index says {expected}: prepare it again"
            )
        self._frames = np.memmap(folder / FRAMES_FILE, np.float16, "r").reshape(-1, self.settings.n_mels)

    def __len__(self) -> int:
        return len(self.n_frames)

    def __getitem__(self, index: int) -> np.ndarray:
        """float32 (n_frames, n_mels)"""
        end = self._ends[index]
        return np.asarray(self._frames[end - self.n_frames[index] : end], dtype=np.float32)
