"""Words written where nobody speaks: python -m bench.insertions [--bundle models/default] [--minutes 5]

Sounds without a sentence in them, each made from a seed at three levels: digital silence, steady noise
(white, pink, brown), mains hum with clicks, music-like tones, and babble: eight recordings of dev at once.
Each piece of ten seconds is transcribed with every decoder. The result is words a minute, per kind and
decoder, printed and written to bench/results/insertions.json, from where `asr-train export --insertions`
puts it into the model card. Babble is speech, only nobody's in particular.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from asr.audio import SAMPLE_RATE, read_audio
from asr.decoding.options import DECODERS, DecodingOptions
from asr.transcriber import Transcriber
from training.manifest import read_bytes
from training.prepare import find_utterances
from training.waveform import coloured

RESULTS = Path(__file__).parent / "results" / "insertions.json"
PIECE_S = 10
LEVELS_DB = (-60.0, -40.0, -20.0)  # root mean square, of full scale
VOICES = 8  # of babble

Samples = NDArray[np.float32]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--minutes", type=float, default=5.0, help="of each kind, all levels together")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    transcriber = Transcriber.load(args.bundle, device="cpu")
    pieces = max(1, round(60 * args.minutes / PIECE_S / len(LEVELS_DB)))
    rows = {kind: _words_a_minute(transcriber, sounds, pieces) for kind, sounds in _kinds(pieces).items()}
    result = {
        "bundle": {"measured_sha256": transcriber.bundle.measured_sha256},
        "command": shlex.join(
            ["python", "-m", "bench.insertions", *(sys.argv[1:] if argv is None else argv)]
        ),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes_each": round(pieces * len(LEVELS_DB) * PIECE_S / 60, 2),
        "levels_db": LEVELS_DB,
        "words_a_minute": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = Table("sound", *DECODERS, title="words a minute")
    for kind, row in rows.items():
        table.add_row(kind, *(f"{row[decoder]:.2f}" for decoder in DECODERS))
    Console().print(table)


def _words_a_minute(transcriber: Transcriber, sounds: Iterator[Samples], pieces: int) -> dict[str, float]:
    words = dict.fromkeys(DECODERS, 0)
    minutes = 0.0
    for sound in (next(sounds) for _ in range(pieces)):
        for level in LEVELS_DB:
            samples = _at_level(sound, level)
            minutes += len(samples) / SAMPLE_RATE / 60
            (posteriors,) = transcriber.listen_batch([transcriber.prepare_samples(samples)])
            for decoder in DECODERS:
                text = transcriber.decode(posteriors, DecodingOptions(decoder)).text
                words[decoder] += len(text.split())
    return {decoder: round(count / minutes, 3) for decoder, count in words.items()}


def _at_level(samples: Samples, level_db: float) -> Samples:
    rms = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
    return samples if rms == 0 else np.clip(samples * (10 ** (level_db / 20) / rms), -1, 1).astype(np.float32)


def _kinds(pieces: int) -> dict[str, Iterator[Samples]]:
    return {
        "digital silence": _repeated(lambda rng: np.zeros(PIECE_S * SAMPLE_RATE)),
        "white noise": _repeated(lambda rng: _noise(rng, 0.0)),
        "pink noise": _repeated(lambda rng: _noise(rng, 1.0)),
        "brown noise": _repeated(lambda rng: _noise(rng, 2.0)),
        "hum and clicks": _repeated(_hum),
        "music-like tones": _repeated(_music),
        f"babble of {VOICES}": _babble(),
    }


def _repeated(make: Callable[[np.random.Generator], NDArray[np.float64]]) -> Iterator[Samples]:
    for seed in range(1_000_000):
        yield make(np.random.default_rng(seed)).astype(np.float32)


def _noise(rng: np.random.Generator, colour: float) -> NDArray[np.float64]:
    return coloured(rng.standard_normal(PIECE_S * SAMPLE_RATE), colour)


def _hum(rng: np.random.Generator) -> NDArray[np.float64]:
    """50 or 60 Hz with overtones, and a few clicks a second."""
    time_s = np.arange(PIECE_S * SAMPLE_RATE) / SAMPLE_RATE
    mains = rng.choice([50.0, 60.0])
    hum = sum(rng.uniform(0.1, 1.0) / n * np.sin(2 * np.pi * n * mains * time_s) for n in range(1, 12))
    clicks = (rng.random(len(time_s)) < 3 / SAMPLE_RATE) * rng.uniform(5, 20)
    return hum + np.convolve(clicks, np.exp(-np.arange(80) / 12.0), mode="same")


def _music(rng: np.random.Generator) -> NDArray[np.float64]:
    """Notes of a pentatonic scale with decaying overtones, three voices, about four notes a second each."""
    scale_hz = 220.0 * 2.0 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16, 19, 21]) / 12)
    music = np.zeros(PIECE_S * SAMPLE_RATE)
    for _ in range(3 * 4 * PIECE_S):
        start = rng.integers(len(music))
        n = min(len(music) - start, int(rng.uniform(0.15, 1.0) * SAMPLE_RATE))
        time_s = np.arange(n) / SAMPLE_RATE
        note_hz = rng.choice(scale_hz)
        tone = sum(0.5**k * np.sin(2 * np.pi * k * note_hz * time_s) for k in range(1, 6))
        music[start : start + n] += tone * np.exp(-3.0 * time_s) * np.minimum(1, time_s / 0.005)
    return music


def _babble() -> Iterator[Samples]:
    """Several recordings of dev at once, each repeated to the piece's length and of the same loudness."""
    speech = Path(os.environ.get("ASR_DATA", "../shared/data")) / "speech" / "dev"
    utterances = find_utterances(speech)
    for seed in range(1_000_000):
        rng = np.random.default_rng(seed)
        voices = [
            read_audio(read_bytes(utterances[i]), max_duration_s=60.0)
            for i in rng.choice(len(utterances), VOICES, False)
        ]
        mixed = sum(_at_level(np.resize(voice, PIECE_S * SAMPLE_RATE), -30.0) for voice in voices)
        yield np.asarray(mixed, dtype=np.float32)


if __name__ == "__main__":
    main()
