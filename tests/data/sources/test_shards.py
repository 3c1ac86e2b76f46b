"""Zip, tar and Parquet files as sources: splits, labels, every byte, and what cannot be read."""

from concurrent import futures
import io
import json
import sys
import tarfile
import time
import zipfile

import numpy as np
from PIL import Image
import pytest

from byoljax.data.sources import datasets, memory, table_file
from byoljax.data.sources.source import NoSplitError


def png(value):
  made = io.BytesIO()
  Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save(made, 'png')
  return made.getvalue()


def write_zip(path, members, how=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, 'w', how) as opened:
    for name, data in members.items():
      opened.writestr(name, data)


def write_tar(path, members, mode='w'):
  with tarfile.open(path, mode) as opened:
    for name, data in members.items():
      about = tarfile.TarInfo(name)
      about.size = len(data)
      opened.addfile(about, io.BytesIO(data))


def read(path, split='train'):
  """What each image is, by name, with its class."""
  made = datasets.load('shards', split, data_dir=path)
  files, labels = made.fetch(np.arange(made.size), ('image', 'label'))
  names = [made.locate(row).rsplit('/', 1)[1] for row in range(made.size)]
  said = [made.class_names[label] if label >= 0 else None for label in labels]
  assert (made.labels is None) == (made.num_classes == 0)
  return dict(zip(names, zip(files, said, strict=True), strict=True))


TREE = {f'photos/{kind}/{kind[0]}{n}.png': png(n) for n in range(3) for kind in ('cat', 'dog')}


@pytest.mark.parametrize('how', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, None])
def test_a_tree_in_an_archive(tmp_path, how):
  """Every image by itself, byte for byte; what lies beside them is no image."""
  members = TREE | {'photos/notes.txt': b'no', '__MACOSX/photos/cat/._c0.png': b'no'}
  path = tmp_path / ('a.tar' if how is None else 'a.zip')
  write_tar(path, members) if how is None else write_zip(path, members, how)
  found = read(path)
  assert len(found) == 6 and found['c2.png'] == (png(2), 'cat') and found['d0.png'][1] == 'dog'
  with pytest.raises(NoSplitError, match='has no test images'):
    read(path, 'test')


def test_splits_and_classes_in_an_archive(tmp_path):
  members = {f'data/train/{k}/{n}.png': png(n) for k in 'ab' for n in range(2)}
  write_zip(tmp_path / 'a.zip', members | {'data/val/b/9.png': png(9)})
  assert len(datasets.load('shards', 'pretrain', data_dir=tmp_path / 'a.zip').class_names) == 2
  assert read(tmp_path / 'a.zip', 'test') == {'9.png': (png(9), 'b')}
  write_zip(tmp_path / 'b.zip', {f'{n}.png': png(n) for n in range(2)})
  assert read(tmp_path / 'b.zip')['1.png'] == (png(1), None)


def test_webdataset(tmp_path):
  """Shards of a folder; labels lie beside the images, a shard's name says its split."""
  for shard in range(2):
    members = {}
    for n in range(2):
      key, label = f'{shard}{n}', b'%d' % (shard * 2)
      members |= {f'{key}.jpg': png(n), f'{key}.cls': label, f'{key}.json': b'{}'}
    write_tar(tmp_path / f'birds-train-{shard:06}.tar', members)
  write_tar(tmp_path / 'birds-val-000000.tar', {'x.png': png(7), 'x.cls': b'1'})
  found = read(tmp_path)
  assert [label for _, label in found.values()] == ['0', '0', '2', '2']
  assert read(tmp_path, 'test') == {'x.png': (png(7), '1')}
  made = datasets.load('shards', 'train', data_dir=tmp_path)
  assert made.locate(2).endswith('birds-train-000001.tar/10.jpg')
  assert made.fingerprint != datasets.load('shards', 'test', data_dir=tmp_path).fingerprint


