"""How much faster a ResNet-18 step would be if each 3x3 convolution were written the best way.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. python experiments/convolutions.py \
      --out experiments/convolutions

On one core, float32: of every 3x3 convolution of stride 1 that the encoder has at 32 px, the
output, the gradient of its input and that of its kernel, each as XLA has it and in other ways:

- winograd: F(4x4, 3x3) of Lavin and Gray (arXiv 1509.09308), 36 products of matrices; of the
  gradient of the input it is the same with the kernel turned.
- patches: one product with the nine shifted copies of the input.
- images as channels: the kernel's gradient as a convolution whose channels are the images.

Then BYOL's whole step at the same batch, and what is left of it if each takes its fastest form:
the sum of what is saved, twice for the two views, and the outputs once more for the target. That is
a bound: nothing is lost between the forms. Each form is checked against XLA's. Medians of CPU time.
"""

import argparse
from collections.abc import Callable
import json
import pathlib
import statistics
import time
from typing import Any

import beside_torch
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax import config as config_lib
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.joint_embedding import byol
from byoljax.models import encoder_factory

# (side, channels): how many of them the encoder has.
LAYERS = {(32, 64): 4, (16, 128): 3, (8, 256): 3, (4, 512): 3}
DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
TILE = 4  # pixels of output along each side of a tile
OF_BYOL = ('projector', 'predictor', 'base_tau', 'last_bias', 'copy_target', 'head_init')

