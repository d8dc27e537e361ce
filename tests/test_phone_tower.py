"""The phone tower: heard alone as in any batch, mixed by its share, and taught without touching the rest."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from asr.acoustic.kinds import build
from asr.acoustic.phones import phone_log_probs
from asr.acoustic.residual_gru import ResidualGru, ResidualGruSettings
from tests.lettered_lexicon import write_lettered
from training.config import LossConfig, OptimConfig, TrainConfig, load_config
from training.config_tables import ConfigError
from training.losses import Batch, Objective
from training.train import train

TEXTS = ["a cat sat", "on the mat", "a bad dog", "the cat ran", "no", "go on and on"]
SHAPE = ResidualGruSettings(
    vocab_size=7,
    conv_channels=4,
    conv_blocks=0,
    width=12,
    gru_hidden=8,
    gru_blocks=2,
    dropout=0,
    phones=5,
    tower_blocks=2,
    tower_channels=4,
    tower_width=14,
    tower_bottleneck=6,
)


def _model(shape: ResidualGruSettings = SHAPE) -> ResidualGru:
    torch.manual_seed(1)
    model = build(shape)
    assert isinstance(model, ResidualGru)
    return model.eval()


def test_a_recording_is_heard_alone_as_in_a_batch() -> None:
    model, lengths = _model(), [37, 1, 64, 50, 9, 8]
    features = [torch.randn(length, 80) for length in lengths]
    padded_BTF = torch.nn.utils.rnn.pad_sequence(features, batch_first=True, padding_value=3.0)
    with torch.inference_mode():
        rows_BTC, out_lengths_B = model(padded_BTF, torch.tensor(lengths))
        for rows_TC, out_length, one in zip(rows_BTC, out_lengths_B.tolist(), features, strict=True):
            alone_1TC, _ = model(one[None], torch.tensor([len(one)]))
            assert alone_1TC.shape == (1, out_length, SHAPE.n_columns)
            torch.testing.assert_close(rows_TC[:out_length], alone_1TC[0], atol=1e-5, rtol=0)


def test_a_frame_hears_what_is_near_and_nothing_else() -> None:
    model = _model()
    features_1TF = torch.randn(1, 400, 80)
    changed_1TF = features_1TF.clone()
    changed_1TF[:, 200] += 1.0
    lengths_B = torch.tensor([400])
    with torch.inference_mode():
        before, after = (model.tower(x, lengths_B)[0][0] for x in (features_1TF, changed_1TF))
    frames = torch.nonzero((before - after).abs().amax(1) > 0).flatten().tolist()
    reach = 2 * SHAPE.tower_blocks + 3  # frames of 4 features, the convolutions before the blocks included
    assert 50 in frames
    assert 50 - reach <= min(frames) < max(frames) <= 50 + reach


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("part", ["phones", "pieces"])
def test_the_rows_are_both_networks_by_their_shares(part: str, share: float) -> None:
    shares = {"tower_share" if part == "phones" else "tower_pieces_share": share}
    model, features_1TF, lengths_B = _model(replace(SHAPE, **shares)), torch.randn(1, 60, 80), [60]
    lengths_B = torch.tensor(lengths_B)
    with torch.inference_mode():
        rows_1TC, _ = model(features_1TF, lengths_B)
        (of_layer_1TC,), _ = model.at_blocks(features_1TF, lengths_B)
        of_tower, pieces = model.tower(features_1TF, lengths_B)
    if part == "phones":
        found, of_layer = (phone_log_probs(rows, SHAPE.vocab_size) for rows in (rows_1TC, of_layer_1TC))
        assert pieces is None
    else:
        found, of_layer = (rows[..., : SHAPE.vocab_size] for rows in (rows_1TC, of_layer_1TC))
        of_tower = pieces if share else of_layer
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(found.shape[:2]))
    both = share * of_tower + (1 - share) * of_layer
    torch.testing.assert_close(found, both - both.logsumexp(-1, keepdim=True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [False, True])
def test_its_loss_alone_reaches_the_tower_alone(pieces: bool) -> None:
    model = _model(replace(SHAPE, tower_pieces_share=float(pieces))).train()
    batch = Batch(
        tuple(torch.randn(2, 48, 80) for _ in range(2)),
        torch.tensor([48, 30]),
        torch.tensor([[4, 5], [6, 0]]),
        torch.tensor([2, 1]),
        torch.tensor([[3, 1, 2], [1, 0, 0]]),
        torch.tensor([3, 1]),
    )
    config = LossConfig(phone_ctc=1.0, cr_ctc=0.2, tower_pieces=0.3 if pieces else 0.0)
    loss, parts = Objective(model, config, OptimConfig())(batch, 3)
    loss.backward()
    of_phones, _ = Objective(model, replace(config, tower_pieces=0.0), OptimConfig())(batch, 3)
    ctc, _, cr, *_ = parts
    torch.testing.assert_close(loss, 0.7 * of_phones + 0.3 * (ctc + 0.2 * cr) if pieces else of_phones)
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learning == {"tower"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower")
    (folder / "run.toml").write_text(
        write_lettered(folder, TEXTS)
        + """
