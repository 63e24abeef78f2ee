"""Class thresholds of a model, and their checks."""

import dataclasses
import json

import pytest
from genrekeras.models import Thresholds


def test_class_thresholds_are_kept_in_json():
    thresholds = Thresholds(class_thresholds=(0.25, 1.0, 0.5))
    again = Thresholds(**json.loads(json.dumps(dataclasses.asdict(thresholds))))
    assert again == thresholds and again.class_thresholds == (0.25, 1.0, 0.5) and hash(again)


@pytest.mark.parametrize("values", [(), (0.0, 0.5), (0.5, 1.1), (0.5, float("nan")), (True, 0.5), ("0.5",), 0.5, "0.5"])
def test_invalid_class_thresholds(values):
    with pytest.raises(ValueError, match=r"`class_thresholds` must be None or numbers in \(0, 1\]"):
        Thresholds(class_thresholds=values)


def test_class_thresholds_fit_the_model():
    thresholds = Thresholds(class_thresholds=(0.25, 0.5))
    thresholds.check_labels(2, True)
    Thresholds().check_labels(3, True)
    Thresholds().check_labels(3, False)
    with pytest.raises(ValueError, match=r"a threshold for each of the 3 genres\. Received: 2 thresholds"):
        thresholds.check_labels(3, True)
    with pytest.raises(ValueError, match="must be None for a single-label model"):
        thresholds.check_labels(2, False)
