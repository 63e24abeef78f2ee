"""Generate a small synthetic corpus in the layout of FMA, for examples and tests without a download.

The sounds are synthesized from a fixed seed. The eight "genres" differ in rhythm, timbre, harmony and noise. The clips
of a genre differ in key, tempo, level and background noise. The corpus can show that a pipeline works. A score on this
corpus has no meaning for music.

The corpus has 208 clips of 4 s. Each genre has 16 training, 5 validation and 5 test clips. The clips are mp3 files at
44,100 Hz, and a third of them are stereo. Two more training clips are broken, as in FMA: one contains no audio, and the
other is cut short.
"""

import concurrent.futures
import csv
import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import Literal

import numpy as np
import soundfile
from genrekeras.datasets.fma.load import load_tracks
from genrekeras.datasets.splits import Dataset, Split
from genrekeras.datasets.store import Store
from genrekeras.genres import GENRES
from genrekeras.utils import io
from genrekeras.utils.io import StrPath
from genrekeras.utils.progress import bar

SYNTHETIC_GENRES = (
    "Synthetic Pulse",
    "Synthetic Break",
    "Synthetic Strum",
    "Synthetic Fuzz",
    "Synthetic Bells",
    "Synthetic Voice",
    "Synthetic Drone",
    "Synthetic Static",
)
VERSION = 2  # version of the corpus, which the name of its folder contains
SEED = 1
CLIPS = {"training": 16, "validation": 5, "test": 5}  # number of clips per genre
SECONDS = 4.0  # length of a clip
RATE = 44100  # sample rate, in Hz


def load_synthetic(
    protocol: Literal["official", "random", "artist_album"] = "official",
    sample_rate: int = 22050,
    seed: int = 0,
    cache_dir: StrPath | None = None,
) -> Dataset[Split]:
    """Load the synthetic corpus. The first call generates the corpus.

    Args:
        protocol: see `load_fma`.
        sample_rate: see `load_fma`.
        seed: see `load_fma`.
        cache_dir: folder in which the corpus is stored. `None` is `genrekeras.utils.io.cache_dir()`.

    Returns:
        A dataset with the name "synthetic".
    """
    data_dir = os.path.join(cache_dir or io.cache_dir(), f"synthetic-{VERSION}")
    if not os.path.isdir(data_dir):
        make_synthetic(data_dir)
    return load_tracks(Synthetic, "synthetic", data_dir, "small", SYNTHETIC_GENRES, protocol, sample_rate, seed)


class Synthetic(Store):
    """TFDS dataset of the synthetic corpus."""

    DESCRIPTION = "Synthetic sounds of eight artificial genres, for tests of a pipeline."


def make_synthetic(data_dir: StrPath) -> None:
    """Write the corpus to a new folder. After an error or an interruption, the folder does not exist.

    Args:
        data_dir: the new folder. Missing parent folders are created. An existing folder is not changed.

    Raises:
        OSError: the folder cannot be written.
    """
    parent = os.path.dirname(os.path.abspath(data_dir))
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=io.TEMPORARY, dir=parent)
    try:
        rows = list(_rows())
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            clips = pool.map(lambda row: _write_clip(temporary, *row), rows)
            for _ in bar(len(rows), "Generating the synthetic corpus", "clip", iterable=clips):
                pass
        table = ((track_id, SYNTHETIC_GENRES[genre], split, track_id, track_id) for track_id, genre, split, _ in rows)
        write_tracks(os.path.join(temporary, "fma_metadata"), table)
        try:
            os.rename(temporary, data_dir)
        except OSError:
            if not os.path.isdir(data_dir):  # if the folder exists, another process has written the corpus
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_many(data_dir: StrPath, count: int, seconds: int, sounds: int = 16) -> None:
    """Write many clips in the layout of FMA, for benchmarks.

    90 % of the clips are training clips, 10 % are validation clips.

    Args:
        data_dir: an existing folder.
        count: `> 0`, number of clips.
        seconds: `> 0`, length of a clip.
        sounds: `> 0`, number of different sounds. The clips are copies of these sounds, because it would take long to
            encode each clip.
    """
    rng, files = np.random.default_rng(0), []
    time = np.arange(seconds * RATE)
    path = os.path.join(data_dir, "sound.mp3")
    for _ in range(sounds):
        tones = 0.03 * sum(np.sin(time * hz) for hz in rng.uniform(0.01, 1.0, 20))
        stereo = tones[:, None] + 0.01 * rng.standard_normal((len(time), 2))
        soundfile.write(path, stereo, RATE, format="MP3", subtype="MPEG_LAYER_III")
        with open(path, "rb") as file:
            files.append(file.read())
    os.remove(path)
    splits = ["validation", *["training"] * 9]
    rows = [(track_id, GENRES[track_id % 8], splits[track_id % 10], track_id, track_id) for track_id in range(count)]
    write_tracks(os.path.join(data_dir, "fma_metadata"), rows)
    for track_id in range(count):
        path = _clip_path(data_dir, track_id)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(files[track_id % sounds])


