"""PocketSphinx beside a bundle, on the same files: python -m bench.peers --manifest data/dev/manifest.jsonl

Word and character error rates per set of PocketSphinx 5.1 with the en-us model of its own PyPI package
(`pip install pocketsphinx==5.1.1`), decoding the same samples as our three decoders, scored by the same code.
Every transcript goes through `asr.text.normalise` first. CPU seconds per second of audio are of one thread.
Results are added to bench/results/peers.json by set and system.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from asr.audio import SAMPLE_RATE, read_audio
from asr.decoding.options import DECODERS, DecodingOptions
from asr.scoring import char_error_rate, word_error_rate
from asr.text import normalise
from asr.transcriber import Transcriber
from training.manifest import read_bytes, read_manifest

RESULTS = Path(__file__).parent / "results" / "peers.json"
PEER = "PocketSphinx 5.1 en-us"
PEER_OPTION = "pocketsphinx"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="only so many utterances of each set")
    parser.add_argument(
        "--systems", nargs="+", default=[PEER_OPTION, *DECODERS], choices=[PEER_OPTION, *DECODERS]
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    transcriber = Transcriber.load(args.bundle, device="cpu")
    sphinx = _Sphinx() if PEER_OPTION in args.systems else None
    references: dict[str, list[str]] = defaultdict(list)
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    cpu_s: dict[tuple[str, str], float] = defaultdict(float)
    audio_s: dict[str, float] = defaultdict(float)
    for utterance in track(read_manifest(args.manifest), description="peers"):
        name = utterance.set or utterance.corpus
        if args.limit and len(references[name]) >= args.limit:
            continue
        samples = read_audio(read_bytes(utterance), max_duration_s=60.0)
        references[name].append(utterance.text)
        audio_s[name] += len(samples) / SAMPLE_RATE
        for system in args.systems:
            began = time.process_time()
            if system == PEER_OPTION:
                assert sphinx is not None
                text = sphinx.transcribe(samples)
            else:
                (posteriors,) = transcriber.listen_batch([transcriber.prepare_samples(samples)])
                text = transcriber.decode(posteriors, DecodingOptions(system)).text
            cpu_s[name, system] += time.process_time() - began
            texts[name, system].append(normalise(text))
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    table = Table("set", "system", "WER %", "CER %", "CPU s a second")
    for (name, system), found in texts.items():
        word, char = word_error_rate(references[name], found), char_error_rate(references[name], found)
        speed = cpu_s[name, system] / audio_s[name]
        key = f"{args.manifest.parent.name} {name}"
        shown = PEER if system == PEER_OPTION else system
        results.setdefault(key, {})[shown] = {
            "utterances": len(found),
            "wer": round(word.rate, 4),
            "wer_95": [round(word.low, 4), round(word.high, 4)],
            "cer": round(char.rate, 4),
            "cpu_s_per_s": round(speed, 4),
            "bundle": transcriber.sha256,
        }
        table.add_row(key, shown, f"{100 * word.rate:.1f}", f"{100 * char.rate:.1f}", f"{speed:.3f}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    Console().print(table)


class _Sphinx:
    """PocketSphinx with the acoustic model, dictionary and trigram of its own package."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

    def transcribe(self, samples: np.ndarray) -> str:
        pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found.hypstr if found else ""


if __name__ == "__main__":
    main()
