"""Train an acoustic model: asr-train train configs/default.toml --out runs/default [--set optim.lr=1e-3]

Several processes: torchrun --nproc-per-node 2 -m training.cli train configs/default.toml --out runs/default
Run it again to resume: `checkpoint.safetensors` in the run folder is picked up, and the result is that of
an unbroken run. The folder ends with `model.safetensors` (averaged weights), `train.json`, `config.toml`,
`tokenizer.model`, `log.jsonl`.
"""

import argparse
import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from rich.progress import Progress as ProgressBar
from safetensors.torch import load_file
from torch.nn import functional

from asr.acoustic.residual_gru import ResidualGru, ResidualGruSettings
from asr.decoding.greedy import greedy
from asr.scoring import char_error_rate, word_error_rate
from asr.tokenizer import Tokenizer
from training.batches import epoch_batches
from training.checkpoint import Progress, load_checkpoint, save_checkpoint
from training.commit import current_commit
from training.config import OptimConfig, TrainConfig, load_config
from training.corpus import Corpus
from training.loader import Loader
from training.toml_writer import to_toml
from training.whole_file import write_json, write_tensors

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="run folder; resumed when it holds a checkpoint"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--init", type=Path, help="start from another run's model.safetensors")


def main(args: argparse.Namespace) -> None:
    train(load_config(args.config, args.overrides), args.out, init=args.init)


def train(
    config: TrainConfig, out: Path, *, init: Path | None = None, stop_after_steps: int | None = None
) -> None:
    """Run to the last epoch, or up to a step (for tests of resuming)."""
    commit = current_commit()
    rank, world = _join_processes()
    torch.set_num_threads(config.threads)
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    tokenizer = Tokenizer.load(Path(config.data.tokenizer))
    corpus = Corpus(Path(config.data.train), tokenizer, config)
    dev = Corpus(Path(config.data.dev), tokenizer, config)
    log = _Log(out, config, tokenizer, quiet=rank != 0)
    log.say(corpus.summary)
    loader = Loader(corpus.maker, device, workers=config.data.workers, prefetch=config.data.prefetch)

    torch.manual_seed(config.seed)
    settings = config.model.settings(tokenizer.vocab_size, corpus.store.settings.n_mels)
    model = ResidualGru(settings).to(device)
    if init:
        load_weights(init, model)
    ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizer = _optimizer(model, config.optim)
    progress = Progress(step=0, epoch=0, batch=0, seconds=0.0)
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, model, ema, optimizer)
        log.say(f"resumed at step {progress.step}, epoch {progress.epoch}")
    n_parameters = sum(p.numel() for p in model.parameters())
    n_steps = config.optim.epochs * len(corpus.batches(config, epoch=1))
    log.say(f"{n_parameters / 1e6:.2f} M parameters, about {n_steps} steps, {world} process(es), {device}")

    step, epoch, first_batch = progress.step, progress.epoch, progress.batch
    began, saved_at = time.monotonic() - progress.seconds, time.monotonic()
    metrics: dict[str, dict[str, float]] = {}
    with ProgressBar(disable=rank != 0) as bar:
        task = bar.add_task("train", total=n_steps, completed=step)
        while epoch < config.optim.epochs:
            batches = corpus.batches(config, epoch=epoch)
            losses: list[float] = []
            fetched = loader.stream(
                corpus.requests(batches, epoch=epoch, first=first_batch, rank=rank, world=world)
            )
            for number in range(first_batch, len(batches)):
                lr = learning_rate(step, n_steps, config.optim)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                torch.manual_seed(config.seed * 1_000_003 + step * world + rank)  # dropout
                batch = next(fetched)
                n_tokens = sum(len(corpus.targets[i]) for i in batches[number])
                loss, grad_norm = _step(model, optimizer, batch, n_tokens, config.optim)
                _average(ema, model, config.optim.ema, step)
                step += 1
                losses.append(loss)
                bar.update(task, advance=1, description=f"epoch {epoch} loss {np.mean(losses[-20:]):.3f}")
                if step % 10 == 0:
                    log.write(step=step, epoch=epoch, loss=loss, lr=lr, grad_norm=grad_norm)
                overdue = time.monotonic() - saved_at > config.checkpoint_minutes * 60
                if stop_after_steps == step or (overdue and rank == 0):
                    here = Progress(step, epoch, number + 1, time.monotonic() - began)
                    if rank == 0:
                        save_checkpoint(checkpoint, here, model, ema, optimizer)
                    saved_at = time.monotonic()
                if stop_after_steps == step:
                    return
            epoch, first_batch = epoch + 1, 0
            if rank == 0:
                save_checkpoint(
                    checkpoint, Progress(step, epoch, 0, time.monotonic() - began), model, ema, optimizer
                )
                metrics = evaluate_greedy(settings, ema, dev, config, device)
                minutes = (time.monotonic() - began) / 60
                log.write(
                    step=step, epoch=epoch, minutes=minutes, train_loss=float(np.mean(losses)), dev=metrics
                )
                scores = "  ".join(f"{k} {m['wer']:.1%}/{m['cer']:.1%}" for k, m in metrics.items())
                log.say(f"epoch {epoch}: {minutes:.1f} min, loss {np.mean(losses):.3f}, dev WER/CER {scores}")
                saved_at = time.monotonic()
            if world > 1:
                dist.barrier()
    if rank == 0:
        write_tensors(out / "model.safetensors", ema, {"kind": "residual_gru"})
        summary = {
            "acoustic": asdict(settings),
            "features": asdict(corpus.store.settings),
            "config": asdict(config),
            "commit": commit,
            "steps": step,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "processes": world,
            "data": corpus.summary,
            "dev_greedy": metrics,
        }
        write_json(out / "train.json", summary)
        log.say(f"done -> {out / 'model.safetensors'}")
    if world > 1:
        dist.destroy_process_group()


