"""Loading of audio files, of parts of them, and of damaged files."""

import http.server
import os
import pickle
import subprocess
import sys
import threading

import librosa
import numpy as np
import psutil
import pytest
import soundfile
from conftest import write_sine
from genrekeras import audio


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_formats_and_rates(tmp_path, extension, rate):
    path = write_sine(tmp_path / f"sine.{extension}", 440, rate=rate)
    waveform = audio.load(path, sample_rate=22050)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) - 3 * 22050) < 0.1 * 22050
    spectrum = np.abs(np.fft.rfft(waveform[22050 : 2 * 22050]))
    assert spectrum.argmax() == 440  # 1 s: a bin is 1 Hz
    assert np.abs(waveform[22050 : 2 * 22050]).max() == pytest.approx(0.5, abs=0.02)


def test_channels_are_averaged(tmp_path, rng):
    channels = rng.uniform(-0.5, 0.5, (22050, 3)).astype("float32")
    soundfile.write(tmp_path / "three.wav", channels, 22050, subtype="FLOAT")
    np.testing.assert_allclose(audio.load(tmp_path / "three.wav", 22050), channels.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("sample_rate", [22050, 16000, 44100, 48000, 7919])
@pytest.mark.parametrize("name", ["noise.flac", "noise.mp3", "sine.mp3", "sine.ogg"])
def test_a_part_equals_the_same_part_of_the_whole_file(tmp_path, rng, sample_rate, name):
    """The frames of an mp3 file of a sine depend on frames far before them, which a decoder lacks after a seek."""
    path = tmp_path / name
    samples = rng.uniform(-0.9, 0.9, 5 * 44100) if "noise" in name else 0.5 * np.sin(np.arange(5 * 44100) / 7)
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III"} if "mp3" in name else {}
    soundfile.write(path, samples, 44100, **options)
    whole = audio.load(path, sample_rate)
    for offset, duration in ((0.0, 1.0), (1.23456, 2.0), (3.0, 1.0), (4.5, None), (4.5, 2.0), (0.001, 0.01)):
        part = audio.load(path, sample_rate, offset=offset, duration=duration)
        start = round(offset * sample_rate)
        if duration is not None and offset + duration <= 4.9:
            assert len(part) == round(duration * sample_rate)
        np.testing.assert_allclose(part, whole[start : start + len(part)], atol=2e-6)


def test_only_the_requested_part_is_decoded(tmp_path, monkeypatch):
    path = write_sine(tmp_path / "long.wav", 440, seconds=60)
    read = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, n=-1, **kw: read.append(n) or original(self, n, **kw))
    audio.load(path, offset=20, duration=10)
    assert sum(read) < 10.2 * 44100


def test_real_clips_equal_librosa(real_clips):
    for path in list(real_clips.values())[:2]:
        ours = audio.load(path, duration=10)
        theirs, _ = librosa.load(path, sr=22050, duration=10.5)
        assert ours.shape == (220500,)
        np.testing.assert_allclose(ours, theirs[:220500], atol=1e-5)


def test_a_short_file_gives_a_short_waveform(tmp_path):
    assert len(audio.load(write_sine(tmp_path / "s.wav", 440, seconds=2), duration=10)) == 2 * 22050


def _missing(path):
    pass


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("this is not music " * 100)


def _no_samples(path):
    soundfile.write(path, np.zeros(0), 44100, format="WAV")


def _not_finite(path):
    soundfile.write(path, np.array([0.1, np.nan, 0.2] * 1000), 44100, format="WAV", subtype="FLOAT")


@pytest.mark.parametrize(
    "make, reason",
    [
        (_missing, "missing"),
        (_empty, "empty"),
        (_text, "not audio"),
        (_no_samples, "no samples"),
        (_not_finite, "finite"),
    ],
)
def test_errors_name_the_file_and_the_reason(tmp_path, make, reason):
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(audio.AudioError, match=reason) as caught:
        audio.load(path)
    assert caught.value.path == str(path) and str(path) in str(caught.value)


def test_a_file_without_read_permission(tmp_path, monkeypatch):
    """Root may open any file, so `open` is replaced."""

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(audio.decoders, "open", refuse, raising=False)
    with pytest.raises(audio.AudioError, match="cannot be opened: Permission denied"):
        audio.load(write_sine(tmp_path / "s.wav", 440))


