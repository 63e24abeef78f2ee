"""Commands that get FMA: download, check, build."""

import os
import shlex

import click
from genrekeras.cli.common import FOLDER, SUBSET, echo, errors_named, file_to_write
from genrekeras.utils.io import atomic_write, format_size


@click.group(name="fma")
def group():
    """Get FMA: download, check, build; keep spectra of it.

    FMA is a dataset for music analysis. Download and build go on where they were broken off.
    """


@group.command()
@FOLDER
@SUBSET
@click.option("--only", type=click.Choice(["metadata", "audio"]), help="One of the two archives.  [default: both]")
@click.option("--remove-archives", is_flag=True, help="Remove each archive when all of it is unpacked.")
@click.option("--base-url", help="URL of a mirror of the archives.  [default: FMA's own server]")
def download(folder, subset, only, remove_archives, base_url):
    """Download FMA into FOLDER, verify and unpack it.

    small has 8,000 clips in 7.2 GiB, medium 25,000 in 22 GiB, large 106,574 in 93 GiB, full as many whole tracks in 879
    GiB; the metadata have 342 MiB. Twice as much disk is needed, until the archives are removed.
    """
    with errors_named():
        from genrekeras.datasets import fma
        from genrekeras.datasets.fma.download import ARCHIVES, BASE_URL

        fma.download(folder, subset, [only] if only else ["metadata", "audio"], base_url or BASE_URL, remove_archives)
        name = ARCHIVES["metadata" if only == "metadata" else subset].name
        echo(f"{os.path.join(folder, name)} is there, whole. Next: genrekeras fma check {shlex.quote(folder)}")


@group.command()
@FOLDER
@SUBSET
@file_to_write("--csv", "table", endings=(), help="Write a row for each clip to this file.")
@click.pass_context
def check(context, folder, subset, table):
    """Decode every clip in FOLDER and tell what is there.

    The exit code is 0 if FOLDER is what it should be, and 1 if it is not.
    """
    with errors_named():
        from genrekeras.datasets import fma

        found = fma.check(folder, subset)
        echo(str(found))
        if table:
            with atomic_write(table) as temporary:
                found.clips.to_csv(temporary)
    context.exit(0 if found.usable else 1)


@group.command()
@FOLDER
@SUBSET
@click.option("--sample-rate", type=click.IntRange(min=1), default=22050, show_default=True, help="In Hz.")
@click.option("--prepared-dir", type=click.Path(file_okay=False), help="Where to.  [default: FOLDER/prepared]")
@click.option(
    "--beam",
    metavar="OPTIONS",
    help='Build with Apache Beam under these options, such as "--runner=DirectRunner --direct_num_workers=8 '
    '--direct_running_mode=multi_processing".',
)
def build(folder, subset, sample_rate, prepared_dir, beam):
    """Decode the clips in FOLDER once and store them for training."""
    with errors_named():
        from genrekeras.datasets import fma
        from genrekeras.datasets.splits import leakage

        options = None if beam is None else shlex.split(beam)
        data = fma.load_fma(
            folder,
            subset,
            sample_rate=sample_rate,
            prepared_dir=prepared_dir,
            beam_options=options,
            protocol=_protocol_of_table(folder),
        )
        echo(f"{data}\n\nWhat the splits share:\n\n{leakage(data)}")


@group.command()
@FOLDER
@SUBSET
@file_to_write("-o", "--output", endings=(".npz",), required=True, help="The file to write, .npz.")
def frames(folder, subset, output):
    """Keep 128 spectra of each clip, for training without audio.

    The clips in FOLDER are built at 44,100 Hz first. Of each, 29.98 s are heard (those of FMA have 29.98 s or 30.00 s);
    the file holds 16 KiB a clip. experiments/train_ensemble.py trains on it.
    """
    with errors_named():
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
        images = [gk.datasets.compute_spectrograms(split, model) for split in splits if len(split)]
        gk.datasets.save_spectrograms(output, *images)
        echo(f"{output}: {format_size(os.path.getsize(output))}")


def _protocol_of_table(folder):
    """A protocol that the folder's table can serve: train_labels.csv knows no splits."""
    from genrekeras.datasets import fma

    return "official" if os.path.basename(fma.find_table(folder)) == "tracks.csv" else "random"