def learning_rate(step: int, n_steps: int, optim: OptimConfig) -> float:
    """Warm-up, then cosine to a hundredth of the peak; `onecycle` also rises along a cosine, from a 25th."""
    warmup = max(1, int(optim.warmup_fraction * n_steps))
    if step < warmup:
        part = (step + 1) / warmup
        if optim.schedule == "onecycle":
            return optim.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * part)) / 2)
        return optim.lr * part
    part = min(1.0, (step - warmup) / max(1, n_steps - warmup))
    return optim.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * part)) / 2)


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Strictly load a `model.safetensors`."""
    model.load_state_dict(load_file(path), strict=True)


@torch.inference_mode()
def evaluate_greedy(
    settings: ResidualGruSettings,
    weights: dict[str, torch.Tensor],
    dev: Corpus,
    config: TrainConfig,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """WER and CER per set of the averaged weights, by greedy decoding in float32."""
    model = ResidualGru(settings).to(device).eval()
    model.load_state_dict(weights, strict=True)
    texts: dict[int, str] = {}
    for indices in epoch_batches(dev.durations_s, np.ones(len(dev), int), batch_s=200.0, seed=0, epoch=0):
        features_BTF, lengths_B, _, _ = dev.batch(indices, device)
        log_probs_BTV, out_lengths_B = model(features_BTF, lengths_B)
        for index, log_probs_TV, length in zip(
            indices, log_probs_BTV.cpu().numpy(), out_lengths_B, strict=True
        ):
            texts[index] = greedy(log_probs_TV[: int(length)], dev.tokenizer).text
    metrics = {}
    for name in sorted({u.set for u in dev.utterances}):
        chosen = [i for i, u in enumerate(dev.utterances) if u.set == name and i in texts]
        references, hypotheses = [dev.utterances[i].text for i in chosen], [texts[i] for i in chosen]
        metrics[name] = {
            "wer": word_error_rate(references, hypotheses, resamples=0).rate,
            "cer": char_error_rate(references, hypotheses, resamples=0).rate,
        }
    return metrics


def _join_processes() -> tuple[int, int]:
    """(rank, processes), as torchrun says."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return (dist.get_rank(), world) if world > 1 else (0, 1)


def _optimizer(model: torch.nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """Biases and norms are not decayed."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta_1, optim.beta_2))


def _step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, n_tokens: int, optim: OptimConfig
) -> tuple[float, float]:
    """One optimiser step on this process' part of a batch of `n_tokens` labels.

    Returns loss per label and the gradient's norm before clipping.

    Gradients are summed over processes, the loss being divided by the labels of the whole batch: as many
    processes as you like give the same step.
    """
    features_BTF, lengths_B, targets_BL, target_lengths_B = batch
    optimizer.zero_grad(set_to_none=False)
    loss = torch.zeros((), device=features_BTF.device)
    if len(lengths_B):
        with torch.autocast(features_BTF.device.type, torch.bfloat16, enabled=optim.autocast == "bf16"):
            log_probs_BTV, out_lengths_B = model(features_BTF, lengths_B)
        loss = (
            functional.ctc_loss(
                log_probs_BTV.transpose(0, 1), targets_BL, out_lengths_B, target_lengths_B,
                reduction="sum", zero_infinity=True,
            )
            / n_tokens
        )  # fmt: skip
        loss.backward()
    total = _summed_over_processes(model, loss.detach())
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm))
    if math.isfinite(norm):  # one broken batch must not end a long run
        optimizer.step()
    return total, norm


def _summed_over_processes(model: torch.nn.Module, loss: torch.Tensor) -> float:
    """Sum gradients over processes, in one message; the summed loss."""
    if not dist.is_initialized():
        return float(loss)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    flat = torch.cat([g.flatten() for g in gradients] + [loss.reshape(1)])
    dist.all_reduce(flat)
    start = 0
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = flat[start : start + gradient.numel()].view_as(gradient)
        start += gradient.numel()
    return float(flat[-1])


@torch.no_grad()
def _average(ema: dict[str, torch.Tensor], model: torch.nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights, younger at first so that it forgets the initial ones."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        ema[name].lerp_(value, 1 - decay)


class _Log:
    """`log.jsonl`, `config.toml`, `tokenizer.model` of a run folder, and lines on the terminal."""

    def __init__(self, out: Path, config: TrainConfig, tokenizer: Tokenizer, *, quiet: bool) -> None:
        self._path, self._quiet = out / "log.jsonl", quiet
        if not quiet:
            out.mkdir(parents=True, exist_ok=True)
            (out / "config.toml").write_text(to_toml(asdict(config)), encoding="utf-8")
            (out / "tokenizer.model").write_bytes(tokenizer.model_proto)

    def write(self, **row: object) -> None:
        if not self._quiet:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def say(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)
