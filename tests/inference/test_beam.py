"""Predictions with Apache Beam: the rows of `predict`, lists, shards that are kept, remote files, errors."""

import functools
import gzip
import json
import os
import sys

import pytest
import soundfile
from click.testing import CliRunner
from conftest import tones, write_sine
from genrekeras import cli
from genrekeras.cli.common import load_model
from genrekeras.inference import beam

OPTIONS = "--runner=DirectRunner --direct_running_mode=in_memory"


@pytest.fixture(autouse=True)
def _installed(request):
    if "without_beam" not in request.node.name:
        pytest.importorskip("apache_beam", reason="apache-beam (extra `beam`) is not installed")


@pytest.fixture(scope="module")
def saved(one_second_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "genre.keras"
    one_second_model.save(path)
    return path


@pytest.fixture
def tracks(tmp_path, rng):
    """Paths of seven tracks of 1 to 4 s."""
    paths = [tmp_path / f"track {number}.wav" for number in range(7)]
    for number, path in enumerate(paths):
        soundfile.write(path, tones(rng, 1, 22050 * (1 + number % 4))[0] / 4, 22050)
    return [str(path) for path in paths]


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.main, ["predict", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def rows(output):
    return [json.loads(line) for path in sorted(output.glob("predictions-*")) for line in path.open()]


def states(output):
    return {path.name: path.stat().st_mtime_ns for path in output.glob("predictions-*")}


def test_rows_equal_those_of_predict(saved, tracks, tmp_path):
    """A list with a missing, an empty and a damaged file, a duplicate, blank lines, and lines that end in CR and LF."""
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "damaged.wav").write_bytes(b"RIFF no audio")
    (tmp_path / "MUSIC").mkdir()
    not_utf8 = os.fsencode(tmp_path) + b"/latin-1 \xe9.wav"
    (tmp_path / "MUSIC" / "a.wav").symlink_to(tracks[0])
    os.symlink(tracks[1], not_utf8)
    bad = [str(tmp_path / name) for name in ("missing.wav", "empty.wav", "damaged.wav")]
    paths = [*bad, *tracks, tracks[2], os.fsdecode(not_utf8)]
    expected = json.loads(run(*paths, tmp_path / "MUSIC", "-m", saved, "--json", code=1).stdout)
    lines = [os.fsencode(path) for path in paths]
    text = b"\xef\xbb\xbf\r\n" + b"\r\n".join(lines[:4]) + b"\r\n \r\n\n" + b"\n".join(lines[4:])
    (tmp_path / "list.TXT").write_bytes(text)
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(text))
    for name in ("list.TXT", "list.txt.gz"):
        output = tmp_path / f"output of {name}"
        arguments = tmp_path / name, tmp_path / "MUSIC", "-m", saved, "--beam", OPTIONS, "-o", output
        done = run(*arguments, code=1)
        assert "Shards to predict with Beam: 1 of 1 (files: 13)" in done.stderr
        assert "3 of 13 files could not be read" in done.stderr
        assert rows(output) == expected and list(rows(output)[0]) == list(expected[0])
    assert "Shards to predict with Beam: 0 of 1" in run(*arguments).stderr


