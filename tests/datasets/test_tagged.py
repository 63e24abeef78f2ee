"""Music with genres in tags or in a table: formats, several genres, spellings, rare genres, artists and albums."""

import os
import zlib

import genrekeras as gk
import mutagen
import numpy as np
import pytest
from conftest import write_sine
from genrekeras import tags
from genrekeras.datasets import load_tagged, store
from mutagen.id3 import TALB, TCON, TIT2, TPE1
from mutagen.mp4 import MP4


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GENREKERAS_CACHE", str(path))
    return path


def write(path, genres=(), artist="", album="", title=""):
    """A sound of 2.5 s whose frequency depends on its name, with tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sine(path, 100 + zlib.crc32(path.name.encode()) / 2**20, 2.5, rate=22050)
    return tag(path, genres, artist, album, title)


def tag(path, genres=(), artist="", album="", title=""):
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    fields = {"title": [title], "artist": [artist], "album": [album], "genre": list(genres)}
    for name, values in fields.items():
        if not any(values):
            continue
        if hasattr(file.tags, "add"):
            frame = {"title": TIT2, "artist": TPE1, "album": TALB, "genre": TCON}[name]
            file.tags.add(frame(encoding=3, text=values))
        else:
            atoms = {"title": "\xa9nam", "artist": "\xa9ART", "album": "\xa9alb", "genre": "\xa9gen"}
            file.tags[atoms[name] if isinstance(file, MP4) else name] = values
    file.save()
    return path


def names_of(split):
    """dict, title -> genres of a track by its labels."""
    rows = split.labels if split.multi_label else np.eye(len(split.genres))[split.labels]
    return {
        title: {split.genres[label] for label in np.flatnonzero(row)}
        for title, row in zip(split.tracks["title"], rows, strict=True)
    }


@pytest.fixture
def music(tmp_path):
    """12 albums of 2 tracks by 6 artists, in four formats. All are Rock; some are Pop, Jazz or Polka too."""
    for number in range(24):
        album = number // 2
        genres = ["Rock", *["Pop"] * (number % 3 == 0), *["Jazz"] * (number < 10), *["Polka"] * (number == 23)]
        path = tmp_path / "music" / f"{album}" / f"{number}.{('mp3', 'flac', 'ogg', 'wav')[number % 4]}"
        write(path, genres, f"Artist {album // 2}", f"Album {album}", f"{number}")
    return tmp_path / "music"


def test_several_genres_in_four_formats(music):
    before = {path: path.stat().st_mtime_ns for path in music.rglob("*")}
    expected = r"music: 1 genres of fewer than 5 tracks are left out: Polka \(1\)\.$"
    with pytest.warns(UserWarning, match=expected) as caught:
        data = load_tagged(music, min_tracks=5)
    assert {warning.filename for warning in caught} == {__file__}
    assert data.genres == ("Jazz", "Pop", "Rock") and data.name == "music" and data.protocol == "artist_album"
    split = data.all
    assert split.multi_label and split.labels.shape == (24, 3) and "genre" not in split.tracks
    for title, names in names_of(split).items():
        number = int(title)
        assert names == {"Rock", *["Pop"] * (number % 3 == 0), *["Jazz"] * (number < 10)}
        row = split.tracks[split.tracks["title"] == title].iloc[0]
        assert (row["artist"], row["album"]) == (f"Artist {number // 4}", f"Album {number // 2}")
        assert os.path.basename(row["path"]).split(".")[0] == title and set(row["genres"]) == names
    assert (gk.datasets.leakage(data)[["artists", "albums", "duplicates"]] == 0).all(axis=None)
    np.testing.assert_allclose(split[7]["audio"], gk.audio.load(split.tracks["path"].iloc[7]), atol=1 / 32767)
    np.testing.assert_array_equal(gk.datasets.batches(split, 4, 1.0)[0][1], split.labels[:4])
    assert {path: path.stat().st_mtime_ns for path in music.rglob("*")} == before
    assert load_tagged(music, min_tracks=1).genres == ("Jazz", "Polka", "Pop", "Rock")


def test_files_are_decoded_once_for_all_labels(music, tmp_path, monkeypatch):
    load_tagged(music, min_tracks=1)
    monkeypatch.setattr(store, "_decode", lambda *a: pytest.fail("decoded again"))
    with pytest.warns(UserWarning, match="2 genres of fewer than 9 tracks"):
        data = load_tagged(music, min_tracks=9, protocol="random", seed=1)
    assert data.genres == ("Jazz", "Rock") and len(data.train) + len(data.test) == 24
    table = tmp_path / "labels.csv"
    table.write_text("".join(f"music/{path.relative_to(music)},{'ab'[n % 2]}\n" for n, path in enumerate(files(music))))
    data = load_tagged(music, table)
    assert data.genres == ("a", "b") and not data.train.multi_label


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_tracks_with_one_genre_each_have_one_label(tmp_path):
    for number in range(12):
        write(tmp_path / f"{number}.wav", ["Ska" if number % 3 else "Blues"], artist=f"{number}")
    data = load_tagged(tmp_path, min_tracks=4)
    assert not data.train.multi_label and data.genres == ("Blues", "Ska")
    assert data.all.labels.dtype == np.int32 and sorted(data.all.labels) == [0] * 4 + [1] * 8
    assert (data.all.tracks["genre"] == np.array(data.genres)[data.all.labels]).all()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 2, 2]
    rows = load_tagged(tmp_path, min_tracks=4, always_multi_label=True).all
    np.testing.assert_array_equal(rows.labels, np.eye(2)[data.all.labels])


def test_spellings_are_merged_and_listed(tmp_path, capsys):
    spellings = ["Hip-Hop", "hip hop", "HIPHOP", "Hip-Hop", "Drum & Bass", "Drum and Bass", "drum & bass; Hip-Hop/Rap"]
    for number, genre in enumerate(spellings):
        write(tmp_path / f"{number}.flac", [genre], artist=f"{number}", title=f"{number}")
    data = load_tagged(tmp_path, min_tracks=1, protocol="random")
    assert data.genres == ("Drum & Bass", "Hip-Hop", "Rap")
    names = names_of(data.all)
    assert [names[f"{n}"] for n in (1, 5, 6)] == [{"Hip-Hop"}, {"Drum & Bass"}, {"Drum & Bass", "Hip-Hop", "Rap"}]
    listed = "merged: Drum & Bass (also Drum and Bass, drum & bass); Hip-Hop (also HIPHOP, hip hop)\n"
    assert listed in capsys.readouterr().err


def test_one_warning_counts_and_names_what_is_left_out(music):
    (music / "text.mp3").write_text("no music")
    (music / "video.mka").write_bytes(b"of no known format")
    write(music / "0" / "untagged.flac")
    write(music / "0" / "other.ogg", ["Other", "12"])
    write(music / "0" / "rare.wav", ["Ska", "Polka"], "Artist 0")
    broken = write(music / "1" / "broken.flac", ["Rock"], "Artist 0")
    broken.write_bytes(broken.read_bytes()[:200].ljust(8000, b"\0"))
    with pytest.warns(UserWarning) as caught:
        data = load_tagged(music, min_tracks=5)
    summary, decoding = [str(w.message) for w in caught if "left out" in str(w.message)]
    for part in (
        "Of 30 files, the tags of 2 cannot be read: text.mp3 (its tags cannot be read: ",
        "video.mka (tags of this file format are not supported); ",
        "; 2 have no genre (the first: 0/other.ogg); 1 have rare genres only. These files are left out.",
        "2 genres of fewer than 5 tracks are left out: Polka (2), Ska (1).",
    ):
        assert part in summary
    assert "of 25 tracks, 1 cannot be read: 1/broken.flac (" in decoding
    counts = data.counts
    assert (counts["unreadable"], counts["untagged"], counts["rare"], counts["rare_genres"]) == (2, 2, 1, 2)
    assert counts["tracks"] == 30 and counts["without_artist"] == 0
    assert counts["tracks"] == sum(counts[key] for key in ("unreadable", "untagged", "rare", "broken", "readable"))
    assert len(data.all) == counts["readable"] == 24 and len(data.broken) == 1


def test_artists_and_albums(tmp_path):
    """Tracks 0 and 1 share an artist, 2 and 3 an album. Albums in other folders are others. Unknown ones: folders."""
    rows = [("a", "X", "One"), ("b", " x", "Two"), ("a", "", "Hits"), ("a", "Y", "hits"), ("b", "", "Hits")]
    rows += [("b", "", ""), ("b", "", ""), ("c", "", ""), ("c", "Z", "")]
    for number, (folder, artist, album) in enumerate(rows):
        write(tmp_path / folder / f"{number}.wav", ["Rock" if number % 2 else "Pop"], artist, album, f"{number}")
    with pytest.warns(UserWarning, match="3 tracks have neither artist nor album in their tags. They are grouped by"):
        data = load_tagged(tmp_path, min_tracks=1)
    split, groups = data.all, {}
    for title, group in zip(split.tracks["title"], split.groups, strict=True):
        groups.setdefault(group, set()).add(title)
    assert sorted(map(sorted, groups.values())) == [["0", "1"], ["2", "3"], ["4"], ["5", "6"], ["7"], ["8"]]
    assert data.counts["without_artist"] == 3
    assert (gk.datasets.leakage(data)["clips"] == 0).all()


def test_files_and_folders(music, tmp_path):
    other = write(tmp_path / "elsewhere" / "other.flac", ["Pop", "Rock"])
    with pytest.warns(UserWarning, match="1 tracks have neither artist nor album"):
        data = load_tagged([music / "0", music / "0" / "1.flac", other], min_tracks=1, protocol="random")
    assert [os.path.relpath(path, tmp_path) for path in data.all.tracks["path"]] == [
        "elsewhere/other.flac",
        "music/0/0.mp3",
        "music/0/1.flac",
    ]
    assert data.all.track_ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["m4a", "wma", "opus"])
def test_files_of_ffmpeg(ffmpeg, tmp_path, kind):
    write_sine(tmp_path / "sine.wav", 440, seconds=2.5, rate=48000)
    folder = tmp_path / "music"
    folder.mkdir()
    for number, genre in enumerate(["Rock; Pop", "Pop", "R&B/Soul"]):
        fields = {"title": f"Дождь {number}", "artist": "A", "album": "B", "genre": genre}
        flags = [flag for name, value in fields.items() for flag in ("-metadata", f"{name}={value}")]
        ffmpeg("-i", tmp_path / "sine.wav", *flags, folder / f"{number}.{kind}")
    if kind == "m4a":
        file = MP4(folder / "1.m4a")
        file["\xa9gen"] = ["Pop", "Soul"]
        file.save()
    data = load_tagged(folder, min_tracks=1, protocol="random")
    soul = {"Soul"} if kind == "m4a" else set()
    assert names_of(data.all) == {"Дождь 0": {"Rock", "Pop"}, "Дождь 1": {"Pop"} | soul, "Дождь 2": {"R&B", "Soul"}}
    assert set(data.all.tracks["artist"]) == {"A"} and set(data.all.tracks["album"]) == {"B"}


def test_a_table_of_labels(music, tmp_path):
    """Its paths are relative to its folder or to that of the music. Genres in tags are not used."""
    (tmp_path / "music" / "no tags.wav").write_bytes(write_sine(tmp_path / "x.wav", 440, 2.5).read_bytes())
    rows = [
        "Path,genres",
        'music/0/0.mp3, Dub  Techno ,"Folk, World"',
        "0/1.flac,dub techno,House/Garage",
        f"{music}/1/2.ogg,Dub Techno,,",
        "music/no tags.wav,House/Garage",
        "music/1/3.wav",
        "music/gone.mp3,Dub Techno",
        "",
    ]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows), encoding="utf-8-sig")
    with pytest.warns(UserWarning) as caught:
        data = load_tagged(music, table, min_tracks=1, protocol="random")
    messages = [str(warning.message) for warning in caught]
    assert any("1 of 6 files are not among the files to load (the first: music/gone.mp3)" in m for m in messages)
    assert any("Of 25 files, 21 have no genre (the first: 1/3.wav)" in m for m in messages)
    assert data.genres == ("Dub Techno", "Folk, World", "House/Garage") and data.counts["untagged"] == 21
    assert names_of(data.all) == {
        "0": {"Dub Techno", "Folk, World"},
        "1": {"Dub Techno", "House/Garage"},
        "2": {"Dub Techno"},
        "no tags": {"House/Garage"},
    }


def test_a_table_labels_files_whose_tags_cannot_be_read(tmp_path):
    for number in range(4):
        path = write_sine(tmp_path / f"{number}.au", 300 + number, 2.5)
        assert path.stat().st_size
    (tmp_path / "labels.csv").write_text("".join(f"{n}.au,{'ab'[n % 2]}\n" for n in range(4)))
    with pytest.warns(UserWarning, match="4 tracks have neither artist nor album"):
        data = load_tagged(tmp_path, tmp_path / "labels.csv", min_tracks=2, protocol="random")
    assert data.counts["readable"] == 4 and data.counts["unreadable"] == 0


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "rows of a path and its genres"),
        (b"path,genre\n", "rows of a path and its genres"),
        (b"a.wav\nb.wav\n", "rows of a path and its genres"),
        (b"a.wav,caf\xe9\n", "must be a CSV file in UTF-8"),
        (b"a.wav,x\n./a.wav,y\n", "contains a file twice: ./a.wav"),
    ],
)
def test_invalid_tables(tmp_path, content, message):
    write(tmp_path / "a.wav", ["Rock"])
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tagged(tmp_path, tmp_path / "labels.csv")


def test_invalid_arguments(tmp_path, cache):
    for name, genre in {"a": "Rock", "b": "Pop", "c": "Other"}.items():
        write(tmp_path / f"{name}.wav", [genre])
    with pytest.raises(ValueError, match="at least two genres must have `min_tracks`=10 tracks") as caught:
        load_tagged(tmp_path)
    counted = "Received: no such genre. Of 3 files, 1 have no genre (the first: c.wav); 2 have rare genres only."
    assert counted in str(caught.value)
    with pytest.raises(ValueError, match="Received: Rock"):
        load_tagged([tmp_path / "a.wav"], min_tracks=1)
    with pytest.raises(FileNotFoundError, match="`paths` does not exist"):
        load_tagged(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_tagged(tmp_path, tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match="`min_tracks` must be an integer >= 1"):
        load_tagged(tmp_path, min_tracks=0)
    with pytest.raises(ValueError, match='Use "artist_album" or "random"'):
        load_tagged(tmp_path, min_tracks=1, protocol="official")
    assert os.listdir(cache) == []


def test_the_genre_that_is_written_is_the_label(music):
    for path in files(music)[:12]:
        tags.write_genres(path, ["Trip-Hop"])
    data = load_tagged(music, min_tracks=1)
    labels = names_of(data.all)
    titles = [path.name.split(".")[0] for path in files(music)]
    assert all((labels[title] == {"Trip-Hop"}) == (place < 12) for place, title in enumerate(titles))
