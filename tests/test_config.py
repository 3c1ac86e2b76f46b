"""Configurations: loading, overriding, durations, and what is said about mistakes."""

import importlib
import importlib.machinery
import json

import ml_collections
import pytest

import byoljax
from byoljax import cli, length
from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.length import Length
from byoljax.optim.recipe import make_recipe
from byoljax.train import assemble
from tests.paths import ROOT

SHARED = ('__init__', 'base', 'scales')
RECIPES = sorted(p for p in (ROOT / 'configs').glob('*.py') if p.stem not in SHARED)
BYOL = str(ROOT / 'configs' / 'byol.py')


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda p: p.stem)
def test_recipes_are_parts_of_a_package(recipe):
  """Recipes of one's own begin with `from byoljax.configs import byol`."""
  module = importlib.import_module(f'byoljax.configs.{recipe.stem}')
  assert module.get_config('smoke').task
  assert 'from configs' not in recipe.read_text(), 'write `from . import`: a wheel has no configs'


def test_the_package_finds_the_recipes_by_itself():
  """In a clone, in a wheel, and without the finder of an editable install."""
  found = importlib.machinery.PathFinder.find_spec('byoljax.configs', byoljax.__path__)
  assert found and found.origin == str(ROOT / 'configs' / '__init__.py')


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads_and_has_a_smoke_version(recipe):
  for arg in ('', ':smoke'):
    config = config_lib.load(f'{recipe}{arg}')
    assert config.task
    assert config.is_locked


@pytest.mark.parametrize(
  'arg', ['shapes', 'cifar10', 'cifar10,1000', 'imagenette', 'imagenet,40', 'imagenet,1000',
          'folder', 'npz', 'folder,smoke']
)  # fmt: skip
def test_byol_presets_load(arg):
  config_lib.load(f'{BYOL}:{arg}')


def test_imagenet_presets_are_the_published_ones():
  config = config_lib.load(f'{BYOL}:imagenet,1000')
  assert (config.optim.base_lr, config.optim.weight_decay) == (0.2, 1.5e-6)
  assert config.method.base_tau == 0.996
  assert config.train.batch_size == 4096
  assert (config.views.view1.blur_prob, config.views.view2.blur_prob) == (1.0, 0.1)
  assert (config.views.view1.solarize_prob, config.views.view2.solarize_prob) == (0.0, 0.2)
  assert config.optim.name == 'lars' and config.optim.warmup == '10 epochs'


def test_overrides_keep_the_type():
  config = config_lib.load(
    BYOL,
    [
      ('optim.base_lr', '1'),
      ('seed', '1e3'),
      ('train.length', '5 epochs'),
      ('method.projector', '(64,32)'),
      ('optim.nesterov', 'true'),
      ('views.view1.crop_scale', '(0.2,1)'),
      ('evals.linear.base_lr', '0.1'),
    ],
  )
  assert config.optim.base_lr == 1.0 and isinstance(config.optim.base_lr, float)
  assert config.seed == 1000 and isinstance(config.seed, int)
  assert config.train.length == '5 epochs'
  assert config.method.projector == (64, 32)
  assert config.optim.nesterov is True
  assert config.views.view1.crop_scale == (0.2, 1.0)
  assert config.evals.linear.base_lr == (0.1,)


@pytest.mark.parametrize(
  ('name', 'text', 'said'),
  [
    ('optim.bse_lr', '1', "did you mean 'optim.base_lr'"),
    ('warmup', '1', "did you mean 'optim.warmup'"),
    ('optim', '1', 'is a group of fields'),
    ('zzz', '1', '--print_config'),
    # A group in common makes no two fields alike: this is not 'views.view1.contrast'.
    ('views.view1.shear', '1', ': views.view1 has blur_prob, '),
    ('views.view1.crop_scal', '1', "did you mean 'views.view1.crop_scale'"),
    ('optim.base_lr', 'fast', 'is not a number'),
    ('seed', '1.5', 'is not a whole number'),
    ('seed', 'inf', 'is not a whole number'),
    ('seed', '-1', 'seed=-1 must be at least 0 and at most 4294967295'),
    ('data.split_seed', '4294967296', 'split_seed=4294967296 must be at least 0 and at most'),
    ('evals.batch_size', '0', 'evals.batch_size=0 must be at least 1'),
    ('evals.image_size', '0', 'evals.image_size=0 must be at least 1'),
    ('data.threads', '-1', 'data.threads=-1 must be at least 0'),
    ('optim.nesterov', 'maybe', 'true or false'),
    ('optim.base_lr', 'nan', 'is not a number'),
    ('optim.base_lr', 'inf', 'is not a number'),
    ('views.view1.crop_scale', '(0.1,1e999)', 'is not a tuple'),
    ('optim.groups.predictor.base_rl', '1', "did you mean 'optim.base_lr'"),
    ('optim.groups.predictor', '1', 'unknown field'),
    ('data.classes', 'cat', "not a tuple such as (0.1, 0.3) or ('a', 'b')"),
    ('method.projector', '(a,b)', 'is not a tuple'),
    ('method.projector', '(1.5,2)', 'is not a tuple'),
    ('method.projector', '("x",)', 'is not a tuple'),
  ],
)
def test_bad_overrides_are_one_sentence(name, text, said):
  with pytest.raises(ConfigError, match='.*') as error:
    config_lib.load(BYOL, [(name, text)])
  assert said in str(error.value)
  assert '\n' not in str(error.value)