[model]
conv_channels = 4
conv_blocks = 0
width = 16
gru_hidden = 12
gru_blocks = 1
tower_blocks = 2
tower_channels = 4
tower_width = 24
tower_bottleneck = 8
[loss]
phone_ctc = 1.0
crf = 0.5
[optim]
epochs = 8
lr = 4e-3
batch_s = 4.0
[log]
every_steps = 1
""",
        encoding="utf-8",
    )
    return folder


def _config(workplace: Path, *overrides: str) -> TrainConfig:
    return load_config(workplace / "run.toml", list(overrides))


def test_a_run_teaches_the_tower_beside_the_first_weights(workplace: Path, tmp_path: Path) -> None:
    before = ("model.tower_blocks=0", "loss.phone_ctc=0.4", "loss.crf=0.0", "optim.epochs=1")
    train(_config(workplace, *before), tmp_path / "before")
    first = tmp_path / "before" / "model.safetensors"
    train(_config(workplace), tmp_path / "tower", init=first)
    rows = [json.loads(line) for line in (tmp_path / "tower" / "log.jsonl").read_text().splitlines()]
    losses = [row["phone_ctc"] + 0.5 * row["phone_log_z"] for row in rows if "phone_ctc" in row]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert all(scores["per"] >= 0 for row in rows if "dev" in row for scores in row["dev"].values())
    found, given = load_file(tmp_path / "tower" / "model.safetensors"), load_file(first)
    for name, value in given.items():
        assert torch.equal(found[name], value), name
    assert {name.split(".")[0] for name in found.keys() - given.keys()} == {"tower"}
    train(_config(workplace), tmp_path / "broken", init=first, stop_after_steps=5)
    train(_config(workplace), tmp_path / "broken", init=first)
    broken = load_file(tmp_path / "broken" / "model.safetensors")
    assert all(torch.equal(value, broken[name]) for name, value in found.items())


def test_a_tower_goes_on_with_pieces_too(workplace: Path, tmp_path: Path) -> None:
    train(_config(workplace, "optim.epochs=1"), tmp_path / "phones")
    first = tmp_path / "phones" / "model.safetensors"
    config = _config(workplace, "model.tower_pieces_share=1.0", "loss.tower_pieces=0.3", "optim.epochs=6")
    train(config, tmp_path / "both", init=first, stop_after_steps=3)
    train(config, tmp_path / "both", init=first)
    rows = [json.loads(line) for line in (tmp_path / "both" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    found, given = load_file(tmp_path / "both" / "model.safetensors"), load_file(first)
    assert found.keys() - given.keys() == {"tower.pieces_output.weight", "tower.pieces_output.bias"}
    changed = {name.split(".")[0] for name, value in given.items() if not torch.equal(found[name], value)}
    assert changed == {"tower"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.tower_blocks=0"], r"loss\.phone_ctc of 1 needs model\.tower_blocks"),
        (["model.subsampling=4"], r"model\.tower_blocks must be .* with a subsampling of 4"),
        (["model.tower_share=1.5"], r"model\.tower_share must be in 0\.\.1"),
        (
            ["model.tower_pieces_share=1.5", "loss.tower_pieces=0.3"],
            r"model\.tower_pieces_share must be in 0\.\.1",
        ),
        (["model.tower_pieces_share=0.5"], r"model\.tower_pieces_share needs loss\.tower_pieces"),
        (["loss.tower_pieces=1.0"], r"tower_pieces must be in 0\.\.1"),
        (["loss.tower_pieces=0.5"], r"loss\.tower_pieces needs model\.tower_pieces_share"),
    ],
)
def test_what_does_not_fit_is_refused(workplace: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(workplace, *overrides)
