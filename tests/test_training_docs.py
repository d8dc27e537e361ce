"""docs/training.md names what download, prepare, listen and augmentation offer."""

import argparse
import importlib
import re
import shlex
import subprocess
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from training.augment_config import AugmentConfig
from training.catalogue import CATALOGUE, GROUPS
from training.config import load_config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "training.md").read_text()


@pytest.mark.parametrize("stage", ["download", "wordless", "prepare", "lexicon", "listen"])
def test_stages_and_their_flags(stage: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"training.{stage}").add_arguments(parser)
    assert f"asr-train {stage}" in TEXT
    missing = [
        flag
        for action in parser._actions
        for flag in action.option_strings
        if flag not in TEXT and flag not in ("--limit", "--set")
    ]
    assert not missing


def test_corpora() -> None:
    assert not [name for name in (*CATALOGUE, *GROUPS) if f"`{name}`" not in TEXT]


def test_augmentation() -> None:
    config = AugmentConfig()
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            assert f"`[augment.{field.name}]`" in TEXT
            named = [inner.name for inner in fields(value)]
        else:
            named = [field.name] if not field.name.endswith("_start_epoch") else []
        assert not [name for name in named if f"`{name}`" not in TEXT and f"augment.{name}" not in TEXT]


def test_make_model_gives_every_stage_what_it_takes() -> None:
    """What `make` would run, read by each stage's own parser; nothing is run."""
    command = ["make", "--dry-run", "--always-make", "model", "TEXT=books.txt"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = told.replace("\\\n", " ").splitlines()
    told_stages = [re.split(r" asr-train | -m training\.cli ", line)[1:] for line in lines]
    stages = [shlex.split(stage) for (stage,) in filter(None, told_stages)]
    for stage, *arguments in stages:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"training.{stage.replace('-', '_')}").add_arguments(parser)
        parser.parse_args(arguments)
    names = [stage for stage, *_ in stages]
    assert names[-6:] == ["export", "tune", "calibrate", "evaluate", "evaluate", "export"]
    assert {"prepare", "wordless", "tokenizer", "ngram", "gpt2", "lexicon"} <= set(names)
    runs = [line for line in lines if "training.cli train configs/default" in line]
    assert len(runs) == 5
    assert "configs/default_tower.toml" in runs[-1]
    ready, needing = (
        next(i for i, line in enumerate(lines) if name in line) for name in (" lexicon ", "fourth")
    )
    assert ready < needing


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_configurations_are_read(path: Path) -> None:
    assert load_config(path, []).waves()
