"""Predictions as a table, a summary and a page: no image is lost, and nothing is executed."""

import csv

import numpy as np
import pytest

from byoljax.report import prediction_page, predictions

CLASSES = ('cat', 'dog', 'f<o>x', 'a', 'b', 'c')
CHANCES = np.array([[0.1, 0.6, 0.3, 0, 0, 0], [0.9, 0.05, 0.05, 0, 0, 0], [0.4, 0.4, 0.2, 0, 0, 0]])
NAMES = ['/photos/x.jpg', '/photos/deep/<y>.jpg', '/photos/broken.jpg', '/photos/z.jpg']


def made(**options):
  reasons = {'/photos/broken.jpg': 'truncated'}
  return predictions.answers(
    np.array([0, 1, 3]), CHANCES, CLASSES, NAMES.__getitem__, size=4, reasons=reasons, **options
  )


def test_every_image_has_a_line(tmp_path):
  predictions.write_csv(tmp_path / 'p.csv', made(abstain=0.5), '/photos')
  with (tmp_path / 'p.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['file'] for row in rows] == ['x.jpg', 'deep/<y>.jpg', 'broken.jpg', 'z.jpg']
  assert [row['class'] for row in rows] == ['dog', 'cat', '', '']
  assert [row['note'] for row in rows] == ['', '', 'unreadable: truncated', 'abstained']
  assert (rows[0]['probability'], rows[0]['top2'], rows[0]['p2']) == ('0.6000', 'f<o>x', '0.3000')
  assert rows[3]['top1'] == 'cat', 'of equal ones the first'
  assert 'top5' in rows[0] and 'top6' not in rows[0]
  assert rows[2]['probability'] == rows[2]['top1'] == ''
  assert not list(tmp_path.glob('*.tmp'))


def test_summary():
  text = predictions.summary(made(abstain=0.5), CLASSES)
  dog, silent = text.splitlines()[-2:]
  assert silent == '1 of 4 images: no class is probable enough to be named'
  assert 'dog' in dog and '60.0%' in dog
  assert len(predictions.unreadable(made())) == 1
  assert predictions.summary(predictions.unreadable(made()), CLASSES) == ''


def test_names_of_bytes_that_are_no_text(tmp_path):
  name = b'\xff.jpg'.decode('utf-8', 'surrogateescape')
  one = predictions.answers(np.array([0]), CHANCES[:1], CLASSES, lambda _: name, size=1, reasons={})
  predictions.write_csv(tmp_path / 'p.csv', one)
  assert '\ufffd.jpg,dog' in (tmp_path / 'p.csv').read_text()


def test_the_page():
  answers = made(abstain=0.5, truth=np.array([0, 0, -1, -1]))
  shown = prediction_page.chosen(answers)
  assert [each.row for each in shown] == [0, 3, 1], 'the mistake, then the least sure'
  images = {each.row: np.full((8, 8, 3), 100, np.uint8) for each in shown}
  text = prediction_page.render(
    'A <title>', answers, shown, images, facts={'images': '4'}, root='/photos'
  )
  assert text.count('<figure') == 3 and text.count('class="answer wrong"') == 1
  assert 'f&lt;o&gt;x' in text and '<o>' not in text and '<title>A &lt;title&gt;' in text
  assert 'deep/&lt;y&gt;.jpg' in text and 'broken.jpg: unreadable: truncated' in text
  assert 'src="http' not in text and '@import' not in text and 'url(http' not in text
  assert 'prefers-color-scheme:dark' in text and 'width=device-width' in text
  assert 'Most confident mistakes first' in text and 'data-sort="1">' in text


@pytest.mark.parametrize('most', [2, 3, 5])
def test_of_many_images_the_least_and_the_most_sure(most):
  chances = np.linspace(0.5, 0.99, 9)
  both = np.stack([chances, 1 - chances], 1)
  every = predictions.answers(np.arange(9), both, ('a', 'b'), str, size=9, reasons={})
  rows = [each.row for each in prediction_page.chosen(every, most)]
  assert len(rows) == most and rows == sorted(rows) and rows[0] == 0 and rows[-1] == 8
  images = {row: np.zeros((8, 8, 3), np.uint8) for row in rows}
  shown = [each for each in every if each.row in images]
  text = prediction_page.render('page', every, shown, images, facts={})
  assert 'Least confident first. ' in text and f'{most} of 9 images: the first, and' in text
  assert 'data-sort="1" aria-pressed="true">' in text


def test_the_surest_of_every_class_are_shown():
  """Six sure ones of one class do not hide the two less sure ones of the other."""
  chances = np.array([0.5, 0.51, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.4, 0.3])
  both = np.stack([chances, 1 - chances], 1)
  every = predictions.answers(np.arange(10), both, ('a', 'b'), str, size=10, reasons={})
  rows = [each.row for each in prediction_page.chosen(every, 6)]
  assert rows[:3] == [0, 1, 8] and rows[3:] == [9, 6, 7]