@pytest.mark.parametrize("kind", [audio.AudioError, audio.AudioWarning])
def test_errors_and_warnings_can_be_pickled(kind):
    found = pickle.loads(pickle.dumps(kind("a.mp3", "damaged")))
    assert (type(found), found.path, found.reason, str(found)) == (kind, "a.mp3", "damaged", "a.mp3: damaged")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(audio.AudioError, match="folder"):
        audio.load(tmp_path)


@pytest.mark.parametrize("extension", ["wav", "aiff", "au", "mp3", "ogg", "flac"])
def test_a_file_that_was_cut_short(tmp_path, rng, extension):
    """The rest of the file is read, and a warning names the file and the length."""
    path = tmp_path / f"whole.{extension}"
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III"} if extension == "mp3" else {}
    soundfile.write(path, rng.uniform(-0.5, 0.5, 8 * 44100), 44100, **options)
    whole, waveform = path.read_bytes(), audio.load(path)
    cut = tmp_path / f"cut.{extension}"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(audio.AudioWarning, match=rf"cut\.{extension}: .* [34]\.\d s") as caught:
        part = audio.load(cut)
    assert caught[0].message.path == str(cut) and "s" in caught[0].message.reason
    assert 3.5 * 22050 < len(part) < 4.5 * 22050
    np.testing.assert_allclose(part[: 3 * 22050], waveform[: 3 * 22050], atol=2e-6)
    assert audio.decode(cut)[1] == caught[0].message.reason
    np.testing.assert_array_equal(
        audio.load(cut, duration=1.0), part[:22050]
    )  # no warning: the requested part is complete


def test_a_damaged_flac_is_read_up_to_the_damage_and_after_it(tmp_path, rng):
    path = tmp_path / "damaged.flac"
    soundfile.write(path, rng.uniform(-0.5, 0.5, 8 * 44100), 44100)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    path.write_bytes(content)
    with pytest.warns(audio.AudioWarning, match=r"damaged: cannot be decoded after [34]\.\d s"):
        assert 3 * 22050 < len(audio.load(path)) < 4.5 * 22050


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 48000])
def test_a_complete_mp3_file_of_any_rate_is_not_reported_as_cut_short(tmp_path, rng, rate):
    """The stated length includes the delay and padding of the encoder, up to 0.21 s at 8 kHz."""
    for samples in rng.integers(rate, 3 * rate, 5):
        path = tmp_path / f"{samples}.mp3"
        soundfile.write(path, rng.uniform(-0.5, 0.5, samples), rate, format="MP3", subtype="MPEG_LAYER_III")
        assert len(audio.load(path, rate)) == pytest.approx(samples, abs=0.1 * rate)


def test_a_xing_header_without_a_number_of_frames(tmp_path):
    """No length is stated, so no warning is issued."""
    whole = write_sine(tmp_path / "s.mp3", 440).read_bytes()
    place = max(whole.find(b"Info"), whole.find(b"Xing")) + 7
    assert whole[place] & 1
    path = tmp_path / "not counted.mp3"
    path.write_bytes(whole[:place] + bytes([whole[place] & ~1]) + whole[place + 1 : len(whole) // 2])
    assert 0 < len(audio.load(path)) < 2 * 22050


def test_a_wav_of_unknown_length(tmp_path):
    """Writers to a pipe leave a very large size in the header."""
    data = write_sine(tmp_path / "s.wav", 440, seconds=1).read_bytes()
    place = data.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFF000, 0x7FFFF000 - 36):
        (tmp_path / "piped.wav").write_bytes(data[:place] + size.to_bytes(4, "little") + data[place + 4 :])
        assert len(audio.load(tmp_path / "piped.wav")) == 22050


def test_a_headerless_file(tmp_path):
    (tmp_path / "notes.raw").write_text("this is not music")
    with pytest.raises(audio.AudioError, match="not audio"):
        audio.load(tmp_path / "notes.raw")


def test_a_real_clip_that_was_cut_short(tmp_path, real_clips):
    data = real_clips[2].read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) // 3])
    with pytest.warns(audio.AudioWarning, match=r"cut\.mp3: cut short: only 9\.9 s of 30\.0 s can be decoded"):
        assert len(audio.load(tmp_path / "cut.mp3")) == pytest.approx(9.9 * 22050, abs=0.1 * 22050)
    with pytest.raises(audio.AudioError, match=r"no samples at 15 s"):
        audio.load(tmp_path / "cut.mp3", offset=15)


