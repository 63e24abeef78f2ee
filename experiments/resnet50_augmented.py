"""How good is ResNet50 with augmentation and learning-rate decay, without dropout?

Published by the 2023 system: 50.87 %.

    python experiments/resnet50_augmented.py                  # a small synthetic corpus
    python experiments/resnet50_augmented.py --data-dir FMA   # fma_small

Flags as published, except for the front end: `--data-dir FMA --protocol random --stem new --fine-tune stem`.

Expected: 3 minutes on 2 cores (PyTorch) on the synthetic corpus, 100 % of its 40 validation clips (seed 0), which says
nothing about music. On fma_small: not measured yet.
"""

import process_settings  # noqa: F401

import genrekeras as gk
import keras
from genrekeras.runs import runner


def main(run):
    model = run.classifier("resnet50", dropout=0.0, **runner.augmentation_of_2023(run.flags.seed))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    run.train(model, [gk.callbacks.StepDecay(1e-3, factor=0.1, every=10)])
    run.evaluate()


if __name__ == "__main__":
    runner.start(main, __doc__)
