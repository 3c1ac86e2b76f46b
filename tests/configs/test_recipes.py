"""Recipes of all methods as whole runs: clusterings between steps, teachers, and the rest."""

import os
import pathlib

import numpy as np
import pytest

import byoljax
from byoljax import config as config_lib
from byoljax.encoders import classifier
from byoljax.main import main
from byoljax.methods import METHODS
from byoljax.workdir import checkpoint, metrics
from configs import colorization, context_encoder, exemplar, mae
from tests.train.test_loop import ROOT, assert_same_state

# Those without a recipe of their own train on an encoder that is given.
ON_AN_ENCODER = {'depth', 'detection', 'linear_probe', 'segmentation', 'supervised'}
ON_AN_ENCODER |= {'beit', 'distillation', 'prior'}
RECIPES = sorted(set(METHODS) - ON_AN_ENCODER)
SCENES = ['--config.data.name=sprites', '--config.data.dir=']  # What moves there is known.
# What a recipe needs on 80 images beside its smoke version.
SMALL = {
  'deepcluster': ['--config.method.num_clusters=6'],
  'deepcluster_v2': ['--config.method.prototypes=(6,5)'],
  'instance_discrimination': ['--config.method.num_noise=12'],
  'interclr': ['--config.method.num_clusters=6', '--config.method.repair_every=4 steps'],
  'moco': ['--config.method.queue_size=40'],
  'motion_segmentation': SCENES,
  'multi_task': SCENES,
  'nnclr': ['--config.method.queue_size=40'],
  'swav': ['--config.method.prototypes=6'],
}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def arguments(name, npz, workdir):
  return [
    f'--config=configs/{name}.py:smoke',
    f'--workdir={workdir}',
    '--config.data.name=npz',
    f'--config.data.dir={npz}',
    '--config.train.length=8 steps',
    '--config.log.every=1 steps',
    '--config.log.tensorboard=false',
    *SMALL.get(name, []),
  ]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['deepcluster', 'interclr'])
def test_a_run_that_clusters_resumes_bit_exactly(name, npz, tmp_path, monkeypatch):
  """Stopped at step 6, between two clusterings (every 5 and every 4 steps)."""
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  assert main(arguments(name, npz, whole)) == 0
  write = metrics.Writer.write

  def write_or_crash(self, step, row):
    write(self, step, row)
    if step == 7:
      raise RuntimeError('the machine is gone')

  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writer, 'write', write_or_crash)
    with pytest.raises(RuntimeError, match='machine is gone'):
      main(arguments(name, npz, stopped))
  assert checkpoint.latest_finished(stopped) == 6
  assert main(arguments(name, npz, stopped)) == 0
  assert_same_state(whole, stopped, 8)


def test_moments_of_adam_that_are_the_authors():
  assert colorization.get_config('imagenet').optim.b2 == 0.99
  for scale, momentum in (('imagenet', 0.5), ('cifar10', 0.5), ('shapes', 0.9)):
    optim = context_encoder.get_config(f'{scale},adversarial').optim
    assert optim.momentum == momentum and list(optim.groups.discriminator) == ['base_lr']


def test_simmim_masks_squares_where_it_is_the_papers():
  for scale, squares, b2 in (('imagenet', 32, 0.999), ('cifar10', 0, 0.95), ('shapes', 0, 0.95)):
    config = mae.get_config(f'{scale},simmim')
    assert config.method.mask_size == squares and config.optim.b2 == b2
  assert mae.get_config('imagenet').method.mask_size == 0


def test_exemplars_of_a_softmax_have_patches_of_their_scale():
  """A recipe that is one already stays as it is."""
  names = ('shapes,softmax', 'imagenette,softmax', 'imagenette', 'imagenet,softmax')
  configs = [exemplar.get_config(name) for name in names]
  assert [config.method.changes.patch for config in configs] == [24, 64, 64, 112]
  assert {config.method.form for config in configs} == {'softmax'}
  assert configs[1].to_dict() == configs[2].to_dict()


@pytest.mark.slow
def test_a_student_learns_from_a_linear_evaluation(npz, tmp_path, capsys):
  run, linear, student = (tmp_path / name for name in ('run', 'linear', 'student'))
  assert main(arguments('simsiam', npz, run)) == 0
  evaluation = [
    '--config=configs/linear.py:smoke',
    f'--config.pretrained={run}',
    f'--workdir={linear}',
    '--config.linear.batch_size=16',
  ]
  distil = arguments('distillation', npz, student)
  assert main([*distil, f'--config.teacher={linear}']) == 2
  assert 'there is no such directory' in capsys.readouterr().err
  assert main(evaluation) == 0
  assert main([*distil, f'--config.teacher={run}']) == 2
  assert 'no classifier in' in capsys.readouterr().err
  assert main([*distil, '--config.teacher=']) == 2
  assert 'config.teacher is empty' in capsys.readouterr().err
  assert main([*distil, f'--config.teacher={linear}']) == 0
  rows = metrics.read(student)
  assert rows[-1]['step'] == 8 and 0 <= rows[-1]['agreement'] <= 1


