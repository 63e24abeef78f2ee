"""How does an experiment with a tiny network behave on several devices?"""

import genrekeras as gk
import keras
from genrekeras.models.backbones import registry
from genrekeras.runs import runner


def tiny_network(image, name):
    """A network that JAX compiles in seconds."""
    x = keras.layers.AveragePooling2D((16, 4))(keras.layers.Rescaling(1 / 127.5, -1.0)(image))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name=f"{name}_conv1")(x)
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization(momentum=0.9)(x))
    return keras.layers.GlobalAveragePooling2D()(x)


registry.BACKBONES["mel_cnn"] = registry.MelBackbone(tiny_network)


def main(run):
    model = run.classifier("mel_cnn", dropout=0.5, **runner.augmentation_of_2023(run.flags.seed))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    run.train(model, [gk.callbacks.StepDecay(1e-3, factor=0.1, every=10)])
    run.evaluate()


if __name__ == "__main__":
    runner.start(main, __doc__)
