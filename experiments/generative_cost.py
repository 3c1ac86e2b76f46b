"""What generative models cost: a train step beside the same one in PyTorch, and samples.

    PYTHONPATH=. python experiments/generative_cost.py --torch-python path/to/python \
      --out experiments/generative_cost

How both sides are run: `beside_torch.py`. The other one (`generative_cost_torch.py`) is written
from the papers, as a good PyTorch program would be. Nothing is drawn in the steps: VQ-VAE restarts
no codes. Sampled are images of 16 px: image GPT's with and without a cache, without which every
pixel costs a pass over the image, PixelCNN's by a pass for each color of each pixel, over the part
of the image that the pixel depends on.
"""

import argparse
from collections.abc import Callable
import functools
import json
import pathlib
import statistics
import time
from typing import Any

from beside_torch import (
  CHECKED,
  RATE,
  about,
  batch_of,
  compare,
  in_pytorch,
  one_core,
  step_of,
  timed,
  weights_of,
)
import jax
import numpy as np

from byoljax.length import Length
from byoljax.method import Method, Setting
from byoljax.methods import METHODS
from byoljax.models import encoder_factory
from byoljax.models.token_transformer import generate
from byoljax.ops.sampling import Sampling

MEAN, STD = (0.5,) * 3, (0.25,) * 3
CODES = {'codes': 128, 'dim': 16, 'decoder': 'codec_small', 'restart': 0.0}
# Methods: encoder, side of images, arguments; as in the recipes at the scale of the shapes.
CASES: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
  'image_gpt': ({'name': 'image_gpt_micro'}, 16, {}),
  'pixelcnn': ({'name': 'pixelcnn_micro'}, 16, {'levels': 32, 'hidden': 96}),
  'vq_vae': ({'name': 'codec_small', 'stem': 'imagenet'}, 32, CODES),
}


def method_of(name: str, batch_size: int) -> Method:
  """The method of a case."""
  encoder, _, arguments = CASES[name]
  setting = Setting(Length(batch_size, 2, 2), mean=MEAN, std=STD)
  return METHODS[name](encoder_factory(encoder, mean=MEAN, std=STD), setting, **arguments)


def begun(state: Any) -> Any:
  """The state that both sides start from, with a last kernel of logits that isn't zero.

  With zeros, the first loss is ln K whatever the other weights are.
  """
  head = state.params['decoder']
  if 'logits' not in head:
    return state
  shape = head['logits']['kernel'].shape
  kernel = np.random.default_rng(1).normal(size=shape, scale=0.1).astype(np.float32)
  head |= {'logits': head['logits'] | {'kernel': jax.numpy.asarray(kernel)}}
  return state.replace(params=state.params | {'decoder': head})


def given_to(name: str, state: Any) -> dict[str, np.ndarray]:
  """Weights and statistics, by the names that the other side reads."""
  bn = jax.device_get(state.method_state.bn)
  more = {
    'image_gpt': lambda: {'palette': bn['encoder']['palette']},
    'pixelcnn': dict,
    'vq_vae': lambda: {f'quantizer/{key}': value for key, value in bn['quantizer'].items()},
  }
  return weights_of(state.params) | {key: np.array(x) for key, x in more[name]().items()}


def ways_to_draw(name: str, method: Any, sampling: Sampling) -> dict[str, Callable[..., Any]]:
  """(state, key) -> samples, by the way they are drawn; VQ-VAE's take a prior."""
  if name == 'pixelcnn':
    return {
      'a pass for each color': lambda state, key: method.sample(
        state.params, state.method_state, key, None, sampling
      )
    }
  if name == 'vq_vae':
    return {}
  encoder, head = method.net.parts[0][2], method.net.parts[1][2]

  def tokens(state: Any, key: jax.Array, cached: bool) -> jax.Array:
    own, above = state.params['encoder']['transformer'], state.params['decoder']
    return generate(encoder.model, own, head, above, key, sampling, cached=cached)

  ways = {'with cache': True, 'without': False}
  return {way: functools.partial(tokens, cached=cached) for way, cached in ways.items()}


def pixels_a_second(name: str, method: Method, state: Any, sampling: Sampling) -> dict[str, float]:
  """Pixels in a CPU second, compilation not counted."""
  found = {}
  for way, draw in ways_to_draw(name, method, sampling).items():
    given = (state, jax.random.key(0))
    compiled = jax.jit(draw).lower(*given).compile()
    began = time.process_time()
    jax.block_until_ready(compiled(*given))
    found[way] = sampling.count * sampling.size**2 / (time.process_time() - began)
  return found


def one(name: str, options: argparse.Namespace) -> dict[str, Any]:
  """What both sides found, by their names, and the versions."""
  side = CASES[name][1]
  rng = np.random.default_rng(0)
  pixels = rng.integers(256, size=(options.batch, side, side, 3)) / np.float32(255)
  views = ((pixels - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
  batch, method = batch_of(views), method_of(name, options.batch)
  state, step = step_of(method, batch)
  state = begun(state)
  arrays = given_to(name, state) | {'images': views}
  losses, seconds, state = timed(step, state, batch, options.steps)
  speeds = pixels_a_second(name, method, state, Sampling(options.count, side))
  words = (name, options.steps, options.count, RATE, CHECKED)
  theirs = in_pytorch(options.torch_python, 'generative_cost_torch.py', arrays, words)
  compare(losses, theirs['losses'])
  versions = theirs.pop('versions')
  ours = {'losses': losses, 'cpu_s': seconds, 'pixels_per_s': speeds}
  return {'byoljax': ours, 'PyTorch': theirs, 'versions': versions}


def table(sides: dict[str, dict[str, Any]]) -> list[str]:
  """Seconds of the steps, and pixels in a second."""
  lines = ['| | byoljax | PyTorch | byoljax / PyTorch |', '|---|---|---|---|']
  for name, each in sides.items():
    ours, theirs = (statistics.median(each[side]['cpu_s']) for side in ('byoljax', 'PyTorch'))
    cells = f'{ours:.3f} | {theirs:.3f} | {ours / theirs:.2f}'
    lines.append(f'| {name}, CPU seconds a step | {cells} |')
  for name, each in sides.items():
    for way, ours in each['byoljax']['pixels_per_s'].items():
      theirs = each['PyTorch']['pixels_per_s'][way]
      cells = f'{ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f}'
      lines.append(f'| {name}, {way}: pixels drawn a CPU second | {cells} |')
  return lines


def main() -> None:
  """Measures both sides of all cases, and writes results.json and table.md."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--torch-python', required=True, help='an interpreter with PyTorch')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--steps', type=int, default=10, help='that are timed')
  parser.add_argument('--count', type=int, default=4, help='images that are drawn together')
  parser.add_argument('--cases', nargs='+', default=list(CASES), help=', '.join(CASES))
  parser.add_argument('--out', type=pathlib.Path, required=True)
  options = parser.parse_args()
  one_core()
  found = about(batch=options.batch, count=options.count)
  sides: dict[str, Any] = {}
  for name in options.cases:
    sides[name] = one(name, options)
    found['versions'] |= sides[name].pop('versions')
  lines = table(sides)
  options.out.mkdir(parents=True, exist_ok=True)
  (options.out / 'results.json').write_text(json.dumps(found | sides, indent=1) + '\n')
  (options.out / 'table.md').write_text('\n'.join(lines) + '\n')
  print('\n'.join(lines))


if __name__ == '__main__':
  main()
