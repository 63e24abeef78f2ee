"""Command that writes genres into the tags of files: tag."""

import collections
import contextlib
import os
import shlex

import click
from genrekeras.cli.common import (
    TRACK_CLASSIFIER,
    echo,
    error_handling,
    file_to_write,
    load_track_classifier,
    plural,
    wrap,
)
from genrekeras.utils.progress import print_message, printable


@click.command()
@click.argument("files", nargs=-1, type=click.Path())
@TRACK_CLASSIFIER
@click.option("--dry-run", is_flag=True, help="Print the changes, and write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace the genres of files that have some.")
@click.option("--append", is_flag=True, help="Keep the genres of files that have some, and add the predicted ones.")
@click.option(
    "--max-genres",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maximum number of predicted genres that are written into a file.",
)
@click.option(
    "--min-probability",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="P",
    help="Do not write genres with a lower probability.",
)
@click.option(
    "--precision",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="P",
    help="Write only genres of which at least this share is correct. The model must be calibrated.",
)
@click.option("--album", is_flag=True, help="Write the same genres into all tracks of an album.")
@click.option(
    "--taxonomy",
    type=click.Path(dir_okay=False),
    metavar="FILE.toml",
    help="Map the labels of the model to your genres.  [default: a built-in one for musicnn_msd and musicnn_mtt]",
)
@file_to_write(
    "--journal",
    endings=(),
    metavar="FILE",
    help="Store the old tags in this file.  [default: a new file in the state folder of the user]",
)
@click.option("--undo", type=click.Path(dir_okay=False), metavar="JOURNAL", help="Restore the old tags from a journal.")
@click.pass_context
def tag(
    context,
    files,
    path,
    dry_run,
    overwrite,
    append,
    max_genres,
    min_probability,
    precision,
    album,
    taxonomy,
    journal,
    undo,
):
    """Write predicted genres into the tags of audio files.

    FILES are audio files, or folders that are searched for audio files recursively. Files that have a genre, and files
    whose prediction has low confidence, are left as they are. The audio, the pictures and all other tags do not change.

    The old tags are stored in a journal, whose path is printed. "genrekeras tag --undo JOURNAL" restores them. Files
    that were changed after they were tagged are left as they are.

    The exit code is 0 on success, 1 if some files could not be read, tagged or restored, and 2 if the arguments are
    invalid.
    """
    if undo is not None:
        others = [name for name, value in context.params.items() if name not in ("undo", "path") and value]
        if others:
            raise click.UsageError("--undo takes no files and no other options.")
        context.exit(_undo(undo))
    if not files:
        raise click.UsageError("Missing argument 'FILES...', or the option --undo JOURNAL.")
    if overwrite and append:
        raise click.UsageError("--overwrite and --append exclude each other.")
    with error_handling(path):
        from genrekeras import inference, library
        from genrekeras.library.journal import read_journal
        from genrekeras.library.plan import TagOptions, check_precision, confidence_rule, plan_each

        if journal is not None and os.path.exists(journal) and os.path.getsize(journal):
            read_journal(journal)  # An error appears before the predictions.
        paths = inference.find_files(files)
        model = load_track_classifier(path)
        try:
            mapping = library.Taxonomy.for_labels(model.genres, taxonomy)
            check_precision(model, precision)
        except library.TaxonomyError as error:
            raise click.BadParameter(str(error), context, param_hint="--taxonomy") from error
        except ValueError as error:
            raise click.BadParameter(str(error), context, param_hint="--precision") from error
        mode = "overwrite" if overwrite else "append" if append else "missing"
        options = TagOptions(mode, max_genres, min_probability, precision, album, mapping)
        rows, journal = _apply(plan_each(model, paths, options), journal, dry_run)
        click.echo(_format_summary(rows, dry_run))
        click.echo("\n".join(wrap(confidence_rule(model, options))))
        if taxonomy is None and mapping is not None:
            click.echo("The built-in taxonomy maps the labels of the model to genres.")
        if dry_run:
            click.echo("Dry run: nothing was written.")
        elif journal is not None:
            echo(f"To undo: genrekeras tag --undo {shlex.quote(journal)}")
    context.exit(1 if any(row["error"] for row in rows) else 0)


def _apply(planned, journal, dry_run):
    """Write the genres of planned rows as soon as they are predicted, and print each change or error.

    Args:
        planned: generator of the rows of a plan.
        journal: path of the journal, or `None`.
        dry_run: whether nothing is written, and all rows are printed.

    Returns:
        The rows, and the path of the journal. The path is `None` if there was nothing to write.
    """
    from genrekeras.library.apply import apply_row, is_planned
    from genrekeras.library.journal import TagJournal

    rows, opened = [], None
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(planned))  # After an error, its progress bar ends before the message.
        for row in planned:
            if is_planned(row) and not dry_run:
                if opened is None:
                    opened = stack.enter_context(TagJournal(journal))
                    print_message(f"Old tags are stored in {opened.path}")
                row = apply_row(row, opened)
            row = {"written": False, **row}
            if row["error"]:
                print_message(printable(f"{row['path']}: {row['error']}"))
            elif dry_run or row["written"]:
                print_message(_format_row(row), to_stdout=True)
            rows.append(row)
    return rows, None if opened is None else opened.path


def _undo(journal):
    """Restore the old tags from a journal. Return the exit code."""
    with error_handling():
        from genrekeras import library

        table = library.undo_tags(journal)
        for row in table.itertuples():
            if row.error:
                echo(f"{row.path}: {row.error}", err=True)
        restored, failed = int(table["restored"].sum()), int(table["error"].notna().sum())
        unchanged = len(table) - restored - failed
        counts = [f"{restored} restored", f"{unchanged} had their old tags already" if unchanged else ""]
        counts += [f"{failed} left alone" if failed else ""]
        click.echo(f"{plural(len(table), 'change')}: {', '.join(filter(None, counts))}.")
    return 1 if failed else 0


def _format_row(row):
    """Return two or more lines of text: the path of a file, and its old and new genres."""
    old = ", ".join(row["old"]) or "no genre"
    if row["new"] is None or row["reason"]:
        change = f"{old}: left alone, {row['reason']}"
    else:
        change = f"{old} -> {', '.join(row['new'])} ({row['probability']:.0%})"
    return "\n".join([printable(row["path"]), *wrap(change, "  ")])


def _format_summary(rows, dry_run):
    """Return lines that count the rows by what happened to their files."""
    from genrekeras.library.apply import is_planned

    done = "would be tagged" if dry_run else "tagged"
    counts = collections.Counter()
    for row in rows:
        if row["error"]:
            counts["could not be read or tagged"] += 1
        elif row["written"] or (dry_run and is_planned(row)):
            counts[done] += 1
        else:
            counts[f"left alone: {row['reason']}"] += 1
    lines = [f"{count:>8} {what}" for what, count in counts.most_common()]
    return "\n".join([f"{plural(len(rows), 'file')}:", *lines])
