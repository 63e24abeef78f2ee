"""How many sounds other than music does a model mark as low confidence?

    python experiments/ablations/ood_rejection.py SPEECH OTHER      # folders of recordings
    python experiments/ablations/ood_rejection.py                   # only synthetic sounds

Tones, noises and silence are synthesized. The recordings of each folder are concatenated in random order, with pauses
of 0.2 to 0.6 s, and cut into pieces as long as the model's clips. If a recording is longer than two pieces, only the
middle of the recording is used, as one piece.

The results in docs/guide/calibration.md are from the Debian packages asterisk-core-sounds-LANGUAGE-wav,
ktuberling-data, fillets-ng-data(-cs) and wesnoth-VERSION-music (`apt-get download`, `dpkg -x`). These packages were
chosen before any score was computed.

Expected: 20 seconds on 2 cores for the synthetic sounds. docs/guide/calibration.md has the
results of the preset.
"""

import argparse
import os

import genrekeras as gk
import numpy as np
import tqdm
from genrekeras.inference import find_files
from genrekeras.utils import process


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", help="folders of recordings; each folder is one row of the table")
    parser.add_argument("--model", help="saved GenreClassifier with thresholds (default: the preset fma_small)")
    parser.add_argument("--pieces", type=int, default=30, help="maximum number of pieces of each folder (default: 30)")
    flags = parser.parse_args()
    process.configure()
    model = gk.load_model(flags.model) if flags.model else gk.GenreClassifier.from_preset("fma_small")
    rate, samples = model.sample_rate, round(model.clip_seconds * model.sample_rate)
    print("| sounds | pieces | low confidence | by probability only | most frequent genre |\n|---|---|---|---|---|")
    print_row(model, "tones, clicks, hum, silence", tones(rate, samples))
    print_row(model, "noises", noises(rate, samples, np.random.default_rng(0)))
    for folder in flags.folders:
        waveforms = pieces(folder, rate, samples, flags.pieces, np.random.default_rng(0))
        print_row(model, os.path.relpath(folder), waveforms)


def print_row(model, name, waveforms):
    """Predict the genres of waveforms, and print one row of the table."""
    rows = [model.predict_waveform(y, model.sample_rate) for y in tqdm.tqdm(waveforms, desc=name, unit="piece")]
    if not rows:
        print(f"| {name} | 0 | | | |")
        return
    low_confidence = sum(row["low_confidence"] for row in rows)
    improbable = sum(row["probability"] < (model.thresholds.min_confidence or 0.0) for row in rows)
    genres = [row["genre"] for row in rows]
    genre = max(model.genres, key=genres.count)
    print(f"| {name} | {len(rows)} | {low_confidence} | {improbable} | {genre} ({genres.count(genre)}) |", flush=True)


def tones(rate, samples):
    """Yield sines, a square wave, a chirp, mains hum, clicks, and silence."""
    time = np.arange(samples) / rate
    yield from (0.3 * np.sin(2 * np.pi * hz * time) for hz in (100, 440, 3000))
    yield 0.2 * np.sign(np.sin(2 * np.pi * 220 * time))
    yield 0.3 * np.sin(2 * np.pi * (100 + 100 * time) * time)
    yield 0.2 * sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 10))
    yield 0.9 * (np.arange(samples) % (rate // 2) == 0)
    yield np.zeros(samples)


def noises(rate, samples, rng):
    """Yield noises from white to brown, each with constant and with modulated amplitude."""
    time = np.arange(samples) / rate
    for power in (0.0, 0.25, 0.5, 0.75, 1.0):
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        noise = np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum))) ** power, samples)
        noise *= 0.3 / np.abs(noise).max()
        yield noise
        yield noise * (0.55 + 0.45 * np.sin(2 * np.pi * time * rng.uniform(0.1, 0.5)))


def pieces(folder, rate, samples, count, rng):
    """Yield pieces of the recordings in a folder. Files that cannot be read are reported and skipped."""
    parts, total = [], 0
    for path in rng.permutation(find_files([folder])):
        try:
            y = gk.audio.load(path, rate)
        except gk.audio.AudioError as error:
            tqdm.tqdm.write(str(error))
            continue
        if len(y) > 2 * samples:
            start = (len(y) - samples) // 2
            parts, total, y = [], 0, y[start : start + samples]
        parts += [y, np.zeros(round(rate * rng.uniform(0.2, 0.6)), "float32")]
        total += len(parts[-2]) + len(parts[-1])
        if total >= samples:
            yield np.concatenate(parts)[:samples]
            parts, total, count = [], 0, count - 1
            if count == 0:
                return


if __name__ == "__main__":
    main()
