"""Train a small GPT-2: asr-train gpt2 --text books.txt.xz --manifest train.jsonl --minutes 60 --out runs/gpt2

Writes `model/` in Hugging Face layout (config.json, model.safetensors, tokenizer.json,
tokenizer_config.json), loss and held-out perplexity to standard output, and `gpt2.json` at the end.
`checkpoint.safetensors` is written every few minutes and on SIGTERM or SIGINT, together with `model/`:
`--resume` goes on from it, and a run that was stopped early leaves a usable model. `--init FOLDER` starts
from the weights and vocabulary of any GPT-2 in Hugging Face layout: one of these runs, or a published one.
Several processes share every batch's rows: torchrun --nproc-per-node 2 -m training.cli gpt2 …
Texts are streamed, encoded once, and read back from disk: they may be larger than memory.

Shape letters: B rows, T tokens, V vocabulary.
"""

import argparse
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from asr.decoding.rescoring import Gpt2Scorer
from training.gpt2_checkpoint import Progress, load_checkpoint, save_checkpoint
from training.gpt2_settings import HEAD_WIDTH, Gpt2Settings
from training.gpt2_tokenizer import END_OF_TEXT, load_tokenizer, save_tokenizer, train_tokenizer
from training.processes import (
    Processes,
    join_processes,
    leave_processes,
    sum_gradients,
    summed,
    wait_for_all,
)
from training.sentence_store import IGNORED, BatchSettings, SentenceStore, batches
from training.text_corpus import is_held_out, read_corpus, transcripts_by_set
from training.text_fit import TextFit
from training.whole_file import write_json

MODEL = "model"  # in the run's folder
CHECKPOINT = "checkpoint.safetensors"
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
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if any")
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
    processes = join_processes()
    try:
        _train(args, settings, processes)
    finally:
        leave_processes()


def _train(args: argparse.Namespace, settings: Gpt2Settings, processes: Processes) -> None:
    start = args.out / MODEL if args.resume else args.init
    if processes.first:
        args.out.mkdir(parents=True, exist_ok=True)
        tokenizer, end_id = _prepare_tokenizer(args, settings)
        model = _make_model(start, settings, tokenizer, end_id)
        if not args.resume:
            save_tokenizer(tokenizer, args.out / MODEL, model.config.n_positions, end_id)
        store = _prepare_store(args, settings, tokenizer)
    wait_for_all()
    if not processes.first:
        tokenizer, end_id = load_tokenizer(args.out / MODEL)
        model = _make_model(start, settings, tokenizer, end_id)
        store = SentenceStore(args.out / "data")
    device = _device(args, processes)
    model.to(device)
    if device.type == "cpu":
        model.set_attn_implementation("eager")  # rows are sentences: a fifth faster than in blocks
    held_out = list(islice(_corpus(args, settings, held_out=True), HELD_OUT_SENTENCES))
    if processes.first:
        print(f"{model.num_parameters():,} parameters, {tokenizer.get_vocab_size()} ids")
        print(f"{len(store):,} sentences, {store.n_tokens:,} tokens; {len(held_out)} held out", flush=True)

    optimisers = _make_optimisers(model, settings)
    progress = Progress()
    if args.resume:
        progress = load_checkpoint(args.out / CHECKPOINT, model, optimisers, asdict(settings))
    rows = BatchSettings(
        settings.batch_tokens, model.config.n_positions, settings.joined_share, seed=settings.seed
    )
    losses: list[float] = []
    saved_at = tick = time.monotonic()
    with _stop_requested() as stopped:
        for position, ids_BT, targets_BT in batches(store, rows, progress.position, end_id):
            done, any_stopped = _agreed(processes, settings.done(progress), bool(stopped))
            if done >= 1.0 or any_stopped:
                break
            losses.append(_train_step(model, optimisers, settings, done, ids_BT, targets_BT, processes))
            now = time.monotonic()
            n_targets = int((targets_BT != IGNORED).sum())
            progress = Progress(
                progress.step + 1, progress.tokens + n_targets, progress.elapsed_s + now - tick, position
            )
            tick = now
            if not processes.first:
                continue
            if progress.step % args.log_steps == 0:
                _log(progress, settings, losses)
                losses = []
            if now - saved_at > 60 * args.checkpoint_minutes:
                perplexity = fit(model, args.out / MODEL, held_out).perplexity
                print(f"held out: perplexity per word {perplexity:.1f}", flush=True)
                _save(args.out, model, optimisers, settings, progress)
                saved_at = tick = time.monotonic()  # scoring and saving are not training time
    if processes.first:
        _save(args.out, model, optimisers, settings, progress)
        _report(args, settings, progress, model, held_out)


