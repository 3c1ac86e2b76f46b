"""Attention by XLA, or on NVIDIA GPUs by cuDNN's fused kernel, which stores no matrix of scores.

Which of them is chosen for each platform when a program is lowered: what asks for cuDNN computes by
XLA on any other device, and wherever JAX finds no cuDNN. Both are softmax(q k^T / sqrt(D)) v with
scores and softmax in float32, and differ by rounding.

What JAX and cuDNN ask for, and what is done about it:

- Since JAX takes the placeholder of a bias for one, its gradient refuses an odd number of tokens,
  which images have with their class token. One more token is added behind them and left out as a
  key; its query is computed and thrown away.
- With the number of keys given, cuDNN masks the others. It is given for even numbers, too: without
  the mask, cuDNN before 9.15.1 reads beyond the end of keys that are no multiple of 128 when XLA
  replays the kernel in a CUDA graph (release notes of cudnn-frontend 1.16). The number of queries
  is that of all: XLA may not fill what is masked of them with zeros there (openxla/xla#46500).
- Under `jax.vmap` JAX 0.10 needs these numbers mapped as the queries are.
- There is no forward-mode derivative, and none of a derivative. With JAX 0.10, gradients under
  `jax.vmap` need a cotangent for each element.
- The gradient sums in no fixed order, unless XLA_FLAGS has --xla_gpu_deterministic_ops=true.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

IMPLEMENTATIONS = ('xla', 'cudnn')
_TYPES = ('bfloat16', 'float16')
# Of heads: multiples of it, up to this with every GPU that has the kernel; Hopper takes twice that.
_MULTIPLE, _WIDEST = 8, 128
_CAPABILITY = (8, 0)


def attention(
  query: jax.Array, key: jax.Array, value: jax.Array, implementation: str = 'xla'
) -> jax.Array:
  """softmax(q k^T / sqrt(D)) v of every head (Vaswani et al. 2017, equation 1).

  Args:
    query: [b, n, heads, D].
    key: [b, n, heads, D].
    value: [b, n, heads, D].
    implementation: one of `IMPLEMENTATIONS`; 'cudnn' counts on NVIDIA GPUs alone.

  Returns:
    [b, n, heads, D], of the type of `value`.

  Raises:
    ValueError: a type or a width that 'cudnn' does not take, whatever the device is.
  """
  if implementation == 'cudnn':
    check(query.dtype, query.shape[-1])
    if not missing():
      return lax.platform_dependent(query, key, value, cuda=_by_cudnn, default=_by_xla)
  return _by_xla(query, key, value)


def _by_xla(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  return jax.nn.dot_product_attention(query, key, value, implementation='xla')


def _by_cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  count = query.shape[1]
  more = ((0, 0), (0, count % 2), (0, 0), (0, 0))
  made = jax.nn.dot_product_attention(
    *(jnp.pad(x, more) for x in (query, key, value)),
    query_seq_lengths=_each(query, count + count % 2),
    key_value_seq_lengths=_each(query, count),
    implementation='cudnn',
  )
  return made[:, :count]


def _each(query: jax.Array, number: int) -> jax.Array:
  """The number for each row of the batch, int32 [b], mapped by `jax.vmap` where the queries are."""
  return 0 * query[:, 0, 0, 0].astype(jnp.int32) + number


@functools.cache
def missing() -> str:
  """Why JAX has no attention by cuDNN here, such as 'cuDNN is not detected.'; '' where it has."""
  x = jax.ShapeDtypeStruct((1, 2, 1, _MULTIPLE), jnp.bfloat16)
  try:
    jax.eval_shape(_by_cudnn, x, x, x)
  except RuntimeError as error:  # NotImplementedError, of a version that is too old, is one.
    return str(error)
  return ''


def check(dtype: Any, width: int) -> None:
  """Checks what 'cudnn' would compute with.

  Args:
    dtype: compute type.
    width: D, of a head.

  Raises:
    ValueError: not for this kernel.
  """
  name = jnp.dtype(dtype).name
  if name not in _TYPES:
    raise ValueError(
      f"attention='cudnn' computes in {' or '.join(_TYPES)}, not in {name}: set encoder.dtype to "
      "'bfloat16', or encoder.attention to 'xla'."
    )
  if width % _MULTIPLE or width > _WIDEST:
    raise ValueError(
      f"attention='cudnn' needs heads whose width is a multiple of {_MULTIPLE} up to {_WIDEST}, "
      f"not {width}: choose another number of heads, or set encoder.attention to 'xla'."
    )


def check_devices(devices: Sequence[Any]) -> None:
  """Checks that 'cudnn' would run on devices such as `jax.devices()`.

  Raises:
    ValueError: one is another device than an NVIDIA GPU with this kernel, or JAX has no cuDNN.
  """
  for device in devices:
    if not _has_kernel(device):
      raise ValueError(
        "encoder.attention='cudnn' needs NVIDIA GPUs of compute capability "
        f'{".".join(map(str, _CAPABILITY))} or higher, such as an A100, and this run has '
        f"{device.device_kind}: set it to 'xla'."
      )
  if reason := missing():
    raise ValueError(
      f"encoder.attention='cudnn' needs a cuDNN that JAX can use ({reason.rstrip('.')}): pip "
      "install 'byoljax[cuda]', or set it to 'xla'."
    )


def _has_kernel(device: Any) -> bool:
  if device.platform != 'gpu' or 'cuda' not in device.client.platform_version:
    return False
  capability = tuple(int(part) for part in str(device.compute_capability).split('.'))
  return capability >= _CAPABILITY
