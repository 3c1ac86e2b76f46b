"""What a label in a file means, and which number its class has."""

import pytest

from byoljax.data.sources.label_values import number_labels, read_label


@pytest.mark.parametrize(
  ('value', 'label'),
  [
    *[(value, None) for value in (None, '', ' ', -1, '-1', ' -1\n')],
    *[(value, 10) for value in (10, '10', ' 10 ', '0010')],
    *[(value, value) for value in ('cat', '1.0', '-', '1-2')],
  ],
)
def test_a_label_is_a_number_a_name_or_none(value, label):
  assert read_label(value, 'here') == label


@pytest.mark.parametrize(
  ('value', 'sentence'),
  [
    (-2, 'has the label -2, but classes are 0 to 999,999, and -1 is none: number them from 0'),
    ('-2', 'has the label -2'),
    (10**6, 'has the label 1000000'),
    ('9' * 5000, '^a.cls has the label 9{20}, but classes'),
    (['cat', 'dog'], r"has the label \['cat', 'dog'\]: an image has one label"),
    ({'x': 1}, 'an image has one label'),
  ],
)
def test_other_labels_are_refused(value, sentence):
  with pytest.raises(ValueError, match=sentence):
    read_label(value, 'a.cls')


def test_numbers_are_kept_and_names_are_sorted():
  labels = [0, None, 10, 2]
  assert number_labels(labels, 'x') == ([0, -1, 10, 2], tuple(map(str, range(11))))
  names = tuple('abcdefghijklm')
  assert number_labels(labels, 'x', names) == ([0, -1, 10, 2], names)
  assert number_labels(['b', None, 7, 'a'], 'x') == ([2, -1, 0, 1], ('7', 'a', 'b'))
  assert number_labels([None], 'x', names) == ([-1], ())


def test_identifiers_are_no_classes():
  with pytest.raises(ValueError, match='x: labels go up to 300,000, but only 2 different'):
    number_labels([300_000, 5], 'x')
  with pytest.raises(ValueError, match='x: labels go up to 300,000, but only 2 different'):
    number_labels([300_000, 5], 'x', ('a', 'b'))
