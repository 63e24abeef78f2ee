"""Writing of genres: what is kept, what is refused, and what is restored."""

import contextlib
import os
import stat

import hypothesis
import mutagen
import numpy as np
import pytest
from conftest import write_sine
from genrekeras import audio, tags
from genrekeras.tags import replacement, writing
from hypothesis import strategies as st
from mutagen.id3 import TIT2
from tag_files import KINDS, refused


@pytest.mark.parametrize("kind", KINDS)
def test_genres_are_written_and_the_old_file_is_restored(tmp_path, kind):
    path = write_sine(tmp_path / f"ü 'song'.{kind}", 440, seconds=0.5)
    before, sound = path.read_bytes(), audio.load(path)
    path.chmod(0o640)
    os.utime(path, (0, 0))
    first = tags.write_genres(path, ["Hip-Hop", "R&B/Soul", "Джаз"])
    assert tags.read_genres(path) == ["Hip-Hop", "R&B/Soul", "Джаз"] == list(first.new) and first.old == ()
    np.testing.assert_array_equal(audio.load(path), sound)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and path.stat().st_mtime > 1e9
    second = tags.write_genres(path, ["Folk"])
    assert tags.read_genres(path) == ["Folk"] and first.audio == second.audio and first.after == second.before
    with pytest.raises(tags.TagError, match="it was changed after its genres were written"):
        tags.restore(first)
    assert tags.restore(second) and tags.restore(first) and not tags.restore(first)
    assert path.read_bytes() == before and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == [path.name]


