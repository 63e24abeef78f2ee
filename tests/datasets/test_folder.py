"""Folders of music: formats, nested folders, unequal genres, artists and albums."""

import os
import zlib

import genrekeras as gk
import numpy as np
import pytest
import soundfile
from conftest import write_sine
from genrekeras.datasets.folder import find_files


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GENREKERAS_CACHE", str(path))
    return path


def write(folder, *names, seconds=2.5):
    """Sounds whose frequencies depend on their names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hz = 100 + zlib.crc32(name.encode()) / 2**20
        write_sine(path, hz, seconds, rate=22050)
    return folder


@pytest.fixture
def music(tmp_path):
    """Three unequal genres, 12, 6 and 3 albums of 3 tracks, by artists of up to two albums."""
    for genre, albums in (("Jazz", 12), ("Hip Hop & Rap", 6), ("Électro", 3)):
        for album in range(albums):
            for track in range(3):
                write(tmp_path / "music", f"{genre}/{genre[0]}. Artist {album // 2}/Album {album}/{track:02d} über.wav")
    return tmp_path / "music"


def test_artists_are_not_divided_in_unequal_genres(music):
    with pytest.warns(UserWarning, match="validation has no clip of Électro") as caught:
        data = gk.datasets.load_folder(music)
    assert {warning.filename for warning in caught} == {__file__}
    assert data.genres == ("Hip Hop & Rap", "Jazz", "Électro") and data.protocol == "artist_album"
    assert data.counts["readable"] == 63 and data.name == "music"
    assert (gk.datasets.leakage(data)[["artists", "albums", "duplicates"]] == 0).all(axis=None)
    # Albums of 3 tracks by 6, 3 and 2 artists of up to 2 albums: test gets one artist per genre, then validation.
    assert np.bincount(data.test.labels).tolist() == [6, 6, 3]
    assert np.bincount(data.validation.labels).tolist() == [6, 6] and len(data.train) == 63 - 27
    for split in (data.train, data.validation, data.test):
        for i in range(len(split)):
            row = split.tracks.iloc[i]
            assert split.genres[split.labels[i]] == row["genre"] == os.path.relpath(row["path"], music).split(os.sep)[0]
            if i % 7 == 0:
                np.testing.assert_allclose(split[i]["audio"], gk.audio.load(row["path"]), atol=1 / 32767)
    assert gk.datasets.load_folder(music, seed=1).test.fingerprint != data.test.fingerprint
    assert gk.datasets.load_folder(music).test.fingerprint == data.test.fingerprint


def test_nothing_is_written_to_the_folder(music, cache):
    before = sorted(str(path) for path in music.rglob("*"))
    gk.datasets.load_folder(music, protocol="random")
    assert sorted(str(path) for path in music.rglob("*")) == before and os.listdir(cache) == ["folders"]


def test_flat_folders_like_gtzan(tmp_path):
    write(tmp_path, *[f"{genre}/{genre}.{i:05d}.wav" for genre in ("blues", "metal") for i in range(20)])
    data = gk.datasets.load_folder(tmp_path)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [32, 4, 4]
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    random = gk.datasets.load_folder(tmp_path, protocol="random")
    assert np.bincount(random.validation.labels).tolist() == [4, 4] and len(random.train) == 32


def test_formats_and_files_that_are_left_out(tmp_path):
    names = ["a/1.mp3", "a/2.flac", "a/3.ogg", "a/4.WAV", "b/deep/er/5.aiff", "b/6.wav"]
    write(tmp_path, *names)
    (tmp_path / "a" / "7.mp3").write_text("no music")
    write(tmp_path, "b/8.wav", seconds=1.0)
    write(tmp_path, "loose.wav", "b/.hidden.wav", ".trash/9.wav")
    (tmp_path / "a" / "cover.jpg").write_bytes(b"jpg")
    (tmp_path / "a" / "10.m4a").write_bytes(b"m4a")
    with pytest.warns(UserWarning) as caught:
        data = gk.datasets.load_folder(tmp_path, protocol="random")
    messages = " ".join(str(w.message) for w in caught if "left out" in str(w.message))
    assert "1 audio files are not in the folder of a genre (the first: loose.wav)" in messages
    assert "of 9 tracks, 3 cannot be read: a/10.m4a (not audio" in messages
    assert "a/7.mp3 (not audio" in messages and "b/8.wav (cut short: 1.0 s)" in messages
    assert data.counts["readable"] == 6 and data.genres == ("a", "b")


def test_artists_and_albums(tmp_path):
    write(tmp_path, "pop/A/x/1.wav", "pop/A/y/2.wav", "pop/3.wav", "pop/4.wav", "rock/A/5.wav", "rock/A/CD1/6.wav")
    tracks = find_files(tmp_path)
    assert list(tracks.index) == list(range(6)) and list(tracks["title"]) == ["3", "4", "1", "2", "5", "6"]
    artist = dict(zip(tracks["title"], tracks["artist_id"], strict=True))
    album = dict(zip(tracks["title"], tracks["album_id"], strict=True))
    assert artist["1"] == artist["2"] == artist["5"] == artist["6"]  # A is an artist, in both genres
    assert artist["3"] == artist["4"] == -1 and len(set(album.values())) == 6  # no folder of an artist or album
    write(tmp_path / "b", "pop/best/1.wav", "rock/best/2.wav")  # two albums
    assert len(set(find_files(tmp_path / "b")["artist_id"])) == 2


def test_a_warning_names_a_genre_with_one_album(tmp_path):
    write(tmp_path, *[f"a/{i}.wav" for i in range(6)], *[f"b/album/{i}.wav" for i in range(3)])
    with pytest.warns(UserWarning, match="has no clip of b. An artist or album cannot be divided"):
        data = gk.datasets.load_folder(tmp_path)
    assert sum(data.counts[name] for name in ("train", "validation", "test")) == 9


def test_links_that_form_a_circle(tmp_path):
    write(tmp_path / "elsewhere", "1.wav", "2.wav")
    write(tmp_path / "music", "b/3.wav")
    os.symlink(tmp_path / "elsewhere", tmp_path / "music" / "a")
    os.symlink(tmp_path / "music", tmp_path / "music" / "b" / "circle")
    os.symlink("0.wav", tmp_path / "music" / "b" / "0.wav")  # to itself
    with pytest.warns(UserWarning, match=r"1 folders or links cannot be opened \(the first: .*b/0\.wav"):
        assert list(find_files(tmp_path / "music")["genre"]) == ["a", "a", "b"]


def test_a_link_between_genres_does_not_change_labels(tmp_path):
    write(tmp_path, "jazz/1.wav", "rock/2.wav")
    os.symlink(tmp_path / "rock", tmp_path / "jazz" / "friends")
    assert find_files(tmp_path)["genre"].tolist() == ["jazz", "rock"]


def test_folders_with_equal_names_and_sizes_are_different_datasets(tmp_path):
    """For example a folder before and after normalization."""
    for folder, level in (("a", 1.0), ("b", 0.1)):
        for genre in ("x", "y"):
            path = tmp_path / folder / genre / "1.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, level * np.sin(np.arange(60000) / 9), 22050)
    loud, quiet = (gk.datasets.load_folder(tmp_path / name, protocol="random") for name in "ab")
    assert np.abs(loud.train[0]["audio"]).max() > 0.9 and np.abs(quiet.train[0]["audio"]).max() < 0.2
    path = tmp_path / "a" / "x" / "1.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(60000) / 9), 22050)
    os.utime(path, ns=(0, 0))
    assert np.abs(gk.datasets.load_folder(tmp_path / "a", protocol="random").train[0]["audio"]).max() < 0.2


def test_broken_links_and_names_that_are_not_utf_8(tmp_path):
    write(tmp_path, "a/1.wav", "b/2.wav")
    os.rename(os.fsencode(tmp_path / "a" / "1.wav"), os.fsencode(tmp_path / "a") + b"/caf\xe9.wav")
    os.symlink(tmp_path / "nowhere", tmp_path / "b" / "3.wav")
    with pytest.warns(UserWarning, match="1 have no file"):
        data = gk.datasets.load_folder(tmp_path, protocol="random")
    assert list(data.train.tracks["title"]) == ["caf\ufffd", "2"] and data.counts["missing"] == 1


def test_folders_that_cannot_be_opened(tmp_path, close_folder):
    write(tmp_path, "a/1.wav", "b/2.wav", "b/closed/3.wav")
    close_folder("closed")
    with pytest.warns(UserWarning, match=r"1 folders or links cannot be opened \(the first: .*b/closed: Permission"):
        assert len(find_files(tmp_path)) == 2


def test_an_impossible_protocol_is_refused_before_decoding(tmp_path, cache):
    write(tmp_path, "a/1.wav", "b/2.wav")
    with pytest.raises(ValueError, match='Use "artist_album" or "random"'):
        gk.datasets.load_folder(tmp_path, protocol="official")
    assert os.listdir(cache) == []


def test_a_changed_file_gives_a_new_dataset(tmp_path):
    write(tmp_path, *[f"{genre}/{i}.wav" for genre in "ab" for i in range(3)])
    before = gk.datasets.load_folder(tmp_path, protocol="random").train.fingerprint
    write(tmp_path, "a/1.wav", seconds=3.0)
    assert gk.datasets.load_folder(tmp_path, protocol="random").train.fingerprint != before


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "at least two folders with audio files, one per genre. Received: no folder with audio files"),
        (["loose.wav"], "Received: no folder with audio files"),
        (["only/1.wav"], r"Received: \['only'\]. If the genres are in the tags .*`--labels tags`"),
    ],
)
def test_folders_without_two_genres(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        gk.datasets.load_folder(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="`data_dir` is not a folder"):
        gk.datasets.load_folder(tmp_path / "nowhere")
