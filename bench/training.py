"""Is data loading the bottleneck? python -m bench.training configs/default.toml

In one run, on the same batches: the bare model step (forward, CTC loss, backward, clipping, AdamW) on batches
that lie ready in memory, and the whole training loop (`training.train`: from the data on disk to the averaged
weights) without and with loader processes; then the ratio of their throughputs. Augmentation is on
throughout. Without a configuration a corpus of noise is made, so that it runs anywhere; `--set` is that of
`asr-train train`.

CPU seconds are the training process' own: where a core is free for the loader's processes, that is what the
loop takes. With one torch thread they are that thread's, so that the progress bar, whose cost grows with wall
time, does not count more the busier the machine is. Wall-clock ratios mean something only on an idle machine.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from asr.acoustic.kinds import build
from asr.features import FeatureSettings
from asr.tokenizer import Tokenizer
from training.augment_config import AugmentConfig
from training.config import TrainConfig, load_config
from training.corpus import Corpus
from training.examples import Batch, BatchMaker, Example
from training.features_store import FeatureStore, FeatureWriter
from training.manifest import Utterance, read_manifest, write_manifest
from training.tokenizer import train_tokenizer
from training.train import train

RESULT = Path(__file__).parent / "results" / "training.json"


@dataclass(frozen=True)
class Spent:
    """On all measured batches."""

    cpu_s: float  # by this process, or by its main thread when torch has one
    wall_s: float


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="bench.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?", help="of a run whose data is prepared")
    parser.add_argument("--steps", type=int, default=6, help="batches to measure")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="loader processes to try")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument(
        "--out", type=Path, help=f"JSON; with a configuration, {RESULT.name} of bench/results"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        source = args.config or _config_of_noise(Path(folder) / "noise", args.steps)
        config = _on_a_sample(load_config(source, args.overrides), args.steps + 1, Path(folder) / "sample")
        report = measure(config, args.workers, Path(folder) / "runs")
    print("\n".join(lines(report)))
    if out := args.out or (RESULT if args.config else None):
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(config: TrainConfig, workers: list[int], runs: Path) -> dict[str, Any]:
    """CPU and wall seconds of bare steps and of loops over the corpus' first epoch, its first step apart.

    A loop is run to its first step and to its last; the difference is free of starting and saving.
    """
    torch.set_num_threads(config.threads)
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    corpus = Corpus(Path(config.data.train), Tokenizer.load(Path(config.data.tokenizer)), config)
    batches = corpus.batches(config, epoch=0)
    requests = list(corpus.requests(batches, epoch=0, first=1))
    ready = [tuple(tensor.to(device) for tensor in corpus.maker.batch(request)) for request in requests]
    step = _stepper(config, corpus, device)
    step(ready[0])

    def bare() -> None:
        for batch in ready:
            step(batch)

    before, making = _spent(bare), _spent(lambda: _make_all(corpus.maker, requests))
    loops = {}
    for n_workers in workers:
        one = replace(config, data=replace(config.data, workers=n_workers))
        first, last = (
            _spent(partial(train, one, runs / f"{n_workers}-{n_steps}", stop_after_steps=n_steps))
            for n_steps in (1, len(batches))
        )
        loops[n_workers] = Spent(last.cpu_s - first.cpu_s, last.wall_s - first.wall_s)
    after = _spent(bare)
    steps = Spent((before.cpu_s + after.cpu_s) / 2, (before.wall_s + after.wall_s) / 2)
    audio_s = sum(float(corpus.durations_s[indices].sum()) for indices in batches[1:])
    return {
        "source": config.data.source,
        "device": device.type,
        "threads": config.threads,
        "batches": len(requests),
        "audio_s": round(audio_s, 1),
        "bare": asdict(steps),
        "making_batches": asdict(making),
        "loops": {
            str(n): asdict(spent)
            | {"cpu_ratio": steps.cpu_s / spent.cpu_s, "wall_ratio": steps.wall_s / spent.wall_s}
            for n, spent in loops.items()
        },
    }


def lines(report: dict[str, Any]) -> list[str]:
    """For the terminal."""
    audio_s, making_s = report["audio_s"], report["making_batches"]["cpu_s"]
    rows = [("bare model step", report["bare"], "")]
    for n, loop in report["loops"].items():
        ratios = f"{loop['cpu_ratio']:>14.3f}{loop['wall_ratio']:>7.3f}"
        rows.append((f"loop, {n} loader process{'es' * (n != '1')}", loop, ratios))
    return [
        f"{report['batches']} batches, {audio_s} s of audio, source {report['source']}, {report['device']}",
        f"{'':<28}{'audio s per CPU s':>18}{'per wall s':>12}{'of bare: CPU':>14}{'wall':>7}",
        *(
            f"{name:<28}{audio_s / spent['cpu_s']:>18.1f}{audio_s / spent['wall_s']:>12.1f}{ratios}"
            for name, spent, ratios in rows
        ),
        f"making the batches alone: {audio_s / making_s:.0f} s of audio per CPU s",
    ]


def _stepper(config: TrainConfig, corpus: Corpus, device: torch.device) -> Callable[[Batch], None]:
    """The model's own work on a batch."""
    torch.manual_seed(config.seed)
    settings = config.model.settings(corpus.tokenizer.vocab_size, corpus.features.n_mels)
    model = build(settings).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(batch: Batch) -> None:
        features_BTF, lengths_B, targets_BL, target_lengths_B = batch
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.optim.autocast == "bf16"):
            log_probs_BTV, out_lengths_B = model(features_BTF, lengths_B)
        functional.ctc_loss(
            log_probs_BTV.transpose(0, 1), targets_BL, out_lengths_B, target_lengths_B, zero_infinity=True
        ).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        optimizer.step()

    return step


