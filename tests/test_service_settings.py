"""Settings come from `ASR_*` variables, and nothing else that looks like one is let through."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import SettingsError
from service.settings import REPOSITORY, Settings, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ASR_{name.upper()}", raising=False)


def test_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_PORT", "9000")
    monkeypatch.setenv("ASR_DEFAULT_DECODER", "greedy")
    settings = load_settings()
    assert (settings.port, settings.default_decoder, settings.host) == (9000, "greedy", "127.0.0.1")


def test_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_DATA", "/somewhere")
    load_settings()
    monkeypatch.setenv("asr_prot", "9000")
    with pytest.raises(SettingsError, match=r"asr_prot.*ASR_PORT"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ASR_PORT", "high"), ("ASR_WORKERS", "0"), ("ASR_DEFAULT_DECODER", "magic"), ("ASR_DEVICE", "tpu")],
)
def test_value_out_of_range_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}: .*{value}") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_they_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_bundle_is_looked_for_here_then_beside_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(bundle=Path("service")).bundle_dir == REPOSITORY / "service"
    (tmp_path / "service").mkdir()
    assert Settings(bundle=Path("service")).bundle_dir == Path("service")
    assert Settings(bundle=Path("no/such/bundle")).bundle_dir == Path("no/such/bundle")
