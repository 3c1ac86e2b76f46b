"""Rare work between steps, features of all images for it, and views that stand for several."""

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from byoljax.config import ConfigError
from byoljax.data.sources import arrays
from byoljax.evals import features
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.checks import check_groups, check_sizes
from byoljax.protocols import extraction
from byoljax.train import assemble


def embed(params, state, images):
  """Two taps of different width."""
  mean = images.mean((1, 2)) * params
  return {'color': mean, 'sum': mean.sum(-1, keepdims=True) + state}


def batches(indices):
  rng = np.random.default_rng(0)
  for index in indices:
    image = np.repeat(np.asarray(index, np.float32)[:, None], 3, 1)[:, None, None, :]
    yield {
      'image': np.broadcast_to(image, (len(index), 4, 4, 3)),
      'index': np.asarray(index, np.int32),
      'label': rng.integers(0, 3, len(index)).astype(np.int32),
      'valid': np.asarray(index) >= 0,
    }


def test_every_tap_in_the_order_of_the_index():
  extract = features.every_tap(embed)
  found = extract(jnp.float32(2.0), jnp.float32(1.0), batches([[3, 0, 5, 1], [2, 7, -1, -1]]), 8)
  assert set(found) == {'color', 'sum'}
  expected = 2.0 * np.array([0, 1, 2, 3, 0, 5, 0, 7], np.float32)
  np.testing.assert_allclose(found['color'], np.repeat(expected[:, None], 3, 1))
  present = np.array([0, 1, 2, 3, 5, 7])
  np.testing.assert_allclose(found['sum'][present, 0], 3 * expected[present] + 1)
  assert not found['sum'][[4, 6]].any(), 'images that could not be read are zeros'


def test_knn_while_training_never_sees_the_test_set():
  rng = np.random.default_rng(0)
  train, test = (
    arrays.from_arrays(
      rng.integers(0, 255, (size, 8, 8, 3), dtype=np.uint8),
      rng.integers(0, 3, size).astype(np.int32),
      name=name, class_names=None, num_classes=3,
    )
    for name, size in (('train', 60), ('test', 20))
  )  # fmt: skip
  data = extraction.EvalData(train, test, 8, (0.5,) * 3, (0.2,) * 3, 16)
  limits = {'max_bank': 30, 'max_queries': 50}
  held_out = extraction.training_only(data, limits, seed=0)
  queries, bank = held_out.test.read(np.arange(12))[0], held_out.train.read(np.arange(30))[0]
  assert (held_out.test.size, held_out.train.size) == (12, 30), 'a fifth, and the limit'
  everything = {image.tobytes() for image in train.read(np.arange(60))[0]}
  asked, stored = ({image.tobytes() for image in part} for part in (queries, bank))
  assert asked <= everything and stored <= everything and not asked & stored
  again = extraction.training_only(data, limits, seed=0)
  np.testing.assert_array_equal(again.test.read(np.arange(12))[0], queries)
  other = extraction.training_only(data, limits, seed=1)
  assert not np.array_equal(other.test.read(np.arange(12))[0], queries)


def test_views_in_the_order_of_their_numbers_and_repeated():
  views = {f'view{i}': {'size': 8 + i} for i in (10, 2, 1)}
  views['view2']['repeat'] = 3
  config = ConfigDict({'views': views})
  assert [spec.size for spec in assemble.view_specs(config)] == [9, 10, 10, 10, 18]
  config.views.view2.repeat = 0
  with pytest.raises(ConfigError, match='config.views: view2.repeat=0 must be a whole number'):
    assemble.view_specs(config)


def test_durations_of_a_method_count_optimizer_steps():
  setting = Setting(Length(64, 10, 100), accumulate=4)
  assert setting.micro_batch_size == 16
  assert setting.length.steps('freeze', '2 epochs') == 20
  assert setting.length.steps('freeze', '640 examples') == 10
  assert setting.length.steps('freeze', '5 %') == 5
  with pytest.raises(ValueError, match="freeze='soon' is not a duration"):
    setting.length.steps('freeze', 'soon')


@pytest.mark.parametrize('groups', [3, 2, -4, 32])
def test_groups_must_split_batch_and_devices(groups):
  setting = Setting(Length(32, 1, 1), num_devices=4)
  check_groups(8, setting)
  check_groups(0, setting)
  with pytest.raises(ValueError, match=f'bn_groups={groups} must be a multiple of the 4 devices'):
    check_groups(groups, setting)


def test_sizes_of_heads():
  check_sizes((16, 8), (4, 8))
  with pytest.raises(ValueError, match='at least an output size'):
    check_sizes(())
  with pytest.raises(ValueError, match='puts out 4 values but the projector 8'):
    check_sizes((16, 8), (8, 4))
