"""Long recordings: what cutting costs in words and in memory: python -m bench.long_audio [--minutes 60]

Utterances of the test sets (a prepared manifest) are joined to one recording a set, without a gap, and
transcribed as one; beside it the same utterances one by one, at their true boundaries. Both texts are scored
against the whole reference, so that words at a boundary count alike. Memory is that of a running service, all
of its processes: their peaks after a recording of ten seconds, and after one of `--minutes`, in one request
each. `--sets` without a name leaves the texts out.
"""

import argparse
import json
import tempfile
import time
import wave
from pathlib import Path

import httpx2
import numpy as np
import torch

from asr.audio import SAMPLE_RATE, Samples, read_audio
from asr.decoding.options import DECODERS, DecodingOptions
from asr.scoring import word_errors
from asr.transcriber import Transcriber
from bench.server_process import Server, served
from training.manifest import Utterance, read_bytes, read_manifest

RESULTS = Path(__file__).parent / "results" / "long_audio.json"
SHORT_S = 10.0
SHORT_TIMES = 4  # each thread and each decoding process has had one
TIMEOUT_S = 3600.0


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, default=Path("data/test/manifest.jsonl"))
    parser.add_argument("--sets", nargs="*", default=["cv", "libri", "speechocean"])
    parser.add_argument("--decoders", nargs="*", default=list(DECODERS), choices=DECODERS)
    parser.add_argument("--utterances", type=int, default=10_000, help="of each set, at the most")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="of the recording that memory is measured on"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    transcriber = Transcriber.load(args.bundle, device="cpu")
    utterances = read_manifest(args.manifest)
    sets = {
        name: _compare(
            transcriber, [u for u in utterances if u.set == name][: args.utterances], args.decoders
        )
        for name in args.sets
    }
    result = {
        "bundle": transcriber.sha256,
        "sets": sets,
        "memory_mib": _memory(args.bundle, utterances, args.minutes, args.decoders[-1]),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def _compare(
    transcriber: Transcriber, utterances: list[Utterance], decoders: list[str]
) -> dict[str, dict[str, float]]:
    """Word error rates with true boundaries and as one recording, for each decoder."""
    audio = [_samples(u) for u in utterances]
    joined = np.concatenate(audio)
    reference = " ".join(u.text for u in utterances)
    n_words = len(reference.split())
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder) / "joined.wav", joined)
        for decoder in decoders:
            options = DecodingOptions(decoder)  # type: ignore[arg-type]
            alone = [transcriber.decode(transcriber.listen(read_bytes(u)), options).text for u in utterances]
            began = time.process_time()
            whole = transcriber.transcribe(path, options)
            taken_s = time.process_time() - began
            errors = [word_errors(reference, text) for text in (" ".join(filter(None, alone)), whole.text)]
            rows[decoder] = {
                "minutes": round(len(joined) / SAMPLE_RATE / 60, 1),
                "wer_true_boundaries": round(errors[0] / n_words, 4),
                "wer_long": round(errors[1] / n_words, 4),
                "relative_change": round(errors[1] / errors[0] - 1, 4),
                "cpu_real_time_factor": round(taken_s / whole.duration_s, 4),
            }
            print(decoder, rows[decoder], flush=True)
    return rows


def _memory(bundle: Path, utterances: list[Utterance], minutes: float, decoder: str) -> dict[str, float]:
    """Peaks of a service, in MiB: after ten seconds of audio, and after so many minutes of it."""
    pool = np.concatenate([_samples(u) for u in utterances[:200]])
    long = np.resize(pool, round(minutes * 60 * SAMPLE_RATE))
    settings = {"ASR_BUNDLE": str(bundle), "ASR_TIMEOUT_S": str(TIMEOUT_S)}
    with tempfile.TemporaryDirectory() as folder, served(settings) as server:
        short_path = _write(Path(folder) / "short.wav", pool[: round(SHORT_S * SAMPLE_RATE)])
        long_path = _write(Path(folder) / "long.wav", long)
        for _ in range(SHORT_TIMES):
            _post(server, short_path, decoder)
        short = server.peak_memory_mib()
        seconds = _post(server, long_path, decoder)
        peak = server.peak_memory_mib()
    return {
        "short": round(short, 1),
        "long": round(peak, 1),
        "difference": round(peak - short, 1),
        "minutes": minutes,
        "seconds": round(seconds, 1),
    }


def _post(server: Server, path: Path, decoder: str) -> float:
    """Seconds that the answer took."""
    query = {"decoder": decoder, "timestamps": "word", "degrade": "false"}
    began = time.perf_counter()
    with path.open("rb") as file:
        response = httpx2.post(
            f"{server.address}/transcribe", params=query, files={"file": file}, timeout=TIMEOUT_S
        )
    response.raise_for_status()
    return time.perf_counter() - began


def _samples(utterance: Utterance) -> Samples:
    return read_audio(read_bytes(utterance), max_duration_s=60)


def _write(path: Path, samples: Samples) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


if __name__ == "__main__":
    main()
