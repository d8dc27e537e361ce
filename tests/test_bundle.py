"""A bundle is loaded whole or refused by name."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr.bundle import (
    ACOUSTIC,
    EVALUATION,
    GPT2,
    INDEX,
    KENLM,
    MODEL_CARD,
    NGRAM,
    REQUIRED,
    UNIGRAMS,
    Bundle,
)
from asr.errors import BundleError, ChecksumError, MismatchError, MissingFileError


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def _edit_index(bundle: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((bundle / INDEX).read_text())
    edit(index)
    (bundle / INDEX).write_text(json.dumps(index))


def _resave(bundle: Path, name: str, content: bytes) -> Bundle:
    """The bundle with one file exchanged and hashed anew, as a careless builder would."""
    loaded = Bundle.load(bundle)
    return loaded.with_changes(loaded.settings, {name: content})


def test_load_returns_what_was_saved(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert bundle.settings.name == "tiny"
    assert bundle.settings.acoustic.vocab_size == 55
    assert set(REQUIRED) <= set(bundle.files)
    assert len(bundle.sha256) == 64


def test_saving_again_gives_the_same_sha256(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    contents = {name: tiny_bundle / name for name in reversed(list(bundle.files))}
    again = Bundle.save(tmp_path / "again", bundle.settings, contents)
    assert again.sha256 == bundle.sha256 == Bundle.load(tmp_path / "again").sha256


@pytest.mark.parametrize("name", [INDEX, *REQUIRED])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        Bundle.load(copy)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_truncated_file_is_named(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(ChecksumError, match=rf"{name} has {len(content) - 1} bytes.*expects {len(content)}"):
        Bundle.load(copy)


@pytest.mark.parametrize("name", REQUIRED)
def test_an_altered_file_is_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ChecksumError, match=rf"{name} has SHA-256 \w{{64}}, bundle.json expects \w{{64}}"):
        Bundle.load(copy)


def test_an_unlisted_file_is_refused_and_a_hidden_one_is_not_looked_at(copy: Path) -> None:
    (copy / ".DS_Store").write_bytes(b"x")
    Bundle.load(copy)
    (copy / GPT2 / "added_tokens.json").write_text("{}")
    with pytest.raises(MismatchError, match=r"added_tokens.json is not listed"):
        Bundle.load(copy)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "gpt2/../../secret", "bundle.json", "a\\b"])
def test_paths_stay_inside_the_bundle(copy: Path, path: str) -> None:
    _edit_index(copy, lambda index: index["files"].update({path: {"sha256": "0" * 64, "size": 1}}))
    with pytest.raises(MismatchError, match="stay inside"):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda i: i.update(format_version=2), "format_version 2"),
        (lambda i: i.pop("decoding"), "lacks decoding"),
        (lambda i: i.update(features=[]), "features must be an object"),
        (lambda i: i["features"].update(n_mel=80), "features has unknown keys: n_mel"),
        (lambda i: i["features"].pop("hop_ms"), "features lacks hop_ms"),
        (lambda i: i["decoding"].update(alpha="high"), "decoding.alpha is 'high'"),
        (lambda i: i["decoding"].update(beam_width=0), "beam_width"),
        (lambda i: i["acoustic"].update(kind="transducer"), "acoustic.kind is 'transducer'"),
        (lambda i: i["acoustic"].update(kind="conformer"), "acoustic has unknown keys: conv_blocks"),
        (lambda i: i["acoustic"].update(upsampling=2), r"output.bias has shape \[55\].*\[110\]"),
        (lambda i: i["acoustic"].update(upsampling=0), "sizes must be at least 1"),
        (lambda i: i["acoustic"].update(gru_blocks=True), "acoustic.gru_blocks is True"),
        (lambda i: i["files"].update(x={"sha256": "0"}), "files.x lacks size"),
        (
            lambda i: i["features"].update(n_mels=64),
            "features have 64 mel bands, the acoustic model reads 80",
        ),
        (lambda i: i["acoustic"].update(vocab_size=56), "tokenizer.model has 55 pieces"),
        (lambda i: i["acoustic"].update(width=24), r"final_norm.bias has shape \[16\].*\[24\]"),
        (lambda i: i["acoustic"].update(gru_blocks=2), "gru_blocks.1.* has shape none"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    copy: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    _edit_index(copy, edit)
    with pytest.raises(MismatchError, match=message):
        Bundle.load(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_an_index_that_is_no_json_object_is_refused(copy: Path, content: bytes) -> None:
    (copy / INDEX).write_bytes(content)
    with pytest.raises(MismatchError):
        Bundle.load(copy)


def test_a_word_that_the_tokenizer_cannot_spell_is_named(copy: Path) -> None:
    with pytest.raises(MismatchError, match=r"unigrams.txt, line 2: the tokenizer cannot spell 'caf\u00e9'"):
        _resave(copy, UNIGRAMS, "cat\ncafé\n".encode())
    Bundle.load(copy)  # the failed save left the old one


def test_weights_that_are_no_safetensors_are_refused(copy: Path) -> None:
    with pytest.raises(MismatchError, match=ACOUSTIC):
        _resave(copy, ACOUSTIC, b"not weights")


def test_a_gpt2_of_another_tokenizer_is_refused(copy: Path) -> None:
    config = json.loads((copy / GPT2 / "config.json").read_text())
    config["vocab_size"] = 50257
    with pytest.raises(MismatchError, match=r"config\.json gives the model 50257"):
        _resave(copy, f"{GPT2}/config.json", json.dumps(config).encode())


def test_changes_are_hashed_and_verified(copy: Path) -> None:
    before = Bundle.load(copy)
    decoding = dataclasses.replace(before.settings.decoding, alpha=0.9)
    changed = {EVALUATION: b"{}", MODEL_CARD: b"# Card"}
    after = before.with_changes(dataclasses.replace(before.settings, decoding=decoding), changed)
    assert after == Bundle.load(copy)
    assert after.settings.decoding.alpha == 0.9
    assert set(after.files) == {*before.files, EVALUATION, MODEL_CARD}
    assert after.sha256 != before.sha256
    assert after.measured_sha256 != before.measured_sha256 == before.sha256
    assert after.with_changes(after.settings, dict.fromkeys(changed)).sha256 == after.measured_sha256
    assert after.with_changes(before.settings, dict.fromkeys(changed)).sha256 == before.sha256
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]  # no temporary folder is left


def test_a_bundle_may_hold_kenlms_file_in_place_of_arrays(kenlm_bundle: Path) -> None:
    files = Bundle.load(kenlm_bundle).files
    assert KENLM in files
    assert NGRAM not in files


def test_saving_without_a_required_file_leaves_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    contents: dict[str, Path | bytes] = {n: tiny_bundle / n for n in bundle.files if n != NGRAM}
    with pytest.raises(BundleError, match=NGRAM):
        Bundle.save(tmp_path / "new", bundle.settings, contents)
    assert not list(tmp_path.iterdir())
