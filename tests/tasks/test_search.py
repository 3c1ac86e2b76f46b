"""Embedding a data set into files, and finding images in them."""

import csv
import json

import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax.encoders import load
from byoljax.tasks import embed, search

SIDE = 12


def by_hand(untrained, npz, split):
  encoder, config, _ = load.load_encoder(str(untrained), 'online')
  images = np.load(npz)[f'x_{split}'] / np.float32(255)
  normalized = (images - np.float32(config.data.mean)) / np.float32(config.data.std)
  return np.asarray(
    encoder.net.apply(encoder.params, encoder.bn, normalized, train=False)[0]['embedding']
  )


def test_parts_hold_every_image_and_are_made_once(untrained, npz, tmp_path, capsys):
  folder = tmp_path / 'index'
  command = ['embed', str(untrained), f'--workdir={folder}', '--part_size=30', '--batch_size=16']
  assert cli.run(command) == 0
  paths = embed.read_parts(folder)
  parts = [embed.read_part(path) for path in paths]
  assert [len(part.index) for part in parts] == [30, 30, 20]
  wanted = by_hand(untrained, npz, 'train')
  np.testing.assert_allclose(
    np.concatenate([p.features for p in parts]), wanted, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_array_equal(np.concatenate([p.index for p in parts]), np.arange(80))
  np.testing.assert_array_equal(np.concatenate([p.label for p in parts]), np.load(npz)['y_train'])
  assert parts[1].name[0].endswith('train[30]')
  # Interrupted: the part that is missing is made again, the others stay.
  before = [path.stat().st_mtime_ns for path in paths]
  paths[1].unlink()
  assert cli.run(command) == 0
  assert 'There already: 2 of 3 parts.' in capsys.readouterr().out
  after = [path.stat().st_mtime_ns for path in paths]
  assert (after[0], after[2]) == (before[0], before[2])
  np.testing.assert_array_equal(embed.read_part(paths[1]).features, parts[1].features)
  assert cli.run([*command[:-1], '--split=test']) == 2
  assert 'holds other embeddings: ' in capsys.readouterr().err


def test_csv_holds_the_same_numbers(untrained, npz, tmp_path):
  command = ['embed', str(untrained), f'--workdir={tmp_path}', '--split=test', '--format=csv']
  assert cli.run(command) == 0
  with (tmp_path / 'part-00000.csv').open() as file:
    rows = list(csv.reader(file))
  wanted = by_hand(untrained, npz, 'test')
  assert rows[0][:4] == ['name', 'index', 'label', 'f0'] and len(rows) == 1 + len(wanted)
  got = np.array([row[3:] for row in rows[1:]], np.float32)
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_parquet_holds_the_same_numbers(untrained, npz, tmp_path, capsys, monkeypatch):
  command = ['embed', str(untrained), f'--workdir={tmp_path}', '--split=test', '--format=parquet']
  monkeypatch.setitem(__import__('sys').modules, 'pyarrow', None)
  assert cli.run(command) == 2
  assert 'needs pyarrow' in capsys.readouterr().err
  monkeypatch.undo()
  parquet = pytest.importorskip('pyarrow.parquet', reason='needs pyarrow')
  assert cli.run(command) == 0
  table = parquet.read_table(tmp_path / 'part-00000.parquet')
  assert table.column_names == ['name', 'index', 'label', 'features']
  got = np.array(table['features'].to_pylist(), np.float32)
  np.testing.assert_allclose(got, by_hand(untrained, npz, 'test'), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', embed.FORMATS)
def test_several_labels_each_are_written(kind, tmp_path):
  labels = np.array([[1, 0, -1], [0, 1, 1]], np.int32)
  part = embed.Part(np.ones((2, 1), np.float32), np.arange(2), labels, np.array(['a', 'b']))
  path = tmp_path / f'part.{kind}'
  if kind == 'parquet':
    parquet = pytest.importorskip('pyarrow.parquet', reason='needs pyarrow')
  embed._write(part, path, kind)
  if kind == 'npz':
    assert embed.read_part(path).label.tolist() == labels.tolist()
  elif kind == 'csv':
    assert path.read_text().split() == [
      'name,index,label0,label1,label2,f0', 'a,0,1,0,-1,1', 'b,1,0,1,1,1'
    ]  # fmt: skip
  else:
    assert parquet.read_table(path)['label'].to_pylist() == labels.tolist()


@pytest.mark.parametrize('content', ['{', '[1]', '{"format": "npz"}'])
def test_another_index_is_of_no_embeddings(content, tmp_path, capsys):
  (tmp_path / 'index.json').write_text(content)
  assert cli.run(['search', str(tmp_path), 'holiday.jpg']) == 2
  assert 'holds no embeddings: `byoljax embed RUN`' in capsys.readouterr().err


LATIN = 'caf\udce9.jpg'  # as Python names a file of the bytes b'caf\xe9.jpg'


@pytest.mark.parametrize('kind', embed.FORMATS)
def test_names_that_are_no_text_are_written(kind, tmp_path):
  if kind == 'parquet':
    pytest.importorskip('pyarrow', reason='needs pyarrow')
  part = embed.Part(np.ones((1, 2), np.float32), *(np.array([x]) for x in (0, -1, LATIN)))
  path = tmp_path / f'part.{kind}'
  embed._write(part, path, kind)
  if kind == 'npz':
    assert embed.read_part(path).name == LATIN
  else:
    assert 'caf\ufffd.jpg'.encode() in path.read_bytes()


def test_the_folder_of_the_images_may_begin_with_a_tilde(untrained, npz, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(npz.parent))
  index, image = tmp_path / 'index', str(tmp_path / 'x.png')
  Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(image)
  command = ['embed', str(untrained), f'--workdir={index}', '--data.name=npz',
             f'--data.dir=~/{npz.name}']  # fmt: skip
  assert cli.run(command) == 0
  monkeypatch.setenv('HOME', str(tmp_path))
  assert cli.run(['search', '~/index', image, '--out=~/found.png']) == 0
  assert (tmp_path / 'found.png').exists()


def test_a_file_that_cannot_be_read_has_no_row(untrained, tmp_path):
  photos = tmp_path / 'photos'
  photos.mkdir()
  rng = np.random.default_rng(0)
  for number in range(4):
    pixels = rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / f'{number}.png')
  for broken in ('2.png', '4.png'):
    (photos / broken).write_bytes(b'no image')
  pytest.importorskip('tensorflow', reason='folders need TensorFlow')
  index = tmp_path / 'index'
  assert cli.run(['embed', str(untrained), f'--workdir={index}', '--data.name=folder',
                  f'--data.dir={photos}', '--part_size=4']) == 0  # fmt: skip
  part, empty = (embed.read_part(path) for path in embed.read_parts(index))
  assert part.index.tolist() == [0, 1, 3]
  assert [name.rsplit('/', 1)[-1] for name in part.name] == ['0.png', '1.png', '3.png']
  assert empty.features.shape == (0, part.features.shape[1]) and not len(empty.name)
  assert search.nearest(part.features, embed.read_parts(index), 3).index[:, 0].tolist() == [0, 1, 3]


class TestSearch:
  @pytest.fixture
  def index(self, untrained, tmp_path):
    folder = tmp_path / 'index'
    assert cli.run(['embed', str(untrained), f'--workdir={folder}', '--part_size=30']) == 0
    return folder

  def test_an_image_is_no_answer_to_itself(self, index, npz, tmp_path, capsys):
    images, files = np.load(npz)['x_train'], []
    for place in (3, 41):
      files.append(str(tmp_path / f'{place}.png'))
      Image.fromarray(images[place]).save(files[-1])
    out = tmp_path / 'found.png'
    assert cli.run(['search', str(index), *files, '--out', str(out), '--count', '4']) == 0
    shown = capsys.readouterr().out
    for place, own in zip((3, 41), shown.split('nearest to')[1:], strict=True):
      assert own.count(f'train[{place}]') == 1 and own.count('[') == 5
      assert f'train[{place}] is the query itself' in own
    assert '1.000' not in shown
    with Image.open(out) as sheet:
      assert sheet.width > 4 * 160 and sheet.height > 2 * 160

  def test_nearest_equals_sorting_everything(self, index):
    paths = embed.read_parts(index)
    rows = np.concatenate([embed.read_part(path).features for path in paths])
    queries = np.random.default_rng(0).normal(size=(3, rows.shape[1])).astype(np.float32)
    found = search.nearest(queries, paths, 7)
    cosine = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
      rows / np.linalg.norm(rows, axis=1, keepdims=True)
    ).T
    np.testing.assert_array_equal(found.index, np.argsort(-cosine, axis=1, kind='stable')[:, :7])
    # 128 products of float32, which are at most 1 in all: 128 x 6e-8 by any order.
    np.testing.assert_allclose(found.cosine, -np.sort(-cosine, axis=1)[:, :7], atol=1e-5)
    assert search.nearest(queries, paths, 1000).index.shape == (3, 80)
    center = rows.mean(0)
    moved, there = queries - center, rows[found.index] - center
    by_hand = np.einsum('qd,qkd->qk', moved, there)
    by_hand /= np.linalg.norm(moved, axis=1)[:, None] * np.linalg.norm(there, axis=2)
    np.testing.assert_allclose(found.centered, by_hand, atol=1e-5)

  def test_mistakes_are_one_sentence(self, index, tmp_path, capsys):
    (tmp_path / 'text.png').write_text('no image')
    good = tmp_path / 'good.png'
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(good)
    for arguments, sentence in (
      ([str(index), str(tmp_path / 'absent.png')], 'cannot be read'),
      ([str(index), str(tmp_path / 'text.png')], 'no image that can be read'),
      ([str(tmp_path), str(good)], 'holds no embeddings'),
      ([str(index), str(good), '--count', '0'], '--count=0'),
    ):
      out = tmp_path / 'sheet.png'
      assert cli.run(['search', *arguments, '--out', str(out)]) == 2
      assert sentence in capsys.readouterr().err
      assert not out.exists()

  def test_names_that_are_no_text_are_shown(self, index, tmp_path, capsys):
    for path in embed.read_parts(index):
      part = embed.read_part(path)
      embed._write(part._replace(name=np.full(len(part.name), LATIN)), path, 'npz')
    image, out = tmp_path / LATIN, tmp_path / 'sheet.png'
    try:
      image.touch()
    except OSError:  # This file system has no such names.
      image = tmp_path / 'any.png'
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(image, 'PNG')
    assert cli.run(['search', str(index), str(image), '--out', str(out)]) == 0
    assert capsys.readouterr().out.count('caf\ufffd.jpg') >= 8

  def test_other_weights_are_refused(self, index, tmp_path, capsys):
    path, image, out = index / 'index.json', tmp_path / 'any.png', tmp_path / 'sheet.png'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'weights': 'others'}))
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(image)
    assert cli.run(['search', str(index), str(image), '--out', str(out)]) == 2
    assert f"'{index}' was made with other weights than" in capsys.readouterr().err

  def test_a_damaged_part_is_named(self, index, tmp_path, capsys):
    part = embed.read_parts(index)[1]
    part.write_bytes(part.read_bytes()[:-30])
    image, out = tmp_path / 'any.png', tmp_path / 'sheet.png'
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(image)
    assert cli.run(['search', str(index), str(image), '--out', str(out)]) == 2
    assert f"'{part}' cannot be read ('{part.name}' is damaged" in capsys.readouterr().err

  def test_unfinished_embeddings_are_not_searched(self, index, tmp_path, capsys):
    embed.read_parts(index)[1].unlink()
    out = tmp_path / 'sheet.png'
    assert cli.run(['search', str(index), str(tmp_path / 'any.png'), '--out', str(out)]) == 2
    assert f"'{index}' is unfinished: 2 of 3 parts are there" in capsys.readouterr().err
