"""Does an experiment with a small network do what those with large ones do, in less time?"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "experiments"))
import common  # before keras: it chooses the backend
import genrekeras as gk
import keras


def main(run):
    model = run.classifier("mel_cnn", dropout=0.5, **common.augmentation_of_2023(run.flags.seed))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    run.train(model, [gk.callbacks.StepDecay(1e-3, factor=0.1, every=10)])
    run.evaluate()


if __name__ == "__main__":
    common.start(main, __doc__)
