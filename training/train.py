"""Train an acoustic model: asr-train train configs/default.toml --out runs/default [--set optim.lr=1e-3]

Several processes: torchrun --nproc-per-node 2 -m training.cli train configs/default.toml --out runs/default
Run it again to resume: `checkpoint.safetensors` in the run folder is picked up, and the result is that of
an unbroken run. The folder ends with `model.safetensors` (averaged weights), `train.json`, `config.toml`,
`tokenizer.model`, `log.jsonl`, with a lexicon `lexicon.txt` and `g2p.json`; a run of several stages also
has `stage-<number>.safetensors` of those before.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress as ProgressBar
from safetensors.torch import load_file

from asr.acoustic.kinds import build, kind_of, to_section
from asr.bundle import G2P, LEXICON
from asr.decoding.beam import BeamDecoder
from asr.features import to_section as features_section
from asr.pronunciation import Pronunciations
from asr.tokenizer import Tokenizer
from training.board import Board
from training.checkpoint import CHECKPOINT, Checkpoint, CheckpointError, save_checkpoint
from training.commit import current_commit
from training.config import TrainConfig, Wave, load_config
from training.config_tables import ConfigError
from training.corpus import Corpus
from training.dev_scores import DevScores, load_beam, score_dev
from training.label_graph import LabelGraph
from training.loader import Loader
from training.losses import Batch, Objective
from training.optimisation import Progress, TrainingState, learning_rate
from training.processes import Processes, join_processes, leave_processes, wait_for_all
from training.run_folder import RunFolder
from training.step import StepResult, take_step
from training.views import as_batch, corpus_config, fetch
from training.whole_file import write_json, write_tensors

# How the names of parameters begin that a run's first weights may lack, and what they are.
ADDED = {"phone_": "phone layer", "tower.pieces_": "layer for pieces in the tower", "tower.": "tower"}
TOWER = "tower."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="run folder; resumed when it holds a checkpoint"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--init", type=Path, help="start from another run's model.safetensors")


def main(args: argparse.Namespace) -> None:
    train(load_config(args.config, args.overrides), args.out, init=args.init)


@dataclass(frozen=True)
class Run:
    """What does not change from the first step to the last."""

    config: TrainConfig
    folder: RunFolder
    board: Board
    tokenizer: Tokenizer
    pronunciations: Pronunciations | None  # of a model with a phone layer
    processes: Processes
    began_s: float  # on time.monotonic's clock, earlier sessions counted
    stop_after_steps: int | None

    def minutes(self) -> float:
        """Since the run's beginning, pauses not counted."""
        return (time.monotonic() - self.began_s) / 60


def train(
    config: TrainConfig, out: Path, *, init: Path | None = None, stop_after_steps: int | None = None
) -> None:
    """Run to the last epoch of the last stage, or up to a step (for tests of resuming).

    Raises ConfigError, CheckpointError, MismatchError (of a lexicon) and OSError.
    """
    commit = current_commit()
    processes = join_processes()
    torch.set_num_threads(config.threads)
    tokenizer = Tokenizer.load(Path(config.data.tokenizer))
    pronunciations = _pronunciations(config)
    folder = RunFolder(out, config, tokenizer, quiet=not processes.first)
    saved = Checkpoint.read(out / CHECKPOINT) if (out / CHECKPOINT).exists() else None
    progress = saved.progress if saved else Progress()
    if progress.stage >= len(config.waves()):
        raise CheckpointError(f"{out / CHECKPOINT} is in stage {progress.stage + 1}, the run has fewer")
    folder.rewind(progress.step)
    board = Board.open(out, config, step=progress.step, quiet=not processes.first)
    began_s = time.monotonic() - progress.seconds
    run = Run(config, folder, board, tokenizer, pronunciations, processes, began_s, stop_after_steps)
    weights = load_file(init) if init else None
    scores = DevScores()
    torch.set_flush_denormal(True)  # gradients of certain frames are full of them, and a step half as fast
    try:
        for wave in config.waves()[progress.stage :]:
            data = Path(wave.config.data.train)
            corpus = Corpus(data, tokenizer, corpus_config(wave.config), pronunciations)
            state = _start(run, wave, corpus, weights, progress, saved)
            reached = _run_wave(run, wave, corpus, state)
            if reached is None:
                return
            scores = reached
            weights, saved, progress = state.average.weights, None, state.progress
            settings, features = state.model.settings, corpus.features
            progress = Progress(progress.step, progress.stage + 1, data=progress.data)
            if processes.first and progress.stage < len(config.waves()):
                name = f"stage-{progress.stage}.safetensors"
                write_tensors(out / name, weights, {"kind": kind_of(settings)})
        if processes.first:
            write_tensors(out / "model.safetensors", weights, {"kind": kind_of(settings)})
            summary = {
                "acoustic": to_section(settings),
                "features": features_section(features),
                "config": asdict(config),
                "commit": commit,
                "steps": progress.step,
                "minutes": round(run.minutes(), 1),
                "processes": processes.count,
                "data": "; ".join(progress.data),
                "dev_greedy": scores.sets,
            }
            write_json(out / "train.json", summary)
            folder.say(f"done -> {out / 'model.safetensors'}")
    finally:
        torch.set_flush_denormal(False)
        board.close()
        leave_processes()


