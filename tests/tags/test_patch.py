"""Differences of files, from which the old file is restored."""

import io

import hypothesis
import numpy as np
import pytest
from genrekeras.tags import patch
from hypothesis import strategies as st


def differences(old, new):
    """Return the hunks of two byte strings, and check that they restore the old one."""
    hunks = patch.diff(io.BytesIO(old), io.BytesIO(new))
    assert b"".join(patch.restored(io.BytesIO(new), hunks)) == old
    return hunks


@hypothesis.given(
    st.binary(max_size=2000), st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=300)), max_size=6)
)
def test_any_old_file_is_restored(old, edits):
    new = old
    for position, content in edits:
        new = new[:position] + content + new[position + len(content) // 2 :]
    differences(old, new)
    differences(new, old)


@pytest.mark.parametrize(
    "old, new", [(b"", b""), (b"", b"x"), (b"x", b""), (b"ab" * 500, b"ba" * 500), (bytes(9), b"")]
)
def test_extreme_cases(old, new):
    differences(old, new)


def test_parts_that_move_are_not_stored(rng):
    audio, picture = rng.bytes(3_000_000), rng.bytes(500_000)
    old = b"size1" + b"genre" * 9 + picture + bytes(1000) + audio + b"end"
    new = b"size2" + b"other genre" + picture + bytes(1034) + audio + b"end"
    hunks = differences(old, new)
    assert sum(len(hunk.old) for hunk in hunks) < 100
    hunks = differences(audio + b"tag", audio)
    assert [len(hunk.old) for hunk in hunks] == [3]
    assert differences(audio, audio) == []


def test_numbers_in_each_page_are_stored_without_the_pages(rng):
    pages = [rng.bytes(4000) for _ in range(300)]
    old = b"comment" + b"".join(number.to_bytes(4, "big") + page for number, page in enumerate(pages))
    new = b"longer comment" * 99 + b"".join((number + 7).to_bytes(4, "big") + page for number, page in enumerate(pages))
    assert sum(len(hunk.old) for hunk in differences(old, new)) < 5000


def test_periodic_audio():
    sine = (1000 * np.sin(np.arange(200_000) / 5)).astype("int16").tobytes()
    old, new = b"RIFF1" + sine, b"RIFF2" + sine + b"tag" * 1000
    assert sum(len(hunk.old) for hunk in differences(old, new)) < 300


@pytest.mark.parametrize("hunks", [[(5, 10, b"")], [(-1, 1, b"")], [(3, 1, b""), (2, 1, b"")], [(2, -1, b"")]])
def test_hunks_that_do_not_fit_are_refused(hunks):
    with pytest.raises(ValueError, match="do not fit"):
        list(patch.restored(io.BytesIO(b"0123456789"), [patch.Hunk(*hunk) for hunk in hunks]))
