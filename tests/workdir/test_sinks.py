"""Weights & Biases and MLflow: small modules in their place and, where installed, themselves."""

import contextlib
import importlib.machinery
import json
import sys
import types

import numpy as np
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.length import make_length
from byoljax.main import main
from byoljax.tasks import pretrain
from byoljax.train import assemble, record
from byoljax.workdir import metrics, sinks
from byoljax.workdir.run_dir import Invocation
from tests.paths import ROOT
from tests.workdir.test_listing import make


class Named:
  """Whatever it was called with."""

  def __init__(self, *values, **fields):
    self.values = values
    self.__dict__.update(fields)


class FakeWandb(types.ModuleType):
  """Keeps what it is told, by the run's id."""

  Settings = Named

  def __init__(self, name):
    super().__init__(name)
    self.__spec__ = importlib.machinery.ModuleSpec(name, None)
    self.runs, self.begun = {}, []

  def init(self, **fields):
    self.begun.append(fields)
    assert fields['resume'] == 'allow'
    self.current = self.runs.setdefault(fields['id'], {'rows': [], 'steps': {}, 'ends': []})
    return self

  def define_metric(self, name, step_metric=None):
    self.current['steps'][name] = step_metric

  def log(self, row):
    self.current['rows'].append(row)

  def mark_preempting(self):
    self.current['ends'].append('preempting')

  def finish(self, exit_code):
    self.current['ends'].append(exit_code)


class FakeMlflow(types.ModuleType):
  """The same, in one store."""

  def __init__(self, name, store='sqlite:////somewhere/mlflow.db'):
    super().__init__(name)
    self.__spec__ = importlib.machinery.ModuleSpec(name, None)
    self.entities = types.ModuleType('mlflow.entities')
    self.entities.Metric = self.entities.Param = Named
    self.experiments, self.runs, self.asked, self.tracking_uri = {}, {}, [], store
    self.broken = False

  def MlflowClient(self, tracking_uri):
    self.asked.append(tracking_uri)
    return self

  def get_experiment_by_name(self, name):
    return Named(experiment_id=self.experiments[name]) if name in self.experiments else None

  def create_experiment(self, name):
    return self.experiments.setdefault(name, str(len(self.experiments)))

  def create_run(self, experiment, run_name):
    self.runs['r'] = {'name': run_name, 'of': experiment, 'params': {}, 'rows': [], 'status': []}
    return Named(info=Named(run_id='r'))

  def update_run(self, run, status):
    self.runs[run]['status'].append(status)

  def set_terminated(self, run, status):
    self.runs[run]['status'].append(status)

  def log_batch(self, run, metrics=(), params=()):
    if self.broken:
      raise ConnectionError('the server is gone.\nA second line.')
    assert len(params) <= 100
    self.runs[run]['params'] |= dict(param.values for param in params)
    for metric in metrics:
      name, value, milliseconds, step = metric.values
      assert milliseconds > 1e12
      self.runs[run]['rows'].append((name, value, step))


@pytest.fixture
def wandb(monkeypatch):
  monkeypatch.delenv('WANDB_PROJECT', raising=False)
  monkeypatch.setitem(sys.modules, 'wandb', FakeWandb('wandb'))
  return sys.modules['wandb']


@pytest.fixture
def mlflow(monkeypatch):
  monkeypatch.delenv('MLFLOW_EXPERIMENT_NAME', raising=False)
  monkeypatch.setitem(sys.modules, 'mlflow', FakeMlflow('mlflow'))
  monkeypatch.setitem(sys.modules, 'mlflow.entities', sys.modules['mlflow'].entities)
  return sys.modules['mlflow']


def write(workdir, steps, name, resume_step=0, outcome='finished'):
  writer = metrics.Writer(workdir, tensorboard=False, sinks=(name,), resume_step=resume_step)
  for step in steps:
    writer.write(step, {'loss': 1 / step, 'knn/top1': 0.5, 'note': 'text', 'odd': float('nan')})
  writer.close(outcome)
  writer.close(outcome)


def test_wandb_gets_the_rows_and_goes_on(wandb, tmp_path):
  run = make(tmp_path / 'mine')
  write(run, [1, 2, 3], 'wandb', outcome='stopped')
  write(run, [3, 4], 'wandb', resume_step=2)
  ((name, told),) = wandb.runs.items()
  assert json.loads((run / sinks.FILE).read_text()) == {'wandb': {'id': name}}
  assert [row['step'] for row in told['rows']] == [1, 2, 3, 3, 4]
  assert told['rows'][2] == told['rows'][3] == {'step': 3, 'loss': 1 / 3, 'knn/top1': 0.5}
  # By a step of their own: the service's count may not go back.
  assert told['steps'] == {'step': None, '*': 'step'}
  assert told['ends'] == ['preempting', 75, 0]
  first, second = wandb.begun
  assert first['project'] == 'byoljax' and first['name'] == 'mine' and first['dir'] == str(run)
  assert first['config']['recipe'].endswith('byol.py:cifar10')
  assert first['config']['method'] == {'name': 'byol'}
  assert first['settings'].disable_code and first['settings'].disable_git
  assert second['id'] == first['id']


