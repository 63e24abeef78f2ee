"""TFDS builder of FMA: `tfds.builder("fma/small")`."""

import pandas as pd
import tensorflow_datasets as tfds
from genrekeras.datasets.fma.metadata import SUBSETS, find_tracks
from genrekeras.datasets.store import Store, StoreConfig
from genrekeras.utils.io import StrPath


class Fma(Store):
    """TFDS dataset of the clips of FMA.

    See `genrekeras.datasets.store.Store` for the features of an example.

    ```python
    import genrekeras.datasets  # registers the dataset
    import tensorflow_datasets as tfds

    builder = tfds.builder("fma/small")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir="FOLDER"))
    source = builder.as_data_source(split="train")
    ```

    `tfds.load` needs TensorFlow and the argument `builder_kwargs={"file_format": "tfrecord"}`.
    """

    BUILDER_CONFIGS = tuple(
        StoreConfig(name=subset, description=f"fma_{subset} at 22,050 Hz", sample_rate=22050, genres=genres)
        for subset, genres in SUBSETS.items()
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "`manual_dir` must be a folder that contains the metadata and the clips of FMA. "
        "`genrekeras fma download FOLDER` downloads both."
    )
    DESCRIPTION = "FMA, a dataset for music analysis: clips of 30 s with genres. The artists chose the licences."
    HOMEPAGE = "https://github.com/mdeff/fma"
    CITATION = """@inproceedings{fma_dataset,
      title = {{FMA}: A Dataset for Music Analysis},
      author = {Defferrard, Micha\\"el and Benzi, Kirell and Vandergheynst, Pierre and Bresson, Xavier},
      booktitle = {18th International Society for Music Information Retrieval Conference (ISMIR)},
      year = {2017},
    }"""

    def find_tracks(self, manual_dir: StrPath) -> pd.DataFrame:
        """Return the table of tracks in a folder of FMA."""
        subset = self.builder_config.name
        if subset not in SUBSETS:
            raise tfds.core.DatasetNotFoundError(f"`tracks` must be given for the config {subset!r}.")
        return find_tracks(manual_dir, subset, self.builder_config.genres)
