"""Does `genrekeras train --fine-tune all` give a higher accuracy on a small collection than training the last layer?

    python experiments/benchmarks/fine_tuning.py --epochs 3

The script writes 208 tracks of 104 artists, in 8 genres, to a temporary folder. A track is a mixture of two clips of
the synthetic corpus: one of its genre, and a quieter or louder one of a random genre. Both tracks of an artist have the
same second clip and the same mixing ratio. Then `train_collection` trains the last layer, and all layers.

Expected: docs/guide/own-music.md. With 3 epochs, the script needs a minute of processor time.
"""

import argparse
import os
import pathlib
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import process_settings  # noqa: F401

import genrekeras as gk
import numpy as np
import soundfile
from genrekeras.runs import fine_tuning
from genrekeras.utils import process


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=fine_tuning.EPOCHS, help="number of epochs (default: 10)")
    flags = parser.parse_args()
    process.configure()
    fine_tuning.EPOCHS = flags.epochs
    with tempfile.TemporaryDirectory() as folder:
        write_mixtures(f"{folder}/MUSIC")
        for fine_tune in ("head", "all"):
            result = gk.library.train_collection(f"{folder}/MUSIC", f"{folder}/{fine_tune}", fine_tune=fine_tune)
            print(f"{fine_tune}: {result.headline}\n{result.explanation}")


def write_mixtures(music, seed=0):
    """Write mixtures of clips of the synthetic corpus in folders GENRE/ARTIST/ALBUM."""
    rng, split = np.random.default_rng(seed), gk.datasets.load_synthetic(sample_rate=16000).all
    clips = [element["audio"][: 3 * 16000] for element in split]
    counts = dict.fromkeys(split.genres, 0)
    for clip, genre, track_id in zip(clips, split.tracks["genre"], split.track_ids, strict=True):
        artist, second_of_artist = divmod(counts[genre], 2)
        counts[genre] += 1
        if not second_of_artist:
            other, share = clips[rng.integers(len(clips))], rng.uniform(0.3, 1.0)
        mixture = share * clip / np.abs(clip).max() + (1 - share) * other / np.abs(other).max()
        folder = f"{music}/{genre}/{genre} {artist}/Album"
        os.makedirs(folder, exist_ok=True)
        soundfile.write(f"{folder}/{track_id}.flac", 0.5 * mixture / np.abs(mixture).max(), 16000)


if __name__ == "__main__":
    main()
