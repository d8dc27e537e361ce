"""What a recogniser gets wrong: aligned texts, confused words, breakdowns, worst utterances.

Works on the utterances of `asr-train evaluate`'s JSON, which are plain dictionaries (`Row`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import jiwer

from asr.scoring import ErrorRate, word_error_rate

Row = Mapping[str, Any]
LENGTHS_S = (2.0, 4.0, 6.0, 10.0, 15.0)  # bounds of the breakdown by length


@dataclass(frozen=True)
class Edit:
    """One step from what was said to what was written."""

    kind: Literal["equal", "substitute", "delete", "insert"]
    said: str  # empty for an insertion
    written: str  # empty for a deletion


@dataclass(frozen=True)
class Confusions:
    """Counts over many texts."""

    substitutions: Counter[tuple[str, str]]  # (said, written)
    deletions: Counter[str]
    insertions: Counter[str]
    said: Counter[str]  # how often each word was said


@dataclass(frozen=True)
class Group:
    """Utterances that share something, and their word error rate."""

    name: str
    utterances: int
    seconds: float
    rate: ErrorRate


def align(reference: str, hypothesis: str) -> list[Edit]:
    """The cheapest way from one text to the other, in words; as many edits as `asr.scoring` counts errors."""
    said, written = reference.split(), hypothesis.split()
    if not said or not written:
        return [Edit("delete", word, "") for word in said] + [Edit("insert", "", word) for word in written]
    edits: list[Edit] = []
    for chunk in jiwer.process_words(" ".join(said), " ".join(written)).alignments[0]:
        left = said[chunk.ref_start_idx : chunk.ref_end_idx]
        right = written[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for i in range(max(len(left), len(right))):
            pair = (left[i] if i < len(left) else "", right[i] if i < len(right) else "")
            edits.append(Edit(chunk.type, *pair))
    return edits


def confusions(rows: Sequence[Row], decoder: str) -> Confusions:
    """Which words are taken for which, left out, or made up."""
    found = Confusions(Counter(), Counter(), Counter(), Counter())
    for row in rows:
        found.said.update(row["reference"].split())
        for edit in align(row["reference"], row["texts"][decoder]):
            if edit.kind == "substitute":
                found.substitutions[edit.said, edit.written] += 1
            elif edit.kind == "delete":
                found.deletions[edit.said] += 1
            elif edit.kind == "insert":
                found.insertions[edit.written] += 1
    return found


def by_length(rows: Sequence[Row], decoder: str) -> list[Group]:
    """WER by the recording's length, short ones first."""

    def bin_of(row: Row) -> int:
        return sum(row["duration_s"] >= bound for bound in LENGTHS_S)

    names = [f"below {LENGTHS_S[0]:g} s"]
    names += [f"{a:g}-{b:g} s" for a, b in pairwise(LENGTHS_S)]
    names.append(f"from {LENGTHS_S[-1]:g} s")
    groups = _groups(rows, decoder, lambda row: names[bin_of(row)])
    return sorted(groups, key=lambda group: names.index(group.name))


def by_field(rows: Sequence[Row], decoder: str, field: str) -> list[Group]:
    """WER by a field of the manifest, worst first; nothing where the field tells no two rows apart."""
    groups = _groups(rows, decoder, lambda row: str(row.get(field) or "not known"))
    return sorted(groups, key=lambda group: (-group.rate.rate, group.name)) if len(groups) > 1 else []


def worst(rows: Sequence[Row], decoder: str, count: int) -> list[Row]:
    """The utterances with the highest word error rate; among equals those with more errors."""

    def badness(row: Row) -> tuple[float, int, str]:
        errors = n_errors(row, decoder)
        return (-errors / max(1, len(row["reference"].split())), -errors, str(row["name"]))

    return sorted(rows, key=badness)[:count]


def n_errors(row: Row, decoder: str) -> int:
    """Word errors of one decoder's text."""
    known = row.get("errors", {}).get(decoder)
    if known is not None:
        return int(known)
    return sum(edit.kind != "equal" for edit in align(row["reference"], row["texts"][decoder]))


def _groups(rows: Sequence[Row], decoder: str, name_of: Callable[[Row], str]) -> list[Group]:
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(name_of(row), []).append(row)
    return [
        Group(
            name,
            len(chosen),
            sum(row["duration_s"] for row in chosen),
            word_error_rate([r["reference"] for r in chosen], [r["texts"][decoder] for r in chosen]),
        )
        for name, chosen in members.items()
    ]
