"""PyTorch's products and sums as a contestant; see limits_bench.py."""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

import contest
import numpy as np
import torch

PACKAGES = ('torch', 'numpy')
_REPEATS = 8


class Contestant:
  """Answers like its namesake in jax_limits.py."""

  def prepare(self, side: int, numbers: int, dtypes: list[str], threads: int) -> contest.Reply:
    """Makes the matrices and the array."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(rng.standard_normal((side, side), np.float32)) / side**0.5
    self._matrix = {name: matrix.to(getattr(torch, name)) for name in dtypes}
    self._array = torch.ones(numbers)
    for a in self._matrix.values():
      torch.mm(a, a)
    torch.sum(self._array)
    return {'versions': contest.versions(PACKAGES)}

  def seconds(self, what: str) -> contest.Reply:
    """Wall seconds of one product in a type, or of one sum ('memory')."""
    a = self._matrix.get(what)

    def several() -> None:
      for _ in range(_REPEATS):
        torch.sum(self._array) if a is None else torch.mm(a, a)

    return {'seconds': contest.timed(several)[0] / _REPEATS}


if __name__ == '__main__':
  contestant = Contestant()
  contest.serve({'prepare': contestant.prepare, 'seconds': contestant.seconds})
