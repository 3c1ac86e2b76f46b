"""Lists of image files: CSV, JSON and JSON lines give the same sets."""

import json

import numpy as np
from PIL import Image
import pytest

from byoljax.data.sources import datasets, label_table, listed
from byoljax.data.sources.source import NoSplitError

ROWS = [
  {'path': 'a/1.png', 'label': 'cat', 'split': 'train'},
  {'path': 'a/2.png', 'label': 'ant', 'split': ''},
  {'path': 'b/3.png', 'label': '', 'split': 'train'},
  {'path': 'b/4.png', 'label': 'cat', 'split': 'val'},
]


@pytest.fixture
def home(tmp_path):
  for number, row in enumerate(ROWS):
    path = tmp_path / row['path']
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
  text = 'path,label,split\n' + ''.join(','.join(row.values()) + '\n' for row in ROWS)
  (tmp_path / 'x.csv').write_text('\ufeff' + text)  # As spreadsheets save it.
  (tmp_path / 'x.json').write_text(json.dumps(ROWS))
  (tmp_path / 'x.jsonl').write_text('\n'.join(map(json.dumps, ROWS)) + '\n')
  (tmp_path / 'paths.json').write_text(json.dumps([row['path'] for row in ROWS]))
  return tmp_path


@pytest.mark.parametrize('name', ['x.csv', 'x.json', 'x.jsonl'])
def test_a_list_is_a_set(home, name):
  train, test = (datasets.load('list', s, data_dir=home / name) for s in ('pretrain', 'test'))
  assert (train.size, test.size, train.class_names) == (3, 1, ('ant', 'cat'))
  np.testing.assert_array_equal(train.labels, [1, 0, -1])
  np.testing.assert_array_equal(test.labels, [1])
  (files,) = train.read(np.array([2]), ('image',))
  assert files[0] == (home / 'b/3.png').read_bytes()
  assert train.locate(2) == str(home / 'b/3.png')


def test_paths_alone(home):
  found = listed.from_list(home / 'paths.json', 'train')
  assert found.size == 4 and found.num_classes == 0
  with pytest.raises(NoSplitError, match="names no test images: a column 'split'"):
    listed.from_list(home / 'paths.json', 'test')


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    ('id,label\na,b\n', 'no column path, file, .*: it has id, label'),
    ('path\n', 'names no image'),
    ('path,split\na.png,tets\n', "split 'tets' of a.png is none of train, test"),
    ('path\na.png\n', None),
  ],
)
def test_mistakes_are_named(tmp_path, text, sentence):
  path = tmp_path / 'x.csv'
  path.write_text(text)
  if sentence is None:
    assert listed.from_list(path, 'train').size == 1
    return
  with pytest.raises(ValueError, match=sentence):
    listed.from_list(path, 'train')


def test_a_path_with_a_null_byte_is_of_no_image(home):
  file = home / 'null.csv'
  file.write_text('path,label\na/1.png,cat\na/\0.png,ant\n')
  source = listed.from_list(file, 'train')
  whole, broken = source.read(np.arange(2), ('image',))[0]
  assert whole and broken == b''


@pytest.mark.parametrize('name', ['x.csv', 'x.json'])
def test_names_of_columns_in_any_case_and_those_that_are_not_read(tmp_path, name):
  path = tmp_path / name
  for column in ('Label', 'species'):
    rows = [{'Path': 'a.png', column: 'cat'}, {'Path': 'b.png', column: 'dog'}]
    table = f'Path,{column}\na.png,cat\nb.png,dog\n'
    path.write_text(table if name == 'x.csv' else json.dumps(rows))
    found = listed.from_list(path, 'train')
    known = column == 'Label'
    assert found.class_names == (('cat', 'dog') if known else ())
    assert [f'not read: {column.lower()}.' in note for note in found.notes] == [True] * (not known)


def test_other_files_are_no_lists(tmp_path):
  with pytest.raises(ValueError, match='cannot be read as a list of images'):
    listed.from_list(tmp_path / 'missing.csv', 'train')
  path = tmp_path / 'x.json'
  for text, sentence in (('{"a": 1}', 'holds no list'), ('[1]', 'every entry'), ('{', 'cannot be')):
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
      listed.from_list(path, 'train')


def test_labels_of_json_may_be_numbers(tmp_path):
  path = tmp_path / 'x.json'
  path.write_text(json.dumps([{'path': f'{n}.png', 'label': n} for n in (0, 1, None)]))
  found = listed.from_list(path, 'train')
  assert found.class_names == ('0', '1')
  np.testing.assert_array_equal(found.labels, [0, 1, -1])


def test_numbers_in_a_list_are_those_of_the_classes(tmp_path):
  path = tmp_path / 'x.csv'
  path.write_text('path,label\n' + ''.join(f'{n}.png,{n}\n' for n in (0, 10, 2, -1)))
  found = listed.from_list(path, 'train')
  np.testing.assert_array_equal(found.labels, [0, 10, 2, -1])
  assert found.num_classes == 11 and found.class_names[10] == '10'


def test_several_labels_in_a_list_are_refused(tmp_path):
  path = tmp_path / 'x.json'
  path.write_text(json.dumps([{'path': 'a.png', 'label': ['cat', 'dog']}]))
  with pytest.raises(ValueError, match=r"x.json: 'a.png' has the label \['cat', 'dog'\]"):
    listed.from_list(path, 'train')


@pytest.mark.parametrize(
  ('labels', 'sentence'),
  [
    ([-3, 0], 'holds -3'),
    ([0, 10**8], 'at most 1,000,000'),
    ([0, 300_000], 'labels go up to 300,000'),
    ([0.5, 1.0], 'must be whole numbers'),
    ([0], '1 labels for 2 images'),
    ([[0, 1], [2, 0]], 'are 1, 0 or -1'),
  ],
)
def test_labels_of_files_are_classes(labels, sentence):
  with pytest.raises(ValueError, match=sentence):
    listed.from_files(['a.png', 'b.png'], labels)


@pytest.mark.parametrize('mark', [',', ';', '\t'])
def test_columns_and_separators_are_those_of_tables_of_labels(tmp_path, mark):
  """One file does for a list and for `byoljax classify --labels`."""
  path = tmp_path / 'x.csv'
  path.write_text(f'file_name{mark}category\n\na.png{mark}cat\n"b, c.png"{mark}dog\n')
  found = listed.from_list(path, 'train')
  assert found.class_names == ('cat', 'dog') and found.size == 2
  assert found.locate(1) == str(tmp_path / 'b, c.png')
  assert label_table.read_labels(path) == {'a.png': 'cat', 'b, c.png': 'dog'}