# Of F(4x4, 3x3) at the points 0, 1, -1, 2, -2, infinity: input, kernel and output transform.
INPUT = np.array([
  [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
  [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
], np.float32)  # fmt: skip
KERNEL = np.array([
  [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
  [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
], np.float32)  # fmt: skip
OUTPUT = np.array([
  [1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1],
], np.float32)  # fmt: skip


def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[b, S, S, C], [3, 3, C, D] -> [b, S, S, D], as XLA has it."""
  return lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=DIMENSIONS)


def combined(matrix: np.ndarray, parts: list[jax.Array]) -> list[jax.Array]:
  """Sums of the parts, weighted by each row of the matrix."""
  return [
    sum(float(weight) * part for weight, part in zip(row, parts, strict=True) if weight)
    for row in matrix
  ]


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The same from tiles of 4x4 outputs."""
  b, side, _, channels = x.shape
  count, size = side // TILE, TILE + 2
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows = combined(INPUT, [padded[:, i : i + TILE * count : TILE] for i in range(size)])
  tiles = [
    tile.reshape(b * count**2, channels)
    for row in rows
    for tile in combined(INPUT, [row[:, :, j : j + TILE * count : TILE] for j in range(size)])
  ]
  weights = [
    weight for row in combined(KERNEL, list(kernel)) for weight in combined(KERNEL, list(row))
  ]
  product = jnp.matmul(jnp.stack(tiles), jnp.stack(weights)).reshape(
    size, size, b, count, count, -1
  )
  made = [
    jnp.stack(combined(OUTPUT, list(row)), axis=3)  # [b, count, count, TILE, D]
    for row in combined(OUTPUT, list(product))
  ]
  return jnp.stack(made, axis=2).reshape(b, side, side, -1)


def patches(x: jax.Array) -> jax.Array:
  """[b, S, S, C] -> [b S S, 9 C], the nine shifted copies."""
  b, side, _, channels = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifted = [padded[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]
  return jnp.concatenate(shifted, axis=-1).reshape(b * side**2, 9 * channels)


def by_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The convolution as one product."""
  return (patches(x) @ kernel.reshape(-1, kernel.shape[-1])).reshape(*x.shape[:3], -1)


def turned(kernel: jax.Array) -> jax.Array:
  """The kernel that takes gradients of the output to those of the input."""
  return kernel[::-1, ::-1].swapaxes(2, 3)


def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
  """[3, 3, C, D] as XLA has it."""
  shape = (3, 3, x.shape[-1], dy.shape[-1])
  return jax.linear_transpose(lambda kernel: direct(x, kernel), jnp.zeros(shape))(dy)[0]


def images_as_channels(x: jax.Array, dy: jax.Array) -> jax.Array:
  """The same as a convolution of the inputs, channels as images, with the gradients as kernel."""
  made = lax.conv_general_dilated(
    x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), ((1, 1), (1, 1)),
    dimension_numbers=DIMENSIONS,
  )  # fmt: skip
  return made.transpose(1, 2, 0, 3)


def patches_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
  """The same as one product."""
  flat = patches(x).T @ dy.reshape(-1, dy.shape[-1])
  return flat.reshape(3, 3, x.shape[-1], dy.shape[-1])


Form = Callable[[jax.Array, jax.Array], jax.Array]
FORMS: dict[str, dict[str, Form]] = {
  'output': {'XLA': direct, 'winograd': winograd, 'patches': by_patches},
  'input gradient': {
    'XLA': lambda dy, kernel: direct(dy, turned(kernel)),
    'winograd': lambda dy, kernel: winograd(dy, turned(kernel)),
    'patches': lambda dy, kernel: by_patches(dy, turned(kernel)),
  },
  'kernel gradient': {
    'XLA': kernel_gradient,
    'images as channels': images_as_channels,
    'patches': patches_gradient,
  },
}


def cpu_ms(function: Any, arguments: tuple[Any, ...], repeats: int) -> float:
  """Median CPU time of a call, the first one apart."""
  jax.block_until_ready(function(*arguments))
  seconds = []
  for _ in range(repeats):
    began = time.process_time()
    jax.block_until_ready(function(*arguments))
    seconds.append(time.process_time() - began)
  return 1e3 * statistics.median(seconds)


def layer(side: int, channels: int, batch: int, repeats: int) -> dict[str, dict[str, float]]:
  """{what: {form: ms}} of a convolution; AssertionError where a form gives something else.

  Winograd's transforms are exact in the reals; its rounding is about 1e-5 of the largest number, of
  which the tolerance allows twenty times as much.
  """
  rng = np.random.default_rng(0)
  x, dy = (
    jnp.asarray(rng.normal(size=(batch, side, side, channels)), jnp.float32) for _ in range(2)
  )
  kernel = jnp.asarray(rng.normal(size=(3, 3, channels, channels)), jnp.float32)
  given = {'output': (x, kernel), 'input gradient': (dy, kernel), 'kernel gradient': (x, dy)}
  found: dict[str, dict[str, float]] = {}
  for what, forms in FORMS.items():
    expected = np.asarray(jax.jit(forms['XLA'])(*given[what]))
    for name, form in forms.items():
      compiled = jax.jit(form)
      got = np.asarray(compiled(*given[what]))
      np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())
      found.setdefault(what, {})[name] = cpu_ms(compiled, given[what], repeats)
  return found


def step_ms(batch: int, steps: int) -> float:
  """BYOL's whole step, views given; median CPU time."""
  images = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
  config = config_lib.load('configs/byol.py:cifar10', [('encoder.dtype', 'float32')])
  setting = Setting(Length(batch, 1, 100), mean=config.data.mean, std=config.data.std)
  fields = {name: value for name, value in config.method.items() if name in OF_BYOL}
  method = byol.build(encoder_factory(dict(config.encoder)), setting, **fields)
  views = tuple(np.asarray(images / 255.0, np.float32) for _ in range(2))
  given = beside_torch.batch_of(views[0]) | {'views': views}
  state, step = beside_torch.step_of(method, given)
  _, seconds, _ = beside_torch.timed(step, state, given, steps)
  return 1e3 * statistics.median(seconds)


def main() -> None:
  """Measures and writes results.json and table.md."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--batch', type=int, default=64)
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  options = parser.parse_args()
  beside_torch.one_core()
  found, lines, saved = {}, [], 0.0
  for (side, channels), count in LAYERS.items():
    times = layer(side, channels, options.batch, options.repeats)
    found[f'{side}x{side}x{channels}'] = times
    for what, forms in times.items():
      best = min(forms, key=lambda form, forms=forms: forms[form])
      gain = forms['XLA'] - forms[best]
      saved += count * gain * (2 + 2 * (what == 'output'))
      others = ', '.join(f'{name} {ms:.1f}' for name, ms in forms.items() if name != 'XLA')
      cells = [f'{side}x{side}x{channels}, {count} times', what, f'{forms["XLA"]:.1f}', others]
      lines.append('| ' + ' | '.join([*cells, f'{best}, {forms["XLA"] / forms[best]:.2f}']) + ' |')
      print(lines[-1], flush=True)
  whole = step_ms(options.batch, options.repeats)
  heads = '| convolution | what | XLA, ms | others, ms | fastest, times as fast |\n'
  heads += '|---|---|---:|---|---|\n'
  last = (
    f"\nBYOL's whole step: {whole:.0f} ms; saved at most: {saved:.0f} ms, "
    f'{100 * saved / whole:.1f} %.\n'
  )
  options.out.mkdir(parents=True, exist_ok=True)
  (options.out / 'table.md').write_text(heads + '\n'.join(lines) + '\n' + last)
  about = beside_torch.about(batch=options.batch, layers=found, step_ms=whole, saved_ms=saved)
  (options.out / 'results.json').write_text(json.dumps(about, indent=1) + '\n')
  print(last)


if __name__ == '__main__':
  main()
