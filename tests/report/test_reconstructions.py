"""Pictures of what a run gives back: of its checkpoints, for the report and for own photos."""

import json

import jax
import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.data.sources import datasets
from byoljax.encoders import method_network, pictures, stored_method
from byoljax.report import contents, reconstructions
from byoljax.report.page import Map
from byoljax.weights import importing
from byoljax.workdir import checkpoint
from byoljax.workdir.files import write_json

STEPS = (3, 12)


@pytest.fixture(scope='module')
def run(npz, tmp_path_factory):
  """A run of denoising with two checkpoints, at random; the second with an online probe."""
  workdir = tmp_path_factory.mktemp('denoising')
  config = config_lib.load(f'{cli.recipes_directory()}/denoising_autoencoder.py:npz,smoke')
  with config.unlocked():
    config.data.update(name='npz', dir=str(npz))
    config.encoder.update(name='small')
    config.method.decoder_width = 4
    config.views.view1.size = config.evals.image_size = 16
  facts = {'num_examples': 80, 'num_classes': 3, 'num_devices': 1, 'steps_per_epoch': 5,
           'total_steps': 12, 'given': {}}  # fmt: skip
  stored = {
    'recipe': 'configs/denoising_autoencoder.py:npz,smoke',
    'config': json.loads(config.to_json()),
    'facts': facts,
  }
  write_json(workdir / 'config.json', stored)
  method = method_network.method(config, workdir)
  batch, begin = {'views': (np.zeros((2, 16, 16, 3), np.float32),)}, jax.jit(method.init)
  with checkpoint.Checkpoints(workdir, keep=5) as checkpoints:
    for step in STEPS:
      params, state = begin(jax.random.key(step), batch)
      params = params | ({'probe': {'kernel': np.ones((3, 4), np.float32)}} if step == 12 else {})
      checkpoints.save(step, importing.Imported(params, state), {})
  return workdir


def test_the_method_of_every_checkpoint_is_read_whole(run, npz):
  painter = pictures.require_painter(run)
  source = datasets.load('npz', 'test', data_dir=npz).subset(np.arange(5))
  batch = painter.batch(source)
  assert painter.steps() == list(STEPS) and batch['views'][0].shape == (5, 16, 16, 3)
  made = {step: painter.paint(step, batch, source) for step in STEPS}
  begin, paint = jax.jit(painter.method.init), jax.jit(painter.method.pictures)
  for step, shown in made.items():
    assert list(shown) == ['image', 'input', 'output']
    params, state = begin(jax.random.key(step), {'views': batch['views']})
    expected = paint(params, state, batch, stored_method.key_of_pictures())
    # Compiled apart: sums of float32 in another order.
    np.testing.assert_allclose(shown['output'], expected['output'], atol=1e-4)
  first, last = made.values()
  np.testing.assert_array_equal(first['input'], last['input'], err_msg='the same noise')
  assert np.abs(first['output'] - last['output']).max() > 0.01


def shown_of(*values, size=12):
  image = np.full((3, size, size, 3), 0.5, np.float32)
  return {name: image + value for name, value in values}


def test_quality_is_against_the_target_where_there_is_one():
  shown = shown_of(('image', 0.0), ('input', 0.1), ('output', -0.1))
  found = reconstructions.quality(shown)
  assert list(found) == ['input', 'output']
  np.testing.assert_allclose(found['output']['psnr'], [20.0] * 3, rtol=1e-5)
  shown |= shown_of(('target', 0.4))
  np.testing.assert_allclose(reconstructions.quality(shown)['output']['psnr'], 6.0206, rtol=1e-4)
  # A gray input is not compared with colors.
  shown['input'] = shown['input'][..., :1]
  assert list(reconstructions.quality(shown)) == ['output']


