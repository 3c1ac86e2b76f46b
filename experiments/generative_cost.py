"""What image GPT costs: a step beside the same one in PyTorch, samples with and without cache.

    PYTHONPATH=. python experiments/generative_cost.py --torch-python path/to/python \
      --out experiments/generative_cost

How both sides are run: `beside_torch.py`. The other one (`generative_cost_torch.py`) is written
from the papers, as a good PyTorch program would be. Sampled are sequences of all 256 tokens;
without a cache every token costs a pass over the sequence.
"""

import argparse
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

SIDE = 16


def method_of(batch_size: int) -> Method:
  """Image GPT, the smallest one."""
  encoder = encoder_factory({'name': 'image_gpt_micro'}, mean=(0.5,) * 3, std=(0.25,) * 3)
  return METHODS['image_gpt'](encoder, Setting(Length(batch_size, 2, 2)))


def tokens_a_second(method: Any, params: Any, count: int) -> dict[str, float]:
  """Tokens in a CPU second, compilation not counted."""
  encoder, head = method.net.parts[0][2], method.net.parts[1][2]
  found = {}
  for name, cached in (('with cache', True), ('without', False)):
    draw = jax.jit(
      lambda own, above, key, cached=cached: generate(
        encoder.model, own, head, above, key, Sampling(count), cached=cached
      )
    )
    given = (params['encoder']['transformer'], params['decoder'], jax.random.key(0))
    compiled = draw.lower(*given).compile()
    began = time.process_time()
    codes = jax.block_until_ready(compiled(*given))
    found[name] = codes.size / (time.process_time() - began)
  return found


def main() -> None:
  """Measures both sides, compares their losses, and writes results.json and table.md."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--torch-python', required=True, help='an interpreter with PyTorch')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--steps', type=int, default=10, help='that are timed')
  parser.add_argument('--count', type=int, default=4, help='sequences that are drawn together')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  options = parser.parse_args()
  one_core()
  rng = np.random.default_rng(0)
  views = rng.normal(size=(options.batch, SIDE, SIDE, 3)).astype(np.float32)
  batch, method = batch_of(views), method_of(options.batch)
  state, step = step_of(method, batch)
  palette = np.array(state.method_state.bn['encoder']['palette'])
  arrays = weights_of(state.params) | {'images': views, 'palette': palette}
  losses, seconds, state = timed(step, state, batch, options.steps)
  ours = {'cpu_s': seconds, 'tokens_per_s': tokens_a_second(method, state.params, options.count)}
  words = (options.steps, options.count, RATE, CHECKED)
  theirs = in_pytorch(options.torch_python, 'generative_cost_torch.py', arrays, words)
  compare(losses, theirs.pop('losses'))
  found = about(batch=options.batch, count=options.count)
  found['versions'] |= theirs.pop('versions')
  sides = {'byoljax': ours, 'PyTorch': theirs}
  options.out.mkdir(parents=True, exist_ok=True)
  (options.out / 'results.json').write_text(json.dumps(found | sides, indent=1) + '\n')
  lines = ['| | CPU seconds a step | tokens/s with cache | without |', '|---|---|---|---|']
  for name, side in sides.items():
    cells = [f'{statistics.median(side["cpu_s"]):.3f}']
    cells += [f'{side["tokens_per_s"][each]:,.0f}' for each in ('with cache', 'without')]
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  (options.out / 'table.md').write_text('\n'.join(lines) + '\n')
  print('\n'.join(lines))


if __name__ == '__main__':
  main()