def test_a_damaged_change_restores_nothing(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    change = tags.write_genres(path, ["Rock"])
    [hunk] = change.hunks
    for hunks in ([hunk._replace(old=b"x")], [hunk._replace(offset=10**9)], [], [hunk, hunk]):
        with refused(path, "cannot be restored"):
            tags.restore(change._replace(hunks=tuple(hunks)))
    path.unlink()
    with pytest.raises(tags.TagError, match="cannot be restored: No such file"):
        tags.restore(change)


def test_the_function_before_the_replacement(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    changes = []
    change = tags.write_genres(path, ["Rock"], lambda change: changes.append((change, tags.read_genres(path))))
    assert changes == [(change, [])]

    def fail(change):
        raise OSError(28, "No space left on device", "journal")

    with refused(path, "No space left on device: 'journal'"):
        tags.write_genres(path, ["Folk"], fail)


names = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=";/,"), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    return {kind: write_sine(folder / f"song.{kind}", 440, seconds=0.2, rate=22050) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(letter=st.characters(categories=("L",)), words=st.lists(names, min_size=1, max_size=3))
@hypothesis.settings(max_examples=8)
def test_the_genre_that_is_written_is_read(song, kind, letter, words):
    """It begins with a letter, so ID3 does not read it as a number."""
    genre = letter + " ".join(words)
    tags.write_genres(song[kind], [genre])
    assert tags.read_tags(song[kind]).genres == [genre]
    [separate] = tags.split_genres([genre])
    assert tags.spelling_key(separate) == tags.spelling_key(genre)


def test_a_file_that_has_the_genre_is_not_written(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    tags.write_genres(path, ["Rock"])
    before = path.stat()
    tags.write_genres(path, ["Rock"])
    assert os.path.samestat(path.stat(), before) and path.stat().st_mtime_ns == before.st_mtime_ns


def _with_size(data, chunk, size):
    at = data.index(chunk) + 4
    return data[:at] + size.to_bytes(4, "little" if data[:4] == b"RIFF" else "big") + data[at + 4 :]


WRONG_SIZES = {
    "cut in half": lambda data, form, samples: data[: len(data) // 2],
    "samples 0x7FFFFFFF": lambda data, form, samples: _with_size(data, samples, 0x7FFFFFFF),
    "file 100": lambda data, form, samples: _with_size(data, form, 100),
    "streamed": lambda data, form, samples: _with_size(_with_size(data, form, 2**32 - 1), samples, 2**32 - 1),
}


@pytest.mark.parametrize("wrong", WRONG_SIZES)
@pytest.mark.parametrize("kind", ["wav", "aiff"])
def test_a_file_with_wrong_sizes_is_refused(tmp_path, kind, wrong):
    path = write_sine(tmp_path / f"wrong.{kind}", 440, seconds=0.5)
    chunks = (b"RIFF", b"data") if kind == "wav" else (b"FORM", b"SSND")
    path.write_bytes(WRONG_SIZES[wrong](path.read_bytes(), *chunks))
    with refused(path, "sizes in its header are wrong|cannot be read"):
        tags.write_genres(path, ["Rock"])
    with pytest.raises(tags.TagError, match=r"sizes in its header are wrong|cannot be read"):
        tags.check_writable(path)


def test_damaged_metadata_is_refused(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    path.write_bytes(path.read_bytes()[:60])
    with refused(path, "cannot be read|cannot be written"):
        tags.write_genres(path, ["Rock"])


@pytest.mark.parametrize("genre", ["", " ", "a\nb", "a\rb", "a\0b", "\x1b[2J", "a\u2028b", "\ud800"])
@pytest.mark.parametrize("kind", ["mp3", "flac"])
def test_genres_that_would_corrupt_a_tag_are_refused(tmp_path, kind, genre):
    path = write_sine(tmp_path / f"song.{kind}", 440, seconds=1)
    with refused(path, "`genre` must be"):
        tags.write_genres(path, [genre])


def test_a_genre_that_id3_reads_as_a_number_is_refused(tmp_path):
    path = write_sine(tmp_path / "song.mp3", 440, seconds=0.5)
    with refused(path, r"would be read as \['Rock'\]"):
        tags.write_genres(path, ["17"])


def test_a_program_that_has_opened_the_file_reads_the_old_file(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    before = path.read_bytes()
    with open(path, "rb") as opened:
        start = opened.read(100)
        tags.write_genres(path, ["Rock"])
        assert start + opened.read() == before


def test_a_link_remains_a_link(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    (tmp_path / "link.flac").symlink_to(path)
    tags.write_genres(tmp_path / "link.flac", ["Rock"])
    assert (tmp_path / "link.flac").is_symlink() and tags.read_genres(path) == ["Rock"]


def test_a_file_with_more_than_one_hard_link_is_refused(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    os.link(path, tmp_path / "other.flac")
    with refused(path, "hard link"):
        tags.write_genres(path, ["Rock"])
    assert os.path.samefile(path, tmp_path / "other.flac")


@pytest.fixture
def foreign(tmp_path):
    """A file of another user."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can change the owner of a file")
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    os.chown(path, 1234, 5678)
    path.chmod(0o2640)
    with contextlib.suppress(AttributeError, OSError):  # not on each system
        os.setxattr(path, "user.note", b"kept")
    return path


def test_the_owner_and_the_attributes_of_a_file_are_kept(foreign):
    before = replacement._attributes(foreign)
    assert before[:3] == (1234, 5678, 0o2640)
    tags.write_genres(foreign, ["Rock"])
    assert tags.read_genres(foreign) == ["Rock"]
    assert replacement._attributes(foreign) == before


def test_a_file_is_refused_if_its_owner_cannot_be_kept(foreign, monkeypatch):
    def forbidden(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", forbidden)
    with refused(foreign, "its owner"):
        tags.write_genres(foreign, ["Rock"])


def test_attributes_that_a_new_file_gets_from_its_folder_are_removed(tmp_path, monkeypatch):
    path, copyfile = write_sine(tmp_path / "song.flac", 440, seconds=0.5), replacement.shutil.copyfile

    def copyfile_with_attribute(source, target):
        copyfile(source, target)
        os.setxattr(target, "user.inherited", b"x")

    try:
        os.setxattr(path, "user.note", b"kept")
    except (AttributeError, OSError):
        pytest.skip("no extended attributes here")
    monkeypatch.setattr(replacement.shutil, "copyfile", copyfile_with_attribute)
    tags.write_genres(path, ["Rock"])
    assert os.listxattr(path) == ["user.note"] and tags.read_genres(path) == ["Rock"]


def test_a_file_that_another_program_changes_is_not_replaced(tmp_path):
    path, other = write_sine(tmp_path / "song.flac", 440, seconds=0.5), write_sine(tmp_path / "other.flac", 550)
    content = other.read_bytes()
    with pytest.raises(tags.TagError, match="another program"):
        tags.write_genres(path, ["Rock"], lambda change: other.replace(path))
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["song.flac"]


def test_a_full_disk_leaves_the_file_unchanged(small_disk):
    disk, _ = small_disk
    path = write_sine(disk / "song.wav", 440, seconds=4.0)
    with refused(path, "No space left"):
        tags.write_genres(path, ["Rock"])


def test_files_that_cannot_be_tagged_are_unchanged(tmp_path):
    (tmp_path / "text.mp3").write_text("no music")
    with refused(tmp_path / "text.mp3", "tags cannot be read"):
        tags.write_genres(tmp_path / "text.mp3", ["Rock"])
    (tmp_path / "text.txt").write_text("no music")
    with refused(tmp_path / "text.txt", "format are not supported"):
        tags.write_genres(tmp_path / "text.txt", ["Rock"])
    with pytest.raises(tags.TagError, match="No such file"):
        tags.read_genres(tmp_path / "none.mp3")
    with pytest.raises(tags.TagError, match="No such file"):
        tags.write_genres(tmp_path / "none.mp3", ["Rock"])
    path = write_sine(tmp_path / "song.wav", 440, seconds=0.5)
    for name in ("song.mp3", "song.ogg"):
        other = path.rename(tmp_path / name)
        tags.write_genres(other, ["Rock"])  # mutagen reads the header of the file, not only its name
        path = other.rename(tmp_path / "song.wav")
        assert path.read_bytes().startswith(b"RIFF") and tags.read_genres(path) == ["Rock"]


@pytest.mark.parametrize("error", [mutagen.MutagenError("No space left"), OSError(28, "No space left"), KeyError("x")])
def test_errors_while_the_copy_is_written(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    monkeypatch.setattr(writing, "write_copy", fail)
    with refused(path, "its tags cannot be written: .*(No space left|damaged)"):
        tags.write_genres(path, ["Rock"])


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda data: data[:-100] + bytes(100), "audio would change"),
        (lambda data: data.replace(b"Title", b"Titel"), "other tags would change"),
        (lambda data: data.replace(b"Rock", b"Folk"), r"would be read as \['Folk'\]"),
    ],
)
@pytest.mark.parametrize("kind", ["mp3", "flac"])
def test_a_copy_that_differs_in_more_than_the_genre_is_refused(tmp_path, monkeypatch, kind, change, match):
    path, write_copy = write_sine(tmp_path / f"song.{kind}", 440, seconds=0.5), writing.write_copy
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    file.tags["TITLE" if kind == "flac" else "TIT2"] = ["Title"] if kind == "flac" else TIT2(encoding=3, text=["Title"])
    file.save()

    def write_changed_copy(opened, target, genres):
        write_copy(opened, target, genres)
        with open(target, "rb") as file:
            data = file.read()
        with open(target, "wb") as file:
            file.write(change(data))

    monkeypatch.setattr(writing, "write_copy", write_changed_copy)
    with refused(path, match):
        tags.write_genres(path, ["Rock"])


def test_a_read_only_file_is_refused(tmp_path, monkeypatch):
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    path.chmod(0o444)
    if os.access(path, os.W_OK):  # as root
        monkeypatch.setattr(os, "access", lambda name, mode: False)
    with refused(path, "read-only"):
        tags.write_genres(path, ["Rock"])
