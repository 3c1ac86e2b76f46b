"""`byoljax.pretrain` and the run that it returns."""

import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import byoljax
from byoljax import cli, own
from byoljax.api import pretraining, saved_run, session
from byoljax.config import ConfigError
from byoljax.methods.joint_embedding.two_projections import from_projections
from byoljax.models.heads import MLPHead
from byoljax.models.net import stack
from byoljax.tasks import TASKS, classify
from byoljax.tasks import pretrain as task
from byoljax.workdir import checkpoint, run_dir
from tests.paths import ROOT

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 12, 12, 3), dtype=np.uint8)
LABELS = np.arange(24) % 2
SETTINGS = {
  **{f'views.view{v}.{name}_prob': 0.0 for v in (1, 2) for name in ('jitter', 'gray', 'blur')},
  **{f'views.view{v}.size': 12 for v in (1, 2)},
  'evals.image_size': 12,
  'evals.batch_size': 8,
  'train.batch_size': 8,
  'log.tensorboard': False,
  'log.every': '1 steps',
  'views.view2.solarize_prob': 0.0,
}


class Mine(nn.Module):
  """An encoder of the user's own."""

  features: int = 8

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(self.features)(x.mean((1, 2)))


def attract(make_encoder, setting, weight=1.0, on=None, most=math.inf):
  """A method of the user's own."""
  del on, most
  parts = (
    ('encoder', 'embedding', make_encoder(setting.axis)),
    ('projector', 'projection', MLPHead(features=(8, 4), bn_axis=setting.axis)),
  )
  return from_projections(stack(parts), lambda a, b: (weight * jnp.mean((a - b) ** 2), {}))


def arguments(workdir):
  return {
    'data': IMAGES, 'labels': LABELS, 'length': '4 steps', 'workdir': workdir,
    'encoder': Mine(features=6), 'method': attract,
    'settings': SETTINGS | {'method.weight': 2},
  }  # fmt: skip


def forgetful(make_encoder, setting):
  made = attract(make_encoder, setting)
  return made._replace(init=lambda key, batch: (made.init(key, batch)[0], {}))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run with an encoder, a method, data and callbacks of the user's own."""
  heard = {'rows': [], 'checkpoints': [], 'ends': []}
  with pytest.MonkeyPatch.context() as patch:
    from byoljax.report import curves, preview

    patch.setattr(preview, 'write_sheet', lambda *_, **__: None)
    patch.setattr(curves, 'plot_run', lambda *_, **__: 'curves.png')
    run = byoljax.pretrain(
      'byol:npz,smoke',
      **arguments(tmp_path_factory.mktemp('api') / 'run'),
      on_row=heard['rows'].append,
      on_checkpoint=lambda step, path: heard['checkpoints'].append((step, sorted(path.iterdir()))),
      on_end=heard['ends'].append,
    )
  return run, heard


def test_it_trains_what_is_the_users_own_and_says_so(trained):
  run, heard = trained
  assert run.step == 4 and heard['ends'] == [run]
  assert [row['step'] for row in heard['rows']] == [1, 2, 3, 4] == [r['step'] for r in run.rows]
  assert heard['rows'][-1]['loss'] == pytest.approx(run.rows[-1]['loss'], rel=1e-6)
  assert [step for step, _ in heard['checkpoints']] == [3, 4]
  assert all(files for _, files in heard['checkpoints']), 'it is complete when it is heard of'
  assert run.config.encoder.name == f'{__name__}:Mine(features=6)'
  assert run.config.method.name == f'{__name__}:attract'
  assert run.config.method.weight == 2.0
  assert not {'on', 'most'} & set(run.config.method), 'JSON has no such values'
  assert run.encoder(IMAGES[:3]).shape == (3, 6)
  assert 'Mine(features=6)' in repr(run) and 'loss' in run._repr_html_()


def test_it_is_evaluated_on_its_own_data_and_on_others(trained):
  run, _ = trained
  own = run.evaluate('knn')
  assert own['bank_size'] == 24 and 'folds' in own, 'there is no test split'
  other = run.evaluate('knn', IMAGES[:16], LABELS[:16], test=IMAGES, test_labels=LABELS)
  assert (other['bank_size'], other['queries']) == (16, 24)
  results = sorted(path.parent.name for path in run.directory.glob('evals/*/result.json'))
  assert results[0] == 'knn-online-4' and results[1].startswith('knn-online-4-given-')
  with pytest.raises(ConfigError, match="unknown evaluation 'kn': .* did you mean 'knn'"):
    run.evaluate('kn')


