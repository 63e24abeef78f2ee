"""How good is EfficientNetB0 with dropout, augmentation and learning-rate decay?

Published by the 2023 system: not stated.

    python experiments/efficientnet_dropout_augmented.py                  # a small synthetic corpus
    python experiments/efficientnet_dropout_augmented.py --data-dir FMA   # fma_small

Flags as published, except for the front end: `--data-dir FMA --protocol random --stem new --fine-tune stem`.

The augmentation changes 40 % of the training clips: half of these by a gain (power times 1.5 or 0.5), half by Gaussian
noise with sigma 0.1 on the image of 0 to 255. Each image is scaled to the range of its clip, which removes the gain,
and the noise is too weak to matter: no difference from efficientnet_dropout.py is expected.

Expected: 2 minutes on 2 cores (PyTorch) on the synthetic corpus, 95 to 100 % of its 40 validation clips (three
runs with seed 0), which says nothing about music. On fma_small: not measured yet.
"""

import process_settings  # noqa: F401

import genrekeras as gk
import keras
from genrekeras.runs import runner


def main(run):
    model = run.classifier("efficientnet_b0", dropout=0.5, **runner.augmentation_of_2023(run.flags.seed))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    run.train(model, [gk.callbacks.StepDecay(1e-3, factor=0.1, every=10)])
    run.evaluate()


if __name__ == "__main__":
    runner.start(main, __doc__)