def test_the_project_of_the_environment_stands(wandb, tmp_path, monkeypatch):
  monkeypatch.setenv('WANDB_PROJECT', 'theirs')
  write(make(tmp_path / 'run'), [1], 'wandb')
  assert wandb.begun[0]['project'] is None


def test_mlflow_gets_the_rows_and_goes_on(mlflow, tmp_path):
  run = make(tmp_path / 'mine')
  config = json.loads((run / 'config.json').read_text())
  config['config']['many'] = {str(i): i for i in range(250)} | {'long': 'x' * 900}
  (run / 'config.json').write_text(json.dumps(config))
  write(run, [1, 2, 3], 'mlflow', outcome='failed')
  write(run, [3], 'mlflow', resume_step=2, outcome='stopped')
  write(run, [4], 'mlflow', resume_step=3)
  ((name, told),) = mlflow.runs.items()
  assert told['name'] == 'mine' and mlflow.experiments == {'byoljax': told['of']}
  assert [row for row in told['rows'] if row[0] == 'loss'] == [
    ('loss', 1.0, 1), ('loss', 0.5, 2), ('loss', 1 / 3, 3), ('loss', 1 / 3, 3), ('loss', 0.25, 4)
  ]  # fmt: skip
  assert {row[0] for row in told['rows']} == {'loss', 'knn/top1'}
  assert told['status'] == ['FAILED', 'RUNNING', 'KILLED', 'RUNNING', 'FINISHED']
  assert told['params']['method.name'] == 'byol' and told['params']['many.7'] == '7'
  assert len(told['params']) == 254 and len(told['params']['many.long']) == 500
  store = 'sqlite:////somewhere/mlflow.db'
  assert json.loads((run / sinks.FILE).read_text()) == {'mlflow': {'id': name, 'store': store}}
  assert mlflow.asked == [None, store, store], 'a file is found again from another directory'


