"""Convert the networks of musicnn to Keras 3, as the presets musicnn_msd and musicnn_mtt.

    pip download --no-deps musicnn==0.1.0
    python experiments/convert_musicnn.py musicnn-0.1.0-py3-none-any.whl

The wheel contains TensorFlow 1 checkpoints and the names of the tags. The package itself is not imported, because it
needs old versions of TensorFlow and NumPy. The script reads the checkpoints and writes models and cards into
`genrekeras/models/presets`. It needs the extra `tensorflow`.

Expected: half a minute, two models of 3.2 MB with 792,079 weights each. `tests/models/test_musicnn.py` compares their
outputs with those of the original TensorFlow graphs: the differences are below 1e-6.
"""

import argparse
import ast
import os
import shutil
import tempfile
import zipfile

import genrekeras as gk
import numpy as np
import tensorflow as tf
from genrekeras import reports
from genrekeras.models import presets

CONVOLUTIONS = ("timbral1", "timbral2", "temporal1", "temporal2", "temporal3", "conv1", "conv2", "conv3")
NORMS = ("bn", *(f"{name}_bn" for name in CONVOLUTIONS), "pool_bn", "features")
# Name of the weights -> training data, and the scores in the file experiment.result of the checkpoint.
DATA = {
    "msd": ("Million Song Dataset: about 200,000 songs with 50 tags of Last.fm", "ROC-AUC 0.880 and PR-AUC 0.289"),
    "mtt": ("MagnaTagATune: 50 tags that players of the game TagATune chose", "ROC-AUC 0.907 and PR-AUC 0.383"),
}
KINDS = {
    "mood": "beautiful Mellow chill party sexy catchy sad happy slow fast loud quiet soft weird",
    "era": "00s 90s 80s 70s 60s oldies",
    "instrument": "guitar acoustic strings drums piano beat violin synth harpsichord flute sitar solo beats harp cello",
    "voice": "female vocalists,male vocalists,female vocalist,instrumental,vocal,female,male,singing,vocals,no vocals,"
    "woman,male vocal,no vocal,man,choir,voice,male voice,female vocal,no voice,female voice",
}  # the other tags are genres
ABOUT = (
    "The authors of [musicnn](https://github.com/jordipons/musicnn), Jordi Pons and Xavier Serra, trained this network "
    '(Pons and Serra, "musicnn: Pre-trained convolutional neural networks for music audio tagging", ISMIR 2019 '
    "late-breaking demo). The weights were converted from their package and not trained further. They are under the "
    "ISC licence, see the file LICENSE-musicnn. The package states {scores} on the test split of the authors. The "
    "developers of genrekeras did not evaluate the model. The tags are those of listeners. Not all of them are genres, "
    "and some have the same meaning. A clip can have several tags, so the probabilities do not sum to 1."
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", help="path of musicnn-0.1.0-py3-none-any.whl")
    parser.add_argument(
        "--output",
        default=os.path.dirname(presets.__file__),
        metavar="FOLDER",
        help="folder of the models and cards (default: the presets of the package)",
    )
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.wheel) as wheel:
        for name in DATA:
            model = convert(wheel, name)
            path = os.path.join(arguments.output, f"musicnn_{name}.keras")
            model.save(path)
            reports.model_card(model, path.replace(".keras", ".md"))
            print(f"{path}: {os.path.getsize(path) / 1e6:.2f} MB, {len(model.genres)} tags")


def convert(wheel, name):
    """Return the `GenreClassifier` with the weights `name`, `"msd"` or `"mtt"`."""
    data, scores = DATA[name]
    card = {
        "name": f"musicnn, 50 tags ({name.upper()})",
        "license": "isc",
        "data": {"name": data},
        "training": {"trained by": "the authors of musicnn", "source": f"musicnn 0.1.0, {name.upper()}_musicnn"},
        "about": ABOUT.format(scores=scores),
    }
    tags = read_tags(wheel, f"{name.upper()}_LABELS")
    card["labels"] = kinds_of(tags)
    model = gk.GenreClassifier("musicnn", tags, pretrained=None, fine_tune="all", multi_label=True, card=card)
    weights = read_checkpoint(wheel, f"musicnn/{name.upper()}_musicnn/")
    set_weights(model, weights)
    config = {**model.get_config(), "pretrained": name}  # loads no weights
    converted = gk.GenreClassifier.from_config(config)
    converted.set_weights(model.get_weights())
    return converted


def kinds_of(tags):
    """Return the kind of each tag: "genre", "mood", "era", "instrument" or "voice"."""
    kinds = {tag: kind for kind, names in KINDS.items() for tag in names.split("," if "," in names else None)}
    return {tag: kinds.get(tag, "genre") for tag in tags}


def read_tags(wheel, name):
    """Return the list that is assigned to `name` in the configuration of the package. No code is executed."""
    module = ast.parse(wheel.read("musicnn/configuration.py"))
    [value] = [node.value for node in module.body if isinstance(node, ast.Assign) and node.targets[0].id == name]
    return ast.literal_eval(value)


def read_checkpoint(wheel, prefix):
    """Return the variables of a TensorFlow checkpoint in the wheel, name -> array, without those of the optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        for ending in (".index", ".data-00000-of-00001"):
            with wheel.open(prefix + ending) as source, open(os.path.join(folder, f"model{ending}"), "wb") as target:
                shutil.copyfileobj(source, target)
        reader = tf.train.load_checkpoint(os.path.join(folder, "model"))
        names = [name for name in reader.get_variable_to_shape_map() if "Adam" not in name and "_power" not in name]
        return {name: reader.get_tensor(name) for name in names}


def set_weights(model, weights):
    """Set all weights of a model. TensorFlow numbers the layers of each kind in the order in which they are built."""

    def take(kind, number, *variables):
        scope = f"{kind}_{number}" if number else kind
        return [weights.pop(f"{scope}/{variable}") for variable in variables]

    network = model.feature_extractor
    for number, name in enumerate(CONVOLUTIONS):
        kernel, bias = take("conv2d", number, "kernel", "bias")
        # Images were (time, mels). The last three convolutions were over (time, channels) with one input channel.
        kernel = kernel.transpose(2, 0, 1, 3) if name.startswith("conv") else kernel.transpose(1, 0, 2, 3)
        network.get_layer(f"musicnn_{name}").set_weights([kernel, bias])
    for number, name in enumerate(NORMS):
        norm = take("batch_normalization", number, "gamma", "beta", "moving_mean", "moving_variance")
        if name == "pool_bn":
            norm = [maxima_first(values) for values in norm]
        network.get_layer(f"musicnn_{name}").set_weights(norm)
    kernel, bias = take("dense", 0, "kernel", "bias")
    network.get_layer("musicnn_dense").set_weights([maxima_first(kernel), bias])
    model.output_layer.set_weights(take("dense", 1, "kernel", "bias"))
    assert not weights, f"weights that are not used: {list(weights)}"


def maxima_first(rows):
    """Reorder rows from alternating maxima and means over time to all maxima, then all means."""
    return np.concatenate([rows[0::2], rows[1::2]])


if __name__ == "__main__":
    main()
