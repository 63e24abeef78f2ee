"""Choose the data format in which convolutions are fastest on the backend, and convert networks to it.

On PyTorch, Keras' convolutions copy their inputs unless the data format is `channels_first`. The global setting of
Keras, `keras.config.image_data_format()`, is not changed.
"""

import keras
from genrekeras.models.backbones.torch_batch_norm import FusedBatchNormalization

DATA_FORMAT = "channels_first" if keras.backend.backend() == "torch" else "channels_last"
CHANNEL_AXIS = 1 if DATA_FORMAT == "channels_first" else 3  # axis of the channels in a batch of images


def call_converted(network: keras.Model, image: keras.KerasTensor) -> keras.KerasTensor:
    """Copy the layers of a functional network, convert the copies to `DATA_FORMAT`, and call them.

    The copies have the same names and initial weights as the layers. No random number is drawn.

    Args:
        network: in any data format, with one input and one output. Each of its layers is called once.
        image: in `DATA_FORMAT`, input of the copies.

    Returns:
        Output of the copies.
    """
    tensors = {id(network.inputs[0]): image}
    for layer in network.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            inputs = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], layer.input)
            tensors[id(layer.output)] = _converted_copy(layer)(inputs)
    return tensors[id(network.outputs[0])]


def _converted_copy(layer):
    """Return a copy of a layer in `DATA_FORMAT`."""
    layer_class, config = type(layer), layer.get_config()
    if layer_class is keras.layers.BatchNormalization:
        layer_class = FusedBatchNormalization
    if "axis" in config:  # the axis of the channels
        config["axis"] = CHANNEL_AXIS
    if "data_format" in config:
        config["data_format"] = DATA_FORMAT
    if "target_shape" in config:  # (1, 1, channels) or (channels, 1, 1)
        channels = max(config["target_shape"])
        config["target_shape"] = (channels, 1, 1) if CHANNEL_AXIS == 1 else (1, 1, channels)
    for name in config:
        if name.endswith("_initializer"):
            config[name] = getattr(layer, name)  # The initializer contains the seed that was drawn for it.
    if config.get("seed", 0) is None:
        config["seed"] = int(layer.seed_generator.state.value[0])
    return layer_class.from_config(config)
