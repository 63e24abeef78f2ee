"""Genres in each format of tags, with everything else unchanged."""

import io
import shutil
import struct
import subprocess
import zlib

import mutagen
import numpy as np
import pytest
import soundfile
from conftest import write_sine
from genrekeras import tags
from mutagen.apev2 import APEv2, APEValue
from mutagen.asf import ASF
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, ID3, PRIV, TIT2, TPE1
from mutagen.mp4 import MP4, MP4Cover, MP4FreeForm
from tag_files import ID3V1, frame, frames_of, id3, mp3, other_tags, refused, stream_hash, synchsafe

# name -> options of ffmpeg
SONGS = {
    "none.mp3": ("-write_id3v1", "0", "-id3v2_version", "0"),
    "v1.mp3": ("-write_id3v1", "0", "-id3v2_version", "0"),
    "v23.mp3": ("-id3v2_version", "3", "-write_id3v1", "1"),
    "v24.mp3": ("-id3v2_version", "4"),
    "ape.mp3": ("-id3v2_version", "4", "-write_apetag", "1"),
    "a.flac": (),
    "a.ogg": ("-c:a", "libvorbis"),
    "flac.oga": ("-c:a", "flac"),
    "a.opus": ("-c:a", "libopus"),
    "a.m4a": (),
    "faststart.m4a": ("-movflags", "+faststart"),
    "alac.m4a": ("-c:a", "alac"),
    "a.wma": (),
    "info.wav": (),
    "none.wav": ("-fflags", "+bitexact"),
    "id3.wav": ("-fflags", "+bitexact"),
    "id3.aiff": ("-write_id3v2", "1"),
    "none.aiff": (),
    "a.wv": (),
    "none.wv": ("-fflags", "+bitexact"),
}
# Silence, because ffmpeg cannot encode these formats. The first file was written by mpcenc 1.30.1.
SILENCE = {
    "none.mpc": bytes.fromhex(
        "4d50434b53480df604e5ef08a23a001b0b52470c010000000000000000454907a0011e01534f080c000000004150040f5354060112c053"
        "4503"
    ),
    # 0.1 s: descriptor, header, the offset of the only frame, and a frame with a flag that means silence
    "none.ape": struct.pack("<4s2H7I16x", b"MAC ", 3990, 0, 52, 24, 4, 0, 24, 0, 0)
    + struct.pack("<2H3I2HI", 1000, 0, 294912, 4410, 1, 16, 2, 44100)
    + struct.pack("<3I16x", 80, 0x80000000, 3),
}
WITH_PICTURE = ("v23.mp3", "v24.mp3", "a.flac", "a.m4a", "faststart.m4a", "id3.aiff")
TEXTS = {"title": "Дождь", "artist": "Артист", "album": "A", "track": "3/9", "genre": "Blues", "comment": "c" * 300}


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """dict, name -> path of a file of ffmpeg. The files are read-only for tests."""
    command = shutil.which("ffmpeg") or pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    folder = tmp_path_factory.mktemp("songs")
    sources = ["-f", "lavfi", "-i", "sine=440:r=48000:d=2", "-f", "lavfi", "-i", "testsrc=s=64x64:d=0.04"]
    picture = ["-map", "1:v", "-frames:v", "1", "-c:v", "png", "-disposition:v", "attached_pic"]
    texts = [text for key, value in TEXTS.items() for text in ("-metadata", f"{key}={value}")]
    outputs = []
    for name, options in SONGS.items():
        metadata = [] if name in ("v1.mp3", "id3.wav") or name.startswith("none") else texts
        outputs += ["-map", "0:a", *(picture if name in WITH_PICTURE else []), *metadata, *options, str(folder / name)]
    subprocess.run([command, "-v", "error", *sources, *outputs], check=True)
    tag = id3(3, [frame(3, b"TIT2", b"\0Title"), frame(3, b"TCON", b"\0Blues"), frame(3, b"XYZA", b"unknown")])
    _add_chunks(folder / "id3.wav", (b"id3 ", tag))
    with open(folder / "v1.mp3", "ab") as file:
        file.write(ID3V1[:-1] + b"\0")  # Blues
    for name, content in SILENCE.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in (*SONGS, *SILENCE)}


def _add_chunks(path, *chunks):
    """Add chunks to the end of a WAV file."""
    data = path.read_bytes()
    for name, content in chunks:
        data += name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])


