"""Texts as a trie of words."""

import hypothesis.strategies as st
from hypothesis import given, settings

from asr.decoding.text_arrays import strings_of, texts_of
from asr.decoding.text_trie import text_trie

TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=5).map(" ".join), max_size=12)


@settings(deadline=None)  # the first call compiles
@given(TEXTS)
def test_every_text_is_the_words_down_to_its_last(texts: list[str]) -> None:
    trie = text_trie(texts_of(texts))
    words = strings_of(trie.words)
    paths: list[tuple[str, ...]] = []
    for depth, word in zip(trie.depth.tolist(), trie.word.tolist(), strict=True):
        above = paths[-1][: depth - 1] if paths else ()
        assert len(above) == depth - 1
        paths.append((*above, words[word]))
    assert len(set(paths)) == len(paths)  # each beginning once
    for place, path in enumerate(paths):
        later = [other for other in paths[place + 1 :] if other[:-1] == path[:-1]]
        assert all(path < other for other in later)  # in alphabetical order
        assert (paths[trie.beside[place]] if trie.beside[place] >= 0 else None) == (min(later, default=None))
    assert [paths[i] if i >= 0 else () for i in trie.last] == [tuple(text.split()) for text in texts]
