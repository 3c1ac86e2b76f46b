"""Boxes drawn into images, whatever their size."""

import numpy as np
import pytest

from byoljax.report import boxes
from byoljax.report.boxes import Box


@pytest.mark.parametrize(
  'corners', [(0.5, 0.5, 0.505, 0.505), (0.2, 0.2, 0.2, 0.2), (1, 1, 1, 1), (0.5, 0.1, 0.501, 0.9)]
)
def test_boxes_narrower_than_a_pixel_are_drawn(corners):
  gray = np.full((100, 100, 3), 128, np.uint8)
  plain = boxes.drawn(gray, [], ['a'])
  assert (boxes.drawn(gray, [Box(corners, 0, 0.9)], ['a']) != plain).any()
