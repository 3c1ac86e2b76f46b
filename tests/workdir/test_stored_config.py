import json
import os
import threading

import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.workdir import history, run_dir, stored_config


def recipe(name):
  return config_lib.as_data(config_lib.load(f'{config_lib.recipes_directory()}/{name}.py'))


def without(data, *names):
  """A copy that lacks some fields, as a run has that is older than they."""
  data = json.loads(json.dumps(data))
  for name in names:
    *path, last = name.split('.')
    fields = data
    for part in path:
      fields = fields[part]
    del fields[last]
  return data


@pytest.mark.parametrize('name', ['byol', 'dino', 'deepcluster', 'multi_task', 'rotation'])
def test_fields_that_came_later_take_their_defaults(name):
  newest = recipe(name)
  later = ['data.range', 'optim.layer_decay', 'evals.linear.norm', 'evals.baselines', 'profile']
  later += ['encoder.series', 'method.auxiliary_weight']
  later += [f'views.{view}.randaugment_ops' for view in newest['views']]
  assert config_lib.as_data(stored_config.stored(without(newest, *later))) == newest


def test_what_the_run_has_is_kept():
  config = recipe('byol')
  config['optim'].update(base_lr=0.123, groups={'predictor': {'base_lr': 1.0}})
  config['views'] = {'only': config['views']['view2']}
  config['method']['temperature_of_mine'] = 3.0
  assert config_lib.as_data(stored_config.stored(config)) == config
  tasks = recipe('multi_task')
  tasks['method']['parts'].popitem()
  assert config_lib.as_data(stored_config.stored(tasks)) == tasks


@pytest.mark.parametrize('name', cli.recipes())
def test_nothing_is_added_to_what_is_new(name):
  assert config_lib.as_data(stored_config.stored(recipe(name))) == recipe(name)


def test_evaluations_get_the_fields_that_their_recipe_has_gained():
  """They can be resumed, then; what is no recipe of the package's is never run."""
  directory = config_lib.recipes_directory()
  for options, smoke in (('small', False), ('small,smoke', True), ('', False)):
    newest = config_lib.as_data(config_lib.load(f'{directory}/finetune.py:{options}'))
    older = without(newest, 'finetune.crops', 'finetune.optim.layer_decay', 'split_seed')
    found = stored_config.stored(older, f'/another/place/finetune.py:{options}')
    assert config_lib.as_data(found) == newest
    assert (newest['labels'] == '8 per class') == smoke
  told = {'task': 'finetune', 'seed': 1}
  for recipe in (
    '',
    '/mine/recipe.py',
    'configs/byol.py:smoke',
    'finetune.py:gone',
    '../configs/finetune.py:x,y',
  ):
    assert config_lib.as_data(stored_config.stored(told, recipe)) == told


def test_an_older_evaluation_is_resumed(tmp_path):
  path = f'{config_lib.recipes_directory()}/finetune.py:small'
  config = config_lib.load(path)
  record = {'recipe': path, 'config': without(config_lib.as_data(config), 'finetune.crops')}
  (tmp_path / 'config.json').write_text(json.dumps(record))
  run_dir.open_workdir(tmp_path, config, run_dir.Invocation(path, ''), 'photos', '')
  with config.unlocked():
    config.finetune.crops = 10
  with pytest.raises(config_lib.ConfigError, match='finetune.crops: 1 -> 10'):
    run_dir.open_workdir(tmp_path, config, run_dir.Invocation(path, ''), 'photos', '')


@pytest.mark.parametrize('name', ['mine:method', 'depth'])
def test_methods_without_a_recipe_of_their_own(name):
  config = recipe('byol')
  config['method'] = {'name': name, 'width': 3}
  assert config_lib.as_data(stored_config.stored(without(config, 'data.labels'))) == config


def test_a_name_is_no_path(tmp_path):
  (tmp_path / 'method.py').write_text('raise SystemExit("code of a stranger was run")')
  config = recipe('byol')
  up = '../' * len(config_lib.recipes_directory().parts)
  config['method'] = {'name': f'{up}{tmp_path}/method'}
  assert config_lib.as_data(stored_config.stored(config)) == config


def test_encoders():
  found = stored_config.stored_encoder({'name': 'small', 'series': [4, 2]})
  assert (found['name'], found['series'], found['output_stride']) == ('small', (4, 2), 0)
  assert stored_config.stored_encoder({}) == {}


def test_an_extended_run_knows_its_checkpoints_from_before_a_field(tmp_path):
  config = recipe('byol')
  older = without(config, 'data.range') | {'seed': 3}
  record = {'config': older, 'data_fingerprint': 'x', 'facts': {'total_steps': 5}}
  (tmp_path / 'config.json').write_text(json.dumps(record))
  before = history.identities(tmp_path)
  longer = config | {'seed': 3, 'train': config['train'] | {'length': '9 steps'}}
  history.record(tmp_path, longer, step=4, facts={'total_steps': 9}, fingerprint='x')
  now = history.identities(tmp_path)
  assert now[1:] == before and now[0] != before[0]


def test_a_run_is_read(untrained, tmp_path):
  record = json.loads((untrained / 'config.json').read_text())
  record['config'] = without(record['config'], 'data.unlabelled', 'encoder.output_stride')
  (tmp_path / 'config.json').write_text(json.dumps(record))
  assert run_dir.run_config(tmp_path) == run_dir.run_config(untrained)


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path):
  path = tmp_path / 'config.json'
  os.mkfifo(path)
  writer = threading.Thread(target=path.write_text, args=('{"config": {}}',), daemon=True)
  writer.start()
  with pytest.raises(ConfigError, match='cannot be read'):
    run_dir.stored_record(tmp_path)
  reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # So that the writer can end.
  writer.join()
  os.close(reader)
