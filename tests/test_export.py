"""From run folders to a bundle that transcribes, and from measurements to its card."""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asr.acoustic.kinds import build, kind_of, to_section
from asr.acoustic.residual_gru import ResidualGruSettings
from asr.bundle import ACOUSTIC, EVALUATION, G2P, LEXICON, MODEL_CARD, NGRAM, TOKENIZER, UNIGRAMS, Bundle
from asr.decoding.options import DECODERS, DecodingOptions, DecodingSettings
from asr.transcriber import Transcriber
from bench import insertions
from tests.conftest import wav_bytes
from training import evaluate, export
from training.manifest import Utterance, write_manifest
from training.whole_file import write_tensors

Run = Callable[..., None]


@pytest.fixture
def runs(tiny_bundle: Path, tiny_gpt2: Path, tmp_path: Path) -> Path:
    """Run folders as the other stages leave them, made from the tiny bundle's parts."""
    settings = Bundle.load(tiny_bundle).settings
    for name in ("acoustic", "ngram", "gpt2"):
        (tmp_path / name).mkdir()
    shutil.copy(tiny_bundle / ACOUSTIC, tmp_path / "acoustic" / "model.safetensors")
    shutil.copy(tiny_bundle / TOKENIZER, tmp_path / "acoustic" / "tokenizer.model")
    summary = {
        "acoustic": asdict(settings.acoustic),
        "features": asdict(settings.features),
        "config": {"data": {"train": "/home/someone/train", "repeat": {}}, "seed": 1},
        "commit": "abc123",
        "steps": 12,
        "minutes": 0.5,
        "processes": 1,
        "data": "train: 8 utterances",
        "dev_greedy": {},
    }
    (tmp_path / "acoustic" / "train.json").write_text(json.dumps(summary))
    shutil.copy(tiny_bundle / NGRAM, tmp_path / "ngram" / NGRAM)
    shutil.copy(tiny_bundle / UNIGRAMS, tmp_path / "ngram" / "unigrams.txt")
    (tmp_path / "ngram" / "ngram.json").write_text('{"words": 36}')
    shutil.copytree(tiny_gpt2, tmp_path / "gpt2" / "model")
    (tmp_path / "gpt2" / "model" / "optimizer.pt").write_bytes(b"stays behind")
    (tmp_path / "notes.md").write_text("## Training data\n\nNoise, CC0.\n")
    return tmp_path


@pytest.fixture
def run(runs: Path) -> Run:
    """`asr-train export` into runs/models/new; paths are relative to the runs."""

    def call(*given: str) -> None:
        parser = argparse.ArgumentParser()
        export.add_arguments(parser)
        paths = [item if item.startswith("--") or "=" in item else str(runs / item) for item in given]
        export.main(parser.parse_args(["--out", str(runs / "models" / "new"), *paths]))

    return call


NEW = ("--acoustic", "acoustic", "--ngram", "ngram", "--gpt2", "gpt2", "--notes", "notes.md")


def _measured(bundle: Path, folder: Path) -> Path:
    """Results of `asr-train evaluate` on one noise."""
    (folder / "noise.wav").write_bytes(wav_bytes(0.2 * np.random.default_rng(1).standard_normal(8000)))
    write_manifest(
        folder / "m.jsonl", [Utterance(folder / "noise.wav", "the cat", 0.5, set="noise", name="n")]
    )
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    results = folder / "results.json"
    evaluate.main(
        parser.parse_args([str(bundle), "--manifest", str(folder / "m.jsonl"), "--out", str(results)])
    )
    return results


def test_the_bundle_transcribes_as_the_parts_did(
    run: Run, runs: Path, tiny_bundle: Path, recording: bytes
) -> None:
    run(*NEW, "--decoding", str(tiny_bundle))
    new = Transcriber.load(runs / "models" / "new")
    assert (new.name, new.bundle.settings.commit) == ("new", "abc123")
    options = DecodingOptions("beam_lm_rescore", nbest=5)
    transcripts = [t.transcribe(recording, options) for t in (new, Transcriber.load(tiny_bundle))]
    assert replace(transcripts[0], timings_ms={}) == replace(transcripts[1], timings_ms={})


def test_half_the_bits_make_half_the_file_and_the_same_texts(run: Run, runs: Path, recording: bytes) -> None:
    texts, sizes = [], []
    for more in ((), ("--half",)):
        run(*NEW, *more)
        new = Transcriber.load(runs / "models" / "new")
        texts.append(new.transcribe(recording, DecodingOptions("greedy")).text)
        sizes.append(new.bundle.files[ACOUSTIC].size)
    assert texts[0] == texts[1]
    assert 0.4 < sizes[1] / sizes[0] < 0.7
    kinds = {weight.dtype for weight in load_file(runs / "models" / "new" / ACOUSTIC).values()}
    assert kinds == {torch.float16}


