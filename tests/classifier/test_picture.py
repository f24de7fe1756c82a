"""The picture of the confusion matrix: it is drawn for few and many labels, whatever they spell."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from assistant.classifier.picture import draw_confusion
from tests.classifier.test_report import HOSTILE, report


@pytest.mark.parametrize("labels", [("a", "b"), HOSTILE, tuple(f"topic {place}" for place in range(24))])
def test_a_picture_has_a_dark_diagonal(labels: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("picture") / "confusion.png"
    path.write_bytes(draw_confusion(report(labels, n=300, strength=6.0).scores))
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 300
    dark = (pixels[..., 2] > 0.3) & (pixels[..., 0] < 0.2)  # the dark blue of a full share
    assert 0.3 / len(labels) < dark.mean() * 2 < 1.0
    assert np.unique(pixels[..., 0]).size > 10
