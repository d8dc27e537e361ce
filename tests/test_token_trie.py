"""Packing windows as tries loses nothing: every scored token keeps its own history."""

from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.token_trie import Pack, Window, packed, windows_of

IDS = st.lists(st.integers(1, 3), max_size=12)


def history(pack: Pack, node: int) -> tuple[int, ...]:
    """The inputs from the root to a node."""
    inputs: list[int] = []
    while node >= 0:
        inputs.append(int(pack.inputs[node]))
        node = int(pack.parents[node])
    return tuple(reversed(inputs))


def windows(texts: list[list[int]], n_positions: int) -> list[Window]:
    return [
        window
        for i, ids in enumerate(texts)
        for window in windows_of(i, ids, begin_id=0, end_id=9, n_positions=n_positions)
    ]


@given(IDS, st.integers(1, 6))
def test_windows_score_every_token_and_the_end_once(ids: list[int], n_positions: int) -> None:
    scored: list[int] = []
    for window in windows([ids], n_positions):
        assert len(window.inputs) == len(window.targets) <= n_positions
        assert window.inputs[1:] == window.targets[:-1]
        context = window.first  # inputs before the first scored token's own
        assert not scored or context >= (n_positions - max(n_positions // 2, 1))
        scored += window.targets[window.first :]
    assert scored == [*ids, 9]


@given(st.lists(IDS, max_size=8), st.integers(2, 8), st.integers(1, 30))
def test_every_scored_token_is_predicted_from_its_own_history(
    texts: list[list[int]], n_positions: int, max_nodes: int
) -> None:
    given_windows = windows(texts, n_positions)
    expected = sorted(
        (w.text, w.inputs[: k + 1], w.targets[k])
        for w in given_windows
        for k in range(w.first, len(w.inputs))
    )
    found = []
    for pack in packed(given_windows, max_nodes):
        longest = max(len(w.inputs) for w in given_windows)
        assert len(pack.inputs) <= max(max_nodes, longest)
        paths = [history(pack, node) for node in range(len(pack.inputs))]
        assert len(set(paths)) == len(paths), "what is shared is read once"
        assert [len(path) - 1 for path in paths] == pack.positions.tolist()
        found += [
            (int(text), paths[node], int(target))
            for text, node, target in zip(pack.texts, pack.nodes, pack.targets, strict=True)
        ]
    assert sorted(found) == expected


def test_a_node_sees_itself_and_its_ancestors_only() -> None:
    (pack,) = packed(windows([[1, 2], [1, 3], [2]], 8), 100)
    for node, row in enumerate(pack.sees().tolist()):
        ancestors = set()
        place = node
        while place >= 0:
            ancestors.add(place)
            place = int(pack.parents[place])
        assert {i for i, seen in enumerate(row) if seen} == ancestors
    assert len(pack.inputs) == 5  # begin, 1, 2, 3, and the 2 of the last text
