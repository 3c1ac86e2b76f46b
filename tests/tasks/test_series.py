"""A run on series: what is found in the data, what is refused, and one from end to end."""

import numpy as np
import pytest

from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.main import main
from byoljax.protocols.extraction import EvalData
from byoljax.protocols.training import set_up
from byoljax.tasks import data as data_lib
from byoljax.train import assemble
from byoljax.train.record import Logging
from byoljax.workdir import metrics
from tests.paths import ROOT


@pytest.fixture
def file(tmp_path):
  rng = np.random.default_rng(0)
  phases = rng.uniform(0, 6, (40, 1, 2))
  labels = np.arange(40) % 2
  waves = np.sin(np.arange(20)[None, :, None] * (0.3 + 0.4 * labels[:, None, None]) + phases)
  np.savez(tmp_path / 's.npz', x_train=waves[:32], y_train=labels[:32], x_test=waves[32:],
           y_test=labels[32:])  # fmt: skip
  return tmp_path / 's.npz'


def recipe(file, **changes):
  config = config_lib.load(str(ROOT / 'configs' / 'next_step.py'))
  with config.unlocked():
    config.data.dir = str(file)
    config.views.view1.update(changes)
  return config


def test_the_data_say_how_long_series_are(file):
  config = recipe(file)
  source = data_lib.open_split(config, 'pretrain', None)
  assert config.encoder.series == (20, 2) and config.encoder.grid == 8
  assert config.views.view1.size == config.evals.image_size == 8
  assert len(config.data.mean) == 1
  run = assemble.from_config(config, source)
  assert run.method.net.parts[0][2].places == (20, 2)


def test_a_view_that_mixes_up_steps_is_refused(file):
  with pytest.raises(ConfigError, match=r'holds series.*: set flip_prob=0\.0 in'):
    data_lib.open_split(recipe(file, flip_prob=0.5), 'pretrain', None)
  with pytest.raises(ConfigError, match='crop_scale='):
    data_lib.open_split(recipe(file, crop_scale=(0.5, 1.0)), 'pretrain', None)


def test_classifiers_see_whole_series(file):
  source = data_lib.open_split(recipe(file), 'train', None)
  given = EvalData(source, source, 8, (0.5,), (0.5,), 8)
  fields = {'name': 'sgd', 'base_lr': 0.1, 'schedule': 'constant', 'warmup': '0 epochs'}
  chosen = set_up(
    source, given, optimizer=fields, length='2 steps', batch_size=8, crop_scale=(0.08, 1.0),
    logging=Logging('at the end', False, False), where='linear',
  )  # fmt: skip
  assert chosen.view.crop_scale == (1.0, 1.0) and chosen.view.flip_prob == 0


@pytest.mark.slow
def test_a_run_on_series_is_sampled_reported_and_probed(file, tmp_path):
  from byoljax.tasks.sample import sample

  run = tmp_path / 'run'
  arguments = [
    f'--config={ROOT}/configs/next_step.py', f'--workdir={run}', f'--config.data.dir={file}',
    '--config.train.length=40 steps', '--config.log.every=10 steps', '--config.train.batch_size=16',
    '--config.log.tensorboard=false', '--config.evals.linear.length=2 epochs',
  ]  # fmt: skip
  assert main(arguments) == 0
  rows = metrics.read(run)
  assert rows[-1]['bits_per_dim'] < 0.95 * np.log2(64)
  for name in ('report/reconstructions.png', 'report/samples.png', 'report.html', 'views.png'):
    assert (run / name).stat().st_size > 500
  sample(str(run), str(tmp_path / 'samples.png'), count=4)
