"""Genres in tags: reading and writing, with everything else unchanged."""

import contextlib
import io
import os
import pickle
import stat
import struct
import zlib

import hypothesis
import mutagen
import numpy as np
import pandas
import pytest
from conftest import write_sine
from genrekeras import audio, tags
from genrekeras.cli.files import _write_tags
from hypothesis import strategies as st
from mutagen.apev2 import APEv2
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, ID3, PRIV, TALB, TCON, TIT2, TPE1
from mutagen.mp4 import MP4, MP4Cover, MP4FreeForm

KINDS = ("mp3", "flac", "ogg", "wav", "aiff")


@contextlib.contextmanager
def refused(path, match):
    """Expect a `TagError` that names the file. The file must not change, and no file may be added."""
    before, names = path.read_bytes(), os.listdir(path.parent)
    with pytest.raises(tags.TagError, match=match) as caught:
        yield
    assert caught.value.path == str(path) and caught.value.reason in str(caught.value)
    assert path.read_bytes() == before and os.listdir(path.parent) == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_genre_is_written_and_nothing_else_changes(tmp_path, kind):
    path = write_sine(tmp_path / f"ü 'song'.{kind}", 440)
    before, sound = path.read_bytes(), audio.load(path)
    path.chmod(0o640)
    tags.write_genre(path, "Hip-Hop", copy=tmp_path / "old")
    assert tags.read_genres(path) == ["Hip-Hop"]
    np.testing.assert_array_equal(audio.load(path), sound)
    assert (tmp_path / "old").read_bytes() == before and stat.S_IMODE(path.stat().st_mode) == 0o640
    tags.write_genre(path, "Folk", copy=tmp_path / "old")
    assert tags.read_genres(path) == ["Folk"] and (tmp_path / "old").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, "old"])


@pytest.mark.parametrize("kind", [*KINDS, "m4a", "wma", "opus"])
def test_title_artist_album_and_genres_are_read(request, tmp_path, kind):
    path = tmp_path / f"song.{kind}"
    if kind in KINDS:
        write_sine(path, 440)
    else:
        request.getfixturevalue("ffmpeg")("-i", write_sine(tmp_path / "sine.wav", 440, rate=48000), path)
    assert tags.read_tags(path) == ("", "", "", [])
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if isinstance(file.tags, ID3):
        for frame, text in ((TIT2, [" Дождь "]), (TPE1, ["A", "B"]), (TALB, ["C"]), (TCON, ["17", "Jazz/Pop"])):
            file.tags.add(frame(encoding=3, text=text))
    else:
        names = {
            "m4a": ("\xa9nam", "\xa9ART", "\xa9alb", "\xa9gen"),
            "wma": ("Title", "Author", "WM/AlbumTitle", "WM/Genre"),
        }.get(kind, ("TITLE", "artist", "album", "Genre"))
        for name, values in zip(names, ([" Дождь "], ["A", "B"], ["C"], ["17", "Jazz/Pop"]), strict=True):
            file.tags[name] = values
    file.save()
    title, artist, album, genres = tags.read_tags(path)
    assert (title, artist, album) == ("Дождь", "A", "C")
    assert genres == ["Rock" if isinstance(file.tags, ID3) else "17", "Jazz/Pop"]
    assert tags.split_genres(genres) == ["Rock", "Jazz", "Pop"]
    assert tags.read_genres(path) == genres


def test_old_id3_tags_are_read(tmp_path):
    path = _mp3(tmp_path / "v1.mp3", b"", ID3V1)
    assert tags.read_tags(path) == ("Title", "Artist", "", ["Rock"])
    frames = [name + struct.pack(">I", 2)[1:] + b"\0" + letter for name, letter in ((b"TT2", b"x"), (b"TP1", b"y"))]
    path = _mp3(tmp_path / "v22.mp3", _id3(2, [*frames, b"TAL\0\0\2\0z", b"TCO\0\0\5\0(17)"]))
    assert tags.read_tags(path) == ("x", "y", "z", ["Rock"])


