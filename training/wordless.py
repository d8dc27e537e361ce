"""A corpus in which nobody speaks: asr-train wordless --manifest data/train/manifest.jsonl --out OUT

An acoustic model that has only heard speech writes words on music, machines and crowds. This makes recordings
of 2 to 12 s whose transcript is empty: music-like tones, hum, clicks, typing, wind, traffic, beeps, one to
three of them at a time (training/wordless_sounds.py), and babble of 5 to 12 voices cut from recordings of
`--manifest`, which must be training data, at random places and none louder than the rest. Levels, gaps of
silence, noise floors are drawn; half of the files go through Opus, as much recorded speech has. `asr-train
prepare data… OUT` takes the empty transcripts, since they are of the corpus named "wordless".
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from rich.progress import track

from asr.audio import SAMPLE_RATE, Samples, read_audio
from training.listen import wav
from training.manifest import WORDLESS, Utterance, read_bytes, read_manifest
from training.whole_file import write_text
from training.wordless_sounds import SOUNDS, Generator, Sound

STREAM = 0x50BD  # beside seed and number: no other draw of the project shares these numbers
SHORTEST_S, LONGEST_S = 2.0, 12.0
BABBLE_SHARE = 0.25
FEWEST_VOICES, MOST_VOICES = 5, 12
VOICE_DB = 2.0  # voices differ by so much, at most, from their mean loudness
LOUDEST_DB, QUIETEST_DB = -12.0, -45.0  # root mean square of a piece's loud parts, of full scale
LONGEST_VOICE_S = 60.0  # of a recording that babble is cut from
OPUS_BITS_PER_S = 32_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest",
        type=Path,
        nargs="*",
        default=[],
        help="prepared training data: babble is made of its speech",
    )
    parser.add_argument("--minutes", type=float, default=40.0, help="of audio")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and manifest.jsonl")


def main(args: argparse.Namespace) -> None:
    """Raises OSError for a missing recording or a full disk, ValueError for too few voices."""
    speech = [u for path in args.manifest for u in read_manifest(path) if u.text]
    if args.manifest and len(speech) < MOST_VOICES:
        raise ValueError(f"babble needs {MOST_VOICES} recordings of speech, there are {len(speech)}")
    (args.out / "audio").mkdir(parents=True, exist_ok=True)
    rows, total_s, expected = [], 0.0, args.minutes * 60 / ((SHORTEST_S + LONGEST_S) / 2)
    for number, (kinds, samples, opus) in track(
        enumerate(pieces(speech, args.seed)), "making sounds", total=expected
    ):
        name = f"wordless-{args.seed}-{number:04}"
        file = args.out / "audio" / f"{name}.{'opus' if opus else 'wav'}"
        if opus:
            _write_opus(file, samples)
        else:
            file.write_bytes(wav(samples))
        row = {"audio": f"audio/{file.name}", "text": "", "corpus": WORDLESS, "name": name, "kind": kinds}
        rows.append(json.dumps(row) + "\n")
        total_s += len(samples) / SAMPLE_RATE
        if total_s >= args.minutes * 60:
            break
    write_text(args.out / "manifest.jsonl", "".join(rows))
    print(f"{len(rows)} recordings without words, {total_s / 60:.1f} minutes -> {args.out}")


def pieces(speech: Sequence[Utterance], seed: int) -> Iterator[tuple[str, Samples, bool]]:
    """(what is heard, samples, whether to store it as Opus), without end; without speech, no babble."""
    kinds = list(SOUNDS)
    shares = np.array([share for share, _ in SOUNDS.values()])
    number = 0
    while True:
        rng = np.random.default_rng([seed, number, STREAM])
        n = int(rng.uniform(SHORTEST_S, LONGEST_S) * SAMPLE_RATE)
        count = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
        drawn = [str(kind) for kind in rng.choice(kinds, count, replace=False, p=shares / shares.sum())]
        if speech and rng.random() < BABBLE_SHARE:
            drawn = ["babble", *drawn[1:]]
        mixed = np.zeros(n)
        for place, kind in enumerate(drawn):
            sound = babble(rng, n, speech) if kind == "babble" else SOUNDS[kind][1](rng, n)
            mixed += _at_db(sound, rng.uniform(-20, 0) if place else 0.0)
        yield "+".join(drawn), _recorded(rng, mixed), bool(rng.random() < 0.5)
        number += 1


def babble(rng: Generator, n: int, speech: Sequence[Utterance]) -> Sound:
    """Several people at once, each from a random place of a recording on and never pausing for long."""
    voices = rng.choice(len(speech), int(rng.integers(FEWEST_VOICES, MOST_VOICES + 1)), replace=False)
    mixed = np.zeros(n)
    for index in voices:
        voice = read_audio(read_bytes(speech[index]), max_duration_s=LONGEST_VOICE_S).astype(np.float64)
        if len(voice):
            turned = np.roll(voice, int(rng.integers(len(voice))))
            mixed += _at_db(np.resize(turned, n), rng.uniform(-VOICE_DB, VOICE_DB))
    return mixed


def _recorded(rng: Generator, sound: Sound) -> Samples:
    """At some level, with gaps of silence and the noise floor of a room and microphone, in -1..1."""
    n = len(sound)
    sound = _at_db(sound, rng.uniform(QUIETEST_DB, LOUDEST_DB))
    if rng.random() < 0.35:
        for _ in range(int(rng.integers(1, 4))):
            length = int(rng.uniform(0.1, 0.5) * n)
            start = int(rng.integers(n - length + 1))
            sound[start : start + length] *= 10 ** (-rng.uniform(20, 80) / 20)
    if rng.random() < 0.8:
        sound = sound + _at_db(SOUNDS["steady"][1](rng, n), rng.uniform(-85, -50))
    return np.clip(sound, -1, 1).astype(np.float32)


def _at_db(sound: Sound, level_db: float) -> Sound:
    """Root mean square of full scale; nothing stays nothing."""
    rms = float(np.sqrt(np.mean(sound**2)))
    return sound * (10 ** (level_db / 20) / rms) if rms else sound


def _write_opus(path: Path, samples: Samples) -> None:
    with av.open(path, "w", format="ogg") as out:
        stream = out.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = OPUS_BITS_PER_S
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