def _device(args: argparse.Namespace, processes: Processes) -> torch.device:
    """One GPU to a process where there are several; else the one that was asked for."""
    if processes.count > 1 and args.device == "auto":
        return processes.device
    wants_cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if wants_cuda else "cpu")


def _agreed(processes: Processes, done: float, stopped: bool) -> tuple[float, bool]:
    """What all processes take for done, their clocks being apart, and whether any was asked to stop."""
    if processes.count == 1:
        return done, stopped
    tally = summed(
        torch.tensor([done, float(stopped)], dtype=torch.float64, device=processes.device), processes
    )
    return float(tally[0]) / processes.count, bool(tally[1])


def fit(model: GPT2LMHeadModel, tokenizer_folder: Path, sentences: Sequence[str]) -> TextFit:
    """How well the model expects sentences, each scored by itself as the rescoring decoder does it."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    scorer = Gpt2Scorer(model, tokenizer, model.device)
    logp = sum(scorer.score(sentences))
    model.train()
    return TextFit(sentences=len(sentences), words=sum(len(s.split()) for s in sentences), logp=logp)


def _defaults() -> Gpt2Settings:
    """The settings' defaults; one of the two budgets has to be given for them to be valid."""
    return Gpt2Settings(max_steps=1)


def _prepare_tokenizer(args: argparse.Namespace, settings: Gpt2Settings) -> tuple[Tokenizer, int]:
    """The vocabulary of the resumed run, of `--init`, or a new one; and its end token."""
    if args.resume or args.init:
        return load_tokenizer(args.out / MODEL if args.resume else args.init)
    sentences = islice(_corpus(args, settings, held_out=False), VOCABULARY_SENTENCES)
    tokenizer = train_tokenizer(sentences, settings.vocab_size)
    return tokenizer, tokenizer.token_to_id(END_OF_TEXT)


def _prepare_store(args: argparse.Namespace, settings: Gpt2Settings, tokenizer: Tokenizer) -> SentenceStore:
    """The corpus as token ids in the run's `data/`; a resumed run finds it there."""
    folder = args.out / "data"
    if args.resume:
        return SentenceStore(folder)
    return SentenceStore.write(folder, _corpus(args, settings, held_out=False), tokenizer)


def _corpus(args: argparse.Namespace, settings: Gpt2Settings, *, held_out: bool) -> Iterator[str]:
    """The held-out sentences of texts and transcripts, or the others."""
    for sentence in read_corpus(args.text, args.manifest, manifest_repeat=settings.manifest_repeat):
        if is_held_out(sentence, settings.held_out_per_10k) == held_out:
            yield sentence


def _make_model(
    init: Path | None, settings: Gpt2Settings, tokenizer: Tokenizer, end_id: int
) -> GPT2LMHeadModel:
    if init:
        return _load_model(init, tokenizer)
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


