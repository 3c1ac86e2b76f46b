"""Relative patch location and jigsaw: labels, orders, and heads that see the right tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import tiles
from byoljax.method import transformed
from byoljax.methods.pretext import classification, jigsaw
from byoljax.methods.pretext.relative_patch_location import pairs
from byoljax.models import tile_heads
from byoljax.ops import permutations
from tests.methods.test_contract import batch_of, make

PLAIN = {'grid': 2, 'tile': 4, 'gap': 0, 'jitter': 0, 'standardize': 'none'}


def seen(name, **changes):
  method, batch = make(name, axis=None, **changes), batch_of(name)
  made = jax.jit(lambda batch: transformed(method, batch, jax.random.key(1), jnp.int32(0)))(batch)
  return method, batch, jax.tree.map(np.asarray, made)


@pytest.mark.parametrize('grid', [2, 3])
def test_pairs_lie_in_their_direction(grid):
  offsets = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
  table = pairs(grid)
  assert table.shape == (8, {2: 2, 3: 1}[grid], 2)
  for offset, found in zip(offsets, table, strict=True):
    for tile, anchor in found:
      np.testing.assert_array_equal(
        np.subtract(np.divmod(tile, grid), np.divmod(anchor, grid)), offset
      )
  if grid == 3:
    assert (table[..., 1] == 4).all()
  else:  # All 12 neighbors of a 2x2 grid.
    assert len(np.unique(table.reshape(-1, 2), axis=0)) == 12


def test_directions_are_uniform_and_pairs_are_drawn_by_image():
  _, batch, made = seen('relative_patch_location', tiles=PLAIN, dropout=0.5, hidden=(64,))
  count = len(batch['index'])
  assert made['views'][0].shape == (4 * count, 4, 4, 3)
  labels = classification.per_image(made['pretext_label'], count)
  np.testing.assert_array_equal(labels, np.repeat(np.arange(8)[:, None], count, axis=1))
  order, table = classification.per_image(made['order'], count), pairs(2)
  chosen = (order[:, :, None] == table[:, None]).all(-1)
  assert chosen.any(-1).all()
  straight = [1, 3, 4, 6]
  assert (chosen[straight].sum(1) > 0).all(), 'both pairs of a straight direction are drawn'
  # 32 x 8 x 64 draws; six standard deviations.
  assert set(np.unique(made['kept'])) == {0.0, 2.0}
  assert abs(made['kept'].mean() - 1) < 6 / np.sqrt(32 * 8 * 64)


@pytest.mark.parametrize(('name', 'classes'), [('relative_patch_location', 8), ('jigsaw', 6)])
def test_the_loss_starts_at_chance(name, classes):
  method, _, made = seen(name, tiles=PLAIN)
  params, state = jax.jit(method.init)(jax.random.key(0), made)
  params['head']['classes'] = jax.tree.map(jnp.zeros_like, params['head']['classes'])
  value, aux = jax.jit(method.loss)(params, state, made, jax.random.key(0), jnp.int32(0))
  assert float(value) == pytest.approx(np.log(classes), rel=1e-6)
  # Ties go to class 0.
  share = np.mean(made['pretext_label'] == 0)
  assert float(aux.metrics['pretext_accuracy']) == pytest.approx(share, abs=1e-6)
  assert aux.embedding.shape == (32, 8)


def test_a_solved_puzzle_is_the_image():
  """The label says how to undo it: with the inverse permutation, not with the permutation."""
  _, batch, made = seen('jigsaw', tiles=PLAIN, permutations=24, puzzles=5)
  images, count = batch['views'][0], len(batch['index'])
  table = permutations.spread_permutations(4, 24)
  shown = classification.per_image(made['views'][0], count)
  labels = classification.per_image(made['pretext_label'], count)
  assert labels.shape == (5, count) and labels.min() >= 0 and labels.max() < 24
  assert len(np.unique(labels)) > 20
  orders = classification.per_image(made['order'], count)
  np.testing.assert_array_equal(orders[0], np.tile(np.arange(4), (count, 1)))
  for puzzle, order in enumerate(orders):
    for i in range(count):
      put_together = shown[order[i], i]
      solved = put_together[permutations.inverse(table[labels[puzzle, i]])]
      rows = [np.concatenate(list(solved[:2]), axis=1), np.concatenate(list(solved[2:]), axis=1)]
      # Normalization is undone and done again.
      np.testing.assert_allclose(np.concatenate(rows), images[i], rtol=0, atol=5e-6)


def test_puzzle_by_hand():
  found, order = jigsaw.puzzle(jnp.arange(3)[:, None], jnp.array([[[2, 0, 1]], [[0, 1, 2]]]))
  assert found[:, 0].tolist() == [2, 0, 1]
  assert order[:, 0].tolist() == [[0, 1, 2], [1, 2, 0]]


def test_tiles_are_encoded_once_however_many_puzzles():
  method = make('jigsaw', axis=None, tiles=PLAIN, puzzles=7, permutations=10)
  made = jax.eval_shape(
    lambda batch: transformed(method, batch, jax.random.key(0), jnp.int32(0)), batch_of('jigsaw')
  )
  assert made['views'][0].shape[0] == 4 * 32 and made['pretext_label'].shape == (7 * 32,)


def test_the_head_sees_the_tiles_of_its_image_in_order():
  head = tile_heads.OrderedTiles(tiles=3, places=2, classes=3)
  x = np.random.default_rng(0).normal(size=(3 * 4, 5)).astype(np.float32)  # 3 tiles of 4 images
  order = np.array([[[0, 2], [1, 0], [2, 2], [1, 2]], [[2, 1], [0, 0], [0, 1], [2, 0]]])
  variables = head.init(jax.random.key(0), jnp.asarray(x), train=False)
  kernel = np.asarray(variables['params']['classes']['linear1']['kernel'].value, np.float64)
  found = head.apply(variables, jnp.asarray(x), train=False, order=order.reshape(-1, 2))
  expected = [
    np.concatenate([x[4 * tile + image] for tile in places]) @ kernel
    for orders in order
    for image, places in enumerate(orders)
  ]
  # float32 sums of ten products, five times.
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
  # A whole image lies at all places.
  alone = head.apply(variables, jnp.asarray(x), train=False)
  np.testing.assert_allclose(alone, np.tile(x, (1, 2)) @ kernel, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'changes', 'message'),
  [
    ('jigsaw', {'permutations': 25}, 'there are 24 permutations of 4 tiles'),
    ('jigsaw', {'puzzles': 0}, 'puzzles=0'),
    ('jigsaw', {'rule': 'max'}, "rule='max' is not one of mean, minimum"),
    ('jigsaw', {'permutation_seed': -1}, 'seed of the permutations is -1'),
    ('jigsaw', {'hidden': (0,)}, 'width of at least 1'),
    ('relative_patch_location', {'dropout': 1.0}, 'dropout=1.0'),
    ('relative_patch_location', {'hidden': (), 'dropout': 0.5}, 'needs hidden layers'),
    ('relative_patch_location', {'hidden': (0,)}, 'width of at least 1'),
    ('relative_patch_location', {'tiles': {'gird': 2}}, "did you mean 'grid'"),
  ],
)
def test_what_cannot_be_is_refused(name, changes, message):
  with pytest.raises(ValueError, match=message):
    make(name, axis=None, **changes)


def test_the_papers_tiles():
  """Cells of 85 of 255 pixels; 96 pixels in steps of 144 with gaps of 34 to 62 (48 +- 14)."""
  assert tiles.TileSpec().cell * 3 == 255
  doersch = tiles.TileSpec(tile=96, gap=34, jitter=14)
  assert doersch.cell == 144 and doersch.gap + doersch.jitter == 48
