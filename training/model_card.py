"""The bundle's MODEL_CARD.md, from its settings, what was trained, and what was measured."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from asr.acoustic.conformer import ConformerSettings
from asr.acoustic.huggingface_ctc import HuggingFaceCtcSettings
from asr.acoustic.kinds import AcousticSettings
from asr.acoustic.residual_gru import ResidualGruSettings
from asr.bundle import (
    ACOUSTIC,
    CALIBRATION,
    EVALUATION,
    G2P,
    GPT2,
    KENLM,
    LEXICON,
    MEASUREMENTS,
    NGRAM,
    Bundle,
    BundleFile,
    BundleSettings,
)
from training.evaluate import interval
from training.reliability import card_section

FEWEST_FOR_INTERVAL = 20  # utterances of a group; of fewer the bootstrap knows too little


def model_card(bundle: Bundle, measured: Mapping[str, Any]) -> str:
    """Markdown. measured: what evaluation.json holds, as `read_measurements` gives it."""
    settings = bundle.settings
    sections = [_introduction(settings), _sizes(bundle.files), _results(measured["evaluations"])]
    if insertions := measured.get("insertions"):
        sections.append(_insertions(insertions))
    sections.append(_training(settings))
    if CALIBRATION in bundle.files:
        sections.append(card_section(json.loads((bundle.path / CALIBRATION).read_text(encoding="utf-8"))))
    if notes := str(settings.training.get("notes", "")).strip():
        sections.append(notes)
    return "\n\n".join(sections) + "\n"


def read_measurements(bundle: Bundle) -> dict[str, Any]:
    """`evaluations`: reports of `asr-train evaluate` without utterances; `insertions` where measured."""
    if EVALUATION not in bundle.files:
        return {"evaluations": []}
    read: dict[str, Any] = json.loads((bundle.path / EVALUATION).read_text(encoding="utf-8"))
    return read


def _introduction(settings: BundleSettings) -> str:
    acoustic = settings.acoustic
    return f"""\
# Model card: {settings.name}

English speech to lower-case text. Made {settings.created} from commit `{settings.commit}` with the
commands of `asr-train`; `asr-sound bundle verify` checks the files.

- acoustic model: {_front_end(settings)}{_network(acoustic, settings.features.hop_ms)},
  CTC over {acoustic.vocab_size} outputs ({_labels(acoustic)}, blank included){_phones(acoustic)}
- decoders: `greedy`; `beam_lm`, beam search with a word n-gram{_searches(settings)}; `beam_lm_rescore`,
  its n-best list re-ordered with a GPT-2"""


def _front_end(settings: BundleSettings) -> str:
    if isinstance(settings.acoustic, HuggingFaceCtcSettings):
        return f"{settings.training.get('imported', 'imported')}, "
    return f"{settings.features.n_mels} log-mel bands, "


def _labels(acoustic: AcousticSettings) -> str:
    return "characters" if isinstance(acoustic, HuggingFaceCtcSettings) else "SentencePiece pieces"


def _phones(acoustic: AcousticSettings) -> str:
    if not isinstance(acoustic, ResidualGruSettings) or not acoustic.phones:
        return ""
    return (
        f"\n  and, twice as often, over {acoustic.phones} (phones, first in a word or inside, and a blank):"
        f"\n  the beam decoders score their best texts by pronunciation, too{_tower(acoustic)}"
    )


def _searches(settings: BundleSettings) -> str:
    return " over pieces and over phones" if settings.decoding.phone_beam_width else ""


def _tower(acoustic: ResidualGruSettings) -> str:
    if not acoustic.tower_blocks:
        return ""
    pieces, of_pieces = "phones only", ""
    if acoustic.tower_pieces_share:
        pieces, of_pieces = "both", f", of the pieces' {acoustic.tower_pieces_share:g}"
    return (
        f"\n- beside it a network that hears {pieces}, {acoustic.tower_blocks} blocks of convolutions over"
        f"\n  time, whose part of the phones' log-probabilities is {acoustic.tower_share:g}{of_pieces}"
    )


def _network(acoustic: AcousticSettings, hop_ms: float) -> str:
    """What lies between features and outputs."""
    if isinstance(acoustic, HuggingFaceCtcSettings):
        return f"which reads samples,\n  {float(hop_ms * acoustic.features_per_output):g} ms an output frame"
    frame_ms = float(hop_ms * acoustic.features_per_output)
    frames = f"{acoustic.subsampling}x subsampling ({frame_ms:g} ms an output frame)"
    if isinstance(acoustic, ConformerSettings):
        blocks = f"{acoustic.blocks} Conformer blocks of width {acoustic.width}"
        return f"strided convolutions with {frames},\n  {blocks}"
    return (
        f"residual 2-D convolutions with\n  {frames}, {acoustic.gru_blocks} residual bidirectional GRU blocks"
    )


def _sizes(files: Mapping[str, BundleFile]) -> str:
    gpt2 = sum(file.size for name, file in files.items() if name.startswith(f"{GPT2}/"))
    sizes = {
        "acoustic model": files[ACOUSTIC].size,
        "n-gram": files[NGRAM if NGRAM in files else KENLM].size,
        "GPT-2 with its tokenizer": gpt2,
        **({"pronunciations": files[LEXICON].size + files[G2P].size} if LEXICON in files else {}),
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
        lines += _groups(report)
    return "\n".join(lines)


def _groups(report: Mapping[str, Any]) -> list[str]:
    """A table per kind of group that the manifest knew: by corpus, by accent, of children and adults."""
    kinds = dict.fromkeys(kind for result in report["sets"].values() for kind in result.get("groups", {}))
    lines: list[str] = []
    for kind in kinds:
        results = {n: r["groups"][kind] for n, r in report["sets"].items() if kind in r.get("groups", {})}
        decoders = list(next(iter(next(iter(results.values())).values()))["wer"])
        head = ["set", kind, "utterances", "speakers", "words", *(f"`{decoder}`" for decoder in decoders)]
        told = f"WER by {kind} (95 % from {FEWEST_FOR_INTERVAL} utterances on); CER:"
        lines += ["", told, "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name, groups in results.items():
            for value, group in groups.items():
                rates = [_group_rate(group, decoder) for decoder in decoders]
                cells = [name, value, group["utterances"], group["speakers"], group["words"], *rates]
                lines.append("| " + " | ".join(str(c).replace("|", "/") for c in cells) + " |")
    return lines


def _group_rate(group: Mapping[str, Any], decoder: str) -> str:
    """ "WER (95 %); CER" of one group, in per cent."""
    shown, bounds = _rate(group["wer"][decoder])
    if group["utterances"] >= FEWEST_FOR_INTERVAL:
        shown += f" ({bounds})"
    return f"{shown}; {_rate(group['cer'][decoder])[0]}" if "cer" in group else shown


def _insertions(measured: Mapping[str, Any]) -> str:
    """Words where nobody says anything: a row per sound."""
    rows = measured["words_a_minute"]
    decoders = list(next(iter(rows.values())))
    levels = ", ".join(f"{level:g}" for level in measured["levels_db"])
    lines = [
        "## Words where nobody speaks",
        "",
        f"`{measured['command']}` ({measured['created']}): words a minute,",
        f"{measured['minutes_each']:g} minutes of each sound, at {levels} dBFS. Babble is many at once.",
        "",
        "| sound | " + " | ".join(f"`{decoder}`" for decoder in decoders) + " |",
        "|" + "---|" * (1 + len(decoders)),
    ]
    for sound, words in rows.items():
        lines.append(f"| {sound} | " + " | ".join(f"{words[decoder]:.1f}" for decoder in decoders) + " |")
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