def _load_model(folder: Path, tokenizer: Tokenizer) -> GPT2LMHeadModel:
    """Raises OSError when there is none, ValueError for another kind of model or too few embeddings."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type != "gpt2":
        raise ValueError(f"{folder} holds a model of type {config.model_type!r}, not 'gpt2'")
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size()} ids, the model {config.vocab_size}"
        )
    return GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).train()


def _make_optimisers(model: GPT2LMHeadModel, settings: Gpt2Settings) -> list[torch.optim.Optimizer]:
    """Of all parameters. Muon, its steps as large as AdamW's (arXiv 2502.16982), is for blocks' matrices."""
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    matrices = [p for p in model.transformer.h.parameters() if p.ndim > 1]
    of_blocks = {id(p) for p in matrices}
    embeddings = [p for p in model.parameters() if p.ndim > 1 and id(p) not in of_blocks]
    decay = settings.weight_decay
    if settings.optimizer == "adamw":
        return [_adamw([*embeddings, *matrices], decay, vectors)]
    muon = torch.optim.Muon(matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    return [muon, _adamw(embeddings, decay, vectors)]


def _adamw(decayed: list[nn.Parameter], weight_decay: float, others: list[nn.Parameter]) -> torch.optim.AdamW:
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _train_step(
    model: GPT2LMHeadModel,
    optimisers: Sequence[torch.optim.Optimizer],
    settings: Gpt2Settings,
    done: float,
    ids_BT: Tensor,
    targets_BT: Tensor,
    processes: Processes,
) -> float:
    """One update by all processes, each from its share of the rows; the mean loss per token before it."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate_at(done)
    n_targets = int((targets_BT != IGNORED).sum())
    mine = slice(processes.rank, None, processes.count)
    ids_BT, targets_BT = ids_BT[mine].to(model.device), targets_BT[mine].to(model.device)
    loss = torch.zeros((), device=model.device)
    if len(ids_BT):
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=settings.bf16):
            logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        total = nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        loss = total / n_targets
        loss.backward()
    loss = sum_gradients(list(model.parameters()), loss.detach()[None], processes)
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
    return loss.item()


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


def _log(progress: Progress, settings: Gpt2Settings, losses: list[float]) -> None:
    done = settings.done(progress)
    print(f"step {progress.step} · {100 * done:.1f} % · loss {sum(losses) / len(losses):.4f} · "
          f"lr {settings.learning_rate_at(done):.2e} · {progress.tokens / 1e6:.2f} M tokens · "
          f"{progress.tokens / max(progress.elapsed_s, 1e-9):.0f} tokens/s", flush=True)  # fmt: skip


def _save(
    out: Path,
    model: GPT2LMHeadModel,
    optimisers: Sequence[torch.optim.Optimizer],
    settings: Gpt2Settings,
    progress: Progress,
) -> None:
    """The checkpoint and the model folder, each file whole or not changed."""
    save_checkpoint(out / CHECKPOINT, model, optimisers, asdict(settings), progress)
    temporary = out / "model.tmp"
    model.save_pretrained(temporary)
    for path in sorted(temporary.iterdir()):
        path.chmod(0o644)  # safetensors gives its files to the owner alone
        path.replace(out / MODEL / path.name)
    temporary.rmdir()


def _report(
    args: argparse.Namespace,
    settings: Gpt2Settings,
    progress: Progress,
    model: GPT2LMHeadModel,
    held_out: Sequence[str],
) -> None:
    """Perplexities of the held-out text and of each dev set, printed and written to gpt2.json."""
    sets = {"held out": held_out, **transcripts_by_set(args.dev)}
    fits = {name: fit(model, args.out / MODEL, texts).as_json() for name, texts in sets.items() if texts}
    report = {
        "settings": asdict(settings),
        "parameters": model.num_parameters(),
        "progress": asdict(progress),
        "fit": fits,
    }
    write_json(args.out / "gpt2.json", report)
    for name, figures in fits.items():
        print(f"{name}: perplexity per word {figures['perplexity']:.1f} ({figures['words']} words)")
    seen = f"{progress.step} steps, {progress.tokens:,} tokens, {progress.elapsed_s:.0f} s"
    print(f"{seen} -> {args.out / MODEL}", flush=True)
