import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import draws, views

# Random123's published known answers for threefry2x32 with 20 rounds: (key, counter, result).
KNOWN = [
  ((0x0, 0x0), (0x0, 0x0), (0x6B200159, 0x99BA4EFE)),
  ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
  ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]
INDEX = np.arange(4000, dtype=np.int32)
BASE = {'seed': 1, 'epoch': 2, 'view': 0}


def draw(count=4, index=INDEX, **changes):
  values = BASE | changes
  return draws.uniforms(np, values['seed'], values['epoch'], index, values['view'], count)


@pytest.mark.parametrize('xp', [np, jnp])
@pytest.mark.parametrize(('key', 'counter', 'result'), KNOWN)
def test_known_answers(xp, key, counter, result):
  words = [tuple(xp.asarray([word], dtype=np.uint32) for word in pair) for pair in (key, counter)]
  out = draws.threefry2x32(*words)
  assert tuple(int(word[0]) for word in out) == result


def test_the_first_columns_are_the_known_answer():
  # Key (seed, epoch) = (0, 0), counter (index, view and block) = (0, 0).
  expected = [(word >> 8) / 2**24 for word in KNOWN[0][2]]
  out = draws.uniforms(np, 0, 0, np.array([0]), 0, 2)
  np.testing.assert_array_equal(out[0], np.float32(expected))


@pytest.mark.parametrize('epoch', [0, 7, 2**31 - 1])
@pytest.mark.parametrize('view', [0, 9, 65535])
def test_numpy_and_jax_give_the_same_bits(epoch, view):
  index = np.array([0, 1, 12345, 2**31 - 1], np.int32)
  host = draws.uniforms(np, 2**32 - 1, epoch, index, view, 19)
  traced = jax.jit(lambda e, i: draws.uniforms(jnp, 2**32 - 1, e, i, view, 19))
  device = traced(jnp.int32(epoch), jnp.asarray(index))
  assert host.dtype == np.float32
  assert device.dtype == jnp.float32
  np.testing.assert_array_equal(host, np.asarray(device))


def test_tensorflow_graphs_give_the_same_bits():
  tf = pytest.importorskip('tensorflow')
  tnp = tf.experimental.numpy
  data = tf.data.Dataset.from_tensor_slices(INDEX).batch(1000)
  data = data.map(lambda index: draws.uniforms(tnp, 1, 2, index, 0, 5))
  got = np.concatenate([batch.numpy() for batch in data])
  np.testing.assert_array_equal(got, draw(5))


def test_a_row_does_not_depend_on_its_batch():
  whole = draw()
  order = np.random.default_rng(0).permutation(INDEX)[:37]
  np.testing.assert_array_equal(draw(index=order), whole[order])


def test_more_columns_leave_the_earlier_ones_alone():
  np.testing.assert_array_equal(draw(count=24)[:, :5], draw(count=5))


def test_epochs_may_differ_within_a_batch():
  epochs = np.array([0, 3, 3, 8])
  mixed = draws.uniforms(np, 1, epochs, INDEX[:4], 0, 3)
  rows = [draw(3, index=INDEX[k : k + 1], epoch=int(e))[0] for k, e in enumerate(epochs)]
  np.testing.assert_array_equal(mixed, np.stack(rows))


def test_uniformity():
  u = draw(views.NUM_DRAWS)
  assert u.min() >= 0
  assert u.max() < 1
  assert u.max() > 0.9999
  # 72,000 numbers in 256 cells: chi-square has mean 255 and deviation 22.6.
  counts = np.bincount((u * 256).astype(int).ravel(), minlength=256)
  expected = u.size / 256
  chi_square = np.sum((counts - expected) ** 2 / expected)
  assert 255 - 5 * 22.6 < chi_square < 255 + 5 * 22.6
  # The lowest bits are as good as the highest.
  low = (u * 2**24).astype(np.int64) & 1
  assert abs(low.mean() - 0.5) < 5 * 0.5 / np.sqrt(u.size)


def test_streams_are_independent():
  """Changing any one input, or the column, gives numbers that do not correlate."""
  streams = {'base': draw()}
  for name, value in itertools.product(('seed', 'epoch', 'view'), (3, 4)):
    streams[f'{name}={value}'] = draw(**{name: value})
  streams['index+1'] = draw(index=INDEX + 1)
  streams['index+2**20'] = draw(index=INDEX + 2**20)
  # Swapping roles must not meet the same counter: (seed, epoch) = (1, 2) against (2, 1).
  streams['swapped'] = draw(seed=2, epoch=1)
  flat = {name: u.astype(np.float64).ravel() - 0.5 for name, u in streams.items()}
  for a, b in itertools.combinations(flat, 2):
    assert np.mean(streams[a] == streams[b]) < 1e-3, (a, b)
    correlation = np.mean(flat[a] * flat[b]) * 12
    assert abs(correlation) < 5 / np.sqrt(flat[a].size), (a, b, correlation)
  columns = np.corrcoef(draw(views.NUM_DRAWS), rowvar=False)
  assert np.abs(columns - np.eye(views.NUM_DRAWS)).max() < 5 / np.sqrt(len(INDEX))


def test_views_and_examples_share_no_number_in_any_column():
  base = draw(views.NUM_DRAWS)[:-1]
  others = draw(views.NUM_DRAWS, view=1)[:-1], draw(views.NUM_DRAWS)[1:]
  for other in others:
    shared = np.any(base[:, :, None] == other[:, None, :], axis=(1, 2))
    assert shared.mean() < 1e-3


def test_wrapping_sums_do_not_warn():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    draws.uniforms(np, 2**32 - 1, 2**31 - 1, INDEX.astype(np.int64), 65535, views.NUM_DRAWS)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'seed': -1}, 'seed is -1'),
    ({'seed': 2**32}, 'seed is 4294967296'),
    ({'view': -1}, 'view is -1'),
    ({'view': 65536}, 'view is 65536'),
    ({'count': 0}, 'count is 0'),
  ],
)
def test_out_of_range_inputs_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    draw(**changes)


def test_draw_columns_are_distinct():
  no_columns = ('NUM_DRAWS', 'RANDAUGMENT', 'DRAWS_PER_OPERATION', 'ELASTIC')
  columns = [
    value
    for name, value in vars(views).items()
    if name.isupper() and name[0] != '_' and isinstance(value, int) and name not in no_columns
  ]
  assert sorted(columns) == list(range(views.NUM_DRAWS))
  assert views.RANDAUGMENT >= views.NUM_DRAWS
  last = views.RANDAUGMENT + views.DRAWS_PER_OPERATION * views._MOST_OPERATIONS
  assert last <= views.ELASTIC