def test_the_card_and_the_summary_tell_where_it_comes_from(run: Run, runs: Path) -> None:
    run(*NEW)
    bundle = Bundle.load(runs / "models" / "new")
    assert bundle.settings.decoding == DecodingSettings()
    card = (bundle.path / MODEL_CARD).read_text()
    for wanted in (
        "# Model card: new",
        "`abc123`",
        "Not evaluated yet",
        "train: 8 utterances",
        "Noise, CC0.",
    ):
        assert wanted in card
    training = bundle.settings.training
    assert training["ngram"] == {"words": 36}
    assert training["config"] == {"data": {"repeat": {}}, "seed": 1}
    assert "someone" not in (bundle.path / "bundle.json").read_text()
    assert not [name for name in bundle.files if "optimizer" in name]


def test_a_towers_share_can_be_another_than_its_runs(run: Run, runs: Path, phone_bundle: Path) -> None:
    with pytest.raises(SystemExit, match="this model has no phone tower"):
        run(*NEW, "--tower-share=0.7")
    with pytest.raises(SystemExit, match="no tower that hears pieces"):
        run(*NEW, "--tower-pieces-share=0.7")
    settings = Bundle.load(phone_bundle).settings.acoustic
    assert isinstance(settings, ResidualGruSettings)
    shape = replace(settings, subsampling=8, tower_blocks=1, tower_width=8, tower_pieces_share=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        write_tensors(
            runs / "acoustic" / "model.safetensors", build(shape).state_dict(), {"kind": kind_of(shape)}
        )
    for name in (LEXICON, G2P):
        shutil.copy(phone_bundle / name, runs / "acoustic" / name)
    summary = json.loads((runs / "acoustic" / "train.json").read_text())
    (runs / "acoustic" / "train.json").write_text(json.dumps(summary | {"acoustic": to_section(shape)}))
    for given, shares in [
        ((), {}),
        (("--tower-share=0.7",), {"tower_share": 0.7}),
        (("--tower-pieces-share=0.4",), {"tower_pieces_share": 0.4}),
    ]:
        run(*NEW, *given)
        assert Bundle.load(runs / "models" / "new").settings.acoustic == replace(shape, **shares)
    with pytest.raises(SystemExit, match="must be above 0"):
        run(*NEW, "--tower-pieces-share=0")


def test_further_ngrams_are_added_exchanged_and_removed(run: Run, runs: Path, tmp_path: Path) -> None:
    run(*NEW)
    before = Bundle.load(runs / "models" / "new")
    run("--lm", f"legal={runs / 'ngram'}", f"zoo={runs / 'ngram'}")
    added = Bundle.load(before.path)
    assert Transcriber.load(added.path, "cpu").lms == ("default", "legal", "zoo")
    assert added.measured_sha256 == before.measured_sha256  # what was measured is still the same
    run("--lm", "legal=")
    assert Transcriber.load(added.path, "cpu").lms == ("default", "zoo")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / NGRAM).write_bytes(b"no n-gram")
    shutil.copy(runs / "ngram" / UNIGRAMS, tmp_path / "damaged" / UNIGRAMS)
    for wrong in (
        "legal=",
        f"zoo={tmp_path / 'absent'}",
        f"No={runs / 'ngram'}",
        f"zoo={tmp_path / 'damaged'}",
    ):
        with pytest.raises(SystemExit, match="asr-train export"):
            run("--lm", wrong)
    assert Transcriber.load(added.path, "cpu").lms == ("default", "zoo")


