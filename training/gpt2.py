"""Train a small GPT-2: asr-train gpt2 --text books.txt.xz --manifest train.jsonl --minutes 60 --out runs/gpt2

Writes `model/` in Hugging Face layout (config.json, model.safetensors, tokenizer.json,
tokenizer_config.json), loss and held-out perplexity to standard output, and `gpt2.json` at the end.
`checkpoint.safetensors` is written every few minutes and on SIGTERM or SIGINT, together with `model/`:
`--resume` goes on from it, and a run that was stopped early leaves a usable model. `--init FOLDER` starts
from the weights and vocabulary of an earlier model.

Shape letters: B rows, T tokens, V vocabulary.
"""

import argparse
import json
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from training.gpt2_checkpoint import Progress, load_checkpoint, save_checkpoint
from training.gpt2_settings import HEAD_WIDTH, Gpt2Settings
from training.gpt2_tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from training.sentence_store import IGNORED, BatchSettings, SentenceStore, batches, to_tensors
from training.text_corpus import is_held_out, read_corpus, transcripts_by_set
from training.text_fit import TextFit

HELD_OUT_SENTENCES = 1000  # of the held-out part, scored while training
VOCABULARY_SENTENCES = 300_000  # that the BPE vocabulary is learnt from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", type=Path, nargs="*", default=[], help=".txt, .gz or .xz, one sentence a line"
    )
    parser.add_argument(
        "--manifest", type=Path, nargs="*", default=[], help="prepared manifests to train on, too"
    )
    parser.add_argument(
        "--dev", type=Path, nargs="*", default=[], help="prepared manifests to report perplexity on"
    )
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument(
        "--init", type=Path, help="model folder to start from; its sizes and vocabulary are kept"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0, help="between checkpoints")
    parser.add_argument("--log-steps", type=int, default=50, help="between lines of progress")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    for name, default in asdict(_defaults()).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(flag, type=type(default), default=0 if name == "max_steps" else default)


def main(args: argparse.Namespace) -> None:
    """Raises ValueError for settings or a corpus that cannot be trained on, OSError for absent files."""
    settings = Gpt2Settings(**{name: getattr(args, name) for name in asdict(_defaults())})
    torch.set_num_threads(args.threads)
    transformers_logging.disable_progress_bar()
    torch.manual_seed(settings.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer, end_id = _prepare_tokenizer(args, settings)
    model = _make_model(args.init, settings, tokenizer, end_id)
    store = _prepare_store(args, settings, tokenizer)
    held_out = list(islice(_corpus(args, settings, held_out=True), HELD_OUT_SENTENCES))
    _log_start(model, tokenizer, store, held_out)

    optimiser = _make_optimiser(model, settings)
    checkpoint = args.out / "checkpoint.safetensors"
    progress = load_checkpoint(checkpoint, model, optimiser, asdict(settings)) if args.resume else Progress()
    context = min(settings.context, model.config.n_positions)
    rows = BatchSettings(settings.batch_tokens, context, settings.joined_share, settings.seed)
    losses: list[float] = []
    saved_at = tick = time.monotonic()
    with _stop_requested() as stopped:
        for position, ids_BT, targets_BT in batches(store, rows, progress.position, end_id):
            if settings.done(progress) >= 1.0 or stopped:
                break
            losses.append(
                _train_step(model, optimiser, settings, settings.done(progress), ids_BT, targets_BT)
            )
            now = time.monotonic()
            n_targets = int((targets_BT != IGNORED).sum())
            progress = Progress(
                progress.step + 1, progress.tokens + n_targets, progress.elapsed_s + now - tick, position
            )
            tick = now
            if progress.step % args.log_steps == 0:
                _log(progress, settings, losses)
                losses = []
            if now - saved_at > 60 * args.checkpoint_minutes:
                _log_held_out(model, tokenizer, end_id, held_out)
                _save(args.out, model, optimiser, settings, progress)
                saved_at = tick = time.monotonic()  # scoring and saving are not training time
    _save(args.out, model, optimiser, settings, progress)
    _report(args, settings, progress, model, tokenizer, end_id, held_out)


def text_fit(model: GPT2LMHeadModel, tokenizer: Tokenizer, end_id: int, sentences: Sequence[str]) -> TextFit:
    """Log-probability of each sentence by itself, ends included, summed; too long ones are left out."""
    context = model.config.n_positions
    encoded = tokenizer.encode_batch_fast(list(sentences), add_special_tokens=False)
    kept = [
        (s, torch.tensor(e.ids).numpy())
        for s, e in zip(sentences, encoded, strict=True)
        if len(e.ids) < context
    ]
    kept.sort(key=lambda pair: len(pair[1]))
    logp = 0.0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(kept), 32):
            ids_BT, targets_BT = to_tensors([ids for _, ids in kept[start : start + 32]], end_id)
            logp -= _loss(model, ids_BT, targets_BT, reduction="sum").item()
    model.train()
    return TextFit(sentences=len(kept), words=sum(len(s.split()) for s, _ in kept), logp=logp)


def _defaults() -> Gpt2Settings:
    return Gpt2Settings(
        max_steps=1
    )  # one of the two budgets has to be given; the other defaults are the class's


def _prepare_tokenizer(args: argparse.Namespace, settings: Gpt2Settings) -> tuple[Tokenizer, int]:
    """The vocabulary of the resumed run, of `--init`, or a new one; saved into the run's model folder."""
    folder = args.out / "model"
    if args.resume:
        return load_tokenizer(folder)
    if args.init:
        tokenizer, _ = load_tokenizer(args.init)
    else:
        sentences = islice(_corpus(args, settings, held_out=False), VOCABULARY_SENTENCES)
        tokenizer = train_tokenizer(sentences, settings.vocab_size)
    save_tokenizer(tokenizer, folder, settings.context)
    return load_tokenizer(folder)


