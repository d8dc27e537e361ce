"""A bundle's n-grams by name, posted texts mixed in once, and what the transcriber makes of them."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from asr.bundle import NGRAM, UNIGRAMS, Bundle
from asr.decoding import languages
from asr.decoding.arpa import read_model
from asr.decoding.languages import MAX_TEXTS
from asr.decoding.ngram_file import encoded
from asr.decoding.options import DECODERS, DecodingOptions
from asr.errors import BundleError, MismatchError, MissingFileError, OptionsError
from asr.merging import merged
from asr.transcriber import Transcriber
from tests.tiny_lm import write_arpa

TEXT = "the zebra ran to the quagga\nwe see a zebra\na quagga sat on the zebra\n"


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a second n-gram, of other words."""
    folder = tmp_path_factory.mktemp("two")
    words = {"the": -0.5, "zoo": -1.0, "okapi": -1.2}
    table = read_model(write_arpa(folder / "arpa", words, {("the", "zoo"): -0.1}))
    copy = Bundle.load(shutil.copytree(tiny_bundle, folder / "bundle"))
    changed = {
        f"lms/zoo/{NGRAM}": encoded(table),
        f"lms/zoo/{UNIGRAMS}": "".join(f"{word}\n" for word in sorted(words)).encode(),
    }
    return copy.with_changes(copy.settings, changed).path


@pytest.fixture(scope="module")
def transcriber(bundle: Path) -> Transcriber:
    return Transcriber.load(bundle, "cpu")


def test_a_bundle_holds_several_ngrams(bundle: Path, tiny_bundle: Path, transcriber: Transcriber) -> None:
    assert transcriber.lms == ("default", "zoo")
    assert Bundle.load(bundle).measured_sha256 == Bundle.load(tiny_bundle).measured_sha256
    zoo = transcriber.languages.of(DecodingOptions("beam_lm", lm="zoo"))
    assert zoo.name == "zoo"
    assert ("okapi" in zoo.lm, "okapi" in transcriber.lm) == (True, False)
    assert transcriber.languages.of(DecodingOptions("beam_lm", lm="default")).lm is transcriber.lm


@pytest.mark.parametrize(
    ("name", "error", "named"),
    [
        (f"lms/other/{NGRAM}", MissingFileError, "lms/other/unigrams.txt"),
        (f"lms/zoo/{UNIGRAMS}", MismatchError, "spell"),
        ("lms/zoo/notes.txt", MismatchError, "lms/zoo/notes.txt"),
        (f"lms/Zoo/{NGRAM}", MismatchError, "lms/Zoo"),
        (f"lms/default/{NGRAM}", MismatchError, "lms/default"),
        (f"lms/{NGRAM}", MismatchError, "lms/ngram.arrays"),
    ],
)
def test_ngrams_that_are_not_whole_are_refused(
    bundle: Path, tmp_path: Path, name: str, error: type[BundleError], named: str
) -> None:
    copy = Bundle.load(shutil.copytree(bundle, tmp_path / "bundle"))
    with pytest.raises(error, match=named):
        copy.with_changes(copy.settings, {name: "\u4f60\n".encode()})
    assert Bundle.load(copy.path).sha256 == copy.sha256