@pytest.mark.parametrize("name", [*SONGS, "none.mpc"])  # ffmpeg takes the tag of an ape file for audio
def test_several_genres_are_written_and_nothing_else_changes(songs, ffmpeg, tmp_path, name):
    path = tmp_path / name
    shutil.copy(songs[name], path)
    before, audio, others = path.read_bytes(), stream_hash(path), other_tags(path)
    assert tags.read_genres(path) == ([] if name.startswith("none") else ["Blues"])
    genres = ["Hip-Hop", "R&B/Soul", "Джаз"]
    change = tags.write_genres(path, genres)
    assert tags.read_genres(path) == genres == _genres_by_mutagen(path)
    assert stream_hash(path) == audio and (others is None or other_tags(path) == others)
    assert "Hip-Hop" in subprocess.run(["ffmpeg", "-i", path], capture_output=True, text=True).stderr
    assert sum(len(hunk.old) for hunk in change.hunks) < 2000  # neither audio nor pictures
    again = tags.write_genres(path, ["Rock"])
    assert _genres_by_mutagen(path) == ["Rock"] and stream_hash(path) == audio
    assert tags.restore(again) and tags.restore(change) and path.read_bytes() == before


def _genres_by_mutagen(path):
    file = mutagen.File(path)
    if isinstance(file.tags, ID3):
        return file.tags["TCON"].text
    key = {MP4: "\xa9gen", ASF: "WM/Genre"}.get(type(file), "genre")
    return [str(text) for text in file.tags[key]]


@pytest.mark.parametrize("name", ["a.m4a", "faststart.m4a"])
def test_the_numeric_genre_of_an_m4a_file_is_kept(songs, ffmpeg, tmp_path, name):
    path = tmp_path / name
    shutil.copy(songs[name], path)
    tags.write_genres(path, ["Xx"])
    text = struct.pack(">I4sI4s2I2s", 26, b"\xa9gen", 18, b"data", 1, 0, b"Xx")
    number = struct.pack(">I4sI4s2IH", 26, b"gnre", 18, b"data", 0, 0, 18)  # Rock
    before = path.read_bytes().replace(text, number)
    path.write_bytes(before)
    audio = stream_hash(path)
    assert tags.read_genres(path) == ["Rock"]
    change = tags.write_genres(path, ["Jazz", "Pop"])
    assert tags.read_genres(path) == ["Jazz", "Pop"]
    assert stream_hash(path) == audio and number in path.read_bytes()
    assert tags.restore(change) and path.read_bytes() == before


def test_mp4_atoms_that_mutagen_would_write_in_another_way_keep_their_bytes(songs, tmp_path):
    path = tmp_path / "song.m4a"
    shutil.copy(songs["a.m4a"], path)
    file = MP4(path)
    file["disk"], file["covr"] = [(1, 2)], [MP4Cover(b"\x89PNG" * 1000, 14)]
    file["----:com.apple.iTunes:ISRC"] = [MP4FreeForm(b"QM", 0)]
    file.save()
    data = path.read_bytes()
    disk = struct.pack(">I4sI4s2I3H", 30, b"disk", 22, b"data", 0, 0, 0, 1, 2)
    odd = struct.pack(">I4sI4s2I3H", 30, b"odd!", 22, b"data", 0x15, 0x12345678, 0, 1, 2)
    assert disk in data
    path.write_bytes(data.replace(disk, odd))
    tags.write_genres(path, ["Jazz"])
    assert odd in path.read_bytes() and MP4(path)["----:com.apple.iTunes:ISRC"] == [b"QM"]


def test_offsets_of_an_mp4_file_move_with_its_audio(songs, ffmpeg, tmp_path):
    """The tags come before the audio and have no room."""
    path = tmp_path / "song.m4a"
    shutil.copy(songs["faststart.m4a"], path)
    audio = stream_hash(path)
    change = tags.write_genres(path, [f"A genre with the number {number}" for number in range(500)])
    assert path.stat().st_size > songs["faststart.m4a"].stat().st_size + 10_000
    assert stream_hash(path) == audio and len(change.hunks) < 10
    assert tags.restore(change) and path.read_bytes() == songs["faststart.m4a"].read_bytes()


def test_a_fragmented_mp4_file_is_refused(ffmpeg, tmp_path):
    path = tmp_path / "song.m4a"
    ffmpeg("-i", write_sine(tmp_path / "sine.wav", 440, seconds=0.5), "-movflags", "frag_keyframe+empty_moov", path)
    with refused(path, "fragmented"):
        tags.write_genres(path, ["Rock"])
    with pytest.raises(tags.TagError, match="fragmented"):
        tags.check_writable(path)


