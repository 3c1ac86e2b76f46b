"""What the digests of a checkpoint cost, for the state of BYOL with a ResNet-50.

    python experiments/faults/digests.py --out experiments/faults/digests.json

The shapes are those of the recipe `byol:imagenet`, the numbers random. Five saves; the least of
each time is kept, since other work on the computer only adds to it.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
from results import ROOT, facts

SAVES = 5


def main(arguments: Sequence[str] | None = None) -> None:
  """Saves, and times the parts."""
  from byoljax.devices import mapping
  from byoljax.workdir import checkpoint, integrity, restore

  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', default='', help='JSON to write')
  options = parser.parse_args(arguments)
  state = state_of_a_run()
  leaves = restore.by_name(mapping.fetch(state))
  times: dict[str, list[float]] = {'digests': [], 'save': [], 'written': []}
  with (
    tempfile.TemporaryDirectory(prefix='byoljax-digests-') as scratch,
    checkpoint.Checkpoints(scratch, keep=1) as checkpoints,
  ):
    for step in range(1, SAVES + 1):
      began = time.perf_counter()
      integrity.make(leaves, step=step, metrics={}, version='0')
      times['digests'].append(time.perf_counter() - began)
      began = time.perf_counter()
      checkpoints.save(step, state, {'loss': 1.0})
      times['save'].append(time.perf_counter() - began)
      checkpoints.wait()
      times['written'].append(time.perf_counter() - began)
  write(options.out, leaves, {name: round(min(found), 2) for name, found in times.items()})


def state_of_a_run() -> Any:
  """Random arrays on the device in the shapes of a run's state."""
  from byoljax import config
  from byoljax.data.sources import arrays
  from byoljax.train import assemble

  loaded = config.load(f'{ROOT}/configs/byol.py:imagenet', [('train.batch_size', '8')])
  source = arrays.from_arrays(np.zeros((16, 224, 224, 3), np.uint8), np.arange(16) % 2)
  shapes = jax.eval_shape(assemble.from_config(loaded, source).create)
  rng = np.random.default_rng(0)

  def random(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if leaf.dtype == np.float32:
      return jax.device_put(rng.standard_normal(leaf.shape, np.float32))
    return jax.device_put(np.zeros(leaf.shape, leaf.dtype))

  return jax.tree.map(random, shapes)


def write(out: str, leaves: dict[str, Any], seconds: dict[str, float]) -> None:
  """Prints what was found, and writes it with what it was measured on."""
  found = {
    'arrays': len(leaves),
    'megabytes': round(sum(leaf.nbytes for leaf in leaves.values()) / 1e6),
    'seconds': seconds,
    'share_of_blocking_save': round(seconds['digests'] / seconds['save'], 2),
    'share_until_written': round(seconds['digests'] / seconds['written'], 2),
  }
  print(json.dumps(found, indent=1))
  if out:
    about = facts('digests', ['--out', out])
    pathlib.Path(out).write_text(json.dumps(about | found, indent=1) + '\n')


if __name__ == '__main__':
  main()