def test_the_same_call_resumes(trained, no_pictures, capsys):
  run, _ = trained
  again = byoljax.pretrain('byol:npz,smoke', **arguments(run.directory))
  assert again.step == 4 and 'already complete' in capsys.readouterr().out
  with pytest.raises(ConfigError, match='length'):
    byoljax.pretrain('byol:npz,smoke', **arguments(run.directory) | {'length': '5 steps'})


READ = """
import sys
import numpy as np
import byoljax
run = byoljax.open_run(sys.argv[1])
print(run.encoder(np.zeros((1, 12, 12, 3), np.uint8)).shape)
run.evaluate('knn')
"""


def test_another_process_reads_it_and_names_missing_images(trained):
  """The encoder is imported; images that were given are not there."""
  run, _ = trained
  done = subprocess.run(
    [sys.executable, '-c', READ, str(run.directory)],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert '(1, 6)' in done.stdout, done.stderr
  assert 'were given to byoljax by a program' in done.stderr.splitlines()[-1]


def test_an_encoder_that_is_gone_is_named_and_may_be_given(trained, monkeypatch):
  run, _ = trained
  monkeypatch.setattr(own, '_GIVEN', {})
  monkeypatch.setitem(sys.modules, __name__, None)
  with pytest.raises(ConfigError, match=r"encoder '.*:Mine.features=6.' cannot be imported"):
    byoljax.load(run.directory)
  assert byoljax.load(run.directory, module=Mine(6))(IMAGES[:2]).shape == (2, 6)


def test_a_module_that_is_given_begins_with_the_input_of_its_run(trained, monkeypatch):
  run, _ = trained
  config = run_dir.run_config(run.directory).copy_and_resolve_references()
  config.encoder.input = 'lab'
  monkeypatch.setattr(run_dir, 'run_config', lambda path: config)
  read = [byoljax.load(run.directory, module=module)(IMAGES[:2]) for module in (None, Mine(6))]
  np.testing.assert_array_equal(*read)


def recorded(monkeypatch, *given, **named):
  """The configuration and the place that a call trains."""
  calls = []

  def train(config, invocation, hooks):
    del hooks
    calls.append((json.loads(config.to_json()), invocation))
    return pathlib.Path(named.get('workdir', ''))

  monkeypatch.setattr(task, 'train', train)
  monkeypatch.setattr(pretraining, 'SavedRun', lambda *_: None)
  byoljax.pretrain(*given, **named)
  return calls[0]


def test_a_run_is_what_the_command_line_would_make_it(monkeypatch, tiny, npz, finished):
  """The same configuration, so the same directory: each resumes the other's."""
  fields = dict(word.removeprefix('--config.').split('=', 1) for word in tiny[1:])
  fields.pop('data.name')
  fields.pop('data.dir')
  length = fields.pop('train.length')
  fields |= {'log.csv': 'true'}
  config, _ = recorded(monkeypatch, 'byol:smoke', npz, length=length, settings=fields)
  theirs = json.loads((finished / 'config.json').read_text())['config']
  # The worker that trained it had a file of its own, equal to this one.
  for each in (config, theirs):
    assert each['data'].pop('dir').endswith('.npz')
  assert config == theirs


def test_data_by_path_and_name(monkeypatch, tmp_path, npz):
  config, invocation = recorded(monkeypatch, 'simclr:folder_small', tmp_path)
  assert (config['data']['name'], config['data']['dir']) == ('folder', str(tmp_path))
  assert invocation.workdir == 'runs/simclr-folder_small'
  config, _ = recorded(monkeypatch, 'byol', 'tfds:oxford_flowers102', settings={'seed': 3})
  assert config['data']['name'] == 'tfds:oxford_flowers102' and config['seed'] == 3
  from byoljax.configs import byol

  made = byol.get_config('npz')
  config, invocation = recorded(monkeypatch, made, npz, encoder='vit_micro')
  assert invocation[:2] == ('', 'runs/byol') and config['encoder']['name'] == 'vit_micro'
  assert config['encoder']['stem'] == 'imagenet', "that of the recipe's ResNet is left out"
  assert made.encoder.stem == 'cifar' and made.encoder.name == 'resnet18', 'it is copied'


@pytest.mark.parametrize(
  ('named', 'sentence'),
  [
    ({'data': 'nowhere'}, "data='nowhere' is neither a folder"),
    ({'labels': LABELS}, 'belong to data: give data='),
    ({'test_labels': LABELS}, 'belong to test images: give test='),
    ({'data': IMAGES, 'test_labels': LABELS}, 'belong to test images: give test='),
    ({'data': '.', 'labels': LABELS}, "arrays or lists of files, not with data='.'"),
    ({'data': 'photos.npz', 'test': IMAGES}, 'has class folders and a test split'),
    ({'data': 5}, 'data: data of type int cannot be read'),
    ({'recipe': 'byl'}, "no recipe 'byl'"),
    ({'settings': {'optim.base_rl': 1.0}}, "did you mean 'optim.base_lr'"),
    ({'settings': {'train.batch_size': 'many'}}, "'many' is not a whole number"),
    ({'data': IMAGES, 'encoder': 'no:Net'}, "encoder 'no:Net' cannot be imported"),
    ({'data': IMAGES, 'length': 'long'}, "train.length='long' is not a duration"),
    ({'length': 20}, "length=20 has no unit: write '20 epochs'"),
    ({'recipe': None}, "recipe=None is no recipe: give its name, such as 'byol:folder_small'"),
    ({'settings': [1]}, r"settings=\[1\] is no mapping: write {'optim.base_lr': 0.01}"),
    ({'settings': {1: 2}}, "unknown field '1'"),
    ({'settings': {'optim': {'base_rl': 1.0}}}, "unknown field 'optim.base_rl', did you mean"),
    (
      {'length': '2 epochs', 'settings': {'train': {'length': '3 epochs'}}},
      "settings have train.length='3 epochs', but length=... makes it '2 epochs': leave",
    ),
    (
      {'data': IMAGES, 'settings': {'data.dir': 'photos'}},
      "settings have data.dir='photos', but data=... makes it '': leave",
    ),
    (
      {'encoder': Mine(), 'settings': {'encoder.name': 'resnet18'}},
      "settings have encoder.name='resnet18', but encoder=... makes it '",
    ),
    (
      {'optimizer': 'mine:lion', 'settings': {'optim': {'name': 'sgd'}}},
      "settings have optim.name='sgd', but optimizer=... makes it 'mine:lion': leave",
    ),
    (
      {'method': attract, 'settings': {'method.name': 'simclr'}},
      "settings have method.name='simclr', but method=... makes it '",
    ),
    (
      {'views': {'view1': 'mine:noisy'}, 'settings': {'views.view1.own': 'mine:gray'}},
      "settings have views.view1.own='mine:gray', but views=... makes it 'mine:noisy': leave",
    ),
    ({'settings': {'data.dir': None}}, 'data.dir=None is not a value: leave it out'),
    ({'views': [len]}, r"is no mapping: write {'view1': function}"),
    ({'views': {'view1': 3}}, 'view=3 is neither a name nor a function'),
    ({'method': 3}, 'method=3 is neither'),
    ({'encoder': 3}, 'encoder=3 is neither'),
    ({'optimizer': 3}, 'optimizer=3 is neither'),
    ({'data': IMAGES, 'optimizer': 'no:Lion'}, "optimizer 'no:Lion' cannot be imported"),
    ({'on_row': 3}, 'on_row=3 is no function'),
    ({'workdir': 3}, "workdir=3 is no path: name a directory, such as 'runs/byol'"),
    ({'workdir': 'gs://bucket/run'}, 'is not a path on this computer'),
    ({'data': IMAGES[:5]}, 'more than the 5 images of given images'),
    ({'method': attract, 'settings': {'method.projector': (8, 4)}}, "unknown field 'method.projec"),
    ({'data': IMAGES, 'method': forgetful, 'settings': SETTINGS}, 'nothing at method_state.bn'),
    (
      {'data': IMAGES, 'labels': LABELS, 'method': forgetful, 'settings': SETTINGS},
      'nothing at method_state.bn',
    ),
    ({'data': IMAGES, 'encoder': Mine(), 'settings': {'encoder.width': 2}}, 'own and has no width'),
    ({'data': IMAGES, 'method': lambda make_encoder, setting: None}, 'the method is NoneType: its'),
  ],
)
def test_mistakes_are_one_sentence(named, sentence, tmp_path):
  given = {'recipe': 'byol:npz,smoke', 'workdir': tmp_path / 'run'} | named
  with pytest.raises(ConfigError, match=sentence) as caught:
    byoljax.pretrain(given.pop('recipe'), **given)
  assert str(caught.value).count('\n') == 0
  assert not (tmp_path / 'run').exists()


def configured(settings):
  config, _ = session.configuration('byol:npz')
  session.set_fields(config, settings)
  return config


def test_values_are_written_as_on_a_command_line():
  config = configured(
    {'method.projector': [8, 4], 'views.view1.crop_scale': (0.5, 1), 'data.classes': ()}
  )
  assert config.method.projector == (8, 4) and config.views.view1.crop_scale == (0.5, 1.0)
  assert config.data.classes == ()
  config = configured({'optim': {'base_lr': 0.1, 'groups': {'predictor': {'momentum': 0.5}}}})
  assert config.optim.base_lr == 0.1
  assert config.optim.groups.to_dict() == {'predictor': {'momentum': 0.5}}
  config = configured(
    {'method.projector': np.array([8, 4]), 'views.view1.crop_scale': np.array([0.5, 1]),
     'optim.base_lr': np.float32(0.1), 'seed': np.int64(3), 'data.classes': np.array([])},
  )  # fmt: skip
  assert (config.optim.base_lr, config.seed) == (0.1, 3)
  assert config.method.projector == (8, 4) and config.views.view1.crop_scale == (0.5, 1.0)
  assert config.data.classes == ()


def test_a_run_of_the_command_line_is_opened(finished):
  run = byoljax.open_run(finished)
  assert run.step == 10 and len(run.rows) == 10 and run.results == {}
  with pytest.raises(ConfigError, match='has no config.json'):
    byoljax.open_run(finished / 'checkpoints')
  with pytest.raises(ConfigError, match="unknown evaluation '3'"):
    run.evaluate(3)
  assert set(saved_run.EVALUATIONS) >= {'knn', 'linear', 'logistic', 'finetune', 'few-labels'}


def test_directories_may_begin_with_a_tilde(untrained, monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(untrained.parent))
  monkeypatch.chdir(tmp_path)
  run = f'~/{untrained.name}'
  assert byoljax.open_run(run).directory == untrained
  assert byoljax.load(run)(np.zeros((1, 12, 12, 3), np.uint8)).shape[0] == 1
  _, invocation = recorded(monkeypatch, 'byol:npz', IMAGES, workdir=run)
  assert invocation.workdir == str(untrained)
  placed = []
  monkeypatch.setitem(TASKS, 'pretrain', lambda _, invocation: placed.append(invocation.workdir))
  cli.run(['pretrain', 'byol', f'--workdir={run}'])
  assert placed == [str(untrained)]
  assert checkpoint.checkpoint_directory(run) == untrained / 'checkpoints' / '0'
  asked, encoder_of = [], classify.encoder_of

  def noted(config):
    asked.append(config['from'])
    return encoder_of(config)

  monkeypatch.setattr(classify, 'encoder_of', noted)
  monkeypatch.setattr(classify, 'make', lambda *given: asked.append(given[-1]))
  monkeypatch.setattr(classify, 'own_module', lambda _: None)
  byoljax.classify(IMAGES, LABELS, from_=run, workdir='~/made')
  assert asked == [str(untrained), untrained.parent / 'made'] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(('read', 'name'), [(byoljax.open_run, 'directory'), (byoljax.load, 'run')])
def test_what_is_no_path_is_named(read, name):
  with pytest.raises(ConfigError, match=f'^{name}=3 is no path: name a directory, such as'):
    read(3)


def test_another_run_in_the_same_place_has_its_own_encoder(untrained, tmp_path, monkeypatch):
  from byoljax.encoders import load
  from byoljax.workdir import integrity

  run = byoljax.open_run(shutil.copytree(untrained, tmp_path / 'run'))
  monkeypatch.setattr(load, 'load', lambda *_: object())
  first = run.encoder
  assert run.encoder is first
  os.utime(run.directory / 'checkpoints' / '0' / integrity.ITEM / 'metadata', (0, 0))
  assert run.encoder is not first


def test_a_report_is_shown_in_a_frame(tmp_path):
  page = tmp_path / 'report.html'
  page.write_text('<p class="a">1 & 2</p>')
  shown = saved_run.Report(page)._repr_html_()
  assert 'srcdoc="&lt;p class=&quot;a&quot;&gt;1 &amp; 2&lt;/p&gt;"' in shown
