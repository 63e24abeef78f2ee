"""Plans: which genres are written into which files."""

import types

import numpy as np
import pytest
from conftest import small_model, write_sine
from genrekeras import tags
from genrekeras.genres import PROBABILITY_PREFIX
from genrekeras.library import Taxonomy, apply_tags, plan, plan_tags
from genrekeras.library.plan import TagOptions, confidence_rule
from genrekeras.models.thresholds import Thresholds

GENRES = ("Rock", "Pop", "Folk", "Techno", "happy")


def model_of(multi_label=False, card=None, **thresholds):
    """An object with the attributes of a model that a plan uses."""
    return types.SimpleNamespace(
        genres=GENRES,
        multi_label=multi_label,
        card={"labels": {"happy": "mood"}, **(card or {})},
        thresholds=Thresholds(**thresholds),
    )


@pytest.fixture
def predicted(monkeypatch):
    """Function that sets the predicted probabilities of files, by name. It returns the list of processed files."""

    def set_predictions(rows, ood_score=None):
        processed = []

        def predict_each(model, paths):
            for path in paths:
                name = path.rpartition("/")[2]
                processed.append(name)
                values = rows[name]
                error = values if isinstance(values, str) else None
                columns = dict(zip(GENRES, [] if error else values, strict=False))
                yield {
                    "path": path,
                    "error": error,
                    "ood_score": ood_score,
                    **{PROBABILITY_PREFIX + genre: value for genre, value in columns.items()},
                }

        monkeypatch.setattr(plan, "predict_each", predict_each)
        return processed

    return set_predictions


@pytest.fixture
def song(tmp_path):
    return write_sine(tmp_path / "song.flac", 440, seconds=0.2)


def new_genres(model, song, **options):
    [row] = plan_tags(model, song, **options).to_dict("records")
    assert row["error"] is None and (row["new"] is None) != (row["reason"] is None)
    return row["reason"] if row["new"] is None else list(row["new"])


def test_a_single_label_model(song, predicted):
    predicted({"song.flac": (0.6, 0.2, 0.1, 0.1, 0.0)}, ood_score=2.0)
    assert new_genres(model_of(), song) == ["Rock"]
    assert new_genres(model_of(min_confidence=0.5), song) == ["Rock"]
    assert new_genres(model_of(min_confidence=0.7), song) == "low confidence: low probability"
    assert new_genres(model_of(max_ood_score=1.5), song) == "low confidence: unlike the training data"
    assert new_genres(model_of(better_than_chance=False), song) == "low confidence: model not better than chance"
    assert new_genres(model_of(), song, min_probability=0.55) == ["Rock"]
    assert new_genres(model_of(), song, min_probability=0.65) == "low confidence: no probability of at least 0.65"
    calibrated = model_of(min_confidence=0.5, better_than_chance=True)
    assert new_genres(calibrated, song, precision=0.55) == ["Rock"]
    assert new_genres(calibrated, song, precision=0.8) == "low confidence: no probability of at least 0.8"


def test_a_multi_label_model_that_is_not_calibrated(song, predicted):
    predicted({"song.flac": (0.3, 0.25, 0.21, 0.22, 0.9)})
    model = model_of(multi_label=True)
    assert new_genres(model, song) == ["Rock", "Pop", "Techno"]  # at most three, and no moods
    assert new_genres(model, song, max_genres=4) == ["Rock", "Pop", "Techno", "Folk"]
    assert new_genres(model, song, max_genres=1) == ["Rock"]
    assert new_genres(model, song, min_probability=0.24) == ["Rock", "Pop"]
    assert new_genres(model, song, min_probability=0.31) == "low confidence: no probability of at least 0.31"
    predicted({"song.flac": (0.1, 0.19, 0.0, 0.0, 0.9)})
    assert new_genres(model, song) == "low confidence: no probability of at least 0.2"
    assert new_genres(model, song, min_probability=0.15) == ["Pop"]


def test_a_calibrated_multi_label_model(song, predicted):
    predicted({"song.flac": (0.3, 0.5, 0.7, 0.1, 0.9)}, ood_score=1.0)
    limits = {"class_thresholds": (0.2, 0.6, 0.6, 0.5, 0.5), "better_than_chance": True}
    model = model_of(True, {"calibration": {"precision": 0.8}}, **limits)
    assert new_genres(model, song) == ["Folk", "Rock"]
    assert new_genres(model, song, max_genres=1) == ["Folk"]
    assert new_genres(model, song, min_probability=0.4) == ["Folk"]
    assert new_genres(model, song, precision=0.8) == new_genres(model, song, precision=0.6) == ["Folk", "Rock"]
    never = {**limits, "class_thresholds": (0.9,) * 5}
    assert new_genres(model_of(True, **never), song) == "low confidence: no genre above its threshold"
    low = {**limits, "max_ood_score": 0.5}
    assert new_genres(model_of(True, **low), song) == "low confidence: unlike the training data"


