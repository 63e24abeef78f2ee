"""How fast are the steps from files to batches, and does memory grow with the number of clips?

    python experiments/benchmarks/data.py

The script writes synthetic mp3 clips to a temporary folder, in the layout of FMA. Clips of 30 s are used to measure
rates, and clips of 3 s are used to measure memory. The memory is the peak resident memory of a process, minus its
memory after the imports. One process builds the dataset. Another process also reads an epoch of random crops.

Expected: 2 minutes on 2 cores, with 2 GB of temporary disk space. docs/results/speed.md has the
results.
"""

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
import timeit
import unittest.mock
import warnings

import genrekeras as gk
import numpy as np
import psutil
import soxr
from genrekeras.datasets import store
from genrekeras.datasets.synthetic import make_many
from genrekeras.utils import process

process.configure()  # Processes that this script starts also execute this line.


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="check that the benchmark runs, with few clips")
    clip_count, counts = (32, [50]) if parser.parse_args().smoke else (256, [500, 2000, 8000])
    print(f"{os.cpu_count()} cores; clips of 30 s\n\n| step | clips/s |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_many(folder, clip_count, seconds=30)
        for step, clips, work in steps(folder):
            print(f"| {step} | {clips / timeit.timeit(work, number=1):.0f} |", flush=True)
    print("\n| clips of 3 s | build, MB | build and read, MB |\n|---|---|---|")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            make_many(folder, count, seconds=3)
            print(f"| {count} | {peak_memory(folder, False)} | {peak_memory(folder, True)} |", flush=True)


def steps(folder):
    """Yield a tuple for each step: its name, the number of clips that it processes, and a function that runs it."""
    tracks = gk.datasets.fma.find_tracks(folder, "small", gk.GENRES)
    paths, rate = [tracks["path"].iloc[i % len(tracks)] for i in range(64)], 44100
    yield "decode, 1 thread", 64, lambda: [gk.audio.load(path, rate) for path in paths]
    native = gk.audio.load(paths[0], rate)
    yield "resample, 1 thread", 64, lambda: [soxr.resample(native, rate, 22050) for _ in paths]
    clip = soxr.resample(native, rate, 22050)
    with unittest.mock.patch.object(store, "_decode", lambda path, rate: (clip, None)):
        yield "compress and write, 1 thread", len(tracks), lambda: gk.datasets.load_fma(folder, prepared_dir=folder)
    yield "build: all three, in threads", len(tracks), lambda: gk.datasets.load_fma(folder)
    clips = gk.datasets.load_fma(folder).train
    order = np.random.default_rng(0).permutation(len(clips)).tolist()
    yield "read whole clips in random order, 1 thread", len(clips), lambda: [clips[i] for i in order]
    for workers, kind in ((1, "thread"), (2, "threads"), (2, "processes")):
        options = {"workers": workers, "processes": kind == "processes"}
        data = gk.datasets.batches(clips, 16, 10.0, crop="random", shuffle=True, **options)
        read(data)  # The first epoch starts the workers, so it is not measured.
        name = f"batches of 16 random crops of 10 s, {workers} {kind}"
        yield name, 3 * len(clips), lambda data=data: read(data, epochs=3)


def read(data, epochs=1):
    """Read all batches of some epochs."""
    for _ in range(epochs):
        for i in range(len(data)):
            data[i]
        data.on_epoch_end()


def peak_memory(*arguments):
    """Call `measure_memory` in a new process, and return the result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_memory, arguments)


def measure_memory(folder, then_read):
    """Return the peak memory of `build` in MB, minus the memory after the imports."""
    memory = psutil.Process().memory_info
    sizes = [memory().rss]
    thread = threading.Thread(target=build, args=[folder, then_read])
    thread.start()
    while thread.is_alive():
        sizes.append(memory().rss)
        time.sleep(0.01)
    return round((max(sizes) - sizes[0]) / 1e6)


def build(folder, then_read):
    """Build a dataset. If `then_read` is true, also read an epoch of it."""
    clips = gk.datasets.load_fma(folder).train
    if then_read:
        read(gk.datasets.batches(clips, 16, 3.0, crop="random", shuffle=True))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
