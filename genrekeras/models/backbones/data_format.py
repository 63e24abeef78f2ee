"""The data format in which convolutions are fastest on the backend, and conversion of networks to it.

On PyTorch, Keras' convolutions copy their inputs unless the data format is `channels_first`. The global setting of
Keras, `keras.config.image_data_format()`, is not changed.
"""

import keras
from genrekeras.models.backbones.torch_batch_norm import FusedBatchNormalization

DATA_FORMAT = "channels_first" if keras.backend.backend() == "torch" else "channels_last"
CHANNEL_AXIS = 1 if DATA_FORMAT == "channels_first" else 3  # of a batch of images


def call_converted(network, image):
    """Call copies of the layers of a functional network in `DATA_FORMAT`.

    The copies have the names and the initial weights of the layers. No random number is drawn.

    Args:
        network: `keras.Model` of one input and one output, of any data format, in which each layer is called once.
        image: Keras tensor in `DATA_FORMAT`, the input.

    Returns:
        Keras tensor, the output.
    """
    tensors = {id(network.inputs[0]): image}
    for layer in network.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            inputs = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], layer.input)
            tensors[id(layer.output)] = _converted(layer)(inputs)
    return tensors[id(network.outputs[0])]


def _converted(layer):
    """Return a copy of a layer in `DATA_FORMAT`."""
    layer_class, config = type(layer), layer.get_config()
    if layer_class is keras.layers.BatchNormalization:
        layer_class = FusedBatchNormalization
    if "axis" in config:  # of the channels
        config["axis"] = CHANNEL_AXIS
    if "data_format" in config:
        config["data_format"] = DATA_FORMAT
    if "target_shape" in config:  # (1, 1, channels) or (channels, 1, 1)
        channels = max(config["target_shape"])
        config["target_shape"] = (channels, 1, 1) if CHANNEL_AXIS == 1 else (1, 1, channels)
    for name in config:
        if name.endswith("_initializer"):
            config[name] = getattr(layer, name)  # with the seed that was drawn
    if config.get("seed", 0) is None:
        config["seed"] = int(layer.seed_generator.state.value[0])
    return layer_class.from_config(config)
