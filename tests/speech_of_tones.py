"""A made-up language that any machine can speak: every letter is a pair of tones. For tests of training."""

import io
import wave
from pathlib import Path

import av
import numpy as np

from asr.audio import SAMPLE_RATE

LETTER_S = 0.16


def spoken(text: str, seed: int = 0) -> np.ndarray:
    """float32 samples: one chord a letter, silence for a space, faint noise throughout."""
    rng = np.random.default_rng(seed)
    times = np.arange(int(LETTER_S * SAMPLE_RATE)) / SAMPLE_RATE
    fade = np.hanning(len(times))
    pieces = [np.zeros(SAMPLE_RATE // 10)]
    for letter in text:
        number = ord(letter) - ord("a") if letter != " " else None
        tones = [] if number is None else [250 + 90 * (number % 6), 1500 + 450 * (number // 6)]
        pieces.append(
            sum((0.25 * np.sin(2 * np.pi * hz * times) for hz in tones), np.zeros(len(times))) * fade
        )
    samples = np.concatenate([*pieces, pieces[0]])
    return (samples + rng.normal(0, 1e-3, len(samples))).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray) -> None:
    """16-bit mono at 16 kHz."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def write_corpus(folder: Path, texts: list[str]) -> None:
    """The plain layout: audio files with text files of the same stem."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        write_wav(folder / f"utterance-{number:02}.wav", spoken(text, number))
        (folder / f"utterance-{number:02}.txt").write_text(text + "\n", encoding="utf-8")


def flac_bytes(samples: np.ndarray) -> bytes:
    """A FLAC file, 16-bit mono at 16 kHz."""
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as out:
        stream = out.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        whole = (np.clip(samples, -1, 1) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()