def _prepare_store(args: argparse.Namespace, settings: Gpt2Settings, tokenizer: Tokenizer) -> SentenceStore:
    """The corpus as token ids in the run's `data/`; a resumed run finds it there."""
    folder = args.out / "data"
    if args.resume:
        return SentenceStore(folder)
    return SentenceStore.write(folder, _corpus(args, settings, held_out=False), tokenizer)


def _corpus(args: argparse.Namespace, settings: Gpt2Settings, *, held_out: bool) -> Iterator[str]:
    """The held-out sentences, or the others; without text files, every transcript in both."""
    if held_out and not args.text:
        yield from read_corpus([], args.manifest)
        return
    per_10k = settings.held_out_per_10k if args.text else 0
    sources: Iterable[str] = read_corpus(args.text, args.manifest, manifest_repeat=settings.manifest_repeat)
    for sentence in sources:
        if is_held_out(sentence, per_10k) == held_out:
            yield sentence


def _make_model(
    init: Path | None, settings: Gpt2Settings, tokenizer: Tokenizer, end_id: int
) -> GPT2LMHeadModel:
    if init:
        return GPT2LMHeadModel.from_pretrained(init, dtype=torch.float32, local_files_only=True).train()
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.width // HEAD_WIDTH,
        activation_function="gelu_pytorch_tanh",  # GPT-2's, as one fused operation
        resid_pdrop=0.0,  # less than one pass over the text: nothing to over-fit
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end_id,
        eos_token_id=end_id,
    )
    return GPT2LMHeadModel(config).train()


def _make_optimiser(model: GPT2LMHeadModel, settings: Gpt2Settings) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


def _train_step(
    model: GPT2LMHeadModel,
    optimiser: torch.optim.Optimizer,
    settings: Gpt2Settings,
    done: float,
    ids_BT: Tensor,
    targets_BT: Tensor,
) -> float:
    """One update; the mean loss per token before it."""
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate_at(done)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
        loss = _loss(model, ids_BT, targets_BT)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    optimiser.step()
    optimiser.zero_grad()
    return loss.item()


def _loss(model: GPT2LMHeadModel, ids_BT: Tensor, targets_BT: Tensor, reduction: str = "mean") -> Tensor:
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORED, reduction=reduction
    )


@contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """A list that gets the signal's number on SIGTERM or SIGINT: the run ends between two steps."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    earlier = [
        signal.signal(number, lambda received_number, _: received.append(received_number))
        for number in numbers
    ]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, earlier, strict=True):
            signal.signal(number, handler)


def _log_start(
    model: GPT2LMHeadModel, tokenizer: Tokenizer, store: SentenceStore, held_out: Sequence[str]
) -> None:
    print(f"{model.num_parameters():,} parameters, {tokenizer.get_vocab_size()} ids", flush=True)
    print(
        f"{len(store):,} sentences, {store.n_tokens:,} tokens; {len(held_out)} sentences held out", flush=True
    )


def _log(progress: Progress, settings: Gpt2Settings, losses: list[float]) -> None:
    done = settings.done(progress)
    print(f"step {progress.step} · {100 * done:.1f} % · loss {sum(losses) / len(losses):.4f} · "
          f"lr {settings.learning_rate_at(done):.2e} · {progress.tokens / 1e6:.2f} M tokens · "
          f"{progress.tokens / max(progress.elapsed_s, 1e-9):.0f} tokens/s", flush=True)  # fmt: skip


def _log_held_out(model: GPT2LMHeadModel, tokenizer: Tokenizer, end_id: int, held_out: Sequence[str]) -> None:
    fit = text_fit(model, tokenizer, end_id, held_out)
    print(f"held out: perplexity per word {fit.perplexity:.1f}", flush=True)


def _save(
    out: Path,
    model: GPT2LMHeadModel,
    optimiser: torch.optim.Optimizer,
    settings: Gpt2Settings,
    progress: Progress,
) -> None:
    """The checkpoint and the model folder, each file whole or not changed."""
    save_checkpoint(out / "checkpoint.safetensors", model, optimiser, asdict(settings), progress)
    temporary = out / "model.tmp"
    model.save_pretrained(temporary)
    for path in sorted(temporary.iterdir()):
        path.chmod(0o644)  # safetensors gives its files to the owner alone
        path.replace(out / "model" / path.name)
    temporary.rmdir()


def _report(
    args: argparse.Namespace,
    settings: Gpt2Settings,
    progress: Progress,
    model: GPT2LMHeadModel,
    tokenizer: Tokenizer,
    end_id: int,
    held_out: Sequence[str],
) -> None:
    """Perplexities of the held-out text and of each dev set, printed and written to gpt2.json."""
    sets = {"held out": held_out, **transcripts_by_set(args.dev)}
    fits = {
        name: text_fit(model, tokenizer, end_id, sentences).as_json()
        for name, sentences in sets.items()
        if sentences
    }
    report = {
        "settings": asdict(settings),
        "parameters": model.num_parameters(),
        "progress": asdict(progress),
        "fit": fits,
    }
    (args.out / "gpt2.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, fit in fits.items():
        print(f"{name}: perplexity per word {fit['perplexity']:.1f} ({fit['words']} words)", flush=True)
    seen = f"{progress.step} steps, {progress.tokens:,} tokens, {progress.elapsed_s:.0f} s"
    print(f"{seen} -> {args.out / 'model'}", flush=True)
