"""scikit-learn's k-NN classifier as a contestant."""

from typing import Any

import contest
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

PACKAGES = ('scikit-learn', 'numpy', 'scipy')


class Contestant:
  """Answers 'prepare' and 'search' like its namesake in jax_knn.py."""

  def prepare(self, case: dict[str, Any], threads: int) -> contest.Reply:
    """Loads the features."""
    self._case, self._threads = case, threads
    with np.load(case['path']) as arrays:
      self._bank, self._labels = arrays['bank'], arrays['bank_labels']
      self._queries = arrays['queries']
    return {'versions': contest.versions(PACKAGES), 'memory': contest.resident_bytes_anew()}

  def search(self, way: str, out: str) -> contest.Reply:
    """Classifies all queries; writes the predictions to `out` if it is not empty."""
    temperature = self._case['temperature']

    def weights(distances: np.ndarray) -> np.ndarray:
      similarities = 1 - distances if way == 'cosine' else 1 - np.square(distances) / 2
      return np.exp(similarities / temperature)

    found: Any = None

    def work() -> None:
      nonlocal found
      classifier = KNeighborsClassifier(
        self._case['k'], weights=weights, algorithm='brute', metric=way, n_jobs=self._threads
      )
      found = classifier.fit(self._bank, self._labels).predict(self._queries)

    wall, cpu = contest.timed(work)
    if out:
      np.save(out, found)
    return {'wall': wall, 'cpu': cpu, 'memory': contest.resident_bytes()}


if __name__ == '__main__':
  contestant = Contestant()
  contest.serve({'prepare': contestant.prepare, 'search': contestant.search})
