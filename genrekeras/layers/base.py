"""Common parts of the layers: computation in float32, constants that are not weights, and devices."""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

if keras.backend.backend() == "openvino":
    raise ImportError(
        "genrekeras does not support the Keras backend openvino, because Keras lets OpenVINO compute in 16 bits on "
        "some processors. The probabilities would be wrong. Set the environment variable KERAS_BACKEND to "
        '"torch", "jax", "tensorflow" or "numpy". To run a model on OpenVINO, export it with '
        'genrekeras.export.export(..., format="openvino"), and load the exported file.'
    )


class Float32Layer(keras.layers.Layer):
    """Base class of layers that compute in float32 under any global dtype policy. They accept no other `dtype`."""

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if self.compute_dtype != "float32" or self.variable_dtype != "float32":
            raise ValueError(
                f"`dtype` of {type(self).__name__} must be float32. Received: dtype={self.dtype_policy.name}"
            )

    def add_constant(self, name: str, array: np.ndarray) -> None:
        """Add an array as an attribute that is not saved. On PyTorch it is a buffer, so `layer.to(device)` moves it."""
        if keras.backend.backend() == "torch":
            self.register_buffer(name, ops.convert_to_tensor(array), persistent=False)
        else:
            setattr(self, name, array)


def to_device_of(constant: Any, tensor: Any) -> Any:
    """Return a constant as a tensor on the device of `tensor`.

    On PyTorch, `model.to(device)` does not move the constants of the layers in the model.
    """
    return constant.to(tensor.device) if keras.backend.backend() == "torch" else ops.convert_to_tensor(constant)


def matmul(constant: Any, tensor: Any) -> Any:
    """Return the matrix product of a constant and a tensor."""
    return ops.matmul(to_device_of(constant, tensor), tensor)


@functools.cache
def runs_on_cpu() -> bool:
    """Return whether the backend has no accelerator. Not used on PyTorch, where each tensor has its own device."""
    return keras.backend.backend() == "numpy" or keras.distribution.list_devices()[0].startswith("cpu")


def check_positive_integer(name: str, value: Any) -> None:
    """Raise `ValueError` if the value of an argument is not a positive integer."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value <= 0:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