def _clip_path(data_dir, track_id):
    return os.path.join(data_dir, "fma_small", f"{track_id // 1000:03d}", f"{track_id:06d}.mp3")


def _rows():
    """Yield the track id, genre, split and defect (or `None`) of each file.

    The track ids belong to several folders 000, 001, ... of FMA.
    """
    track_id = 2
    for split, clips in CLIPS.items():
        for _ in range(clips):
            for genre in range(len(SYNTHETIC_GENRES)):
                yield track_id, genre, split, None
                track_id += 37
        if split == "training":
            yield track_id, 0, split, "no audio"
            yield track_id + 1, 1, split, "cut short"
            track_id += 37


def write_tracks(folder: StrPath, rows: Iterable[tuple[int, str, str, int, int]]) -> None:
    """Write a table in the format of FMA's tracks.csv.

    Args:
        folder: folder of tracks.csv. It is created if it does not exist.
        rows: tuples (track id, genre, split, artist id, album id). The split is "training", "validation" or "test".
    """
    columns = (
        ("set", "split"),
        ("set", "subset"),
        ("track", "genre_top"),
        ("track", "title"),
        ("track", "license"),
        ("artist", "id"),
        ("artist", "name"),
        ("album", "id"),
        ("album", "title"),
    )
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "tracks.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", *(group for group, _ in columns)])
        writer.writerow(["", *(field for _, field in columns)])
        writer.writerow(["track_id", *("" for _ in columns)])
        for track_id, genre, split, artist, album in rows:
            names = f"Synthetic clip {track_id}", "CC0", artist, f"Artist {artist}", album, f"Album {album}"
            writer.writerow([track_id, split, "small", genre, *names])