@pytest.mark.parametrize(
  ('store', 'kept'),
  [
    ('sqlite:///mlflow.db', 'sqlite:///{}/mlflow.db'),
    ('sqlite:////at/mlflow.db', 'sqlite:////at/mlflow.db'),
    ('file:///at/mlruns', 'file:///at/mlruns'),
  ],
)
def test_a_store_in_the_current_directory_is_found_from_another(
  store, kept, mlflow, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  mlflow.tracking_uri = store
  run = make(tmp_path / 'run')
  write(run, [1], 'mlflow', outcome='stopped')
  monkeypatch.chdir(run)
  write(run, [2], 'mlflow', resume_step=1)
  assert mlflow.asked == [None, kept.format(tmp_path)]


def test_addresses_with_passwords_are_not_kept(mlflow, tmp_path):
  mlflow.tracking_uri = 'https://me:secret@example.org'
  run = make(tmp_path / 'run')
  write(run, [1], 'mlflow')
  assert 'secret' not in (run / sinks.FILE).read_text()


def test_a_service_that_fails_does_not_end_the_run(mlflow, wandb, tmp_path, capsys):
  run = make(tmp_path / 'run')
  with metrics.Writer(run, tensorboard=False, sinks=('mlflow', 'wandb')) as writer:
    writer.write(1, {'loss': 1.0})
    mlflow.broken = True
    for step in (2, 3):
      writer.write(step, {'loss': 1.0})
  said = capsys.readouterr().out
  assert said == ('mlflow stopped accepting metrics (the server is gone): the run goes on without '
                  'it, metrics.jsonl has all of them.\n')  # fmt: skip
  assert len(metrics.read(run)) == 3
  assert len(next(iter(wandb.runs.values()))['rows']) == 3, 'the other one goes on'


def test_a_service_that_refuses_the_run_is_one_sentence(mlflow, wandb, tmp_path):
  mlflow.broken = True
  with pytest.raises(ConfigError, match='could not open this run in mlflow .the server is gone'):
    write(make(tmp_path / 'run'), [1], 'mlflow')
  run = make(tmp_path / 'other')
  with pytest.raises(ConfigError, match='could not open this run in mlflow'):
    metrics.Writer(run, tensorboard=False, sinks=('wandb', 'mlflow'))
  assert next(iter(wandb.runs.values()))['ends'] == [1], 'the other one was closed'


@pytest.mark.parametrize('text', ['{"wandb": {"id"', '5', '{"wandb": 5}', '\xff'])
def test_a_damaged_file_of_names_may_be_deleted(text, wandb, tmp_path):
  run = make(tmp_path / 'run')
  (run / sinks.FILE).write_text(text, encoding='latin-1')
  with pytest.raises(ConfigError, match=f"delete '{run / sinks.FILE}' to begin another run"):
    sinks.Sinks(('wandb',), run)
  assert not wandb.begun


@pytest.mark.parametrize(
  ('names', 'said'),
  [
    (('wanbd',), r"wanbd.*wandb"),
    (('wandb',), r"'wandb' needs a package .* pip install 'byoljax\[wandb\]'"),
    (('mlflow',), r"pip install 'byoljax\[mlflow\]'"),
  ],
)  # fmt: skip
def test_what_is_not_there_is_said(names, said, monkeypatch):
  monkeypatch.setattr(sinks.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ConfigError, match=said):
    sinks.check(names)


@pytest.mark.parametrize(
  ('steps', 'fails', 'ends'),
  [([2, 4], False, [0]), ([2, 3], False, ['preempting', 75]), ([2], True, [1])],
)
def test_how_a_run_ends_is_said(steps, fails, ends, wandb, tmp_path):
  length = Named(total_steps=4, batch_size=8, steps_per_epoch=2)
  run = Named(length=length, max_skipped=0, schedule=None, earlier=())
  cadence = record.Cadence(sinks=('wandb',))
  with (
    pytest.raises(FloatingPointError) if fails else contextlib.nullcontext(),
    record.Record(run, make(tmp_path / 'run'), cadence, 0, ('loss',)) as made,
  ):
    for step in steps:
      made.write(step, made.read(step, {'loss': np.float32(step)}))
    if fails:
      made.read(4, {'loss': np.float32(np.nan)})
  (told,) = wandb.runs.values()
  assert told['ends'] == ends and [row['loss'] for row in told['rows']] == steps


def test_the_field_is_handed_on(wandb):
  fields = [('log.sinks', '("wandb",)')]
  config = config_lib.load(f'{cli.recipes_directory()}/byol.py:smoke', fields)
  length = make_length('4 steps', batch_size=16, num_examples=64)
  assert assemble.cadence(config, length).sinks == ('wandb',)
  with config.unlocked():
    config.log.sinks = ('wanbd',)
  with pytest.raises(ConfigError, match='wanbd'):
    assemble.cadence(config, length)


@pytest.mark.slow  # It trains, half a minute.
@pytest.mark.usefixtures('made_once', 'no_pictures')
def test_a_run_that_breaks_off_resumes_in_its_service(wandb, tiny, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  arguments = [*tiny, '--config.log.sinks=("wandb",)', '--config.evals.knn.every=never']
  recipe, *fields = arguments
  fields = [tuple(field.removeprefix('--config.').split('=', 1)) for field in fields]
  config = config_lib.load(recipe.removeprefix('--config='), fields)

  def end(row):
    if row['step'] == 7:
      raise RuntimeError

  with pytest.raises(RuntimeError):
    pretrain.train(config, Invocation('byol', str(tmp_path / 'run')), record.Hooks(on_row=end))
  assert main([*arguments, f'--workdir={tmp_path / "run"}']) == 0
  (told,) = wandb.runs.values()
  assert [row['step'] for row in told['rows']] == [*range(1, 8), *range(6, 11)]
  assert told['ends'] == [1, 0]
  rows = metrics.read(tmp_path / 'run')
  assert [row['loss'] for row in rows] == [
    row['loss'] for row in told['rows'][:5] + told['rows'][7:]
  ]


def test_the_real_wandb_offline(tmp_path, monkeypatch):
  pytest.importorskip('wandb', reason='needs byoljax[wandb]')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  run = make(tmp_path / 'run')
  write(run, [1, 2, 3], 'wandb', outcome='stopped')
  write(run, [3, 4], 'wandb', resume_step=2)
  stored = json.loads((run / sinks.FILE).read_text())['wandb']['id']
  files = list((run / 'wandb').glob('offline-run-*/*.wandb'))
  assert len(files) == 2 and all(stored in file.name for file in files)
  assert all(b'knn/top1' in file.read_bytes() for file in files)


def test_the_real_mlflow_without_a_server(tmp_path, monkeypatch):
  mlflow = pytest.importorskip('mlflow', reason='needs byoljax[mlflow]')
  monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/mlflow.db')
  run = make(tmp_path / 'run')
  write(run, [1, 2, 3], 'mlflow', outcome='stopped')
  monkeypatch.delenv('MLFLOW_TRACKING_URI')
  write(run, [3, 4], 'mlflow', resume_step=2)
  stored = json.loads((run / sinks.FILE).read_text())['mlflow']
  client = mlflow.MlflowClient(stored['store'])
  history = client.get_metric_history(stored['id'], 'loss')
  assert sorted({(point.step, point.value) for point in history}) == [
    (step, pytest.approx(1 / step)) for step in (1, 2, 3, 4)
  ]
  assert client.get_run(stored['id']).info.status == 'FINISHED'
  assert client.get_run(stored['id']).data.params['method.name'] == 'byol'
