"""Damaged and invalid files: none stops the process or gives a probability that is not finite."""

import json
import os
import struct

import numpy as np
import processes
import pytest
import soundfile
from genrekeras import audio

MAX_SECONDS, MAX_MEGABYTES = 5.0, 1000.0
FORMATS = ("mp3", "wav", "flac", "ogg", "aiff", "au", "caf", "w64")

# Analyses each file and prints the result, with the time and the memory that was added.
ANALYSE = """
import json, os, resource, sys, time
import numpy as np
import genrekeras as gk
import keras
from genrekeras.utils.process import hide_codec_messages


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    hide_codec_messages()
    keras.utils.set_random_seed(0)
    model = gk.GenreClassifier("mel_cnn", pretrained=None, fine_tune="all", clip_seconds=1.0)
    model.predict_waveform(np.zeros(30 * 22050, "float32"), 22050)
    before, folder = peak(), sys.argv[1]
    for name in sorted(os.listdir(folder)):
        print(f"+ {name}", flush=True)
        start = time.monotonic()
        [row] = model.predict_files([os.path.join(folder, name)]).to_dict("records")
        finite = bool(np.isfinite([row[f"probability_{genre}"] for genre in model.genres]).all())
        usage = {"seconds": time.monotonic() - start, "megabytes": peak() - before}
        print(json.dumps({"name": name, "error": row["error"], "finite": finite, **usage}), flush=True)
"""


@pytest.fixture
def contents(real_clips, tmp_path):
    """dict, name -> bytes: real clips, and 3 s of them in each format."""
    contents = {}
    for number, path in enumerate(list(real_clips.values())[:2]):
        contents[f"{number}.real.mp3"] = path.read_bytes()
        clip = audio.load(path, duration=3)
        for extension in FORMATS:
            name = tmp_path / f"{number}.{extension}"
            soundfile.write(name, clip, 22050)
            contents[name.name] = name.read_bytes()
    return contents


def cut(content, rng, others):
    return content[: rng.integers(len(content))]


def flip(content, rng, others):
    content = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 50)):
        content[place] = rng.integers(256)
    return bytes(content)


def flip_header(content, rng, others):
    return flip(content[:200], rng, others) + content[200:]


def swap_header(content, rng, others):
    size = int(rng.integers(4, 300))
    return others[rng.integers(len(others))][:size] + content[size:]


def absurd_tag(content, rng, others):
    """Prepend an ID3 tag that states a length of up to 256 MiB."""
    return b"ID3\x04\x00\x00" + bytes(rng.integers(128, size=4).tolist()) + content


def another_name(content, rng, others):
    return content


MUTATIONS = (cut, flip, flip_header, swap_header, absurd_tag, another_name)
NAMES = ("mp3", "wav", "flac", "ogg", "aiff", "au", "opus", "m4a", "wma", "txt")


def mutated(contents, count, rng):
    """Yield the name and content of each mutated file."""
    names = sorted(contents)
    for number in range(count):
        name = names[rng.integers(len(names))]
        mutate = MUTATIONS[number % len(MUTATIONS)]
        extension = NAMES[rng.integers(len(NAMES))] if mutate is another_name else name.rsplit(".", 1)[1]
        content = mutate(contents[name], rng, [contents[other] for other in names])
        yield f"{number:04d}-{mutate.__name__}.{extension}", content


def wav(samples, rate, channels=1, kind=3, bits=32):
    """Return a wav file whose header may be wrong; kind 3: floats."""
    data = np.asarray(samples, "<f4").tobytes()
    frame = channels * bits // 8
    head = struct.pack("<HHIIHH", kind, channels, rate, rate * frame % 2**32, frame % 2**16, bits)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + (b"data" + struct.pack("<I", len(data)) + data)
    )


def unusual_files(tmp_path):
    """Yield the name, the content and a pattern of the error (`None`: the file is analysed) of each file."""
    second = np.sin(np.arange(22050) / 10)
    silence = tmp_path / "hour.flac"
    with soundfile.SoundFile(silence, "w", 22050, 1) as file:
        for _ in range(60):
            file.write(np.zeros(60 * 22050, "int16"))
    # fmt: off
    yield "empty.mp3", b"", "empty"
    yield "nan.wav", wav(np.where(np.arange(22050) == 7, np.nan, second), 22050), "not finite"
    yield "infinite.wav", wav(np.where(np.arange(22050) == 7, -np.inf, second), 22050), "not finite"
    yield "huge.wav", wav(second * 3e38, 22050), "exceed 1e9"
    yield "loud.wav", wav(second * 1e9, 22050), None
    yield "rate-0.wav", wav(second, 0), "0 Hz|not audio"
    yield "rate-1.wav", wav(second[:50], 1), None
    yield "rate-4G.wav", wav(second, 4_000_000_000), "too short|not audio"
    yield "channels-0.wav", wav(second, 22050, 0), "channels|not audio"
    yield "channels-64.wav", wav(np.repeat(second, 64), 22050, 64), None
    yield "channels-1024.wav", wav(np.repeat(second, 1024), 22050, 1024), None
    yield "channels-65535.wav", wav(second, 22050, 65535), "channels|not audio|too short|no samples"
    yield "one-sample.wav", wav([0.5], 22050), "too short"
    yield "hour-of-silence.flac", silence.read_bytes(), None
    yield "text.mp3", b"Dear Ann,\n" * 1000, "not audio"
    yield "zeros.mp3", bytes(100_000), "not audio"
    # fmt: on


@pytest.mark.parametrize("count", [36, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_and_unusual_files(contents, tmp_path, rng, count):
    """The slow test also limits the time and the memory of each file."""
    folder, expected = tmp_path / "files", {}
    folder.mkdir()
    for name, content in mutated(contents, count, rng):
        (folder / name).write_bytes(content)
    damaged = os.listdir(folder)
    for name, content, error in unusual_files(tmp_path):
        (folder / name).write_bytes(content)
        expected[name] = error
    (tmp_path / "analyse.py").write_text(ANALYSE)
    done = processes.run(tmp_path / "analyse.py", folder)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{done.returncode} at {lines[-1:]}: {done.stderr[-2000:]}"
    rows = {row["name"]: row for row in (json.loads(line) for line in lines if line.startswith("{"))}
    assert sorted(rows) == sorted([*damaged, *expected])
    for row in rows.values():
        assert row["finite"] != bool(row["error"]), row
    for message in ("mpg123", "Note:", "Warning:"):
        assert message not in done.stderr, done.stderr[-2000:]
    assert 0.2 * count < sum(rows[name]["finite"] for name in damaged) < 0.8 * count
    for name, error in expected.items():
        assert (rows[name]["error"] is None) == (error is None), rows[name]
        if error:
            assert any(part in rows[name]["error"] for part in error.split("|")), rows[name]
    if count == 1000:
        assert all(row["seconds"] < MAX_SECONDS and row["megabytes"] < MAX_MEGABYTES for row in rows.values()), rows
