"""Hear and see what a run's augmentation does: asr-train listen configs/audio.toml --out runs/listen

Takes utterances of the run's training corpus through the very steps that training takes them through, and
writes `index.html`: for each the draws, its spectrogram before and after, and players. The page holds
everything and needs no network. With `[data] source = "audio"` the recordings before and after also lie
beside it as WAV files; with prepared features there is only the recording before, since features cannot be
heard.
"""

import argparse
import base64
import html
import io
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from asr.audio import SAMPLE_RATE, Samples, read_audio
from asr.errors import AsrError
from asr.features import normalised
from asr.tokenizer import Tokenizer
from training.config import TrainConfig, load_config
from training.corpus import Corpus
from training.manifest import Utterance, read_bytes
from training.spectrogram_picture import picture
from training.whole_file import write_text

MAX_DURATION_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for index.html and WAV files")
    parser.add_argument("--examples", type=int, default=8, help="utterances, spread over the training corpus")
    parser.add_argument("--draws", type=int, default=1, help="times that each is augmented")
    parser.add_argument("--epoch", type=int, help="as in this epoch (default: the first with everything on)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")


def main(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.overrides)
    page = listen(config, args.out, n_examples=args.examples, n_draws=args.draws, epoch=args.epoch)
    print(f"{args.examples} utterances -> {page}")


@dataclass(frozen=True)
class _Version:
    """One player and picture on the page."""

    title: str
    features_TF: np.ndarray
    samples: Samples | None


def listen(
    config: TrainConfig, out: Path, *, n_examples: int = 8, n_draws: int = 1, epoch: int | None = None
) -> Path:
    """Write the page and the recordings; the page's path.

    Raises ValueError when there is no corpus or a recording of it cannot be read.
    """
    corpus = Corpus(Path(config.data.train), Tokenizer.load(Path(config.data.tokenizer)), config)
    epoch = config.augment.latest_epoch if epoch is None else epoch
    out.mkdir(parents=True, exist_ok=True)
    chosen = np.unique(np.linspace(0, len(corpus) - 1, n_examples).astype(int))
    sections = []
    for place, index in enumerate(chosen):
        utterance = corpus.utterances[index]
        versions = _versions(corpus, int(index), [(epoch, draw, place) for draw in range(n_draws)])
        for number, version in enumerate(versions):
            if version.samples is not None:
                kind = f"after-{number}" if number else "before"
                (out / f"{place:02}-{kind}.wav").write_bytes(wav(version.samples))
        sections.append(_section(utterance, versions))
    page = out / "index.html"
    title = f"{Path(config.data.train).name}, epoch {epoch}, source {config.data.source}"
    write_text(page, PAGE.format(title=html.escape(title), body="\n".join(sections)))
    return page


def _versions(corpus: Corpus, index: int, draws: list[tuple[int, int, int]]) -> list[_Version]:
    """The utterance as read, then once for each draw."""
    maker = corpus.maker
    versions: list[_Version] = []
    for draw in draws:
        (example,) = corpus.examples(np.array([index]), [draw])
        trace = maker.trace(example, for_people=True)
        if not versions:
            plain_TF = normalised(torch.from_numpy(trace.log_mels_TF), maker.settings).numpy()
            samples = trace.samples if maker.audio else _recording(corpus.utterances[index])
            versions.append(_Version("as recorded", plain_TF, samples))
        versions.append(
            _Version(", ".join(trace.told) or "unchanged", trace.features_TF, trace.augmented_samples)
        )
    return versions


def _recording(utterance: Utterance) -> Samples | None:
    """For the player only: prepared features do not need it to be there still."""
    try:
        return read_audio(read_bytes(utterance), max_duration_s=MAX_DURATION_S)
    except (AsrError, OSError):
        return None


def wav(samples: Samples) -> bytes:
    """A WAV file, 16-bit mono at 16 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return file.getvalue()


def _section(utterance: Utterance, versions: list[_Version]) -> str:
    figures = []
    for version in versions:
        image = _data("image/png", picture(version.features_TF))
        n_frames = len(version.features_TF)
        player = (
            f'<audio controls preload="none" src="{_data("audio/wav", wav(version.samples))}"></audio>'
            if version.samples is not None
            else "<p>Features only: nothing to hear.</p>"
        )
        title = html.escape(version.title)
        figures.append(
            f"<figure><figcaption>{title} <span>({n_frames / 100:.2f} s)</span></figcaption>"
            f'<img src="{image}" style="width: {n_frames}px" alt="spectrogram: {title}">{player}</figure>'
        )
    name = html.escape(f"{utterance.name} {utterance.corpus}".strip())
    text = html.escape(utterance.text)
    return f"<section><h2>{text}</h2><p>{name}</p>{''.join(figures)}</section>"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>What augmentation does: {title}</title>
<style>
 body {{ font: 16px/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 76rem; padding: 0 1rem; }}
 h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.05rem; margin: 1.5rem 0 0; }}
 p, figcaption span {{ color: #666; margin: 0 0 .4rem; }}
 figure {{ margin: 0 0 .8rem; }}
 img {{ display: block; height: 160px; max-width: 100%; image-rendering: pixelated; border: 1px solid #ccc; }}
 audio {{ height: 2rem; margin-top: .3rem; max-width: 100%; }}
</style></head><body>
<h1>What augmentation does: {title}</h1>
<p>Spectrograms: 80 mel bands from 20 Hz (bottom) to 7.6 kHz, a pixel a frame of 10 ms, after normalisation:
what the model gets. Masks are the flat bars.</p>
{body}
</body></html>
"""
