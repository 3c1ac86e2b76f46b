"""Makes knn.npz: k-NN hit counts of independent implementations on the same random features.

Run it from the repository root, once where scikit-learn is installed and once where lightly and
PyTorch are; each run adds the references that its environment can compute:

  python tests/golden/make_knn.py
"""

import importlib.util
import pathlib

import numpy as np

KS = (1, 5, 20, 50, 200)
TEMPERATURES = (0.07, 0.1, 0.2)
CLASSES = 12


def features():
  rng = np.random.default_rng(0)
  centers = rng.normal(size=(CLASSES, 16))
  labels = rng.integers(0, CLASSES, 420).astype(np.int32)
  # Lengths vary widely: only the cosine may matter.
  rows = centers[labels] + rng.normal(size=(420, 16)) * 2.2
  rows *= rng.lognormal(sigma=1.0, size=(420, 1))
  rows = rows.astype(np.float32)
  return rows[:300], labels[:300], rows[300:], labels[300:]


def brute_force(bank, bank_labels, queries, query_labels):
  """Every pair in float64, one query at a time."""
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
  similarities = unit(queries.astype(np.float64)) @ unit(bank.astype(np.float64)).T
  hits = np.zeros((2, len(KS), len(TEMPERATURES)), np.int64)
  for row, truth in zip(similarities, query_labels, strict=True):
    order = np.argsort(-row, kind='stable')
    for i, k in enumerate(KS):
      for j, temperature in enumerate(TEMPERATURES):
        scores = np.zeros(CLASSES)
        for neighbor in order[:k]:
          scores[bank_labels[neighbor]] += np.exp(row[neighbor] / temperature)
        ranked = [c for c in np.argsort(-scores, kind='stable') if scores[c] > 0]
        hits[0, i, j] += truth in ranked[:1]
        hits[1, i, j] += truth in ranked[:5]
  return {'brute_force': hits}


def scikit_learn(bank, bank_labels, queries, query_labels):
  from sklearn.neighbors import KNeighborsClassifier

  hits = np.zeros((2, len(KS), len(TEMPERATURES)), np.int64)
  for i, k in enumerate(KS):
    for j, temperature in enumerate(TEMPERATURES):
      model = KNeighborsClassifier(
        k,
        metric='cosine',
        algorithm='brute',
        weights=lambda distance, t=temperature: np.exp((1 - distance) / t),
      ).fit(bank.astype(np.float64), bank_labels)
      scores = model.predict_proba(queries.astype(np.float64))
      ranked = np.argsort(-scores, axis=1, kind='stable')
      voted = np.take_along_axis(scores, ranked, axis=1) > 0
      right = (model.classes_[ranked] == query_labels[:, None]) & voted
      hits[0, i, j] = np.sum(model.predict(queries.astype(np.float64)) == query_labels)
      hits[1, i, j] = np.sum(right[:, :5])
  return {'scikit_learn': hits}


def lightly(bank, bank_labels, queries, query_labels):
  """Top-1 only: its top-5 fills up with classes that got no vote."""
  import peer_env  # noqa: F401, I001
  from lightly.utils.benchmarking import knn_predict
  import torch

  unit = lambda x: torch.nn.functional.normalize(torch.from_numpy(x).double(), dim=1)  # noqa: E731
  hits = np.zeros((len(KS), len(TEMPERATURES)), np.int64)
  for i, k in enumerate(KS):
    for j, temperature in enumerate(TEMPERATURES):
      predicted = knn_predict(
        unit(queries),
        unit(bank).T,
        torch.from_numpy(bank_labels).long(),
        num_classes=CLASSES,
        knn_k=k,
        knn_t=temperature,
      )
      hits[i, j] = np.sum(predicted[:, 0].numpy() == query_labels)
  return {'lightly': hits}


def main():
  path = pathlib.Path(__file__).with_name('knn.npz')
  arrays = dict(np.load(path)) if path.exists() else {}
  data = features()
  names = ('bank', 'bank_labels', 'queries', 'query_labels')
  arrays |= dict(zip(names, data, strict=True))
  arrays |= {'ks': np.array(KS), 'temperatures': np.array(TEMPERATURES), 'classes': CLASSES}
  arrays |= brute_force(*data)
  if importlib.util.find_spec('sklearn'):
    arrays |= scikit_learn(*data)
  if importlib.util.find_spec('lightly'):
    arrays |= lightly(*data)
  np.savez_compressed(path, **arrays)
  for name in ('brute_force', 'scikit_learn', 'lightly'):
    print(name, arrays.get(name, 'not in this environment'))


if __name__ == '__main__':
  main()
