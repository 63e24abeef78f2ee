"""Saved models and caches that are damaged, or made to do harm."""

import io
import json
import os
import re
import resource
import stat
import sys
import zipfile

import genrekeras as gk
import h5py
import keras
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import small_model
from genrekeras import cli
from genrekeras.models import backbones
from genrekeras.utils import io as utils_io


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    small_model(backbone="mel_cnn").save(path)
    return path


@pytest.fixture(scope="module")
def members(saved):
    with zipfile.ZipFile(saved) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def assert_refused(path, reason=""):
    before = path.read_bytes()
    with pytest.raises(gk.ModelFileError, match=f"(?s)^{re.escape(str(path))} .*{reason}"):
        gk.load_model(path)
    assert path.read_bytes() == before


def probabilities(model):
    waveform = np.random.default_rng(1).standard_normal((2, 22050)).astype("float32")
    return model.predict(waveform, verbose=0)


def test_a_model_that_is_whole(saved):
    wanted = probabilities(keras.saving.load_model(saved))
    np.testing.assert_array_equal(probabilities(gk.load_model(saved)), wanted)


def test_what_is_no_model(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.keras"):
        gk.load_model(tmp_path / "nothing.keras")
    for content in (b"", b"PK\x03\x04", b"Dear Ann,\n"):
        path = tmp_path / "model.keras"
        path.write_bytes(content)
        assert_refused(path)
    inputs = keras.Input((3,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "dense.keras")
    assert_refused(tmp_path / "dense.keras", "holds a Functional, not a GenreClassifier")


def test_cut_and_flipped(saved, tmp_path, rng, thorough):
    """40 files, 400 with --thorough: refused, or, where the byte is in no content, the same model."""
    whole, wanted = saved.read_bytes(), probabilities(gk.load_model(saved))
    path, same = tmp_path / "model.keras", 0
    for number in range(400 if thorough else 40):
        content = bytearray(whole)
        if number % 4 == 0:
            content = content[: rng.integers(len(content))]
        else:  # the directory at the end, the config at the beginning, or the weights
            low, high = [(len(whole) - 400, len(whole)), (0, 6000), (6000, len(whole))][number % 4 - 1]
            content[rng.integers(low, high)] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            model = gk.load_model(path)
        except gk.ModelFileError as error:
            assert str(path) in str(error)
        else:
            same += 1
            np.testing.assert_array_equal(probabilities(model), wanted)
    assert same < number / 4


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "assets/evil.py", "model.weights.npz"])
def test_other_members_are_refused(name, members, tmp_path):
    assert_refused(write(tmp_path / "model.keras", {**members, name: b"evil"}), "it must hold config.json")


def test_members_twice_or_missing_are_refused(members, tmp_path):
    path = write(tmp_path / "model.keras", members)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", members["config.json"])
    assert_refused(path, "it must hold config.json")
    del (fewer := dict(members))["model.weights.h5"]
    assert_refused(write(path, fewer), "it must hold config.json")


def test_links_are_refused(members, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name)
            if name.endswith(".h5"):
                member.external_attr, content = (stat.S_IFLNK | 0o777) << 16, b"/etc/passwd"
            archive.writestr(member, content)
    assert_refused(path, "it holds a link")


