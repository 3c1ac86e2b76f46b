"""What generative models cost: a train step beside the same one in PyTorch, and samples.

    PYTHONPATH=. python experiments/generative_cost.py --torch-python path/to/python \
      --out experiments/generative_cost

How both sides are run: `beside_torch.py`. The other one (`generative_cost_torch.py`) is written
from the papers, as a good PyTorch program would be. Codecs restart no codes; what the discrete VAE
draws in the steps whose losses are compared is given to the other side. Sampled are images of
16 px: image GPT's with and without a cache, without which every pixel costs a pass over the image,
those of PixelCNN and PixelCNN++ by a pass for each color or pixel, over the part of the image that
the pixel depends on.
"""

import argparse
from collections.abc import Callable
import functools
import json
import pathlib
import statistics
import time
from typing import Any, NamedTuple

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

from byoljax import streams
from byoljax.devices import collectives
from byoljax.length import Length
from byoljax.method import Method, Setting
from byoljax.methods import METHODS
from byoljax.models import codecs, encoder_factory
from byoljax.models.token_transformer import generate
from byoljax.ops.sampling import Sampling

MEAN, STD = (0.5,) * 3, (0.25,) * 3
CODEC = {'name': 'codec_small', 'stem': 'imagenet'}
CODES = {'codes': 128, 'dim': 16, 'decoder': 'codec_small'}
PIXELS = {'levels': 32, 'hidden': 96}
JUDGE = {'decay': 0.99, 'discriminator_width': 16, 'discriminator_stages': 2}
COOLED = {'tau': 0.5, 'tau_end': 0.5, 'kl_weight': 0.1, 'kl_warmup': '0 steps'}


class Case(NamedTuple):
  """As in the recipes at the scale of the shapes; what changes over a run is as at its end.

  Attributes:
    method: its name.
    encoder: its fields.
    side: of images.
    arguments: of the method.
  """

  method: str
  encoder: dict[str, Any]
  side: int
  arguments: dict[str, Any]


CASES = {
  'image_gpt': Case('image_gpt', {'name': 'image_gpt_micro'}, 16, {}),
  'pixelcnn': Case('pixelcnn', {'name': 'pixelcnn_micro'}, 16, PIXELS),
  'gated_pixelcnn': Case('pixelcnn', {'name': 'gated_pixelcnn_micro'}, 16, PIXELS),
  'pixelcnn_pp': Case(
    'pixelcnn_pp', {'name': 'pixelcnn_pp_micro'}, 16,
    {'levels': 32, 'mixtures': 5, 'dropout': False},
  ),
  'vq_vae': Case('vq_vae', CODEC, 32, CODES | {'restart': 0.0}),
  'vq_gan': Case('vq_gan', CODEC, 32, CODES | JUDGE | {'restart': 0.0}),
  'dvae': Case('dvae', CODEC, 32, CODES | COOLED),
}  # fmt: skip


def method_of(case: Case, batch_size: int) -> Method:
  """The method of a case."""
  setting = Setting(Length(batch_size, 2, 2), mean=MEAN, std=STD)
  make_encoder = encoder_factory(case.encoder, mean=MEAN, std=STD)
  return METHODS[case.method](make_encoder, setting, **case.arguments)


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


def given_to(case: Case, state: Any, batch_size: int) -> dict[str, np.ndarray]:
  """Weights, statistics and noise, by the names that the other side reads."""
  given = weights_of(state.params) | weights_of(state.method_state.bn)
  if case.method == 'dvae':
    place = case.side // codecs.STRIDE
    shape = (place, place, case.arguments['codes'])
    given['noise'] = np.stack([noise_of(state, step, batch_size, shape) for step in range(CHECKED)])
  return given


def noise_of(state: Any, step: int, batch_size: int, shape: tuple[int, ...]) -> np.ndarray:
  """What the discrete VAE draws in a step, [b, *shape], as the step and the method derive it."""
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)
  for number in (streams.LOSS, 0, streams.GUMBEL):
    key = jax.random.fold_in(key, number)
  keys = collectives.example_keys(key, batch_size, None)
  return np.asarray(jax.vmap(lambda own: jax.random.gumbel(own, shape, np.float32))(keys))


def ways_to_draw(name: str, method: Any, sampling: Sampling) -> dict[str, Callable[..., Any]]:
  """(state, key) -> samples, by the way they are drawn; those of codecs take a prior."""
  if method.decode is not None:
    return {}
  if name != 'image_gpt':
    way = 'a pass for each pixel' if name == 'pixelcnn_pp' else 'a pass for each color'
    return {
      way: lambda state, key: method.sample(state.params, state.method_state, key, None, sampling)
    }
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
  case = CASES[name]
  side = case.side
  rng = np.random.default_rng(0)
  pixels = rng.integers(256, size=(options.batch, side, side, 3)) / np.float32(255)
  views = ((pixels - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
  batch, method = batch_of(views), method_of(case, options.batch)
  state, step = step_of(method, batch)
  state = begun(state)
  arrays = given_to(case, state, options.batch) | {'images': views}
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