def test_the_users_own_fields_may_be_of_any_type_and_range():
  config = ml_collections.ConfigDict(
    {'method': {'image_size': (8, 8), 'first_seed': 0}, 'mine': {'batch_size': 'auto'}}
  )
  given = {'method.image_size': '(4, 4)', 'method.first_seed': '-1', 'mine.batch_size': 'most'}
  for name, text in given.items():
    config_lib.override(config, name, text)
  assert config.method.to_dict() == {'image_size': (4, 4), 'first_seed': -1}
  assert config.mine.batch_size == 'most'


def test_fields_of_a_group_of_parameters_are_those_of_the_optimizer():
  fields = [('optim.groups.predictor.base_lr', '1'), ('optim.groups.predictor.nesterov', 'true')]
  config = config_lib.load(BYOL, [*fields, ('optim.groups.predictor.base_lr', '2')])
  assert config.optim.groups.to_dict() == {'predictor': {'base_lr': 2.0, 'nesterov': True}}
  recipe = make_recipe(config.optim.to_dict() | {'warmup': '0 steps'}, Length(256, 10, 100))
  assert recipe.settings['predictor']['base_lr'] == 2.0
  assert 'groups' not in config_lib.load(f'{ROOT}/configs/linear.py')


def test_missing_and_broken_recipes(tmp_path):
  with pytest.raises(ConfigError, match='no configuration file'):
    config_lib.load(str(tmp_path / 'nothing.py'))
  broken = tmp_path / 'broken.py'
  broken.write_text('def get_config(:')
  with pytest.raises(ConfigError, match='not valid Python'):
    config_lib.load(str(broken))
  broken.write_text('x = 1')
  with pytest.raises(ConfigError, match='get_config'):
    config_lib.load(str(broken))
  with pytest.raises(ConfigError, match='valid: shapes'):
    config_lib.load(f'{BYOL}:imagnet')
  with pytest.raises(ConfigError, match="unknown option 'imagnet' .*; did you mean 'imagenet'"):
    config_lib.load(f'{BYOL}:imagnet')
  with pytest.raises(ConfigError, match="'imagenet' after the colon cannot be combined"):
    config_lib.load(f'{BYOL}:npz,imagenet')
  assert config_lib.load(f'{BYOL}:smoke,npz') == config_lib.load(f'{BYOL}:npz,smoke')
  with pytest.raises(ConfigError, match='no preset of 50 epochs'):
    config_lib.load(f'{BYOL}:imagenet,50')


@pytest.mark.parametrize(
  ('text', 'steps'),
  [('3 epochs', 30), ('0.5 epochs', 5), ('7 steps', 7), ('1 step', 1), ('6400 examples', 100),
   ('1e3steps', 1000), ('10 %', 20), ('10%', 20), ('2 ep', 20), ('0 steps', 0)],
)  # fmt: skip
def test_durations(text, steps):
  found = length.duration_steps('f', text, steps_per_epoch=10, batch_size=64, total_steps=200)
  assert found == steps


@pytest.mark.parametrize(
  'text', ['', '3', 'epochs', '-1 steps', '3 hours', 'nan steps', '1e999 steps']
)
def test_bad_durations(text):
  with pytest.raises(ValueError, match="is not a duration.*such as '10 epochs'"):
    length.duration_steps('f', text, steps_per_epoch=10, batch_size=64, total_steps=200)


def test_how_often_has_words():
  of = length.Length(batch_size=64, steps_per_epoch=10, total_steps=200)
  assert of.every('f', 'at the end') == of.every('f', '0 steps') == 0
  assert of.every('f', 'never', may_be_never=True) == -1 and of.every('f', '2 epochs') == 20
  assert of.every('f', '0.1 %') == of.every('f', '0.04 epochs') == 1, 'not at the end only'
  assert of.every('f', '0 %') == of.steps('f', '0.1 %') == 0
  for every in (0, -1):
    assert length.next_due(7, every) == float('inf') and not length.is_due(200, every)
  with pytest.raises(ValueError, match="'never' would leave nothing of the run: write 'at the e"):
    of.every('log.every', 'never')
  with pytest.raises(ValueError, match="f='often' is not.*; or write 'at the end' or 'never'."):
    of.every('f', 'often', may_be_never=True)


def test_a_length_is_a_number_of_32_bits():
  def of(text):
    return length.make_length(text, batch_size=64, num_examples=640).total_steps

  assert of('2147483647 steps') == 2**31 - 1
  for text in ('5e9 steps', '2147483648 steps', '1e300 epochs'):
    with pytest.raises(ValueError, match='a run has at most 2,147,483,647'):
      of(text)