def test_pages_of_an_ogg_file_are_numbered_again(songs, ffmpeg, tmp_path):
    path = tmp_path / "song.ogg"
    shutil.copy(songs["a.ogg"], path)
    audio, before = stream_hash(path), path.read_bytes()
    change = tags.write_genres(path, [f"A genre with the number {number}" for number in range(9000)])  # many pages
    assert stream_hash(path) == audio and len(tags.read_genres(path)) == 9000
    assert tags.restore(change) and path.read_bytes() == before


def test_each_stream_of_an_ogg_file_is_kept(ffmpeg, tmp_path):
    source, path = write_sine(tmp_path / "sine.wav", 440, seconds=0.5, rate=48000), tmp_path / "song.ogg"
    ffmpeg("-i", source, "-i", source, "-map", "0", "-map", "1", "-c:a:0", "libvorbis", "-c:a:1", "libopus", path)
    audio, before = stream_hash(path), path.read_bytes()
    change = tags.write_genres(path, ["Rock"])
    assert tags.read_genres(path) == ["Rock"] and stream_hash(path) == audio
    assert tags.restore(change) and path.read_bytes() == before


@pytest.mark.parametrize("name", ["none.wv", *SILENCE])
def test_an_apev2_tag_before_an_id3v1_tag_is_changed_and_the_id3v1_tag_is_kept(songs, tmp_path, name):
    path, ape, tag = tmp_path / name, io.BytesIO(), APEv2()
    tag["Title"], tag["genre"], tag["Artist"] = "T", ["Old", "Older"], ["A", "B"]
    tag["Cover Art (Front)"] = APEValue(b"x.png\0\x89PNG" * 100, 1)
    tag.save(ape)
    path.write_bytes(songs[name].read_bytes() + ape.getvalue() + ID3V1)
    before, others = path.read_bytes(), other_tags(path)
    change = tags.write_genres(path, ["Jazz", "Pop"])
    assert tags.read_genres(path) == ["Jazz", "Pop"] and other_tags(path) == others
    assert path.read_bytes().endswith(ID3V1) and path.read_bytes().startswith(songs[name].read_bytes())
    assert tags.restore(change) and path.read_bytes() == before


@pytest.mark.parametrize("kind", ["flac", "ogg"])
def test_other_vorbis_comments_and_pictures_are_kept(tmp_path, kind):
    path = write_sine(tmp_path / f"song.{kind}", 440, seconds=0.5)
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
    before = other_tags(path)
    assert tags.read_genres(path) == ["Old", "Older"]
    tags.write_genres(path, ["Rock"])
    assert tags.read_genres(path) == ["Rock"] and other_tags(path) == before
    assert kind == "ogg" or [block.write() for block in FLAC(path).pictures] == [picture.write()]


@pytest.mark.parametrize("kind", ["flac", "ogg"])
def test_vorbis_comments_that_are_not_utf8_keep_their_bytes(tmp_path, kind):
    path = write_sine(tmp_path / f"song.{kind}", 440, seconds=0.5)
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    file["title"], file["genre"] = "ääää", "Old"
    file.save()
    if kind == "flac":  # the checksum of an ogg page would be wrong
        path.write_bytes(path.read_bytes().replace("ääää".encode(), b"\xe4\xe4\xe4\xe4\xe4\xe4\xe4="))  # Latin-1
    tags.write_genres(path, ["Rock"])
    assert tags.read_genres(path) == ["Rock"] and path.read_bytes().count(b"Old") == 0
    assert kind == "ogg" or b"title=\xe4\xe4\xe4\xe4\xe4\xe4\xe4=" in path.read_bytes().lower()


def test_a_flac_file_without_comments_gets_some(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440, seconds=0.5)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\x80" + data[5:42] + data[data.index(b"\xff\xf8") :])  # the first block is the last
    before = path.read_bytes()
    assert len(FLAC(path).metadata_blocks) == 1
    change = tags.write_genres(path, ["Rock"])
    assert tags.read_genres(path) == ["Rock"] and len(FLAC(path).metadata_blocks) == 2
    assert soundfile.read(path)[0].any()
    assert tags.restore(change) and path.read_bytes() == before


