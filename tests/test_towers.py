"""Two runs' phone towers in one bundle: what it hears, what it says of itself, and what is refused."""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asr.acoustic.kinds import build, kind_of, to_section
from asr.acoustic.phones import phone_log_probs
from asr.acoustic.residual_gru import ResidualGruSettings
from asr.bundle import ACOUSTIC, G2P, LEXICON, MODEL_CARD, NGRAM, TOKENIZER, UNIGRAMS, Bundle
from asr.transcriber import Transcriber
from training import export
from training.towers import with_second_tower, with_shares
from training.whole_file import write_tensors

SHAPES = (
    {"tower_blocks": 1, "tower_width": 12},
    {"tower_blocks": 2, "tower_width": 8},
)
Run = Callable[..., Bundle]


@pytest.fixture
def runs(phone_bundle: Path, tiny_gpt2: Path, tmp_path: Path) -> Path:
    """Folders `first` and `second` as two training runs leave them, and the other stages' results."""
    settings = Bundle.load(phone_bundle).settings
    for name, shape in zip(("first", "second"), SHAPES, strict=True):
        folder = tmp_path / name
        folder.mkdir()
        sizes = {"subsampling": 8, "tower_channels": 4, "tower_bottleneck": 6}
        acoustic = replace(settings.acoustic, **sizes, **shape)  # type: ignore[arg-type]
        with torch.random.fork_rng():
            torch.manual_seed(len(name))
            write_tensors(
                folder / "model.safetensors", build(acoustic).state_dict(), {"kind": kind_of(acoustic)}
            )
        for file in (TOKENIZER, LEXICON, G2P):
            shutil.copy(phone_bundle / file, folder / file)
        summary = {
            "acoustic": to_section(acoustic),
            "features": asdict(settings.features),
            "config": {"data": {"train": "/home/someone/train"}, "seed": len(name)},
            "commit": "abc123",
            "steps": len(name),
        }
        (folder / "train.json").write_text(json.dumps(summary))
    (tmp_path / "ngram").mkdir()
    for file in (NGRAM, UNIGRAMS):
        shutil.copy(phone_bundle / file, tmp_path / "ngram" / file)
    shutil.copytree(tiny_gpt2, tmp_path / "gpt2" / "model")
    return tmp_path


@pytest.fixture
def run(runs: Path) -> Run:
    """`asr-train export` of the first run into runs/new."""

    def call(*given: str) -> Bundle:
        parser = argparse.ArgumentParser()
        export.add_arguments(parser)
        parts = [item for name in ("ngram", "gpt2") for item in (f"--{name}", str(runs / name))]
        export.main(
            parser.parse_args(["--out", str(runs / "new"), "--acoustic", str(runs / "first"), *parts, *given])
        )
        return Bundle.load(runs / "new")

    return call


def test_both_towers_hear_in_the_bundle(run: Run, runs: Path, recording: bytes) -> None:
    bundle = run("--second-tower", str(runs / "second"), "--tower-shares", "0.5", "0.3", "--half")
    transcriber = Transcriber.load(bundle.path, "cpu")
    features_1TF = transcriber.prepare(recording).features[None]
    lengths_B = torch.tensor([features_1TF.shape[1]])
    with torch.inference_mode():
        (first_1TC, _), (second_1TC, _) = (
            _model(runs / name)(features_1TF, lengths_B) for name in ("first", "second")
        )
        (layer_1TC,), _ = _model(runs / "first").at_blocks(features_1TF, lengths_B)
    n_pieces = bundle.settings.acoustic.vocab_size
    first, second, layer = (phone_log_probs(r, n_pieces) for r in (first_1TC, second_1TC, layer_1TC))
    expected = (0.5 * first + 0.3 * second + 0.2 * layer).log_softmax(-1)[0]
    found = transcriber.listen(recording).phones
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-2, rtol=0)
    assert bundle.settings.training["second_tower"]["steps"] == len("second")
    assert "someone" not in (bundle.path / "bundle.json").read_text()
    card = (bundle.path / MODEL_CARD).read_text()
    assert "two networks that hear phones only" in card
    assert "0.5 and 0.3" in card


def test_shares_alone_change_nothing_but_themselves(run: Run, runs: Path) -> None:
    bundle = run("--tower-shares", "0.25")
    acoustic = bundle.settings.acoustic
    assert isinstance(acoustic, ResidualGruSettings)
    assert acoustic.tower_share == 0.25
    before, after = load_file(runs / "first" / "model.safetensors"), load_file(bundle.path / ACOUSTIC)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_towers_of_other_phones_are_refused(run: Run, runs: Path) -> None:
    lexicon = runs / "second" / LEXICON
    lexicon.write_text(lexicon.read_text() + "zz\tZ Z\n")
    with pytest.raises(SystemExit, match="hears other features or phones"):
        run("--second-tower", str(runs / "second"), "--tower-shares", "0.5", "0.3")
    assert not (runs / "new").exists()


@pytest.mark.parametrize(
    ("shares", "message"), [(("0.5",), "1 shares of 2"), (("0.8", "0.4"), r"must be in 0\.\.0\.2")]
)
def test_shares_that_do_not_fit_are_refused(
    run: Run, runs: Path, shares: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        run("--second-tower", str(runs / "second"), "--tower-shares", *shares)


def test_only_models_with_one_tower_are_joined() -> None:
    one = ResidualGruSettings(vocab_size=5, phones=3, tower_blocks=1, tower_width=4)
    with pytest.raises(ValueError, match="two models with one each"):
        with_second_tower((one, {}), (replace(one, tower_blocks=0), {}))
    with pytest.raises(ValueError, match="tower_bottleneck is 64, the first one's 192"):
        with_second_tower((one, {}), (replace(one, tower_bottleneck=64), {}))
    with pytest.raises(ValueError, match="1 shares of 0 phone towers"):
        with_shares(replace(one, tower_blocks=0), [0.5])


def _model(folder: Path) -> torch.nn.Module:
    """With its tower heard alone."""
    section = json.loads((folder / "train.json").read_text())["acoustic"]
    del section["kind"]
    model = build(replace(ResidualGruSettings(**section), tower_share=1.0))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