def test_finished_shards_are_kept(saved, tracks, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_MIN_SHARD_FILES", 2)
    output = tmp_path / "output"
    arguments = *tracks, "-m", saved, "--beam", OPTIONS, "-o", output
    run(*arguments)
    complete, before = rows(output), states(output)
    assert [row["path"] for row in complete] == tracks and len(before) == 4
    assert len((output / "predictions-00003.jsonl").read_text().splitlines()) == 1
    os.remove(output / "predictions-00001.jsonl")
    os.remove(output / "predictions-00003.jsonl")
    (output / ".tmp-0123").write_text("an interrupted call left this file")
    (output / "predictions-00000.jsonl").write_text("not written again\n")
    before = states(output)
    done = run(*arguments)
    assert "Shards to predict with Beam: 2 of 4 (files: 3)" in done.stderr and "7 files in 4 shards" in done.stderr
    assert states(output).items() >= before.items()
    assert (output / "predictions-00000.jsonl").read_text() == "not written again\n"
    os.remove(output / "predictions-00000.jsonl")
    run(*arguments)
    assert rows(output) == complete and not list(output.glob(".tmp-*"))


def test_other_files_or_settings_are_not_mixed(saved, tracks, tmp_path):
    output, options = tmp_path / "output", ("--beam", OPTIONS)
    run(*tracks, "-m", saved, *options, "-o", output)
    before = states(output)
    other = load_model(str(saved))
    other.head.layers[-1].bias.assign(other.head.layers[-1].bias + 1)
    other.save(tmp_path / "other.keras")
    for arguments, different in (
        ((*tracks[:6], "-m", saved), "files, files_sha256"),
        ((*tracks[1:], tracks[0], "-m", saved), "files_sha256"),
        ((*tracks, "-m", saved, "--max-clips", 1), "max_clips"),
        ((*tracks, "-m", tmp_path / "other.keras"), "model"),
    ):
        done = run(*arguments, *options, "-o", output, code=1)
        message = f"Error: {output} contains predictions of other files or with other settings (different: {different})"
        assert message in done.stderr
    (output / "manifest.json").write_text("[1]")
    assert "(different: columns, files, " in run(*tracks, "-m", saved, *options, "-o", output, code=1).stderr
    os.remove(output / "manifest.json")
    assert "without a manifest.json" in run(*tracks, "-m", saved, *options, "-o", output, code=1).stderr
    assert states(output) == before


def test_the_number_of_shards_is_limited(saved, tracks, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_MIN_SHARD_FILES", 1)
    monkeypatch.setattr(beam, "_MAX_SHARDS", 3)
    load = functools.partial(load_model, str(saved))
    done = beam.predict_with_beam(load, tracks, str(tmp_path / "output"), OPTIONS.split())
    assert done == beam.Summary(files=7, shards=3, processed=7, unreadable=0)
    assert [row["path"] for row in rows(tmp_path / "output")] == tracks


def test_files_on_another_file_system(saved, tracks, tmp_path):
    """A file system with the scheme "local-test" stands for gs:// and others."""
    from apache_beam.io.localfilesystem import LocalFileSystem

    scheme = f"local-test:/{tmp_path}"

    class SchemeFileSystem(LocalFileSystem):
        @classmethod
        def scheme(cls):
            return "local-test"

        def join(self, basepath, *paths):
            return "/".join((basepath.rstrip("/"), *paths))

        def split(self, path):
            return tuple(path.rsplit("/", 1))

        def mkdirs(self, path):
            super().mkdirs(_plain(path))

        def exists(self, path):
            return super().exists(_plain(path))

        def _list(self, path):
            for metadata in super()._list(_plain(path)):
                metadata.path = f"local-test:/{metadata.path}"
                yield metadata

        def _path_open(self, path, *arguments, **options):
            return super()._path_open(_plain(path), *arguments, **options)

        def rename(self, sources, targets):
            super().rename([*map(_plain, sources)], [*map(_plain, targets)])

        def delete(self, paths):
            super().delete([*map(_plain, paths)])

    def _plain(path):
        return path.removeprefix("local-test:/")

    names = [f"{scheme}/{os.path.basename(path)}" for path in tracks]
    missing = f"{scheme}/missing.wav"
    (tmp_path / "list.txt").write_text("\n".join([*names, missing, "unknown://a.wav"]))
    output = f"{scheme}/output"
    arguments = f"{scheme}/list.txt", "-m", saved, "--beam", OPTIONS, "-o", output
    run(*arguments, code=1)
    expected = json.loads(run(*tracks, "-m", saved, "--json").stdout)
    *good, absent, unknown = rows(tmp_path / "output")
    assert good == [row | {"path": name} for row, name in zip(expected, names, strict=True)]
    assert absent["path"] == missing and absent["error"].startswith("cannot be downloaded: ")
    assert "Unable to get filesystem" in unknown["error"]
    assert sorted(os.listdir(tmp_path / "output")) == ["manifest.json", "paths.jsonl", "predictions-00000.jsonl"]
    assert "Shards to predict with Beam: 0 of 1" in run(*arguments).stderr


def test_a_worker_with_another_model(saved, tmp_path):
    writer = beam._ShardWriter(functools.partial(load_model, str(saved)), {"model": "other"}, str(tmp_path), 30, 2)
    with pytest.raises(ValueError, match="A worker has another model"):
        writer.write(beam._Shard("predictions-00000.jsonl", 0, 1))


def test_wrong_calls(saved, tracks, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    call = functools.partial(run, "-m", saved, "--beam", OPTIONS)
    assert (
        f"The list {tmp_path}/empty.txt contains no paths"
        in call(tmp_path / "empty.txt", "-o", tmp_path / "x", code=1).stderr
    )
    assert f"{tmp_path}/no.txt: No such file" in call(tmp_path / "no.txt", "-o", tmp_path / "x", code=1).stderr
    assert "must not contain *, ? or [" in call(tracks[0], "-o", tmp_path / "a[b]", code=1).stderr
    assert "--beam needs --output FOLDER" in call(tracks[0], code=2).stderr
    assert "excludes --csv and --json" in call(tracks[0], "-o", tmp_path / "x", "--csv", code=2).stderr
    assert "pip install" in call(tracks[0], "-o", "gs://bucket/x", code=1).stderr
    (tmp_path / "file").write_text("in the way")
    assert f"{tmp_path}/file" in call(tracks[0], "-o", tmp_path / "file", code=1).stderr
    assert "is a directory" in run(tracks[0], "-m", saved, "-o", tmp_path, code=2).stderr


def test_without_beam_the_error_names_the_extra(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    write_sine(tmp_path / "a.wav", 440)
    done = run(tmp_path / "a.wav", "-m", saved, "--beam", OPTIONS, "-o", tmp_path / "x", code=1)
    assert "Install genrekeras with the extra beam" in done.stderr and not (tmp_path / "x").exists()
