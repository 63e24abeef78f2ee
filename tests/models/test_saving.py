"""Files of models and caches: damaged and malicious files, half precision, registered names."""

import contextlib
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
from genrekeras.models import backbones, save_float16
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


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def assert_rejected(path, reason=""):
    before = path.read_bytes()
    with pytest.raises(gk.ModelFileError, match=f"(?s)^{re.escape(str(path))} .*{reason}"):
        gk.load_model(path)
    assert path.read_bytes() == before


def probabilities(model):
    waveform = np.random.default_rng(1).standard_normal((2, 22050)).astype("float32")
    return model.predict(waveform, verbose=0)


@pytest.mark.backends
def test_intact_model(saved):
    expected = probabilities(keras.saving.load_model(saved))
    np.testing.assert_array_equal(probabilities(gk.load_model(saved)), expected)


def test_files_that_are_not_models(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.keras"):
        gk.load_model(tmp_path / "nothing.keras")
    for content in (b"", b"PK\x03\x04", b"Dear Ann,\n"):
        path = tmp_path / "model.keras"
        path.write_bytes(content)
        assert_rejected(path)
    inputs = keras.Input((3,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "dense.keras")
    assert_rejected(tmp_path / "dense.keras", "contains a Functional, not a GenreClassifier")


@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_truncated_files_and_flipped_bits(saved, tmp_path, rng, count):
    """The files are rejected, or give the same model if the bit is not part of the contents."""
    original, expected = saved.read_bytes(), probabilities(gk.load_model(saved))
    path, same = tmp_path / "model.keras", 0
    for number in range(count):
        content = bytearray(original)
        if number % 4 == 0:
            content = content[: rng.integers(len(content))]
        else:  # the directory at the end, the config at the beginning, or the weights
            low, high = [(len(original) - 400, len(original)), (0, 6000), (6000, len(original))][number % 4 - 1]
            content[rng.integers(low, high)] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            model = gk.load_model(path)
        except gk.ModelFileError as error:
            assert str(path) in str(error)
        else:
            same += 1
            np.testing.assert_array_equal(probabilities(model), expected)
    assert same < count / 4


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "assets/evil.py", "model.weights.npz"])
def test_other_members(name, members, tmp_path):
    assert_rejected(write(tmp_path / "model.keras", {**members, name: b"evil"}), "it must contain config.json")


def test_duplicate_and_missing_members(members, tmp_path):
    path = write(tmp_path / "model.keras", members)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", members["config.json"])
    assert_rejected(path, "it must contain config.json")
    del (fewer := dict(members))["model.weights.h5"]
    assert_rejected(write(path, fewer), "it must contain config.json")


def test_links(members, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name)
            if name.endswith(".h5"):
                member.external_attr, content = (stat.S_IFLNK | 0o777) << 16, b"/etc/passwd"
            archive.writestr(member, content)
    assert_rejected(path, "it contains a link")


def test_zip_bombs(members, tmp_path):
    bomb = {**members, "config.json": members["config.json"] + b" " * (100 << 20)}
    path = write(tmp_path / "model.keras", bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 8 << 20
    assert_rejected(path, "unpacks to far more")
    content = path.read_bytes()
    size = len(bomb["config.json"]).to_bytes(4, "little")
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, (5000).to_bytes(4, "little")))  # a member with a wrong size
    assert_rejected(path, "damaged")


def weights(change, members):
    file = io.BytesIO(members["model.weights.h5"])
    with h5py.File(file, "r+") as opened:
        names = []
        opened.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        change(opened, names[0])
    return {**members, "model.weights.h5": file.getvalue()}


def test_weights_in_other_files(members, tmp_path):
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
        file.create_dataset(name, (1 << 36,), "f4", chunks=(1 << 20,))  # no chunk is stored

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
        (text, "not an array of numbers"),
    ):
        assert_rejected(write(path, weights(change, members)), reason)


def hostile(members, change):
    config = json.loads(members["config.json"])
    change(config["config"])
    return {**members, "config.json": json.dumps(config).encode()}


