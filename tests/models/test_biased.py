"""Linear layers whose bias's gradient is summed in float32, against linen's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.models import biased, layers

PAIRS = {
  'dense': (biased.Dense(5), nn.Dense(5)),
  'dense, no bias': (biased.Dense(5, use_bias=False), nn.Dense(5, use_bias=False)),
  'dense, product': (
    biased.Dense(5, dot_general=layers.product),
    nn.Dense(5, dot_general=layers.product),
  ),
  'convolution': (
    layers.conv(4, 3, 2, 'torch', jnp.float32, None, use_bias=True, groups=2, dilation=2),
    nn.Conv(
      4, (3, 3), (2, 2), padding=((1, 1), (1, 1)), kernel_dilation=2, feature_group_count=2,
      kernel_init=layers.he_normal_fan_out,
    ),
  ),
  'transposed': (biased.ConvTranspose(4, (4, 4), (2, 2)), nn.ConvTranspose(4, (4, 4), (2, 2))),
}  # fmt: skip


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', PAIRS)
def test_parameters_and_values_are_linens(name, dtype):
  ours, theirs = (module.clone(dtype=dtype) for module in PAIRS[name])
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 6))
  params = theirs.init(jax.random.key(1), x)
  jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(1), x), params)
  params = jax.tree.map(lambda leaf: leaf + 0.3, params)
  y = ours.apply(params, x)
  assert y.dtype == dtype
  np.testing.assert_array_equal(y, theirs.apply(params, x))


def test_the_gradient_of_a_bias_is_a_sum_in_float32():
  """301 ones: bfloat16 has even numbers alone there, and one by one would not leave 256."""

  def loss(bias, add):
    return add(jnp.zeros((301, 2), jnp.bfloat16), bias).astype(jnp.float32).sum()

  bias = jnp.zeros(2)
  assert jax.grad(loss)(bias, biased.add_bias).tolist() == [301, 301]
  plain = jax.grad(loss)(bias, lambda y, bias: y + bias.astype(y.dtype)[None])
  assert 301 not in plain.tolist(), 'as it would be without'