def _pronunciations(config: TrainConfig) -> Pronunciations | None:
    if not config.data.lexicon:
        return None
    folder = Path(config.data.lexicon)
    return Pronunciations.load(folder / LEXICON, folder / G2P)


def _start(
    run: Run,
    wave: Wave,
    corpus: Corpus,
    weights: dict[str, torch.Tensor] | None,
    progress: Progress,
    saved: Checkpoint | None,
) -> TrainingState:
    """The state that a stage goes on from: a checkpoint's, the last stage's weights, or random ones."""
    torch.manual_seed(run.config.seed)
    n_phones = run.pronunciations.n_outputs if run.pronunciations else 0
    settings = run.config.model.settings(run.tokenizer.vocab_size, corpus.features.n_mels, n_phones)
    model = build(settings).to(run.processes.device)
    if weights:
        own = {k: v for k, v in model.state_dict().items() if k.startswith(tuple(ADDED)) and k not in weights}
        for part in sorted({next(p for start, p in ADDED.items() if k.startswith(start)) for k in own}):
            run.folder.say(f"the first weights have no {part}: it starts at random")
        weights = own | weights
        try:
            model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise ConfigError(f"these first weights are another model's: {error}") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(wave.config.loss.phone_ctc < 1.0 or name.startswith(TOWER))
    state = TrainingState.start(model, wave.config.optim, progress, run.processes.device)
    if saved:
        saved.restore(state, run.tokenizer.model_proto)
        run.folder.say(f"resumed at step {progress.step}, epoch {progress.epoch}")
        for line in differences(saved.config, asdict(run.config)):
            run.folder.say(f"  {line}")
    state.progress.data[progress.stage :] = [corpus.summary]
    return state


