"""The documentation names every setting, endpoint, error code, metric and command, with their values."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Histogram

from service import cli
from service.app import create_app
from service.errors import ERRORS, FRAMEWORK_CODES
from service.metrics import Metrics
from service.schemas import TranscribeResponse
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "service.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_setting(name: str) -> None:
    field = Settings.model_fields[name]
    default = f"{field.default:g}" if isinstance(field.default, float) else field.default
    assert field.description
    description = " ".join(field.description.split())
    assert f"| `ASR_{name.upper()}` | `{default}` | {description} |" in TEXT


def test_endpoints() -> None:
    app = create_app(Settings())
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            assert f"`{method.upper()} {path}`" in TEXT
            for parameter in operation.get("parameters", ()):
                assert f"| `{parameter['name']}` |" in TEXT
    assert f"`GET {app.docs_url}`" in TEXT
    assert f"`GET {app.openapi_url}`" in TEXT


def test_answer_fields() -> None:
    for name in TranscribeResponse.model_fields:
        assert f'"{name}":' in TEXT


def test_error_codes() -> None:
    for status, code in [*ERRORS.values(), *FRAMEWORK_CODES.items()]:
        assert f"| {status} | `{code}` |" in TEXT


def test_metrics_and_their_buckets() -> None:
    metrics = Metrics()
    exposed = set(re.findall(r"# TYPE (asr_\w+)", metrics.render().decode()))
    assert exposed
    for name in exposed - {name for name in exposed if name.endswith("_created")}:
        assert f"| `{name}` |" in TEXT, name
    for metric in vars(metrics).values():
        if isinstance(metric, Histogram):
            bounds = ", ".join(f"{bound:g}" for bound in metric._upper_bounds[:-1])
            assert f"- `{metric._name}`: {bounds}" in TEXT


def test_commands_and_their_flags() -> None:
    for command, parser in leaves(cli._parser(), "asr-sound"):
        assert re.search(rf"^    {command}\b", TEXT, re.MULTILINE), command
        for action in parser._actions:
            flag = next(iter(action.option_strings[-1:]), None)
            assert flag in (None, "--help") or flag in TEXT, flag


def test_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for target in re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE):
        assert f"`make {target}`" in contributing, target


def leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command without commands of its own."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for word, inner in group.choices.items():
            yield from leaves(inner, f"{name} {word}")
