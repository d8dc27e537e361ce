"""A model that learns phones beside pieces: its loss, its run, and where it can start from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from asr.acoustic.kinds import build
from asr.acoustic.phones import phone_log_probs
from asr.acoustic.residual_gru import ResidualGruSettings
from asr.bundle import G2P, LEXICON
from asr.pronunciation import Pronunciations
from asr.tokenizer import Tokenizer
from tests.lettered_lexicon import sounds, write_lettered
from training.config import LossConfig, OptimConfig, TrainConfig, load_config
from training.config_tables import ConfigError
from training.corpus import Corpus
from training.label_graph import LabelGraph
from training.losses import Batch, Objective, ctc_sum, disagreement_sum
from training.train import train
from training.views import fetch

CPU = torch.device("cpu")
TEXTS = ["a cat sat", "on the mat", "a bad dog", "the cat ran", "no", "go on and on"]
N_PHONES = 5
SHAPE = ResidualGruSettings(
    vocab_size=7,
    subsampling=8,
    conv_channels=4,
    conv_blocks=0,
    width=12,
    gru_hidden=8,
    gru_blocks=2,
    dropout=0,
    phones=N_PHONES,
)
LOSS = LossConfig(inter_ctc=0.3, cr_ctc=0.2, phone_ctc=0.4, crf=0.5)
OPTIM = OptimConfig()
GRAPH = LabelGraph.estimate([[1, 2, 3], [3, 1, 1], []], N_PHONES)
N_LABELS = 9


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, one word of which the lexicon has not."""
    folder = tmp_path_factory.mktemp("phones")
    data = write_lettered(folder, TEXTS, unlisted=["dog"])
    (folder / "run.toml").write_text(
        data
        + """
[model]
subsampling = 8
conv_channels = 4
conv_blocks = 0
width = 32
gru_hidden = 24
gru_blocks = 2
upsampling = 1
[loss]
inter_ctc = 0.3
cr_ctc = 0.2
phone_ctc = 0.45
crf = 0.75
[augment]
start_epoch = 1
masks_probability = 0.5
[optim]
epochs = 3
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


def _batch() -> Batch:
    """Two views; the second utterance has no words, the third more phones than frames."""
    generator = torch.Generator().manual_seed(4)
    views = tuple(torch.randn(3, 48, 80, generator=generator) for _ in range(2))
    phones_BL = torch.zeros(3, 8, dtype=torch.int64)
    phones_BL[0, :4] = torch.tensor([3, 1, 1, 2])
    phones_BL[2] = torch.tensor([1, 2, 3, 4, 1, 1, 2, 4])
    return Batch(
        views,
        torch.tensor([48, 30, 31]),
        torch.tensor([[4, 5, 6, 4], [0, 0, 0, 0], [1, 2, 0, 0]]),
        torch.tensor([4, 0, 2]),
        phones_BL,
        torch.tensor([4, 0, 8]),
    )


def _model() -> torch.nn.Module:
    torch.manual_seed(1)
    return build(SHAPE).train()


def test_the_phones_loss_is_the_documented_sum() -> None:
    batch, model = _batch(), _model()
    total, parts_P = Objective(model, LOSS, OPTIM, GRAPH)(batch, N_LABELS)
    without, _ = Objective(model, replace(LOSS, phone_ctc=0.0, crf=0.0), OPTIM)(batch, N_LABELS)
    outputs, lengths_B = model.at_blocks(torch.cat(batch.views), batch.lengths_B.repeat(2), (1,))
    inner_BTV, last_BTV = (phone_log_probs(o, SHAPE.vocab_size) for o in outputs)
    lengths_B = 2 * lengths_B
    labels = batch.phones_BL.repeat(2, 1), batch.phone_lengths_B.repeat(2)
    last, inner = (ctc_sum(o, lengths_B, *labels) / (2 * N_LABELS) for o in (last_BTV, inner_BTV))
    fits = torch.tensor([True, True, False]).repeat(2)  # 8 frames, 8 phones, one of them twice in a row
    log_z = GRAPH.log_z(last_BTV, lengths_B)[fits].sum() / (2 * N_LABELS)
    cr = disagreement_sum(last_BTV, lengths_B) / N_LABELS
    expected = 0.75 * last + 0.25 * inner + 0.5 * log_z + 0.1 * cr
    torch.testing.assert_close(total, 0.6 * without + 0.4 * expected)
    torch.testing.assert_close(parts_P[-2:], torch.stack([last, log_z]).detach())


def test_halves_of_a_batch_give_its_gradients() -> None:
    batch, model = _batch(), _model()
    objective = Objective(model, LOSS, OPTIM, GRAPH)

    def gradients(parts: list[Batch]) -> list[torch.Tensor]:
        model.zero_grad()
        for part in parts:
            objective(part, N_LABELS)[0].backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    for one, two in zip(gradients([batch]), gradients(list(batch.halves())), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_wordless_recordings_alone_have_a_loss() -> None:
    batch, empty_BL = _batch(), torch.zeros(3, 0, dtype=torch.int64)
    none_B = torch.zeros(3, dtype=torch.int64)
    silent = replace(
        batch, targets_BL=empty_BL, target_lengths_B=none_B, phones_BL=empty_BL, phone_lengths_B=none_B
    )
    total, _ = Objective(_model(), LOSS, OPTIM, GRAPH)(silent, 1)
    assert bool(total.isfinite())


def test_phones_travel_beside_the_pieces(workplace: Path) -> None:
    config = _config(workplace)
    lexicon = workplace / "lexicon"
    pronunciations = Pronunciations.load(lexicon / LEXICON, lexicon / G2P)
    tokenizer = Tokenizer.load(workplace / "tokenizer.model")
    corpus = Corpus(workplace / "data", tokenizer, config, pronunciations)
    batch = fetch(corpus, np.arange(len(corpus)), [(0, 0, i) for i in range(len(corpus))], config, CPU)
    n_phones = len(pronunciations.phones)
    for row, utterance in enumerate(corpus.utterances):
        labels = batch.phones_BL[row, : batch.phone_lengths_B[row]].tolist()
        heard = [pronunciations.phones[(label - 1) % n_phones] for label in labels]
        assert heard == [phone for word in utterance.text.split() for phone in sounds(word)]
        assert sum(label > n_phones for label in labels) == len(utterance.text.split())
    without = Corpus(workplace / "data", tokenizer, config)
    assert len(without.batch(np.arange(2), CPU)) == 4


def test_it_learns_and_a_resumed_run_is_the_unbroken_one(workplace: Path, tmp_path: Path) -> None:
    config = _config(workplace, "optim.epochs=8")
    train(config, tmp_path / "unbroken")
    rows = [json.loads(line) for line in (tmp_path / "unbroken" / "log.jsonl").read_text().splitlines()]
    phones = [row["phone_ctc"] + row["phone_log_z"] for row in rows if "phone_ctc" in row]
    assert np.mean(phones[-4:]) < 0.8 * np.mean(phones[:4])
    for name in (LEXICON, G2P):
        assert (tmp_path / "unbroken" / name).read_bytes() == (workplace / "lexicon" / name).read_bytes()
    section = json.loads((tmp_path / "unbroken" / "train.json").read_text())["acoustic"]
    assert section["phones"] == 2 * len({p for text in TEXTS for w in text.split() for p in sounds(w)}) + 1

    train(config, tmp_path / "broken", stop_after_steps=5)
    train(config, tmp_path / "broken")
    unbroken, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("unbroken", "broken"))
    assert unbroken.keys() == broken.keys()
    assert all(torch.equal(value, broken[name]) for name, value in unbroken.items())


def test_first_weights_may_lack_the_phone_layer_and_nothing_else(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ("data.lexicon=''", "loss.phone_ctc=0.0", "loss.crf=0.0", "optim.epochs=1")
    train(_config(workplace, *plain), tmp_path / "plain")
    assert not (tmp_path / "plain" / LEXICON).exists()
    first = tmp_path / "plain" / "model.safetensors"
    tiny_steps = ("optim.epochs=1", "optim.lr=1e-9", "optim.weight_decay=0.0")
    train(_config(workplace, *tiny_steps), tmp_path / "phones", init=first)
    assert "the first weights have no phone layer" in capsys.readouterr().out
    found, given = load_file(tmp_path / "phones" / "model.safetensors"), load_file(first)
    assert {name for name in found if name not in given} == {
        f"phone_{layer}.{kind}" for layer in ("norm", "output") for kind in ("weight", "bias")
    }
    for name, value in given.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="another model's"):
        train(_config(workplace, "model.width=16"), tmp_path / "other", init=first)
    with pytest.raises(ConfigError, match="another model's"):  # phones that are not wanted are not dropped
        train(_config(workplace, *plain), tmp_path / "less", init=tmp_path / "phones" / "model.safetensors")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.phone_ctc=0.0", r"crf needs phone_ctc"),
        ("data.lexicon=''", r"loss\.phone_ctc needs data\.lexicon"),
        ("model.upsampling=2", r"model\.phones must be .* 0 with upsampling"),
        ("loss.crf=1.5", r"crf must be in 0\.\.1"),
    ],
)
def test_what_does_not_fit_the_phones_is_refused(workplace: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(workplace, override)


def test_a_lexicon_without_a_loss_or_for_a_conformer_is_refused(workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.lexicon needs loss\.phone_ctc"):
        _config(workplace, "loss.phone_ctc=0.0", "loss.crf=0.0")
    text = (workplace / "run.toml").read_text()
    before, _, after = text.partition("[model]")
    (tmp_path / "run.toml").write_text(
        before + '[model]\npreset = "conformer-xs"\n[loss]' + after.partition("[loss]")[2]
    )
    with pytest.raises(ConfigError, match="conformer has no phone layer"):
        load_config(tmp_path / "run.toml", [])
