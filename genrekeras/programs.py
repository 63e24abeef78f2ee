"""Settings of the whole process, which a program may change but a library may not."""

import sys


def leave_tensorflow_out():
    """Keep Keras from importing TensorFlow where the backend is PyTorch, unless TensorFlow is imported already.

    Keras imports TensorFlow to check whether an object that it saves, loads or seeds is a TensorFlow object. It caches
    the failed import; other code can import TensorFlow afterwards.
    """
    import keras  # takes seconds

    if keras.backend.backend() == "torch" and "tensorflow" not in sys.modules:
        sys.modules["tensorflow"] = None  # an import of it fails
        try:
            keras.saving.serialize_keras_object(keras.initializers.Zeros())
        finally:
            del sys.modules["tensorflow"]