def test_a_precision_that_a_model_does_not_have_is_refused(song, predicted):
    processed = predicted({"song.flac": (1.0, 0.0, 0.0, 0.0, 0.0)})
    with pytest.raises(
        ValueError, match=r"needs a calibrated model.*genrekeras calibrate MUSIC --model MODEL --output N"
    ):
        plan_tags(model_of(), song, precision=0.8)
    with pytest.raises(ValueError, match=r"needs a calibrated model.*genrekeras calibrate .* --precision 0.8"):
        plan_tags(model_of(True), song, precision=0.8)
    for stated, chosen in ((None, "for the best F1 scores"), (0.7, "for a precision of 0.7")):
        model = model_of(
            True, {"calibration": {"precision": stated}}, better_than_chance=True, class_thresholds=[0.5] * 5
        )
        with pytest.raises(ValueError, match=rf"{chosen}. Calibrate it again: genrekeras calibrate .* --precision 0.8"):
            plan_tags(model, song, precision=0.8)
    assert processed == []


def test_genres_in_files(tmp_path, predicted):
    """A genre is kept, extended or replaced, and a file that has one is not processed by default."""
    for name, genres in (
        ("none", []),
        ("jazz", ["Jazz"]),
        ("other", ["Other"]),
        ("rock", ["Blues; ROCK"]),
        ("same", ["Rock"]),
    ):
        path = write_sine(tmp_path / f"{name}.flac", 440, seconds=0.2)
        if genres:
            tags.write_genres(path, genres)
    names = ("jazz", "none", "other", "rock", "same")
    processed = predicted(dict.fromkeys((f"{name}.flac" for name in names), (0.5, 0.4, 0.0, 0.0, 0.0)))

    def new(**options):
        table = plan_tags(model_of(True), tmp_path, **options)
        assert [path.rpartition("/")[2] for path in table["path"]] == [f"{name}.flac" for name in names]
        return dict(zip(names, table["new"], strict=True)), dict(zip(names, table["reason"], strict=True))

    both = ("Rock", "Pop")
    genres, reasons = new()
    assert genres == {"none": both, "other": both, "jazz": None, "rock": None, "same": None}
    assert {reasons[name] for name in ("jazz", "rock", "same")} == {"has a genre"}
    assert processed == ["none.flac", "other.flac"]
    assert new(mode="append")[0] == {
        "none": both,
        "other": ("Other", "Rock", "Pop"),
        "jazz": ("Jazz", "Rock", "Pop"),
        "rock": ("Blues; ROCK", "Pop"),
        "same": ("Rock", "Pop"),
    }
    genres, reasons = new(mode="append", max_genres=1)
    assert genres["same"] is None and reasons["same"] == "has these genres" and genres["jazz"] == ("Jazz", "Rock")
    genres, reasons = new(mode="overwrite", max_genres=1)
    assert genres == {"none": ("Rock",), "other": ("Rock",), "jazz": ("Rock",), "rock": ("Rock",), "same": None}
    assert reasons["same"] == "has these genres"


def test_the_taxonomy_comes_before_the_number_of_genres(song, predicted):
    predicted({"song.flac": (0.5, 0.4, 0.3, 0.25, 0.0)})
    mapping = Taxonomy(merge={"Popular": ["Rock", "Pop"]}, parents={"Folk": "Roots"}, drop=["Techno"], labels=GENRES)
    model = model_of(True)
    assert new_genres(model, song, taxonomy=mapping) == ["Popular", "Folk", "Roots"]
    assert new_genres(model, song, taxonomy=mapping, max_genres=2) == ["Popular", "Folk"]
    nothing = Taxonomy(allow=["Techno"], labels=GENRES)
    assert new_genres(model, song, taxonomy=nothing) == "no genre left by the taxonomy"


def test_tracks_of_an_album_get_the_same_genres(tmp_path, predicted):
    def track(name, album="", artist="", genre=""):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_sine(path, 440, seconds=0.2)
        for field, value in (("album", album), ("albumartist", artist), ("genre", genre)):
            if value:
                file = tags.reading.open_tags(path)
                file[field] = value
                file.save()

    track("cd1/1.flac", "Hits", "A")
    track("cd1/2.flac", "Hits", "A", "Jazz")
    track("cd2/3.flac", "HITS", "a")
    track("cd2/4.flac", "Hits", "B")
    track("loose/5.flac", "Hits")
    track("loose/6.flac", "Hits")
    track("loose/7.flac")
    track("loose/8.flac")
    track("loose/9.flac", "Done", "", "Jazz")
    (tmp_path / "cd1" / "broken.flac").write_bytes(b"no music")
    (tmp_path / "cd2" / "short.flac").write_bytes((tmp_path / "cd2" / "4.flac").read_bytes())
    rock, pop, folk = (0.9, 0.1, 0.0, 0.0, 0.0), (0.2, 0.8, 0.0, 0.0, 0.0), (0.0, 0.45, 0.55, 0.0, 0.0)
    rows = {"1.flac": rock, "2.flac": pop, "3.flac": pop, "4.flac": rock, "short.flac": "too short"}
    rows |= {"5.flac": rock, "6.flac": (0.3, 0.7, 0.0, 0.0, 0.0), "7.flac": folk, "8.flac": folk}
    processed = predicted(rows)
    table = plan_tags(model_of(), tmp_path, by_album=True).assign(
        name=lambda table: table["path"].str.split("/").str[-1]
    )
    rows = table.set_index("name")
    assert len(table) == 11 and sorted(processed) == sorted(["short.flac", *(f"{n}.flac" for n in range(1, 9))])
    new = {name: genres for name, genres in rows["new"].items() if genres is not None}
    assert new == {
        **dict.fromkeys(["1.flac", "3.flac"], ("Pop",)),  # 2.flac counts too, although its genre is kept
        "4.flac": ("Rock",),
        **dict.fromkeys(["5.flac", "6.flac"], ("Rock",)),
        **dict.fromkeys(["7.flac", "8.flac"], ("Folk",)),
    }
    assert rows.loc["1.flac", "probability"] == pytest.approx((0.1 + 0.8 + 0.8) / 3)
    assert rows["error"].notna().sum() == 2 and rows.loc["short.flac", "error"] == "too short"