def test_bombs_are_refused(members, tmp_path):
    bomb = {**members, "config.json": members["config.json"] + b" " * (200 << 20)}
    path = write(tmp_path / "model.keras", bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 8 << 20
    assert_refused(path, "unpacks to far more")
    lying = path.read_bytes()
    size = len(bomb["config.json"]).to_bytes(4, "little")
    assert lying.count(size) == 2
    path.write_bytes(lying.replace(size, (5000).to_bytes(4, "little")))  # a member that says it is small
    assert_refused(path, "damaged")


def weights(change, members):
    file = io.BytesIO(members["model.weights.h5"])
    with h5py.File(file, "r+") as opened:
        names = []
        opened.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        change(opened, names[0])
    return {**members, "model.weights.h5": file.getvalue()}


def test_weights_elsewhere_are_refused(members, tmp_path):
    def link(file, name):
        del file[name]
        file[name] = h5py.ExternalLink("/etc/secret.h5", "x")

    def soft(file, name):
        del file[name]
        file[name] = h5py.SoftLink("/layers")

    def external(file, name):
        del file[name]
        file.create_dataset(name, (4,), "f4", external=[("/etc/passwd", 0, 16)])

    def virtual(file, name):
        del file[name]
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("/etc/secret.h5", "x", (4,))
        file.create_virtual_dataset(name, layout)

    def huge(file, name):
        del file[name]
        file.create_dataset(name, (1 << 36,), "f4", chunks=(1 << 20,))  # nothing of it is stored

    def text(file, name):
        del file[name]
        file[name] = "evil"

    path = tmp_path / "model.keras"
    for change, reason in (
        (link, "another file"),
        (soft, "another file"),
        (external, "another file"),
        (virtual, "another file"),
        (huge, "larger than the file"),
        (text, "no array of numbers"),
    ):
        assert_refused(write(path, weights(change, members)), reason)


def hostile(members, change):
    config = json.loads(members["config.json"])
    change(config["config"])
    return {**members, "config.json": json.dumps(config).encode()}


def test_no_code_of_a_file_is_run(members, tmp_path, monkeypatch):
    """A lambda, a function of another module, a module that would do harm as it is imported."""
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Layer: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    lambda_layer = keras.saving.serialize_keras_object(keras.layers.Lambda(lambda x: x))
    places = {
        "lambda": lambda_layer,
        "system": {"module": "os", "class_name": "system", "config": f"touch {mark}", "registered_name": "system"},
        "function": {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"},
        "evil": {"module": "evil", "class_name": "Layer", "config": {}, "registered_name": None},
        "keras": {"module": "keras.utils", "class_name": "get_file", "config": {}, "registered_name": None},
    }
    for name, layer in places.items():
        for key in ("image_augmentation", "waveform_augmentation", "front_end"):
            path = write(tmp_path / f"{name}.keras", hostile(members, lambda c, k=key, x=layer: c.update({k: [x]})))
            assert_refused(path)
    assert not mark.exists() and "evil" not in sys.modules


def layer(made, **options):
    config = keras.saving.serialize_keras_object(made)
    config["config"] |= options
    return config


def front_end(options, *more):
    first, *others = gk.layers.default_front_end()
    return [layer(first, **options), *map(layer, others), *more]


def test_absurd_configs_are_refused(members, tmp_path):
    """Before anything is made as large as they say."""
    path = tmp_path / "model.keras"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for change, reason in (
        ({"clip_seconds": 1e12}, "4194304 pixels"),
        ({"genres": []}, "at least two"),
        ({"genres": [str(number) for number in range(1_000_000)]}, "at most 10000"),
        ({"backbone": "../../etc/passwd"}, "`backbone` must be one of"),
        ({"backbone": 3}, ""),
        ({"backbone": 65 * ["mel_kernel"]}, "at most 64 names"),
        ({"dropout": "much"}, "`dropout` must lie in"),
        ({"front_end": front_end({"n_fft": 1 << 20})}, "`n_fft` must be at most 65536"),
        ({"front_end": front_end({"n_mels": 1 << 20})}, "`n_mels` at most"),
        ({"front_end": front_end({"hop_length": 1}), "clip_seconds": 30.0}, "4194304 pixels"),
        ({"front_end": front_end({}, layer(keras.layers.ZeroPadding2D(((2000, 2000), (0, 0)))))}, "4096 mels"),
        ({"image_augmentation": [layer(keras.layers.Conv2D(1, 3), kernel_size=[100_000] * 2)]}, "Conv2D is larger"),
        ({"front_end": front_end({}, layer(keras.layers.Dense(1), units=1 << 30))}, "Dense is larger"),
        ({"card": 7}, ""),
        ({"pretrained": {"a": 1}}, "`pretrained` must be"),
    ):
        assert_refused(write(path, hostile(members, lambda c, x=change: c.update(x))), reason)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 500_000  # KiB
    for content in (b"[]", b"null", b"3", b"{", b"{}", b"\xff", b'{"config": 1}', b"[" * 100_000):
        assert_refused(write(path, {**members, "config.json": content}))


def test_large_configs_are_refused_before_keras_is_asked(members, tmp_path, monkeypatch):
    """Another class; many, large and nested layers, which are large one by one or together; metrics; deep nesting."""
    saved, path = json.loads(members["config.json"]), tmp_path / "model.keras"
    wide = [layer(keras.layers.Dense(1), units=50_000, name=name) for name in ("first", "second")]
    sequential = layer(keras.Sequential([keras.Input((1,))]), build_input_shape=[None, 1])
    sequential["config"]["layers"] += wide
    extractor = layer(backbones.FeatureExtractor("mel_cnn", (32, 32, 1)))
    metric = {"module": "keras.metrics", "registered_name": None}
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(keras.saving, "load_model", lambda *a, **k: pytest.fail("Keras was asked"))
    for changed, inner, reason in (
        (sequential, {}, "holds a Sequential, not a GenreClassifier"),
        ({"registered_name": "genrekeras>MelSpectrogram"}, {}, "not a GenreClassifier"),
        ({"registered_name": None, "class_name": "Sequential"}, {}, "holds a Sequential, not a GenreClassifier"),
        ({}, {"image_augmentation": 1001 * [layer(keras.layers.Identity())]}, "more than 1000 layers"),
        ({}, {"image_augmentation": 100 * [layer(keras.layers.Dense(1), units=1 << 22)]}, "Dense is larger"),
        ({}, {"image_augmentation": wide}, r"its layers have 250\d{7} weights, and the file holds \d{6}$"),
        ({}, {"front_end": front_end({}, *wide)}, "`front_end` must end in images"),
        ({}, {"waveform_augmentation": wide[:1]}, r"its layers have 110\d{7} weights"),
        ({}, {"image_augmentation": [sequential]}, r"its layers have 250\d{7} weights"),
        ({}, {"image_augmentation": [layer(keras.layers.Identity(), dtype=sequential)]}, "its dtype is a Sequential"),
        ({}, {"image_augmentation": 300 * [extractor]}, "one MelSpectrogram and layers of genrekeras.layers"),
        ({}, {"front_end": 2 * front_end({"dft": "matmul", "n_fft": 1 << 16})}, "it must hold one MelSpectrogram"),
        ({"compile_config": {"loss": sequential}}, {}, "its loss is a Sequential, which is a layer"),
        (
            {"compile_config": {**metric, "class_name": "AUC", "config": {"num_thresholds": 1 << 33}}},
            {},
            "AUC is larger",
        ),
        ({"compile_config": {**metric, "class_name": "MeanIoU", "config": {"num_classes": 1 << 17}}}, {}, "MeanIoU is"),
        ({"deep": 120}, {}, "nested too deeply"),
        ({"deep": 10_000}, {}, "nested too deeply"),
    ):
        content = json.dumps({**saved, **changed, "config": {**saved["config"], **inner}})
        if depth := changed.get("deep"):
            content = content.replace(f'"deep": {depth}', f'"deep": {depth * "["}{depth * "]"}')
        assert_refused(write(path, {**members, "config.json": content.encode()}, zipfile.ZIP_DEFLATED), reason)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 300_000  # KiB


def test_layers_of_keras_and_metrics_are_taken(tmp_path):
    augmentation = [
        keras.layers.Conv2D(1, 3, padding="same", data_format="channels_last"),
        keras.layers.Normalization(axis=None, mean=1.0, variance=2.0),
        keras.layers.BatchNormalization(),
        keras.layers.SpectralNormalization(keras.layers.Dense(1)),
    ]
    model = small_model(backbone="mel_cnn", image_augmentation=augmentation)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 1_000_000)
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(3), keras.metrics.AUC(multi_label=True)]
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(), metrics=metrics)
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(probabilities(gk.load_model(tmp_path / "model.keras")), probabilities(model))


