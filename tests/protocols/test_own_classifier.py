"""A method's own classifier: that of its network, and tested on images whose label it never saw."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from byoljax.config import ConfigError
from byoljax.data.sources import arrays
from byoljax.encoders.encoder import Preprocessing
from byoljax.protocols import labelled, own_classifier
from byoljax.protocols.extraction import EvalData
from tests.methods import test_contract as contract

FIELDS = {'max_bank': 0, 'max_queries': 1000}
SEEN = Preprocessing((0.5,) * 3, (0.25,) * 3, 8)


@functools.cache
def data_of():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (60, 8, 8, 3), np.uint8)
  train = arrays.from_arrays(images, np.arange(60) % 3, name='train')
  test = arrays.from_arrays(images[:20], np.arange(20) % 3, name='test')
  return EvalData(train, test, image_size=8, mean=SEEN.mean, std=SEEN.std, batch_size=16)


@pytest.mark.parametrize('text', ['15', '5 per class', '25 %'])
def test_held_out_images_were_not_told(text):
  data = data_of()
  held = own_classifier.held_out(data, text, 0, FIELDS, 0)
  told = labelled.positions(data.train, text, 0)
  assert len(told) == 15 and held.test.size == 9  # a fifth of the others
  names = {data.train.locate(int(row)) for row in told}
  assert not names & {held.test.locate(row) for row in range(held.test.size)}
  assert own_classifier.held_out(data, '100 %', 0, FIELDS, 0) is None


@pytest.mark.parametrize('classes', [(), (0, 2)])
def test_told_images_are_the_same_among_others(classes):
  """Images without a label, and of classes that are not trained on, shift the rows."""
  data = data_of()
  images = data.train.read(np.arange(60))[0]
  labels = np.where(np.arange(60) % 4 == 1, -1, data.train.labels)
  train = arrays.from_arrays(images, labels, name='train')
  pretraining = train.of_classes(classes)
  for seed in range(4):
    streams = labelled.two_streams(pretraining, '4 per class', seed)
    taught = streams.read(np.arange(streams.size - pretraining.size), ('image',))[0]
    _, told = labelled.told(train, '4 per class', seed, classes)
    np.testing.assert_array_equal(images[told], taught)
    held = own_classifier.held_out(
      data._replace(train=train), '4 per class', seed, FIELDS, 0, classes
    )
    names = {train.locate(int(row)) for row in told}
    assert len(names) == 4 * len(classes or (0, 1, 2))
    assert not names & {held.test.locate(row) for row in range(held.test.size)}
    assert set(held.test.labels) - {-1} <= set(classes or (0, 1, 2))


def test_only_classes_that_were_trained_on_are_tested():
  data = data_of()
  assert np.bincount(own_classifier.tested(data, (0, 2)).test.labels).tolist() == [7, 0, 6]
  assert own_classifier.tested(data).test.size == 20
  assert own_classifier.tested(data, (5,)) is None


def test_a_number_in_all_is_shared_out_equally():
  train = data_of().train
  some = labelled.part(train, '15', 3)
  assert np.bincount(some.labels).tolist() == [5, 5, 5]
  assert some.fingerprint == labelled.part(train, '5 per class', 3).fingerprint
  for text, fix in (('16', 'give 15 or 18'), ('2', 'give 3 or 6'), ('90', 'give 1 to 20')):
    with pytest.raises(ConfigError, match=fix):
      labelled.part(train, text, 0)


def test_it_is_the_networks_own():
  method, data = contract.make('fixmatch', axis=None), data_of()
  params, state = jax.jit(method.init)(jax.random.key(0), contract.batch_of('fixmatch'))
  average = jax.tree.map(lambda x: x * 1.5, state.target_params)
  run = SimpleNamespace(params=params, method_state=state.replace(target_params=average))
  encoder, readout = own_classifier.of_state(method, run, SEEN, {})
  held = own_classifier.held_out(data, '15', 0, FIELDS, 0)
  trained = own_classifier.fit(encoder, readout, data, held)
  images = SEEN.normalize(data.test.read(np.arange(20))[0])
  outputs, _ = method.net.apply(average, state.target_bn, images, train=False)
  logits, labels = trained.answers[0].tested
  np.testing.assert_allclose(logits, outputs['logits'], rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(labels, data.test.labels)
  assert trained.result['top1'] == np.mean(logits.argmax(1) == labels)
  assert len(trained.answers[0].held[1]) == 9
  assert own_classifier.score(encoder, readout, data)['top1'] == trained.result['top1']
