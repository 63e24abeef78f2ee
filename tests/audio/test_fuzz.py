"""Files that lie: none stops the process, hangs, takes much memory or gives a probability that is not a number."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

SECONDS, MEGABYTES = 5.0, 1000.0
FORMATS = ("mp3", "wav", "flac", "ogg", "aiff", "au", "caf", "w64")

# Hears each file by itself and writes what became of it, with the time and how much memory was added.
LISTEN = """
import json, os, resource, sys, time
import numpy as np
import genrekeras as gk
import keras

folder = sys.argv[1]
keras.utils.set_random_seed(0)
model = gk.GenreClassifier("mel_cnn", pretrained=None, fine_tune="all", clip_seconds=1.0)
model.predict_waveform(np.zeros(30 * 22050, "float32"), 22050)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


before = peak()
for name in sorted(os.listdir(folder)):
    print(f"+ {name}", flush=True)
    began = time.monotonic()
    [row] = model.predict_files([os.path.join(folder, name)]).to_dict("records")
    finite = bool(np.isfinite([row[f"probability_{genre}"] for genre in model.genres]).all())
    about = {"seconds": time.monotonic() - began, "megabytes": peak() - before}
    print(json.dumps({"name": name, "error": row["error"], "finite": finite, **about}), flush=True)
"""


@pytest.fixture
def sounds(real_clips, tmp_path):
    """dict, name -> bytes: genuine clips, and 3 s of them in each format."""
    import genrekeras as gk

    found = {}
    for number, path in enumerate(list(real_clips.values())[:2]):
        found[f"{number}.real.mp3"] = path.read_bytes()
        clip = gk.audio.load(path, duration=3)
        for extension in FORMATS:
            name = tmp_path / f"{number}.{extension}"
            soundfile.write(name, clip, 22050)
            found[name.name] = name.read_bytes()
    return found


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
    """An ID3 tag that says it is up to 256 MiB long."""
    return b"ID3\x04\x00\x00" + bytes(rng.integers(128, size=4).tolist()) + content


def another_name(content, rng, others):
    return content


MUTATIONS = (cut, flip, flip_header, swap_header, absurd_tag, another_name)
NAMES = ("mp3", "wav", "flac", "ogg", "aiff", "au", "opus", "m4a", "wma", "txt")


def mutated(sounds, count, rng):
    """(name, content) of each."""
    names = sorted(sounds)
    for number in range(count):
        name = names[rng.integers(len(names))]
        mutate = MUTATIONS[number % len(MUTATIONS)]
        extension = NAMES[rng.integers(len(NAMES))] if mutate is another_name else name.rsplit(".", 1)[1]
        content = mutate(sounds[name], rng, [sounds[other] for other in names])
        yield f"{number:04d}-{mutate.__name__}.{extension}", content


def wav(samples, rate, channels=1, kind=3, bits=32):
    """A wav file, whatever it says of itself; kind 3: floats."""
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


def odd_ones(tmp_path):
    """(name, content, what is said of it, `None`: it is heard)."""
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


def listen(folder, timeout):
    """Rows of the files in a folder, and what was said on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", LISTEN, folder],
        env={**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{done.returncode} at {lines[-1:]}: {done.stderr[-2000:]}"
    return {row["name"]: row for row in (json.loads(line) for line in lines if line.startswith("{"))}, done.stderr


def assert_harmless(rows, stderr, files):
    assert sorted(rows) == sorted(files)
    for row in rows.values():
        assert row["finite"] != bool(row["error"]), row  # heard, or said why not
        assert row["seconds"] < SECONDS and row["megabytes"] < MEGABYTES, row
    assert "mpg123" not in stderr and "Note:" not in stderr and "Warning:" not in stderr, stderr[-2000:]


def test_mutated_files(sounds, tmp_path, rng, thorough, record_property):
    """60 files; 1,000 with --thorough."""
    folder = tmp_path / "mutated"
    folder.mkdir()
    for name, content in mutated(sounds, 1000 if thorough else 60, rng):
        (folder / name).write_bytes(content)
    rows, stderr = listen(folder, timeout=550)
    assert_harmless(rows, stderr, os.listdir(folder))
    heard = sum(row["finite"] for row in rows.values())
    assert 0.2 * len(rows) < heard < 0.8 * len(rows)
    seconds, megabytes = (max(row[name] for row in rows.values()) for name in ("seconds", "megabytes"))
    record_property(
        "seen", f"{heard} of {len(rows)} heard, at most {seconds:.2f} s for one, {megabytes:.0f} MB for all"
    )


def test_odd_files(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    said = {}
    for name, content, reason in odd_ones(tmp_path):
        (folder / name).write_bytes(content)
        said[name] = reason
    rows, stderr = listen(folder, timeout=300)
    assert_harmless(rows, stderr, said)
    for name, reason in said.items():
        assert (rows[name]["error"] is None) == (reason is None), rows[name]
        if reason:
            assert any(part in rows[name]["error"] for part in reason.split("|")), rows[name]