@pytest.mark.parametrize("version", [2, 3, 4])
def test_an_id3_tag_keeps_its_version_and_all_other_frames(tmp_path, version, rng):
    if version == 2:
        names = (b"TP1", b"TCO", b"XYZ", b"TYE", b"PIC", b"TT2")
    else:
        names = (b"TPE1", b"TCON", b"XYZA", b"TYER", b"APIC", b"TIT2")
    artist, genre, unknown, year, picture, title = names
    frames = [
        frame(version, artist, b"\0A"),
        frame(version, artist, b"\0B"),  # a second frame violates the standard
        frame(version, picture, b"\0image/png\0\3\0" + rng.bytes(2_000_000)),
        frame(version, genre, b"\0Old"),
        frame(version, unknown, b"of no known kind"),
        frame(version, year, b"\x001999"),  # not of ID3v2.4
        frame(version, title, b""),  # an empty frame violates the standard
    ]
    if version > 2:
        length = struct.pack(">I", 3) if version == 3 else synchsafe(3)
        frames += [
            frame(version, b"RVAD", b"\0\1\2\3"),
            frame(version, b"TALB", length + zlib.compress(b"\0x\0"), 0x80 if version == 3 else 0x09),
            frame(version, b"TBPM", b"\x01secret", 0x40 if version == 3 else 0x04),  # encrypted
        ]
    ape, tag = io.BytesIO(), APEv2()
    tag["Genre"] = "Old"
    tag.save(ape)
    path = mp3(tmp_path / "song.mp3", id3(version, frames), ape.getvalue() + ID3V1)
    before = path.read_bytes()
    assert tags.read_genres(path) == ["Old"]
    for genres in (["Soul/RnB"], ["Джаз", "Soul"]):
        change = tags.write_genres(path, genres)
        assert tags.read_genres(path) == genres and frames_of(path.read_bytes()) == frames_of(before)
        assert len(frames_of(before)[1]) == len(frames) - 1 and path.read_bytes().endswith(ape.getvalue() + ID3V1)
        assert sum(len(hunk.old) for hunk in change.hunks) < 100
        assert tags.restore(change) and path.read_bytes() == before


@pytest.mark.parametrize("kind", ["wav", "aiff"])
def test_an_id3_chunk_keeps_its_version_and_all_other_frames(tmp_path, kind):
    path = write_sine(tmp_path / f"song.{kind}", 440, seconds=0.5)
    file = mutagen.File(path)
    file.add_tags()
    file.tags.add(TIT2(encoding=1, text=["Дождь"]))
    file.tags.add(TPE1(encoding=1, text=["A", "B"]))
    file.tags.add(PRIV(owner="x", data=b"\0\1"))
    file.tags.add(APIC(encoding=0, mime="image/png", type=3, desc="", data=b"\x89PNG" * 1000))
    file.tags.unknown_frames, file.tags._unknown_v2_version = [frame(3, b"XYZA", b"of no known kind")], 3
    file.save(v2_version=3, v23_sep=None)
    with open(path, "ab") as opened:  # another chunk after the tag
        opened.write(b"note" + struct.pack("<I" if kind == "wav" else ">I", 4) + b"kept")
        size = opened.tell() - 8
    with open(path, "r+b") as opened:
        opened.seek(4)
        opened.write(struct.pack("<I" if kind == "wav" else ">I", size))
    before = path.read_bytes()
    tags.write_genres(path, ["Rock"])
    after = path.read_bytes()
    assert tags.read_genres(path) == ["Rock"] and after.endswith(before[-12:])
    new, old = frames_of(after[after.index(b"ID3\3") :]), frames_of(before[before.index(b"ID3\3") :])
    assert new[:2] == old[:2] and len(old[1]) == 5


@pytest.mark.parametrize("version", [3, 4])
def test_frames_of_an_unsynchronised_tag_remain_readable(tmp_path, version):
    private = frame(version, b"PRIV", b"x\0\xff\0\xe0")
    if version == 3:  # the size is that before the unsynchronisation
        private = private[:7] + b"\4" + private[8:]
    path = mp3(tmp_path / "song.mp3", id3(version, [private, frame(version, b"TCON", b"\0Old")], flags=0x80))
    assert ID3(path)["PRIV:x:\xff\xe0"].data == b"\xff\xe0" and tags.read_genres(path) == ["Old"]
    tags.write_genres(path, ["Rock"])
    assert ID3(path)["PRIV:x:\xff\xe0"].data == b"\xff\xe0" and tags.read_genres(path) == ["Rock"]


