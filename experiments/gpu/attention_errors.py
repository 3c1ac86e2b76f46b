"""Whether attention by cuDNN is attention: its values and gradients against float32's, as XLA's."""

import jax
import jax.numpy as jnp

from byoljax.ops import fused_attention

# As in ViT-S/16 at 224 px: tokens are odd, with the class token.
SHAPE = (16, 197, 6, 64)
# Of bfloat16: a unit in the last place of values just below 2.
_LEAST = 2.0**-7


def measure(shape: tuple[int, ...] = SHAPE) -> dict[str, dict[str, float]]:
  """Implementation -> errors of the output and of the three gradients, relative to their norms.

  Raises:
    RuntimeError: cuDNN's error is more than twice XLA's and more than rounding.
  """
  *given, weights = (
    jax.random.normal(key, shape, jnp.float32) for key in jax.random.split(jax.random.key(0), 4)
  )
  rounded = [x.astype(jnp.bfloat16) for x in given]
  with jax.default_matmul_precision('highest'):
    exact = _computed([x.astype(jnp.float32) for x in rounded], weights, 'xla')
  found = {}
  for implementation in fused_attention.IMPLEMENTATIONS:
    made = _computed(rounded, weights, implementation)
    found[implementation] = {
      name: float(jnp.linalg.norm(made[name] - exact[name]) / jnp.linalg.norm(exact[name]))
      for name in exact
    }
  return checked(found)


def checked(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
  """What was found, if cuDNN's errors are those of its type; see `measure`."""
  for name, error in found['cudnn'].items():
    most = max(_LEAST, 2 * found['xla'][name])
    if not error <= most:  # NaN, too.
      raise RuntimeError(
        f"attention by cuDNN differs from float32's by {error:.2g} of the norm ({name}); XLA's by "
        f'{found["xla"][name]:.2g}'
      )
  return found


def _computed(
  given: list[jax.Array], weights: jax.Array, implementation: str
) -> dict[str, jax.Array]:
  """The output and the gradients of its product with the weights, float32."""

  def product(*given: jax.Array) -> tuple[jax.Array, jax.Array]:
    made = fused_attention.attention(*given, implementation).astype(jnp.float32)
    return jnp.sum(made * weights), made

  (_, made), grads = jax.jit(jax.value_and_grad(product, (0, 1, 2), has_aux=True))(*given)
  names = ('output', 'query', 'key', 'value')
  return {n: x.astype(jnp.float32) for n, x in zip(names, (made, *grads), strict=True)}
