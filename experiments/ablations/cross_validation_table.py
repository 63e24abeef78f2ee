"""Print tables of the runs of cross_validation.py.

    python experiments/ablations/cross_validation_table.py          # or with another folder as argument

docs/results/fma-small.md contains the tables of experiments/results/cross_validation. All intervals take artists as
independent of each other, see genrekeras/evaluation/intervals.py. For several seeds, the scores of a track are averaged
over the seeds. The intervals therefore account for the choice of the artists, but not for the choice of the seeds.

Expected: 20 seconds on one core. No data is needed.
"""

import argparse
import itertools
import json
import pathlib

import numpy as np
import pandas as pd
from genrekeras.evaluation import Report
from genrekeras.evaluation.cross_validation import calibrate_folds
from genrekeras.evaluation.intervals import artist_interval, genre_sums, mean, mean_of_genres, sums_by_artist
from genrekeras.runs.recipe import average_results, select_fold
from genrekeras.utils.io import atomic_write

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "cross_validation"
RUNS = "runs.jsonl"
ENSEMBLES = {
    "ensemble": ("mel_cnn", "mel_resnet"),
    "ensemble_teacher": ("mel_cnn_teacher", "mel_resnet_teacher"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder",
        nargs="?",
        type=pathlib.Path,
        default=RESULTS,
        help="output folder of cross_validation.py (default: experiments/results/cross_validation)",
    )
    parser.add_argument(
        "--to", default="mel_resnet", metavar="MODEL", help="model to compare with (default: mel_resnet)"
    )
    parser.add_argument("--fold", type=int, metavar="N", help="fold to score, from 1 to 5 (default: all)")
    flags = parser.parse_args()
    if not read_runs(flags.folder):
        parser.error(f"{flags.folder} contains no runs")
    print_tables(flags.folder, flags.to, flags.fold)


def read_runs(folder):
    """Return the entries of the finished runs in a folder. An incomplete last line is ignored."""
    path = pathlib.Path(folder, RUNS)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # The last line is empty or incomplete.


def write_run(folder, file, entry, result):
    """Write the probabilities of a run, and add its entry to the list of runs."""
    report = result.uncalibrated
    table = pd.DataFrame(report.probabilities, columns=list(report.genres))
    table.insert(0, "track_id", report.track_ids)
    table.insert(1, "artist_id", report.groups)
    table.insert(2, "fold", result.folds)
    table.insert(3, "label", report.labels)
    with atomic_write(pathlib.Path(folder, f"{file}.csv.gz")) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4g", compression={"method": "gzip", "mtime": 0})
    entries = [other for other in read_runs(folder) if (other["file"]) != file]
    lines = [json.dumps(other) + "\n" for other in [*entries, {"file": file, **entry}]]
    with atomic_write(pathlib.Path(folder, RUNS)) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.writelines(lines)


def read_result(folder, entry):
    """Return the `CrossValidation` of a run, from its table."""
    table = pd.read_csv(pathlib.Path(folder, f"{entry['file']}.csv.gz"))
    genres = tuple(table.columns[4:])
    arrays = [table[name].to_numpy() for name in ("track_id", "label")]
    report = Report(
        genres,
        "cross-validation",
        entry["protocol"],
        *arrays,
        table[list(genres)].to_numpy(),
        groups=table["artist_id"].to_numpy(),
    )
    return calibrate_folds(report, table["fold"].to_numpy(), np.array(entry["seconds"]))


def read_all(folder):
    """Return (model, protocol) -> list of `CrossValidation`, one for each seed, with the ensembles.

    `ensemble` is the mean of a network of each kind with the same seed, `ensemble_of_seeds` that of all seeds.
    """
    runs = {}
    for entry in sorted(read_runs(folder), key=lambda entry: entry["seed"]):
        runs.setdefault((entry["model"], entry["protocol"]), []).append(read_result(folder, entry))
    for protocol in dict.fromkeys(protocol for _, protocol in runs):
        for name, members in ENSEMBLES.items():
            seeds = list(zip(*(runs.get((model, protocol), []) for model in members), strict=False))
            if seeds:
                runs[name, protocol] = [average_results(results) for results in seeds]
            if len(seeds) > 1:
                runs[f"{name}_of_seeds", protocol] = [average_results(list(itertools.chain(*seeds)))]
    return runs


def print_tables(folder, to="mel_resnet", fold=None):
    """Print Markdown tables of the runs in a folder, of all folds or of one."""
    runs = read_all(folder)
    if fold is not None:
        runs = {name: [select_fold(result, fold - 1) for result in results] for name, results in runs.items()}
    for protocol in dict.fromkeys(protocol for _, protocol in runs):
        results = {model: group for (model, other), group in runs.items() if other == protocol}
        report = next(iter(results.values()))[0].report
        artists = len(np.unique(report.groups))
        print(f"\n{protocol}: {len(report.labels):,} tracks, {artists:,} artists\n")
        print("| model | accuracy, % [95 %] | mean over artists, % [95 %] | macro-F1 | log-loss | minutes |", end="")
        print(f" accuracy - {to} [95 %] | log-loss - {to} [95 %] |" if to in results else "")
        print("|---|---|---|---|---|---|" + ("---|---|" if to in results else ""))
        for model, group in results.items():
            cells = [model, accuracy(group), over_artists(group)]
            for name in ("macro_f1", "log_loss"):
                cells.append(f"{np.mean([getattr(result.report, name) for result in group]):.3f}")
            cells.append(f"{np.mean([result.seconds for result in group]) / 60:.1f}")
            if to in results:
                cells += [difference(group, results[to]), log_loss_difference(group, results[to])]
            print(f"| {' | '.join(cells)} |")
    both = []
    if fold is None:  # The same fold has other tracks in the two protocols.
        both = [model for model, protocol in runs if protocol == "artist_folds" and (model, "random_folds") in runs]
    if both:
        print("\n| model | artist folds, % | random folds, % | difference [95 %] |\n|---|---|---|---|")
    for model in both:
        random = runs[model, "random_folds"]
        by_artist = runs[model, "artist_folds"][: len(random)]  # the same seeds
        print(f"| {model} | {accuracy(by_artist)} | {accuracy(random)} | {difference(random, by_artist)} |")


def hits(results):
    """Return the share of the runs in which the prediction of each track is correct, `(n,)`."""
    return np.mean([result.report.predictions == result.report.labels for result in results], axis=0)


def log_losses(results):
    """Return the log-loss of each track, averaged over the runs, `(n,)`."""
    labels = results[0].report.labels
    probabilities = [result.report.probabilities[np.arange(len(labels)), labels] for result in results]
    return -np.log(np.maximum(probabilities, 1e-15)).mean(axis=0)


def accuracy(results):
    """Return the mean accuracy in percent and its interval as text. If there are several seeds, add each accuracy."""
    each = ", ".join(f"{100 * result.report.accuracy:.1f}" for result in results)
    text = percent(hits(results).mean(), accuracy_interval(results))
    return f"{text}{f' ({each})' if len(results) > 1 else ''}"


def accuracy_interval(results):
    """Return the interval of the mean accuracy of several seeds."""
    values = hits(results)
    sums = sums_by_artist(results[0].report.groups, np.stack([values, np.ones(len(values))], axis=1))
    return artist_interval(mean, *sums)


def over_artists(results):
    """Return the mean over artists in percent and its interval as text."""
    sums = genre_sums(results[0].report.groups, results[0].report.labels, hits(results))
    interval = artist_interval(mean_of_genres, sums, np.ones(len(sums)))
    return percent(float(mean_of_genres(sums.sum(axis=0, keepdims=True))[0]), interval)


def difference(results, base):
    """Return the difference of two mean accuracies on the same tracks, and its interval, in percentage points."""
    return percent(*mean_and_interval(hits(results) - hits(base), results), "+")


def log_loss_difference(results, base):
    """Return the difference of two mean log-losses on the same tracks, and its interval, as text."""
    value, interval = mean_and_interval(log_losses(results) - log_losses(base), results)
    return f"{value:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")


def mean_and_interval(differences, results):
    """Return the mean of differences, `(n,)`, and its interval."""
    sums = sums_by_artist(results[0].report.groups, np.stack([differences, np.ones(len(differences))], axis=1))
    return differences.mean(), artist_interval(mean, *sums, "identity")


def percent(value, interval, sign=""):
    """Return a score and its interval in percent as text."""
    bounds = f" [{100 * interval[0]:{sign}.1f}, {100 * interval[1]:{sign}.1f}]" if interval else ""
    return f"{100 * value:{sign}.1f}{bounds}"


if __name__ == "__main__":
    main()
