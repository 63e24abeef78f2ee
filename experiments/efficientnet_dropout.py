"""How good is EfficientNetB0 with dropout and learning-rate decay, without augmentation?

The system of 2023 published an accuracy of 57.89 %, which was its best run.

    python experiments/efficientnet_dropout.py                  # a small synthetic corpus
    python experiments/efficientnet_dropout.py --data-dir FMA   # fma_small

The flags of 2023 are `--data-dir FMA --protocol random --stem new --fine-tune all`. The front end was different.

Expected on the synthetic corpus: 2 minutes on 2 cores (PyTorch), and 97.5 to 100 % of 40 validation clips with the
seeds 0, 1 and 2. This accuracy says nothing about music.
Expected on fma_small: not measured yet.
"""

import process_settings  # noqa: F401

import genrekeras as gk
import keras
from genrekeras.runs import runner


def main(run):
    model = run.classifier("efficientnet_b0", dropout=0.5)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    run.train(model, [gk.callbacks.StepDecay(1e-3, factor=0.1, every=10)])
    run.evaluate()


if __name__ == "__main__":
    runner.start(main, __doc__)
