"""How good is a support vector machine on statistics of MFCCs?

This is the baseline that was published with FMA. Its accuracy is 46.4 % on the official test split of fma_small.

    python experiments/mfcc_svm.py                      # a small synthetic corpus, no download
    python experiments/mfcc_svm.py --data-dir FMA       # fma_small

The features are statistics of 20 MFCCs over the clip: mean, standard deviation, skew, kurtosis, median, minimum and
maximum. The features are standardized. The kernel is a radial basis function. The probabilities are a softmax of the
decision values, and are not calibrated.

Source: Defferrard et al., "FMA: A Dataset For Music Analysis", ISMIR 2017.

Expected on the synthetic corpus: 10 seconds, and 100 % of 40 validation clips. This accuracy says nothing about music.
Expected on fma_small: not measured yet.
"""

import process_settings  # noqa: F401

import librosa
import numpy as np
import scipy.special
import scipy.stats
import tqdm
from genrekeras.datasets.groups import artist_groups
from genrekeras.evaluation import Report
from genrekeras.runs import runner
from sklearn import pipeline, preprocessing, svm


def main(run):
    svc = svm.SVC(kernel="rbf", C=1.0, break_ties=True, class_weight=run.class_weight())
    machine = pipeline.make_pipeline(preprocessing.StandardScaler(), svc)
    run.save_config(machine=str(machine))
    machine.fit(mfcc_statistics(run.data.train), run.data.train.labels)
    run.save_reports({split.name: evaluate(machine, split) for split in run.splits_to_score()})


def mfcc_statistics(split):
    """Return the features of all clips of a split, `(clips, 140)` float32."""
    rows = []
    for clip in tqdm.tqdm(split, desc=f"MFCCs of {split.name}", unit="clip"):
        rows.append(statistics(librosa.feature.mfcc(y=clip["audio"], sr=split.sample_rate, n_mfcc=20)))
    return np.stack(rows)


def statistics(mfcc):
    """Return the statistics of `(20, frames)` MFCCs, `(140,)` float32."""
    values = (
        mfcc.mean(axis=1),
        mfcc.std(axis=1),
        scipy.stats.skew(mfcc, axis=1),
        scipy.stats.kurtosis(mfcc, axis=1),
        np.median(mfcc, axis=1),
        mfcc.min(axis=1),
        mfcc.max(axis=1),
    )
    return np.nan_to_num(np.concatenate(values)).astype("float32")  # The skew and kurtosis of silence are NaN.


def evaluate(machine, split):
    """Evaluate a fitted support vector machine on a split, and return the `Report`."""
    probabilities = predict_probabilities(machine, mfcc_statistics(split), len(split.genres))
    clips = (split.track_ids, split.labels, probabilities)
    return Report(split.genres, split.name, split.protocol, *clips, "whole clip", artist_groups(split.tracks))


def predict_probabilities(classifier, features, genres):
    """Return the probabilities of a classifier of scikit-learn, `(clips, genres)`.

    For a support vector machine, they are a softmax of the decision values.
    """
    if hasattr(classifier, "predict_proba"):
        values = classifier.predict_proba(features)
    else:
        values = classifier.decision_function(features)
        values = np.stack([-values, values], axis=1) if values.ndim == 1 else values  # Two genres have one value.
        values = scipy.special.softmax(values, axis=1)
    probabilities = np.zeros((len(features), genres))  # A genre without training clips has 0.
    probabilities[:, classifier.classes_] = values
    return probabilities


if __name__ == "__main__":
    runner.start(main, __doc__, network=False)
