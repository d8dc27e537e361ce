"""Downloads end to end against local servers that are cut, wrong, down or old-fashioned."""

import gzip
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import kenlm
import pytest

from tests.file_server import Mirror, serving
from tests.speech_of_tones import flac_bytes, spoken
from training import catalogue
from training.catalogue import CATALOGUE, GROUPS, Resource
from training.cli import main as asr_train
from training.download import download
from training.fetch import DownloadError, Expected, Patience, fetch
from training.manifest import read_manifest
from training.unpack import lower_arpa, unpack

BRIEF = Patience(timeout_s=10, rounds=2, pause_s=0.0)
CONTENT = os.urandom(300_000)
RIGHT = Expected(len(CONTENT), "sha256", hashlib.sha256(CONTENT).hexdigest())

ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.2\t<UNK>
-99\t<s>\t-0.3
-0.9\t</s>
-0.7\tHELLO\t-0.3
-0.8\tIT'S\t-0.3

\\2-grams:
-0.4\t<s> HELLO
-0.5\tHELLO </s>

\\end\\
"""


def _fetch(target: Path, *mirrors: Mirror, expected: Expected = RIGHT) -> None:
    fetch([mirror.url + "f" for mirror in mirrors], target, expected, patience=BRIEF)


def test_a_download_that_is_cut_goes_on_where_it_stopped(tmp_path: Path) -> None:
    mirror = Mirror({"f": CONTENT}, cut_after=70_000)
    with serving(mirror):
        _fetch(tmp_path / "f", mirror)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert [asked for _, asked in mirror.asked] == ["", *(f"bytes={n * 70_000}-" for n in range(1, 5))]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_server_without_ranges_sends_everything_again(tmp_path: Path) -> None:
    mirror = Mirror({"f": CONTENT}, ranges=False)
    (tmp_path / "f.part").write_bytes(CONTENT[:123_456])
    seen: list[int] = []
    with serving(mirror):
        fetch([mirror.url + "f"], tmp_path / "f", RIGHT, report=lambda done, total: seen.append(done))
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)


def test_a_server_without_ranges_that_is_always_cut_is_given_up_without_losing_the_part(
    tmp_path: Path,
) -> None:
    mirror = Mirror({"f": CONTENT}, ranges=False, cut_after=70_000)
    with serving(mirror), pytest.raises(DownloadError, match="cut at 70000 of 300000"):
        _fetch(tmp_path / "f", mirror)
    assert (tmp_path / "f.part").read_bytes() == CONTENT[:70_000]
    assert not (tmp_path / "f").exists()
    mirror.cut_after = 0
    with serving(mirror):  # a later call
        _fetch(tmp_path / "f", mirror)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_mirrors_are_asked_in_turn(tmp_path: Path) -> None:
    down, without, good = Mirror({}, down=True), Mirror({}), Mirror({"f": CONTENT}, cut_after=200_000)
    with serving(down, without, good):
        gone = Mirror({})
        with serving(gone):
            pass
        _fetch(tmp_path / "f", gone, down, without, good)  # `gone` refuses the connection
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert len(down.asked) == 2


@pytest.mark.parametrize("first", [CONTENT[:-1] + b"?", CONTENT[:1000]])
def test_another_mirror_is_asked_when_one_has_another_file(tmp_path: Path, first: bytes) -> None:
    wrong, good = Mirror({"f": first}), Mirror({"f": CONTENT})
    with serving(wrong, good):
        _fetch(tmp_path / "f", wrong, good)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_bytes_of_a_bad_mirror_do_not_spoil_a_good_one(tmp_path: Path) -> None:
    bad, good = Mirror({"f": b"?" * len(CONTENT)}, cut_after=200_000), Mirror({"f": CONTENT})
    with serving(bad, good):
        _fetch(tmp_path / "f", bad, good)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert [asked for _, asked in good.asked] == ["bytes=200000-", ""]


def test_a_wrong_checksum_everywhere_is_an_error_that_names_both(tmp_path: Path) -> None:
    wrong = Mirror({"f": CONTENT[:-1] + b"?"})
    with (
        serving(wrong),
        pytest.raises(DownloadError, match=f"sha256 [0-9a-f]{{64}}, expected {RIGHT.digest}"),
    ):
        _fetch(tmp_path / "f", wrong)
    assert not (tmp_path / "f").exists()
    assert len(wrong.asked) == 1, "what is wrong is not fetched twice"


def test_other_known_archives_of_a_name_are_taken_with_a_warning(tmp_path: Path) -> None:
    older = Mirror({"f": CONTENT[:1000]})
    said: list[str] = []
    with serving(older):
        fetch(
            [older.url + "f"], tmp_path / "f", replace(RIGHT, strict=False), patience=BRIEF, warn=said.append
        )
    assert (tmp_path / "f").read_bytes() == CONTENT[:1000]
    assert "1000 bytes, expected 300000" in said[0]


def test_a_whole_part_of_unknown_size_is_recognised(tmp_path: Path) -> None:
    mirror = Mirror({"f": CONTENT})
    (tmp_path / "f.part").write_bytes(CONTENT)
    with serving(mirror):
        _fetch(tmp_path / "f", mirror, expected=Expected())
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert [asked for _, asked in mirror.asked] == ["bytes=300000-"]


def test_no_room_on_the_disk_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000_000))
    with pytest.raises(
        DownloadError, match=r"dev-clean.tar.gz needs 0\.8 GB|train-clean-100.* needs 13\.2 GB"
    ):
        download(CATALOGUE["train-clean-100"], tmp_path)
    assert not list(tmp_path.iterdir())


def _tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _librispeech(part: str) -> bytes:
    transcript = "".join(f"19-198-{n:04} {text}\n" for n, text in enumerate(["A CAT SAT", "ON A MAT"]))
    members = {"LibriSpeech/README.TXT": b"read me", "LibriSpeech/LICENSE.TXT": b"CC BY 4.0"}
    chapter = f"LibriSpeech/{part}/19/198"
    members[f"{chapter}/19-198.trans.txt"] = transcript.encode()
    for number, text in enumerate(["a cat sat", "on a mat"]):
        members[f"{chapter}/19-198-{number:04}.flac"] = flac_bytes(spoken(text))
    return _tar(members)


def _known(monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, *mirrors: str) -> Resource:
    """The catalogue's entry with the test's own archive and servers."""
    algorithm = CATALOGUE[name].expected.algorithm
    expected = Expected(len(content), algorithm, hashlib.new(algorithm, content).hexdigest())
    resource = replace(CATALOGUE[name], mirrors=mirrors, expected=expected)
    monkeypatch.setitem(catalogue.CATALOGUE, name, resource)
    return resource


def test_mini_librispeech_from_a_cut_mirror_to_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = {f"{part}.tar.gz": _librispeech(part) for part in GROUPS["mini-librispeech"]}
    mirror = Mirror(archives, cut_after=20_000)
    with serving(mirror, down := Mirror({}, down=True)):
        for part in GROUPS["mini-librispeech"]:
            _known(monkeypatch, part, archives[f"{part}.tar.gz"], down.url, mirror.url)
        asr_train(["download", "mini-librispeech", "--to", str(tmp_path / "corpora")])
        asked = len(mirror.asked)
        asr_train(["download", "mini-librispeech", "--to", str(tmp_path / "corpora")])
        assert len(mirror.asked) == asked, "what is there is not fetched again"
    library = tmp_path / "corpora" / "LibriSpeech"
    assert sorted(path.name for path in library.iterdir()) == [
        "LICENSE.TXT",
        "README.TXT",
        "dev-clean-2",
        "train-clean-5",
    ]
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == ["LibriSpeech"]
    asr_train(["prepare", str(library / "train-clean-5"), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert [u.text for u in read_manifest(tmp_path / "out" / "manifest.jsonl")] == ["a cat sat", "on a mat"]


def test_mirror_option_comes_before_the_public_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _librispeech("dev-clean")
    mirror, public = Mirror({"dev-clean.tar.gz": content}), Mirror({})
    with serving(mirror, public):
        _known(monkeypatch, "dev-clean", content, public.url)
        keep = ["--mirror", mirror.url, "--keep-archives"]
        asr_train(["download", "dev-clean", "--to", str(tmp_path), *keep])
    assert not public.asked
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LibriSpeech", "dev-clean.tar.gz"]


def test_ljspeech_from_its_archive_to_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = "LJSpeech-1.1"
    content = _tar(
        {
            f"{root}/metadata.csv": b'LJ001-0001|in 1984|"a cat sat,"\n',
            f"{root}/wavs/LJ001-0001.wav": flac_bytes(spoken("a cat sat")),
        },
        "w:bz2",
    )
    with serving(mirror := Mirror({"LJSpeech-1.1.tar.bz2": content})):
        made = download(_known(monkeypatch, "ljspeech", content, mirror.url), tmp_path)
    asr_train(["prepare", str(made), "--out", str(tmp_path / "out"), "--workers", "1"])
    (utterance,) = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert (utterance.text, utterance.corpus, utterance.name) == ("a cat sat", "ljspeech", "LJ001-0001")


def test_language_model_arrives_in_lower_case_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gzip.compress(ARPA.encode())
    with serving(mirror := Mirror({"3-gram.pruned.1e-7.arpa.gz": content})):
        made = download(_known(monkeypatch, "3-gram-1e-7", content, mirror.url), tmp_path)
    assert made.read_text() == ARPA.lower()
    model = kenlm.Model(str(made))
    assert "it's" in model
    assert "IT'S" not in model
    assert model.score("hello") == pytest.approx(-0.4 - 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["3-gram.pruned.1e-7.arpa"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: text.index("\\end")], r"ends before \\end\\"),
        (lambda text: text.replace("-0.4\t<s> HELLO\n", ""), r"declares .*2: 2.* holds .*2: 1"),
        (lambda text: text.replace("IT'S", "Hello"), "'hello' is there in two spellings"),
    ],
)
def test_a_language_model_that_is_not_whole_is_refused(
    tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    (tmp_path / "lm.arpa").write_text(change(ARPA))
    with pytest.raises(ValueError, match=message):
        lower_arpa(tmp_path / "lm.arpa", tmp_path / "out.arpa")
    assert [path.name for path in tmp_path.iterdir()] == ["lm.arpa"]


def test_a_gzip_that_is_cut_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(ARPA.encode() * 100)[:-200])
    with pytest.raises(ValueError, match=r"lm\.arpa\.gz"):
        lower_arpa(tmp_path / "lm.arpa.gz", tmp_path / "out.arpa")
    assert not (tmp_path / "out.arpa").exists()


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/asr-sound-escaped.txt"])
def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(_tar({"corpus/a.txt": b"a", name: b"escaped"}))
    if name.startswith("/"):  # the filter strips the slash
        unpack(archive, tmp_path / "to", "corpus")
    else:
        with pytest.raises(ValueError, match="damaged"):
            unpack(archive, tmp_path / "to", "corpus")
    assert not (tmp_path / "escaped.txt").exists()
    assert not Path("/tmp/asr-sound-escaped.txt").exists()
    assert not list((tmp_path / "to").glob(".unpacking*"))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: _tar({"other/a.txt": b"a"})])
def test_a_damaged_archive_leaves_nothing_half_unpacked(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(
        damage(_tar({"corpus/a.txt": os.urandom(50_000), "corpus/b.txt": os.urandom(50_000)}))
    )
    with pytest.raises(ValueError, match=r"a\.tar\.gz"):
        unpack(archive, tmp_path / "to", "corpus")
    assert not list((tmp_path / "to").iterdir())


def test_every_known_name_has_an_address_and_a_size_or_checksum_where_known() -> None:
    for name, resource in CATALOGUE.items():
        assert all(url.startswith("https://") and url.endswith(resource.file) for url in resource.urls()), (
            name
        )
        assert resource.expected.size or name == "lm-vocabulary"
        length = {"sha256": 64, "md5": 32}[resource.expected.algorithm]
        assert len(resource.expected.digest) in (0, length), name
    assert len(GROUPS["librispeech"]) == 7
