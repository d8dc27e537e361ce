"""Texts are streamed: with 6 MB of memory to spare, 8 MB of text become counts, lmplz's input and a store.

Another process does it, so that the kernel can hold it to its bound (RLIMIT_DATA), and tries at the end what
does not fit, to show that the bound is one.
"""

import gzip
import json
import lzma
import stat
import subprocess
import sys
from pathlib import Path

import pytest

BOUND_MB = 6
LINES, TEXT_MB = 42_000, 8
LINE = (
    "the cat sat on the mat and we don't know the dog that ran to the old mill by the river number {}\n" * 2
)

WORK = """
import json, os, resource, sys
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from training import ngram
from training.gpt2_tokenizer import train_tokenizer
from training.sentence_store import SentenceStore
from training.text_corpus import read_corpus, read_sentences

folder, bound = Path(sys.argv[1]), int(sys.argv[2])
texts = [folder / name for name in ("text.txt", "text.gz", "text.xz")]
tokenizer = train_tokenizer(["the cat sat on the mat and we don't know"], 60)
tokenizer.encode_batch_fast(["warm up"] * 2)
status = Path("/proc/self/status").read_text()
used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + bound, used + bound))

report = {"lines": [sum(1 for _ in read_sentences(path)) for path in texts[1:]]}
counts = ngram.count_words(read_corpus(texts[:1]))
report |= {"sentences": counts.sentences, "words": counts.words}
ngram.estimate(folder / "lmplz", read_corpus(texts[:1]), ["the"], ngram.NgramSettings(), folder, "1G")
report["fed"] = int((folder / "fed").read_text())
store = SentenceStore.write(folder / "store", read_corpus(texts[:1]), tokenizer)
report |= {"stored": len(store), "tokens": store.n_tokens}
try:
    texts[0].read_text()
    report["whole"] = "fits"
except MemoryError:
    report["whole"] = "does not fit"
print(json.dumps(report))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bound is Linux's")
def test_texts_are_streamed_within_a_bound_of_memory(tmp_path: Path) -> None:
    content = "".join(LINE.format(i, i) for i in range(LINES)).encode()
    (tmp_path / "text.txt").write_bytes(content)
    (tmp_path / "text.gz").write_bytes(gzip.compress(content, 1))
    (tmp_path / "text.xz").write_bytes(lzma.compress(content, preset=0))
    assert (tmp_path / "text.txt").stat().st_size > TEXT_MB * 10**6
    (tmp_path / "lmplz").write_text(f'#!/bin/sh\nwc -c > "{tmp_path}/fed"\n')
    (tmp_path / "lmplz").chmod(stat.S_IRWXU)
    result = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path), str(BOUND_MB * 2**20)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout.splitlines()[-1])
    sentence = LINE.splitlines()[0].format("").strip()
    assert report["lines"] == [2 * LINES, 2 * LINES]
    assert (report["sentences"], report["words"]) == (2 * LINES, 2 * LINES * len(sentence.split()))
    assert report["fed"] == 2 * LINES * (len(sentence) + 1)  # digits are no letters
    assert report["stored"] == 2 * LINES
    assert report["tokens"] > 10 * report["stored"]
    assert report["whole"] == "does not fit"
