"""Does `genrekeras predict --beam` compute the rows of `predict`, how does it scale, and what does a track cost?

    python experiments/benchmarks/beam_predict.py
    python experiments/benchmarks/beam_predict.py --audio MUSIC --model fma_small

The first command writes links to a few wav files of 1 s, and a small model with random weights, to a temporary folder.
It runs Beam's DirectRunner with processes of one thread:

- the rows with one and two worker processes are compared with those of `genrekeras predict --json`, and the rates with
  each other. The times of the shards give the rate, so that the start of the workers is left out. A run of one shard
  for each worker gives the processor time of the start, which is subtracted;
- memory of the processes for more and more files;
- one run is killed and repeated: the finished files must not change.

The second command measures the processor time of a track. It processes the files of a folder several times. The
processor time of starting, which a run of one file takes, is subtracted.

Expected: docs/guide/scale.md. The first command takes 4 minutes on 2 cores.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import genrekeras as gk
import numpy as np
import psutil
import soundfile
from genrekeras.utils import process


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=pathlib.Path, help="measure the processor time of the tracks in this folder")
    parser.add_argument("--model", default="musicnn_msd", help="model for --audio (default: musicnn_msd)")
    parser.add_argument("--repetitions", type=int, default=10, help="how often --audio is processed (default: 10)")
    parser.add_argument("--smoke", action="store_true", help="check that the benchmark runs, with few files")
    flags = parser.parse_args()
    process.configure()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if flags.audio:
            measure_cost(folder, gk.inference.find_files(flags.audio), flags.model, flags.repetitions)
            return
        few, many = (400, 500) if flags.smoke else (2000, 20_000)
        model = folder / "model.keras"
        gk.GenreClassifier("mel_cnn", pretrained=None, fine_tune="all", clip_seconds=1.0).save(model)
        paths = write_tracks(folder / "audio", many)
        compare(folder, paths[:few], model)
        measure_memory(folder, paths, model, (few, many))
        kill_and_repeat(folder, paths[:few], model)


def write_tracks(folder, count, different=50):
    """Write wav files of 1 s. Only the first `different` ones are files, and the others are links to them."""
    folder.mkdir()
    rng, time_axis, paths = np.random.default_rng(0), np.arange(22050) / 22050, []
    for number in range(count):
        paths.append(folder / f"{number:06d}.wav")
        if number < different:
            waveform = np.sin(2 * np.pi * rng.uniform(60, 6000) * time_axis) + 0.1 * rng.standard_normal(22050)
            soundfile.write(paths[-1], 0.5 * waveform, 22050)
        else:
            os.link(paths[number % different], paths[-1])
    return paths


class Run(NamedTuple):
    """A finished run.

    Attributes:
        processor_seconds: processor time of the process and its workers in s.
        launcher_megabytes: peak resident memory of the process that started the pipeline.
        worker_megabytes: peak resident memory of the largest worker process.
    """

    processor_seconds: float
    launcher_megabytes: float
    worker_megabytes: float


def start(folder, paths, model, output, workers):
    """Start `genrekeras predict --beam` for a list of files, in its own process group."""
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    options = f"--runner=DirectRunner --direct_num_workers={workers} --direct_running_mode=multi_processing"
    command = [sys.executable, "-m", "genrekeras", "predict", folder / "list.txt", "--model", model]
    command += ["--beam", options, "--output", output]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(command, env=environment, stderr=log, start_new_session=True)


def run(folder, paths, model, output, workers=2):
    started, status, peaks = start(folder, paths, model, output, workers), None, [0, 0]
    process_info = psutil.Process(started.pid)
    while status is None:
        time.sleep(0.5)
        with contextlib.suppress(psutil.NoSuchProcess):
            peaks[0] = max(peaks[0], process_info.memory_info().rss)
            for worker in process_info.children(recursive=True):
                peaks[1] = max(peaks[1], worker.memory_info().rss)
        process_id, code, usage = os.wait4(started.pid, os.WNOHANG)
        status = code if process_id else None
    started.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit((folder / "log.txt").read_text())
    return Run(usage.ru_utime + usage.ru_stime, *(peak / 2**20 for peak in peaks))


def read_rows(output):
    return [json.loads(line) for path in sorted(output.glob("predictions-*")) for line in path.open()]


def compare(folder, paths, model):
    """Compare a run of one and of two worker processes with `predict`. Print the rates."""
    command = [sys.executable, "-m", "genrekeras", "predict", *paths, "--model", model, "--json"]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    expected = json.loads(done.stdout)
    print("| worker processes | rows | equal to those of `predict` | files/s | processor time, ms a file |")
    print("|---|---|---|---|---|")
    rates = []
    for workers in (1, 2):
        output, files = folder / f"workers-{workers}", len(paths) - 100 * workers
        short = run(folder, paths[: 100 * workers], model, folder / f"short-{workers}", workers)
        long = run(folder, paths, model, output, workers)
        cost = 1000 * (long.processor_seconds - short.processor_seconds) / files
        rows = read_rows(output)
        times = sorted(path.stat().st_mtime for path in output.glob("predictions-*"))
        # The first shard of each worker also takes the time in which the worker starts.
        rates.append(files / (times[-1] - times[workers - 1]))
        print(f"| {workers} | {len(rows):,} | {rows == expected} | {rates[-1]:.0f} | {cost:.1f} |", flush=True)
    print(f"\nTwo workers: {rates[1] / rates[0]:.2f} times the rate of one.\n")


def measure_memory(folder, paths, model, counts):
    print("| files | memory of a worker, MB | of the process that started it, MB |\n|---|---|---|")
    for count in counts:
        done = run(folder, paths[:count], model, folder / f"memory-{count}")
        print(f"| {count:,} | {done.worker_megabytes:.0f} | {done.launcher_megabytes:.0f} |", flush=True)


def kill_and_repeat(folder, paths, model):
    output = folder / "killed"
    killed = start(folder, paths, model, output, workers=2)
    while len(list(output.glob("predictions-*"))) < len(paths) // 400 and killed.poll() is None:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = {path: path.stat() for path in output.glob("predictions-*")}
    run(folder, paths, model, output)
    kept = sum(path.stat() == status for path, status in before.items())
    complete = read_rows(output) == read_rows(folder / "workers-2")
    shards = len(list(output.glob("predictions-*")))
    print(f"\nKilled after {len(before)} of {shards} shards. Kept by the second run: {kept}. Complete: {complete}.")


def measure_cost(folder, paths, model, repetitions):
    short = run(folder, paths[:1], model, folder / "short", workers=1)
    long = run(folder, paths * repetitions, model, folder / "long", workers=1)
    files = len(paths) * repetitions - 1
    rows = read_rows(folder / "long")
    seconds = np.mean([row["seconds"] for row in rows if row["error"] is None])
    size = sum(path.stat().st_size for path in (folder / "long").glob("predictions-*")) / len(rows)
    cost = (long.processor_seconds - short.processor_seconds) / files
    print("| model | tracks | s a track | processor time, s a track | bytes a row |\n|---|---|---|---|---|")
    print(f"| {model} | {len(rows)} | {seconds:.0f} | {cost:.3f} | {size:.0f} |")


if __name__ == "__main__":
    main()
