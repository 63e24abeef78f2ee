"""How much time and memory are needed to read long files of each format?

    python experiments/benchmarks/long_files.py --hours 3

The script writes one file after the other to a temporary folder with ffmpeg. One process reads 30 evenly spaced clips
of 10 s from the file. Another process reads the complete file, as for a timeline. The script prints a Markdown table.

Expected: about 20 minutes on 2 cores, and less than 300 MB for all formats.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

READ = """
import resource, sys, time
from genrekeras import audio, inference
from genrekeras.utils import process

process.configure()
path, part = sys.argv[1:]
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
with audio.AudioFile(path) as file:
    starts = inference.clip_starts(file.seconds, 10.0, 30 if part == "clips" else 10**6)
    count = sum(1 for _ in inference.load_clips(file, 10.0, starts))
print(count, time.monotonic() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
FORMATS = {
    "wav": ("x.wav", ()),
    "flac": ("x.flac", ()),
    "mp3": ("x.mp3", ("-b:a", "128k")),
    "mp3, variable bitrate, no Xing header": ("x.mp3", ("-q:a", "5", "-write_xing", "0")),
    "ogg (Vorbis)": ("x.ogg", ()),
    "opus": ("x.opus", ()),
    "m4a (AAC)": ("x.m4a", ()),
    "aac (ADTS)": ("x.aac", ()),
    "wma": ("x.wma", ()),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0, help="length of the files (default: 3)")
    seconds = round(3600 * parser.parse_args().hours)
    if not shutil.which("ffmpeg"):
        sys.exit("This benchmark needs ffmpeg, which is not installed.")
    print(f"| {seconds / 3600:g} h, stereo, 44.1 kHz | 30 clips, s | MB | whole file, s | MB |\n|---|---|---|---|---|")
    for name, (file, options) in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, file)
            noise = f"anoisesrc=color=pink:amplitude=0.3:sample_rate=44100:duration={seconds}"
            command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", noise, "-ac", "2", *options, path]
            subprocess.run(command, check=True)
            cells = []
            for part in ("clips", "all"):
                command = [sys.executable, "-c", READ, path, part]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                _, seconds_to_read, megabytes = map(float, output.split())
                cells += [f"{seconds_to_read:.1f}", f"{megabytes:.0f}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
