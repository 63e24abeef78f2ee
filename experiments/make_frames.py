"""Hear a collection once and keep 128 spectra of each track: a file for experiments that need no audio any more.

    python experiments/make_frames.py --data-dir FMA --output fma_small_frames.npz
    python experiments/best.py --frames fma_small_frames.npz

Of each track the first 29.98 s are heard (those of fma_small are 29.98 s or 30.00 s long) at 44,100 Hz; the file holds
16 KiB a track.
"""

import argparse

import genrekeras as gk


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with FMA's metadata and clips")
    parser.add_argument("--subset", default="small", choices=gk.datasets.fma.SUBSETS, help="of FMA (default: small)")
    parser.add_argument("--output", required=True, help="the file to write, .npz")
    flags = parser.parse_args()
    if not flags.output.endswith(".npz"):
        parser.error("--output must end in .npz")
    try:
        data = gk.datasets.load_fma(flags.data_dir, flags.subset, sample_rate=44100)
    except (OSError, ValueError) as error:
        raise SystemExit(f"The data cannot be used: {error}") from error
    print(data)
    model = gk.GenreClassifier(
        "mel_cnn",
        genres=data.genres,
        clip_seconds=gk.datasets.FMA_SECONDS,
        front_end=gk.datasets.layers_of_frames(),
        pretrained=None,
        fine_tune="all",
    )
    splits = [split for split in (data.train, data.validation, data.test) if len(split)]
    gk.datasets.save_frames(flags.output, *(gk.datasets.images_of(split, model) for split in splits))
    print(f"Written: {flags.output}")


if __name__ == "__main__":
    main()
