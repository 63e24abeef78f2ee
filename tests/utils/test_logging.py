"""Messages of TFDS are hidden without a change of the streams and loggers of the process."""

import logging
import sys
import threading

import genrekeras as gk
from absl import logging as absl_logging
from conftest import write_sine
from genrekeras.utils.logging import only_absl_errors


def test_building_a_dataset_prints_nothing(tmp_path, capfd):
    for genre, hz in (("a", 300), ("b", 500)):
        (tmp_path / "music" / genre).mkdir(parents=True)
        write_sine(tmp_path / "music" / genre / "1.wav", hz)
    gk.datasets.load_folder(tmp_path / "music", protocol="random", prepared_dir=tmp_path / "prepared")
    out, err = capfd.readouterr()
    assert out == "" and "configuration" not in err and "dataset_info" not in err


def test_overlapping_contexts_in_two_threads(caplog):
    """The second context starts before the first one ends, and ends after it."""
    stdout, level = sys.stdout, logging.getLogger("absl").level
    first, second = only_absl_errors(), only_absl_errors()
    begun, ended = threading.Event(), threading.Event()

    def other():
        with second:
            begun.set()
            ended.wait(10)
            absl_logging.warning("hidden")

    thread = threading.Thread(target=other)
    with caplog.at_level(logging.WARNING, "absl"):
        with first:
            thread.start()
            assert begun.wait(10) and sys.stdout is stdout
            absl_logging.warning("hidden")
            absl_logging.error("an error")
        absl_logging.warning("from the main thread, after its context")
        ended.set()
        thread.join()
    assert sys.stdout is stdout and logging.getLogger("absl").level == level
    assert caplog.messages == ["an error", "from the main thread, after its context"]
