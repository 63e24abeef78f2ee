"""Commands for the output folders of experiments: report, compare."""

import json
import os

import click
from genrekeras.cli.common import PICTURES, error_handling, file_to_write, wrap
from genrekeras.utils.io import atomic_write
from genrekeras.utils.progress import printable

_MAX_NAME_WIDTH = 12  # The scores need the rest of a line.


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(file_okay=False))
@file_to_write("-o", "--output", endings=(".html",), help="The .html file to write.  [default: RUN/report.html]")
def report(folder, output):
    """Write an HTML report of a training run.

    RUN is the output folder of a finished or interrupted experiment. The report is one self-contained file.
    """
    from genrekeras import reports

    with error_handling():
        output = output or os.path.join(folder, "report.html")
        reports.html(reports.load_run(folder), output)
        click.echo(output)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="test",
    show_default=True,
    help="The split to compare.",
)
@click.option(
    "--first-clip", is_flag=True, help="Compare predictions for the first clip of each track instead of several clips."
)
@file_to_write(
    "-o", "--output", endings=(*PICTURES, ".csv"), help="Write a .png, .pdf or .svg figure, or a .csv table."
)
def compare(runs, split, first_clip, output):
    """Compare the scores of several runs.

    RUNS are output folders of experiments, or .json files that `genrekeras evaluate` wrote. All runs must be evaluated
    on the same clips. The accuracy of each run is compared with the accuracy of the first run. For multi-label models,
    the score is the mean average precision (mAP). The interval of the difference takes artists as independent of each
    other or, if they are unknown, clips. If the interval contains 0, the difference may be due to chance.
    """
    from genrekeras import visualization
    from genrekeras.evaluation import comparison

    with error_handling():
        names = _short_names(runs)
        reports = {name: _load_report(run, split, first_clip) for name, run in zip(names, runs, strict=True)}
        table = comparison.compare(reports)
        first = next(iter(reports.values()))
        is_same_coverage = (table["input_coverage"] == first.input_coverage).all()
        coverage = f", {first.input_coverage}" if is_same_coverage and first.input_coverage else ""
        title = f"{first.split}, {first.protocol} protocol, {len(first.labels)} clips{coverage}"
        click.echo("\n".join([*wrap(title), ""]))
        titles = [name if is_same_coverage else f"{name}: {text}" for name, text in table["input_coverage"].items()]
        titles = [wrap(title) for title in titles]
        width = min(_MAX_NAME_WIDTH, max(len(lines[0]) for lines in titles))
        click.echo(f"{'':<{width}}  {f'{first.SCORE_NAME} [95 %]':<21}  macro-F1  log-loss  difference [95 %]")
        for lines, row in zip(titles, table.itertuples(), strict=True):
            if len(lines) > 1 or len(lines[0]) > width:  # Print a long name above its scores.
                click.echo("\n".join(lines))
                lines = [""]
            score = f"{getattr(row, first.SCORE):6.1%}{_bounds(row.low, row.high)}"
            difference = ""
            if row.difference == row.difference:  # The difference is NaN for the first run.
                difference = f"  {row.difference:+6.1%}{_bounds(row.difference_low, row.difference_high, '+')}"
            click.echo(f"{lines[0]:<{width}}  {score:<21}  {row.macro_f1:8.3f}  {row.log_loss:8.3f}{difference}")
        if output and output.lower().endswith(".csv"):
            with atomic_write(output) as temporary:
                table.rename(printable).to_csv(temporary, index_label="run")
        elif output:
            visualization.comparison(table, output)


def _bounds(low, high, sign=""):
    """Return an interval as text, in percent. It is NaN if there are too few artists."""
    return f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]" if low == low else " (too few artists)"


def _load_report(run, split, first_clip):
    """Return the report in the output folder of a training run, or in a .json file."""
    from genrekeras import reports
    from genrekeras.evaluation import report_from_dict

    if os.path.isfile(run):
        with open(run, encoding="utf-8") as file:
            try:
                return report_from_dict(json.load(file))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{run} cannot be read as a report: {error}") from error
    reports_of_run = reports.load_run(run).reports
    for name in [split] if first_clip else [f"{split}_tracks", split]:
        if name in reports_of_run:
            return reports_of_run[name]
    names = ", ".join(reports_of_run) or "none"
    raise ValueError(f"{run} contains no scores of the split {split}. It contains: {names}.")


def _short_names(runs):
    """Return the last part of each path. Add parent folders until all names differ."""
    parts = [os.path.normpath(os.path.abspath(run)).split(os.sep) for run in runs]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("RUNS must be different runs, but one run is given twice.")