@pytest.mark.parametrize('folder', ['', 'a/v1.0/'])
@pytest.mark.parametrize(
  'others',
  [
    {'seg.png': png(9), 'cls': b'1'},
    {'depth.0.png': png(9), 'txt': b'a caption'},
    {'seg.png': png(9), 'png': png(9)},
  ],
)
def test_an_example_of_webdataset_is_one_image(tmp_path, folder, others):
  members = {}
  for n in range(3):
    members |= {f'{folder}{n}.{suffix}': data for suffix, data in others.items()}
    members |= {f'{folder}{n}.jpg': png(n)}
  write_tar(tmp_path / 'a.tar', members)
  found = datasets.load('shards', 'pretrain', data_dir=tmp_path / 'a.tar')
  assert [found.locate(row)[-5:] for row in range(found.size)] == ['0.jpg', '1.jpg', '2.jpg']
  count = sum(suffix.endswith('png') for suffix in others)
  assert f'{3 * count} images beside' in found.notes[0] and 'png' in found.notes[0]
  write_zip(tmp_path / 'a.zip', members)
  zipped = datasets.load('shards', 'pretrain', data_dir=tmp_path / 'a.zip')
  assert zipped.size == 3 + 3 * count and not zipped.notes


def test_dots_in_names_of_photographs_make_no_examples(tmp_path):
  names = ('cat.jpg', 'cat.2.jpg', 'dog.jpg', '2020.01.02.jpg', '2020.01.03.jpg', '1.left.png')
  write_tar(tmp_path / 'a.tar', {name: png(n) for n, name in enumerate(names)} | {'cat.txt': b''})
  assert set(read(tmp_path)) == set(names)


def write_parquet(path, image, **columns):
  pyarrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  features = {'label': {'names': ['cat', 'dog', 'owl'], '_type': 'ClassLabel'}}
  about = {b'huggingface': json.dumps({'info': {'features': features}}).encode()}
  table = pyarrow.table({'image': image, **columns}).replace_schema_metadata(about)
  parquet.write_table(table, path)


def test_webdataset_with_labels_in_json(tmp_path):
  about = [b'{"label": 2, "caption": "no"}', b'{"cls": 0}', b'{"caption": "none"}', b'not json']
  members = {}
  for n, text in enumerate(about):
    members |= {f'{n}.png': png(n), f'{n}.json': text}
  write_tar(tmp_path / 'a.tar', members)
  found = datasets.load('shards', 'train', data_dir=tmp_path)
  assert list(found.labels) == [2, 0] and found.num_classes == 3
  assert datasets.load('shards', 'pretrain', data_dir=tmp_path).size == 4


@pytest.mark.parametrize('suffix', ['cls', 'json', 'parquet'])
def test_a_label_of_minus_one_is_none_in_every_kind_of_file(tmp_path, suffix):
  labels = [0, 10, 2, -1]
  if suffix == 'parquet':
    write_parquet(tmp_path / 'a.parquet', [png(n) for n in range(4)], label=labels)
  else:
    told = [f'{{"label": {n}}}' if suffix == 'json' else f'{n}' for n in labels]
    members = {}
    for n, text in enumerate(told):
      members |= {f'{n}.png': png(n), f'{n}.{suffix}': text.encode()}
    write_tar(tmp_path / 'a.tar', members | {'4.png': png(4), '4.cls': b'None'})
  found = datasets.load('shards', 'pretrain', data_dir=tmp_path)
  assert list(found.labels[:4]) == labels and (found.labels[4:] == -1).all()
  assert found.num_classes == 11


def test_labels_that_are_no_classes_are_named_with_their_file(tmp_path):
  for label in (b'-2', b'9' * 5000):
    write_tar(tmp_path / 'a.tar', {'1.png': png(1), '1.cls': label})
    with pytest.raises(ValueError, match=r'a\.tar/1\.cls has the label'):
      read(tmp_path)
  write_tar(tmp_path / 'a.tar', {'1.png': png(1), '1.cls': b'300000'})
  with pytest.raises(ValueError, match='labels go up to 300,000'):
    read(tmp_path / 'a.tar')
  write_parquet(tmp_path / 'a.parquet', [png(1)], y=[1_700_000_000_000])
  with pytest.raises(ValueError, match=r'a\.parquet has the label 1700000000000, but classes are'):
    read(tmp_path / 'a.parquet')


def test_an_empty_name_in_a_table_is_no_label(tmp_path):
  write_parquet(tmp_path / 'a.parquet', [png(n) for n in range(3)], label=['b', '', 'a'])
  assert [label for _, label in read(tmp_path).values()] == ['b', 'a']


