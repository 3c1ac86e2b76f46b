"""What is drawn from which values: temperature, top-k, top-p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops import sampling
from byoljax.ops.sampling import Sampling

LOGITS = jnp.log(jnp.asarray([[0.1, 0.4, 0.3, 0.2]]))


def chances(**settings):
  return np.asarray(jax.nn.softmax(sampling.restricted(LOGITS, Sampling(**settings)), -1))[0]


def test_what_is_left_and_how_probable_it_is():
  np.testing.assert_allclose(chances(), [0.1, 0.4, 0.3, 0.2], rtol=1e-6)
  squares = np.array([0.01, 0.16, 0.09, 0.04])
  np.testing.assert_allclose(chances(temperature=0.5), squares / squares.sum(), rtol=1e-6)
  np.testing.assert_allclose(chances(top_k=2), [0, 4 / 7, 3 / 7, 0], rtol=1e-6)
  # 0.4 + 0.3 is not enough: the value that crosses 0.75 is kept.
  np.testing.assert_allclose(chances(top_p=0.75), np.array([0, 4, 3, 2]) / 9, rtol=1e-6)
  np.testing.assert_allclose(chances(top_p=0.05), [0, 1, 0, 0], rtol=1e-6)
  # Of the two that k leaves, the first has 4/7.
  np.testing.assert_allclose(chances(top_k=2, top_p=0.5), [0, 1, 0, 0], rtol=1e-6)


def test_draws_follow_the_chances_and_do_not_depend_on_their_number():
  def drawn(count, place=0, **settings):
    keys = sampling.keys(jax.random.key(0), count)
    logits = jnp.broadcast_to(LOGITS, (count, 4))
    return np.asarray(sampling.draw(keys, jnp.int32(place), logits, Sampling(**settings)))

  many = drawn(4000)
  # Five standard errors of a share.
  np.testing.assert_allclose(np.bincount(many) / 4000, [0.1, 0.4, 0.3, 0.2], atol=5 * 0.5 / 63)
  np.testing.assert_array_equal(drawn(7), many[:7])
  assert not np.array_equal(drawn(4000, place=1), many)
  np.testing.assert_array_equal(drawn(5, temperature=0), [1] * 5)
  # Float32 has no such temperature: it is 0 there.
  np.testing.assert_array_equal(drawn(5, temperature=1e-40), [1] * 5)


@pytest.mark.parametrize(
  ('settings', 'said'),
  [
    ({'count': 0}, 'count=0'),
    ({'size': 0}, 'size=0'),
    ({'temperature': -1.0}, 'temperature=-1.0'),
    ({'temperature': float('nan')}, 'temperature=nan'),
    ({'top_k': -1}, 'top_k=-1'),
    ({'top_p': 0.0}, 'top_p=0.0'),
    ({'top_p': 1.5}, 'top_p=1.5'),
  ],
)
def test_settings_out_of_range(settings, said):
  with pytest.raises(ValueError, match=said):
    sampling.check(Sampling(**settings))