def test_no_code_of_a_file_is_executed(members, tmp_path, monkeypatch):
    """A lambda, functions of other modules, and a module with code that runs on import."""
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Layer: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    lambda_layer = keras.saving.serialize_keras_object(keras.layers.Lambda(lambda x: x))
    layers = {
        "lambda": lambda_layer,
        "system": {"module": "os", "class_name": "system", "config": f"touch {mark}", "registered_name": "system"},
        "function": {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"},
        "evil": {"module": "evil", "class_name": "Layer", "config": {}, "registered_name": None},
        "keras": {"module": "keras.utils", "class_name": "get_file", "config": {}, "registered_name": None},
    }
    for name, layer in layers.items():
        for key in ("image_augmentation", "waveform_augmentation", "front_end"):
            path = write(tmp_path / f"{name}.keras", hostile(members, lambda c, k=key, x=layer: c.update({k: [x]})))
            assert_rejected(path)
    assert not mark.exists() and "evil" not in sys.modules


def serialized(layer, **options):
    """Config of a layer with some changed options."""
    config = keras.saving.serialize_keras_object(layer)
    config["config"] |= options
    return config


def front_end(options, *more):
    first, *others = gk.layers.default_front_end()
    return [serialized(first, **options), *map(serialized, others), *more]


@contextlib.contextmanager
def limited_memory(limit):
    """Assert that the largest memory of the process grows by less than a limit in KiB, if there is one."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert limit is None or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < limit


@pytest.mark.parametrize("limit", [None, pytest.param(500_000, marks=pytest.mark.slow)])
def test_invalid_configs(members, tmp_path, limit):
    """They are rejected before objects of the size in the config are allocated."""
    with limited_memory(limit):
        check_invalid_configs(members, tmp_path / "model.keras")


def check_invalid_configs(members, path):
    for change, reason in (
        ({"clip_seconds": 1e12}, "4194304 pixels"),
        ({"genres": []}, "at least two"),
        ({"genres": [str(number) for number in range(1_000_000)]}, "at most 10000"),
        ({"backbone": "../../etc/passwd"}, "`backbone` must be one of"),
        ({"backbone": 3}, ""),
        ({"backbone": 65 * ["mel_cnn"]}, "at most 64 names"),
        ({"dropout": "high"}, "`dropout` must lie in"),
        ({"front_end": front_end({"n_fft": 1 << 20})}, "`n_fft` must be at most 65536"),
        ({"front_end": front_end({"n_mels": 1 << 20})}, "`n_mels` at most"),
        ({"front_end": front_end({"hop_length": 1}), "clip_seconds": 30.0}, "4194304 pixels"),
        ({"front_end": front_end({}, serialized(keras.layers.ZeroPadding2D(((2000, 2000), (0, 0)))))}, "4096 mels"),
        (
            {"image_augmentation": [serialized(keras.layers.Conv2D(1, 3), kernel_size=[100_000] * 2)]},
            "Conv2D is too",
        ),
        ({"front_end": front_end({}, serialized(keras.layers.Dense(1), units=1 << 30))}, "Dense is too large"),
        ({"card": 7}, ""),
        ({"pretrained": {"a": 1}}, "`pretrained` must be"),
    ):
        assert_rejected(write(path, hostile(members, lambda c, x=change: c.update(x))), reason)
    for content in (b"[]", b"null", b"3", b"{", b"{}", b"\xff", b'{"config": 1}', b"[" * 100_000):
        assert_rejected(write(path, {**members, "config.json": content}))


@pytest.mark.parametrize("limit", [None, pytest.param(300_000, marks=pytest.mark.slow)])
def test_large_configs(members, tmp_path, monkeypatch, limit):
    """They are rejected before Keras loads them."""
    monkeypatch.setattr(keras.saving, "load_model", lambda *a, **k: pytest.fail("Keras was called"))
    with limited_memory(limit):
        check_large_configs(members, tmp_path / "model.keras")


def check_large_configs(members, path):
    """Another class; layers and metrics that are many, nested, or large, each or in sum; deep nesting."""
    saved = json.loads(members["config.json"])
    wide = [serialized(keras.layers.Dense(1), units=50_000, name=name) for name in ("first", "second")]
    sequential = serialized(keras.Sequential([keras.Input((1,))]), build_input_shape=[None, 1])
    sequential["config"]["layers"] += wide
    extractor = serialized(backbones.FeatureExtractor("mel_cnn", (32, 32, 1)))
    metric = {"module": "keras.metrics", "registered_name": None}
    for changed, inner, reason in (
        (sequential, {}, "contains a Sequential, not a GenreClassifier"),
        ({"registered_name": "genrekeras>MelSpectrogram"}, {}, "not a GenreClassifier"),
        ({"registered_name": None, "class_name": "Sequential"}, {}, "contains a Sequential, not a GenreClassifier"),
        ({}, {"image_augmentation": 1001 * [serialized(keras.layers.Identity())]}, "more than 1000 layers"),
        ({}, {"image_augmentation": 100 * [serialized(keras.layers.Dense(1), units=1 << 22)]}, "Dense is too large"),
        ({}, {"image_augmentation": wide}, r"its layers have 250\d{7} weights, but the file contains \d{6}$"),
        ({}, {"front_end": front_end({}, *wide)}, "`front_end` must compute images"),
        ({}, {"waveform_augmentation": wide[:1]}, r"its layers have 110\d{7} weights"),
        ({}, {"image_augmentation": [sequential]}, r"its layers have 250\d{7} weights"),
        (
            {},
            {"image_augmentation": [serialized(keras.layers.Identity(), dtype=sequential)]},
            "dtype must not be a layer, but is a Sequential",
        ),
        ({}, {"image_augmentation": 300 * [extractor]}, "one MelSpectrogram and layers of genrekeras.layers"),
        ({}, {"front_end": 2 * front_end({"dft": "matmul", "n_fft": 1 << 16})}, "it must contain one MelSpectrogram"),
        ({"compile_config": {"loss": sequential}}, {}, "its loss must not be a layer, but is a Sequential"),
        (
            {"compile_config": {**metric, "class_name": "AUC", "config": {"num_thresholds": 1 << 33}}},
            {},
            "AUC is too large",
        ),
        ({"compile_config": {**metric, "class_name": "MeanIoU", "config": {"num_classes": 1 << 17}}}, {}, "MeanIoU is"),
        ({"deep": 120}, {}, "nested too deeply"),
        ({"deep": 10_000}, {}, "nested too deeply"),
    ):
        content = json.dumps({**saved, **changed, "config": {**saved["config"], **inner}})
        if depth := changed.get("deep"):
            content = content.replace(f'"deep": {depth}', f'"deep": {depth * "["}{depth * "]"}')
        assert_rejected(write(path, {**members, "config.json": content.encode()}, zipfile.ZIP_DEFLATED), reason)


@pytest.mark.backends
def test_layers_and_metrics_of_keras(tmp_path):
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


def test_the_command_line_names_the_file(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"Dear Ann,\n")
    done = CliRunner().invoke(cli.main, ["info", str(path)])
    assert (
        done.exit_code == 1 and f"{path} cannot be loaded as a model" in done.output and "Traceback" not in done.output
    )


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_npz_files(tmp_path, rng, count):
    """They are read unchanged, or rejected with a message that contains the path."""
    path = tmp_path / "arrays.npz"
    arrays = {"features": rng.standard_normal((50, 10)).astype("float32"), "about": np.arange(20)}
    np.savez(path, **arrays)
    original, rejected = path.read_bytes(), 0
    for number in range(count):
        content = bytearray(original)
        if number % 3 == 0:
            content = content[: rng.integers(len(content))]
        else:
            ends = np.r_[0:200, len(original) - 200 : len(original)]
            for index in rng.choice(ends if number % 3 == 1 else len(original), 3):
                content[index] = rng.integers(256)
        path.write_bytes(content)
        try:
            loaded = utils_io.read_arrays(path)
        except ValueError as error:
            rejected += 1
            assert str(path) in str(error)
        else:
            for name, array in arrays.items():
                if name in loaded:
                    np.testing.assert_array_equal(loaded[name], array)
    assert rejected > count / 2
    np.savez(path, evil=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        utils_io.read_arrays(path)


def test_saved_configs_contain_module_and_registered_name(tmp_path):
    """Keras names them in its error message if it does not find a class."""
    augmentation = {"waveform_augmentation": [gk.layers.RandomGain()], "image_augmentation": [gk.layers.SpecAugment()]}
    small_model(front_end=gk.layers.default_front_end(), **augmentation).save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        config = json.loads(archive.read("config.json"))
    classes = {}

    def collect(value):
        if isinstance(value, dict):
            if "class_name" in value and not value["module"].startswith("keras"):
                classes[value["class_name"]] = (value["module"], value["registered_name"])
            value = list(value.values())
        for part in value if isinstance(value, list) else []:
            collect(part)

    collect(config)
    assert {"GenreClassifier", "MelSpectrogram", "SpectrogramToImage", "RandomGain", "SpecAugment"} <= set(classes)
    for name, (module, registered_name) in classes.items():
        assert module.startswith("genrekeras.") and registered_name == f"genrekeras>{name}"


def test_registered_names():
    objects = keras.saving.get_custom_objects().items()
    classes = {name: item for name, item in objects if item.__module__.startswith("genrekeras.")}
    assert len(classes) > 10
    for name, item in classes.items():
        assert name == keras.saving.get_registered_name(item) and name.startswith("genrekeras>")


def test_save_float16(tmp_path):
    model = small_model(genres=["a", "b"], card={"about": "songs"})
    kernel, _ = model.output_layer.get_weights()
    model.output_layer.set_weights([kernel, np.array([1e5, -0.125], "float32")])  # 1e5 is beyond the range of float16
    model.compile("adam", "sparse_categorical_crossentropy")
    model.save(tmp_path / "full.keras")
    save_float16(model, tmp_path / "half.keras")
    assert os.path.getsize(tmp_path / "half.keras") < 0.52 * os.path.getsize(tmp_path / "full.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    assert not loaded.compiled and dict(loaded.card) == {"about": "songs"}
    for weight, reference in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, reference, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(loaded.output_layer.get_weights()[1], [1e5, -0.125])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full.keras", "half.keras"]
