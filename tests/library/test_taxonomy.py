"""Taxonomies: from labels of a model to genres."""

import genrekeras as gk
import pytest
from genrekeras.library import Taxonomy, TaxonomyError, taxonomy
from genrekeras.models.presets import PRESETS

LABELS = ("Rock", "Hip-Hop", "House", "Techno", "Party")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_are_mapped(tmp_path):
    path = write(
        tmp_path / "my.toml",
        """
        drop = ["Party"]
        [rename]
        "Hip-Hop" = "Rap"
        [merge]
        "Dance Music" = ["House", "techno"]
        [parents]
        Rap = "Hip-Hop & Rap"
        "Dance Music" = ["Electronic", "Club"]
        Electronic = "Modern"
        """,
    )
    mapping = Taxonomy.load(path, LABELS)
    assert mapping.genres(["Techno", "Party", "Rock", "House", "Hip-Hop"]) == [
        *("Dance Music", "Electronic", "Club", "Modern"),
        *("Rock", "Rap", "Hip-Hop & Rap"),
    ]
    assert mapping.genres(["Party"]) == [] and mapping.genres([]) == []
    assert mapping.genres(["hip hop"]) == ["Rap", "Hip-Hop & Rap"]  # another spelling


def test_only_allowed_genres_are_written():
    mapping = Taxonomy(
        parents={"Techno": "Electronic", "House": "Electronic"}, allow=["electronic", "Rock"], labels=LABELS
    )
    assert mapping.genres(["Techno", "House", "Party", "ROCK"]) == ["electronic", "Rock"]


def test_a_child_may_have_two_parents_with_one_parent():
    mapping = Taxonomy(parents={"House": ["A", "B"], "A": "C", "B": "C"}, labels=LABELS)
    assert mapping.genres(["House"]) == ["House", "A", "B", "C"]


@pytest.mark.parametrize(
    "text, match",
    [
        ("rename = ", r"my.toml: not a valid TOML file: Invalid value"),
        ("[renames]\nRock = 'x'", r"unknown entry 'renames'. The entries are rename, merge, drop, parents, allow"),
        ("[rename]\nRok = 'x'", r"rename.Rok: 'Rok' is not a label of the model. Did you mean 'Rock'\?"),
        ("[rename]\nPolka = 'x'", r"rename.Polka: 'Polka' is not a label of the model$"),
        ("[rename]\njazz = 'x'", r"rename.jazz: 'jazz' is not a label of the model"),  # a label of the presets
        ("[merge]\nx = ['Rock', 'Ska']", r"merge.x: 'Ska' is not a label of the model"),
        ("drop = ['Ska']", r"drop: 'Ska' is not a label of the model"),
        ("allow = ['Rocc']", r"allow: 'Rocc' is not a genre that the taxonomy can write. Did you mean 'Rock'\?"),
        ("[parents]\nSka = 'Rock'", r"parents: 'Ska' is not a genre that the taxonomy can write"),
        ("[parents]\nRock = 'B'\nB = 'C'\nC = ['D', 'Rock']", r"parents.C: a cycle: Rock -> B -> C -> Rock"),
        ("[parents]\nRock = 'rock'", r"parents.Rock: a cycle: Rock -> rock"),
        ("drop = ['Rock']\n[rename]\nRock = 'x'", r"drop: 'Rock' has two entries: 'x' and 'drop'"),
        ("[rename]\nRock = 'x'\n[merge]\ny = ['Rock']", r"merge.y: 'Rock' has two entries: 'x' and 'y'"),
        ("rename = ['Rock']", r"rename: must be a table. Received: \['Rock'\]"),
        ("drop = 'Rock'", r"drop: must be a list of texts. Received: 'Rock'"),
        ("[merge]\nx = 'Rock'", r"merge.x: must be a list of texts"),
        ("[rename]\nRock = 5", r"rename.Rock: must contain non-empty texts without control characters. Received: 5"),
        ("[rename]\nRock = ''", r"rename.Rock: must contain non-empty texts"),
        ('[rename]\nRock = "a\\u0000b"', r"rename.Rock: must contain .* without control characters"),
        ("allow = [5]", r"allow: must contain non-empty texts"),
        ("[parents]\nRock = {a = 'b'}", r"parents.Rock: must be a list of texts"),
    ],
)
def test_an_error_names_the_file_and_the_entry(tmp_path, text, match):
    path = write(tmp_path / "my.toml", text)
    with pytest.raises(TaxonomyError, match=match) as caught:
        Taxonomy.load(path, LABELS)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        Taxonomy.load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"[rename]\nRock = '\xe4'")
    with pytest.raises(TaxonomyError, match=r"latin.toml: not a valid TOML file"):
        Taxonomy.load(tmp_path / "latin.toml")


def test_the_taxonomy_of_the_presets(tmp_path):
    mapping = Taxonomy.musicnn()
    labels = {name: gk.GenreClassifier.from_preset(name) for name in PRESETS if name.startswith("musicnn")}
    assert set(taxonomy._preset_labels()) == {label for model in labels.values() for label in model.genres}
    copy = tmp_path / "copy.toml"
    copy.write_bytes(open(taxonomy._MUSICNN, "rb").read())
    for model in labels.values():
        kinds = gk.inference.label_kinds(model)
        for label in model.genres:
            genres = mapping.genres([label])
            assert len(genres) == (kinds[label] == "genre"), label
            assert all(gk.tags.split_genres([genre]) == [genre] and not genre.islower() for genre in genres)
        calibrated = Taxonomy.for_labels(model.genres)
        assert calibrated.genres(model.genres) == mapping.genres(model.genres)
        Taxonomy.load(copy, model.genres)  # A copy of the file fits each preset,
    with pytest.raises(TaxonomyError, match="is not a label of the model"):
        Taxonomy.load(copy, LABELS)  # but no other model.
    assert Taxonomy.for_labels(LABELS) is None
