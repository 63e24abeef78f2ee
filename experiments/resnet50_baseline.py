"""How good is ResNet50 with RMSprop, without dropout, augmentation or learning-rate decay?

Published by the 2023 system: 49.55 %, its first run.

    python experiments/resnet50_baseline.py                  # a small synthetic corpus
    python experiments/resnet50_baseline.py --data-dir FMA   # fma_small

Flags as published, except for the front end: `--data-dir FMA --protocol random --stem new --fine-tune stem`.

Expected: 3 minutes on 2 cores (PyTorch) on the synthetic corpus, 80 to 87.5 % of its 40 validation clips (two
runs with seed 0), which says nothing about music: RMSprop at 1e-3 does not converge on a random ResNet50 in
160 steps. On fma_small: not measured yet.
"""

import process_settings  # noqa: F401

import keras
from genrekeras.runs import runner


def main(run):
    model = run.classifier("resnet50", dropout=0.0)
    model.compile(keras.optimizers.RMSprop(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    run.train(model)
    run.evaluate()


if __name__ == "__main__":
    runner.start(main, __doc__)
