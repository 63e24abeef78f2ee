"""Settings of the whole process, which a program may make and a library may not."""

import sys


def leave_tensorflow_out():
    """Keep Keras from importing TensorFlow where the backend is PyTorch, unless TensorFlow is imported already.

    Keras imports TensorFlow to find out whether an object that it saves, loads or seeds belongs to it. A failed import
    is remembered by Keras; other code may import TensorFlow afterwards.
    """
    import keras  # takes seconds

    if keras.backend.backend() == "torch" and "tensorflow" not in sys.modules:
        sys.modules["tensorflow"] = None  # an import of it fails
        try:
            keras.saving.serialize_keras_object(keras.initializers.Zeros())
        finally:
            del sys.modules["tensorflow"]