def test_an_offset_after_the_end(tmp_path):
    path = write_sine(tmp_path / "s.wav", 440, seconds=2)
    with pytest.raises(audio.AudioError, match=r"no samples at 5 s: the file ends at 2\.00 s"):
        audio.load(path, offset=5.0)


@pytest.mark.parametrize(
    "arguments", [{"sample_rate": 0}, {"sample_rate": 22050.5}, {"offset": -1}, {"duration": 0}, {"duration": np.nan}]
)
def test_bad_arguments_are_named(tmp_path, arguments):
    path = write_sine(tmp_path / "s.wav", 440, seconds=1)
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        audio.load(path, **arguments)


def test_to_length_reflects_at_both_ends():
    clip = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(audio.to_length(clip, 2), [1, 2])
    np.testing.assert_array_equal(audio.to_length(clip, 3), [1, 2, 3])
    np.testing.assert_array_equal(audio.to_length(clip, 6), [2, 1, 2, 3, 2, 1])
    assert len(audio.to_length(clip, 100)) == 100
    np.testing.assert_array_equal(audio.to_length(np.array([5.0]), 4), [5, 5, 5, 5])
    with pytest.raises(ValueError, match="at least one sample"):
        audio.to_length(np.zeros(0), 4)


@pytest.mark.parametrize("extension", ["m4a", "mp4", "wma", "MKA"])
def test_ffmpeg_reads_other_formats(ffmpeg, tmp_path, extension):
    write_sine(tmp_path / "sine.wav", 440)
    path = tmp_path / f"-a b'ü.{extension}"
    ffmpeg("-i", tmp_path / "sine.wav", f"file:{path}")
    waveform = audio.load(path, sample_rate=22050)
    assert abs(len(waveform) - 3 * 22050) < 0.1 * 22050 and audio.info(path).sample_rate == 44100
    assert np.abs(np.fft.rfft(waveform[22050 : 2 * 22050])).argmax() == 440
    part = audio.load(path, sample_rate=22050, offset=1.0, duration=0.5)
    np.testing.assert_allclose(part, waveform[22050 : 22050 + 11025], atol=2e-6)


def test_files_that_ffmpeg_cannot_read(ffmpeg, tmp_path):
    (tmp_path / "text.m4a").write_text("no music")
    with pytest.raises(
        audio.AudioError, match=r"text.m4a: not audio that libsndfile or ffmpeg can read: .*Invalid data"
    ):
        audio.load(tmp_path / "text.m4a")
    ffmpeg("-f", "lavfi", "-i", "color=size=16x16:duration=1", tmp_path / "silent.mp4")
    with pytest.raises(audio.AudioError, match="libsndfile or ffmpeg"):
        audio.load(tmp_path / "silent.mp4")
    with pytest.raises(audio.AudioError, match="missing"):
        audio.load(tmp_path / "none.m4a")


def test_without_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "x.m4a").write_text("no music")
    with pytest.raises(audio.AudioError, match=r"not audio that libsndfile can read\. Install ffmpeg"):
        audio.info(tmp_path / "x.m4a")


