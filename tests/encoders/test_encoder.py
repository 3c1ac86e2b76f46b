"""`Encoder`: through a method's network, with a classifier behind it, and rebuilt from facts."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import config as config_lib
from byoljax.data.sources import datasets
from byoljax.encoders import load, method_network, teachers
from byoljax.encoders.encoder import Preprocessing, untrained
from byoljax.models.heads import LinearHead
from byoljax.models.net import stack
from byoljax.models.taps import truncate
from byoljax.train import assemble
from byoljax.workdir.files import write_json
from tests.methods import test_contract as contract

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


class TestClassifier:
  KERNEL = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
  BIAS = np.arange(3, dtype=np.float32)

  def test_logits_are_those_of_the_head(self):
    encoder = contract._frozen()
    classifier = teachers.with_classifier(encoder, self.KERNEL, self.BIAS)
    assert classifier.dim == 3
    wanted = np.asarray(encoder(IMAGES)) @ self.KERNEL + self.BIAS
    np.testing.assert_allclose(classifier(IMAGES), wanted, rtol=1e-5, atol=1e-5)

  def test_an_inner_map_is_pooled_on_the_way(self):
    """Linear evaluations of a tap pool it; so does their classifier."""
    encoder = load_small()
    encoder = dataclasses.replace(encoder, net=truncate(encoder.net, ['stem']), tap='stem')
    kernel = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    classifier = teachers.with_classifier(encoder, kernel, self.BIAS)
    wanted = np.asarray(encoder(IMAGES)) @ kernel + self.BIAS
    np.testing.assert_allclose(classifier(IMAGES), wanted, rtol=1e-4, atol=1e-4)

  def test_the_logits_of_a_trained_head_are_features_like_any_other(self):
    encoder = contract._frozen()
    net = stack((*encoder.net.parts, ('head', 'logits', LinearHead(8))))
    params, bn = net.init(jax.random.key(0), encoder.preprocessing.example())
    encoder = dataclasses.replace(encoder, net=net, params=params, bn=bn, tap='logits')
    classifier = teachers.with_classifier(encoder, self.KERNEL, self.BIAS)
    wanted = np.asarray(encoder(IMAGES)) @ self.KERNEL + self.BIAS
    np.testing.assert_allclose(classifier(IMAGES), wanted, rtol=1e-5, atol=1e-5)

  def test_other_normalization_is_refused(self):
    seen = contract._teacher().preprocessing
    teachers.require_same_normalization('teacher', seen, (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match=r'config\.data\.std differs'):
      teachers.require_same_normalization('teacher', seen, (0.5,) * 3, (0.2,) * 3)


def load_small():
  from byoljax.encoders.encoder import random_encoder

  return random_encoder({'name': 'small'}, Preprocessing((0.5,) * 3, (0.25,) * 3, 8), 0)


@pytest.mark.parametrize('network', ['online', 'target'])
def test_a_run_in_training_is_read_through_its_methods_network(network):
  method = contract.make('byol', axis=None)
  shapes = jax.eval_shape(method.init, jax.random.key(0), contract.batch_of('byol'))
  count = iter(range(1000))
  params, state = jax.tree.map(lambda x: np.full(x.shape, next(count), np.float32), shapes)
  held = {'params': params, 'method_state': state}
  preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, 8)
  encoder = load.of_state(method.net, held, preprocessing, network)
  own = (params, state.bn) if network == 'online' else (state.target_params, state.target_bn)
  jax.tree.map(np.testing.assert_array_equal, encoder.params['encoder'], own[0]['encoder'])
  jax.tree.map(np.testing.assert_array_equal, encoder.bn['encoder'], own[1]['encoder'])
  assert list(encoder.params) == ['encoder'] and encoder.dim == 8
  again = load.of_state(method.net, held, preprocessing, network)
  assert again.net is encoder.net, 'periodic evaluations compile once'


def test_before_training_it_is_another_draw_without_heads():
  classifier = contract._teacher()
  fresh = untrained(classifier, seed=3)
  assert fresh.tap == 'embedding' and list(fresh.params) == ['encoder']
  assert jax.tree.map(jnp.shape, fresh.params) == jax.tree.map(
    jnp.shape, {'encoder': classifier.params['encoder']}
  )
  kernels = [tree['encoder']['Conv_0']['kernel'] for tree in (fresh.params, classifier.params)]
  assert np.abs(np.subtract(*kernels)).max() > 0.01


@pytest.mark.parametrize('name', ['byol', 'instance_discrimination', 'distillation'])
def test_a_method_is_built_again_from_what_its_run_recorded(name, npz, tmp_path):
  """Neither the data, nor the devices, nor a teacher have to be there."""
  config = config_lib.load(f'configs/{name}.py:npz,smoke')
  with config.unlocked():
    config.data.update(name='npz', dir=str(npz))
    config.probe.online = False
  source = datasets.load('npz', 'pretrain', data_dir=str(npz))
  given = {'teacher': contract._teacher()} if name == 'distillation' else {}
  run = assemble.from_config(config, source, given=given)
  facts = method_network.facts_of(run, given)
  write_json(tmp_path / 'config.json', {'facts': facts, 'config': config_lib.as_data(config)})
  net = method_network.network(config, tmp_path)
  example = jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)
  made = jax.eval_shape(lambda: net.init(jax.random.key(0), example))
  own = jax.eval_shape(lambda: run.method.net.init(jax.random.key(0), example))
  assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, own)
  assert [part[:2] for part in net.parts] == [part[:2] for part in run.method.net.parts]
  # Without them only the encoder is known.
  write_json(tmp_path / 'config.json', {'config': config_lib.as_data(config)})
  assert method_network.network(config, tmp_path) is None


@pytest.fixture(scope='module')
def encoder():
  return load_small()


class TestImages:
  """`Encoder.__call__`: right, or one sentence."""

  @pytest.mark.parametrize(
    'given',
    [list(IMAGES), IMAGES / 255, IMAGES.astype(np.float32) / 255, jnp.asarray(IMAGES),
     jnp.asarray(IMAGES, jnp.float32) / 255, tuple(IMAGES)],
  )  # fmt: skip
  def test_the_same_images_give_the_same_features(self, given, encoder):
    np.testing.assert_allclose(encoder(given), encoder(IMAGES), rtol=1e-4, atol=1e-5)

  @pytest.mark.parametrize(
    ('given', 'sentence'),
    [
      (IMAGES.astype(np.int32), r'type int32: .* uint8, 0 to 255, or floats in \[0, 1\]'),
      (IMAGES.astype(np.uint16), 'type uint16'),
      (IMAGES > 100, 'type bool'),
      (IMAGES.tolist(), 'type int64'),
      (IMAGES.astype(np.float32), 'floats from 0 to 25[0-9], not in .*: divide by 255'),
      (IMAGES / 127.5 - 1, 'floats from -1 to .*: give images as they are, before any norm'),
      (np.full((1, 8, 8, 3), np.nan), 'not finite'),
      (
        IMAGES.transpose(0, 3, 1, 2),
        r'\[3, 3, 8, 8\]: the channels come first .*\(0, 2, 3, 1',
      ),
      (IMAGES[0], r'one image needs a first axis of 1'),
      (IMAGES[..., :1], 'trained on images of 3 channels'),
      (IMAGES[:0], 'got none'),
      ([IMAGES[0], IMAGES[1, :4]], 'arrays of one size, got list'),
      (['photo.jpg'], 'arrays of one size, got list'),
    ],
  )
  def test_others_are_named(self, given, sentence, encoder):
    with pytest.raises(ValueError, match=sentence) as caught:
      encoder(given)
    assert '\n' not in str(caught.value)

  def test_inside_of_a_transformation_only_the_shape_is_known(self, encoder):
    shape = jax.eval_shape(encoder, jax.ShapeDtypeStruct((5, 8, 8, 3), np.float32)).shape
    assert shape == (5, 128)


def test_an_encoder_is_pickled_with_its_tap():
  encoder = load_small()
  encoder = dataclasses.replace(encoder, net=truncate(encoder.net, ['stem']), tap='stem')
  wanted = encoder(IMAGES)  # What is compiled stays behind.
  again = pickle.loads(pickle.dumps(encoder))
  assert again.fields == encoder.fields and again.dim == 16
  np.testing.assert_array_equal(again(IMAGES), wanted)


def test_a_notebook_shows_no_weights():
  shown = repr(load_small())
  assert "tap='embedding'" in shown and 'array' not in shown and len(shown) < 1000


def test_processes_that_find_another_checkpoint_are_refused(request, monkeypatch):
  """As where a run goes on while it is evaluated."""
  run, told = request.getfixturevalue('untrained'), []
  monkeypatch.setattr(load.hosts, 'differing', lambda text: told.append(text) or [1])
  load.load(run)
  assert told == []
  monkeypatch.setattr(load.processes, 'is_multiprocess', lambda: True)
  with pytest.raises(config_lib.ConfigError, match='another checkpoint in process 1 than in proc'):
    load.load(run)
  assert len(told) == 1
