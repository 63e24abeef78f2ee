"""How good is a support vector machine on statistics of MFCCs? The baseline that FMA came with: 46.4 % on fma_small's
official test.

    python experiments/mfcc_svm.py                      # a small synthetic corpus, no download
    python experiments/mfcc_svm.py --data-dir FMA       # fma_small

20 MFCCs of the whole clip, seven statistics of each over time (mean, deviation, skew, kurtosis, median, minimum,
maximum), standardized, an RBF kernel.
Probabilities are a softmax of the decision values: they order the genres and are not calibrated.

Source: Defferrard et al., "FMA: A Dataset For Music Analysis", ISMIR 2017.

Expected: 10 seconds on the synthetic corpus, 100 % of its 40 validation clips, which says nothing about music.
On fma_small: not measured yet.
"""

import process_settings  # noqa: F401

import librosa
import numpy as np
import scipy.special
import scipy.stats
import tqdm
from genrekeras.evaluation import Report
from genrekeras.runs import runner
from sklearn import pipeline, preprocessing, svm


def mfcc_statistics(split):
    """`(clips, 140)` float32."""
    rows = []
    for clip in tqdm.tqdm(split, desc=f"MFCCs of {split.name}", unit="clip"):
        mfcc = librosa.feature.mfcc(y=clip["audio"], sr=split.sample_rate, n_mfcc=20)  # (20, frames)
        statistics = (
            mfcc.mean(axis=1),
            mfcc.std(axis=1),
            scipy.stats.skew(mfcc, axis=1),
            scipy.stats.kurtosis(mfcc, axis=1),
            np.median(mfcc, axis=1),
            mfcc.min(axis=1),
            mfcc.max(axis=1),
        )
        rows.append(np.nan_to_num(np.concatenate(statistics)))  # silence has no skew
    return np.asarray(rows, "float32")


def main(run):
    vectors = svm.SVC(kernel="rbf", C=1.0, break_ties=True, class_weight=run.class_weight())
    machine = pipeline.make_pipeline(preprocessing.StandardScaler(), vectors)
    run.save_config(machine=str(machine))
    machine.fit(mfcc_statistics(run.data.train), run.data.train.labels)
    run.save_reports({split.name: score(machine, split) for split in run.splits_to_score()})


def score(machine, split):
    """The `Report` of a split."""
    values = machine.decision_function(mfcc_statistics(split))
    values = np.stack([-values, values], axis=1) if values.ndim == 1 else values  # of two genres
    probabilities = np.zeros((len(split), len(split.genres)))  # a genre without a training clip gets 0
    probabilities[:, machine.classes_] = scipy.special.softmax(values, axis=1)
    return Report(split.genres, split.name, split.protocol, split.track_ids, split.labels, probabilities, "whole clip")


if __name__ == "__main__":
    runner.start(main, __doc__, network=False)
