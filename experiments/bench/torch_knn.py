"""lightly's k-NN and a plain one in PyTorch, as contestants."""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

from typing import Any

import contest
from lightly.utils.benchmarking import knn_predict
import numpy as np
import torch

PACKAGES = ('torch', 'lightly', 'numpy')
_BATCH = {'lightly': 256, 'topk': 1024}


class Contestant:
  """Answers 'prepare' and 'search' like its namesake in jax_knn.py."""

  def prepare(self, case: dict[str, Any], threads: int) -> contest.Reply:
    """Loads the features; the bank lies as lightly's classifier keeps it, [D, N]."""
    torch.set_num_threads(threads)
    self._case, rows = case, case.get('rows')
    with np.load(case['path']) as arrays:
      self._bank = torch.from_numpy(np.ascontiguousarray(arrays['bank'][:rows].T))
      self._labels = torch.from_numpy(arrays['bank_labels'][:rows])
      self._queries = torch.from_numpy(arrays['queries'])
    return {'versions': contest.versions(PACKAGES), 'memory': contest.resident_bytes_anew()}

  def _topk(self, queries: torch.Tensor) -> torch.Tensor:
    case = self._case
    similarities, rows = (queries @ self._bank).topk(case['k'], dim=1)
    votes = torch.zeros(len(queries), case['classes'])
    votes.scatter_add_(1, self._labels[rows], (similarities / case['temperature']).exp())
    return votes.argmax(1)

  def _lightly(self, queries: torch.Tensor) -> torch.Tensor:
    case = self._case
    return knn_predict(
      queries, self._bank, self._labels, case['classes'], case['k'], case['temperature']
    )[:, 0]

  def search(self, way: str, out: str) -> contest.Reply:
    """Classifies all queries; writes the predictions to `out` if it is not empty."""
    one = {'lightly': self._lightly, 'topk': self._topk}[way]
    parts: list[torch.Tensor] = []

    def work() -> None:
      with torch.no_grad():
        parts.extend(one(queries) for queries in self._queries.split(_BATCH[way]))

    wall, cpu = contest.timed(work)
    if out:
      np.save(out, torch.cat(parts).numpy())
    return {'wall': wall, 'cpu': cpu, 'memory': contest.resident_bytes()}


if __name__ == '__main__':
  contestant = Contestant()
  contest.serve({'prepare': contestant.prepare, 'search': contestant.search})
