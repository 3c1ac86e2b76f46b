"""Bins of color: the published ones, encodings by hand, and shares and weights that add up."""

import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops import color_bins

BINS = color_bins.ab_bins()
# The authors' 313 centers: for every a the first and the last b, in steps of 10.
AUTHORS = {
  -90: (50, 90), -80: (20, 90), -70: (0, 90), -60: (-20, 90), -50: (-30, 100), -40: (-40, 100),
  -30: (-50, 100), -20: (-50, 100), -10: (-60, 100), 0: (-70, 100), 10: (-80, 90), 20: (-80, 90),
  30: (-90, 90), 40: (-100, 90), 50: (-100, 80), 60: (-110, 80), 70: (-110, 80), 80: (-110, 70),
  90: (-110, 70), 100: (-90, 0),
}  # fmt: skip


def test_bins_are_the_authors_but_for_four():
  theirs = {(a, b) for a, (low, high) in AUTHORS.items() for b in range(low, high + 1, 10)}
  ours = {tuple(center) for center in BINS.astype(int).tolist()}
  assert len(theirs) == len(ours) == 313
  assert sorted(theirs - ours) == [(-30, -50), (40, 90), (100, -90), (100, 0)]
  assert BINS.dtype == np.float32 and BINS[:2].tolist() == [[-90, 50], [-90, 60]]
  assert (np.diff(BINS @ [1000, 1]) > 0).all(), 'by a and then b'


def test_colors_of_srgb_round_to_261_squares():
  touched = {tuple(center) for center in color_bins.ab_bins(count=0).tolist()}
  assert len(touched) == 261 and touched <= {tuple(center) for center in BINS.tolist()}
  assert len(color_bins.ab_bins(20, 0)) == 75


@pytest.mark.parametrize(
  ('grid', 'count', 'message'),
  [
    (0, 313, 'grid=0 must be positive'),
    (10, 1, '2 to 3'),
    (10, 900, 'with bins of 10 units'),
    (1000, 0, 'grid=1000 puts all colors into one bin'),
  ],
)
def test_impossible_bins_are_named(grid, count, message):
  with pytest.raises(ValueError, match=message):
    color_bins.ab_bins(grid, count)
  with pytest.raises(ValueError, match='neighbors=9 are more than the 2 bins'):
    color_bins.encode(jnp.zeros((1, 2)), BINS[:2], neighbors=9)


def test_a_center_belongs_to_itself_and_a_point_between_two_to_both():
  which, shares = color_bins.encode(jnp.asarray([[0.0, 0.0], [5.0, 0.0]]), BINS)
  assert BINS[which[0, 0]].tolist() == [0, 0]
  one, four = 1.0, np.exp(-100 / 50)
  np.testing.assert_allclose(shares[0], np.array([one, *[four] * 4]) / (one + 4 * four), rtol=1e-5)
  assert {tuple(center) for center in BINS[which[1, :2]].tolist()} == {(0, 0), (10, 0)}
  assert float(shares[1, 0]) == float(shares[1, 1])
  which, shares = color_bins.encode(jnp.asarray([[4.0, 1.0]]), BINS, neighbors=1)
  assert BINS[which[0, 0]].tolist() == [0, 0] and float(shares[0, 0]) == 1.0


def test_inside_of_the_gamut_the_encoding_is_symmetric():
  """Of a regular grid: what is mirrored or turned by a quarter has mirrored, turned bins."""
  points = np.random.default_rng(0).uniform(-4.9, 4.9, (50, 2)).astype(np.float32)

  def spread(points):
    which, shares = color_bins.encode(jnp.asarray(points), BINS)
    return np.einsum('nk,nkc->nc', shares, BINS[which])

  plain = spread(points)
  # Some points are as far from the fifth bin as from the sixth, up to rounding: not these.
  for turn in ([[1, 0], [0, -1]], [[-1, 0], [0, 1]], [[0, 1], [-1, 0]]):
    np.testing.assert_allclose(spread(points @ np.array(turn, np.float32)), plain @ turn, atol=1e-4)


def test_the_annealed_mean_goes_from_the_mean_to_the_most_likely_color():
  logits = jnp.log(
    jnp.full(len(BINS), 1e-9).at[jnp.asarray([10, 200])].set(jnp.asarray([0.6, 0.4]))
  )
  mean = 0.6 * BINS[10] + 0.4 * BINS[200]
  np.testing.assert_allclose(color_bins.annealed_mean(logits, BINS, 1.0), mean, atol=1e-3)
  np.testing.assert_allclose(color_bins.annealed_mean(logits, BINS, 0.01), BINS[10], atol=1e-3)
  share = 0.6 ** (1 / 0.38) / (0.6 ** (1 / 0.38) + 0.4 ** (1 / 0.38))
  expected = share * BINS[10] + (1 - share) * BINS[200]
  np.testing.assert_allclose(color_bins.annealed_mean(logits, BINS), expected, atol=1e-3)


def test_only_what_is_counted_counts():
  which = jnp.asarray([[0, 2, 2], [1, 2, 0]])
  counted = jnp.asarray([[True, True, True], [False, True, False]])
  counts = color_bins.count_bins(which, counted, 4)
  assert counts.dtype == jnp.uint32 and counts.tolist() == [1, 0, 3, 0]


def test_shares_sum_to_one_and_weights_keep_the_size_of_the_loss():
  counts = np.zeros(len(BINS), np.uint32)
  counts[[100, 150]] = (3_000_000_000, 1_000_000_000)  # more than int32 has
  shares = color_bins.smoothed(jnp.asarray(counts), BINS)
  weights = color_bins.rebalancing(shares)
  assert float(shares.sum()) == pytest.approx(1, abs=1e-5)
  assert float(shares[100] / shares[150]) == pytest.approx(3, rel=0.1)
  assert float((shares * weights).sum()) == pytest.approx(1, abs=1e-5)
  # (1 - lambda) p + lambda / Q at p = 0 and at the largest p.
  ratio = (0.5 * float(shares[100]) + 0.5 / 313) / (0.5 / 313)
  assert float(weights.max() / weights[100]) == pytest.approx(ratio, rel=1e-4)
  np.testing.assert_allclose(color_bins.rebalancing(shares, 1.0), 1.0, rtol=1e-5)


def test_before_anything_is_counted_all_colors_weigh_the_same():
  shares = color_bins.smoothed(jnp.zeros(len(BINS), jnp.uint32), BINS)
  assert float(shares.sum()) == pytest.approx(1, abs=1e-5)
  weights = color_bins.rebalancing(shares)
  # At the border smoothing moves a part of the equal shares inwards.
  assert float(weights.min()) > 0.7 and float(weights.max()) < 1.4
