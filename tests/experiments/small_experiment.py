"""How does an experiment behave with a small network?"""

import genrekeras as gk
import keras
from genrekeras.runs import runner


def main(run):
    model = run.classifier("mel_cnn", dropout=0.5, **runner.augmentation_of_2023(run.flags.seed))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    run.train(model, [gk.callbacks.StepDecay(1e-3, factor=0.1, every=10)])
    run.evaluate()


if __name__ == "__main__":
    runner.start(main, __doc__)
