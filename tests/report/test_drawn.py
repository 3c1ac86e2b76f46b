"""New images of a run: of its checkpoints, for the report and on the command line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.data.sources import datasets
from byoljax.encoders import method_network, samples
from byoljax.ops.sampling import Sampling
from byoljax.report import drawn, sheet
from byoljax.tasks import sample
from byoljax.weights import importing
from byoljax.workdir import checkpoint
from byoljax.workdir.files import write_json

STEPS, SIDE = (3, 12), 8


@pytest.fixture(scope='module')
def run(npz, tmp_path_factory):
  """A run of PixelCNN with two checkpoints, at random."""
  workdir = tmp_path_factory.mktemp('pixelcnn')
  recipe = f'{cli.recipes_directory()}/pixelcnn.py:npz,smoke'
  config = config_lib.load(recipe)
  with config.unlocked():
    config.data.update(name='npz', dir=str(npz))
    config.views.view1.size = SIDE
  facts = {'num_examples': 80, 'num_classes': 3, 'num_devices': 1, 'steps_per_epoch': 5,
           'total_steps': 12, 'given': {}}  # fmt: skip
  stored = {'recipe': recipe, 'config': json.loads(config.to_json()), 'facts': facts}
  write_json(workdir / 'config.json', stored)
  method = method_network.method(config, workdir)
  with checkpoint.Checkpoints(workdir, keep=5) as checkpoints:
    for step in STEPS:
      params, state = method.init(jax.random.key(step), {'views': (jnp.zeros((2, SIDE, SIDE, 3)),)})
      # At random there are no two alike.
      last = params['decoder']['logits']
      last['bias'] = jax.random.normal(jax.random.key(step), last['bias'].shape)
      checkpoints.save(step, importing.Imported(params, state), {})
  return workdir


def test_samples_of_every_checkpoint_are_a_function_of_the_seed(run):
  sampler = samples.require_sampler(run)
  first, last = (sampler.draw(step, Sampling(4), seed=1) for step in STEPS)
  assert first.shape == (4, SIDE, SIDE, 3) and not np.array_equal(first, last)
  np.testing.assert_array_equal(sampler.draw(STEPS[1], Sampling(4), seed=1), last)
  assert not np.array_equal(sampler.draw(STEPS[1], Sampling(4), seed=2), last)
  with pytest.raises(ConfigError, match='top_p=2'):
    sampler.draw(STEPS[1], Sampling(4, top_p=2.0))


def test_the_first_images_are_the_same_however_many_are_drawn(run, monkeypatch):
  sampler = samples.require_sampler(run)
  monkeypatch.setattr(samples, '_TOGETHER', 4)
  some = sampler.draw(STEPS[1], Sampling(10))
  assert some.shape == (10, SIDE, SIDE, 3) and len(np.unique(some, axis=0)) == 10
  np.testing.assert_array_equal(sampler.draw(STEPS[1], Sampling(7)), some[:7])


def test_the_sheet_of_the_report_has_a_column_for_each_checkpoint(run, tmp_path, monkeypatch):
  shown = {}

  def write(path, originals, views, names, first):
    shown.update(originals=originals, views=views, names=[first, *names])

  monkeypatch.setattr(sheet, 'write', write)
  strips = drawn.write(samples.require_sampler(run), tmp_path / 'report' / 'samples.png')
  assert shown['names'] == ['step 3', 'step 12'] and '16 images' in strips.note
  assert len(shown['originals']) == len(shown['views'][0]) == 16


def test_the_command(run, tmp_path, capsys):
  out = tmp_path / 'sheet.png'
  step = run / 'checkpoints' / '3'
  assert cli.run(['sample', str(step), '--count=5', f'--out={out}', '--temperature=0.5']) == 0
  assert f'5 images of {SIDE} x {SIDE} pixels' in capsys.readouterr().out
  with Image.open(out) as picture:
    # Three in a row, two rows, of 64 pixels each.
    assert picture.size == (3 * 66 + 2, 2 * 66 + 2)
  for arguments, said in (
    (['--count=0'], 'count=0'),
    (['--count=100000000000'], '--count=100000000000 must be at most 10000'),
    ([f'--seed={2**64}'], f'seed={2**64} must be at least 0 and at most 4294967295'),
    (['--class=sqare'], "unknown class 'sqare'"),
    (['--class=1'], 'trained without classes'),
    ([f'--out={run}.png/sheet.png'], '--out'),
    (['--out=sheet.txt'], "--out=sheet.txt: the sheet is a PNG; name it 'sheet.png'."),
  ):
    assert cli.run(['sample', str(run), '--count=2', *arguments]) == 2
    assert said in capsys.readouterr().err


def test_classes_are_those_that_the_run_was_trained_on(run):
  sampler = samples.require_sampler(run)
  with sampler.config.unlocked():
    sampler.config.data.classes = (0, 2)
  names = datasets.load('npz', 'train', data_dir=sampler.config.data.dir).class_names or '012'
  assert [sample._class_of(sampler, name) for name in ('', '2', names[0])] == [None, 2, 0]
  for name in ('1', names[1], '-1'):
    with pytest.raises(ConfigError, match=f"'{name}': choose one of {names[0]}, {names[2]}"):
      sample._class_of(sampler, name)


def test_runs_that_draw_nothing(untrained, capsys):
  assert samples.sampler(untrained) is None
  assert cli.run(['sample', str(untrained)]) == 2
  assert 'draws no images' in capsys.readouterr().err