def test_frames_with_wrong_sizes_of_itunes_are_kept(tmp_path):
    frames = [frame(3, b"TCON", b"\0Old"), frame(3, b"APIC", b"\0image/png\0\3\0" + bytes(100_000))]
    frames += [frame(3, b"TALB", b"\0" + b"a" * 300), frame(3, b"TIT2", b"\0Title")]
    path = mp3(tmp_path / "song.mp3", id3(4, frames))  # ID3v2.4, where sizes have seven bits a byte
    before = ID3(path)
    tags.write_genres(path, ["Rock"])
    after = ID3(path)
    assert len(after) == 4 and all(after[key] == before[key] for key in ("APIC:", "TALB", "TIT2"))


def test_fields_of_an_id3v1_tag_are_copied_to_the_new_tag(tmp_path):
    path = mp3(tmp_path / "song.mp3", b"", ID3V1)
    before = path.read_bytes()
    assert tags.read_genres(path) == ["Rock"]
    tags.write_genres(path, ["Folk"])
    assert tags.read_genres(path) == ["Folk"] and path.read_bytes().endswith(before)
    tag = ID3(path, load_v1=False)
    assert [str(tag[name]) for name in ("TIT2", "TPE1", "TRCK")] == ["Title", "Artist", "7"]


@pytest.mark.parametrize("end", [b"", ID3V1])
def test_an_apev2_tag_of_an_mp3_file_is_read_and_copied_but_not_changed(tmp_path, end):
    ape, tag = io.BytesIO(), APEv2()
    tag["Title"], tag["Artist"], tag["GENRE"], tag["Track"] = "A longer title", ["A", "B"], ["Dub", "Ska"], "3/9"
    tag["Cover Art (Front)"] = APEValue(b"x.png\0\x89PNG", 1)
    tag.save(ape)
    path = mp3(tmp_path / "song.mp3", b"", ape.getvalue() + end)
    before = path.read_bytes()
    assert tags.read_tags(path) == ("A longer title", "A", "", ["Dub", "Ska"])
    change = tags.write_genres(path, ["Folk", "Pop"])
    assert path.read_bytes().endswith(before) and tags.read_genres(path) == ["Folk", "Pop"]
    frames = {name: frame.text for name, frame in ID3(path, load_v1=False).items()}
    assert frames == {"TIT2": ["A longer title"], "TPE1": ["A", "B"], "TRCK": ["3/9"], "TCON": ["Folk", "Pop"]}
    assert tags.restore(change) and path.read_bytes() == before
    path.write_bytes(id3(3, [frame(3, b"TIT2", b"\0x")]) + before)  # An ID3v2 tag is read first.
    assert tags.read_tags(path) == ("x", "A", "", ["Dub", "Ska"])


def test_an_extended_header_and_a_footer_are_kept(tmp_path):
    frames = [frame(4, b"TIT2", b"\0Title"), frame(4, b"TCON", b"\0Old")]
    path = mp3(tmp_path / "v24.mp3", id3(4, [synchsafe(6) + b"\1\0", *frames], flags=0x40))
    tags.write_genres(path, ["Jazz"])
    assert path.read_bytes()[5:6] == b"\x40" and path.read_bytes()[10:16] == synchsafe(6) + b"\1\0"
    assert tags.read_tags(path)[::3] == ("Title", ["Jazz"])
    frames = [frame(3, b"TIT2", b"\0Title"), frame(3, b"TCON", b"\0Old")]
    path = mp3(tmp_path / "v23.mp3", id3(3, [struct.pack(">IHI", 6, 0, 50), *frames], flags=0x40))
    tags.write_genres(path, ["Jazz"])
    assert path.read_bytes()[5:6] == b"\x40" and tags.read_tags(path)[::3] == ("Title", ["Jazz"])
    path = mp3(tmp_path / "itunes.mp3", id3(3, frames, flags=0x40))  # without an extended header
    tags.write_genres(path, ["Jazz"])
    assert tags.read_tags(path)[::3] == ("Title", ["Jazz"])
    tag = id3(4, [frame(4, b"TCON", b"\0Old")], flags=0x10, padding=0)
    path = mp3(tmp_path / "footer.mp3", tag + b"3DI" + tag[3:10])
    sound = path.read_bytes()[len(tag) + 10 :]
    tags.write_genres(path, ["Jazz"])
    data = path.read_bytes()
    assert tags.read_genres(path) == ["Jazz"] and data.endswith(b"3DI" + data[3:10] + sound)


