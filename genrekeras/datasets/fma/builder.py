"""The TFDS builder: clips decoded once, stored as int16 at one sample rate, read at random without TensorFlow."""

import collections
import concurrent.futures
import dataclasses
import os

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from genrekeras import audio

# A clip that is shorter than this says nothing about its genre; FMA's three clips that are cut short have 0.5 to 1.6 s.
MIN_SECONDS = 2.0


@dataclasses.dataclass(eq=False)
class FmaConfig(tfds.core.BuilderConfig):
    """What a stored dataset depends on besides its clips.

    Attributes:
        sample_rate: int, in Hz.
        genres: tuple of str, in the order of their labels.
    """

    sample_rate: int = 22050
    genres: tuple = ()


class Fma(tfds.core.GeneratorBasedBuilder):
    """Clips and labels of a table from `find_tracks`.

    An example is `audio`, `(samples,)` int16, the whole clip, mono; `scale`, float32, what 32,767 stands for (1, or the
    peak of a clip that overshoots 1); `genre`, the label; `track_id`. Examples are stored in the order of their ids.
    Which clips were left out and why, and the ids and labels of all that are stored, stand in `info.metadata`.
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = None

    def __init__(self, *, tracks=None, **kwargs):
        self._tracks = tracks
        self._progress = None
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clips of music with their genre.",
            features=tfds.features.FeaturesDict(
                {
                    "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
                    "scale": tfds.features.Scalar(dtype=np.float32),
                    "genre": tfds.features.ClassLabel(names=list(self.builder_config.genres)),
                    "track_id": tfds.features.Scalar(dtype=np.int64),
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        tracks = self._tracks[self._tracks["bytes"] >= 0]
        splits = tracks["split"] if "split" in tracks else np.full(len(tracks), "train")
        self.info.metadata.update(
            tracks=len(self._tracks),
            missing=[int(track_id) for track_id in self._tracks.index[self._tracks["bytes"] < 0]],
            broken={},
            stored={},
            has_splits="split" in tracks,
        )
        readable = {}
        for split in ("train", "validation", "test"):
            members = tracks[splits == split]
            if self._has_readable(members):  # TFDS cannot store a split without examples
                readable[split] = members
        if not readable:
            first = next(iter(self.info.metadata["broken"].items()))
            raise ValueError(f"None of the {len(tracks)} clips can be read. The first, track {first[0]}: {first[1]}")
        total = sum(map(len, readable.values()))
        self._progress = tqdm.tqdm(total=total, desc="Decoding clips", unit="clip", smoothing=0.05)
        return {split: self._generate_examples(split, members) for split, members in readable.items()}

    def close_progress(self):
        """End the line of the progress bar, also after an error."""
        if self._progress is not None:
            self._progress.close()

    def _has_readable(self, tracks):
        """Whether any clip can be read; those before it are noted as broken."""
        for track_id, _, clip in self._decoded(tracks):
            if not isinstance(clip, audio.AudioError):
                return True
            self.info.metadata["broken"][str(track_id)] = clip.reason
        return False

    def _generate_examples(self, split, tracks):
        stored = self.info.metadata["stored"][split] = {"track_ids": [], "labels": []}
        for track_id, genre, clip in self._decoded(tracks):
            self._progress.update()
            if isinstance(clip, audio.AudioError):
                self.info.metadata["broken"][str(track_id)] = clip.reason
                continue
            stored["track_ids"].append(track_id)
            stored["labels"].append(self.builder_config.genres.index(genre))
            scale = max(1.0, float(np.abs(clip).max()))
            yield (
                track_id,
                {
                    "audio": np.rint(clip * (32767.0 / scale)).astype("int16"),
                    "scale": np.float32(scale),
                    "genre": genre,
                    "track_id": track_id,
                },
            )

    def _decoded(self, tracks):
        """(track id, genre, waveform or AudioError) in the order of `tracks`; threads decode, a few clips ahead."""
        rows = zip(tracks.index, tracks["genre"], tracks["path"], strict=True)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting = collections.deque()
            for track_id, genre, path in rows:
                waiting.append((int(track_id), genre, pool.submit(_decode, path, self.builder_config.sample_rate)))
                if len(waiting) > 2 * os.cpu_count():
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())


def _result(track_id, genre, future):
    return track_id, genre, future.result()


def _decode(path, sample_rate):
    try:
        clip = audio.load(path, sample_rate)
        if len(clip) < MIN_SECONDS * sample_rate:
            raise audio.AudioError(path, f"cut short: {len(clip) / sample_rate:.1f} s")
    except audio.AudioError as error:
        return error
    return clip
