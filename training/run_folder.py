"""What a run leaves in its folder while it goes on: configuration, tokenizer, lexicon, `log.jsonl`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asr.bundle import G2P, LEXICON
from asr.tokenizer import Tokenizer
from training.config import TrainConfig
from training.toml_writer import to_toml
from training.whole_file import write_text


class RunFolder:
    """Writes nothing where `quiet`: of several processes, one keeps the records."""

    def __init__(self, path: Path, config: TrainConfig, tokenizer: Tokenizer, *, quiet: bool) -> None:
        self.path, self.quiet = path, quiet
        self._log = path / "log.jsonl"
        if not quiet:
            path.mkdir(parents=True, exist_ok=True)
            write_text(path / "config.toml", to_toml(asdict(config)))
            (path / "tokenizer.model").write_bytes(tokenizer.model_proto)
            for name in (LEXICON, G2P) if config.data.lexicon else ():
                (path / name).write_bytes((Path(config.data.lexicon) / name).read_bytes())

    def rewind(self, step: int) -> None:
        """Forget the rows after a step that the run goes on from, and its scores: they come again."""
        if self.quiet or not self._log.exists():
            return
        rows = []
        for line in self._log.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the process ended while it wrote this
                continue
            if row["step"] < step or (row["step"] == step and "dev" not in row):
                rows.append(line + "\n")
        write_text(self._log, "".join(rows))

    def write(self, **row: Any) -> None:
        """One row of log.jsonl; `step` is in all of them."""
        if not self.quiet:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def say(self, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)