def test_every_recipe_can_be_tried_on_any_number_of_devices():
  """Groups of batch statistics have to be a multiple of it."""
  methods = {name: config_lib.load(f'configs/{name}.py:smoke').method for name in RECIPES}
  groups = {name: method.bn_groups for name, method in methods.items() if 'bn_groups' in method}
  assert groups == {'interclr': 0, 'moco': 0}


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_runs_and_goes_on(name, npz, tmp_path):
  assert main(arguments(name, npz, tmp_path)) == 0
  assert metrics.read(tmp_path)[-1]['step'] == 8
  assert (pathlib.Path(tmp_path) / 'views.png').stat().st_size > 0
  assert main([*arguments(name, npz, tmp_path), '--config.log.every=2 steps']) == 0


@pytest.mark.slow
def test_a_prior_learns_the_codes_of_a_run_and_draws_images(npz, tmp_path, capsys):
  from byoljax.tasks.sample import sample

  first, second, prior = (tmp_path / name for name in ('first', 'second', 'prior'))
  assert main(arguments('vq_vae', npz, first)) == 0
  assert main([*arguments('vq_vae', npz, second), '--config.seed=1']) == 0
  two_stages = arguments('prior', npz, prior)
  assert main([*two_stages, f'--config.codec={npz}']) == 2
  capsys.readouterr()
  assert main([*two_stages, f'--config.codec={first}', '--config.method.condition=class']) == 0
  images = byoljax.load(prior)(np.zeros((2, 32, 32, 3), np.uint8))
  assert images.shape == (2, 16)
  # What it draws with is its own copy of the codec.
  for path in first.rglob('*'):
    if path.is_file():
      path.unlink()
  sample(str(prior), str(tmp_path / 'samples.png'), count=4, image_class='1')
  assert (tmp_path / 'samples.png').stat().st_size > 500
  again = [*two_stages, f'--config.codec={second}', '--config.method.condition=class']
  capsys.readouterr()
  assert main(again) == 2
  assert 'codec: its weights are others' in capsys.readouterr().err


@pytest.mark.slow
def test_beit_learns_the_codes_of_a_run_and_refuses_another_one(npz, tmp_path, capsys):
  first, second, beit = (tmp_path / name for name in ('first', 'second', 'beit'))
  assert main(arguments('dvae', npz, first)) == 0
  assert main([*arguments('dvae', npz, second), '--config.seed=1']) == 0
  assert main([*arguments('beit', npz, beit), f'--config.codec={first}']) == 0
  assert 0 <= metrics.read(beit)[-1]['masked_accuracy'] <= 1
  capsys.readouterr()
  assert main([*arguments('beit', npz, beit), f'--config.codec={second}']) == 2
  assert 'codec: its weights are others' in capsys.readouterr().err


@pytest.mark.slow
def test_a_classifier_of_the_runs_own_is_tested_and_kept(npz, tmp_path, capsys):
  """FixMatch from another run: its table has a column, its directory a classifier."""
  first, run = tmp_path / 'first', tmp_path / 'run'
  assert main(arguments('simsiam', npz, first)) == 0
  short = ['--config.evals.linear.length=1 epochs', '--config.evals.linear.batch_size=16',
           '--config.evals.linear.held_out=0.2', '--config.evals.baselines=false']  # fmt: skip
  command = [*arguments('fixmatch', npz, run), f'--config.init_from={first}']
  assert main([*command, '--config.evals.final=true', *short]) == 0
  out = capsys.readouterr().out
  assert out.count('encoder from the given weights') == 2 and 'own top-1' in out
  assert 0 <= metrics.read(run)[-1]['own/top1'] <= 1
  found = classifier.load(run / 'evals/own-target-8')
  assert found.predict(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
  'scale', ['cifar10', 'cifar10_small', 'imagenette', 'imagenet', 'folder', 'folder_small']
)
@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_fits_every_scale(name, scale, monkeypatch):
  """Assembled at its real size against data of the right number of images, without computing."""
  from byoljax import config as config_lib
  from byoljax.data import fields
  from byoljax.data.sources import arrays
  from byoljax.protocols import labelled
  from byoljax.train import assemble

  monkeypatch.setenv('JAX_PLATFORMS', os.environ.get('JAX_PLATFORMS', 'cpu'))
  size = 1_300_000 if scale == 'imagenet' else 50_000
  if scale in ('imagenette', 'folder', 'folder_small'):
    size = 9_469
  # One image, as often as need be: nothing is read.
  image = np.broadcast_to(np.zeros((1, 8, 8, 3), np.uint8), (size, 8, 8, 3))
  config = config_lib.load(str(ROOT / 'configs' / f'{name}.py') + f':{scale}')
  channels = {'image': 3, 'mask': 1, 'map': 1}
  source = arrays.from_arrays(
    image,
    np.arange(size, dtype=np.int32) % 10,
    name=scale,
    class_names=None,
    num_classes=10,
    fields={
      field: image[..., : channels[field.kind]] for field in fields.parsed(config.data.fields)
    },
  )
  if config.data.labels:
    source = labelled.two_streams(source, config.data.labels, config.data.split_seed)
  run = assemble.from_config(config, source)
  assert 'encoder' in run.report
