"""What each operator of the augmentation costs per image and view, on whatever JAX finds.

    python experiments/bench/augment_bench.py --size 32 --batch-size 256 --out augment.json

Every operator is timed alone, as a compiled function of a batch, and so is the whole augmentation,
in which XLA fuses some of them: the parts need not add up. Needs no TensorFlow and no data. The
result holds every sample: microseconds per image, wall and CPU.
"""

import argparse
from collections.abc import Callable
import dataclasses
import functools
import json
import pathlib
import statistics
import sys
import time
from typing import Any

import machine
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # This checkout's byoljax, installed or not.

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from byoljax.data.augment import branches, crop, device, draws, resize, views  # noqa: E402

_NOTHING = {'jitter_prob': 0.0, 'gray_prob': 0.0, 'blur_prob': 0.0, 'solarize_prob': 0.0}
_NO_JITTER = {'brightness': 0.0, 'contrast': 0.0, 'saturation': 0.0, 'hue': 0.0}
# operator -> fields of a view in which nothing else happens
OPERATORS = {
  'jitter': {'jitter_prob': 0.8},
  'jitter: brightness': {'jitter_prob': 0.8, **_NO_JITTER, 'brightness': 0.4},
  'jitter: contrast': {'jitter_prob': 0.8, **_NO_JITTER, 'contrast': 0.4},
  'jitter: saturation': {'jitter_prob': 0.8, **_NO_JITTER, 'saturation': 0.2},
  'jitter: hue': {'jitter_prob': 0.8, **_NO_JITTER, 'hue': 0.1},
  'gray': {'gray_prob': 0.2},
  'blur': {'blur_prob': 1.0},
  'blur, one in ten': {'blur_prob': 0.1},
  'solarize': {'solarize_prob': 0.2},
}


def functions(size: int, source: int) -> dict[str, Callable[..., Any]]:
  """Operator -> function of (images uint8 [b, source, source, 3], float32 [b, S, S, 3], index)."""
  spec = views.ViewSpec(size=size, blur_prob=1.0, solarize_prob=0.2)

  def numbers(index: jax.Array) -> jax.Array:
    return draws.uniforms(jnp, 0, 0, index, 0, views.NUM_DRAWS)

  def crops(whole: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    u = numbers(index)
    boxes = crop.crop_box(jnp, u, source, source, spec)
    return resize.resample(jnp, whole, boxes, crop.flips(u, spec), size)

  def one(fields: dict, whole: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    only = dataclasses.replace(spec, **(_NOTHING | fields))
    return branches.apply(images, numbers(index), only)

  def everything(whole: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    augment = device.make_augment((spec,), seed=0, mean=(0.5,) * 3, std=(0.25,) * 3)
    epoch = jnp.zeros_like(index)
    return augment({'image': whole, 'index': index, 'epoch': epoch})['views'][0]

  found: dict[str, Callable[..., Any]] = {'draws': lambda whole, images, index: numbers(index)}
  found['crop, resize, flip'] = crops
  found |= {name: functools.partial(one, fields) for name, fields in OPERATORS.items()}
  return found | {'whole view': everything}


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """Samples of every operator, in turns."""
  rng = np.random.default_rng(0)
  shape = (options.batch_size, options.source, options.source, 3)
  whole = jnp.asarray(rng.integers(0, 256, shape, np.uint8))
  small = (options.batch_size, options.size, options.size, 3)
  images = jnp.asarray(rng.random(small, np.float32))
  arguments = (whole, images, jnp.arange(options.batch_size, dtype=jnp.int32))
  compiled = {}
  for name, function in functions(options.size, options.source).items():
    with jax.default_matmul_precision('highest'):
      compiled[name] = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled[name](*arguments))
  samples: dict[str, list[dict[str, float]]] = {name: [] for name in compiled}
  for _ in range(options.rounds):
    for name, program in compiled.items():
      wall, cpu = time.perf_counter(), time.process_time()
      for _ in range(options.repeat):
        made = program(*arguments)
      jax.block_until_ready(made)
      unit = 1e6 / (options.repeat * options.batch_size)
      samples[name].append({
        'us': (time.perf_counter() - wall) * unit,
        'cpu_us': (time.process_time() - cpu) * unit,
      })  # fmt: skip
  medians = {
    name: {key: statistics.median(sample[key] for sample in taken) for key in ('us', 'cpu_us')}
    for name, taken in samples.items()
  }
  return {'samples': samples, 'median_per_image': medians}


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--size', type=int, default=32, help='side of the view in pixels')
  parser.add_argument('--source', type=int, default=0, help='side of the image (default: as view)')
  parser.add_argument('--batch-size', type=int, default=256)
  parser.add_argument('--repeat', type=int, default=5, help='calls of a sample')
  parser.add_argument('--rounds', type=int, default=15, help='samples')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('augment.json'))
  options = parser.parse_args(arguments)
  options.source = options.source or options.size
  return options


def main(arguments: list[str]) -> int:
  """Measures, writes, prints the medians."""
  options = _parse(arguments)
  before = machine.now()
  results = {
    'settings': {name: value for name, value in vars(options).items() if name != 'out'},
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'jax': jax.__version__,
    'machine': machine.facts(),
    'before': before,
    **measure(options),
    'after': machine.now(),
  }
  results['busy'] = machine.is_busy(before) or machine.is_busy(results['after'])
  options.out.write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')
  for name, row in results['median_per_image'].items():
    print(f'{name:<22} {row["us"]:8.2f} us  {row["cpu_us"]:8.2f} CPU us per image')
  print(f'{results["device"]}, others busy: {results["busy"]}')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