def test_an_altered_ngram_is_named(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (copy / "lms" / "zoo" / UNIGRAMS).write_text("okapi\n")
    with pytest.raises(BundleError, match=r"lms/zoo/unigrams\.txt"):
        Transcriber.load(copy)


def test_unknown_names_are_refused_with_the_known_ones(transcriber: Transcriber, recording: bytes) -> None:
    options = DecodingOptions("beam_lm", lm="zoos")
    for ask in (transcriber.check, lambda o: transcriber.transcribe(recording, o)):
        with pytest.raises(OptionsError, match="default, zoo, not 'zoos'"):
            ask(options)


@pytest.mark.parametrize("lm", [None, "zoo"])
@pytest.mark.parametrize("lm_text", ["", TEXT])
def test_parts_add_up_whatever_the_ngram(
    transcriber: Transcriber, recording: bytes, lm: str | None, lm_text: str
) -> None:
    """Beam search and rescoring score with the n-gram asked for, hotwords and their receipts with them."""
    terms = ("zebra", "okapi", "we see")
    given = DecodingOptions("beam_lm", nbest=5, lm=lm, lm_text=lm_text, hotwords=terms, word_timestamps=True)
    model, settings = transcriber.languages.of(given).lm, transcriber.settings
    for decoder in ("beam_lm", "beam_lm_rescore"):
        found = transcriber.transcribe(recording, replace(given, decoder=decoder, compare=True))
        assert found.lm == (lm or "default")
        assert [one.decoder for one in found.compared] == list(DECODERS[: DECODERS.index(decoder) + 1])
        assert found.compared[-1].text == found.text
        for h in found.hypotheses:
            s, parts = h.scores, model.parts(h.text)
            expected = settings.alpha * parts.logp + settings.unknown_word_logp * parts.n_unknown
            assert s.ngram == pytest.approx(expected, abs=1e-4)
            assert s.total == pytest.approx(s.acoustic + s.ngram + s.hotwords + s.gpt2 + s.length, abs=1e-4)
        added = sum(receipt.score for receipt in found.hotword_receipts)
        assert added == pytest.approx(found.hypotheses[0].scores.hotwords, abs=1e-4)
        assert (found.lm_text is not None) == bool(lm_text)
        if found.lm_text is not None:
            assert set(found.lm_text.new_words) >= {"zebra", "quagga"}
            assert found.lm_text.written.tokens == len(found.text.split()) + 1
            assert found.lm_text.written.mixed_logp == pytest.approx(model.score(found.text), abs=1e-6)
            assert found.timings_ms.keys() >= {"lm_text", "decoding"}


def test_greedy_decoding_asks_no_ngram(transcriber: Transcriber, recording: bytes) -> None:
    found = transcriber.transcribe(recording, DecodingOptions("greedy", lm="zoo", lm_text=TEXT))
    assert (found.lm, found.lm_text) == ("", None)


def test_words_of_the_text_can_be_written(transcriber: Transcriber, recording: bytes) -> None:
    """What the acoustics half hear becomes the text, once it is no unknown word any more."""
    plain = transcriber.transcribe(recording, DecodingOptions("beam_lm", nbest=50))
    unknown = [w for h in plain.hypotheses for w in h.text.split() if w not in transcriber.lm]
    word = max(unknown, key=len)
    options = DecodingOptions("beam_lm", nbest=50, lm_text=f"{word}\n" * 3, lm_text_weight=0.9)
    told = transcriber.transcribe(recording, options)
    assert told.lm_text is not None
    assert told.lm_text.new_words == (word,)
    costs = [
        max(h.scores.ngram for h in found.hypotheses if word in h.text.split()) for found in (plain, told)
    ]
    assert costs[1] > costs[0]


def test_a_text_is_mixed_in_once(transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    mix = languages.mixed_in

    def counted(lm: object, text: str, weight: float) -> object:
        made.append(weight)
        return mix(lm, text, weight)  # type: ignore[arg-type]

    monkeypatch.setattr(languages, "mixed_in", counted)
    options = DecodingOptions("beam_lm", lm_text="a zebra sat", lm_text_weight=0.25)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(transcriber.languages.of, [options] * 8))
    assert all(one is found[0] for one in found)
    assert made == [0.25]
    transcriber.languages.of(replace(options, lm_text_weight=0.5))
    transcriber.languages.of(replace(options, lm="zoo"))
    assert len(made) == 3
    for i in range(MAX_TEXTS):
        transcriber.languages.of(replace(options, lm_text="zebra " * (i + 1)))
    assert len(transcriber.languages._mixed) == MAX_TEXTS
    transcriber.languages.of(options)
    assert len(made) == 4 + MAX_TEXTS


def test_a_text_without_words_is_refused_each_time(transcriber: Transcriber, recording: bytes) -> None:
    for _ in range(2):
        with pytest.raises(OptionsError, match="no words"):
            transcriber.transcribe(recording, DecodingOptions("beam_lm", lm_text="\u4f60\u597d"))
    for weight in (0.0, 1.0, -1.0):
        with pytest.raises(OptionsError, match="lm_text_weight"):
            DecodingOptions("beam_lm", lm_text="a", lm_text_weight=weight)


def test_pyctcdecode_mixes_nothing_in(bundle: Path) -> None:
    reference = Transcriber.load(bundle, engine="pyctcdecode")
    reference.check(DecodingOptions("beam_lm", lm="zoo"))
    with pytest.raises(OptionsError, match="native"):
        reference.check(DecodingOptions("beam_lm", lm_text=TEXT))


def test_passages_texts_are_measured_together(transcriber: Transcriber, recording: bytes) -> None:
    part = transcriber.transcribe(recording, DecodingOptions("beam_lm", nbest=1, lm_text=TEXT))
    assert part.lm_text is not None
    both = merged([part, part], decoder="beam_lm", duration_s=2.0, nbest=1, calibrated=False)
    assert both.lm == "default"
    assert both.lm_text == replace(part.lm_text, written=part.lm_text.written.plus(part.lm_text.written))


def test_the_text_is_not_in_what_is_shown_of_the_options() -> None:
    assert "zebra" not in repr(DecodingOptions("beam_lm", lm_text=TEXT))


def test_one_acoustic_pass_serves_every_decoder(
    transcriber: Transcriber, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    listen = transcriber._listen

    def counted(*args: object) -> object:
        passes.append(args)
        return listen(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(transcriber, "_listen", counted)
    common = DecodingOptions(nbest=1, lm="zoo", lm_text=TEXT, hotwords=("zebra",), hotword_weight=3.0)
    together = transcriber.transcribe(recording, replace(common, compare=True))
    assert len(passes) == 1
    alone = [transcriber.transcribe(recording, replace(common, decoder=decoder)) for decoder in DECODERS]
    assert [(c.text, c.scores) for c in together.compared] == [
        (one.text, one.hypotheses[0].scores) for one in alone
    ]
