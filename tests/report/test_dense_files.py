"""Masks and depth maps of new images: files that other programs read, colors, a sheet."""

import dataclasses
import json

import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax.encoders import dense as dense_lib
from byoljax.encoders.dense import DenseModel
from byoljax.encoders.encoder import Preprocessing
from byoljax.protocols import dense_data
from byoljax.report import dense
from tests.protocols.test_dense import tiny


def test_colors_are_those_of_voc():
  colors = dense.palette()
  assert colors[:6].tolist() == [
    [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]
  ]  # fmt: skip
  assert colors[20].tolist() == [0, 64, 128] and len({*map(tuple, colors)}) == 256
  mask = np.array([[1, 255, -1]])
  assert dense.colored_mask(mask)[0].tolist() == [[85 + 84, 85, 85], *[[224, 224, 192]] * 2]


def test_near_is_bright_and_what_is_unknown_is_gray():
  depth = np.array([[1.0, 2.0, 0.0, np.inf, 3.0]])
  assert dense.range_of([depth]) == (1.0, 3.0) and dense.range_of([]) == (0.0, 1.0)
  made = dense.colored_depth(depth, 1.0, 3.0)[0].astype(int).sum(1)
  assert made[0] > made[1] > made[4] and made[2] == made[3] == 3 * 128


def test_a_sheet_says_what_its_colors_are(tmp_path, monkeypatch):
  written = {}
  monkeypatch.setattr(dense.sheet, 'write', lambda *_, **rest: written.update(rest))
  image, mask = np.zeros((2, 2, 3), np.uint8), np.array([[0, 2], [255, 2]])
  names = ('ground', 'cat', 'dog')
  dense.write_sheet(tmp_path, [image], {'truth': [mask]}, depth=False, classes=names)
  colors = [tuple(color) for color in dense.colored_mask(np.array([[0, 2]]))[0].tolist()]
  assert written['legend'] == [(colors[0], 'ground'), (colors[1], 'dog')]
  dense.write_sheet(tmp_path, [image], {'depth': [mask + 1.0]}, depth=True)
  legend = written['legend']
  assert [text for _, text in legend] == ['1', '64.8', '128', '192', '256']
  brightness = [sum(color) for color, _ in legend]
  assert brightness == sorted(brightness, reverse=True)


def test_images_of_16_bits_are_read_as_the_run_read_them(tmp_path, capsys):
  """Masks of files, of arrays as they are in the files, and of scaled arrays are the same."""
  preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, 16, '0,1000')
  design = dataclasses.replace(tiny()[0], preprocessing=preprocessing)
  model = DenseModel('segmentation', design, *tiny()[1:], ('x', 'y', 'z'), {})
  dense_lib.save(model, tmp_path / 'model')
  for name in ('images', 'masks'):
    (tmp_path / 'photos' / name).mkdir(parents=True)
  image = np.random.default_rng(0).integers(0, 1000, (16, 16)).astype(np.uint16)
  for name in 'ab':
    Image.fromarray(image).save(tmp_path / 'photos' / 'images' / f'{name}.png')
    mask = Image.fromarray((image > 500).astype(np.uint8))
    mask.save(tmp_path / 'photos' / 'masks' / f'{name}.png')
  photos, out = tmp_path / 'photos' / 'images', tmp_path / 'out'
  assert cli.run(['predict', str(tmp_path / 'model'), str(photos), f'--out={out}']) == 0
  found = np.asarray(Image.open(out / 'a.png'))
  for given in (image, image / np.float32(1000)):
    np.testing.assert_array_equal(found, model.predict(np.stack([given] * 3, -1)[None])[0])
  assert len(np.unique(found)) > 1
  (tmp_path / 'bands').mkdir()
  np.save(tmp_path / 'bands' / 'a.npy', np.zeros((16, 16, 5), np.uint16))
  assert cli.run(['predict', str(tmp_path / 'model'), str(tmp_path / 'bands')]) == 2
  assert 'read with 5 channels, but this network was trained on 3' in capsys.readouterr().err
  # The sheet shows it as bright as it is.
  sheet = np.asarray(Image.open(out / 'sheet.png').convert('L'))[24:150, 8:130]
  assert 100 < sheet.mean() < 155
  data = dense_data.open_data(
    'segmentation', 'folder', str(tmp_path / 'photos'), field='masks', range_='0,1000',
    image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=8,
  )  # fmt: skip
  assert data.data.train.field('image').range == '0,1000'


@pytest.mark.parametrize('kind', ['segmentation', 'depth'])
def test_predictions_are_files_of_the_images_sizes(kind, tmp_path, capsys):
  photos, out = tmp_path / 'photos', tmp_path / 'out'
  (photos / 'sub').mkdir(parents=True)
  rng = np.random.default_rng(0)
  sizes = {'a.png': (9, 20), 'sub/a.png': (16, 31), 'b.png': (12, 17), 'b.bmp': (12, 30),
           'sheet.png': (10, 12), 'sub/sheet.png': (11, 12)}  # fmt: skip
  for name, size in sizes.items():
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(photos / name)
  (photos / 'broken.png').write_bytes(b'nothing')
  classes = ('x', 'y', 'z') if kind == 'segmentation' else ()
  network = tiny('up' if kind == 'depth' else 'skips', len(classes) or 1)
  model = DenseModel(kind, *network, classes, {})
  dense_lib.save(model, tmp_path / 'model')
  command = ['predict', str(tmp_path / 'model'), str(photos), f'--out={out}']
  assert cli.run(command) == 1
  said = capsys.readouterr().out
  assert '6 images' in said and 'broken.png cannot be read' in said
  for name, size in sizes.items():
    stem = name if name in ('b.png', 'b.bmp', 'sheet.png') else name.partition('.')[0]
    with Image.open(photos / name) as image:
      due = model.predict(np.asarray(image)[None])[0]
    if kind == 'segmentation':
      found = np.asarray(Image.open(out / f'{stem}.png'))
      assert Image.open(out / f'{stem}.png').mode == 'P'
      np.testing.assert_array_equal(found, due)
    else:
      found = np.load(out / f'{stem}.npy')
      # Batches of other sizes are other programs: 1e-6 was found.
      np.testing.assert_allclose(found, due, rtol=1e-4, atol=1e-5)
    assert found.shape == size
  if classes:
    assert json.loads((out / 'classes.json').read_text())['classes'] == list(classes)
  assert (out / 'sheet.png').stat().st_size > 500
  assert cli.run([*command[:-1], f'--out={photos}/masks']) == 2
  assert 'lies among the images' in capsys.readouterr().err
