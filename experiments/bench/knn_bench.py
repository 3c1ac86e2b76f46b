"""Part `knn`: weighted k-NN classification of CIFAR-10's size, byoljax against three others.

50,000 bank features and 10,000 queries of 512 numbers, on the unit sphere, at random; 10 classes,
also at random; k = 200, T = 0.07. Random features are the hard case for speed (no structure to
use, which none of these would) and for agreement (votes are close).

  byoljax               `knn.nearest` and `knn.vote`: predictions
  byoljax, evaluation   `knn.knn_accuracy` as evaluations call it: all k and T of the recipe at once
  lightly               its `knn_predict`, in batches of 256 queries as its classifier gets them
  PyTorch               a product, `topk` and a sum of votes per 1024 queries
  scikit-learn          KNeighborsClassifier, brute force, cosine, voting by exp(s / T); and by
                        Euclidean distance on the same unit vectors, which has the same neighbors

Before anything is timed all must predict the same but for rounding, and the accuracy of the
evaluation must be that of the predictions. Everybody holds the features in memory; what memory the
search takes is the peak of its process above that.

ImageNet's bank (1,281,167 x 2048, 50,000 queries) is not run but estimated, from a slice of it
whose time is measured at two sizes.
"""

import contextlib
from typing import Any

import contest
import numpy as np
from setting import Setting

K, TEMPERATURE, CLASSES = 200, 0.07, 10
_AGREE = 0.998  # Of the queries: votes of random features are close enough for rounding to matter.
IMAGENET = {'rows': 1_281_167, 'width': 2048, 'queries': 50_000}

# contestant -> script, how it is asked, whether it belongs to PyTorch's interpreter
PLAYERS = {
  'byoljax': ('jax_knn.py', 'predict', False),
  'byoljax, evaluation': ('jax_knn.py', 'evaluate', False),
  'lightly': ('torch_knn.py', 'lightly', True),
  'PyTorch': ('torch_knn.py', 'topk', True),
  'scikit-learn, cosine': ('sklearn_knn.py', 'cosine', False),
  'scikit-learn, Euclidean': ('sklearn_knn.py', 'euclidean', False),
}
_SLICED = ('byoljax', 'lightly', 'PyTorch')


def sizes(quick: bool) -> tuple[int, int, int]:
  """Rows of the bank, queries, width."""
  return (2000, 300, 64) if quick else (50_000, 10_000, 512)


def measure(setting: Setting) -> dict[str, Any]:
  """Seconds, memory and agreement of everybody, and the slice of ImageNet's size."""
  shape = sizes(setting.quick)
  rounds = 1 if setting.quick else 3
  path = setting.scratch / 'knn.npz'
  write(path, *shape)
  setting.say('knn: {:,} x {:,} x {}'.format(*shape))
  case = {'path': str(path), 'k': K, 'temperature': TEMPERATURE, 'classes': CLASSES}
  names = [name for name, (_, _, theirs) in PLAYERS.items() if setting.torch_python or not theirs]
  with contextlib.ExitStack() as stack:
    players, versions, memory = {}, {}, {}
    for name in names:
      script, _, theirs = PLAYERS[name]
      start = setting.theirs if theirs else setting.ours
      players[name] = stack.enter_context(start(script))
      reply = players[name].ask('prepare', case=case, threads=setting.cores)
      versions[name] = reply['versions']
      memory[name] = reply['memory']
    replies = {}
    for name in names:  # Compiles, too.
      out = str(setting.scratch / f'{name}.npy')
      replies[name] = players[name].ask('search', way=PLAYERS[name][1], out=out)
      setting.say(f'  first time  {name}')
    agreement = compare(
      {name: np.load(setting.scratch / f'{name}.npy') for name in names if _predicts(name)}
    )
    with np.load(path) as arrays:
      truth = arrays['query_labels']
    own = float(np.mean(np.load(setting.scratch / 'byoljax.npy') == truth))
    found = replies['byoljax, evaluation']['top1']
    if abs(own - found) > 1 / len(truth):
      raise RuntimeError(f'the evaluation says {found}, the predictions {own}')
    turns = {
      name: lambda name=name: players[name].ask('search', way=PLAYERS[name][1], out='')
      for name in names
    }
    samples = contest.alternate(turns, rounds, pause=setting.pause, say=setting.say)
  for name in names:
    peak = max((each['memory'].get('peak', 0) for each in samples[name]), default=0)
    memory[name] = {'before': memory[name].get('now', 0), 'peak': peak}
  return {
    'sizes': shape,
    'k': K,
    'temperature': TEMPERATURE,
    'agreement': agreement,
    'top1': own,
    'samples': {
      name: {clock: [each[clock] for each in turn] for clock in ('wall', 'cpu')}
      for name, turn in samples.items()
    },
    'memory': memory,
    'versions': _versions(versions),
    'slice': _slices(setting, [name for name in names if name in _SLICED]),
  }


def _versions(found: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
  """By side: what runs in byoljax's interpreter has its versions."""
  sides: dict[str, dict[str, str]] = {}
  for name, each in found.items():
    side = 'PyTorch' if PLAYERS[name][2] else 'byoljax'
    sides[side] = sides.get(side, {}) | each
  return sides


def _predicts(name: str) -> bool:
  return PLAYERS[name][1] != 'evaluate'


def compare(predictions: dict[str, np.ndarray]) -> dict[str, float]:
  """Share of the queries for which a contestant predicts byoljax's class.

  Raises:
    RuntimeError: not the same classifier.
  """
  own = predictions['byoljax']
  found = {
    name: float(np.mean(theirs == own)) for name, theirs in predictions.items() if name != 'byoljax'
  }
  if wrong := {name: share for name, share in found.items() if share < _AGREE}:
    raise RuntimeError(f'not the same classifier: {wrong}')
  return found


def write(path: Any, rows: int, queries: int, width: int) -> None:
  """Random unit features and labels of a bank and of queries."""
  rng = np.random.default_rng(0)

  def unit(count: int) -> np.ndarray:
    x = rng.standard_normal((count, width), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)

  np.savez(
    path,
    bank=unit(rows),
    bank_labels=rng.integers(0, CLASSES, rows),
    queries=unit(queries),
    query_labels=rng.integers(0, CLASSES, queries),
  )


def _slices(setting: Setting, names: list[str]) -> dict[str, Any]:
  """Seconds and memory of a search in a part of a bank of ImageNet's width, at two sizes."""
  rows, queries, width = (2048, 64, 64) if setting.quick else (65_536, 1024, IMAGENET['width'])
  path = setting.scratch / 'slice.npz'
  found: dict[str, Any] = {'rows': rows, 'queries': queries, 'width': width, 'found': {}}
  write(path, rows, queries, width)
  for name in names:
    script, way, theirs = PLAYERS[name]
    start = setting.theirs if theirs else setting.ours
    parts = {}
    for part in (rows // 2, rows):
      case = {'path': str(path), 'k': K, 'temperature': TEMPERATURE, 'classes': CLASSES}
      with start(script) as player:  # A process of its own: a peak does not go down again.
        before = player.ask('prepare', case=case | {'rows': part}, threads=setting.cores)
        player.ask('search', way=way, out='')
        reply = player.ask('search', way=way, out='')
      parts[str(part)] = {
        'wall': reply['wall'],
        'memory': reply['memory'].get('peak', 0) - before['memory'].get('now', 0),
      }
    found['found'][name] = parts
    setting.say(f'  slice of ImageNet  {name}')
  path.unlink()
  return found
