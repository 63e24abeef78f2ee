"""Commands for the dataset FMA: download, check, build, spectrograms."""

import os
import shlex

import click
from genrekeras.cli.common import FOLDER, SUBSET, OrderedGroup, echo, error_handling, file_to_write
from genrekeras.utils.io import atomic_write, format_size


@click.group(name="fma", cls=OrderedGroup)
def group():
    """Download and prepare the FMA dataset.

    FMA is "A Dataset For Music Analysis". An interrupted download or build is resumed when the command is run again.
    """


@group.command()
@FOLDER
@SUBSET
@click.option("--only", type=click.Choice(["metadata", "audio"]), help="Download only one of the two archives.")
@click.option("--remove-archives", is_flag=True, help="Remove each archive after it is unpacked.")
@click.option("--base-url", help="URL of a mirror of the archives.  [default: the server of FMA]")
def download(folder, subset, only, remove_archives, base_url):
    """Download FMA, verify the archives, and unpack them.

    The subset small has 8,000 clips (7.2 GiB), medium has 25,000 clips (22 GiB), and large has 106,574 clips (93 GiB).
    The subset full has 106,574 complete tracks (879 GiB). The metadata take 342 MiB. Until the archives are removed,
    the subset needs twice the disk space.
    """
    with error_handling():
        from genrekeras.datasets import fma
        from genrekeras.datasets.fma.download import ARCHIVES, BASE_URL

        fma.download(folder, subset, [only] if only else ["metadata", "audio"], base_url or BASE_URL, remove_archives)
        name = ARCHIVES["metadata" if only == "metadata" else subset].name
        echo(f"{os.path.join(folder, name)} is complete. Next: genrekeras fma check {shlex.quote(folder)}")


@group.command()
@FOLDER
@SUBSET
@file_to_write("--csv", "table", endings=(), help="Write a CSV table with one row per clip.")
@click.pass_context
def check(context, folder, subset, table):
    """Report missing and damaged clips in FOLDER.

    All clips are decoded. The exit code is 0 if the subset is usable, and 1 if it is not.
    """
    with error_handling():
        from genrekeras.datasets import fma

        result = fma.check(folder, subset)
        echo(str(result))
        if table:
            with atomic_write(table) as temporary:
                result.clips.to_csv(temporary)
    context.exit(0 if result.usable else 1)


@group.command()
@FOLDER
@SUBSET
@click.option("--sample-rate", type=click.IntRange(min=1), default=22050, show_default=True, help="Sample rate in Hz.")
@click.option(
    "--prepared-dir", type=click.Path(file_okay=False), help="The folder to write.  [default: FOLDER/prepared]"
)
@click.option(
    "--beam",
    metavar="OPTIONS",
    help='Decode with Apache Beam and these options, such as "--runner=DirectRunner --direct_num_workers=8 '
    '--direct_running_mode=multi_processing".',
)
def build(folder, subset, sample_rate, prepared_dir, beam):
    """Decode the clips in FOLDER, and store them for training."""
    with error_handling():
        from genrekeras.datasets import fma
        from genrekeras.datasets.groups import concentration, leakage

        options = None if beam is None else shlex.split(beam)
        data = fma.load_fma(
            folder,
            subset,
            sample_rate=sample_rate,
            prepared_dir=prepared_dir,
            beam_options=options,
            protocol=_protocol_of_table(folder),
        )
        echo(f"{data}\n\nArtists, albums and sounds that splits share:\n\n{leakage(data)}")
        echo(f"\nArtists of each split and genre:\n\n{concentration(data).round(1).to_string()}")


@group.command()
@FOLDER
@SUBSET
@file_to_write("-o", "--output", endings=(".npz",), required=True, help="The .npz file to write.")
def spectrograms(folder, subset, output):
    """Write a file of spectrograms, for training without audio.

    If necessary, the clips in FOLDER are first decoded and stored at 44,100 Hz. The file contains 128 frames of each
    clip (16 KiB). The frames are sampled from the first 29.98 s of the clip, because clips of FMA have 29.98 or 30.00
    s. The script experiments/train_ensemble.py trains on this file.
    """
    with error_handling():
        import genrekeras as gk
        from genrekeras.datasets import fma

        data = fma.load_fma(folder, subset, sample_rate=44100, protocol=_protocol_of_table(folder))
        echo(str(data))
        model = gk.GenreClassifier(
            "mel_cnn",
            genres=data.genres,
            clip_seconds=gk.datasets.FMA_SECONDS,
            front_end=gk.datasets.sampled_logmel_front_end(),
            pretrained=None,
            fine_tune="all",
        )
        splits = [data.train, data.validation, *([] if data.protocol == "random" else [data.test])]
        gk.datasets.save_spectrograms(
            output, *(gk.datasets.compute_spectrograms(split, model) for split in splits if len(split))
        )
        echo(f"{output}: {format_size(os.path.getsize(output))}")


def _protocol_of_table(folder):
    """Return "official" if the folder contains tracks.csv, else "random": train_labels.csv has no official splits."""
    from genrekeras.datasets import fma

    return "official" if os.path.basename(fma.find_table(folder)) == "tracks.csv" else "random"