def _make_all(maker: BatchMaker, requests: list[list[Example]]) -> None:
    for request in requests:
        maker.batch(request)


def _spent(work: Callable[[], object]) -> Spent:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.process_time
    cpu_s, wall_s = clock(), time.monotonic()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Spent(clock() - cpu_s, time.monotonic() - wall_s)


def _on_a_sample(config: TrainConfig, n_batches: int, folder: Path) -> TrainConfig:
    """The run on about so many batches of its utterances, drawn at random, everything on from the start."""
    source = Path(config.data.train)
    utterances = read_manifest(source / "manifest.jsonl")
    durations_s = np.array([u.duration_s for u in utterances])
    usable = np.flatnonzero(durations_s <= config.data.max_duration_s)
    order = np.random.default_rng(0).permutation(usable)
    wanted_s = 0.95 * n_batches * config.optim.batch_s
    chosen = np.sort(order[: int(np.searchsorted(np.cumsum(durations_s[order]), wanted_s)) + 1])
    folder.mkdir(parents=True)
    write_manifest(folder / "manifest.jsonl", [utterances[i] for i in chosen])
    if config.data.source == "features":
        store = FeatureStore(source)
        writer = FeatureWriter(folder, store.settings)
        for i in chosen:
            writer.append(store[int(i)])
        writer.close()
    data = replace(config.data, train=str(folder), dev=str(folder))
    augment = _from_the_start(config)
    return replace(config, data=data, augment=augment, checkpoint_minutes=1e9)


def _from_the_start(config: TrainConfig) -> AugmentConfig:
    """The run's augmentation as it is once everything has begun."""
    changes: dict[str, object] = {"start_epoch": 0}
    for name, value in vars(config.augment).items():
        if name.endswith("_start_epoch"):
            changes[name] = -1
        elif hasattr(value, "start_epoch"):
            changes[name] = replace(value, start_epoch=-1)
    return replace(config.augment, **changes)


def _config_of_noise(folder: Path, n_steps: int) -> Path:
    """A run of the default shape on prepared features of noise, with texts of made-up words."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    writer, utterances = FeatureWriter(folder, FeatureSettings()), []
    for number in range(40 * (n_steps + 2)):
        duration_s = float(rng.uniform(2, 10))
        writer.append(rng.normal(-4, 3, (1 + int(duration_s * 100), 80)).astype(np.float32))
        letters = rng.choice(list("abcdefghij"), (int(duration_s), 4))
        text = " ".join("".join(word) for word in letters)
        wav = folder / f"{number}.wav"  # never read
        utterances.append(Utterance(wav, text, round(duration_s, 3), name=str(number)))
    writer.close()
    write_manifest(folder / "manifest.jsonl", utterances)
    tokenizer = train_tokenizer([u.text for u in utterances], 64, kind="char")
    (folder / "tokenizer.model").write_bytes(tokenizer.model_proto)
    (folder / "run.toml").write_text(
        f'[data]\ntrain = "{folder}"\ndev = "{folder}"\ntokenizer = "{folder / "tokenizer.model"}"\n'
        '[optim]\nbatch_s = 240.0\nautocast = "bf16"\n'
    )
    return folder / "run.toml"


if __name__ == "__main__":
    main()
