"""How good is ResNet50 with RMSprop, without dropout, augmentation or learning-rate decay?

The system of 2023 published an accuracy of 49.55 %, which was its first run.

    python experiments/resnet50_baseline.py                  # a small synthetic corpus
    python experiments/resnet50_baseline.py --data-dir FMA   # fma_small

The flags of 2023 are `--data-dir FMA --protocol random --stem new --fine-tune stem`. The front end was different.

Expected on the synthetic corpus: 3 minutes on 2 cores (PyTorch), and 80 to 87.5 % of 40 validation clips in two runs
with seed 0. This accuracy says nothing about music. It is low, because RMSprop with a learning rate of 1e-3 does not
train a ResNet50 with random weights to convergence in 160 steps.
Expected on fma_small: not measured yet.
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