def test_the_command_line_names_it(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"Dear Ann,\n")
    done = CliRunner().invoke(cli.main, ["info", str(path)])
    assert (
        done.exit_code == 1 and f"{path} cannot be loaded as a model" in done.output and "Traceback" not in done.output
    )


def test_npz_files_that_are_damaged(tmp_path, rng, thorough):
    """300 files, 20,000 with --thorough: read as they were, or refused by name."""
    path = tmp_path / "arrays.npz"
    arrays = {"features": rng.standard_normal((50, 10)).astype("float32"), "about": np.arange(20)}
    np.savez(path, **arrays)
    whole, refused = path.read_bytes(), 0
    for number in range(20_000 if thorough else 300):
        content = bytearray(whole)
        if number % 3 == 0:
            content = content[: rng.integers(len(content))]
        else:
            ends = np.r_[0:200, len(whole) - 200 : len(whole)]
            for place in rng.choice(ends if number % 3 == 1 else len(whole), 3):
                content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            found = utils_io.read_arrays(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            for name, array in arrays.items():
                if name in found:
                    np.testing.assert_array_equal(found[name], array)
    assert refused > number / 2
    np.savez(path, evil=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        utils_io.read_arrays(path)


def test_no_pickle_no_lambda_layer_no_unsafe_mode():
    """Nowhere in the project."""
    root = os.path.join(os.path.dirname(__file__), os.pardir)
    banned = re.compile(
        r"safe_mode=False|unsafe_deserialization|allow_pickle=True|weights_only=False|import (?:pickle|dill|marshal)"
        r"|layers\.Lambda|(?<!\.)\b(?:eval|exec)\(|joblib|yaml\.load\("
    )
    checked = 0
    for folder in ("genrekeras", "experiments"):
        for parent, _, names in os.walk(os.path.join(root, folder)):
            for name in names:
                if name.endswith(".py"):
                    checked += 1
                    with open(os.path.join(parent, name), encoding="utf-8") as file:
                        found = banned.search(file.read())
                    assert not found, (name, found)
    assert checked > 40


def test_the_config_in_a_file_tells_the_package_of_each_class(tmp_path):
    """Keras alone names `registered_name` and `module` where it does not find a class."""
    augmentation = {"waveform_augmentation": [gk.layers.RandomGain()], "image_augmentation": [gk.layers.SpecAugment()]}
    small_model(front_end=gk.layers.default_front_end(), **augmentation).save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        config = json.loads(archive.read("config.json"))
    ours = {}

    def collect(value):
        if isinstance(value, dict):
            if "class_name" in value and not value["module"].startswith("keras"):
                ours[value["class_name"]] = (value["module"], value["registered_name"])
            value = list(value.values())
        for part in value if isinstance(value, list) else []:
            collect(part)

    collect(config)
    assert {"GenreClassifier", "MelSpectrogram", "SpectrogramToImage", "RandomGain", "SpecAugment"} <= set(ours)
    for name, (module, registered_name) in ours.items():
        assert module.startswith("genrekeras.") and registered_name == f"genrekeras>{name}"


def test_each_class_that_is_registered_is_registered_as_ours():
    ours = {name: kind for name, kind in keras.saving.get_custom_objects().items() if "genrekeras" in kind.__module__}
    assert len(ours) > 10
    for name, kind in ours.items():
        assert name == keras.saving.get_registered_name(kind) and name.startswith("genrekeras>")
