"""Contact sheets: rows that use the width, captions under the pictures that fit."""

import numpy as np
from PIL import Image
import pytest

from byoljax.report import fonts, sheet


def written(path, count, side, views, **rest):
  images = [np.full((side, side, 3), 10 * i, np.uint8) for i in range(count)]
  sheet.write(path, images, [images] * views, [f'view{i}' for i in range(views)], **rest)
  with Image.open(path) as picture:
    return np.asarray(picture)


def test_narrow_rows_stand_side_by_side(tmp_path):
  # Three columns of 96 are 312 wide: three blocks and the gaps between are 984.
  pixels = written(tmp_path / 'sheet.png', 8, 32, 2)
  assert pixels.shape[1] == 3 * 312 + 2 * 24
  assert pixels.shape[0] == 3 * (96 + 6) + 6 + 22, 'eight rows in three blocks'
  # The fourth image begins the second block, and stands in each of its columns.
  for column in range(3):
    x = 312 + 24 + 6 + column * 102 + 48
    assert (pixels[22 + 48, x] == 30).all()
  wide = written(tmp_path / 'wide.png', 2, 224, 4)
  assert wide.shape[1] == 5 * 230 + 6, 'a wide row stands alone'
  assert written(tmp_path / 'one.png', 1, 32, 1).shape[1] == 2 * 102 + 6


def test_what_is_too_long_loses_its_middle(tmp_path):
  font = fonts.sans(12)
  text = sheet.shortened('a_rather_long_name_of_a_file_0123.jpg', 96, font)
  assert (
    font.getlength(text) <= 96 and text.startswith('a_') and text.endswith('jpg') and '…' in text
  )
  assert sheet.shortened('short', 96, font) == 'short'
  captions = [['a_rather_long_name_of_a_file_0123.jpg'] * 2] * 2
  assert written(tmp_path / 'sheet.png', 2, 32, 1, captions=captions).shape[0] > 96


IMAGES = [np.zeros((8, 8, 3), np.uint8)] * 2
VIEWS = [[np.full((8, 8, 3), 0.5, np.float32)] * 2]


def drawn(path, **options):
  sheet.write(path, IMAGES, VIEWS, ['view1'], **options)
  with Image.open(path) as picture:
    return np.asarray(picture.convert('L'), int)


def test_captions_take_a_line_under_each_row(tmp_path):
  plain = drawn(tmp_path / 'plain.png')
  captioned = drawn(tmp_path / 'captioned.png', captions=[['', ''], ['label 0', 'label 13']])
  line = captioned.shape[0] - plain.shape[0]
  assert line > 8 and captioned.shape[1] == plain.shape[1] == 2 * 210 + 24
  below = captioned[22 + 96 : 22 + 96 + line]
  for left in (0, 210 + 24):  # the blocks of the two images
    assert below[:, left : left + 102].min() == 255, 'nothing under the first column'
    assert below[:, left + 108 : left + 204].min() < 128, 'a text under the second'


def test_captions_that_do_not_fit(tmp_path):
  with pytest.raises(ValueError, match='captions do not fit'):
    drawn(tmp_path / 'x.png', captions=[['', '']])


@pytest.mark.parametrize('letter', ['ö', 'o\u0308', 'ł', 'Щ', 'λ', '…'])
def test_letters_have_shapes_of_their_own(letter):
  """None is the box that stands for what a font does not know."""
  font = fonts.sans(12)
  box = bytes(font.getmask('\ue000'))
  assert bytes(font.getmask(fonts.composed(letter))) != box
  assert sheet.shortened(letter, 96, font) == fonts.composed(letter)


def test_a_legend_stands_below_in_as_many_lines_as_it_needs(tmp_path):
  plain = drawn(tmp_path / 'plain.png')
  red, blue = (200, 0, 0), (0, 0, 200)
  sheet.write(tmp_path / 'a.png', IMAGES, VIEWS, ['view1'], legend=[(red, 'cat'), (blue, 'dog')])
  pixels = np.asarray(Image.open(tmp_path / 'a.png'))
  below = pixels[len(plain) :]
  assert 12 < len(below) < 30
  for color in (red, blue):
    assert (below == color).all(-1).sum() == (pixels == color).all(-1).sum() == 13 * 13
  many = [(red, f'a class with a long name {number}') for number in range(9)]
  sheet.write(tmp_path / 'b.png', IMAGES, VIEWS, ['view1'], legend=many)
  high = np.asarray(Image.open(tmp_path / 'b.png'))
  assert high.shape[1] == plain.shape[1] and len(high) > len(pixels) + 20
  assert (high == red).all(-1).sum() == 9 * 13 * 13, 'none is cut off'
