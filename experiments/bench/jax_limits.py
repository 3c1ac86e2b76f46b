"""XLA's products and sums as a contestant; see limits_bench.py."""

import contest
import jax
import jax.numpy as jnp
import numpy as np

from byoljax import __version__
from byoljax.devices import xla

PACKAGES = ('jax', 'jaxlib', 'numpy')
_REPEATS = 8


class Contestant:
  """Answers 'prepare' and 'seconds'."""

  def prepare(self, side: int, numbers: int, dtypes: list[str], threads: int) -> contest.Reply:
    """Makes the matrices and the array; XLA takes all cores."""
    del threads
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.standard_normal((side, side)), jnp.float32) / side**0.5
    self._multiply = jax.jit(lambda a, b: a @ b)
    self._sum = jax.jit(jnp.sum)
    self._matrix = {name: matrix.astype(name) for name in dtypes}
    self._array = jnp.ones(numbers, jnp.float32)
    for a in self._matrix.values():
      jax.block_until_ready(self._multiply(a, a))
    jax.block_until_ready(self._sum(self._array))
    return {'versions': {'byoljax': __version__} | contest.versions(PACKAGES)}

  def seconds(self, what: str) -> contest.Reply:
    """Wall seconds of one product in a type, or of one sum ('memory')."""
    a = self._matrix.get(what)

    def several() -> None:
      for _ in range(_REPEATS):
        jax.block_until_ready(self._sum(self._array) if a is None else self._multiply(a, a))

    return {'seconds': contest.timed(several)[0] / _REPEATS}


if __name__ == '__main__':
  xla.set_defaults()
  contestant = Contestant()
  contest.serve({'prepare': contestant.prepare, 'seconds': contestant.seconds})
