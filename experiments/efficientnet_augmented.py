"""How good is EfficientNetB0 with augmentation and learning-rate decay, without dropout?

The system of 2023 published an accuracy of 54.85 %.

    python experiments/efficientnet_augmented.py                  # a small synthetic corpus
    python experiments/efficientnet_augmented.py --data-dir FMA   # fma_small

The flags of 2023 are `--data-dir FMA --protocol random --stem new --fine-tune stem`. The front end was different.

Expected on the synthetic corpus: 2 minutes on 2 cores (PyTorch), and 97.5 to 100 % of 40 validation clips in three runs
with seed 0. This accuracy says nothing about music.
Expected on fma_small: not measured yet.
"""

import process_settings  # noqa: F401

import genrekeras as gk
import keras
from genrekeras.runs import runner


def main(run):
    model = run.classifier("efficientnet_b0", dropout=0.0, **runner.augmentation_of_2023(run.flags.seed))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    run.train(model, [gk.callbacks.StepDecay(1e-3, factor=0.1, every=10)])
    run.evaluate()


if __name__ == "__main__":
    runner.start(main, __doc__)
