"""`asr-train STAGE …`: every stage from corpora to a bundle."""

import argparse
import importlib

from asr.errors import AsrError

# Stage -> its module under `training`; imported only when asked for, so that `asr-train --help` is quick.
STAGES = {
    "download": "fetch public corpora and language models",
    "wordless": "make recordings in which nobody speaks, to train on",
    "prepare": "check a corpus, write its manifest and features",
    "tokenizer": "train the BPE vocabulary",
    "lexicon": "pronunciations for a model with a phone layer",
    "listen": "hear and see what a run's augmentation does",
    "train": "train the acoustic model from a TOML file",
    "ngram": "build the word n-gram language model",
    "gpt2": "train a small GPT-2 language model",
    "export": "put a run, its vocabulary and language models into a bundle",
    "import-hf": "make a bundle of a published wav2vec 2.0, HuBERT or WavLM model",
    "tune": "search the decoding weights on dev",
    "calibrate": "fit word confidence and word times on dev, check them on test",
    "evaluate": "WER and CER per set and decoder",
    "report": "one HTML page about a run: curves, error rates, confused words, worst utterances",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="asr-train", description="From corpora to a bundle that the service loads."
    )
    parser.add_argument("stage", choices=list(STAGES), help="; ".join(f"{k}: {v}" for k, v in STAGES.items()))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the stage: asr-train STAGE --help")
    chosen = parser.parse_args(argv)
    module = importlib.import_module(f"training.{chosen.stage.replace('-', '_')}")
    stage = argparse.ArgumentParser(
        prog=f"asr-train {chosen.stage}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(stage)
    arguments = stage.parse_args(chosen.arguments)
    try:
        module.main(arguments)
    except (AsrError, OSError, ValueError) as error:  # what stages raise for absent or wrong input
        raise SystemExit(f"{stage.prog}: {error}") from error


if __name__ == "__main__":
    main()
