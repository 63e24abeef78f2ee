"""Load pretrained weights of networks for RGB images into networks for gray images."""

import os
import tempfile
import urllib.request

import h5py
import keras
from genrekeras.models.backbones.gray_stem import fold_stem
from genrekeras.models.backbones.registry import MelBackbone, get

_TIMEOUT = 30.0  # seconds to wait for the server of pretrained weights


class PretrainedWeightsError(RuntimeError):
    """Pretrained weights are not available. The message contains the reason and what to do."""


def load_pretrained(network, pretrained):
    """Copy the weights of the RGB network into a network of the same backbone.

    Args:
        network: `FeatureExtractor`; a new stem keeps its random weights.
        pretrained: `"imagenet"`, or the path of a `.weights.h5` file that was saved from the RGB network
            (`Backbone.constructor`) built with `weights=None, include_top=False`.

    Raises:
        PretrainedWeightsError: the ImageNet weights cannot be downloaded or are not installed; or the file does not
            exist or belongs to another network.
    """
    name, backbone = network.backbone, get(network.backbone)
    if isinstance(backbone, MelBackbone):
        raise PretrainedWeightsError(
            f'There are no pretrained weights for {name}. Pass `pretrained=None, fine_tune="all"`. '
            f"Received: pretrained={pretrained!r}"
        )
    rgb = _rgb_imagenet(name) if pretrained == "imagenet" else _rgb_from_file(name, pretrained)
    for layer in network.layers:
        # Normalization layers stay the identity, since that of the RGB network is folded into the stem.
        if layer.weights and layer.name != backbone.stem and not isinstance(layer, keras.layers.Normalization):
            layer.set_weights(rgb.get_layer(layer.name).get_weights())
    if network.stem == "fold":
        fold_stem(network, rgb, backbone)


def _rgb_imagenet(name):
    backbone = get(name)
    try:
        _check_reachable(backbone.weights_url)
        return backbone.constructor(include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises a plain Exception when a download fails, an import an ImportError
        raise PretrainedWeightsError(
            f"The ImageNet weights of {name} are not available: {error}\n"
            "Do one of the following:\n"
            f"- {_manual_download(backbone)};\n"
            "- pass as `pretrained` the path of a .weights.h5 file saved from this RGB network built with "
            "weights=None;\n"
            '- pass `pretrained=None, fine_tune="all"` to train from random weights.'
        ) from error


def _check_reachable(url):
    """Raise `OSError` if weights must be downloaded and the server does not answer; Keras would wait for minutes."""
    if url and not os.path.isfile(os.path.join(_keras_cache(), os.path.basename(url))):
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()


def _rgb_from_file(name, path):
    path = os.fspath(path)
    backbone = get(name)
    if not path.endswith(".weights.h5"):
        raise PretrainedWeightsError(
            f'`pretrained` must be "imagenet", None or the path of a .weights.h5 file. Received: pretrained={path!r}. '
            "To use a published file, whose network may have another input layer, "
            f'{_manual_download(backbone)}, and pass pretrained="imagenet".'
        )
    if not os.path.isfile(path):
        raise PretrainedWeightsError(f"`pretrained` names a file that does not exist. Received: pretrained={path!r}")
    rgb = backbone.constructor(include_top=False, weights=None)
    try:
        # Keras matches layers by class and position, and does not notice a missing layer without weights.
        with h5py.File(path) as file:
            saved_layers = len(file["layers"])
        if saved_layers != len(rgb.layers):
            raise ValueError(
                f"it contains {saved_layers} layers, and the network has {len(rgb.layers)}. Save it from the network "
                'built with weights=None, include_top=False (one built with weights="imagenet" may have another input '
                "layer)"
            )
        rgb.load_weights(path)
    except (OSError, KeyError, ValueError) as error:
        raise PretrainedWeightsError(f"{path} does not belong to the RGB network of {name}: {error}") from error
    return rgb


def _manual_download(backbone):
    return backbone.manual_download.format(cache=_keras_cache())


def _keras_cache():
    """Return the folder into which Keras downloads weights."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser(os.path.join("~", ".keras"))
    if not os.access(home, os.W_OK):
        home = os.path.join(tempfile.gettempdir(), ".keras")
    return os.path.join(home, "models")