def _run_wave(run: Run, wave: Wave, corpus: Corpus, state: TrainingState) -> DevScores | None:
    """The loop: every epoch of a stage, every step of an epoch.

    The scores after the last epoch; None when it stopped after so many steps.
    """
    config, optim, progress = wave.config, wave.config.optim, state.progress
    dev = Corpus(Path(config.data.dev), run.tokenizer, config, run.pronunciations)
    # Views are masked before they leave for the device.
    device = torch.device("cpu") if config.loss.cr_ctc else run.processes.device
    loader = Loader(corpus.maker, device, workers=config.data.workers, prefetch=config.data.prefetch)
    beam = load_beam(config.log, run.tokenizer) if run.processes.first else None
    graph = None
    if corpus.phones and run.pronunciations and config.loss.crf:
        graph = LabelGraph.estimate(corpus.phones, run.pronunciations.n_outputs, run.processes.device)
    objective = Objective(state.model, config.loss, optim, graph)
    n_steps = optim.epochs * -(-len(_batches(corpus, wave, epoch=1)) // optim.accumulate)
    _introduce(run, wave, corpus, state, n_steps)
    scores, saved_at_s = DevScores(), time.monotonic()
    state.model.train()
    with ProgressBar(disable=not run.processes.first) as bar:
        task = bar.add_task("train", total=n_steps, completed=progress.stage_step)
        while progress.epoch < optim.epochs:
            batches = _batches(corpus, wave, epoch=progress.epoch)
            fetched = _fetched(run, wave, corpus, loader, batches, progress.epoch, progress.batch)
            while progress.batch < len(batches):
                numbers = range(progress.batch, min(progress.batch + optim.accumulate, len(batches)))
                n_labels = max(1, sum(len(corpus.targets[i]) for number in numbers for i in batches[number]))
                lr = learning_rate(progress.stage_step, n_steps, optim)
                for group in (group for one in state.optimizers for group in one.param_groups):
                    group["lr"] = lr
                _seed(config.seed, progress.step, run.processes)
                parts = islice(fetched, len(numbers))
                result = take_step(state, objective, parts, n_labels, optim, run.processes)
                state.average.after_step(state.model, progress.stage_step)
                progress.after_step(numbers.stop, result.loss, time.monotonic() - run.began_s)
                bar.update(
                    task, advance=1, description=f"epoch {progress.epoch} loss {progress.mean_loss:.3f}"
                )
                _log_step(run, progress, result, lr)
                if run.stop_after_steps == progress.step:
                    _save(run, state)
                    return None
                if time.monotonic() - saved_at_s > config.checkpoint_minutes * 60:
                    saved_at_s = _save(run, state)
            epochs_left = optim.epochs - progress.epoch - 1
            scored = not epochs_left or (progress.epoch + 1) % optim.evaluate_every == 0
            if scored:  # saved as the end of this epoch: a run that is killed while it scores scores again
                saved_at_s = _save(run, state)
            state.average.after_epoch(state.model, epochs_left)
            if scored:
                scores = _score(run, wave, corpus, dev, beam, state, batches)
            progress.next_epoch()
    return scores


def _batches(corpus: Corpus, wave: Wave, *, epoch: int) -> list[np.ndarray]:
    """An epoch's batches, or the few that a stage is about."""
    if wave.batches:
        return corpus.batches(wave.config, epoch=1)[: wave.batches]
    return corpus.batches(wave.config, epoch=epoch)


def _fetched(
    run: Run, wave: Wave, corpus: Corpus, loader: Loader, batches: list[np.ndarray], epoch: int, first: int
) -> Iterator[Batch]:
    """This process' share of an epoch's batches from `first` on: the one place that fetches batches."""
    rank, count = run.processes.rank, run.processes.count
    requests = corpus.requests(batches, epoch=epoch, first=first, rank=rank, world=count)
    for number, made in enumerate(loader.stream(requests), first):
        draws = [(epoch, number, place) for place in range(rank, len(batches[number]), count)]
        yield as_batch(made, draws, wave.config, run.processes.device)


def _seed(seed: int, step: int, processes: Processes) -> None:
    """Dropout, and whatever else draws from the global generators in this step."""
    number = seed * 1_000_003 + step * processes.count + processes.rank
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def _introduce(run: Run, wave: Wave, corpus: Corpus, state: TrainingState, n_steps: int) -> None:
    if run.config.stages:
        run.folder.say(f"stage {state.progress.stage + 1} of {len(run.config.stages)}: {wave.name}")
    n_parameters = sum(p.numel() for p in state.model.parameters())
    run.folder.say(corpus.summary)
    run.folder.say(
        f"{n_parameters / 1e6:.2f} M parameters, about {n_steps} steps, {run.processes.count} process(es), "
        f"{run.processes.device}"
    )


def _log_step(run: Run, progress: Progress, result: StepResult, lr: float) -> None:
    """Every so many steps, and whenever something went wrong."""
    trouble = {key: value for key in ("splits", "lost", "skipped") if (value := getattr(result, key))}
    if result.lost:
        run.folder.say(f"step {progress.step}: {result.lost} utterance(s) need more memory than there is")
    if trouble or progress.step % run.config.log.every_steps == 0:
        values = {"loss": result.loss, **result.parts, "lr": lr, "grad_norm": result.grad_norm}
        where = {"step": progress.step, "stage": progress.stage, "epoch": progress.epoch}
        run.folder.write(**where, **values, **trouble)
        shown = {f"train/{key}": float(value) for key, value in (values | trouble).items()}
        run.board.scalars(shown, progress.step)


def _save(run: Run, state: TrainingState) -> float:
    """Write a checkpoint; when, on time.monotonic's clock."""
    if run.processes.first:
        save_checkpoint(run.folder.path, state, asdict(run.config), run.tokenizer.model_proto)
    return time.monotonic()


def _score(
    run: Run,
    wave: Wave,
    corpus: Corpus,
    dev: Corpus,
    beam: BeamDecoder | None,
    state: TrainingState,
    batches: list[np.ndarray],
) -> DevScores:
    """The kept weights on dev, by the first process while the others wait."""
    scores, progress = DevScores(), state.progress
    if run.processes.first:
        weights, log = state.average.weights, wave.config.log
        scores = score_dev(state.model.settings, weights, dev, log, run.processes.device, beam)
        where = {"step": progress.step, "stage": progress.stage, "epoch": progress.epoch + 1}
        minutes, loss = run.minutes(), progress.mean_loss
        run.folder.write(**where, minutes=minutes, train_loss=loss, dev=scores.sets)
        run.folder.say(
            f"epoch {progress.epoch + 1}: {minutes:.1f} min, loss {loss:.3f}, dev WER/CER {scores}"
        )
        if run.board:
            few = batches[0][: log.examples]
            draws = [(progress.epoch, 0, place) for place in range(len(few))]
            run.board.spectrograms(fetch(corpus, few, draws, wave.config, torch.device("cpu")), progress.step)
            run.board.scored(scores, dev, state.model, progress.step)
    wait_for_all()
    return scores


def differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> list[str]:
    """What a configuration says otherwise than the one that a checkpoint was written with, a line each."""
    lines = []
    for key in now:
        old, new = before.get(key, now[key]), now[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{where}{key}.")
        elif json.dumps(old) != json.dumps(new):
            lines.append(f"{where}{key} was {old!r} in the checkpoint, is {new!r}")
    return lines
