"""Two players: a discriminator that tells real from made, and a generator that is to fool it.

Goodfellow et al. 2014 (arXiv 1406.2661) with the generator's loss that does not saturate (section
3), as in DCGAN (arXiv 1511.06434). Logits say how real an input looks.

As one scalar both are descended at once: the generator's term must see the discriminator's
parameters, and the discriminator's what was made, behind a stop-gradient. The gradients are then
those of the two losses by themselves, but neither player sees the other's update, as it does where
they alternate.
"""

import jax
import jax.numpy as jnp


def discriminate(real: jax.Array, fake: jax.Array) -> jax.Array:
  """-log s(real) - log(1 - s(fake)), float32 scalar; s is the sigmoid. 2 ln 2 for logits of 0.

  Args:
    real: logits of real inputs, [b, ...].
    fake: logits of what was made.

  Returns:
    The mean over this device's logits, without collectives.
  """
  return _softplus(-real) + _softplus(fake)


def fool(fake: jax.Array) -> jax.Array:
  """-log s(fake), float32 scalar: the generator's loss. ln 2 for logits of 0.

  Examples:
    >>> print(f'{float(fool(jnp.zeros(4))):.4f}')
    0.6931
  """
  return _softplus(-fake)


def hinge_discriminate(real: jax.Array, fake: jax.Array) -> jax.Array:
  """(mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2, float32 scalar (arXiv 1705.02894).

  1 for logits of 0; the half is of VQ-GAN's code.
  """
  real, fake = real.astype(jnp.float32), fake.astype(jnp.float32)
  return 0.5 * (jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean())


def hinge_fool(fake: jax.Array) -> jax.Array:
  """-mean fake, float32 scalar: the generator's loss beside `hinge_discriminate`."""
  return -fake.astype(jnp.float32).mean()


def accuracy(real: jax.Array, fake: jax.Array) -> jax.Array:
  """Share of the logits on the right side of 0, float32; 1/2 where the players are even."""
  right = jnp.concatenate([(real > 0).reshape(-1), (fake < 0).reshape(-1)])
  return jnp.mean(right, dtype=jnp.float32)


def _softplus(logits: jax.Array) -> jax.Array:
  return jax.nn.softplus(logits.astype(jnp.float32)).mean()
