"""What somebody with fifteen labelled images types: every evaluation answers, none refuses."""

import json
import pathlib
import types

import numpy as np
import pytest

from byoljax import cli, config
from byoljax.data.sources import arrays
from byoljax.length import Length
from byoljax.main import main
from byoljax.protocols import folds
from byoljax.tasks import evaluation, pretrain
from byoljax.workdir import metrics

QUIET = ('--log.tensorboard=false',)
# Command -> what makes it short; batches and rows of labels stay as they are by default.
SHORT = {
  'knn': (),
  'logistic': ('--logistic.lambdas=(0.1,1.0)',),
  'few-labels': ('--few_labels.draws=2',),
  'anomaly': (),
  'linear': ('--linear.length=6 steps', '--linear.base_lr=(0.1,1.0)', *QUIET),
}


def colors(path, train, test):
  """Three classes that differ in color, 12 pixels: `train` and `test` images of each."""
  rng = np.random.default_rng(0)
  arrays = {}
  for split, count in (('train', train), ('test', test)):
    if count:
      labels = np.repeat(np.arange(3, dtype=np.int32), count)
      images = rng.integers(0, 100, (len(labels), 12, 12, 3), dtype=np.uint8)
      images[np.arange(len(labels)), :, :, labels] += 120
      arrays |= {f'x_{split}': images, f'y_{split}': labels}
  np.savez(path, **arrays)
  return path


@pytest.fixture(scope='module')
def fifteen(tmp_path_factory):
  return colors(tmp_path_factory.mktemp('few') / 'fifteen.npz', 5, 4)


@pytest.fixture(scope='module')
def without_test(tmp_path_factory):
  return colors(tmp_path_factory.mktemp('few') / 'no_test.npz', 5, 0)


def evaluated(name, run, data, workdir, capsys):
  command = [name, str(run), '--data.name=npz', f'--data.dir={data}', f'--workdir={workdir}']
  assert cli.run([*command, *SHORT[name]]) == 0, capsys.readouterr().err
  return json.loads((workdir / 'result.json').read_text())['result'], capsys.readouterr().out


@pytest.mark.parametrize('name', SHORT)
def test_with_five_labels_per_class(name, untrained, fifteen, tmp_path, capsys):
  result, shown = evaluated(name, untrained, fifteen, tmp_path, capsys)
  if name == 'linear':
    # 13 images are left to train on, and four devices share them.
    assert result['batch_size'] == 12 and 'batch 12' in shown
  if name == 'few-labels':
    assert [row['labels'] for row in result['rows']] == ['1 per class', '5 per class']
    assert '20 per class: skipped, the smallest class has 5' in shown
  if name == 'knn':
    assert shown.count('<- headline') == 1
    (row,) = [line for line in shown.splitlines() if '<- headline' in line]
    assert row.split()[:2] == ['15', '0.10']
  if name in ('knn', 'logistic'):
    assert result['top1'] > 0.6, 'colors are separable'


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=pytest.mark.slow if n == 'linear' else ()) for n in SHORT]
)
def test_without_a_test_split_all_are_tested(
  name, untrained, without_test, tmp_path, capsys, monkeypatch
):
  count = 2 if name in ('knn', 'linear', 'logistic') else 5
  monkeypatch.setattr(folds, 'FOLDS', count)
  result, shown = evaluated(name, untrained, without_test, tmp_path, capsys)
  assert f'cross-validated in {count} parts: there is no test split' in shown
  assert len(result['folds']) == count
  if 'majority' in result:
    assert result['majority'] == pytest.approx(1 / 3), 'of all images, not of each part'
  if name in ('knn', 'logistic', 'linear'):
    assert f'± {result["top1_sd"]:.2%}' in shown and 'on 15 test images' in shown
    assert result['top1'] == pytest.approx(np.mean([fold['top1'] for fold in result['folds']]))


def test_retrieval_without_a_test_split_is_among_all(untrained, without_test, tmp_path, capsys):
  """Nothing is learned, so nothing is held out: of a part's few images the best are all."""
  command = ['retrieval', str(untrained), '--data.name=npz', f'--data.dir={without_test}']
  for gallery, counts in (('queries', (15, 14)), ('train', (15, 12))):
    home = tmp_path / gallery
    assert cli.run([*command, f'--retrieval.gallery={gallery}', f'--workdir={home}']) == 0
    result = json.loads((home / 'result.json').read_text())['result']
    assert (result['queries'], result['gallery']) == counts
    assert ('folds' in result) == (gallery == 'train')
    assert ('(all: there is no test split)' in capsys.readouterr().out) == (gallery == 'queries')


