"""Where output and images lie: neither among the other's, and a message names the place."""

import json
import os
import pathlib
from unittest import mock

import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.data.sources import arrays, datasets
from byoljax.encoders.encoder import Preprocessing, random_encoder
from byoljax.plan import summary
from byoljax.report import compare
from byoljax.tasks import data as data_lib
from byoljax.tasks import dense, evaluation
from byoljax.weights import importing
from byoljax.workdir import places
from byoljax.workdir.run_dir import Invocation
from tests.said import one_sentence


def save(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(len(str(path)))
  Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path):
  """Two classes to train on."""
  root = tmp_path / 'photos'
  for name in ('train/cat/1.png', 'train/cat/2.png', 'train/dog/3.png', 'train/dog/4.png'):
    save(root / name)
  return root


def config_of(photos):
  recipe = f'{cli.recipes_directory()}/byol.py:folder'
  return config_lib.load(recipe, [('data.dir', str(photos))])


@pytest.mark.parametrize(
  'place', ['photos/runs/byol', 'photos', 'link/run', 'elsewhere/../photos/a']
)
def test_output_among_the_images_is_refused(photos, tmp_path, place, monkeypatch):
  """Its pictures would be images at the second start, which then is another run."""
  (tmp_path / 'link').symlink_to(photos / 'train')
  monkeypatch.chdir(tmp_path)
  for inside in (tmp_path / place, pathlib.Path(place)):
    with pytest.raises(config_lib.ConfigError, match='lies within the images .* outside of them'):
      data_lib.open_split(config_of(photos), 'pretrain', inside)
  assert data_lib.open_split(config_of(photos), 'pretrain', tmp_path / 'photos2').size == 4
  assert data_lib.open_split(config_of(photos), 'pretrain', None).size == 4


def test_the_command_says_so_before_anything_is_written(photos, capsys):
  workdir = photos / 'run'
  assert cli.run(['pretrain', 'byol:folder', f'--data.dir={photos}', f'--workdir={workdir}']) == 2
  error = capsys.readouterr().err
  assert 'Choose a --workdir outside' in error and one_sentence(error)
  assert not workdir.exists()


def test_no_sheet_lies_among_the_images(photos, tmp_path, monkeypatch):
  """`byoljax search` writes found.png where it is called, which may be the folder of images."""
  monkeypatch.chdir(photos)
  with pytest.raises(config_lib.ConfigError, match=r"'found.png' lies .* Choose a --out outside"):
    data_lib.require_sheet('found.png', config_of(photos).data)
  data_lib.require_sheet('../found.png', config_of(photos).data)
  data_lib.require_sheet('found.png', {'name': 'shapes', 'dir': ''})
  with pytest.raises(config_lib.ConfigError, match="--out=no/found.png: there is no folder 'no'"):
    data_lib.require_sheet('no/found.png', {'name': 'shapes', 'dir': ''})


