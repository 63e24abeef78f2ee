"""Command line of genrekeras in which `train --fine-tune all` trains a small network with random weights."""

import genrekeras as gk
import keras
from genrekeras import cli
from genrekeras.runs import collection, fine_tuning


def small_network(tracks, backbone, pretrained, fine_tune="head"):
    keras.utils.set_random_seed(0)  # as pretrained weights, the weights are the same in each process
    arguments = {"pretrained": None, "fine_tune": "all", "multi_label": tracks.multi_label}
    return gk.GenreClassifier("mel_cnn", tracks.genres, clip_seconds=1.0, dropout=0.3, **arguments)


if __name__ == "__main__":
    collection._make_model, collection._SAVE_EVERY, fine_tuning.EPOCHS = small_network, 0.0, 3
    cli.main()
