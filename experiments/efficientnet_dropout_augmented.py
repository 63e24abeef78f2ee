"""Does the 2023 system's augmentation help EfficientNetB0 with dropout? Its score is not stated there.

    python experiments/efficientnet_dropout_augmented.py                  # a small synthetic corpus
    python experiments/efficientnet_dropout_augmented.py --data-dir FMA   # fma_small

Data and weights as in 2023: `--data-dir FMA --protocol random --stem new --fine-tune stem`.

40 % of the training clips are changed: half of them in power, by 1.5 or 0.5, half with noise of sigma 0.1 of 255 on the
image. The front end scales each clip to its own range, which takes the first out again, and the second is too small to
be seen: expect no difference.

Expected: 2 minutes on 2 cores (PyTorch) on the synthetic corpus, 97.5 % of its 40 validation clips (seed 0), which says
nothing about music.
On fma_small: not measured yet.
"""

import common  # before keras: it chooses the backend
import genrekeras as gk
import keras


def main(run):
    model = run.classifier("efficientnet_b0", dropout=0.5, **common.augmentation_of_2023(run.flags.seed))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    run.train(model, [gk.callbacks.StepDecay(1e-3, factor=0.1, every=10)])
    run.evaluate()


if __name__ == "__main__":
    common.start(main, __doc__)
