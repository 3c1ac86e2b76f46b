"""The contact sheet: captions stand under the pictures, and must fit."""

import numpy as np
from PIL import Image
import pytest

from byoljax.report import sheet

IMAGES = [np.zeros((8, 8, 3), np.uint8)] * 2
VIEWS = [[np.full((8, 8, 3), 0.5, np.float32)] * 2]


def drawn(path, **options):
  sheet.write(path, IMAGES, VIEWS, ['view1'], **options)
  with Image.open(path) as picture:
    return np.asarray(picture.convert('L'), int)


def test_captions_take_a_line_under_each_row(tmp_path):
  plain = drawn(tmp_path / 'plain.png')
  captioned = drawn(tmp_path / 'captioned.png', captions=[['', ''], ['label 0', 'label 13']])
  line = (captioned.shape[0] - plain.shape[0]) // 2
  assert line > 8 and captioned.shape[1] == plain.shape[1]
  side = (plain.shape[1] - 18) // 2
  below = captioned[22 + side : 22 + side + line]
  assert below[:, : side + 6].min() == 255, 'nothing under the first column'
  assert below[:, side + 12 :].min() < 128, 'a text under the second'


def test_captions_that_do_not_fit(tmp_path):
  with pytest.raises(ValueError, match='captions do not fit'):
    drawn(tmp_path / 'x.png', captions=[['', '']])
