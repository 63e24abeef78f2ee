"""Which ablations differ? This script prints tables of the runs of ablation.py.

    python experiments/ablations/ablation_table.py          # or with another file as argument

The tables in docs/results/fma-small.md are those of results/ablations.jsonl. Each ablation is compared with the
ablation that it modifies, on the same tracks. Accuracies in the random protocol are also compared with accuracies in
the official protocol, mostly on different tracks.

The 95 % intervals assume normal distributions and independent tracks. The variance has two parts. The first part is the
variance over tracks of the mean over seeds, divided by the number of tracks. The second part is the variance between
networks that differ only in their seed, as far as independent tracks do not explain it. Frozen networks, which have a
"best epoch", lack the second part. Each kind of processor has its own table, because rounding differs.

Expected: 2 seconds on one core. No data is needed.
"""

import argparse
import json
import pathlib

import numpy as np

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "ablations.jsonl"
# Ablation -> candidates to compare it with. The first candidate that was run is used. An ablation that is not in this
# table is compared with the ablation that has the first word of its name, such as "recipe" for "recipe_no_ema".
BASES = {"new_stem": ("frozen",), "trained": ("frozen",), "kernel_ridge": ("recipe",)} | dict.fromkeys(
    ("trained_from_random", "efficientnet_b0_from_random", "resnet50_from_random", "recipe"),
    ("trained_as_recipe", "trained"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "file",
        nargs="?",
        type=pathlib.Path,
        default=RESULTS,
        help="output file of ablation.py (default: experiments/results/ablations.jsonl)",
    )
    parser.add_argument(
        "--to", metavar="ABLATION", help="ablation to compare with (default: the ablation that each ablation modifies)"
    )
    flags = parser.parse_args()
    try:
        lines = flags.file.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines[:-1]]  # The last line is empty or incomplete.
    except (OSError, ValueError) as error:
        parser.error(f"{flags.file} cannot be read: {error}")
    if flags.to not in {None, *(row["ablation"] for row in rows)}:
        parser.error(f"--to {flags.to}: {flags.file} contains no run of this ablation")
    print_tables(rows, flags.to)


def print_tables(rows, to=None):
    """Print Markdown tables of the runs, separately for each kind of processor."""
    for processor in dict.fromkeys(row["processor"] for row in rows):
        print(f"\nProcessors of kind {processor}\n")
        runs = {}  # (ablation, protocol) -> list of rows
        for row in (row for row in rows if row["processor"] == processor):
            runs.setdefault((row["ablation"], row["protocol"]), []).append(row)
        between_seeds = {protocol: variance_between_seeds(runs, protocol) for protocol in ("official", "random")}
        print("| ablation | protocol | validation, % (each seed) | difference [95 %] | minutes | best epoch |")
        print("|---|---|---|---|---|---|")
        for (ablation, protocol), group in runs.items():
            bases = (to,) if to else BASES.get(ablation, (ablation.split("_")[0],))
            base = next((name for name in bases if (name, protocol) in runs), ablation)
            best = [100 * row["best_epoch"] for row in group if row["best_epoch"] is not None]
            gain = f"{difference(group, runs[base, protocol], between_seeds)} to {base}" if base != ablation else ""
            minutes, best = np.mean([row["seconds"] / 60 for row in group]), f"{np.mean(best):.1f}" if best else ""
            print(f"| {ablation} | {protocol} | {scores(group)} | {gain} | {minutes:.1f} | {best} |")
        both = [ablation for ablation, protocol in runs if protocol == "official" and (ablation, "random") in runs]
        print("\n| ablation | official, % | random, % | difference [95 %] |\n|---|---|---|---|" if both else "")
        for official, random in ((runs[ablation, "official"], runs[ablation, "random"]) for ablation in both):
            gain = difference(random, official, between_seeds)
            print(f"| {official[0]['ablation']} | {scores(official)} | {scores(random)} | {gain} |")


def hits(rows):
    """Return an array `(runs, tracks)` with 100 for each correct prediction, else 0."""
    return 100 * np.array([list(row["hits"]) for row in rows], float)


def scores(rows):
    """Return the mean accuracy in percent as text. If there are several seeds, add the accuracy of each seed."""
    accuracies = [f"{100 * row['accuracy']:.1f}" for row in sorted(rows, key=lambda row: row["seed"])]
    return f"{hits(rows).mean():.1f}" + (f" ({', '.join(accuracies)})" if len(accuracies) > 1 else "")


def difference(rows, base_rows, between_seeds):
    """Return the difference between two mean accuracies and its interval, in percentage points, as text."""
    means, base_means = hits(rows).mean(axis=0), hits(base_rows).mean(axis=0)
    same_tracks = rows[0]["protocol"] == base_rows[0]["protocol"]
    variance = sum(x.var() / len(x) for x in ([means - base_means] if same_tracks else [means, base_means]))
    trained = [group for group in (rows, base_rows) if group[0]["best_epoch"] is None]
    variance += sum(between_seeds[group[0]["protocol"]] / len(group) for group in trained)
    mean, half = means.mean() - base_means.mean(), 1.96 * variance**0.5
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def variance_between_seeds(runs, protocol):
    """Return the variance between seeds of trained networks, without the part that independent tracks explain.

    Print both parts as standard deviations.
    """
    groups = [rows for (_, other), rows in runs.items() if other == protocol and len(rows) > 1]
    groups = [hits(rows) for rows in groups if rows[0]["best_epoch"] is None]
    if not groups:
        return 0.0
    degrees_of_freedom = sum(len(group) - 1 for group in groups)
    total = sum(len(group) * group.mean(axis=1).var() for group in groups) / degrees_of_freedom
    explained = sum(len(group) * group.var(axis=0).mean() / group.shape[1] for group in groups) / degrees_of_freedom
    print(
        f"Standard deviation between seeds, {protocol}: {total**0.5:.2f} points; expected from independent tracks: "
        f"{explained**0.5:.2f} ({degrees_of_freedom} degrees of freedom).\n"
    )
    return max(total - explained, 0.0)


if __name__ == "__main__":
    main()
