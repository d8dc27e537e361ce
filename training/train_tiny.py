"""The whole chain on a few minutes of speech: make train-tiny

Runs every stage as a user would, from ASR_DATA (default: ../shared/data; the layout of a data folder with
`speech/train`, `speech/dev` and `text/books.txt.xz`) into runs/tiny, and ends by serving one recording from
the bundle through `Transcriber`. Minutes on two cores. Its texts are no English to speak of: the recordings
are too few.
"""

import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path

from asr.decoding.options import DECODERS, DecodingOptions
from asr.transcriber import Transcriber
from training.cli import main as asr_train
from training.manifest import read_bytes, read_manifest
from training.text_corpus import read_sentences

ROOT = Path(__file__).parents[1]
RUN = Path("runs/tiny")  # relative to ROOT, as configs/tiny.toml says
N_TRAIN, N_DEV, N_SENTENCES = 120, 20, 20_000


def main() -> None:
    os.chdir(ROOT)
    source = Path(os.environ.get("ASR_DATA", "../shared/data"))
    if not (source / "speech" / "train" / "manifest.jsonl").is_file():
        raise SystemExit(f"{source} holds no speech/train: set ASR_DATA to a data folder")
    began = time.monotonic()
    shutil.rmtree(RUN, ignore_errors=True)
    for arguments in stages(source):
        print(f"\n$ asr-train {' '.join(arguments)}", flush=True)
        asr_train(arguments)
    show(RUN / "bundle", RUN / "data" / "dev" / "manifest.jsonl")
    print(f"\nThe whole chain took {time.monotonic() - began:.0f} s. Serve the bundle with:")
    print(f"  ASR_BUNDLE={RUN / 'bundle'} make run")


def stages(source: Path) -> list[list[str]]:
    """The arguments of each stage, in order."""
    sentences = RUN / "sentences.txt"
    RUN.mkdir(parents=True)
    books = itertools.islice(read_sentences(source / "text" / "books.txt.xz"), N_SENTENCES)
    sentences.write_text("".join(f"{line}\n" for line in books), encoding="utf-8")
    subprocess.run(["sh", "training/build_kenlm.sh"], check=True)
    train, dev = f"{RUN}/data/train", f"{RUN}/data/dev"
    train_manifest, dev_manifest = f"{train}/manifest.jsonl", f"{dev}/manifest.jsonl"
    bundle = f"{RUN}/bundle"
    text = ["--text", str(sentences), "--manifest", train_manifest]
    gpt2 = ["--layers", "2", "--width", "64", "--vocab-size", "500"]
    gpt2 += ["--max-steps", "60", "--batch-tokens", "1024"]
    parts = ["--acoustic", f"{RUN}/acoustic", "--ngram", f"{RUN}/ngram", "--gpt2", f"{RUN}/gpt2"]
    return [
        ["prepare", f"{source}/speech/train", "--out", train, "--limit", str(N_TRAIN)],
        ["prepare", f"{source}/speech/dev", "--out", dev, "--limit", str(N_DEV)],
        ["tokenizer", "--manifest", train_manifest, "--vocab-size", "128", "--out", f"{RUN}/bpe"],
        ["train", "configs/tiny.toml", "--out", f"{RUN}/acoustic"],
        ["ngram", *text, "--max-words", "5000", "--order", "3", "--out", f"{RUN}/ngram"],
        ["gpt2", *text, *gpt2, "--out", f"{RUN}/gpt2"],
        ["export", *parts, "--out", bundle],
        ["tune", bundle, "--manifest", dev_manifest, "--work", f"{RUN}/tune", "--rounds", "1"],
        ["calibrate", bundle, "--manifest", dev_manifest, "--joined", "4"],
        ["evaluate", bundle, "--manifest", dev_manifest, "--out", f"{RUN}/dev.json"],
        ["export", "--out", bundle, "--evaluation", f"{RUN}/dev.json"],
    ]


def show(bundle: Path, manifest: Path) -> None:
    """What the bundle, loaded as the service loads it, makes of one recording."""
    transcriber = Transcriber.load(bundle, device="cpu")
    transcriber.self_test()
    utterance = read_manifest(manifest)[0]
    print(f"\nsaid:            {utterance.text}")
    for decoder in DECODERS:
        options = DecodingOptions(decoder=decoder)
        transcript = transcriber.transcribe(read_bytes(utterance), options, max_duration_s=60)
        print(f"{decoder + ':':<16} {transcript.text}")


if __name__ == "__main__":
    main()
