"""Tracks of a music collection: genres from folders, tags or a table, groups by artist, rare genres."""

import shutil

import numpy as np
import pytest
from conftest import write_sine
from genrekeras.datasets.collection import find_collection
from mutagen.easyid3 import EasyID3


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sine(tmp_path_factory.mktemp("sound") / "sound.mp3", 440, 0.1)


@pytest.fixture
def add(tmp_path, sound):
    """Function: add a file to the collection, with tags."""

    def add(name, **tags):
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sound, path)
        if tags:
            file = EasyID3()
            file.update(tags)
            file.save(path)

    return add


def groups(collection):
    """Set of the groups of tracks, each a frozenset of titles."""
    tracks = collection.tracks
    return {frozenset(part["title"]) for _, part in tracks.groupby("artist_id")}


def test_groups_by_folders_and_tags(tmp_path, add):
    add("Folk/Ann/First/a.mp3")
    add("Folk/Ann/Second/b.mp3")  # the same folder of an artist
    add("Rock/Demos/c.mp3", artist="Ann")  # an artist in tags, and a folder that is an album
    add("Rock/Demos/d.mp3")
    add("Folk/e.mp3", artist="ann ", album="Third")  # the same artist as c
    add("Folk/f.mp3")
    add("Rock/g.mp3")  # files without artist, album and folder
    add("Rock/h.mp3")
    collection = find_collection(tmp_path / "music", min_tracks=1)
    assert groups(collection) == {frozenset(part) for part in ("ab", "cde", "f", "g", "h")}
    assert collection.tracks.set_index("title")["without_artist"].to_dict() == dict.fromkeys("abcde", False) | {
        name: True for name in "fgh"
    }
    [note] = collection.notes
    assert note.startswith("3 of 8 tracks have neither artist nor album in their tags or folders.")
    assert "may be too good" in note


def test_genres_in_tags(tmp_path, add):
    for number in range(3):
        add(f"x/{number}.mp3", artist=f"artist {number}", genre=["rock", "Jazz"])
        add(f"y/{number}.mp3", genre=["Rock"])  # one group, because artist and album are unknown
    add("z/0.mp3")
    add("z/1.mp3", artist="me", genre=["Polka"])
    collection = find_collection(tmp_path / "music", "tags", min_tracks=2)
    assert collection.genres == ("Jazz", "Rock") and collection.multi_label
    assert collection.rare == {"Polka": "1 track"}
    assert collection.counts == {"tracks": 8, "unreadable": 0, "untagged": 1, "rare": 1}
    assert len(groups(collection)) == 4
    assert "1 have no genre" in collection.notes[0] and "grouped by its folder" in collection.notes[1]


def test_genres_in_a_table(tmp_path, add):
    for number in range(4):
        add(f"{number}.mp3", artist=f"artist {number}", genre=["Rock"])
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(f"{number}.mp3,{'Folk' if number % 2 else 'Pop'}" for number in range(5)))
    collection = find_collection(tmp_path / "music", table, min_tracks=2)
    assert collection.genres == ("Folk", "Pop") and not collection.multi_label
    assert "1 of 5 files are not among the files" in collection.notes[0]


def test_rare_genres_and_copies_of_a_file(tmp_path, add):
    for genre, artists in (("Folk", "aabbgg"), ("Rock", "ccdd"), ("Ska", "eeee"), ("Pop", "fg")):
        for number, artist in enumerate(artists):
            add(f"{genre}/{number}.mp3", artist=artist)
    collection = find_collection(tmp_path / "music", min_tracks=3)
    assert collection.genres == ("Folk", "Rock")
    assert collection.rare == {"Ska": "4 tracks of one artist", "Pop": "2 tracks"}
    checksums = ["x", "1", "2", "x", *"456789"]
    assert collection.tracks["artist_id"].nunique() == 5
    selected = collection.select(range(10), checksums, 3)
    assert selected.tracks["artist_id"].nunique() == 4  # a and b have the same file, so they are one group
    assert selected.tracks["label"].tolist() == collection.tracks["label"].tolist()


def test_genres_that_become_rare(tmp_path, add):
    for genre, artists in (("Folk", "aabb"), ("Rock", "ccdd"), ("Pop", "fgh")):
        for number, artist in enumerate(artists):
            add(f"{genre}/{number}.mp3", artist=artist)
    collection = find_collection(tmp_path / "music", min_tracks=3)
    kept = np.flatnonzero(collection.tracks["title"] + collection.tracks["genre"] != "0Pop")
    selected = collection.select(kept, [str(number) for number in kept], 3)
    assert selected.genres == ("Folk", "Rock") and selected.rare == {"Pop": "2 tracks"}
    with pytest.raises(ValueError, match=r"`min_tracks`=3 .* Received: no such genre"):
        collection.select([], [], 3)


@pytest.mark.parametrize(
    "labels, min_tracks, message",
    [
        ("folders", 2, r"Received: Folk\. Left out: Rock \(2 tracks of one artist\)\. Add tracks"),
        ("tags", 1, r"Received: no such genre\. Of 4 files, 4 have no genre \(the first: "),
        ("genre", 1, "`labels` must be .* Received: labels='genre'"),
        ("folders", 0, "`min_tracks` must be"),
    ],
)
def test_collections_without_two_genres(tmp_path, add, labels, min_tracks, message):
    for genre, artists in (("Folk", "ab"), ("Rock", "cc")):
        for number, artist in enumerate(artists):
            add(f"{genre}/{number}.mp3", artist=artist)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_collection(tmp_path / "music", labels, min_tracks)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="`music` is not a folder"):
        find_collection(tmp_path / "none")
