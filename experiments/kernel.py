"""How well do fixed statistics and a kernel tell genres, without a network and without epochs?

    python experiments/kernel.py                                           # a small synthetic corpus, no download
    python experiments/kernel.py --frames fma_small_frames.npz             # 128 spectra of each track
    python experiments/kernel.py --frames fma_small_frames.npz --protocol random
    python experiments/kernel.py --data-dir FMA                            # or one's own music: three crops of a clip

Means, percentiles, cepstra, covariances and correlations of the bands over time, and kernel ridge regression
(`genrekeras.kernel_machine`). The model that is saved hears waveforms, as all others do.

Expected: 101 seconds on a core on the spectra of fma_small, 58.2 % of its 800 validation tracks (of 1,442 under the
random protocol 64.6 %); 27 seconds on the synthetic corpus, start included, and 100 % of its 40 validation and of its
40 test clips, which says nothing about music.
"""

import common
import recipe
from genrekeras.files import whole_file


def main(run):
    model = recipe.fitted(run, recipe.training_images(run), run.class_weight(), run.flags.seed)
    with whole_file(run.model_file) as temporary:
        model.save(temporary)
    run.save_config(model=model.get_config(), method="kernel ridge regression")
    run.evaluate(**recipe.notes(run))


if __name__ == "__main__":
    common.start(main, __doc__, network=False, frames=True)
