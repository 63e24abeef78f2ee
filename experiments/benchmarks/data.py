"""How fast is the way from files to batches, where does the time go, and does memory grow with the number of clips?

    python experiments/benchmarks/data.py

Clips are made for it in a temporary folder, as mp3 in FMA's layout: 30 s for the rates, 3 s for memory. Memory is of a
process that builds, and of one that reads an epoch of random crops: the most that was resident beyond the imports.

Expected: 2 minutes on 2 cores, 2 GB of temporary disk. README shows what was seen.
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few clips: does it run?")
    some, counts = (32, [50]) if parser.parse_args().smoke else (256, [500, 2000, 8000])
    print(f"{os.cpu_count()} cores; clips of 30 s\n\n| step | clips a second |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_many(folder, some, seconds=30)
        for step, clips, work in steps(folder):
            print(f"| {step} | {clips / timeit.timeit(work, number=1):.0f} |", flush=True)
    print("\n| clips of 3 s | build, MB | read, MB |\n|---|---|---|")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            make_many(folder, count, seconds=3)
            print(f"| {count} | {memory_of(folder, False)} | {memory_of(folder, True)} |", flush=True)


def steps(folder):
    """(step, clips, work) of each step by itself, and of the whole."""
    tracks = gk.datasets.fma.find_tracks(folder, "small", gk.GENRES)
    paths, rate = [tracks["path"].iloc[i % len(tracks)] for i in range(64)], 44100
    yield "decode, 1 thread", 64, lambda: [gk.audio.load(path, rate) for path in paths]
    native = gk.audio.load(paths[0], rate)
    yield "resample, 1 thread", 64, lambda: [soxr.resample(native, rate, 22050) for _ in paths]
    clip = soxr.resample(native, rate, 22050)
    with unittest.mock.patch.object(store, "_decode", lambda path, rate: clip):
        yield "compress and write, 1 thread", len(tracks), lambda: gk.datasets.load_fma(folder, prepared_dir=folder)
    yield "build: all three, in threads", len(tracks), lambda: gk.datasets.load_fma(folder)
    clips = gk.datasets.load_fma(folder).train
    order = np.random.default_rng(0).permutation(len(clips)).tolist()
    yield "read whole clips in random order, 1 thread", len(clips), lambda: [clips[i] for i in order]
    for workers, kind in ((1, "thread"), (2, "threads"), (2, "processes")):
        options = {"workers": workers, "processes": kind == "processes"}
        data = gk.datasets.batches(clips, 16, 10.0, crop="random", shuffle=True, **options)
        read(data)  # starts the workers
        name = f"batches of 16 random crops of 10 s, {workers} {kind}"
        yield name, 3 * len(clips), lambda data=data: read(data, epochs=3)


def read(data, epochs=1):
    """All batches of some epochs."""
    for _ in range(epochs):
        for i in range(len(data)):
            data[i]
        data.on_epoch_end()


def memory_of(*work):
    """MB that a new process takes, beyond the imports, to build a folder and, if asked, to read an epoch of it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(most_memory, work)


def most_memory(folder, then_read):
    resident = psutil.Process().memory_info
    most = [resident().rss]
    thread = threading.Thread(target=build, args=[folder, then_read])
    thread.start()
    while thread.is_alive():
        most.append(resident().rss)
        time.sleep(0.01)
    return round((max(most) - most[0]) / 1e6)


def build(folder, then_read):
    clips = gk.datasets.load_fma(folder).train
    if then_read:
        read(gk.datasets.batches(clips, 16, 3.0, crop="random", shuffle=True))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
