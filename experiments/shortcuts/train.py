"""What relative patch location learns from noise with a trace of the place in it, and from noise.

    python -m experiments.shortcuts.train --out experiments/shortcuts/results.json

Trains a small network per trace and defense, on images that have no content (`sets.py`), and asks
for directions in images that it has not seen; 1/8 is chance. Every result is written when it is
there, and those that are there are not repeated.
"""

import argparse
import functools
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from byoljax.length import Length
from byoljax.method import Method, Setting, transformed
from byoljax.methods.pretext import relative_patch_location
from byoljax.models import layers
from byoljax.step import init_state, train_step
from experiments.shortcuts import reader, sets

TILES = {'grid': 3, 'tile': 12, 'gap': 6, 'jitter': 2, 'standardize': 'none'}
# Trace -> what is tried against it: name -> fields of the tiles that differ.
TRIED: dict[str, dict[str, dict[str, Any]]] = {
  'aberration': {
    'nothing': {},
    'shifted channels': {'channel_shift': 2},
    'gray': {'gray_prob': 1.0},
    'projection': {'project_prob': 1.0},
    'dropped channels': {'drop_prob': 1.0},
  },
  'continuity': {
    'nothing': {'gap': 0, 'jitter': 0},
    'gap of 6': {},
  },
  'brightness': {'nothing': {}, 'standardized tiles': {'standardize': 'tile'}},
}
BATCH, TRAIN, TEST, STEPS = 32, 1024, 256, 150


class Tiny(nn.Module):
  """Two convolutions and a linear layer that sees where in the tile something is."""

  bn_axis: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b, 12, 12, 3] -> [b, 64]."""
    for number, channels in enumerate((16, 32)):
      x = layers.conv(channels, 3, 1 + number, 'torch', jnp.float32, f'conv{number}')(x)
      x = nn.relu(layers.batch_norm(train, self.bn_axis, jnp.float32, f'bn{number}')(x))
    return nn.Dense(64)(x.reshape(len(x), -1))


@functools.cache
def compiled(changes: tuple[tuple[str, Any], ...]) -> tuple[Method, Any, Any, Any]:
  """A method, and its first state, step and accuracy as compiled functions."""
  method = relative_patch_location.build(
    Tiny, Setting(Length(BATCH, TRAIN // BATCH, STEPS), num_examples=TRAIN),
    tiles=TILES | dict(changes), hidden=(128,), dropout=0.0,
  )  # fmt: skip
  tx = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))
  step = functools.partial(
    train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None
  )

  def accuracy(state: Any, batch: dict, key: jax.Array) -> jax.Array:
    seen = transformed(method, batch, key, jnp.int32(0))
    _, aux = method.loss(state.params, state.method_state, seen, key, jnp.int32(0))
    return aux.metrics['pretext_accuracy']

  return (
    method,
    functools.partial(init_state, method, tx),
    jax.jit(step, donate_argnums=0),
    jax.jit(accuracy),
  )


def held_out_accuracy(
  cue: str, changes: dict[str, Any], steps: int = STEPS, seed: int = 0
) -> float:
  """Trains on images with a trace and returns the accuracy on others.

  Args:
    cue: one of `sets.CUES`.
    changes: fields of the tiles.
    seed: of images, weights and tiles.
  """
  _, init, step, accuracy = compiled(tuple(changes.items()))
  images = sets.images(cue, TRAIN + TEST, seed)
  rng = np.random.default_rng(seed)

  def batch(rows: np.ndarray) -> dict[str, Any]:
    return {'views': (images[rows],), 'index': rows.astype(np.int32)}

  state = init(batch(np.arange(BATCH)), seed)
  for _ in range(STEPS):
    state, _ = step(state, batch(rng.integers(0, TRAIN, BATCH)))
  found = [
    float(accuracy(state, batch(TRAIN + BATCH * part + np.arange(BATCH)), jax.random.key(part)))
    for part in range(TEST // BATCH)
  ]
  return float(np.mean(found))


def read_accuracy(cue: str, changes: dict[str, Any], images: int = 200) -> float:
  """What a classifier that knows the traces reads in the same tiles, see `reader.py`."""
  method = compiled(tuple(changes.items()))[0]
  batch = {'views': (sets.images(cue, images, 0),), 'index': np.arange(images, dtype=np.int32)}
  see = jax.jit(lambda batch: transformed(method, batch, jax.random.key(0), jnp.int32(0)))
  made = jax.tree.map(np.asarray, see(batch))
  tiles = made['views'][0].reshape(9, images, *made['views'][0].shape[1:])
  features = reader.pair_features(tiles, made['order'].reshape(8, images, 2))
  return reader.held_out_accuracy(features, made['pretext_label'], images)


def main(out: pathlib.Path, cues: list[str]) -> None:
  """Measures what is not there yet."""
  for who, measure in (('classifier', read_accuracy), ('network', held_out_accuracy)):
    for cue in cues:
      for name, changes in TRIED[cue].items():
        results = json.loads(out.read_text()) if out.exists() else {}
        own = results.setdefault(who, {}).setdefault(cue, {})
        if name not in own:
          own[name] = round(measure(cue, changes), 4)
          print(who, cue, name, own[name], flush=True)
          out.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--cues', nargs='*', default=list(TRIED), choices=list(TRIED))
  arguments = parser.parse_args()
  main(arguments.out, arguments.cues)
