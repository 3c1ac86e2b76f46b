"""Views of several sizes through one network: grouping, batch statistics, devices."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.devices import collectives
from byoljax.models import heads, layers, multicrop, vit
from byoljax.models.net import stack
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402

BATCH, SIZES = 8, (16, 16, 8, 8, 8)


class Tiny(nn.Module):
  """Convolution, batch normalization, relu, mean over space."""

  axis: str | None
  groups: int

  @nn.compact
  def __call__(self, x, *, train):
    x = layers.conv(8, 3, 2, 'torch', jnp.float32, 'conv')(x)
    x = layers.batch_norm(train, self.axis, jnp.float32, 'bn', groups=self.groups)(x)
    return nn.relu(x).mean((1, 2))


def network(axis=None, groups=0):
  head = heads.MLPHead((12, 6), bn_axis=axis, bn_groups=groups)
  return stack((('encoder', 'embedding', Tiny(axis, groups)), ('projector', 'projection', head)))


def network_without_batch_norm():
  encoder = vit.ViT(vit.Size(16, 1, 2, patch=4, grid=4))
  head = heads.MLPHead((12, 6), norm=False)
  return stack((('encoder', 'embedding', encoder), ('projector', 'projection', head)))


def drawn_views(sizes=SIZES):
  return [jnp.asarray(philox.images(f'view{i}', BATCH, s)) for i, s in enumerate(sizes)]


def crops(net, params, stats, views, **options):
  run = jax.jit(lambda p, s, v: multicrop.apply_crops(net, p, s, v, **options))
  return run(params, stats, views)


def one(net, params, stats, x, train=True):
  return jax.jit(lambda p, s, x: net.apply(p, s, x, train=train))(params, stats, x)


@pytest.mark.parametrize(
  ('sizes', 'expected'),
  [
    ((32, 32, 16, 16, 16), [[0, 1], [2, 3, 4]]),
    ((32,), [[0]]),
    ((32, 16, 32), [[0], [1], [2]]),  # consecutive only, so that the order of forwards is clear
    ((), []),
  ],
)
def test_by_size_groups_consecutive_views(sizes, expected):
  views = [jax.ShapeDtypeStruct((4, s, s, 3), jnp.float32) for s in sizes]
  assert multicrop.by_size(views) == expected


def test_without_batch_statistics_every_view_is_as_if_alone():
  net, views = network_without_batch_norm(), drawn_views()
  params, stats = net.init(jax.random.key(0), views[0])
  outputs, kept = crops(net, params, stats, views, train=True)
  assert kept == {'encoder': {}, 'projector': {}}
  assert len(outputs) == len(views)
  for view, found in zip(views, outputs, strict=True):
    alone, _ = one(net, params, stats, view)
    assert set(found) == {'embedding', 'projection'}
    for name in found:
      np.testing.assert_allclose(found[name], alone[name], atol=1e-5)


def test_views_of_one_size_share_their_batch_statistics():
  net, views = network(), drawn_views()
  views[1] = views[1] * 3.0  # so that statistics of one view alone would differ
  params, stats = net.init(jax.random.key(0), views[0])
  outputs, moved = crops(net, params, stats, views, train=True)

  large, between = one(net, params, stats, jnp.concatenate(views[:2]))
  small, after = one(net, params, between, jnp.concatenate(views[2:]))
  for name in ('embedding', 'projection'):
    expected = [*jnp.split(large[name], 2), *jnp.split(small[name], 3)]
    for found, wanted in zip(outputs, expected, strict=True):
      np.testing.assert_allclose(found[name], wanted, atol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), moved, after)
  alone, _ = one(net, params, stats, views[0])
  assert float(jnp.abs(alone['embedding'] - outputs[0]['embedding']).max()) > 0.05


def test_evaluation_keeps_the_statistics_and_upto_stops_early():
  net, views = network(), drawn_views((16, 8))
  params, stats = net.init(jax.random.key(0), views[0])
  outputs, kept = crops(net, params, stats, views, train=False, upto='embedding')
  assert all(set(found) == {'embedding'} for found in outputs)
  jax.tree.map(np.testing.assert_array_equal, kept, stats)
  for view, found in zip(views, outputs, strict=True):
    expected, _ = one(net, params, stats, view, train=False)
    np.testing.assert_allclose(found['embedding'], expected['embedding'], atol=1e-5)


@pytest.mark.parametrize('groups', [0, 4])
def test_four_devices_give_what_one_gives(groups):
  views = drawn_views()
  views[0] = views[0] * jnp.linspace(0.5, 3.0, BATCH)[:, None, None, None]
  single, mapped = network(groups=groups), network(axis=collectives.AXIS, groups=groups)
  params, stats = single.init(jax.random.key(0), views[0])
  expected, expected_stats = crops(single, params, stats, views, train=True)
  split = [v.reshape(4, BATCH // 4, *v.shape[1:]) for v in views]
  outputs, moved = jax.pmap(
    lambda v: multicrop.apply_crops(mapped, params, stats, v, train=True),
    axis_name=collectives.AXIS,
  )(split)
  for found, wanted in zip(outputs, expected, strict=True):
    np.testing.assert_allclose(
      found['embedding'].reshape(BATCH, -1), wanted['embedding'], atol=2e-4
    )
  for device in range(4):
    jax.tree.map(
      lambda a, b, d=device: np.testing.assert_allclose(a[d], b, atol=1e-5), moved, expected_stats
    )


def test_no_views_are_refused():
  with pytest.raises(ValueError, match='no views'):
    multicrop.apply_crops(network(), {}, {}, [], train=True)
