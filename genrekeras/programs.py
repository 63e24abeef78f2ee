"""What a program may decide for its whole process, and a library may not."""

import sys

import keras


def leave_tensorflow_out():
    """Let Keras take TensorFlow for not installed where the backend is PyTorch, unless it is imported already.

    Keras asks of what it saves, loads and seeds whether it is TensorFlow's, and imports TensorFlow to know that. It
    remembers where that failed. Others may import it afterwards.
    """
    if keras.backend.backend() == "torch" and "tensorflow" not in sys.modules:
        sys.modules["tensorflow"] = None  # an import of it fails
        try:
            keras.saving.serialize_keras_object(keras.initializers.Zeros())
        finally:
            del sys.modules["tensorflow"]
