"""How well do fixed statistics and a kernel tell genres, without a network and without epochs?

    python experiments/ablations/kernel_ridge.py                                           # a small synthetic corpus, no download
    python experiments/ablations/kernel_ridge.py --spectrograms fma_small_frames.npz             # 128 spectra of each track
    python experiments/ablations/kernel_ridge.py --spectrograms fma_small_frames.npz --protocol random
    python experiments/ablations/kernel_ridge.py --data-dir FMA                            # or one's own music: three crops of a clip

Means, percentiles, cepstra, covariances and correlations of the bands over time, and kernel ridge regression
(`genrekeras.training.kernel_ridge`). The model that is saved hears waveforms, as all others do.

Expected: 101 seconds on a core on the spectra of fma_small, 58.2 % of its 800 validation tracks (of 1,442 under the
random protocol 64.6 %); 27 seconds on the synthetic corpus, start included, and 100 % of its 40 validation and of its
40 test clips, which says nothing about music.
"""

from genrekeras.runs import recipe, runner
from genrekeras.utils.io import atomic_write


def main(run):
    model = recipe.fitted(run, recipe.training_images(run), run.class_weight(), run.flags.seed)
    with atomic_write(run.model_file) as temporary:
        model.save(temporary)
    run.save_config(model=model.get_config(), method="kernel ridge regression")
    run.evaluate(**recipe.notes(run))


if __name__ == "__main__":
    runner.start(main, __doc__, network=False, spectrograms=True)
