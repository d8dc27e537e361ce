"""docs/training.md names what download, prepare, listen and augmentation offer."""

import argparse
import importlib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from training.augment_config import AugmentConfig
from training.catalogue import CATALOGUE, GROUPS

TEXT = (Path(__file__).parents[1] / "docs" / "training.md").read_text()


@pytest.mark.parametrize("stage", ["download", "wordless", "prepare", "listen"])
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
