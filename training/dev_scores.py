"""WER and CER on dev during training: greedy decoding always, beam search where there is an n-gram."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from asr.acoustic.kinds import AcousticSettings, build
from asr.acoustic.phones import phone_log_probs
from asr.bundle import KENLM, NGRAM, UNIGRAMS
from asr.decoding.array_ngram import load_ngram
from asr.decoding.beam import BeamDecoder, make_beam_decoder
from asr.decoding.greedy import greedy
from asr.decoding.options import DecodingSettings
from asr.scoring import char_error_rate, word_error_rate, word_errors
from asr.tokenizer import Tokenizer
from training.batches import epoch_batches
from training.config import LogConfig
from training.corpus import Corpus

BATCH_S = 200.0  # padded seconds decoded at once


@dataclass(frozen=True)
class Prediction:
    """One utterance of dev as the model wrote it."""

    index: int  # in the corpus
    reference: str
    text: str  # greedy
    errors: int  # words


@dataclass(frozen=True)
class DevScores:
    """`wer` and `cer` by set, 1 being 100 %; `beam_wer` and `beam_cer` too where there is an n-gram."""

    sets: dict[str, dict[str, float]] = field(default_factory=dict)
    worst: tuple[Prediction, ...] = ()  # most errors per word first

    def __str__(self) -> str:
        return "  ".join(
            f"{name} {scores['wer']:.1%}/{scores['cer']:.1%}"
            + (f" beam {scores['beam_wer']:.1%}/{scores['beam_cer']:.1%}" if "beam_wer" in scores else "")
            + (f" phones {scores['per']:.1%}" if "per" in scores else "")
            for name, scores in self.sets.items()
        )


def load_beam(log: LogConfig, tokenizer: Tokenizer) -> BeamDecoder | None:
    """The beam search that dev is scored with beside greedy decoding, at the untuned default weights."""
    if not log.ngram:
        return None
    folder = Path(log.ngram)
    lm = load_ngram(folder / NGRAM, folder / KENLM, folder / UNIGRAMS)
    return make_beam_decoder(tokenizer, lm, DecodingSettings())


@torch.inference_mode()
def score_dev(
    settings: AcousticSettings,
    weights: dict[str, torch.Tensor],
    dev: Corpus,
    log: LogConfig,
    device: torch.device,
    beam: BeamDecoder | None = None,
) -> DevScores:
    """Scores of these weights, in float32."""
    model = build(settings).to(device).eval()
    model.load_state_dict(weights, strict=True)
    texts: dict[int, str] = {}
    beam_texts: dict[int, str] = {}
    phones: dict[int, str] = {}
    by_set: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for_beam = set(_first_of_each_set(dev, log.beam_utterances)) if beam else set()
    for indices in epoch_batches(dev.durations_s, np.ones(len(dev), int), batch_s=BATCH_S, seed=0, epoch=0):
        features_BTF, lengths_B, *_ = dev.batch(indices, device)
        log_probs_BTV, out_lengths_B = model(features_BTF, lengths_B)
        lengths = out_lengths_B.tolist()
        for index, padded_TV, length in zip(indices, log_probs_BTV.cpu().numpy(), lengths, strict=True):
            log_probs_TV = padded_TV[:length, : dev.tokenizer.vocab_size]
            texts[int(index)] = greedy(log_probs_TV, dev.tokenizer).text
            if dev.phones:
                phones[int(index)] = _greedy_phones(padded_TV[:length], dev.tokenizer.vocab_size)
            if beam and index in for_beam:
                beam_texts[int(index)] = beam.decode(log_probs_TV)[0].text
    sets = _rates(dev, texts, "")
    for name, scores in _rates(dev, beam_texts, "beam_").items():
        sets[name] |= scores
    for index, spoken in phones.items():
        by_set[dev.utterances[index].set].append((" ".join(map(str, dev.phones[index])), spoken))
    for name, pairs in by_set.items():
        references, found = zip(*pairs, strict=True)
        sets[name]["per"] = word_error_rate(references, found, resamples=0).rate
    return DevScores(sets, _worst(dev, texts, log.examples))


def _greedy_phones(rows_TC: np.ndarray, vocab_size: int) -> str:
    """The likeliest path's labels, as words are written."""
    best = phone_log_probs(rows_TC, vocab_size).argmax(axis=1).tolist()
    return " ".join(str(label) for label, _ in groupby(best) if label)


def _first_of_each_set(dev: Corpus, limit: int) -> list[int]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, utterance in enumerate(dev.utterances):
        members[utterance.set].append(index)
    return [index for indices in members.values() for index in indices[:limit]]


def _rates(dev: Corpus, texts: dict[int, str], prefix: str) -> dict[str, dict[str, float]]:
    rates = {}
    for name in sorted({dev.utterances[i].set for i in texts}):
        chosen = [i for i in sorted(texts) if dev.utterances[i].set == name]
        references, hypotheses = [dev.utterances[i].text for i in chosen], [texts[i] for i in chosen]
        rates[name] = {
            f"{prefix}wer": word_error_rate(references, hypotheses, resamples=0).rate,
            f"{prefix}cer": char_error_rate(references, hypotheses, resamples=0).rate,
        }
    return rates


def _worst(dev: Corpus, texts: dict[int, str], limit: int) -> tuple[Prediction, ...]:
    predictions = [
        Prediction(index, dev.utterances[index].text, text, word_errors(dev.utterances[index].text, text))
        for index, text in texts.items()
    ]
    predictions.sort(key=lambda p: (-p.errors / max(1, len(p.reference.split())), p.index))
    return tuple(predictions[:limit])