def test_compressed_fields_are_not_expanded(tmp_path):
    data = struct.pack(">I", 5) + zlib.compress(b"\0Album")
    path = _mp3(tmp_path / "song.mp3", _id3(3, [_frame(3, b"TALB", data, 0x80), _frame(3, b"TIT2", b"\0x")]))
    assert tags.read_tags(path) == ("x", "", "", [])


@pytest.mark.parametrize(
    "values, genres",
    [
        (["Rock"], ["Rock"]),
        (["Rock; Pop ;Jazz"], ["Rock", "Pop", "Jazz"]),
        (["Rock\0Pop", "Jazz"], ["Rock", "Pop", "Jazz"]),
        (["Hip-Hop/Rap", "R&B/Soul"], ["Hip-Hop", "Rap", "R&B", "Soul"]),
        (["Drum & Bass, Jazz+Funk, Lo-Fi"], ["Drum & Bass", "Jazz+Funk", "Lo-Fi"]),
        (["Singer/Songwriter; Pop"], ["Singer/Songwriter", "Pop"]),
        (["Pop, singer / songwriter"], ["Pop", "singer / songwriter"]),
        (["Folk, World, & Country"], ["Folk, World, & Country"]),
        (["(17)", "4", "(62)", "(4)(17)Hard"], ["Rock", "Disco", "Pop/Funk", "Hard"]),
        (["rock", "Rock", "ROCK/Pop"], ["rock", "Pop"]),
        (["  Old-Time  /\n  Historic"], ["Old-Time", "Historic"]),
        (["Other", "unknown", "12", "255", "None", "-", ";/,", ""], []),
        (["Cafe\u0301"], ["Caf\xe9"]),
        ([], []),
    ],
)
def test_values_are_split_into_genres(values, genres):
    assert tags.split_genres(values) == genres


def test_the_most_frequent_spelling_of_a_genre_is_chosen():
    spellings = ["Hip Hop", "hip-hop", "Hip\u2010Hop", "Hip Hop", "Drum & Bass", "Drum and Bass", "Jazz"]
    spellings += ["Électro", "électro"]
    chosen = tags.merge_spellings(spellings)
    assert set(chosen) == set(spellings)
    assert {chosen[name] for name in spellings[:4]} == {"Hip Hop"}
    assert chosen["Drum and Bass"] == "Drum & Bass" and chosen["Jazz"] == "Jazz" and chosen["électro"] == "Électro"
    assert tags.spelling_key("Hip_Hop") == tags.spelling_key("HIP HOP") != tags.spelling_key("Hip-Hops")


names = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=";/,"), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    return {kind: write_sine(folder / f"song.{kind}", 440, seconds=0.2, rate=22050) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(letter=st.characters(categories=("L",)), words=st.lists(names, min_size=1, max_size=3))
@hypothesis.settings(max_examples=15)
def test_the_genre_that_is_written_is_read(song, kind, letter, words):
    """It begins with a letter, so ID3 does not read it as a number."""
    genre = letter + " ".join(words)
    tags.write_genre(song[kind], genre)
    assert tags.read_tags(song[kind]).genres == [genre]
    [separate] = tags.split_genres([genre])
    assert tags.spelling_key(separate) == tags.spelling_key(genre)


def test_a_file_that_has_the_genre_is_not_written(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440)
    tags.write_genre(path, "Rock")
    before = path.stat()
    tags.write_genre(path, "Rock")
    assert os.path.samestat(path.stat(), before) and path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("kind", ["m4a", "wma", "opus"])
def test_a_genre_is_written_to_files_of_ffmpeg(ffmpeg, tmp_path, kind):
    write_sine(tmp_path / "sine.wav", 440, rate=48000)
    path = tmp_path / f"song.{kind}"
    ffmpeg("-i", tmp_path / "sine.wav", "-metadata", "title=Дождь", "-metadata", "genre=Old", path)
    if kind == "m4a":
        file = MP4(path)
        file["covr"], file["----:com.apple.iTunes:ISRC"] = [MP4Cover(b"\x89PNG" * 1000, 14)], [MP4FreeForm(b"QM", 0)]
        file.save()
    sound, before = audio.load(path), _tags_but_genre(path)
    tags.write_genre(path, "Hip-Hop")
    assert tags.read_genres(path) == ["Hip-Hop"]
    np.testing.assert_array_equal(audio.load(path), sound)
    assert _tags_but_genre(path) == before and "Дождь" in str(before)


def _tags_but_genre(path):
    file = mutagen.File(path)
    return {key: file.tags[key] for key in file.tags.keys() if key.lower() not in ("genre", "\xa9gen", "wm/genre")}


@pytest.mark.parametrize("kind", ["flac", "ogg"])
def test_other_vorbis_comments_and_pictures_are_kept(tmp_path, kind):
    path = write_sine(tmp_path / f"song.{kind}", 440)
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    file["title"], file["artist"], file["Genre"] = ["Дождь"], ["A", "B"], ["Old", "Older"]
    file["metadata_block_picture"] = ["x" * 100_000]  # over several pages of an ogg file
    if kind == "flac":
        picture = Picture()
        picture.type, picture.data = 3, bytes(range(256)) * 100
        file.add_picture(picture)
    file.save()
    before = _tags_but_genre(path)
    assert tags.read_genres(path) == ["Old", "Older"]
    tags.write_genre(path, "Rock")
    assert tags.read_genres(path) == ["Rock"] and _tags_but_genre(path) == before
    assert kind == "ogg" or [block.write() for block in FLAC(path).pictures] == [picture.write()]


def test_vorbis_comments_that_mutagen_cannot_keep_are_refused(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440)
    file = FLAC(path)
    file["title"] = "ää"
    file.save()
    path.write_bytes(path.read_bytes().replace("ää".encode(), b"\xe4\xe4\xe4\xe4"))  # Latin-1
    with refused(path, "Vorbis comments"):
        tags.write_genre(path, "Rock")


def _id3(version, frames, flags=0, padding=50):
    body = b"".join(frames) + bytes(padding)
    return b"ID3" + bytes([version, 0, flags]) + _synchsafe(len(body)) + body


def _synchsafe(number):
    return bytes([number >> shift & 127 for shift in (21, 14, 7, 0)])


def _frame(version, name, data, flags=0):
    size = _synchsafe(len(data)) if version == 4 else struct.pack(">I", len(data))
    return name + size + struct.pack(">H", flags) + data


def _frames(data):
    """The version of an ID3v2 tag, its frames as bytes but for the genre, and what follows the tag."""
    end = 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    frames, at = [], 10
    while at < end and data[at]:
        shifts = (21, 14, 7, 0) if data[3] == 4 else (24, 16, 8, 0)
        size = 10 + sum(byte << shift for byte, shift in zip(data[at + 4 : at + 8], shifts, strict=True))
        frames.append(data[at : at + size])
        at += size
    return data[3], [frame for frame in frames if frame[:4] != b"TCON"], data[end:]


ID3V1 = b"TAG" + b"Title".ljust(30, b" ") + b"Artist".ljust(90, b"\0") + b"\x07\x11"


def _mp3(path, tag, end=b""):
    write_sine(path, 440)
    path.write_bytes(tag + path.read_bytes() + end)
    return path


@pytest.mark.parametrize("version", [3, 4])
def test_an_id3_tag_keeps_its_version_and_all_other_frames(tmp_path, version, rng):
    compressed = (struct.pack(">I", 3) if version == 3 else _synchsafe(3)) + zlib.compress(b"\0x\0")
    frames = [
        _frame(version, b"TPE1", b"\0A"),
        _frame(version, b"TPE1", b"\0B"),  # a second frame violates the standard
        _frame(version, b"TCON", b"\0Old"),
        _frame(version, b"XYZA", b"of no known kind"),
        _frame(version, b"TYER", b"\x001999"),  # of ID3v2.3 only
        _frame(version, b"RVAD", b"\0\1\2\3"),
        _frame(version, b"TALB", compressed, 0x80 if version == 3 else 0x09),
        _frame(version, b"TBPM", b"\x01secret", 0x40 if version == 3 else 0x04),  # encrypted
        _frame(version, b"APIC", b"\0image/png\0\3\0" + rng.bytes(2_000_000)),
    ]
    ape, tag = io.BytesIO(), APEv2()
    tag["Genre"] = "Old"
    tag.save(ape)
    path = _mp3(tmp_path / "song.mp3", _id3(version, frames), ape.getvalue() + ID3V1)
    before = path.read_bytes()
    assert tags.read_genres(path) == ["Old"]
    tags.write_genre(path, "Soul/RnB")
    assert tags.read_genres(path) == ["Soul/RnB"] and _frames(path.read_bytes()) == _frames(before)
    assert len(_frames(before)[1]) == 8 and path.read_bytes().endswith(ape.getvalue() + ID3V1)


@pytest.mark.parametrize("kind", ["wav", "aiff"])
def test_an_id3_chunk_keeps_its_version_and_all_other_frames(tmp_path, kind):
    path = write_sine(tmp_path / f"song.{kind}", 440)
    file = mutagen.File(path)
    file.add_tags()
    for frame in (TIT2(encoding=1, text=["Дождь"]), TPE1(encoding=1, text=["A", "B"]), PRIV(owner="x", data=b"\0\1")):
        file.tags.add(frame)
    file.tags.add(APIC(encoding=0, mime="image/png", type=3, desc="", data=b"\x89PNG" * 1000))
    file.tags.unknown_frames, file.tags._unknown_v2_version = [_frame(3, b"XYZA", b"of no known kind")], 3
    file.save(v2_version=3, v23_sep=None)
    with open(path, "ab") as opened:  # another chunk after the tag
        opened.write(b"note" + struct.pack("<I" if kind == "wav" else ">I", 4) + b"kept")
        size = opened.tell() - 8
    with open(path, "r+b") as opened:
        opened.seek(4)
        opened.write(struct.pack("<I" if kind == "wav" else ">I", size))
    before = path.read_bytes()
    tags.write_genre(path, "Rock")
    after = path.read_bytes()
    assert tags.read_genres(path) == ["Rock"] and after.endswith(before[-12:])
    new, old = _frames(after[after.index(b"ID3\3") :]), _frames(before[before.index(b"ID3\3") :])
    assert new[:2] == old[:2] and len(old[1]) == 5


def test_frames_of_an_unsynchronised_tag_remain_readable(tmp_path):
    frames = [_frame(4, b"PRIV", b"x\0\xff\0\xe0"), _frame(4, b"TCON", b"\0Old")]
    path = _mp3(tmp_path / "song.mp3", _id3(4, frames, flags=0x80))
    tags.write_genre(path, "Rock")
    assert ID3(path)["PRIV:x:\xff\xe0"].data == b"\xff\xe0" and tags.read_genres(path) == ["Rock"]


def test_frames_with_wrong_sizes_of_itunes_are_kept(tmp_path):
    frames = [_frame(3, b"TCON", b"\0Old"), _frame(3, b"APIC", b"\0image/png\0\3\0" + bytes(100_000))]
    frames += [_frame(3, b"TALB", b"\0" + b"a" * 300), _frame(3, b"TIT2", b"\0Title")]
    path = _mp3(tmp_path / "song.mp3", _id3(4, frames))  # ID3v2.4, where sizes have seven bits a byte
    before = ID3(path)
    tags.write_genre(path, "Rock")
    after = ID3(path)
    assert len(after) == 4 and all(after[key] == before[key] for key in ("APIC:", "TALB", "TIT2"))


def test_fields_of_an_id3v1_tag_are_copied_to_the_new_tag(tmp_path):
    path = _mp3(tmp_path / "song.mp3", b"", ID3V1)
    before = path.read_bytes()
    assert tags.read_genres(path) == ["Rock"]
    tags.write_genre(path, "Folk")
    assert tags.read_genres(path) == ["Folk"] and path.read_bytes().endswith(before)
    tag = ID3(path, load_v1=False)
    assert [str(tag[name]) for name in ("TIT2", "TPE1", "TRCK")] == ["Title", "Artist", "7"]


def test_id3_tags_that_cannot_be_kept_are_refused(tmp_path):
    old = b"TT2\0\0\2\0xTCO\0\0\4\0Old"
    path = _mp3(tmp_path / "v22.mp3", _id3(2, [old]))
    assert tags.read_genres(path) == ["Old"]
    with refused(path, "ID3v2.2"):
        tags.write_genre(path, "Rock")
    path = _mp3(tmp_path / "cut.mp3", _id3(3, [_frame(3, b"TIT2", b"\0" + b"x" * 100)[:-50]], padding=0))
    with refused(path, "other tags would change"):
        tags.write_genre(path, "Rock")
    path = _mp3(tmp_path / "absurd.mp3", b"ID3\3\0\0\x7f\x7f\x7f\x7f")
    with refused(path, "damaged or cut short"):
        tags.write_genre(path, "Rock")


def test_a_compressed_genre_is_not_expanded(tmp_path):
    data = struct.pack(">I", 5) + zlib.compress(b"\0Rock")
    path = _mp3(tmp_path / "song.mp3", _id3(3, [_frame(3, b"TCON", data, 0x80)]))
    assert tags.read_genres(path) == []
    tags.write_genre(path, "Folk")
    assert tags.read_genres(path) == ["Folk"]


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
def test_a_file_with_wrong_sizes_is_refused_and_other_files_are_tagged(tmp_path, kind, wrong):
    path = write_sine(tmp_path / f"wrong.{kind}", 440)
    chunks = (b"RIFF", b"data") if kind == "wav" else (b"FORM", b"SSND")
    path.write_bytes(WRONG_SIZES[wrong](path.read_bytes(), *chunks))
    good = write_sine(tmp_path / "good.wav", 440)
    with refused(path, "would change|cannot be written"):
        tags.write_genre(path, "Rock")
    rows = [{"path": str(each), "genre": "Rock", "unsure": False, "low_confidence": False} for each in (path, good)]
    [error] = _write_tags(pandas.DataFrame(rows), keep_copies=False)
    assert error.path == str(path) and tags.read_genres(good) == ["Rock"]


def test_a_file_whose_audio_cannot_be_compared_is_refused(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440)
    path.write_bytes(path.read_bytes()[:200].ljust(8000, b"\0"))
    with refused(path, "cannot be decoded and compared"):
        tags.write_genre(path, "Rock")


def test_without_ffmpeg_an_m4a_file_is_refused(ffmpeg, tmp_path, monkeypatch):
    write_sine(tmp_path / "sine.wav", 440)
    ffmpeg("-i", tmp_path / "sine.wav", tmp_path / "song.m4a")
    monkeypatch.setenv("PATH", "")
    with refused(tmp_path / "song.m4a", "cannot be decoded and compared"):
        tags.write_genre(tmp_path / "song.m4a", "Rock")


@pytest.mark.parametrize("genre", ["", " ", "a\nb", "a\rb", "a\0b", "\x1b[2J", "a\u2028b", "\ud800"])
@pytest.mark.parametrize("kind", ["mp3", "flac"])
def test_genres_that_would_corrupt_a_tag_are_refused(tmp_path, kind, genre):
    path = write_sine(tmp_path / f"song.{kind}", 440, seconds=1)
    with refused(path, "`genre` must be"):
        tags.write_genre(path, genre)


def test_a_genre_that_id3_reads_as_a_number_is_refused(tmp_path):
    path = write_sine(tmp_path / "song.mp3", 440)
    with refused(path, r"would be read as \['Rock'\]"):
        tags.write_genre(path, "17")


def test_a_link_remains_a_link(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440)
    (tmp_path / "link.flac").symlink_to(path)
    tags.write_genre(tmp_path / "link.flac", "Rock")
    assert (tmp_path / "link.flac").is_symlink() and tags.read_genres(path) == ["Rock"]


def test_a_file_with_more_than_one_hard_link_is_refused(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440)
    os.link(path, tmp_path / "other.flac")
    with refused(path, "hard link"):
        tags.write_genre(path, "Rock", copy=tmp_path / "old")
    assert os.path.samefile(path, tmp_path / "other.flac")


@pytest.fixture
def foreign(tmp_path):
    """A file of another user."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can change the owner of a file")
    path = write_sine(tmp_path / "song.flac", 440)
    os.chown(path, 1234, 5678)
    path.chmod(0o2640)
    with contextlib.suppress(AttributeError, OSError):  # not on each system
        os.setxattr(path, "user.note", b"kept")
    return path


def test_the_owner_of_a_file_and_its_copy_is_kept(foreign, tmp_path):
    before = tags._attributes(foreign)
    assert before[:3] == (1234, 5678, 0o2640)
    tags.write_genre(foreign, "Rock", copy=tmp_path / "old")
    assert tags.read_genres(foreign) == ["Rock"]
    assert tags._attributes(foreign) == tags._attributes(tmp_path / "old") == before


def test_a_file_is_refused_if_its_owner_cannot_be_kept(foreign, monkeypatch):
    def forbidden(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", forbidden)
    with refused(foreign, "its owner"):
        tags.write_genre(foreign, "Rock")


def test_a_file_that_another_program_changes_is_not_replaced(tmp_path, monkeypatch):
    path, other = write_sine(tmp_path / "song.flac", 440), write_sine(tmp_path / "other.flac", 550)
    checksum, content = audio.checksum, other.read_bytes()

    def checksum_while_another_program_writes(name):
        if other.exists():
            other.replace(path)
        return checksum(name)

    monkeypatch.setattr(audio, "checksum", checksum_while_another_program_writes)
    with pytest.raises(tags.TagError, match="another program"):
        tags.write_genre(path, "Rock")
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["song.flac"]


def test_a_full_disk_leaves_the_file_unchanged(small_disk):
    disk, _ = small_disk
    path = write_sine(disk / "song.wav", 440, seconds=4.0)
    with refused(path, "No space left"):
        tags.write_genre(path, "Rock")


def test_files_that_cannot_be_tagged_are_unchanged(tmp_path, monkeypatch):
    (tmp_path / "text.mp3").write_text("no music")
    with refused(tmp_path / "text.mp3", "tags cannot be read"):
        tags.write_genre(tmp_path / "text.mp3", "Rock")
    (tmp_path / "text.txt").write_text("no music")
    with refused(tmp_path / "text.txt", "format are not supported"):
        tags.write_genre(tmp_path / "text.txt", "Rock")
    with pytest.raises(tags.TagError, match="No such file"):
        tags.read_genres(tmp_path / "none.mp3")
    with pytest.raises(tags.TagError, match="No such file"):
        tags.write_genre(tmp_path / "none.mp3", "Rock")
    path = write_sine(tmp_path / "song.flac", 440)

    def full(self, *arguments, **options):
        raise mutagen.MutagenError("No space left on device")

    monkeypatch.setattr("mutagen.flac.FLAC.save", full)
    with refused(path, "cannot be written: No space left"):
        tags.write_genre(path, "Rock")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp3")
    pipe = os.open(tmp_path / "pipe.mp3", os.O_RDWR | os.O_NONBLOCK)  # otherwise a reader would wait forever
    os.write(pipe, b"ID3" * 100)
    with pytest.raises(tags.TagError, match="format are not supported"):
        tags.read_genres(tmp_path / "pipe.mp3")
    assert len(os.read(pipe, 1000)) == 300
    os.close(pipe)


def test_a_read_only_file_is_refused(tmp_path, monkeypatch):
    path = write_sine(tmp_path / "song.flac", 440)
    path.chmod(0o444)
    if os.access(path, os.W_OK):  # as root
        monkeypatch.setattr(os, "access", lambda name, mode: False)
    with refused(path, "read-only"):
        tags.write_genre(path, "Rock")


def test_errors_can_be_pickled():
    error = pickle.loads(pickle.dumps(tags.TagError("a.mp3", "damaged")))
    assert type(error) is tags.TagError and (error.path, error.reason) == ("a.mp3", "damaged")
    assert str(error) == "a.mp3: damaged" and isinstance(error, ValueError)