def test_parquet_as_hugging_face_writes_it(tmp_path, monkeypatch):
  files = [{'bytes': png(n), 'path': f'{n}.png'} for n in range(3)]
  write_parquet(tmp_path / 'train-00000-of-00001.parquet', files, label=[0, 1, 0])
  write_parquet(tmp_path / 'test-00000-of-00001.parquet', [png(5)], label=[1])
  assert read(tmp_path) == {str(n): (png(n), ('cat', 'dog', 'cat')[n]) for n in range(3)}
  assert read(tmp_path, 'test') == {'0': (png(5), 'dog')}
  assert datasets.load('shards', 'train', data_dir=tmp_path).class_names == ('cat', 'dog', 'owl')
  monkeypatch.setattr(memory, 'room', lambda: 10)
  with pytest.raises(ValueError, match='GiB of images in Parquet files, more than a quarter'):
    read(tmp_path)
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(ValueError, match=r"pip install 'byoljax\[parquet\]'"):
    read(tmp_path)


def test_threads_read_a_parquet_file_once(tmp_path, monkeypatch):
  """It may take a quarter of the memory."""
  write_parquet(tmp_path / 'a.parquet', [png(n) for n in range(4)], label=[0, 1, 0, 1])
  from pyarrow import parquet

  shard = table_file.from_table(str(tmp_path / 'a.parquet'))
  reads, read_table = [], parquet.read_table

  def slowly(path, columns):
    reads.append(path)
    time.sleep(0.05)
    return read_table(path, columns=columns)

  monkeypatch.setattr(parquet, 'read_table', slowly)
  with futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(shard.read, range(4))) == [png(n) for n in range(4)]
  assert len(reads) == 1


def test_damaged_bytes_are_an_unreadable_image_and_not_an_end(tmp_path):
  path = tmp_path / 'a.zip'
  write_zip(path, {'a.png': png(1) * 40, 'b.png': png(2)})
  with zipfile.ZipFile(path) as opened:
    start = opened.getinfo('a.png').header_offset + 30 + len('a.png')
  raw = bytearray(path.read_bytes())
  raw[start : start + 8] = b'\xff' * 8
  path.write_bytes(raw)
  assert read(path) == {'a.png': (b'', None), 'b.png': (png(2), None)}


@pytest.mark.parametrize('damage', [{6: 99}, {46: 0x8A, 9: 8}])
def test_a_damaged_list_of_a_zip_is_a_sentence(tmp_path, damage):
  """The version that is needed, and a name that is no UTF-8, in the list at the end."""
  path = tmp_path / 'a.zip'
  write_zip(path, {'a.png': png(1)})
  raw = bytearray(path.read_bytes())
  start = raw.find(b'PK\x01\x02')
  for place, value in damage.items():
    raw[start + place] = value
  path.write_bytes(raw)
  with pytest.raises(ValueError, match='a.zip cannot be read as an archive'):
    read(path)


@pytest.mark.parametrize(
  ('name', 'sentence'),
  [
    ('none.zip', 'does not exist'),
    ('broken.zip', 'cannot be read as an archive'),
    ('broken.tar', 'cannot be read as an archive'),
    ('whole.tar.gz', 'is compressed as a whole'),
    ('bz.zip', "is compressed in a way other than zip's usual one"),
    ('empty.zip', 'has no image in it'),
    ('folder', 'is no packed file, and holds none'),
    ('broken.parquet', 'cannot be read as Parquet|need pyarrow'),
  ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path, name, sentence):
  (tmp_path / 'folder').mkdir()
  for broken in ('zip', 'tar', 'parquet'):
    (tmp_path / f'broken.{broken}').write_bytes(b'nothing at all')
  write_tar(tmp_path / 'whole.tar.gz', TREE, 'w:gz')
  write_zip(tmp_path / 'bz.zip', TREE, zipfile.ZIP_BZIP2)
  write_zip(tmp_path / 'empty.zip', {'a.txt': b''})
  with pytest.raises(ValueError, match=sentence):
    read(tmp_path / name)


def test_a_folder_of_packed_files_says_how_they_are_read(tmp_path):
  write_zip(tmp_path / 'a.zip', TREE)
  with pytest.raises(ValueError, match='holds 1 .zip file; .* --data.name=shards reads .zip files'):
    datasets.load('folder', 'train', data_dir=tmp_path)