@pytest.mark.parametrize(
  ('command', 'module', 'work'),
  [
    ('plan byol:smoke --topology=v5e:4x4 --no_compile --out={}', summary, 'make'),
    ('compare one other --out={}', compare, 'load'),
    ('import weights.pth --workdir={}', importing, 'encoder_of'),
    ('stats byol:smoke --workdir={}', datasets, 'load'),
  ],
)
def test_nothing_is_done_for_what_cannot_be_written(
  command, module, work, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').touch()
  never = mock.Mock()
  monkeypatch.setattr(module, work, never)
  assert cli.run(command.format('file/new').split()) == 2
  said = capsys.readouterr().err
  assert "cannot be written: 'file' is not a directory; name another." in said
  assert one_sentence(said) and not never.called


def test_masks_are_not_looked_through_for_what_cannot_be_written(tmp_path):
  (tmp_path / 'file').touch()
  recipe, run = (config_lib.load(f'{cli.recipes_directory()}/{n}.py') for n in ('segment', 'byol'))
  with pytest.raises(ConfigError, match="file' is not a directory"):
    dense.open_data('segmentation', recipe, run, tmp_path / 'file' / 'new')


def test_a_file_needs_a_folder_that_can_be_written(tmp_path, monkeypatch):
  places.require_file(tmp_path / 'new.csv', '--out')
  for given, problem in (
    (tmp_path, 'is a folder: name a file in it'),
    (tmp_path / 'no' / 'new.csv', 'there is no folder'),
    ('gs://bucket/new.csv', 'not a path on this computer'),
  ):
    with pytest.raises(ConfigError, match=problem):
      places.require_file(given, '--out')
  monkeypatch.setattr(os, 'access', lambda path, mode: False)  # Root may write anywhere.
  with pytest.raises(ConfigError, match='new.csv cannot be written: .* is read-only; make it'):
    places.require_file(tmp_path / 'new.csv', '--out')
  assert not list(tmp_path.iterdir())


def test_what_is_not_read_is_said_once(photos, capsys):
  (photos / 'train' / 'cat' / 'raw.nef').touch()
  for split in ('pretrain', 'train'):
    data_lib.open_split(config_of(photos), split, None)
  said = capsys.readouterr().out
  assert said.count('Note: 1 .nef file in') == 1


def test_a_flat_folder_of_test_images_is_named(photos):
  for number in range(3):
    save(photos / 'val' / f'{number}.png')
  with pytest.raises(config_lib.ConfigError) as caught:
    data_lib.open_labelled(config_of(photos), None)
  message = str(caught.value)
  assert str(photos / 'val' / '0.png') in message and 'have no labels' in message


def test_buckets_are_refused_before_anything_is_written(photos, tmp_path, capsys, monkeypatch):
  """A local folder 'gs:' would hold the run otherwise."""
  monkeypatch.chdir(tmp_path)
  for given in (
    [f'--data.dir={photos}', '--workdir=gs://bucket/run'],
    ['--data.dir=s3://bucket/photos'],
    ['--data.name=cityscapes', '--data.dir=s3://bucket/photos'],
  ):
    assert cli.run(['pretrain', 'byol:folder,smoke', '--data.name=folder', *given]) == 2
    assert 'is not a path on this computer' in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ['photos']


@pytest.mark.parametrize(
  ('recipe', 'fields', 'name'),
  [
    ('linear.py', (), 'linear-online-100'),
    ('linear.py:smoke', (), 'linear-online-100'),
    ('linear.py:simclr,smoke', (), 'linear-simclr-online-100'),
    ('linear.py:quick', (), 'linear-quick-online-100'),
    ('linear.py:simclr,quick', (), 'linear-simclr-quick-online-100'),
    ('segment.py:small', (('data.name', 'sprites'),), 'segment-small-online-100-sprites'),
    ('frozen.py:logistic', (('tap', 'projection'),), 'logistic-online-100-projection'),
    ('knn.py', (('data.name', 'folder'), ('data.dir', 'a/b')), 'knn-online-100-folder-b'),
    (
      'knn.py',
      (('data.name', 'tfds:c/d#e'), ('image_size', '64')),
      'knn-online-100-tfds-c-d-e-64px',
    ),
    (
      'knn.py',
      (('data.name', 'folder'), ('data.dir', 'photos.v2')),
      'knn-online-100-folder-photos.v2',
    ),
    ('frozen.py:few_labels', (('few_labels.classifier', 'svm'),), 'few_labels-svm-online-100'),
    ('frozen.py:retrieval', (('retrieval.gallery', 'train'),), 'retrieval-train-online-100'),
    ('taps.py:layers', (), 'layers-online-100'),
    ('taps.py:layers', (('probe', 'linear'),), 'layers-linear-online-100'),
    ('finetune.py', (('labels', '1 %'), ('split_seed', '2')), 'finetune-online-100-1pc-2'),
    ('finetune.py', (('labels', 'a/few.txt'),), 'finetune-online-100-few-0'),
    ('segment.py:small', (('images', '64'),), 'segment-small-online-100-64-0'),
    (
      'detect.py',
      (('images', '64'), ('detect.seed', '3'), ('detect.frozen', 'true')),
      'detect-online-100-64-3-frozen',
    ),
  ],
)
def test_evaluations_lie_beside_their_run(recipe, fields, name):
  """Two protocols, each asked for by name, leave both their results."""
  config = config_lib.load(f'{cli.recipes_directory()}/{recipe}', list(fields))
  found = evaluation.result_directory(
    config.task, config, pathlib.Path('run/checkpoints/100'), Invocation(f'configs/{recipe}', '')
  )
  assert found == pathlib.Path('run/evals') / name


def test_imported_weights_have_no_images_of_their_own(tmp_path):
  imported = config_lib.load(f'{cli.recipes_directory()}/import_weights.py')
  with imported.unlocked():
    imported.data.update(name='folder', dir=str(tmp_path / 'gone'))
  knn = config_lib.load(f'{cli.recipes_directory()}/knn.py')
  with pytest.raises(ConfigError, match='no images of their own: name yours, as in --data.name'):
    evaluation.data_of(knn, imported, 4, tmp_path)
  collapse = config_lib.load(f'{cli.recipes_directory()}/taps.py:collapse')
  with pytest.raises(ConfigError, match='--data.dir=photos.$'):
    evaluation.images_of(collapse, imported, tmp_path)
  trained = config_lib.load(f'{cli.recipes_directory()}/byol.py:npz', [('data.dir', 'gone.npz')])
  with pytest.raises(ConfigError, match="not at data.dir='gone.npz': name them with"):
    evaluation.data_of(knn, trained, 4, tmp_path)
  with knn.unlocked():
    knn.data.update(name='folder', dir=str(tmp_path / 'mine'))
  with pytest.raises(ConfigError, match='mine does not exist'):
    evaluation.data_of(knn, imported, 4, tmp_path)


@pytest.mark.parametrize('file', ['config.json', 'result.json'])
def test_folders_of_one_name_do_not_share_results(file, tmp_path):
  def place(folder):
    fields = [('data.name', 'folder'), ('data.dir', str(tmp_path / folder / 'images'))]
    config = config_lib.load(f'{cli.recipes_directory()}/knn.py', fields)
    checkpoint = tmp_path / 'run/checkpoints/100'
    found = evaluation.result_directory('knn', config, checkpoint, Invocation('configs/knn.py', ''))
    return found, config

  first, config = place('a')
  assert place('b')[0] == first, 'nothing is there yet'
  first.mkdir(parents=True)
  (first / file).write_text(json.dumps({'config': json.loads(config_lib.to_json(config))}))
  other, again = place('b')[0], place('b')[0]
  assert other == again != first == place('a')[0] == place('x/../a')[0]
  assert other.name.startswith(f'{first.name}-')
  (first / file).write_text('{')
  assert place('b')[0] == first, 'nothing that can be read'


def test_an_evaluation_resumes_on_the_same_encoder_alone(tmp_path):
  config = config_lib.load(f'{cli.recipes_directory()}/linear.py', [])
  train = arrays.from_arrays(np.zeros((2, 8, 8, 3), np.uint8), None, name='two', class_names=())
  preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, 8)
  first, other = (random_encoder({'name': 'small'}, preprocessing, seed) for seed in (0, 1))
  invocation = Invocation('configs/linear.py', '')
  for encoder in (first, first):
    evaluation.open_home(tmp_path, config, invocation, train, encoder)
  with pytest.raises(ConfigError, match='encoder: its weights are others'):
    evaluation.open_home(tmp_path, config, invocation, train, other)
