"""The report: one file that opens offline, whose figures are those of the results."""

import argparse
import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.scoring import word_error_rate, word_errors
from tests.conftest import wav_bytes
from training import report
from training.error_analysis import align, by_field, by_length, confusions, worst
from training.report_audio import AudioBudget, playable
from training.report_curves import read_log, smoothed
from training.svg_charts import Interval, Series, interval_chart, line_chart, nice_ticks
from training.tuning import Candidate, Range, Weights, make_lists, surface

texts = st.lists(st.sampled_from(["a", "bb", "ccc", "dd", "ee'f"]), max_size=8).map(" ".join)
VOID = {"meta", "br", "img", "input", "link", "hr"}
HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Checks that tags close in order, and collects addresses and text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def _row(name: str, said: str, written: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "set": "cv",
        "duration_s": 3.0,
        "reference": said,
        "texts": {"greedy": "", "beam_lm": written, "oracle": said},
    } | more


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a log as a killed run leaves it, results, and the recordings they are of."""
    folder = tmp_path / "my-run"
    folder.mkdir()
    steps = [
        {"step": n, "epoch": n // 50, "loss": 5 - n / 100, "lr": 1e-3, "grad_norm": 1.0} for n in range(1, 99)
    ]
    epochs = [
        {
            "step": 50 * n,
            "epoch": n,
            "minutes": 1.5 * n,
            "train_loss": 3.0,
            "dev": {"cv": {"wer": 0.9 / n, "cer": 0.4}},
        }
        for n in (1, 2)
    ]
    lines = [json.dumps(row) for row in [*steps, steps[-1], *epochs, {"step": 7, "note": "of another kind"}]]
    (folder / "log.jsonl").write_text("\n".join([*lines, '{"step": 99, "lo']))
    rng = np.random.default_rng(0)
    recording = wav_bytes(0.1 * rng.standard_normal(4000))
    (tmp_path / "audio.tar").write_bytes(b"x" * 100 + recording)
    here = {"path": str(tmp_path / "audio.tar"), "offset": 100, "size": len(recording)}
    rows = [
        _row("u1", "the cat sat", "the hat sat", audio=here, speaker="anna", accent="scottish"),
        _row("u2", "a dog", HOSTILE, audio=here | {"path": "/nowhere.tar"}, speaker=HOSTILE),
        _row("u3", "we ran", "we ran to", speaker="anna", duration_s=30.0),
    ]
    rates = {
        name: word_error_rate([r["reference"] for r in rows], [r["texts"][name] for r in rows])
        for name in ("greedy", "beam_lm", "oracle")
    }
    decoders = {
        name: {
            key: {
                "rate": rate.rate,
                "interval": [rate.low, rate.high],
                "substitutions": rate.substitutions,
                "deletions": rate.deletions,
                "insertions": rate.insertions,
            }
            for key in ("wer", "cer")
        }
        for name, rate in rates.items()
    }
    results = {
        "command": "asr-train evaluate",
        "sets": {"cv": {"utterances": 3, "words": 7, "decoders": decoders}},
        "utterances": rows,
    }
    (tmp_path / "dev.json").write_text(json.dumps(results))
    return folder


def _report(run: Path, *more: str) -> str:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    out = run.parent / "pages" / "report.html"
    report.main(parser.parse_args([str(run), "--out", str(out), *more]))
    return out.read_text(encoding="utf-8")


def test_the_page_is_one_file_that_needs_no_network(run: Path) -> None:
    lists = make_lists([[Candidate("x", -1.0, -2.0, 0, 1)]], [[1]], [2], ["a"], {})
    at = Weights(0.5, 1.0, -8.0, 0.1)
    within = Range(Weights(0, 0, -8), Weights(1, 2, -8, 1))
    surfaces = [surface(lists, at, "alpha", "gamma", within)]
    weights = {"rescore_alpha": 0.5, "rescore_beta": 1.0, "gamma": 0.1}
    tuning = {"decoding": weights, "beam_lm_rescore": {"objective": 0.5, "surfaces": surfaces}}
    (run.parent / "tuning.json").write_text(json.dumps(tuning))
    content = _report(
        run, "--evaluation", str(run.parent / "dev.json"), "--tuning", str(run.parent / "tuning.json")
    )
    page = Page(content)
    assert page.addresses
    assert all(address.startswith(("#", "data:audio/wav;base64,")) for address in page.addresses)
    assert "url(" not in content
    assert "@import" not in content
    assert {address[1:] for address in page.addresses if address[0] == "#"} <= set(content.split('"'))
    assert page.tags["script"] == 0  # what the recogniser wrote is text, not markup
    assert page.tags["audio"] == 1
    assert "/nowhere.tar" in page.text  # a recording that is gone is named
    assert page.tags["svg"] >= 8
    for wanted in (
        "my-run",
        "not finished yet",
        "cv · 50: 90.0 %",
        "scottish",
        "2 epochs",
        "alpha and gamma",
    ):
        assert wanted in page.text


def test_the_figures_are_those_of_the_results(run: Path) -> None:
    page = Page(_report(run, "--evaluation", str(run.parent / "dev.json"), "--decoder", "beam_lm"))
    rows = json.loads((run.parent / "dev.json").read_text())["utterances"]
    rate = word_error_rate([r["reference"] for r in rows], [r["texts"]["beam_lm"] for r in rows])
    assert f"{100 * rate.rate:.1f} ({100 * rate.low:.1f}-{100 * rate.high:.1f})" in page.text
    assert "1 errors in 3 words" in page.text
    assert "Substitutions: 2" in page.text


def test_sound_stops_at_its_allowance(run: Path) -> None:
    page = Page(_report(run, "--evaluation", str(run.parent / "dev.json"), "--audio-mb", "0.001"))
    assert page.tags["audio"] == 0
    assert "--audio-mb" in page.text


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("[]", "a JSON object"), ('{"sets": {}}', "no results of `asr-train evaluate`")],
)
def test_other_files_are_refused_by_name(run: Path, content: str, message: str) -> None:
    (run.parent / "wrong.json").write_text(content)
    with pytest.raises(ValueError, match=f"wrong.json.*{message}"):
        _report(run, "--evaluation", str(run.parent / "wrong.json"))


def test_an_absent_decoder_and_an_absent_run_are_named(run: Path) -> None:
    with pytest.raises(ValueError, match="no decoder 'best', but greedy, beam_lm"):
        _report(run, "--evaluation", str(run.parent / "dev.json"), "--decoder", "best")
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        _report(run.parent / "nowhere")


def test_a_log_with_a_broken_line_inside_is_refused(run: Path) -> None:
    (run / "log.jsonl").write_text('{"step": 1, "loss": 2}\n{"st\n{"step": 2, "loss": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_log(run / "log.jsonl")


@settings(deadline=None, max_examples=60)
@given(texts, texts)
def test_an_alignment_reads_back_as_both_texts_and_has_as_many_edits_as_errors(
    said: str, written: str
) -> None:
    edits = align(said, written)
    assert " ".join(e.said for e in edits if e.said) == said
    assert " ".join(e.written for e in edits if e.written) == written
    assert sum(e.kind != "equal" for e in edits) == word_errors(said, written)
    for edit in edits:
        assert (edit.kind == "equal") == (edit.said == edit.written)
        assert (edit.kind == "insert", edit.kind == "delete") == (not edit.said, not edit.written)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(texts, texts, st.floats(0.1, 40), st.sampled_from(["", "x", "y"])), min_size=1))
def test_counts_and_breakdowns_add_up(pairs: list[tuple[str, str, float, str]]) -> None:
    rows = [
        _row(str(i), said, written, duration_s=s, speaker=who)
        for i, (said, written, s, who) in enumerate(pairs)
    ]
    rate = word_error_rate([p[0] for p in pairs], [p[1] for p in pairs], resamples=0)
    found = confusions(rows, "beam_lm")
    counts = found.substitutions.total(), found.deletions.total(), found.insertions.total()
    assert sum(counts) == rate.errors
    for (said, _), count in found.substitutions.items():
        assert count + found.deletions[said] <= found.said[said]
    for groups in (by_length(rows, "beam_lm"), by_field(rows, "beam_lm", "speaker")):
        assert sum(g.utterances for g in groups) in (len(rows), 0)
        assert sum(g.rate.errors for g in groups) in (rate.errors, 0)
    assert len(worst(rows, "beam_lm", 3)) == min(3, len(rows))


def test_the_worst_come_first() -> None:
    rows = [_row("good", "a b", "a b"), _row("bad", "a b", "c d"), _row("longer", "a b c", "d e f")]
    assert [row["name"] for row in worst(rows, "beam_lm", 2)] == ["longer", "bad"]


def test_what_no_browser_plays_becomes_mp3_and_the_rest_stays(tmp_path: Path) -> None:
    short = wav_bytes(np.zeros(1600, np.float32))
    assert playable(short) == ("audio/wav", short)
    kind, content = playable(wav_bytes(0.1 * np.random.default_rng(0).standard_normal(200_000)))
    assert kind == "audio/mpeg"
    assert 12.5 * 3000 < len(content) < 12.5 * 6000  # 12.5 s at 32 kbit/s
    budget = AudioBudget(10**6)
    assert "cannot be read" in budget.player({"path": str(tmp_path / "no.wav"), "offset": 0, "size": -1})
    assert "evaluate again" in budget.player(None)


@settings(deadline=None, max_examples=50)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_inside_ascending_and_not_too_many(low: float, span: float, about: int) -> None:
    ticks = nice_ticks(low, low + span, about)
    assert len(ticks) <= about + 1
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * span + 1e-12 * abs(low)  # a tick is no exacter than the numbers that it lies between
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
def test_smoothing_stays_between_the_extremes(values: list[float]) -> None:
    means = smoothed(values)
    assert len(means) == len(values)
    assert min(values) - 1e-6 <= min(means)
    assert max(means) <= max(values) + 1e-6


@pytest.mark.parametrize(
    "chart",
    [
        line_chart("none", []),
        line_chart("one point", [Series("a & b", [1], [0.5])], percent=True),
        line_chart("flat, log", [Series("x", [1, 2], [3.0, 3.0])], log_y=True),
        interval_chart("empty", []),
        interval_chart("zero", [Interval("<b>", 0.0, 0.0, 0.0), Interval("h", 0, 0, 0, heading=True)]),
        interval_chart("over the end", [Interval("x", 9.0, 8.0, 10.0)], at_most=1.5),
    ],
)
def test_charts_of_little_are_sound_svg(chart: str) -> None:
    tree = ElementTree.fromstring(chart)
    assert tree.attrib["viewBox"]
    assert "nan" not in chart
    assert "inf" not in chart.replace("info", "")
