"""Runs that begin with existing weights: where they arrive, and what is said if they do not fit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.data.sources import datasets
from byoljax.encoders.encoder import Preprocessing, random_encoder
from byoljax.method import Refresh
from byoljax.tasks import pretrain
from byoljax.train import assemble, warm_start
from byoljax.weights import exporting
from tests.methods import test_contract as contract

MEAN, STD = (0.5,) * 3, (0.25,) * 3


def fresh(name):
  """Parameters and method state of a method at step 0, all zeros: nothing is compiled."""
  method = contract.make(name, axis=None)
  shapes = jax.eval_shape(method.init, jax.random.key(0), contract.batch_of(name))
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def given(**heads):
  """The contract's encoder with weights that tell apart, and heads as they are given."""
  encoder = contract._frozen()
  bn = jax.tree.map(lambda x: x + 2, encoder.bn)
  params = encoder.params | {role: tree for role, (tree, _) in heads.items()}
  return dataclasses.replace(
    encoder, params=params, bn=bn | {role: tree for role, (_, tree) in heads.items()}
  )


def assert_equal(made, wanted):
  jax.tree.map(np.testing.assert_array_equal, made, wanted)


@pytest.mark.parametrize('name', ['byol', 'moco', 'dino', 'moco_v3'])
def test_weights_arrive_in_online_and_target(name):
  params, state = fresh(name)
  encoder = given()
  new_params, new_state, report = warm_start.replace(params, state, encoder)
  assert_equal(new_params['encoder'], encoder.params['encoder'])
  assert_equal(new_state.bn['encoder'], encoder.bn['encoder'])
  assert_equal(new_state.target_params['encoder'], encoder.params['encoder'])
  assert_equal(new_state.target_bn['encoder'], encoder.bn['encoder'])
  # The state is donated: no array is in two places, nor is one of the encoder's.
  leaves = jax.tree.leaves((new_params['encoder'], new_state.target_params['encoder']))
  places = [leaf.unsafe_buffer_pointer() for leaf in (*leaves, *jax.tree.leaves(encoder.params))]
  assert len(set(places)) == len(places)
  # Everything else is as it was.
  assert_equal(new_params | {'encoder': 0}, params | {'encoder': 0})
  assert jax.tree.structure((new_params, new_state)) == jax.tree.structure((params, state))
  assert 'online network: encoder' in report and 'target network: encoder' in report


def test_without_a_target_there_is_one_place():
  params, state = fresh('simsiam')
  new_params, _, report = warm_start.replace(params, state, given())
  assert_equal(new_params['encoder'], given().params['encoder'])
  assert 'target' not in report


def test_heads_that_fit_if_wanted():
  params, state = fresh('byol')
  one = jax.tree.map(lambda x: x + 1, (params['projector'], state.bn['projector']))
  other = ({'linear1': {'kernel': np.zeros((3, 3))}}, {})
  encoder = given(projector=one, predictor=other, decoder=other)
  new_params, new_state, report = warm_start.replace(params, state, encoder, heads=True)
  assert_equal(new_params['projector'], one[0])
  assert_equal(new_state.target_params['projector'], one[0])
  assert_equal(new_state.target_bn['projector'], one[1])
  assert_equal(new_params['predictor'], params['predictor'])
  assert 'encoder, projector from the given weights; drawn at random: predictor (missing' in report
  assert 'not used: predictor, decoder' in report
  unwanted, _, _ = warm_start.replace(params, state, encoder)
  assert_equal(unwanted['projector'], params['projector'])


def test_what_does_not_fit_is_listed():
  params, state = fresh('byol')
  encoder = given()
  tree = dict(encoder.params['encoder'])
  tree['Conv_0'] = {'kernel': np.zeros((5, 5, 3, 8)), 'extra': np.zeros(2)}
  del tree['bn']
  with pytest.raises(ValueError) as error:
    warm_start.find(params, state, dataclasses.replace(encoder, params={'encoder': tree}))
  text = str(error.value)
  assert 'set config.encoder to the options' in text
  for line in ('missing: bn/scale (8,)', 'missing: Conv_0/bias (8,)',
               'unexpected: Conv_0/extra (2,)',
               'of another shape: Conv_0/kernel (5, 5, 3, 8), not (3, 3, 3, 8)'):  # fmt: skip
    assert line in text


def test_what_fits_and_means_something_else_is_told():
  encoder = random_encoder(
    {'name': 'pixels', 'input': 'rgb', 'pool': 'cls'}, Preprocessing(MEAN, STD, 8), 0
  )
  # As of `vit_small` and `vit_small_6heads`, and of dilated ResNets: the shapes are equal.
  encoder = dataclasses.replace(encoder, fields=encoder.fields | {'output_stride': 0})
  fields = {'name': 'small', 'input': 'lab', 'pool': 'cls', 'output_stride': 16}
  assert warm_start.differences(encoder, fields, Preprocessing(MEAN, (0.3,) * 3, 12, 'file')) == [
    "encoder.name is 'small' here, 'pixels' where the weights were trained",
    "encoder.input is 'lab' here, 'rgb' where the weights were trained",
    'encoder.output_stride is 16 here, 0 where the weights were trained',
    'data.std is (0.3, 0.3, 0.3) here, (0.25, 0.25, 0.25) where the weights were trained',
  ]


