"""Tags are read from files of all formats."""

import os
import pickle
import struct
import zlib

import mutagen
import pytest
from conftest import write_sine
from genrekeras import tags
from mutagen.id3 import ID3, TALB, TCON, TIT2, TPE1, TPE2
from tag_files import ID3V1, KINDS, frame, id3, mp3


@pytest.mark.parametrize("kind", [*KINDS, "m4a", "wma", "opus", "wv"])
def test_title_artist_album_and_genres_are_read(request, tmp_path, kind):
    path = tmp_path / f"song.{kind}"
    if kind in KINDS:
        write_sine(path, 440, seconds=0.5)
    else:
        request.getfixturevalue("ffmpeg")("-i", write_sine(tmp_path / "sine.wav", 440, seconds=0.5, rate=48000), path)
    assert tags.read_tags(path) == ("", "", "", [])
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if isinstance(file.tags, ID3):
        texts = {TIT2: [" Дождь "], TPE1: ["A", "B"], TALB: ["C"], TPE2: ["D"], TCON: ["17", "Jazz/Pop"]}
        for frame_type, text in texts.items():
            file.tags.add(frame_type(encoding=3, text=text))
    else:
        names = {
            "m4a": ("\xa9nam", "\xa9ART", "\xa9alb", "aART", "\xa9gen"),
            "wma": ("Title", "Author", "WM/AlbumTitle", "WM/AlbumArtist", "WM/Genre"),
            "wv": ("Title", "Artist", "Album", "Album Artist", "GENRE"),
        }.get(kind, ("TITLE", "artist", "album", "albumartist", "Genre"))
        for name, values in zip(names, ([" Дождь "], ["A", "B"], ["C"], ["D"], ["17", "Jazz/Pop"]), strict=True):
            file.tags[name] = values
    file.save()
    title, artist, album, genres = tags.read_tags(path)
    assert (title, artist, album) == ("Дождь", "A", "C")
    assert genres == ["Rock" if isinstance(file.tags, ID3) else "17", "Jazz/Pop"]
    assert tags.split_genres(genres) == ["Rock", "Jazz", "Pop"]
    assert tags.read_genres(path) == genres and tags.read_album(path) == ("C", "D")


def test_the_info_list_of_a_wav_file_is_read_if_there_is_no_other_tag(ffmpeg, tmp_path):
    source, path = write_sine(tmp_path / "sine.wav", 440, seconds=0.5), tmp_path / "song.wav"
    ffmpeg("-i", source, "-metadata", "title=T", "-metadata", "artist=A", "-metadata", "genre=Джаз", path)
    assert tags.read_tags(path) == ("T", "A", "", ["Джаз"])
    path.write_bytes(path.read_bytes().replace("Джаз".encode(), b"Caf\xe9    "))  # Latin-1
    assert tags.read_genres(path) == ["Café    "]
    tags.write_genres(path, ["Rock"])
    assert tags.read_tags(path) == ("T", "A", "", ["Rock"]) and b"Caf\xe9" in path.read_bytes()


def test_old_id3_tags_are_read(tmp_path):
    path = mp3(tmp_path / "v1.mp3", b"", ID3V1)
    assert tags.read_tags(path) == ("Title", "Artist", "", ["Rock"])
    frames = [name + struct.pack(">I", 2)[1:] + b"\0" + letter for name, letter in ((b"TT2", b"x"), (b"TP1", b"y"))]
    path = mp3(tmp_path / "v22.mp3", id3(2, [*frames, b"TAL\0\0\2\0z", b"TCO\0\0\5\0(17)"]))
    assert tags.read_tags(path) == ("x", "y", "z", ["Rock"])


def test_compressed_fields_are_not_expanded(tmp_path):
    data = struct.pack(">I", 5) + zlib.compress(b"\0Album")
    path = mp3(tmp_path / "song.mp3", id3(3, [frame(3, b"TALB", data, 0x80), frame(3, b"TIT2", b"\0x")]))
    assert tags.read_tags(path) == ("x", "", "", [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp3")
    pipe = os.open(tmp_path / "pipe.mp3", os.O_RDWR | os.O_NONBLOCK)  # otherwise a reader would wait forever
    os.write(pipe, b"ID3" * 100)
    with pytest.raises(tags.TagError, match="format are not supported"):
        tags.read_genres(tmp_path / "pipe.mp3")
    assert len(os.read(pipe, 1000)) == 300
    os.close(pipe)


def test_errors_can_be_pickled():
    error = pickle.loads(pickle.dumps(tags.TagError("a.mp3", "damaged")))
    assert type(error) is tags.TagError and (error.path, error.reason) == ("a.mp3", "damaged")
    assert str(error) == "a.mp3: damaged" and isinstance(error, ValueError)
