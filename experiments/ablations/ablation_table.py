"""Which choices paid? The tables of what choices.py has run; those in README are of choices.jsonl beside this script.

    python experiments/ablations/ablation_table.py              # or with another file behind it

A choice is compared with the one that it changes, on the same tracks, and its random protocol with its official one,
on others for the most part. The intervals (95 %, normal) are those of other tracks, as if these were independent, and
of other seeds: what falls on single tracks is in the mean over seeds; what all tracks share is how much more networks
that differ in their seed alone differ than that would make them (frozen ones, which have a "best epoch", do not).
Processors of other kinds round otherwise: they have tables of their own. Expected: 2 seconds on one core, no data.
"""

import argparse
import json
import pathlib

import numpy as np

# What a choice changes, the first of these that was run; of all others, the first word of their name.
BASES = {"new_stem": ("frozen",), "trained": ("frozen",), "kernel": ("recipe",)} | dict.fromkeys(
    ("trained_from_random", "efficientnet_b0_from_random", "resnet50_from_random", "recipe"),
    ("trained_as_best", "trained"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = pathlib.Path(__file__).with_name("choices.jsonl")
    parser.add_argument("file", nargs="?", type=pathlib.Path, default=default, help="what choices.py wrote")
    parser.add_argument("--to", metavar="CHOICE", help="compare all with this one (default: with what each changes)")
    flags = parser.parse_args()
    try:
        lines = flags.file.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines[:-1]]  # the last is empty or torn
    except (OSError, ValueError) as error:
        parser.error(f"{flags.file} cannot be read: {error}")
    if flags.to not in {None, *(row["choice"] for row in rows)}:
        parser.error(f"--to {flags.to}: there is no run of it in {flags.file}")
    print_tables(rows, flags.to)


def print_tables(rows, to=None):
    for processor in dict.fromkeys(row["processor"] for row in rows):
        print(f"\nProcessors of kind {processor}\n")
        runs = {}  # (choice, protocol) -> its rows
        for row in (row for row in rows if row["processor"] == processor):
            runs.setdefault((row["choice"], row["protocol"]), []).append(row)
        shared = {protocol: variance_shared(runs, protocol) for protocol in ("official", "random")}
        print("| choice | protocol | validation, % (each seed) | difference [95 %] | minutes | best epoch |")
        print("|---|---|---|---|---|---|")
        for (choice, protocol), own in runs.items():
            bases = (to,) if to else BASES.get(choice, (choice.split("_")[0],))
            base = next((name for name in bases if (name, protocol) in runs), choice)
            best = [100 * row["best_epoch"] for row in own if row["best_epoch"] is not None]
            gain = f"{difference(own, runs[base, protocol], shared)} to {base}" if base != choice else ""
            minutes, best = np.mean([row["seconds"] / 60 for row in own]), f"{np.mean(best):.1f}" if best else ""
            print(f"| {choice} | {protocol} | {scores(own)} | {gain} | {minutes:.1f} | {best} |")
        both = [choice for choice, protocol in runs if protocol == "official" and (choice, "random") in runs]
        print("\n| choice | official, % | random, % | claimed [95 %] |\n|---|---|---|---|" if both else "")
        for official, random in ((runs[choice, "official"], runs[choice, "random"]) for choice in both):
            claimed = difference(random, official, shared)
            print(f"| {official[0]['choice']} | {scores(official)} | {scores(random)} | {claimed} |")


def hits(rows):
    """`(runs, tracks)`: 100 where a run found the genre of a track."""
    return 100 * np.array([list(row["hits"]) for row in rows], float)


def scores(rows):
    each = [f"{100 * row['accuracy']:.1f}" for row in sorted(rows, key=lambda row: row["seed"])]
    return f"{hits(rows).mean():.1f}" + (f" ({', '.join(each)})" if len(each) > 1 else "")


def difference(rows, others, shared):
    """How many points the first are better than the others, with its interval."""
    own, other = hits(rows).mean(axis=0), hits(others).mean(axis=0)
    tracks = [own - other] if rows[0]["protocol"] == others[0]["protocol"] else [own, other]
    variance = sum(gains.var() / len(gains) for gains in tracks)
    trained = [runs for runs in (rows, others) if runs[0]["best_epoch"] is None]
    variance += sum(shared[runs[0]["protocol"]] / len(runs) for runs in trained)
    mean, half = own.mean() - other.mean(), 1.96 * variance**0.5
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def variance_shared(runs, protocol):
    """Between seeds, of trained networks, beyond what single tracks that fall this way or that would make it."""
    own = [rows for (_, other), rows in runs.items() if other == protocol and len(rows) > 1]
    several = [hits(rows) for rows in own if rows[0]["best_epoch"] is None]
    if not several:
        return 0.0
    freedom = sum(len(found) - 1 for found in several)
    seen = sum(len(found) * found.mean(axis=1).var() for found in several) / freedom
    alone = sum(len(found) * found.var(axis=0).mean() / found.shape[1] for found in several) / freedom
    told = f"{seen**0.5:.2f} points; single tracks alone would make it {alone**0.5:.2f}"
    print(f"Between seeds, {protocol}: a standard deviation of {told} ({freedom} degrees of freedom).\n")
    return max(seen - alone, 0.0)


if __name__ == "__main__":
    main()
