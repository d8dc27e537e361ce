"""The bundle's MODEL_CARD.md, from its settings, what was trained, and what was measured."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from asr.bundle import (
    ACOUSTIC,
    CALIBRATION,
    GPT2,
    MEASUREMENTS,
    NGRAM,
    Bundle,
    BundleFile,
    BundleSettings,
)
from training.evaluate import interval
from training.reliability import card_section


def model_card(bundle: Bundle, evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Markdown. evaluations: reports of `asr-train evaluate`, with or without their utterances."""
    settings = bundle.settings
    sections = [_introduction(settings), _sizes(bundle.files), _results(evaluations), _training(settings)]
    if CALIBRATION in bundle.files:
        sections.append(card_section(json.loads((bundle.path / CALIBRATION).read_text(encoding="utf-8"))))
    if notes := str(settings.training.get("notes", "")).strip():
        sections.append(notes)
    return "\n\n".join(sections) + "\n"


def _introduction(settings: BundleSettings) -> str:
    acoustic = settings.acoustic
    frame_ms = settings.features.hop_ms * acoustic.subsampling
    return f"""\
# Model card: {settings.name}

English speech to lower-case text. Made {settings.created} from commit `{settings.commit}` with the
commands of `asr-train`; `asr-sound bundle verify` checks the files.

- acoustic model: {settings.features.n_mels} log-mel bands, residual 2-D convolutions with
  {acoustic.subsampling}x subsampling ({frame_ms:g} ms a frame), {acoustic.gru_blocks} residual bidirectional
  GRU blocks, CTC over {acoustic.vocab_size} outputs (SentencePiece pieces, blank included)
- decoders: `greedy`; `beam_lm`, beam search with a KenLM word n-gram; `beam_lm_rescore`, its n-best list
  re-ordered with a GPT-2"""


def _sizes(files: Mapping[str, BundleFile]) -> str:
    gpt2 = sum(file.size for name, file in files.items() if name.startswith(f"{GPT2}/"))
    sizes = {
        "acoustic model": files[ACOUSTIC].size,
        "n-gram": files[NGRAM].size,
        "GPT-2 with its tokenizer": gpt2,
        "everything": sum(file.size for name, file in files.items() if name not in MEASUREMENTS),
    }
    rows = [f"| {name} | {size / 1e6:.1f} |" for name, size in sizes.items()]
    return "\n".join(["## Size", "", "| part | MB |", "|---|---|", *rows])


def _results(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """A table per evaluation, its command beside it."""
    if not evaluations:
        return "## Results\n\nNot evaluated yet."
    lines = [
        "## Results",
        "",
        "Word and character error rates in per cent with 95 % bootstrap intervals over utterances. `oracle`",
        "is the best text of the list that GPT-2 re-orders. Real-time factor: seconds of work per second of",
        "audio, one utterance at a time in each process, from the encoded bytes to the text.",
    ]
    for report in evaluations:
        machine = report["machine"]
        lines += [
            "",
            f"`{report['command']}` ({report['created']}, {machine['cpu']}, {machine['device']}, "
            f"{machine['processes']} processes):",
            "",
            "| set | utterances | words | decoder | WER | 95 % | CER | 95 % | real-time factor |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, result in report["sets"].items():
            for decoder, values in result["decoders"].items():
                factor = values.get("real_time_factor")
                cells = [
                    name,
                    result["utterances"],
                    result["words"],
                    f"`{decoder}`",
                    *_rate(values["wer"]),
                    *_rate(values["cer"]),
                    "" if factor is None else f"{factor:.3f}",
                ]
                lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _rate(rate: dict[str, Any]) -> tuple[str, str]:
    return f"{100 * rate['rate']:.1f}", interval(rate)


def _training(settings: BundleSettings) -> str:
    training, decoding = settings.training, settings.decoding
    lines = ["## Training", ""]
    for key, label in (
        ("data", "data"),
        ("steps", "steps"),
        ("minutes", "minutes"),
        ("processes", "processes"),
    ):
        if key in training:
            lines.append(f"- {label}: {training[key]}")
    rescore_alpha = _or_same(decoding.rescore_alpha, decoding.alpha)
    rescore_beta = _or_same(decoding.rescore_beta, decoding.beta)
    lines += [
        f"- decoding weights: alpha {decoding.alpha:g}, beta {decoding.beta:g}, unknown word "
        f"{decoding.unknown_word_logp:g}, beam {decoding.beam_width}; with GPT-2 alpha {rescore_alpha:g}, "
        f"beta {rescore_beta:g}, gamma {decoding.gamma:g}",
        "- the run's whole configuration is in `bundle.json` under `training`",
    ]
    return "\n".join(lines)


def _or_same(own: float | None, shared: float) -> float:
    return shared if own is None else own