def test_an_address_in_a_playlist_is_not_opened(ffmpeg, tmp_path):
    """The extension of the playlist does not matter."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "list.m4a").write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n"
            f"http://127.0.0.1:{server.server_port}/song.ts\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(audio.AudioError, match="not audio"):
            audio.load(tmp_path / "list.m4a")
        assert not requests
        with pytest.raises(subprocess.CalledProcessError):
            ffmpeg("-protocol_whitelist", "file,http,tcp", "-f", "hls", "-i", tmp_path / "list.m4a", tmp_path / "x.wav")
        assert requests  # without options, ffmpeg opens it
        server.shutdown()


@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_a_playlist_of_files_is_refused(ffmpeg, tmp_path, kind):
    """A playlist without an end would be read forever; one that lists a file 100 times would become very long."""
    write_sine(tmp_path / "sine.wav", 440)
    ffmpeg("-i", tmp_path / "sine.wav", tmp_path / "song.ts")
    text = {
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nsong.ts\n",  # without ENDLIST: more may follow
        "concat": "ffconcat version 1.0\n" + "file song.ts\n" * 100,
    }[kind]
    for name in ("x.m4a", "x.mp3", "x.m3u8", "x.ffconcat"):
        (tmp_path / name).write_text(text)
        with pytest.raises(audio.AudioError, match="not audio"):
            audio.load(tmp_path / name)


def test_no_process_of_ffmpeg_remains(ffmpeg, tmp_path):
    """Neither after a part, nor after an error, nor after an exception in the calling code."""
    write_sine(tmp_path / "sine.wav", 440, seconds=60)
    ffmpeg("-i", tmp_path / "sine.wav", tmp_path / "sine.m4a")
    (tmp_path / "text.m4a").write_text("no music")
    audio.load(tmp_path / "sine.m4a", duration=1.0)
    with pytest.raises(audio.AudioError):
        audio.load(tmp_path / "text.m4a")
    with pytest.raises(KeyError), audio.AudioFile(tmp_path / "sine.m4a") as file:
        file.read(0.0, 1.0)
        raise KeyError
    assert not psutil.Process().children()


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg", "opus", "m4a"])
def test_parts_in_order_are_decoded_once(ffmpeg, tmp_path, rng, monkeypatch, extension):
    """Decoding is in blocks, so time and memory do not grow with the position of a part."""
    soundfile.write(tmp_path / "noise.wav", rng.uniform(-0.5, 0.5, 20 * 48000), 48000)
    path = tmp_path / f"noise.{extension}"
    if extension != "wav":
        ffmpeg("-i", tmp_path / "noise.wav", path)
    whole, decoded, most = audio.load(path), [], 1 << 14
    read = audio.decoders.Decoder.read
    monkeypatch.setattr(audio.decoders.Decoder, "read", lambda self, count: decoded.append(count) or read(self, count))
    with audio.AudioFile(path) as file:
        for offset in (1.0, 3.0, 4.0, 12.5, 15.0):  # the second and third overlap
            part = file.read(offset, 2.0)
            np.testing.assert_allclose(part, whole[round(offset * 22050) :][: len(part)], atol=2e-6)
            assert len(part) == 2 * 22050
        assert sum(decoded) < 17.2 * 48000 and max(decoded) <= most
        np.testing.assert_allclose(file.read(0.5, 1.0), whole[11025:33075], atol=2e-6)  # backwards
        assert file.seconds == pytest.approx(20, abs=0.1) and file.warning is None


def test_a_checksum_does_not_depend_on_tags(ffmpeg, tmp_path):
    write_sine(tmp_path / "a.wav", 440)
    for title in ("one", "two"):
        for extension in ("mp3", "flac", "m4a"):
            ffmpeg("-i", tmp_path / "a.wav", "-metadata", f"title={title}", tmp_path / f"{title}.{extension}")
    sums = {path.name: audio.checksum(path) for path in tmp_path.glob("*.*")}
    assert sums["one.mp3"] == sums["two.mp3"] and sums["one.m4a"] == sums["two.m4a"]
    assert sums["one.flac"] == sums["two.flac"] == sums["a.wav"] != sums["one.mp3"]
    write_sine(tmp_path / "a.wav", 441)
    assert audio.checksum(tmp_path / "a.wav") != sums["a.wav"]


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.wav")
    with pytest.raises(audio.AudioError, match="not a regular file"):
        audio.load(tmp_path / "fifo.wav")


@pytest.mark.slow
def test_memory_of_a_thread_that_reads(tmp_path):
    """With an arena for each thread, glibc cannot reuse large blocks: three parts of a file at 1 Hz took 9 GB."""
    soundfile.write(tmp_path / "slow.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 20_000), 1, subtype="FLOAT")
    script = """
import resource, sys, threading
import genrekeras as gk
from genrekeras.utils.process import keep_freed_memory

keep_freed_memory()


def read():
    with gk.audio.AudioFile(sys.argv[1]) as file:
        for offset in (0.0, 5000.0, 10000.0):
            file.read(offset, 10.0)


thread = threading.Thread(target=read)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "slow.wav")]
    assert int(subprocess.run(command, capture_output=True, check=True).stdout) < 3000