def test_an_evaluation_is_added_and_refreshed(run: Run, runs: Path) -> None:
    run(*NEW)
    before = Bundle.load(runs / "models" / "new")
    results = _measured(before.path, runs)
    run("--evaluation", "results.json")
    after = Bundle.load(before.path)
    evaluations = json.loads((after.path / EVALUATION).read_text())["evaluations"]
    report = json.loads(results.read_text())
    assert evaluations == [{key: value for key, value in report.items() if key != "utterances"}]
    card = (after.path / MODEL_CARD).read_text()
    wer = report["sets"]["noise"]["decoders"]["greedy"]["wer"]["rate"]
    assert f"| noise | 1 | 2 | `greedy` | {100 * wer:.1f} |" in card
    assert "Noise, CC0." in card
    assert "WER by" not in card  # the manifest knew no groups
    groups = {"utterances": 1, "speakers": 1, "words": 2}
    for rate in ("wer", "cer"):
        groups[rate] = {d: report["sets"]["noise"]["decoders"][d][rate] for d in (*DECODERS, "oracle")}
    report["sets"]["noise"]["groups"] = {"accent": {"scottish": groups | {"utterances": 20}, "a|b": groups}}
    results.write_text(json.dumps(report))
    run("--evaluation", "results.json")  # the bundle that was measured is still the same
    card = (after.path / MODEL_CARD).read_text()
    assert "WER by accent" in card
    assert f"| noise | scottish | 20 | 1 | 2 | {100 * wer:.1f} (" in card
    cer = report["sets"]["noise"]["decoders"]["greedy"]["cer"]["rate"]
    assert (
        f"| noise | a/b | 1 | 1 | 2 | {100 * wer:.1f}; {100 * cer:.1f} |" in card
    )  # too few for an interval
    report["sets"]["noise"]["groups"] = {}
    results.write_text(json.dumps(report))
    run("--evaluation", "results.json")
    assert Bundle.load(before.path) == after


def test_insertions_stand_beside_the_evaluation_and_outlive_it(
    run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*NEW)
    bundle = Bundle.load(runs / "models" / "new")
    _measured(bundle.path, runs)
    monkeypatch.setattr(insertions, "RESULTS", runs / "insertions.json")
    monkeypatch.setattr(insertions, "_kinds", lambda pieces: {"organs": insertions._repeated(_chord)})
    insertions.main(["--bundle", str(bundle.path), "--minutes", "0.5"])
    run("--insertions", "insertions.json")
    run("--evaluation", "results.json")  # the bundle that was measured is still the same
    after = Bundle.load(bundle.path)
    assert after.measured_sha256 == bundle.measured_sha256
    card = (after.path / MODEL_CARD).read_text()
    words = json.loads((runs / "insertions.json").read_text())["words_a_minute"]["organs"]
    assert "| organs | " + " | ".join(f"{words[d]:.1f}" for d in DECODERS) + " |" in card
    assert "| noise | 1 | 2 | `greedy` |" in card
    changed = replace(bundle.settings, decoding=replace(bundle.settings.decoding, alpha=0.77))
    after.with_changes(changed, {})
    with pytest.raises(SystemExit, match="measure again"):
        run("--insertions", "insertions.json")


def _chord(rng: np.random.Generator) -> np.ndarray:
    times_s = np.arange(16_000) / 16_000
    return np.sin(2 * np.pi * 220 * times_s) * np.sin(2 * np.pi * 3 * times_s)


def test_results_of_other_weights_are_refused(run: Run, runs: Path) -> None:
    run(*NEW)
    bundle = Bundle.load(runs / "models" / "new")
    _measured(bundle.path, runs)
    decoding = replace(bundle.settings.decoding, alpha=0.77)
    tuned = bundle.with_changes(replace(bundle.settings, decoding=decoding), {})
    with pytest.raises(SystemExit, match="measure again"):
        run("--evaluation", "results.json")
    assert Bundle.load(bundle.path) == tuned


def test_weights_that_fail_the_self_test_leave_the_old_bundle(run: Run, runs: Path) -> None:
    run(*NEW)
    before = Bundle.load(runs / "models" / "new")
    weights = load_file(runs / "acoustic" / "model.safetensors")
    weights["output.bias"][:] = float("nan")
    save_file(weights, runs / "acoustic" / "model.safetensors")
    with pytest.raises(SystemExit, match="self-test"):
        run(*NEW)
    assert Bundle.load(before.path) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--acoustic", "acoustic", "--ngram", "ngram"), "needs --ngram and --gpt2"),
        (("--acoustic", "nowhere", "--ngram", "ngram", "--gpt2", "gpt2"), "nowhere/train.json"),
        (("--acoustic", "acoustic", "--ngram", "nowhere", "--gpt2", "gpt2"), "nowhere/ngram.arrays"),
        (("--acoustic", "acoustic", "--ngram", "ngram", "--gpt2", "nowhere"), "lists no gpt2/config.json"),
    ],
)
def test_what_is_absent_is_named(run: Run, runs: Path, given: tuple[str, ...], message: str) -> None:
    (runs / "models").mkdir()
    with pytest.raises(SystemExit, match=message):
        run(*given)
    assert not list((runs / "models").iterdir())