@pytest.mark.parametrize(
    "tag, match",
    [
        (id3(3, [frame(3, b"TIT2", b"\0" + b"x" * 100)[:-50]], padding=0), "sizes of its frames are wrong"),
        (id3(3, [frame(3, b"TIT2", b"\0x"), bytes(10), b"rest"]), "sizes of its frames are wrong"),
        (id3(4, [frame(4, b"T\xe4T2", b"\0x")]), "sizes of its frames are wrong"),
        (
            id3(3, [struct.pack(">IHII", 10, 0x8000, 0, 7), frame(3, b"TIT2", b"\0x")], flags=0x40),
            "contains a checksum",
        ),
        (id3(4, [synchsafe(100), frame(4, b"TIT2", b"\0x")], flags=0x40, padding=0), "extended header|cannot be read"),
        (id3(2, [frame(2, b"TT2", b"\0x")], flags=0x40), "ID3v2.2 tag is compressed|cannot be read"),
        (b"ID3\3\0\0\x7f\x7f\x7f\x7f", "damaged or cut short"),
        (b"ID3\5\0\0\0\0\0\x0a" + bytes(10), "version that is not supported|cannot be read"),
        (id3(3, [frame(3, b"TCON", struct.pack(">I", 5) + zlib.compress(b"\0Rock"), 0x80)]), "genre cannot be read"),
    ],
)
def test_id3_tags_that_cannot_be_kept_are_refused(tmp_path, tag, match):
    path = mp3(tmp_path / "song.mp3", tag)
    with refused(path, match):
        tags.write_genres(path, ["Rock"])


def test_an_empty_genre_frame_is_replaced(tmp_path):
    path = mp3(tmp_path / "song.mp3", id3(3, [frame(3, b"TCON", b"\0"), frame(3, b"TIT2", b"\0x")]))
    tags.write_genres(path, ["Rock"])
    assert tags.read_tags(path)[::3] == ("x", ["Rock"])


def test_an_id3_chunk_in_upper_case(tmp_path):
    path = write_sine(tmp_path / "song.wav", 440, seconds=0.5)
    _add_chunks(path, (b"ID3 ", id3(3, [frame(3, b"TCON", b"\0Rock")])), (b"note", b"kept"))
    before = path.read_bytes()
    change = tags.write_genres(path, ["Jazz"])
    assert tags.read_genres(path) == ["Jazz"] and b"id3 " not in path.read_bytes()
    assert tags.restore(change) and path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no tag", b"ID3\5\0\0\0\0\0\0"])
def test_id3_chunks_that_cannot_be_kept_are_refused(tmp_path, content):
    path = write_sine(tmp_path / "song.wav", 440, seconds=0.5)
    _add_chunks(path, (b"id3 ", content))
    with refused(path, "ID3 tag is damaged|cannot be read"):
        tags.write_genres(path, ["Rock"])
    path = write_sine(tmp_path / "song.wav", 440, seconds=0.5)
    _add_chunks(path, (b"id3 ", id3(3, [])), (b"ID3 ", id3(3, [])))
    with refused(path, "several ID3 tags"):
        tags.write_genres(path, ["Rock"])


def test_a_wav_file_without_its_last_padding_byte(tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, np.zeros(1001), 8000, subtype="PCM_U8")
    data = path.read_bytes()
    assert len(data) % 2 == 0
    for content in (data[:-1], data):  # the size in the header is odd in both cases
        path.write_bytes(content[:4] + struct.pack("<I", len(data) - 9) + content[8:])
        before, sound = path.read_bytes(), soundfile.read(path)[0]
        first = tags.write_genres(path, ["Rock"])
        second = tags.write_genres(path, ["Jazz"])
        assert tags.read_genres(path) == ["Jazz"] and len(path.read_bytes()) % 2 == 0
        assert struct.unpack("<I", path.read_bytes()[4:8])[0] == len(path.read_bytes()) - 8
        np.testing.assert_array_equal(soundfile.read(path)[0], sound)
        assert tags.restore(second) and tags.restore(first) and path.read_bytes() == before


def test_another_kind_of_file_with_an_id3_tag_is_refused(tmp_path):
    for kind in ("flac", "wav", "ogg"):
        path = write_sine(tmp_path / f"song.{kind}", 440, seconds=0.5)
        path = path.rename(tmp_path / f"{kind}.mp3")
        path.write_bytes(id3(3, [frame(3, b"TCON", b"\0Old")]) + path.read_bytes())
        with refused(path, "it is not an mp3 file|cannot be read"):
            tags.write_genres(path, ["Rock"])