def test_percentage_needs_a_total():
  with pytest.raises(ValueError, match='is not a duration'):
    length.duration_steps('f', '10 %', steps_per_epoch=10, batch_size=64)


def test_json_round_trip_is_exact():
  config = config_lib.load(BYOL)
  back = config_lib.from_json(json.loads(config_lib.to_json(config)))
  assert config_lib.flatten(back) == config_lib.flatten(config)
  assert config_lib.differences(config, back) == []


def test_home_directories(monkeypatch):
  monkeypatch.setenv('HOME', '/of/me')
  assert str(config_lib.expanded('~/run')) == config_lib.path_of('run', '~/run') == '/of/me/run'
  assert config_lib.path_of('run', './byol') == './byol' and config_lib.path_of('run', '') == ''
  for read in (config_lib.expanded, lambda path: config_lib.path_of('run', path)):
    with pytest.raises(ConfigError, match='~nobody_here/run.*write the path in full'):
      read('~nobody_here/run')


def test_differences_name_what_matters_only():
  config = config_lib.load(BYOL)
  other = config_lib.load(
    BYOL, [('seed', '1'), ('log.every', '1 steps'), ('checkpoint.keep', '9'), ('data.dir', 'x')]
  )
  assert config_lib.differences(config, other) == ['seed: 0 -> 1']


def test_describe_shows_every_field():
  config = config_lib.load(BYOL)
  text = config_lib.describe(config)
  for name in config_lib.flatten(config):
    assert f'--config.{name} ' in text or f'--config.{name}=' in text.replace(' ', '')


def test_nothing_derived_is_stored():
  """Doubling the batch must not leave a stale learning rate or step count behind."""
  config = config_lib.load(BYOL)
  doubled = config_lib.load(BYOL, [('train.batch_size', str(2 * config.train.batch_size))])
  assert config_lib.differences(config, doubled) == [
    f'train.batch_size: {config.train.batch_size} -> {2 * config.train.batch_size}'
  ]


def test_configs_are_config_dicts():
  assert isinstance(config_lib.load(BYOL), ml_collections.ConfigDict)


SCALES = ('shapes', 'cifar10', 'cifar10_small', 'imagenette', 'imagenette_small', 'folder', 'npz')
GIVEN = ('beit', 'bridge', 'distillation', 'prior')  # need a trained network, or are bridge's
TRAINED = [name for name in cli.recipes() if name not in GIVEN]
CHANGES = {
  'train.batch_size': '48',
  'views.view1.size': '40',
  'views.view2.size': '40',
  'train.length': '7 epochs',
}


@pytest.mark.parametrize('name', TRAINED)
def test_overrides_leave_no_derived_value_behind(name, monkeypatch):
  """A stored value derived from what is overridden would differ from the one built with it."""
  from configs import scales

  for scale in SCALES:
    path = f'{ROOT}/configs/{name}.py'
    fields = config_lib.flatten(config_lib.load(f'{path}:{scale}'))
    changes = [(field, text) for field, text in CHANGES.items() if field in fields]
    afterwards = config_lib.load(f'{path}:{scale}', changes)
    build = scales.SCALES[scale]

    def changed(config, build=build):
      build(config)
      for field, text in CHANGES.items():
        config_lib.override(config, field, text)

    with monkeypatch.context() as patch:
      patch.setitem(scales.SCALES, scale, changed)
      before = config_lib.load(f'{path}:{scale},7', changes)
    assert config_lib.flatten(afterwards) == config_lib.flatten(before), scale


@pytest.mark.parametrize('name', TRAINED)
def test_no_two_groups_are_one(name):
  """An override of one view must not reach another."""

  def groups(config):
    for value in config.values():
      if isinstance(value, ml_collections.ConfigDict):
        yield value
        yield from groups(value)

  for scale in SCALES:
    found = list(groups(config_lib.load(f'{ROOT}/configs/{name}.py:{scale}')))
    assert len({id(group) for group in found}) == len(found), scale


def test_sizes_that_follow_the_first_view_and_rates_that_follow_the_batch():
  config = config_lib.load(f'{ROOT}/configs/dino.py:cifar10_small', [('views.view1.size', '64')])
  assert [spec.size for spec in assemble.view_specs(config)] == [64, 32, 40, 40, 40, 40]
  optim = config_lib.load(f'{ROOT}/configs/dino.py:imagenet').optim.to_dict()
  for batch in (256, 1024):
    length = Length(batch, 10, 100)
    rate = make_recipe(optim | {'warmup': '0 steps'}, length).schedule
    assert float(rate(100)) == pytest.approx(1e-6, rel=1e-3)
    assert float(rate(0)) == pytest.approx(5e-4 * batch / 256, rel=1e-3)


def test_lists_within_tuples_come_back_from_json():
  config = config_lib.load(
    f'{config_lib.recipes_directory()}/byol.py', [('data.classes', '[[1], []]')]
  )
  assert config.data.classes == ((1,), ())
  assert config_lib.from_json(config_lib.as_data(config)) == config