def test_tracks_in_one_folder_are_an_album_also_with_a_relative_path(tmp_path, predicted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("1.flac", "2.flac"):
        write_sine(tmp_path / name, 440, seconds=0.2)
    predicted({"1.flac": (0.9, 0.1, 0.0, 0.0, 0.0), "2.flac": (0.3, 0.7, 0.0, 0.0, 0.0)})
    table = plan_tags(model_of(), ["1.flac", tmp_path / "2.flac"], by_album=True)
    assert table["new"].tolist() == [("Rock",)] * 2


def test_files_that_cannot_be_tagged_have_errors_before_the_prediction(tmp_path, predicted):
    song = write_sine(tmp_path / "a.flac", 440, seconds=0.2)
    (tmp_path / "b.mp3").write_text("no music")
    write_sine(tmp_path / "c.au", 440, seconds=0.2)
    (tmp_path / "d.flac").symlink_to(song)
    (tmp_path / "e.flac").hardlink_to(write_sine(tmp_path / "f.flac", 440, seconds=0.2))
    processed = predicted({"a.flac": (0.9, 0.0, 0.0, 0.0, 0.0)})
    table = plan_tags(model_of(), [tmp_path, song, tmp_path / "none.mp3"])
    assert processed == ["a.flac"]
    rows = [(row.path.rpartition("/")[2], row.reason or row.error) for row in table.itertuples()]
    assert [name for name, _ in rows] == ["a.flac", "b.mp3", "c.au", "d.flac", "e.flac", "f.flac", "a.flac", "none.mp3"]
    for (name, text), part in zip(
        rows,
        [
            None,
            "cannot be read",
            "not supported",
            "listed twice",
            "2 hard links",
            "2 hard links",
            "listed twice",
            "No such",
        ],
        strict=True,
    ):
        assert text is None if part is None else part in text, name


@pytest.mark.parametrize(
    "options, match",
    [
        ({"mode": "replace"}, "`mode` must be one of"),
        ({"max_genres": 0}, "`max_genres` must be an integer > 0"),
        ({"max_genres": 1.5}, "`max_genres` must be an integer > 0"),
        ({"min_probability": "0.5"}, r"`min_probability` must lie in \(0, 1\)"),
        ({"min_probability": 1.0}, r"`min_probability` must lie in \(0, 1\)"),
        ({"precision": 0.0}, r"`precision` must lie in \(0, 1\)"),
    ],
)
def test_arguments_are_checked(song, options, match):
    with pytest.raises(ValueError, match=match):
        plan_tags(model_of(), song, **options)


def test_the_stated_rule():
    options = TagOptions(max_genres=2, min_probability=0.4)
    assert "not calibrated: genres with a probability of at least 0.2 are written, at most 3" in confidence_rule(
        model_of(True), TagOptions()
    )
    assert "at least 0.4 are written, at most 2" in confidence_rule(model_of(True), options)
    assert "not calibrated: all predictions are written." in confidence_rule(model_of(), TagOptions())
    calibrated = model_of(min_confidence=0.5, better_than_chance=True)
    assert "with a probability of at least 0.8, except at low" in confidence_rule(calibrated, TagOptions(precision=0.8))
    several = model_of(True, class_thresholds=[0.5] * 5, better_than_chance=True)
    assert (
        confidence_rule(several, TagOptions()) == "Genres above their thresholds are written, except at low confidence."
    )


def test_a_real_model(tmp_path):
    model = small_model(genres=["Low", "High"])
    for number in range(3):
        write_sine(tmp_path / f"{number}.wav", 440 * (1 + number), seconds=1.2)
    table = plan_tags(model, tmp_path)
    expected = model.predict_files(tmp_path)
    assert [genres for (genres,) in table["new"]] == expected["genre"].tolist()
    np.testing.assert_allclose(table["probability"].astype(float), expected["probability"], rtol=1e-5)
    assert table["error"].isna().all() and [tags.read_genres(path) for path in table["path"]] == [[], [], []]
    assert apply_tags(table.iloc[:2], tmp_path / "journal").files["written"].all()
    assert [len(tags.read_genres(path)) for path in table["path"]] == [1, 1, 0]
