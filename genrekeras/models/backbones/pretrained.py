"""Load pretrained weights: of networks for RGB images into networks for gray images, and of presets."""

import os
import tempfile
import urllib.request

import h5py
import keras
from genrekeras.models.backbones.feature_extractor import FeatureExtractor
from genrekeras.models.backbones.gray_stem import fold_stem
from genrekeras.models.backbones.registry import MelBackbone, get, presets_of
from genrekeras.models.presets import preset_file
from genrekeras.utils.io import StrPath

_TIMEOUT = 30.0  # seconds to wait for the server of pretrained weights


class PretrainedWeightsError(RuntimeError):
    """Raised if pretrained weights are not available. The message contains the reason and possible solutions."""


def load_pretrained(network: FeatureExtractor, pretrained: StrPath) -> None:
    """Load pretrained weights into a `FeatureExtractor`.

    Args:
        network: a stem `"new"` keeps its random weights.
        pretrained: `"imagenet"`, for `"musicnn"` `"msd"` or `"mtt"`, or the path of a `.weights.h5` file. The file must
            be saved from the RGB network, built by `Backbone.constructor` with `weights=None, include_top=False`. For
            `"musicnn"`, it must be saved from a `FeatureExtractor`.

    Raises:
        PretrainedWeightsError: there are no such pretrained weights for the backbone. The ImageNet weights cannot be
            downloaded or are not installed. The file does not exist or belongs to another network.
    """
    name, backbone = network.backbone, get(network.backbone)
    if isinstance(backbone, MelBackbone):
        _load_without_rgb(network, os.fspath(pretrained))
        return
    rgb = _rgb_imagenet(name) if pretrained == "imagenet" else _rgb_from_file(name, pretrained)
    for layer in network.layers:
        # Normalization layers keep the identity. The normalization of the RGB network is folded into the stem.
        if layer.weights and layer.name != backbone.stem and not isinstance(layer, keras.layers.Normalization):
            layer.set_weights(rgb.get_layer(layer.name).get_weights())
    if network.stem == "fold":
        fold_stem(network, rgb, backbone)


def _load_without_rgb(network, pretrained):
    """Load the weights of a preset or of a file into a network for images with one channel."""
    name, presets = network.backbone, presets_of(network.backbone)
    if not presets:
        raise PretrainedWeightsError(
            f'There are no pretrained weights for {name}. Pass `pretrained=None, fine_tune="all"`. '
            f"Received: pretrained={pretrained!r}"
        )
    if pretrained in presets:
        preset = keras.saving.load_model(preset_file(presets[pretrained]))
        network.set_weights(preset.feature_extractor.get_weights())
    elif pretrained.endswith(".weights.h5"):
        _load_file(network, pretrained, f"the network {name}", "Save the file from `model.feature_extractor`.")
    else:
        names = ", ".join(f'"{preset}"' for preset in presets)
        raise PretrainedWeightsError(
            f"`pretrained` of {name} must be {names}, None or the path of a .weights.h5 file. "
            f"Received: pretrained={pretrained!r}"
        )


def _rgb_imagenet(name):
    backbone = get(name)
    try:
        _check_reachable(backbone.weights_url)
        return backbone.constructor(include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises a plain Exception if a download fails.
        raise PretrainedWeightsError(
            f"The ImageNet weights of {name} are not available: {error}\n"
            "Do one of the following:\n"
            f"- {_manual_download(backbone)};\n"
            "- pass the path of a .weights.h5 file as `pretrained`, saved from this RGB network built with "
            "weights=None;\n"
            '- pass `pretrained=None, fine_tune="all"` to train from random weights.'
        ) from error


def _check_reachable(url):
    """Raise `OSError` if weights must be downloaded but the server does not answer. Keras would wait for minutes."""
    if url and not os.path.isfile(os.path.join(_keras_cache(), os.path.basename(url))):
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()


def _rgb_from_file(name, path):
    path = os.fspath(path)
    backbone = get(name)
    if not path.endswith(".weights.h5"):
        raise PretrainedWeightsError(
            f'`pretrained` must be "imagenet", None or the path of a .weights.h5 file. Received: pretrained={path!r}. '
            f'To use a published file, {_manual_download(backbone)}, and pass pretrained="imagenet". Its path cannot '
            "be passed, because its network may have another input layer."
        )
    rgb = backbone.constructor(include_top=False, weights=None)
    hint = (
        "Save the file from the network built with weights=None, include_top=False. A network built with "
        'weights="imagenet" may have another input layer.'
    )
    _load_file(rgb, path, f"the RGB network of {name}", hint)
    return rgb


def _load_file(network, path, description, hint):
    """Load the weights of a `.weights.h5` file. The messages name the network and how to save the file."""
    if not os.path.isfile(path):
        raise PretrainedWeightsError(f"The file `pretrained` does not exist. Received: pretrained={path!r}")
    try:
        # Keras matches layers by class and position. It raises no error if a layer without weights is missing.
        with h5py.File(path) as file:
            saved_layers = len(file["layers"])
        if saved_layers != len(network.layers):
            raise ValueError(f"it contains {saved_layers} layers, but the network has {len(network.layers)}. {hint}")
        network.load_weights(path)
    except (OSError, KeyError, ValueError) as error:
        raise PretrainedWeightsError(f"{path} does not belong to {description}: {error}") from error


def _manual_download(backbone):
    return backbone.manual_download.format(cache=_keras_cache())


def _keras_cache():
    """Return the folder into which Keras downloads weights."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser(os.path.join("~", ".keras"))
    if not os.access(home, os.W_OK):
        home = os.path.join(tempfile.gettempdir(), ".keras")
    return os.path.join(home, "models")