@pytest.mark.parametrize(
  ('flags', 'sentence'),
  [
    (['--linear.batch_size=0'], 'linear.batch_size=0'),
    (['--linear.batch_size=6'], 'linear.batch_size=6 is not a multiple of 4 devices'),
    (['--linear.length=soon'], "linear.length='soon' is not a duration"),
    (['--linear.warmup=90 epochs'], "linear.warmup='90 epochs' is"),
    (['--linear.held_out=1.5'], 'held_out=1.5 must be between'),
    (['--linear.kernel_init=ones'], "unknown linear.kernel_init 'ones'"),
    (['--linear.name=sdg'], "did you mean 'sgd'"),
    (['--linear.crop_scale=(0.5,2.0)'], 'linear: crop_scale is'),
    (['--log.every=often'], "log.every='often' is not a duration"),
  ],
)
def test_a_refused_run_leaves_nothing(flags, sentence, untrained, fifteen, tmp_path, capsys):
  command = ['linear', str(untrained), '--data.name=npz', f'--data.dir={fifteen}',
             f'--workdir={tmp_path / "out"}', *QUIET, *flags]  # fmt: skip
  assert cli.run(command) == 2
  error = capsys.readouterr().err
  assert sentence in error and 'train.batch_size' not in error
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('flags', 'sentence'),
  [
    (['--evals.knn.every=sometimes'], "evals.knn.every='sometimes' is not a duration"),
    (['--checkpoint.every=sometimes'], "checkpoint.every='sometimes' is not a duration"),
    (['--evals.knn.k=(0,)'], 'ks=(0,) must be numbers of neighbors'),
    (['--evals.linear.length=soon'], "evals.linear.length='soon' is not a duration"),
  ],
)
def test_pretraining_is_refused_before_it_begins(flags, sentence, npz, tmp_path, capsys):
  command = ['pretrain', 'byol:npz,smoke', f'--data.dir={npz}', '--data.name=npz',
             '--evals.final=true', f'--workdir={tmp_path / "out"}', *QUIET, *flags]  # fmt: skip
  assert cli.run(command) == 2
  assert sentence in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_views_need_no_batch(fifteen, tmp_path, capsys):
  """MoCo at its batch of 256 with a queue, of 15 images, on four devices."""
  command = ['views', 'moco:npz', f'--data.dir={fifteen}', f'--workdir={tmp_path}']
  assert cli.run([*command, '--train.accumulate=3']) == 0, capsys.readouterr().err
  assert (tmp_path / 'views.png').exists() and not (tmp_path / 'config.json').exists()


def test_a_run_says_how_long_it_is_and_evaluates_never(tiny, tmp_path, capsys, no_pictures):
  command = [*tiny, '--config.encoder.name=pixels', '--config.evals.knn.every=never',
             '--config.checkpoint.every=at the end', f'--workdir={tmp_path}']  # fmt: skip
  assert main([*command]) == 0
  shown = capsys.readouterr().out
  assert '10 steps of 16 images, 2 epochs of 5 steps' in shown
  assert 'This run is 10 steps long: enough to see' in shown
  assert 'tensorboard --logdir' not in shown, 'nothing was written for it'
  assert 'bank while training' not in shown, 'no k-NN has a bank'
  rows = metrics.read(tmp_path)
  assert len(rows) == 10 and not [name for name in rows[-1] if name.startswith('knn')]
  assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['10']


def test_one_of_anything_is_said_in_the_singular(tmp_path):
  settings = config.load(f'{cli.recipes_directory()}/byol.py:npz')
  one = types.SimpleNamespace(size=1, name='photo.npz')
  run = types.SimpleNamespace(length=Length(1, 1, 1), source=one, warmup_steps=1, earlier=())
  said = pretrain._headline(settings, run, tmp_path)
  assert '1 image of photo.npz\n1 step of 1 image, 1 epoch of 1 step; warm-up 1 step;' in said
  assert 'This run is 1 step long' in said


def test_who_has_no_labels_is_told_that_few_will_do():
  recipe, run = f'{cli.recipes_directory()}/byol.py', pathlib.Path('runs/byol')
  folder = config.load(f'{recipe}:folder_small', [('data.dir', 'my photos')])
  photos = arrays.from_arrays(np.zeros((2, 4, 4, 3), np.uint8), None)
  said = pretrain.no_evaluation(folder, photos, 'photos has no labels.', run)
  assert said.startswith('No k-NN or linear evaluation: photos has no labels. A few labels')
  assert "byoljax classify 'my photos' --labels=labels.csv --from=runs/byol" in said
  npz = config.load(f'{recipe}:npz')
  assert 'classify' not in pretrain.no_evaluation(npz, photos, 'no labels.', run)
  labelled = arrays.from_arrays(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2))
  assert 'classify' not in pretrain.no_evaluation(folder, labelled, 'others in the test.', run)


def test_what_is_not_calibrated_says_so():
  found = {'ece': 0.097, 'ece_uncalibrated': 0.097, 'temperature': 1.0, 'images': 0}
  assert 'error 9.7% of test images, not calibrated' in evaluation.calibration_text(found)
  found |= {'ece_uncalibrated': 0.2, 'temperature': 1.5, 'images': 30}
  assert '20.0% uncalibrated (temperature 1.5 from 30 images)' in evaluation.calibration_text(found)
