"""Who may import whom: service and training import asr; asr imports neither, and they never each other."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "asr": {"service", "training", "fastapi", "starlette", "uvicorn", "argparse", "pydantic_settings"},
    "service": {"training"},
    "training": {"service", "fastapi", "starlette", "uvicorn"},
}


def imported_packages(file: Path) -> Iterator[str]:
    """First part of every absolute import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_the_right_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported_packages(file)
        if name in FORBIDDEN[package]
    }
    assert not wrong


def test_asr_reads_no_environment() -> None:
    for file in (ROOT / "asr").rglob("*.py"):
        assert "environ" not in file.read_text(), file
        assert "getenv" not in file.read_text(), file


def test_importing_the_service_starts_nothing() -> None:
    script = """
import threading, torch
before = torch.get_num_threads()
import service.app, service.cli
assert torch.get_num_threads() == before
assert threading.active_count() == 1, threading.enumerate()
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