def _write_clip(data_dir, track_id, genre, split, defect):
    """Write the mp3 file of a row from `_rows`."""
    path = _clip_path(data_dir, track_id)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if defect == "no audio":
        open(path, "wb").close()
        return
    clip = make_clip(genre, track_id)
    if defect == "cut short":
        clip = clip[: RATE // 2]
    if track_id % 3 == 0:
        clip = np.stack([clip, 0.8 * clip], axis=1)
    soundfile.write(path, clip, RATE, format="MP3", subtype="MPEG_LAYER_III")


def make_clip(genre: int, seed: int) -> np.ndarray:
    """Synthesize a clip.

    Args:
        genre: index in `SYNTHETIC_GENRES`.
        seed: `>= 0`. Clips of different seeds differ.

    Returns:
        `(RATE * SECONDS,)` float64 array. The peak is between 0.2 and 0.9 before noise is added.
    """
    rng = np.random.default_rng([SEED, seed])
    clip = _GENERATORS[genre](rng)
    clip = clip / np.abs(clip).max() * rng.uniform(0.2, 0.9)
    return clip + 10 ** rng.uniform(-3.5, -2.0) * np.abs(clip).max() * rng.standard_normal(len(clip))


_TIME = np.arange(int(RATE * SECONDS)) / RATE
# Chords and a scale, in semitones above the root.
_MAJOR, _MINOR, _POWER = (0, 4, 7), (0, 3, 7), (0, 7, 12)
_PENTATONIC = (0, 2, 4, 7, 9, 12, 14, 16)


def _pulse(rng):
    """Return a kick on each beat, a hi-hat between beats and a sawtooth bass in eighths."""
    beat = 60 / rng.uniform(118, 140)
    root = _hz(rng.integers(28, 40))
    clip = _hits(np.arange(0, SECONDS, beat), _kick(rng))
    clip += 0.4 * _hits(np.arange(beat / 2, SECONDS, beat), _noise_hit(rng, 0.03, 7000))
    notes = [(t, root * rng.choice([1, 1, 1.5, 2])) for t in np.arange(beat / 4, SECONDS, beat / 2)]
    return clip + 0.4 * _notes(notes, lambda hz, t: _harmonics(hz, t, 12, 1.0) * np.exp(-t * 8), 0.25)


def _break(rng):
    """Return a slow breakbeat with a snare and a sustained low bass."""
    beat = 60 / rng.uniform(76, 98)
    bars = np.arange(0, SECONDS, 4 * beat)[:, None]
    clip = _hits((bars + beat * np.array([0, 1.75, 2.5])).ravel(), _kick(rng))
    clip += 0.9 * _hits((bars + beat * np.array([1, 3])).ravel(), _noise_hit(rng, 0.12, 1500))
    sixteenths = np.arange(0, SECONDS, beat / 4)
    clip += 0.25 * _hits(sixteenths[rng.random(len(sixteenths)) < 0.8], _noise_hit(rng, 0.02, 8000))
    root = _hz(rng.integers(24, 33))
    notes = [(t, root * 2 ** (rng.choice([0, 3, 5]) / 12)) for t in np.arange(0, SECONDS, 2 * beat)]
    return clip + 0.8 * _notes(notes, lambda hz, t: np.sin(2 * np.pi * hz * t) * np.exp(-t * 1.2), 1.2)


def _strum(rng):
    """Return plucked major chords without drums. The notes of a chord start one after the other."""
    beat = 60 / rng.uniform(90, 130)
    key = rng.integers(48, 60)
    notes = []
    for t in np.arange(0, SECONDS, beat):
        chord = key + rng.choice([0, 5, 7])
        notes += [(t + 0.02 * i, _hz(chord + step)) for i, step in enumerate((*_MAJOR, 12))]
    return _notes(notes, lambda hz, t: _harmonics(hz, t, 10, 1.5) * np.exp(-t * 4), 1.0)


def _fuzz(rng):
    """Return sustained distorted power chords with a straight backbeat."""
    beat = 60 / rng.uniform(110, 170)
    key = rng.integers(36, 46)
    notes = []
    for t in np.arange(0, SECONDS, 2 * beat):
        chord = key + rng.choice([0, 3, 5, 7])
        notes += [(t, _hz(chord + step)) for step in _POWER]
    guitar = np.tanh(6 * _notes(notes, lambda hz, t: _harmonics(hz, t, 8, 1.0), 2 * beat))
    clip = 0.7 * guitar + _hits(np.arange(0, SECONDS, 2 * beat), _kick(rng))
    return clip + 0.8 * _hits(np.arange(beat, SECONDS, 2 * beat), _noise_hit(rng, 0.15, 1000))


def _bells(rng):
    """Return inharmonic bells in a pentatonic scale at random times."""
    key = rng.integers(64, 76)
    times = np.cumsum(rng.exponential(0.22, 40))
    notes = [(t, _hz(key + rng.choice(_PENTATONIC))) for t in times if t < SECONDS]
    ratio = rng.uniform(1.35, 1.45)

    def bell(hz, t):
        return np.sin(2 * np.pi * hz * t + 2.5 * np.exp(-t * 5) * np.sin(2 * np.pi * hz * ratio * t)) * np.exp(-t * 3)

    return _notes([*notes, (0.0, _hz(key))], bell, 1.5)


def _voice(rng):
    """Return a gliding voice with vibrato and formants over soft minor chords."""
    key = rng.integers(52, 62)
    steps = np.repeat(rng.choice([0, 2, 3, 5, 7, 8, 10, 12], 10), len(_TIME) // 10 + 1)[: len(_TIME)]
    glide = _moving_average(steps, 4411)
    hz = _hz(key + glide + 0.4 * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * _TIME))
    phase = 2 * np.pi * np.cumsum(hz) / RATE
    formants = rng.uniform(400, 900), rng.uniform(1100, 2400)
    voice = sum(
        np.sin(k * phase) / k * sum(np.exp(-(((k * hz - formant) / 250) ** 2)) for formant in formants)
        for k in range(1, 16)
    )
    chords = [(0.0, _hz(key - 12 + step)) for step in _MINOR] + [(2.0, _hz(key - 7 + step)) for step in _MINOR]
    return voice + 0.1 * _notes(chords, lambda hz, t: _harmonics(hz, t, 3, 2.0), 2.0)


def _drone(rng):
    """Return low tones that beat against each other and swell slowly."""
    root = _hz(rng.integers(26, 40))
    clip = np.zeros(len(_TIME))
    for ratio in (1, 1.5, 2, 3, 4, rng.choice([5, 6])):
        swell = 1 + np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * _TIME + rng.uniform(0, 6))
        clip += swell * np.sin(2 * np.pi * root * ratio * rng.uniform(0.995, 1.005) * _TIME) / ratio**0.7
    return clip