def test_what_does_not_change_is_shown_once(tmp_path, monkeypatch):
  drawn = {}

  def write(path, originals, views, names, captions, cell):
    drawn.update(path=path, originals=originals, views=views, names=names, captions=captions)

  monkeypatch.setattr(reconstructions.sheet, 'write', write)
  made = {
    100: shown_of(('image', 0.0), ('input', 0.1), ('output', -0.1)),
    2000: shown_of(('image', 0.0), ('input', 0.1), ('output', 0.0)),
  }
  reconstructions.draw(tmp_path / 'sheet.png', made)
  assert drawn['names'] == ['input', 'step 100', 'step 2,000']
  assert drawn['captions'][0] == [''] * 3 and drawn['captions'][2][0].startswith('20.0 dB  0.')
  assert drawn['captions'][3] == ['100.0 dB  1.00'] * 3
  assert drawn['views'][1][0].dtype == np.uint8 and drawn['views'][1][0][0, 0, 0] == 102
  for step, shift in ((100, 0.2), (2000, 0.3)):
    made[step] |= shown_of(('chances', shift))
  reconstructions.draw(tmp_path / 'sheet.png', made)
  assert drawn['names'] == [
    'input', 'output, 100', 'chances, 100', 'output, 2,000', 'chances, 2,000'
  ]  # fmt: skip
  reconstructions.draw(tmp_path / 'sheet.png', {100: made[100]})
  assert drawn['names'] == ['input', 'chances', 'output']


def test_the_sheet_of_the_report(run, npz, tmp_path):
  source = datasets.load('npz', 'test', data_dir=npz)
  path = tmp_path / 'report' / 'reconstructions.png'
  strips = reconstructions.write(pictures.require_painter(run), source, path)
  assert [row['step'] for row in strips.rows] == ['3', '12']
  assert strips.rows[0]['PSNR of the input'] == strips.rows[1]['PSNR of the input']
  assert strips.rows[0]['SSIM of the output'] != strips.rows[1]['SSIM of the output']
  assert 'means over 24 images' in strips.note
  with Image.open(path) as picture:
    assert picture.size[0] > 4 * 96 and picture.size[1] > 96


def test_the_page_has_the_sheet_and_the_table(run, monkeypatch):
  def no_layouts(sample):
    return Map({'PCA': np.zeros((1, 2))}, sample.labels[:1], np.zeros((1, 8, 8, 3), np.uint8))

  monkeypatch.setattr(contents.samples, 'layouts', no_layouts)
  text = contents.write(run).read_text()
  assert '<h2>Reconstructions</h2>' in text and 'PSNR of the output' in text
  assert 'There are other images in' not in text
  assert (run / 'report' / 'reconstructions.png').stat().st_size > 0


def test_runs_that_show_nothing(untrained, tmp_path):
  assert pictures.painter(untrained) is None
  with pytest.raises(ConfigError, match='gives no pictures back'):
    pictures.require_painter(untrained)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  folder = tmp_path_factory.mktemp('photos')
  for number, (name, size) in enumerate((('a.png', (40, 30)), ('b/c.jpg', (20, 50)))):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
  (folder / '.hidden.png').write_bytes(b'')
  (folder / 'notes.txt').write_text('no image')
  return folder


def test_the_command_draws_files_and_folders(run, photos, tmp_path, capsys):
  out = tmp_path / 'sheet.png'
  given = [str(run / 'checkpoints' / '3'), str(photos), str(photos / 'a.png'), '--out', str(out)]
  assert cli.run(['reconstruct', *given, '--count', '2']) == 0
  said = capsys.readouterr().out
  assert 'The first 2 of 3 images: --count=3 shows all' in said
  assert 'a.png' in said and 'c.jpg' in said and 'PSNR, input' in said and 'SSIM, output' in said
  with Image.open(out) as picture:
    assert min(picture.size) > 160
  # A convolutional network takes other sizes.
  assert cli.run(['reconstruct', str(run), str(photos / 'a.png'), '--size=24', f'--out={out}']) == 0


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    (['{run}', 'nowhere.jpg'], "'nowhere.jpg' cannot be read"),
    (['{run}', '{run}/checkpoints'], 'has no image in it'),
    (['{run}', '{run}/config.json'], 'is no image that can be read'),
    (['{run}', '{photos}', '--count=0'], '--count=0 must be at least 1'),
    (['{photos}', '{photos}'], 'exists but holds no checkpoint'),
    (['{untrained}', '{photos}'], 'gives no pictures back'),
  ],
)
def test_mistakes_are_one_sentence(run, photos, untrained, given, said, tmp_path, capsys):
  out = tmp_path / 'sheet.png'
  filled = [text.format(run=run, photos=photos, untrained=untrained) for text in given]
  assert cli.run(['reconstruct', *filled, f'--out={out}']) == 2
  assert said in capsys.readouterr().err and not out.exists()
