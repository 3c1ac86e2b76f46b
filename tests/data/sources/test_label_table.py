"""Tables of labels: how files may be named, and what is refused."""

import pytest

from byoljax.data.sources import label_table

FILES = ['a.jpg', 'deep/b.jpg', 'deep/c.jpg', 'other/c.jpg']


def read(tmp_path, text):
  file = tmp_path / 'labels.csv'
  file.write_text(text, encoding='utf-8')
  return label_table.read_labels(file)


@pytest.mark.parametrize(
  'text',
  [
    'file,class\na.jpg,cat\ndeep/b.jpg,dog\n',
    'a.jpg,cat\ndeep/b.jpg,dog\n',
    '\ufeffLabel;Size;File\r\ncat;3;a.jpg\r\ndog;4;deep/b.jpg\r\n',
    'path\tlabel\na.jpg\tcat\n\ndeep/b.jpg\tdog\na.jpg\tcat\n',
    'file,class\na.jpg,cat\ndeep/b.jpg, dog \ndeep/c.jpg,\nother/c.jpg,-1\n',
  ],
)
def test_columns_by_name_or_place_and_any_separator(text, tmp_path):
  assert read(tmp_path, text) == {'a.jpg': 'cat', 'deep/b.jpg': 'dog'}


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    ('', 'is no table of labels'),
    ('a.jpg\nb.jpg\n', 'needs two columns'),
    ('a.jpg,cat\na.jpg,dog\n', "gives 'a.jpg' two classes, 'cat' and 'dog'"),
    ('file,class\na.jpg,cat\nb.jpg\n', 'row 3'),
    ('File,species\na.jpg,cat\n', 'has no column label, class, .*: it has file, species'),
  ],
)
def test_what_is_no_table(text, sentence, tmp_path):
  with pytest.raises(ValueError, match=sentence):
    read(tmp_path, text)
  with pytest.raises(ValueError, match='cannot be read'):
    label_table.read_labels(tmp_path / 'nowhere.csv')


def test_a_cell_without_an_end_is_a_sentence(tmp_path):
  with pytest.raises(
    ValueError, match='labels.csv. cannot be read as a table of labels: field larger'
  ):
    read(tmp_path, 'a.jpg,"cat' + 'x\n' * 100_000)


def test_files_are_found_by_path_name_or_folder(tmp_path):
  root = tmp_path / 'photos'
  for name in ('deep/b.jpg', 'b.jpg', 'photos/deep/b.jpg', str(root / 'deep' / 'b.jpg'),
               'deep\\b.jpg', './deep/b.jpg'):  # fmt: skip
    assert label_table.matched(root, FILES, {name: 'dog'}, 'x.csv') == {'deep/b.jpg': 'dog'}


@pytest.mark.parametrize(
  ('labels', 'sentence'),
  [
    ({'a.jpg': 'cat', 'x.jpg': 'cat', 'y.jpg': 'dog'}, "2 of 3 files .*, such as 'x.jpg'\\.$"),
    ({'A.JPEG': 'cat'}, "such as 'A.JPEG'; did you mean 'a.jpg'"),
    ({'c.jpg': 'cat'}, "'c.jpg' is the name of 2 images"),
    ({'b.jpg': 'cat', 'deep/b.jpg': 'dog'}, "gives 'deep/b.jpg' two classes"),
  ],
)
def test_files_that_are_not_there_or_not_clear(labels, sentence, tmp_path):
  with pytest.raises(ValueError, match=sentence):
    label_table.matched(tmp_path, FILES, labels, 'labels.csv')
