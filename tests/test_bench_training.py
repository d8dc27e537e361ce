"""The measurement of loading against the bare model step runs, on data that it makes itself."""

import json
from pathlib import Path

import pytest

from bench.training import main


def test_loop_and_bare_step_are_measured_on_the_same_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("conv_channels=4", "conv_blocks=0", "width=16", "gru_hidden=8", "gru_blocks=1")
    settings = [word for key in small for word in ("--set", f"model.{key}")]
    main(
        [
            "--steps",
            "1",
            "--workers",
            "0",
            "--set",
            "optim.batch_s=20.0",
            *settings,
            "--out",
            str(tmp_path / "r"),
        ]
    )
    report = json.loads((tmp_path / "r").read_text())
    assert report["batches"] >= 1
    assert 0 < report["audio_s"] <= 20.0 * report["batches"]
    loop = report["loops"]["0"]
    assert loop["cpu_ratio"] == pytest.approx(report["bare"]["cpu_s"] / loop["cpu_s"])
    assert "bare model step" in capsys.readouterr().out