def _static(rng):
    """Return clicks and bursts of coloured noise. The bursts have random lengths."""
    clip = np.zeros(len(_TIME))
    for _ in range(rng.integers(6, 14)):
        start, length = rng.integers(0, len(_TIME) - RATE // 10), rng.integers(RATE // 20, RATE)
        burst = _band(rng.standard_normal(length), rng.uniform(200, 5000))[: len(_TIME) - start]
        clip[start : start + len(burst)] += rng.uniform(0.2, 1) * burst
    clip[rng.integers(0, len(clip), 60)] += rng.uniform(-3, 3, 60)
    return clip


_GENERATORS = (_pulse, _break, _strum, _fuzz, _bells, _voice, _drone, _static)


def _moving_average(steps, width):
    """Return the mean of integers over a centred window of an odd width; values at the ends are repeated."""
    sums = np.cumsum(np.pad(steps, (width // 2 + 1, width // 2), mode="edge"))
    return (sums[width:] - sums[:-width]) / width


def _hz(midi):
    """Return the frequency of a MIDI note number in Hz."""
    return 440.0 * 2.0 ** ((midi - 69) / 12)


def _harmonics(hz, t, count, slope):
    """Return a tone of at most `count` harmonics below the Nyquist frequency.

    Harmonic k has the amplitude `k**-slope`.
    """
    count = max(1, min(count, int(RATE / 2.2 / hz)))
    return sum(np.sin(2 * np.pi * hz * k * t) / k**slope for k in range(1, count + 1))


def _kick(rng):
    t = _TIME[: RATE // 5]
    return np.sin(2 * np.pi * (rng.uniform(40, 60) * t + 4 * (1 - np.exp(-t * 30)))) * np.exp(-t * 18)


def _noise_hit(rng, seconds, hz):
    t = _TIME[: int(6 * seconds * RATE)]
    return _band(rng.standard_normal(len(t)), hz) * np.exp(-t / seconds)


def _band(noise, hz):
    """Filter noise to a band that extends about an octave to each side of a frequency in Hz."""
    spectrum = np.fft.rfft(noise)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(noise), 1 / RATE), 1.0) / hz)
    band = np.fft.irfft(spectrum * np.exp(-(octaves**2)), len(noise))
    return band / np.abs(band).max()


def _hits(times, sound):
    """Return a clip in which a sound starts at each of the given times, in seconds."""
    clip = np.zeros(len(_TIME))
    for time in times:
        _add(clip, time, sound)
    return clip


def _notes(notes, sound, seconds):
    """Return a clip of notes.

    Args:
        notes: list of tuples (start time in seconds, frequency in Hz).
        sound: callable, (frequency, times in seconds) -> waveform of a note.
        seconds: float, length of a note.
    """
    clip = np.zeros(len(_TIME))
    t = _TIME[: int(seconds * RATE)]
    fade = np.minimum(1, np.minimum(t / 0.005, (seconds - t) / 0.02))  # prevents clicks at both ends of a note
    sounds = {hz: sound(hz, t) * fade for hz in {hz for _, hz in notes}}
    for time, hz in notes:
        _add(clip, time, sounds[hz])
    return clip


def _add(clip, time, sound):
    start = int(time * RATE)
    if start < len(clip):
        sound = sound[: len(clip) - start]
        clip[start : start + len(sound)] += sound
