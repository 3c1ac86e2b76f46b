"""byoljax's k-NN as a contestant."""

from typing import Any

import contest
import jax
import numpy as np

from byoljax import __version__
from byoljax.devices import xla
from byoljax.evals import knn

PACKAGES = ('jax', 'jaxlib', 'numpy')


class Contestant:
  """Answers 'prepare' and 'search'; see knn_bench.py."""

  def prepare(self, case: dict[str, Any], threads: int) -> contest.Reply:
    """Loads the features; XLA takes all cores."""
    del threads
    jax.devices()
    self._case, rows = case, case.get('rows')
    with np.load(case['path']) as arrays:
      self._bank, self._labels = arrays['bank'][:rows], arrays['bank_labels'][:rows]
      self._queries, self._truth = arrays['queries'], arrays['query_labels']
    versions = {'byoljax': __version__} | contest.versions(PACKAGES)
    return {'versions': versions, 'memory': contest.resident_bytes_anew()}

  def _predict(self) -> np.ndarray:
    case = self._case
    similarities, rows = knn.nearest(self._bank, self._queries, case['k'])
    return knn.vote(similarities, self._labels[rows], case['temperature'])

  def _evaluate(self) -> dict[str, Any]:
    return knn.knn_accuracy(
      self._bank, self._labels, self._queries, self._truth, num_classes=self._case['classes']
    )

  def search(self, way: str, out: str) -> contest.Reply:
    """Classifies all queries; writes the predictions to `out` if it is not empty."""
    found: Any = None

    def work() -> None:
      nonlocal found
      found = self._predict() if way == 'predict' else self._evaluate()

    wall, cpu = contest.timed(work)
    reply = {'wall': wall, 'cpu': cpu, 'memory': contest.resident_bytes()}
    if way == 'predict':
      if out:
        np.save(out, found)
      return reply
    chosen = {'k': self._case['k'], 'temperature': self._case['temperature']}
    (row,) = [row for row in found['sweep'] if {key: row[key] for key in chosen} == chosen]
    return reply | {'top1': row['top1']}


if __name__ == '__main__':
  xla.set_defaults()
  contestant = Contestant()
  contest.serve({'prepare': contestant.prepare, 'search': contestant.search})
