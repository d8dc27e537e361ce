"""Which augmentations one utterance's waveform gets, in the order in which sound meets them.

The speaker (speed, pitch), the room, noise in it, the microphone's gain, the way to the recogniser (codec).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.augment_config import AugmentConfig
from training.layouts import AUDIO_SUFFIXES
from training.waveform import CODECS, Codec, ColouredNoise, Effect, FileNoise, Gain, Pitch, Room, Speed


def noise_files(config: AugmentConfig) -> tuple[Path, ...]:
    """The recordings of `[augment.noise_files]`, sorted; empty when they are not used.

    Raises ValueError when the folder holds none.
    """
    if not config.noise_files.probability:
        return ()
    folder = Path(config.noise_files.folder)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise ValueError(f"augment.noise_files.folder: {folder} holds no audio file")
    return tuple(found)


def draw_effects(
    config: AugmentConfig,
    epoch: int,
    noises: Sequence[Path],
    rng: np.random.Generator,
    *,
    fastest: float = np.inf,
) -> list[Effect]:
    """Every draw comes from `rng`, and as many whatever comes out: one setting changes only its own.

    noises: what `noise_files` gives. fastest: the most speed at which the labels still fit the frames.
    """
    effects: list[Effect] = []

    def chosen(probability: float, start_epoch: int) -> bool:
        return bool(rng.random() < probability) and config.on(start_epoch, epoch)

    speed, factor = config.speed, rng.uniform(config.speed.low, config.speed.high)
    if chosen(speed.probability, speed.start_epoch):
        effects.append(Speed(min(factor, max(1.0, fastest))))
    pitch, semitones = config.pitch, rng.uniform(-config.pitch.semitones, config.pitch.semitones)
    if chosen(pitch.probability, pitch.start_epoch):
        effects.append(Pitch(semitones))
    room, number = config.room, int(rng.integers(config.room.rooms))
    if chosen(room.probability, room.start_epoch):
        effects.append(Room(number, room.rt60_low_s, room.rt60_high_s))
    noise, seed = config.coloured_noise, int(rng.integers(2**63))
    snr_db, colour = (
        rng.uniform(noise.snr_low_db, noise.snr_high_db),
        rng.uniform(noise.colour_low, noise.colour_high),
    )
    if chosen(noise.probability, noise.start_epoch):
        effects.append(ColouredNoise(snr_db, colour, seed))
    files, which, place = config.noise_files, rng.random(), rng.random()
    snr_db = rng.uniform(files.snr_low_db, files.snr_high_db)
    if chosen(files.probability, files.start_epoch):
        effects.append(FileNoise(noises[int(which * len(noises))], place, snr_db))
    gain, db = config.gain, rng.uniform(config.gain.low_db, config.gain.high_db)
    if chosen(gain.probability, gain.start_epoch):
        effects.append(Gain(db))
    codec, kind, amount = config.codec, rng.random(), rng.random()
    if chosen(codec.probability, codec.start_epoch):
        bounds = np.cumsum(codec.weights) / sum(codec.weights)
        effects.append(Codec(CODECS[int(np.searchsorted(bounds, kind, side="right"))], amount))
    return effects
