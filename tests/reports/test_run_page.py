"""The HTML report of a run: its content, no external resources, escaped names."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from genrekeras import reports
from genrekeras.evaluation import MultiLabelReport, Report

GENRES = ("Rock & Roll", "<b>Pop</b>", "Folk")
CONFIG = {
    "command": ["python", "experiments/<script>.py"],
    "flags": {"seed": 3},
    "backend": "torch",
    "versions": {"keras": "3.15.1"},
    "model": {"backbone": "efficientnet_b0"},
    "seconds": 120.0,
    "data": {
        "name": "mine",
        "protocol": "official",
        "counts": {"tracks": 50, "missing": 1, "broken": 2, "train": 20, "validation": 12, "test": 15},
        "broken": {"17": "empty <file>", "18": "not audio"},
        "leakage": [
            {"first": "train", "second": "test", "artists": None, "albums": 4, "duplicates": 0, "clips": 5, "of": 15}
        ],
    },
}
CARD = {
    "calibration": {
        "temperature": 1.75,
        "min_confidence": 0.41,
        "low_confidence_share": {"correct": 0.05},
        "on": {"split": "validation", "protocol": "official", "input_coverage": "3 crops", "clips": 12},
    }
}


def scores(rng, split, count):
    labels = np.arange(count) % 2  # the third genre has no clips
    return Report(GENRES, split, "official", np.arange(count), labels, rng.dirichlet([2, 1, 1], count), "3 crops")


@pytest.fixture
def folder(tmp_path, rng):
    """The folder of a finished run."""
    run = tmp_path / "a run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(CONFIG))
    (run / "card.json").write_text(json.dumps(CARD))
    (run / "history.csv").write_text("epoch,loss,val_loss,accuracy\n1,2.0,2.1,0.1\n2,1.5,1.6,0.4\n")
    for split, count in (("validation", 12), ("test", 15)):
        for kind in ("", "_tracks", "_tracks_uncalibrated"):
            scores(rng, split, count).to_json(run / f"{split}{kind}.json")
    with open(run / "misclassified.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["track_id", "title", "genre", "predicted", "probability"])
        writer.writerow([7, 'A "band": <i>song</i>', GENRES[0], GENRES[1], 0.987])
    return run


def test_content(folder, tmp_path):
    run = reports.load_run(folder)
    assert run.name == "a run" and list(run.history) == ["loss", "val_loss", "accuracy"] and len(run.reports) == 6
    reports.html(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    shown = run.reports["test_tracks"]
    assert f'<span class="big">{100 * shown.accuracy:.1f} %</span> accuracy on 15 test clips' in page
    low, high = shown.accuracy_interval
    assert f"(95 %: {100 * low:.1f} to {100 * high:.1f}; 3 crops)" in page
    limit = "low confidence below a probability of 0.410. On these clips, 5.0 % of the correct predictions have"
    for text in ("2 broken clips were excluded", "unknown", "5 of 15", "divided by a temperature of 1.750", limit):
        assert text in page
    for name, other in run.reports.items():
        assert f"<td>{other.calibration_error:.3f}</td>" in page, name
    assert page.count("<svg") == 2 + 2  # loss and accuracy, before and after
    assert ">7</td>" in page and "99 %" in page and '"seconds": 120.0' in page


@pytest.mark.parametrize("artists, interval", [(3, None), (100, "jackknife over 40 artists")])
def test_intervals_by_artist(artists, interval, folder, rng, tmp_path):
    report = dataclasses.replace(scores(rng, "test", 40), groups=np.arange(40) % artists)
    report.to_json(folder / "test_tracks.json")
    reports.html(reports.load_run(folder), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "The intervals take artists as independent of each other" in page and "Wilson" not in page
    if interval:
        low, high = report.accuracy_interval
        assert interval in page and f"{100 * low:.1f} to {100 * high:.1f}" in page and "too few artists" not in page
    else:
        assert "too few artists for an interval: 3" in page and "<td>too few artists</td>" in page


@pytest.mark.parametrize("artists, genres", [(15, 3), (5, 3), (None, 3), (15, 51)])
def test_a_multi_label_run(artists, genres, folder, rng, tmp_path):
    names = tuple(f"<g{i}>" for i in range(genres))
    for name in ("validation", "test"):
        for kind in ("", "_tracks", "_tracks_uncalibrated"):
            labels = rng.random((40, genres)) < 0.4
            arguments = names, name, "official", np.arange(40), labels, rng.random((40, genres)), "3 crops"
            groups = None if artists is None else np.arange(40) % artists
            report = MultiLabelReport(*arguments, groups, thresholds=np.full(genres, 0.3))
            report.to_json(folder / f"{name}{kind}.json")
    calibration = {**CARD["calibration"], "class_thresholds": [0.3] * genres, "precision": None}
    (folder / "card.json").write_text(json.dumps({"calibration": calibration}))
    run = reports.load_run(folder)
    report = run.reports["test_tracks"]
    reports.html(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f'<span class="big">{100 * report.score:.1f} %</span> mAP on 40 test clips' in page and "<g0>" not in page
    assert "<th>ROC-AUC</th>" in page and "recall" not in page
    assert "genres were chosen on the same clips, for the best F1 score" in page
    assert "the diagonal, share of true labels equals probability" in page
    first = f"<td>{report.genre_counts[0]}</td><td>{100 * report.genre_roc_auc[names[0]]:.0f} %</td>"
    assert f"&lt;g0&gt;</td>{first}" in page
    assert ("Label pairs. Rows are true genres" in page) == (genres == 3)
    if genres == 3:
        cell = report.label_pairs[0, 1]
        assert f">{100 * cell / report.genre_counts[0]:.0f}<small>{cell}</small>" in page
    too_few = f"too few artists for an interval: {artists}"
    method = {15: "jackknife over 15 artists", 5: too_few, None: "assume that clips are independent"}
    assert method[artists] in page and "Wilson" not in page


def test_no_external_resources_and_escaped_names(folder, tmp_path):
    reports.html(reports.load_run(folder), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in page and "<script" not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))
    for text in ("<b>Pop", "<i>song", "empty <file", "<script>.py"):
        assert text not in page
    for text in ("Rock &amp; Roll", "&lt;b&gt;Pop&lt;/b&gt;", "A &#34;band&#34;: &lt;i&gt;song", "empty &lt;file&gt;"):
        assert text in page


def test_a_run_without_training_or_scores(folder, tmp_path):
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    config = {key: value for key, value in CONFIG.items() if key not in ("model", "seconds")}
    (folder / "config.json").write_text(json.dumps(config))
    reports.html(reports.load_run(folder), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "There are no scores" in page and "<svg" not in page


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("config.json", None, "is not the folder of a run: it contains no config.json"),
        ("config.json", "{half", r"config.json cannot be read"),
        (
            "test.json",
            '{"genres": ["x"]}',
            r"test.json cannot be read: `content` must be .*KeyError 'split'",
        ),
        ("test.json", "[]", r"test.json cannot be read: `content` must be"),
        ("history.csv", "epoch,loss\n1,many\n", r"history.csv cannot be read"),
        ("config.json", "[]", r"config.json cannot be read: the file must contain a JSON object, not list"),
        ("card.json", "null", r"card.json cannot be read"),
        ("config.json", "[" * 100_000, r"config.json cannot be read"),
        ("test.json", '{"genres": ["x", "y"], "split": "", "protocol": "", "track_ids": [1e400]', "cannot be read"),
    ],
)
def test_a_damaged_folder(folder, name, content, message):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        reports.load_run(folder)


def test_a_run_that_was_killed_while_loading_data(folder, tmp_path):
    """Its folder contains only the settings, without those of the data."""
    for path in folder.iterdir():
        path.unlink()
    for config in ({"command": ["x.py"], "flags": {"seed": 3}, "backend": "torch", "versions": {"keras": "3"}}, {}):
        (folder / "config.json").write_text(json.dumps(config))
        reports.html(reports.load_run(folder), tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text()
        assert "ended before its data was loaded" in page and "There are no scores" in page and "<svg" not in page


@pytest.mark.parametrize(
    "history, figures",
    [
        ("", 0),
        ("epoch\n1\n", 0),
        ("epoch,loss,val_loss,accuracy\n", 0),
        ("epoch,accuracy\n1,0.5\n", 0),
        ("epoch,loss,val_loss\n1,2.0,\n", 1),  # killed before its first validation
        ("epoch,loss,val_loss\n1,2.0,1\n2,,1", 1),
        ("epoch,loss,accuracy\n1,nan,0.1\n2,1.", 2),
    ],
)
def test_an_incomplete_history(folder, history, figures, tmp_path):
    for path in folder.iterdir():
        if path.suffix == ".json" and path.name != "config.json":
            path.unlink()
    (folder / "history.csv").write_text(history)
    reports.html(reports.load_run(folder), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("<svg") == figures


def test_a_missing_card_and_malformed_settings(folder, tmp_path):
    (folder / "card.json").unlink()
    reports.html(reports.load_run(folder), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("<svg") == 4
    (folder / "history.csv").unlink()  # figures take time
    (folder / "test_tracks_uncalibrated.json").unlink()
    for change in ({"command": 5}, {"versions": [1]}, {"seconds": "long"}):
        (folder / "config.json").write_text(json.dumps({**CONFIG, **change}))
        with pytest.raises(ValueError, match="The files of the run a run do not have the form that experiments write"):
            reports.html(reports.load_run(folder), tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_names_with_control_characters_and_invalid_bytes(folder, tmp_path, rng):
    name = "a\r\x1b[31m\udce9 <i>"
    config = {**CONFIG, "command": [name], "data": {**CONFIG["data"], "name": name}}
    (folder / "config.json").write_text(json.dumps(config))
    genres = ("_misc", name, "$x^$")
    labels = np.arange(12) % 3
    for kind in ("", "_tracks", "_tracks_uncalibrated"):
        scores = Report(genres, "test", "official", np.arange(12), labels, rng.dirichlet([1, 1, 1], 12), name)
        scores.to_json(folder / f"test{kind}.json")
    reports.html(reports.load_run(folder), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_bytes().decode("utf-8")
    assert "\x1b" not in page and "\r" not in page and "<i>" not in page
    assert page.count(r"a\r\x1b[31m\xe9 &lt;i&gt;") >= 5 and ">$x^$<" in page
