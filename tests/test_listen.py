"""`asr-train listen`: one page that a person can hear and see, of what training really does."""

import base64
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from asr.audio import read_audio
from tests.speech_of_tones import spoken, write_corpus
from training.cli import main as asr_train
from training.config import load_config
from training.corpus import Corpus, Tokenizer
from training.spectrogram_picture import HIGHEST, LOWEST, picture
from training.tokenizer import train_tokenizer

TEXTS = ["a cat sat", "on a <b> mat", "bad dog"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listen")
    write_corpus(folder / "corpus", TEXTS)
    asr_train(["prepare", str(folder / "corpus"), "--out", str(folder / "data"), "--workers", "1"])
    (folder / "tokenizer.model").write_bytes(
        train_tokenizer(["a cat sat on a b mat bad dog"] * 2, 55, kind="char").model_proto
    )
    (folder / "run.toml").write_text(
        f'[data]\ntrain = "{folder / "data"}"\ndev = "{folder / "data"}"\n'
        f'tokenizer = "{folder / "tokenizer.model"}"\nsource = "audio"\n[model]\nsubsampling = 4\n'
        "[augment]\nstart_epoch = 2\n[augment.gain]\nprobability = 1.0\n"
        "[augment.room]\nprobability = 1.0\nstart_epoch = 4\n"
    )
    return folder


def test_page_shows_what_training_does(workplace: Path, tmp_path: Path) -> None:
    asr_train(
        [
            "listen",
            str(workplace / "run.toml"),
            "--out",
            str(tmp_path / "out"),
            "--examples",
            "2",
            "--draws",
            "2",
        ]
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<section>") == 2
    assert "epoch 4" in page, "the first with everything on"
    assert (
        len(re.findall(r"room \d+, gain [+-]\d+ dB", page)) == 8
    )  # caption and alternative text of 2 x 2 draws
    assert not re.search(r"(src|href)=.?(?!data:)[\"'](?!data:)", page), "nothing is fetched"
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    players = re.findall(r'src="data:audio/wav;base64,([^"]+)"', page)
    assert len(images) == len(players) == 6
    assert sorted(path.name for path in (tmp_path / "out").glob("*.wav")) == [
        f"0{n}-{kind}.wav" for n in range(2) for kind in ("after-1", "after-2", "before")
    ]
    config = load_config(workplace / "run.toml", [])
    corpus = Corpus(Path(config.data.train), Tokenizer.load(Path(config.data.tokenizer)), config)
    trained_on_BTF = corpus.batch(np.array([0]), torch.device("cpu"), [(4, 1, 0)])[0]
    assert base64.b64decode(images[2]) == picture(trained_on_BTF[0].numpy())
    samples = read_audio(base64.b64decode(players[0]), max_duration_s=30)
    np.testing.assert_allclose(samples, spoken(TEXTS[0], 0), atol=1e-4)


def test_before_everything_starts_nothing_is_changed(workplace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asr_train(["listen", str(workplace / "run.toml"), "--out", str(out), "--examples", "1", "--epoch", "0"])
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', (out / "index.html").read_text())
    assert images[0] == images[1]
    assert (out / "00-before.wav").read_bytes() == (out / "00-after-1.wav").read_bytes()


def test_prepared_features_are_seen_but_not_heard(workplace: Path, tmp_path: Path) -> None:
    plain = [
        "--set",
        "data.source=features",
        "--set",
        "augment.gain.probability=0.0",
        "--set",
        "augment.room.probability=0.0",
    ]
    asr_train(["listen", str(workplace / "run.toml"), "--out", str(tmp_path), "--examples", "1", *plain])
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png") == 2
    assert page.count("data:audio/wav") == 1
    assert "nothing to hear" in page
    assert [path.name for path in tmp_path.glob("*.wav")] == ["00-before.wav"]


def test_a_picture_has_a_pixel_a_value_low_frequencies_at_the_bottom(tmp_path: Path) -> None:
    features_TF = np.full((7, 5), LOWEST, np.float32)
    features_TF[2, 0] = HIGHEST
    (tmp_path / "p.png").write_bytes(picture(features_TF))
    with av.open(str(tmp_path / "p.png")) as file:
        image = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert image.shape == (5, 7, 3)
    assert image[4, 2].tolist() == [252, 253, 191]
    image[4, 2] = image[0, 0]
    assert (image == [0, 0, 4]).all()