@pytest.fixture
def configured(tiny, npz):
  """A configuration of a small run on `npz`, and its images."""
  path, *overrides = (text.removeprefix('--config') for text in tiny)
  pairs = [tuple(text.removeprefix('.').split('=', 1)) for text in overrides]
  # The encoder of `untrained`.
  config = config_lib.load(path.removeprefix('='), [*pairs, ('encoder.name', 'small')])
  return config, datasets.load('npz', 'pretrain', data_dir=str(npz))


def test_a_run_starts_from_imported_weights(configured, untrained, tmp_path, capsys):
  """`untrained` is what an import leaves: an encoder and nothing else."""
  config, source = configured
  config.init_from = str(untrained)
  plain = assemble.from_config(config, source)
  run = pretrain._warm_started(plain, config, tmp_path)
  state, before = run.create(), plain.create()
  wanted = warm_start.load(str(untrained), mean=MEAN, std=STD)
  assert_equal(state.params['encoder'], wanted.params['encoder'])
  assert_equal(state.method_state.target_params['encoder'], wanted.params['encoder'])
  assert_equal(state.params['projector'], before.params['projector'])
  assert jax.tree.structure(state) == jax.tree.structure(before)
  shown = capsys.readouterr().out
  assert f'Starting from {untrained}' in shown and 'online network: encoder' in shown


@pytest.mark.parametrize('initial', [True, False])
def test_initial_values_from_the_data_do_not_replace_given_weights(configured, untrained, initial):
  """Work that comes again, such as clustering, is done before step 0 as well."""
  plain = assemble.from_config(*configured)
  refresh = Refresh(2**31 - 1, lambda params, state, *_: (params, state), initial=initial)
  plain = plain._replace(method=plain.method._replace(refresh=refresh))
  run, report = warm_start.warm_started(plain, warm_start.load(str(untrained), mean=MEAN, std=STD))
  assert run.method.refresh is (None if initial else refresh)
  assert ('not fitted to the images' in report) == initial


@pytest.mark.parametrize('name', ['image_gpt', 'masked_tokens', 'pixelcnn_pp'])
def test_which_methods_fit_initial_values_to_the_data(name):
  assert contract.make(name, axis=None).refresh.initial


def test_a_resumed_run_keeps_its_weights(configured, untrained):
  config, source = configured
  config.init_from = '/no/such/run'
  plain = assemble.from_config(config, source)
  assert pretrain._warm_started(plain, config, untrained) is plain, 'it has a checkpoint'


def test_another_encoder_is_refused(configured, untrained, tmp_path):
  config, source = configured
  with config.unlocked():
    config.init_from, config.encoder.width = str(untrained), 2
  with pytest.raises(ConfigError, match=r'do not fit this run.*\n.*bn1/bias \(32,\), not \(64,\)'):
    pretrain._warm_started(assemble.from_config(config, source), config, tmp_path)
  with config.unlocked():
    config.encoder.update(name='exemplar_cnn', width=1)
  with pytest.raises(ConfigError, match='has exemplar_cnn: add --encoder.name=small.$'):
    pretrain._warm_started(assemble.from_config(config, source), config, tmp_path)


def test_from_an_exported_folder(untrained, tmp_path):
  """The small encoder has no counterpart elsewhere: it is written under our own names."""
  wanted = warm_start.load(str(untrained), mean=MEAN, std=STD)
  (tmp_path / 'config.json').write_text(json.dumps(exporting._config(wanted)))
  save_file(exporting.weights_of(wanted), tmp_path / 'model.safetensors')
  found = warm_start.load(str(tmp_path), mean=(0.1,) * 3, std=(0.1,) * 3)
  assert_equal(found.params, wanted.params)
  assert_equal(found.bn, wanted.bn)
  assert found.preprocessing == wanted.preprocessing and found.fields == wanted.fields
  (tmp_path / 'config.json').unlink()
  with pytest.raises(ConfigError, match='no config.json beside it says which'):
    warm_start.load(str(tmp_path), mean=MEAN, std=STD)


@pytest.mark.parametrize('folder', ['weights', 'checkpoints'])
def test_from_a_file(folder, tmp_path):
  from tests.weights.test_weights import FIELDS, drawn

  path = tmp_path / folder / 'resnet18.safetensors'
  path.parent.mkdir()
  save_file(drawn('resnet18', prefix='backbone.'), path)
  encoder = warm_start.load(str(path), mean=MEAN, std=STD, fields=FIELDS)
  assert encoder.fields['name'] == 'resnet18' and encoder.preprocessing.mean == MEAN
  with pytest.raises(ConfigError, match=r"config\.init_from: there is no file '/no/such"):
    warm_start.load('/no/such/run', mean=MEAN, std=STD)
