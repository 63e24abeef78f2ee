"""Commands about the folders that experiments leave: a page that tells all of a run, and runs beside each other."""

import json
import os

import click
from genrekeras.cli.common import PICTURES, errors_named, file_to_write
from genrekeras.files import whole_file


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(file_okay=False))
@file_to_write("-o", "--output", endings=(".html",), help="The page.  [default: RUN/report.html]")
def report(folder, output):
    """Write a page that tells all of a run.

    RUN is the folder that an experiment left. The page is one file that needs nothing else.
    """
    from genrekeras import report as reports

    with errors_named():
        output = output or os.path.join(folder, "report.html")
        reports.html(reports.load_run(folder), output)
        click.echo(output)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True)
@click.option("--first-clip", is_flag=True, help="By the first clip of each track, not by several of each.")
@file_to_write("-o", "--output", endings=(*PICTURES, ".csv"), help="A picture (.png, .pdf, .svg) or a .csv table.")
def compare(runs, split, first_clip, output):
    """Tell which of several runs is better.

    RUNS are folders that experiments left, or .json files that `genrekeras evaluate` wrote, of the same clips. The
    others are held against the first. The interval of a difference is that of a paired bootstrap over clips: if it
    holds 0, nobody knows which is better.
    """
    from genrekeras import comparison
    from genrekeras import report as reports

    with errors_named():
        names = _short_names(runs)
        found = {name: _report(run, split, first_clip) for name, run in zip(names, runs, strict=True)}
        table = comparison.compare(found)
        first, width = next(iter(found.values())), max(map(len, names))
        click.echo(f"{first.split}, {first.protocol} protocol, {len(first.labels)} clips\n")
        click.echo(f"{'':<{width}}  accuracy           95 %  macro-F1  log-loss  difference             95 %  heard")
        for name, row in table.iterrows():
            difference = f"{'':<28}"
            if row.difference == row.difference:  # of all but the first
                difference = f"{row.difference:+10.1%}  {row.difference_low:+6.1%} to {row.difference_high:+6.1%}"
            click.echo(
                f"{name:<{width}}  {row.accuracy:8.1%} {row.low:5.1%} to {row.high:5.1%}  {row.macro_f1:8.3f}  "
                f"{row.log_loss:8.3f}  {difference}  {row.heard}"
            )
        if output and output.lower().endswith(".csv"):
            with whole_file(output) as temporary:
                table.to_csv(temporary, index_label="run")
        elif output:
            reports.comparison(table, output)


def _report(run, split, first_clip):
    from genrekeras import report as reports
    from genrekeras.evaluation import Report

    if os.path.isfile(run):
        with open(run, encoding="utf-8") as file:
            try:
                return Report.from_dict(json.load(file))
            except ValueError as error:
                raise ValueError(f"{run} cannot be read as a report: {error}") from error
    found = reports.load_run(run).reports
    wanted = [split] if first_clip else [f"{split}_tracks", split]
    for name in wanted:
        if name in found:
            return found[name]
    raise ValueError(f"{run} holds no scores of {split}, but {', '.join(found) or 'none at all'}.")


def _short_names(runs):
    """The last part of each path, with as many above it as it takes to tell them apart."""
    parts = [os.path.normpath(os.path.abspath(run)).split(os.sep) for run in runs]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("A run is named twice.")
