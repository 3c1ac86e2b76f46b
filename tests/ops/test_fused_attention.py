"""Attention by cuDNN where there is none: what is refused, what is lowered, and what computes it.

The kernel itself runs on NVIDIA GPUs alone. Lowering for them needs no GPU, but a JAX that finds
cuDNN; here it is told that it has.
"""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops import fused_attention

TOKENS = 5  # Odd, as with a class token.


@pytest.fixture
def cudnn(monkeypatch):
  """JAX finds a cuDNN, as on a machine with byoljax[cuda]; what its kernel is given comes back."""
  kernel = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')
  monkeypatch.setattr(kernel, 'check_cudnn_version', lambda: 90800)
  fused_attention.missing.cache_clear()
  yield
  fused_attention.missing.cache_clear()


def _drawn(dtype=jnp.bfloat16, batch=2):
  keys = jax.random.split(jax.random.key(0), 4)
  return [jax.random.normal(key, (batch, TOKENS, 3, 8)).astype(dtype) for key in keys]


def _value_and_grads(implementation):
  def loss(q, k, v, weights):
    made = fused_attention.attention(q, k, v, implementation)
    return jnp.sum(made.astype(jnp.float32) * weights.astype(jnp.float32)), made

  return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)


def _lowered(function, *given, platform='cuda'):
  return jax.jit(function).trace(*given).lower(lowering_platforms=(platform,)).as_text()


def calls(text):
  return re.findall(r'custom_call @(__cudnn\$\w+)', text)


@pytest.mark.parametrize('installed', [False, True])
def test_on_a_cpu_it_is_attention_by_xla(installed, request):
  if installed:
    request.getfixturevalue('cudnn')
  assert bool(fused_attention.missing()) is not installed
  given = _drawn()
  made = [jax.jit(_value_and_grads(each))(*given) for each in fused_attention.IMPLEMENTATIONS]
  for one, other in zip(*map(jax.tree.leaves, made), strict=True):
    np.testing.assert_array_equal(one, other)
  assert not calls(_lowered(_value_and_grads('cudnn'), *given, platform='cpu'))


def test_it_is_the_formula_with_scores_and_softmax_in_float32():
  q, k, v, _ = _drawn()
  made = fused_attention.attention(q, k, v)
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  scores = np.exp(np.einsum('bqhd,bkhd->bhqk', q, k) / np.sqrt(8))
  wanted = np.einsum('bhqk,bkhd->bqhd', scores / scores.sum(-1, keepdims=True), v)
  # Two roundings to 8 bits, of the weights and of the result, of values up to 4.
  np.testing.assert_allclose(np.asarray(made, np.float32), wanted, atol=4 * 2 * 2.0**-8)
  text = str(jax.make_jaxpr(fused_attention.attention)(*_drawn()[:3]))
  products = re.findall(r':(\w+)\[[\d,]*\] = dot_general\b', text)
  assert products == ['f32', 'bf16'], 'scores, and what is put out'
  assert set(re.findall(r':(\w+)\[[\d,]*\] = (?:exp|reduce_max|reduce_sum|div)\b', text)) == {'f32'}


def test_for_cuda_it_is_cudnns_kernel_and_no_product(cudnn):
  """Value, and value with gradients, which JAX itself refuses for an odd number of tokens."""
  given = _drawn()
  forward = _lowered(lambda q, k, v: fused_attention.attention(q, k, v, 'cudnn'), *given[:3])
  both = _lowered(_value_and_grads('cudnn'), *given)
  assert calls(forward) == ['__cudnn$fmhaSoftmax']
  assert calls(both) == ['__cudnn$fmhaSoftmax', '__cudnn$fmhaSoftmaxBackward']
  for text in (forward, both):
    assert 'dot_general' not in text
    # Queries and keys [b, n, heads, D], one of them added; of 1 / sqrt(8).
    assert 'tensor<2x6x3x8xbf16>' in text and 'PADDING' in text
    assert '\\"fmha_scale\\": 0.353553' in text or '\\22fmha_scale\\22: 0.353553' in text
  assert not calls(_lowered(_value_and_grads('xla'), *given))


def test_what_the_kernel_is_given_makes_the_same_attention(cudnn, monkeypatch):
  """The added key is masked, and the added query thrown away: XLA's is given the same here."""
  by_jax, given = jax.nn.dot_product_attention, _drawn(jnp.float32)

  def kernel(*arrays, implementation, **further):
    del implementation
    return by_jax(*arrays, **further)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', kernel)

  def loss(attention):
    return lambda q, k, v: jnp.sum(attention(q, k, v) * given[3])

  made, wanted = (
    jax.jit(jax.value_and_grad(loss(attention), argnums=(0, 1, 2)))(*given[:3])
    for attention in (fused_attention._by_cudnn, fused_attention._by_xla)
  )
  # Sums of at most 6 products of numbers up to 4, each rounded to 24 bits.
  for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(one, other, atol=6 * 4 * 4 * 2.0**-23)


def test_it_can_be_mapped_and_recomputed(cudnn):
  """As the checks of a run map losses over devices, and `encoder.remat` recomputes blocks."""
  q, k, v, weights = _drawn(batch=4)

  def attention(q, k, v):
    return fused_attention.attention(q, k, v, 'cudnn')

  halves = [x.reshape(2, 2, *x.shape[1:]) for x in (q, k, v)]
  assert calls(_lowered(jax.vmap(attention), *halves)) == ['__cudnn$fmhaSoftmax']
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ('devices',))
  spec = jax.sharding.PartitionSpec('devices')

  def grads(*given):
    made = jax.checkpoint(lambda *x: (attention(*x) * weights[: len(x[0])]).sum())
    return jax.grad(made, argnums=(0, 1, 2))(*given)

  sharded = jax.shard_map(grads, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
  found = calls(_lowered(sharded, q, k, v))
  assert found == ['__cudnn$fmhaSoftmax', '__cudnn$fmhaSoftmaxBackward']


@pytest.mark.parametrize(
  ('dtype', 'width', 'message'),
  [
    (jnp.float32, 64, "in bfloat16 or float16, not in float32: set encoder.dtype to 'bfloat16'"),
    (jnp.bfloat16, 60, 'multiple of 8 up to 128, not 60'),
    (jnp.bfloat16, 136, 'multiple of 8 up to 128, not 136'),
  ],
)
def test_what_the_kernel_does_not_take_is_refused_on_every_device(dtype, width, message):
  x = jnp.zeros((1, 2, 1, width), dtype)
  with pytest.raises(ValueError, match=message):
    fused_attention.attention(x, x, x, 'cudnn')


def _device(capability, version='PJRT C API\ncuda 12090', platform='gpu', kind='NVIDIA X'):
  return SimpleNamespace(
    platform=platform, device_kind=kind, compute_capability=capability,
    client=SimpleNamespace(platform_version=version),
  )  # fmt: skip


def test_devices_without_the_kernel_are_refused(cudnn):
  fused_attention.check_devices([_device('8.0'), _device('12.0')])
  for refused in (
    _device('7.5', kind='Tesla T4'),
    _device('gfx942', version='rocm 60300', kind='AMD X'),
    *jax.devices()[:1],
  ):
    with pytest.raises(ValueError, match=f'8.0 or higher.* has {refused.device_kind}: set it to'):
      fused_attention.check_devices([_device('9.0'), refused])


def test_a_gpu_without_cudnn_is_refused():
  if not fused_attention.missing():
    pytest.skip('this machine has cuDNN')
  with pytest.raises(ValueError, match=r'needs a cuDNN that JAX can use \(cuDNN is not detected\)'):
    fused_attention.check_devices([_device('9.0')])
