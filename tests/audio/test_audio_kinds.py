"""Kinds of audio files: each is read, with the length that ffmpeg decodes."""

import re
import struct
import subprocess

import mutagen.apev2
import mutagen.id3
import numpy as np
import pytest
import soundfile
from conftest import SHARED_CLIPS
from genrekeras import audio

SONGS = SHARED_CLIPS.parent / "songs"
SECONDS = 8


@pytest.fixture
def source(tmp_path, rng):
    """Stereo, almost silent at first and then noisy, so that a variable bitrate starts low."""
    path = tmp_path / "source.wav"
    loudness = np.repeat([0.001, 0.3], SECONDS // 2 * 44100)[:, None]
    soundfile.write(path, loudness * rng.uniform(-1, 1, (SECONDS * 44100, 2)), 44100)
    return path


def seconds_by_ffmpeg(path):
    """Length of the audio that ffmpeg decodes."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", path, "-map", "0:a:0", "-f", "au", "-c:a", "pcm_s16be", "-"]
    output = subprocess.run(list(map(str, command)), capture_output=True).stdout
    _, offset, _, _, rate, channels = struct.unpack(">4s5I", output[:24])
    return (len(output) - offset) / 2 / channels / rate


def assert_read(path, tolerance=0.1, **options):
    expected = seconds_by_ffmpeg(path)
    assert expected > 1
    waveform = audio.load(path, **options)
    assert len(waveform) / 22050 == pytest.approx(expected, abs=tolerance)
    assert audio.info(path).seconds == pytest.approx(expected, abs=tolerance + 0.1)
    return waveform


@pytest.mark.parametrize("xing", [0, 1])
@pytest.mark.parametrize("quality", [("-b:a", "64k"), ("-q:a", "5")], ids=["cbr", "vbr"])
@pytest.mark.parametrize("channels", [1, 2])
# MPEG 2.5, 2 and 1
@pytest.mark.parametrize(
    "rate",
    [8000, 22050, 44100, pytest.param(11025, marks=pytest.mark.slow), pytest.param(48000, marks=pytest.mark.slow)],
)
def test_mp3(ffmpeg, source, tmp_path, rate, channels, quality, xing):
    path = tmp_path / "x.mp3"
    ffmpeg("-i", source, "-ar", rate, "-ac", channels, *quality, "-write_xing", xing, path)
    waveform = assert_read(path)
    assert 0.05 < np.abs(waveform[-22050:]).max()  # the noisy end is not cut off


@pytest.mark.parametrize("joint", [0, 1])
def test_mp3_of_joint_and_separate_channels(ffmpeg, source, tmp_path, joint):
    ffmpeg("-i", source, "-joint_stereo", joint, tmp_path / "x.mp3")
    assert_read(tmp_path / "x.mp3")


@pytest.fixture(params=[("-b:a", "128k"), ("-b:a", "128k", "-write_xing", 0), ("-q:a", "5", "-write_xing", 0)])
def mp3(ffmpeg, source, tmp_path, request):
    path = tmp_path / "x.mp3"
    ffmpeg("-i", source, *request.param, "-id3v2_version", 0, path)
    return path


def test_mp3_with_a_large_cover(mp3, rng):
    """The cover contains bytes that look like frame headers."""
    tag = mutagen.id3.ID3()
    cover = rng.integers(0, 256, 2_000_000, dtype=np.uint8).tobytes()
    tag.add(mutagen.id3.APIC(encoding=3, mime="image/png", type=3, desc="cover", data=cover))
    tag.save(mp3, v1=0)
    assert_read(mp3)


def test_mp3_with_tags_at_the_end(mp3):
    ape = mutagen.apev2.APEv2()
    ape["Comment"] = "x" * 100_000
    ape.save(mp3)
    tag = mutagen.id3.ID3()
    tag.add(mutagen.id3.TIT2(encoding=3, text="title"))
    tag.save(mp3, v1=2)
    assert mp3.read_bytes()[-128:-125] == b"TAG"
    assert_read(mp3)


def test_concatenated_mp3(mp3):
    mp3.write_bytes(2 * mp3.read_bytes())
    waveform = assert_read(mp3)
    assert len(waveform) > 1.9 * SECONDS * 22050 and np.abs(waveform[-22050:]).max() > 0.05
    with audio.AudioFile(mp3) as file:  # after a seek too
        part = file.read(SECONDS + 4.0, 2.0)
    np.testing.assert_allclose(part, waveform[(SECONDS + 4) * 22050 :][: len(part)], atol=2e-6)


@pytest.mark.parametrize("count", [1, 1000, 30_000, 200_000])
def test_mp3_after_garbage(ffmpeg, mp3, rng, count):
    mp3.write_bytes(rng.integers(0, 256, count, dtype=np.uint8).tobytes() + mp3.read_bytes())
    assert len(audio.load(mp3)) / 22050 == pytest.approx(SECONDS, abs=0.15)


def test_a_damaged_xing_header(ffmpeg, source, tmp_path):
    """It states too few frames, too many, or none."""
    path = tmp_path / "x.mp3"
    ffmpeg("-i", source, path)
    content = bytearray(path.read_bytes())
    place = re.search(rb"(Xing|Info)", content).end() + 4
    for frames in (10, 1, 0):
        content[place : place + 4] = frames.to_bytes(4, "big")
        path.write_bytes(content)
        assert len(audio.load(path)) / 22050 == pytest.approx(SECONDS, abs=0.15)
    content[place : place + 4] = (100_000).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.warns(audio.AudioWarning, match=r"cut short: only 8\.\d s of 2612\.\d s"):
        assert len(audio.load(path)) / 22050 == pytest.approx(SECONDS, abs=0.15)
    assert audio.info(path).seconds == pytest.approx(SECONDS, abs=0.15)


FORMATS = {
    "aac.mp3": ("-c:a", "aac", "-f", "adts"),
    "m4a.wav": ("-c:a", "alac", "-f", "mp4"),
    "mp3.m4a": ("-f", "mp3"),
    "flac.mp3": ("-f", "flac"),
    "vorbis.mp3": ("-c:a", "libvorbis", "-f", "ogg"),
    "song": ("-f", "matroska"),
    "video.mp4": ("-f", "lavfi", "-i", "color=size=16x16:rate=5:duration=8", "-c:v", "mpeg4"),
    "x.wma": (),
    "x.opus": (),
    "x.wav": ("-c:a", "adpcm_ms"),
}
MORE_FORMATS = {
    "m4a.mp3": ("-c:a", "aac", "-f", "mp4"),
    "mp3.flac": ("-f", "mp3"),
    "wav.ogg": ("-f", "wav"),
    "song.txt": ("-f", "mp3"),
    "cover.ogg": ("-f", "lavfi", "-i", "color=size=16x16:rate=1:duration=8", "-c:v", "libtheora"),
    "x.m4b": ("-f", "mp4"),
    "x.aac": (),
    "x.wv": (),
    "x.mka": ("-c:a", "flac"),
    "x.mp2": (),
    "x.ac3": (),
    "mp3.wav": ("-c:a", "libmp3lame"),
}


@pytest.mark.parametrize(
    "name, options",
    [*FORMATS.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in MORE_FORMATS.items())],
)
def test_the_extension_does_not_matter(ffmpeg, source, tmp_path, name, options):
    path = tmp_path / "-a b'ü"
    path.mkdir()
    ffmpeg("-i", source, *options, f"file:{path / name}")
    assert np.abs(assert_read(path / name)[-22050:]).max() > 0.05


@pytest.mark.parametrize("extension", ["ogg", "opus"])
def test_chained_streams(ffmpeg, source, tmp_path, monkeypatch, extension):
    """As in recordings of web radio. libsndfile decodes only the first stream."""
    path = tmp_path / f"x.{extension}"
    ffmpeg("-i", source, path)
    path.write_bytes(2 * path.read_bytes())
    assert len(assert_read(path)) > 1.9 * SECONDS * 22050
    monkeypatch.setenv("PATH", "")
    with pytest.warns(audio.AudioWarning, match=r"only the first of several streams is decoded\. Install ffmpeg"):
        assert len(audio.load(path)) / 22050 == pytest.approx(SECONDS, abs=0.1)


def test_flac_from_a_pipe_does_not_state_its_length(ffmpeg, source, tmp_path):
    path = tmp_path / "piped.flac"
    with open(path, "wb") as file:
        subprocess.run(["ffmpeg", "-v", "error", "-i", source, "-f", "flac", "-"], stdout=file, check=True)
    waveform = assert_read(path, tolerance=0.01)
    np.testing.assert_allclose(audio.load(path, offset=4.5, duration=1.0), waveform[99225:121275], atol=2e-6)


@pytest.mark.slow
def test_songs_are_read_to_the_end_without_a_warning(ffmpeg):
    if not SONGS.is_dir():
        pytest.skip("the songs (shared/data/songs beside this checkout) are not here")
    for path in sorted(SONGS.glob("*.mp3")):
        assert_read(path)
