"""The benchmarks run and print times."""

import importlib.util
import os
import re
import sys

import processes
import pytest
from conftest import EXPERIMENTS

pytestmark = pytest.mark.experiments

BENCHMARKS = EXPERIMENTS / "benchmarks"


def run(script, *flags):
    done = processes.run(BENCHMARKS / script, *flags)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_data():
    done = run("data.py", "--smoke")
    rates = [line.split("|")[2] for line in done.stdout.splitlines() if line.startswith("| ") and "thread" in line]
    assert len(rates) == 7 and all(float(rate) > 0 for rate in rates)
    assert "WARNING" not in done.stderr


@pytest.mark.slow
def test_speed():
    """All parts, including those that start processes."""
    done = run("speed.py", "--smoke")
    tables = dict(re.findall(r"\n\| ([^|]+) \| [^|]+ \|.*\n\|[-|]+\n((?:\|.*\n)+)", done.stdout))
    for part in ("decode", "waveform to image", "musicnn, inference", "an epoch after"):
        assert any(title.startswith(part) for title in tables), part
    for part in ("start of a process", "from start to prediction", "threads, one process", "memory beyond the model"):
        assert any(title.startswith(part) for title in tables), part
    rows = [row.split("|")[2] for table in tables.values() for row in table.splitlines()]
    assert len(rows) > 20 and all(float(row) >= 0 for row in rows)
    wrong = processes.run(BENCHMARKS / "speed.py", "decoed")
    assert wrong.returncode == 2 and "no such part: decoed" in wrong.stderr


@pytest.mark.slow
def test_a_part_of_speed():
    done = run("speed.py", "decode", "--rounds", "1")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 4 and "`audio.load`" in rows[2] and rows[1].endswith("| 1 [1, 1] |")


def test_backbones():
    """An image network and a mel network, each with the images of its own front end."""
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    done = run("speed.py", "backbone", "--smoke")
    titles = re.findall(r"\| (\w+), inference, clips of 1 s, on torch \|", done.stdout)
    rows = [line.split("|")[2] for line in done.stdout.splitlines() if line.startswith(("| ONNX", "| `"))]
    assert titles == ["efficientnet_b0", "musicnn"] and len(rows) == 7
    assert all(float(row) > 0 for row in rows)


@pytest.mark.slow
def test_gpu():
    """The smoke form on the CPU. EfficientNetB0 is left out where its counterpart is not installed."""
    pytest.importorskip("librosa", reason="librosa (extra `benchmark`) is not installed")
    done = run("gpu.py", "--smoke")
    tables = re.findall(r"\n\| ([^|]+), on torch \| [^|]+ \|.*\n\|[-|]+\n((?:\|.*\n)+)", done.stdout)
    expected = ["waveform to image"] + [f"musicnn, inference, {precision}" for precision in ("float32", "bfloat16")]
    if importlib.util.find_spec("efficientnet_pytorch"):
        expected += [f"efficientnet_b0, inference, {precision}" for precision in ("float32", "bfloat16")]
        steps = [f"EfficientNetB0, training step, {precision}" for precision in ("float32", "bfloat16")]
        expected += [*steps, "1 epoch of EfficientNetB0, 18 clips of 2 s", *(f"{step}, compiled" for step in steps)]
        assert re.search(r"Input pipeline: \d+% ", done.stdout)
    assert [title for title, _ in tables] == expected
    assert all(rows.startswith("| plain PyTorch |") for _, rows in tables)


@pytest.mark.slow
def test_plain_pytorch_computes_the_same():
    """The front end gives the same images, and musicnn has the same number of weights."""
    pytest.importorskip("librosa", reason="librosa (extra `benchmark`) is not installed")
    script = """
import json, sys
sys.argv = ["gpu.py", "--smoke"]
import genrekeras as gk, gpu, numpy as np, torch
waveforms = np.random.default_rng(0).normal(0, 0.1, (2, 22050)).astype("float32")
images = gpu.torch_front_end()(torch.from_numpy(waveforms)).cpu().numpy()[:, 0]
model = gk.GenreClassifier(pretrained=None, clip_seconds=1.0)
difference = np.abs(images - model.front_end.predict(waveforms, verbose=0)[..., 0]).max()
weights = [value.numel() for name, value in gpu.Musicnn().state_dict().items() if "num_batches" not in name]
extractor = gk.GenreClassifier("musicnn", pretrained=None).feature_extractor
print(json.dumps([float(difference), sum(weights) == extractor.count_params()]))
"""
    difference, same_size = processes.python(script, PYTHONPATH=os.pathsep.join([str(BENCHMARKS), *sys.path]))
    assert difference < 0.05 and same_size  # images are in [0, 255]


@pytest.mark.slow
def test_collection():
    done = run("collection.py", "--tracks", "4", "--head-tracks", "200", "--seconds", "4")
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]]
    assert rows[:3] == ["decoding, a track", "features, a track", "cached features, a track"] and len(rows) == 6


@pytest.mark.slow
def test_beam_predict():
    pytest.importorskip("apache_beam", reason="apache-beam (extra `beam`) is not installed")
    done = run("beam_predict.py", "--smoke")
    assert re.findall(r"\| ([12]) \| 400 \| True \| \d+ \|", done.stdout) == ["1", "2"]
    assert re.search(r"Killed after (\d) of 4 shards. Kept by the second run: \1. Complete: True.", done.stdout)
