"""Sounds without words, each made from random numbers: (rng, n_samples) -> float64 (n_samples,).

Levels are of no account here: training/wordless.py sets them. Tuning, timbre, tempo and filters are drawn
anew for every sound, so that no single melody or machine is learned. bench/insertions.py measures on sounds
of its own making, with other code and seeds; keep the two apart.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE
from training.waveform import coloured

Sound = NDArray[np.float64]
Generator = np.random.Generator
NYQUIST_HZ = SAMPLE_RATE / 2


def organ(rng: Generator, n: int) -> Sound:
    """Sustained chords that change, with vibrato and tremolo."""
    sound = np.zeros(n)
    start, root_hz = 0, rng.uniform(60, 500)
    partials = _timbre(rng, most=14)
    while start < n:
        length = min(n - start, _samples(rng.uniform(0.3, 2.5)))
        steps = rng.choice([-12, 0, 3, 4, 5, 7, 9, 10, 12, 14, 19], rng.integers(1, 5), replace=False)
        shift = rng.integers(-7, 8)
        chord = sum(_tone(rng, length, root_hz * 2 ** ((step + shift) / 12), partials) for step in steps)
        sound[start : start + length] += chord * _fades(length, rng.uniform(0.005, 0.1))
        start += length
    return sound


def plucks(rng: Generator, n: int) -> Sound:
    """Struck and plucked notes that die away, as of a piano, a guitar, bells: in a rhythm or at random."""
    sound = np.zeros(n)
    partials, decay_per_s = _timbre(rng, most=10), rng.uniform(1.0, 12.0)
    stretch = rng.choice([0.0, 0.0, rng.uniform(0.0, 0.4)])  # bells are not harmonic
    degrees = np.sort(rng.choice(np.arange(25), rng.integers(3, 9), replace=False))
    lowest_hz = rng.uniform(55, 700)
    place = int(rng.integers(len(degrees)))
    for start in _beats(rng, n, rng.uniform(0.8, 9.0)):
        place = int(np.clip(place + rng.integers(-2, 3), 0, len(degrees) - 1))
        length = min(n - start, _samples(rng.uniform(0.1, 2.0)))
        time_s = np.arange(length) / SAMPLE_RATE
        hz = lowest_hz * 2 ** (degrees[place] / 12)
        note = np.zeros(length)
        for k, amplitude in enumerate(partials, 1):
            partial_hz = hz * k * (1 + stretch * (k - 1) / 2)
            if partial_hz < NYQUIST_HZ:
                note += (
                    amplitude
                    * np.exp(-decay_per_s * (0.5 + 0.5 * k) * time_s)
                    * np.sin(2 * np.pi * partial_hz * time_s)
                )
        sound[start : start + length] += note * rng.uniform(0.3, 1.0) * _fades(length, 0.003)
    return sound


def melody(rng: Generator, n: int) -> Sound:
    """One voice that glides from note to note with vibrato, as a violin, a flute or someone humming."""
    marks = np.sort(rng.choice(n, max(2, int(n / SAMPLE_RATE * rng.uniform(0.7, 4)))))
    semitones = np.cumsum(rng.integers(-4, 5, len(marks)))
    glide = _samples(rng.uniform(0.02, 0.25))
    path = np.repeat(semitones, np.diff(np.append(marks, n))).astype(float)
    path = np.concatenate([np.full(n - len(path), float(semitones[0])), path])
    path = np.convolve(np.pad(path, glide // 2, mode="edge"), np.ones(glide) / glide, mode="same")
    path = path[glide // 2 : glide // 2 + n] % 24
    hz = rng.uniform(90, 500) * 2 ** (path / 12)
    sound = _tone(rng, n, hz, _timbre(rng, most=16))
    loudness = np.interp(np.arange(n), marks, rng.uniform(0.1, 1.0, len(marks)))
    return _resonant(rng, sound, 1 + int(rng.integers(3))) * loudness


def drums(rng: Generator, n: int) -> Sound:
    """A beat of low thumps, noise bursts and hissing cymbals."""
    sound = np.zeros(n)
    for _ in range(int(rng.integers(1, 4))):
        length = _samples(rng.uniform(0.03, 0.4))
        time_s = np.arange(length) / SAMPLE_RATE
        fall = np.exp(-rng.uniform(8, 60) * time_s)
        if rng.random() < 0.4:
            hit = np.sin(2 * np.pi * rng.uniform(40, 180) * time_s * (1 + 0.5 * np.exp(-30 * time_s))) * fall
        else:
            low_hz = rng.uniform(100, 4000)
            hit = _band(rng.standard_normal(length), low_hz, low_hz * rng.uniform(1.5, 8)) * fall
        for start in _beats(rng, n, rng.uniform(1.0, 8.0)):
            end = min(n, start + length)
            sound[start:end] += _unit(hit)[: end - start] * rng.uniform(0.2, 1.0)
    return sound


def hum(rng: Generator, n: int) -> Sound:
    """Mains or a motor: a low tone and its overtones, some hiss, and sometimes clicks."""
    base_hz = rng.choice([50.0, 60.0, 100.0, 120.0, rng.uniform(25, 220)])
    time_s = np.arange(n) / SAMPLE_RATE
    sound = np.zeros(n)
    odd = rng.random() < 0.4
    for k in range(1, int(rng.integers(4, 40)), 2 if odd else 1):
        if k * base_hz < NYQUIST_HZ:
            amplitude = rng.exponential() / k ** rng.uniform(0.3, 2.0)
            sound += amplitude * np.sin(2 * np.pi * (k * base_hz * time_s + rng.random()))
    if rng.random() < 0.5:
        sound *= _wander(rng, n, rng.uniform(0.2, 3), rng.uniform(1, 8))
    sound = _unit(sound) + rng.uniform(0, 0.3) * _unit(coloured(rng.standard_normal(n), rng.uniform(0, 2)))
    return sound + rng.choice([0.0, rng.uniform(0.5, 3)]) * _unit(clicks(rng, n))


def clicks(rng: Generator, n: int) -> Sound:
    """Single knocks and crackle, each ringing for a moment."""
    length = _samples(rng.uniform(0.001, 0.03))
    time_s = np.arange(length) / SAMPLE_RATE
    ring = np.exp(-time_s * rng.uniform(100, 3000)) * np.cos(2 * np.pi * rng.uniform(100, 6000) * time_s)
    struck = (rng.random(n) < rng.uniform(0.5, 30) / SAMPLE_RATE) * rng.exponential(1.0, n)
    return np.convolve(struck, ring)[:n]


def typing(rng: Generator, n: int) -> Sound:
    """A keyboard: a press and a release for each key, in bursts with pauses."""
    sound = np.zeros(n)
    start, low_hz = 0, rng.uniform(300, 2500)
    while start < n:
        for _ in range(int(rng.integers(2, 15))):
            for delay_s, loudness in ((0.0, 1.0), (rng.uniform(0.05, 0.13), rng.uniform(0.2, 0.7))):
                at, length = start + _samples(delay_s), _samples(rng.uniform(0.005, 0.03))
                end = min(n, at + length)
                if at < end:
                    fall = np.exp(-np.arange(length) / (0.25 * length))
                    hit = _unit(_band(rng.standard_normal(length), low_hz, low_hz * 4) * fall)
                    sound[at:end] += hit[: end - at] * loudness * rng.uniform(0.4, 1.0)
            start += _samples(rng.uniform(0.07, 0.35))
        start += _samples(rng.uniform(0.2, 2.0))
    return sound


def wind(rng: Generator, n: int) -> Sound:
    """Noise of any colour that swells and falls, through a filter of its own: wind, water, cloth, breath."""
    noise = _unit(coloured(rng.standard_normal(n), rng.uniform(-0.5, 2.2)))
    if rng.random() < 0.7:
        low_hz = rng.uniform(20, 3000)
        noise = _unit(_band(noise, low_hz, low_hz * rng.uniform(1.3, 20)))
    return noise * _wander(rng, n, rng.uniform(0.3, 6), rng.uniform(3, 20))


def traffic(rng: Generator, n: int) -> Sound:
    """Cars that pass: rumble and tyres, nearer and farther."""
    time_s = np.arange(n) / SAMPLE_RATE
    sound = 0.1 * _unit(coloured(rng.standard_normal(n), 1.5))
    for _ in range(int(rng.integers(1, 4))):
        near = np.exp(-0.5 * ((time_s - rng.uniform(0, n / SAMPLE_RATE)) / rng.uniform(0.3, 2.5)) ** 2)
        sound += near * _unit(coloured(rng.standard_normal(n), rng.uniform(0.7, 2)))
        engine = sum(
            rng.random() / k * np.sin(2 * np.pi * k * rng.uniform(30, 90) * time_s) for k in range(1, 9)
        )
        sound += near * rng.uniform(0, 0.7) * engine
    return sound


def beeps(rng: Generator, n: int) -> Sound:
    """Signals of machines: one or two tones switched on and off, or sweeping."""
    on, off = _samples(rng.uniform(0.05, 1.0)), _samples(rng.uniform(0.03, 1.0))
    sound, start = np.zeros(n), int(rng.integers(off))
    tones_hz = rng.uniform(250, 3500, rng.integers(1, 3))
    sweep = rng.choice([0.0, 0.0, rng.uniform(-0.6, 0.6)])
    square, anew = rng.random() < 0.3, rng.random() < 0.4
    while start < n:
        length = min(on, n - start)
        if anew:
            tones_hz = rng.uniform(250, 3500, len(tones_hz))
        turns = np.cumsum(1 + sweep * np.linspace(0, 1, length)) / SAMPLE_RATE
        tone = sum(np.sin(2 * np.pi * hz * turns) for hz in tones_hz)
        sound[start : start + length] = (np.sign(tone) if square else tone) * _fades(length, 0.004)
        start += on + off
    return sound


def steady(rng: Generator, n: int) -> Sound:
    """A fan, a room, a poor microphone."""
    return coloured(rng.standard_normal(n), rng.uniform(-0.3, 2.0))


# Kind -> (its share, how it is made)
SOUNDS: dict[str, tuple[float, Callable[[Generator, int], Sound]]] = {
    "organ": (2.0, organ),
    "plucks": (3.0, plucks),
    "melody": (2.0, melody),
    "drums": (1.0, drums),
    "hum": (2.0, hum),
    "clicks": (0.7, clicks),
    "typing": (1.0, typing),
    "wind": (2.0, wind),
    "traffic": (1.0, traffic),
    "beeps": (1.0, beeps),
    "steady": (0.5, steady),
}


def _samples(duration_s: float) -> int:
    return max(1, int(duration_s * SAMPLE_RATE))


def _unit(sound: Sound) -> Sound:
    """Root mean square 1; nothing stays nothing."""
    rms = float(np.sqrt(np.mean(sound**2)))
    return sound / rms if rms else sound


def _timbre(rng: Generator, most: int) -> Sound:
    """Amplitudes of the partials, from a dull to a sharp tone; some even ones are missing."""
    k = np.arange(1, int(rng.integers(1, most + 1)) + 1)
    amplitudes = rng.uniform(0.3, 1.0, len(k)) / k ** rng.uniform(0.2, 2.5)
    if rng.random() < 0.25:
        amplitudes[1::2] *= 0.1
    return amplitudes


def _tone(rng: Generator, n: int, hz: Sound | float, partials: Sound) -> Sound:
    """A tone with its partials, each at its own phase, with vibrato and tremolo of random depth."""
    time_s = np.arange(n) / SAMPLE_RATE
    vibrato = 1 + rng.choice([0.0, rng.uniform(0, 0.02)]) * np.sin(2 * np.pi * rng.uniform(3, 8) * time_s)
    turns = np.cumsum(hz * vibrato) / SAMPLE_RATE
    highest_hz = float(np.max(hz)) * 1.02
    sound = sum(
        amplitude * np.sin(2 * np.pi * (k * turns + rng.random()))
        for k, amplitude in enumerate(partials, 1)
        if k * highest_hz < NYQUIST_HZ
    )
    return sound * (
        1 + rng.choice([0.0, rng.uniform(0, 0.6)]) * np.sin(2 * np.pi * rng.uniform(1, 9) * time_s)
    )


def _fades(n: int, fade_s: float) -> Sound:
    """1, but rising from 0 and falling to it at the ends."""
    ramp = np.minimum(1.0, np.arange(n) / _samples(fade_s))
    return ramp * ramp[::-1]


def _beats(rng: Generator, n: int, per_s: float) -> list[int]:
    """Where notes start: on a beat, some left out and none quite on time, or anywhere."""
    if rng.random() < 0.3:
        return sorted(rng.integers(0, n, max(1, int(per_s * n / SAMPLE_RATE))).tolist())
    beat = _samples(1 / per_s)
    on_time = np.arange(int(rng.integers(beat)), n, beat)
    late = on_time + rng.integers(0, max(1, beat // 20), len(on_time))
    return [int(start) for start in late if start < n and rng.random() < 0.85]


def _band(sound: Sound, low_hz: float, high_hz: float) -> Sound:
    """Only what lies between the two, with soft edges."""
    hz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    gain = 1 / (1 + (low_hz / np.maximum(hz, 1.0)) ** 4) / (1 + (hz / high_hz) ** 4)
    return np.fft.irfft(np.fft.rfft(sound) * gain, len(sound))


def _resonant(rng: Generator, sound: Sound, peaks: int) -> Sound:
    """Through the body of an instrument: some frequencies louder."""
    hz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    gain = np.full(len(hz), rng.uniform(0.05, 0.5))
    for _ in range(peaks):
        centre_hz, width_hz = rng.uniform(200, 4000), rng.uniform(80, 800)
        gain += np.exp(-0.5 * ((hz - centre_hz) / width_hz) ** 2)
    return np.fft.irfft(np.fft.rfft(sound) * gain, len(sound))


def _wander(rng: Generator, n: int, per_s: float, range_db: float) -> Sound:
    """A level that wanders so often a second, by so many decibels (one standard deviation)."""
    marks = max(3, int(per_s * n / SAMPLE_RATE) + 2)
    level_db = np.interp(
        np.linspace(0, marks - 1, n), np.arange(marks), rng.standard_normal(marks) * range_db
    )
    return 10 ** (np.clip(level_db, -40, 15) / 20)
