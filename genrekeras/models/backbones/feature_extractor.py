"""FeatureExtractor, the model of a backbone for gray images."""

import types
from collections.abc import Sequence
from typing import Literal

import keras
from genrekeras.models.backbones.gray_stem import call_on_gray
from genrekeras.models.backbones.layer_graph import LayerGraph, depth_first, to_step
from genrekeras.models.backbones.registry import Backbone, MelBackbone, get, members, presets_of

_MAX_MELS, _MAX_PIXELS = 4096, 1 << 22
STEMS = ("fold", "new")
FINE_TUNE = ("head", "stem", "all")


@keras.saving.register_keras_serializable("genrekeras")
class FeatureExtractor(keras.Model):
    """Build a backbone for gray images, with random weights.

    The network runs in the data format that is fastest on the backend (`genrekeras.models.backbones.data_format`). On
    PyTorch this is channels_first. A `Permute` layer converts the image without changing its order in memory. Weights
    have the same shapes and names in both formats. The config contains the arguments instead of the layers, so a saved
    network can be loaded on every backend.

    Args:
        backbone: a key of `BACKBONES`, or a sequence of at most 64 `"mel_..."` names or `"musicnn"`. The networks of a
            sequence are applied in parallel, and their features are concatenated.
        image_shape: `(mels, frames, 1)`.
        stem: `"fold"` or `"new"` (see `genrekeras.models.backbones.registry`). A `"mel_..."` backbone has its own stem
            and does not use this argument. `"musicnn"` refuses `"new"`.
        fine_tune: which layers are trainable: `"all"`, `"stem"` (the first convolution; the five first ones of
            `"musicnn"`) or `"head"` (no layer of the backbone). It can be changed later by assigning
            `network.fine_tune`. Frozen batch normalization uses the moving statistics and does not update them. Dropout
            layers (such as drop-connect) are active with `"all"` only. Keras itself would keep the dropout layers of
            frozen blocks active.
        momentum: momentum of all batch normalizations. `None` keeps Keras' default, 0.99.
        name: as in `keras.Model`.
        trainable: as in `keras.Model`.

    Input shape: `(batch, mels, frames, 1)` in the range `get(backbone).front_end.image_range`.

    Output shape: `(batch, features)`.

    Raises:
        ValueError: an argument is unknown, or the image is too small or too large. It must have at least 32 mels and 32
            frames, at most 4,096 mels and at most 2^22 pixels. With the default front end, 2^22 pixels are 12 minutes.
    """

    def __init__(
        self,
        backbone: str | Sequence[str],
        image_shape: Sequence[int],
        stem: Literal["fold", "new"] = "fold",
        fine_tune: Literal["head", "stem", "all"] = "all",
        momentum: float | None = None,
        name: str = "feature_extractor",
        trainable: bool = True,
    ):
        row = get(backbone)
        check_stem(backbone, stem)
        _check_fine_tune(fine_tune)
        _check_image_shape(image_shape)
        image = keras.Input(image_shape, name="image")
        if isinstance(row, MelBackbone):
            features = [get(member).constructor(image, prefix) for member, prefix in members(backbone)]
            features = keras.layers.Concatenate(name="members")(features) if features[1:] else features[0]
        else:
            features = call_on_gray(row, image, stem)
        super().__init__(image, features, name=name)
        self._graph = LayerGraph([to_step(layer) for layer in depth_first(self)[1:]], id(image), id(features))
        self.backbone: str | tuple[str, ...] = backbone if isinstance(backbone, str) else tuple(backbone)
        self.image_shape = tuple(image_shape)
        self.stem = stem
        self.momentum = momentum
        if momentum is not None:
            for layer in self.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = momentum
        dropouts = [layer for layer in self.layers if isinstance(layer, keras.layers.Dropout)]
        self._drop_rates = types.MappingProxyType({layer.name: layer.rate for layer in dropouts})
        self.fine_tune = fine_tune
        if not trainable:
            self.trainable = False

    @property
    def fine_tune(self) -> Literal["head", "stem", "all"]:
        """Which layers are trainable. Compile the model again after a change."""
        return self._fine_tune

    @fine_tune.setter
    def fine_tune(self, value: Literal["head", "stem", "all"]) -> None:
        _check_fine_tune(value)
        row = get(self.backbone)
        if isinstance(row, Backbone):
            stems = [row.stem]
        else:
            stems = [f"{prefix}_{stem}" for name, prefix in members(self.backbone) for stem in get(name).stem]
        for layer in self.layers:
            layer.trainable = value == "all" or (value == "stem" and layer.name in stems)
            if layer.name in self._drop_rates:
                layer.rate = self._drop_rates[layer.name] if value == "all" else 0.0
        self._fine_tune = value

    def call(self, inputs, training=None, mask=None):
        """Return the features.

        On PyTorch, the layers are called without the overhead of Keras. Forward hooks of the layers are not called.
        """
        [image] = keras.tree.flatten(inputs)
        if keras.backend.backend() != "torch" or self._graph.needs_casts or len(image.shape) != 4:
            return super().call(inputs, training=training, mask=mask)
        return self._graph.run(keras.ops.convert_to_tensor(image, "float32"), training)

    def get_config(self):
        return {
            "backbone": self.backbone if isinstance(self.backbone, str) else list(self.backbone),
            "image_shape": list(self.image_shape),
            "stem": self.stem,
            "fine_tune": self.fine_tune,
            "momentum": self.momentum,
            "name": self.name,
            "trainable": self.trainable,
        }


def check_stem(backbone: str | Sequence[str], stem: str) -> None:
    """Raise `ValueError` if `stem` is unknown, or not possible for the backbone."""
    if stem not in STEMS:
        raise ValueError(f"`stem` must be one of {STEMS}. Received: stem={stem!r}")
    if stem == "new" and presets_of(backbone):
        raise ValueError(
            f'`stem="new"` replaces the first convolution of a network for RGB images, which {backbone} is not. For '
            f"random weights, pass `pretrained=None`. Received: stem={stem!r}"
        )


def _check_fine_tune(fine_tune):
    if fine_tune not in FINE_TUNE:
        raise ValueError(f"`fine_tune` must be one of {FINE_TUNE}. Received: fine_tune={fine_tune!r}")


def _check_image_shape(image_shape):
    if min(image_shape[:2]) < 32:
        raise ValueError(f"Images must have at least 32 mels and 32 frames. Received: image_shape={image_shape}")
    if image_shape[0] > _MAX_MELS or image_shape[0] * image_shape[1] > _MAX_PIXELS:
        raise ValueError(
            f"Images must have at most {_MAX_MELS} mels and {_MAX_PIXELS} pixels. Use shorter clips or a larger "
            f"`hop_length`. Received: image_shape={image_shape}"
        )
