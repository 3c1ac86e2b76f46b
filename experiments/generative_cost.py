"""What image GPT costs: a step beside the same one in PyTorch, samples with and without cache.

    PYTHONPATH=. python experiments/generative_cost.py --torch-python path/to/python \
      --out experiments/generative_cost

Both sides are processes on one core, one after the other, and CPU seconds are counted, so that
other work on the machine matters little. byoljax runs its method and its `train_step`; the other
side (`generative_cost_torch.py`) is written from the papers, as a good PyTorch program would be,
and starts from the same weights, palette and images. The losses of the first steps have to agree
before anything is written. Sampled are sequences of all 256 tokens; without a cache every token
costs a pass over the sequence.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from typing import Any

from collect import processor
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax

from byoljax import optim
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods import METHODS
from byoljax.models import encoder_factory
from byoljax.models.token_transformer import generate
from byoljax.ops.sampling import Sampling
from byoljax.step import init_state, train_step

RATE, CHECKED = 1e-3, 3  # of Adam; steps whose losses are compared
SIDE = 16


def step_of(batch: dict[str, np.ndarray]) -> tuple[Any, Any, Any]:
  """The method, its state before training, and the compiled step."""
  count = len(batch['views'][0])
  encoder = encoder_factory({'name': 'image_gpt_micro'}, mean=(0.5,) * 3, std=(0.25,) * 3)
  method = METHODS['image_gpt'](encoder, Setting(Length(count, 2, 2)))
  tx = optax.adam(RATE)
  state = init_state(method, tx, batch, 0)
  step = functools.partial(
    train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None
  )
  return method, state, jax.jit(step, donate_argnums=0).lower(state, batch).compile()


def timed(step: Any, state: Any, batch: dict[str, Any], steps: int) -> tuple[list, list, Any]:
  """Losses, CPU seconds of each step behind the checked ones, and the last state."""
  losses, seconds = [], []
  for _ in range(CHECKED + steps):
    began = time.process_time()
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss']))
    seconds.append(time.process_time() - began)
  return losses, seconds[CHECKED:], state


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


def in_pytorch(options: argparse.Namespace, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """What the other side measures, from the same weights."""
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place) / 'given.npz'
    np.savez(path, **arrays)
    script = pathlib.Path(__file__).with_name('generative_cost_torch.py')
    command = [options.torch_python, script, path, options.steps, options.count, RATE, CHECKED]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True)
  return json.loads(done.stdout)


def main() -> None:
  """Measures both sides, compares their losses, and writes results.json and table.md."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--torch-python', required=True, help='an interpreter with PyTorch')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--steps', type=int, default=10, help='that are timed')
  parser.add_argument('--count', type=int, default=4, help='sequences that are drawn together')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  options = parser.parse_args()
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # Before JAX counts the cores.
  rng = np.random.default_rng(0)
  views = rng.normal(size=(options.batch, SIDE, SIDE, 3)).astype(np.float32)
  index = np.arange(options.batch, dtype=np.int32)
  batch = {'views': (views,), 'label': index, 'index': index, 'epoch': 0 * index}
  method, state, step = step_of(batch)
  first = jax.device_get((state.params, state.method_state.bn['encoder']['palette']))
  leaves = jax.tree_util.tree_leaves_with_path(first[0])
  arrays = {optim.path_name(path): leaf for path, leaf in leaves}
  losses, seconds, state = timed(step, state, jax.tree.map(jnp.asarray, batch), options.steps)
  ours = {'cpu_s': seconds, 'tokens_per_s': tokens_a_second(method, state.params, options.count)}
  versions = {'jax': jax.__version__, 'jaxlib': jaxlib.__version__}
  theirs = in_pytorch(options, arrays | {'images': views, 'palette': first[1]})
  np.testing.assert_allclose(losses[:CHECKED], theirs.pop('losses')[:CHECKED], rtol=1e-4)
  about = {
    'processor': processor(), 'load': os.getloadavg(), 'batch': options.batch,
    'count': options.count, 'versions': versions | theirs.pop('versions'),
  }  # fmt: skip
  sides = {'byoljax': ours, 'PyTorch': theirs}
  options.out.mkdir(parents=True, exist_ok=True)
  (options.out / 'results.json').write_text(json.dumps(about | sides, indent=1) + '\n')
  lines = ['| | CPU seconds a step | tokens/s with cache | without |', '|---|---|---|---|']
  for name, found in sides.items():
    cells = [f'{statistics.median(found["cpu_s"]):.3f}']
    cells += [f'{found["tokens_per_s"][each]:,.0f}' for each in ('with cache', 'without')]
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  (options.out / 'table.md').write_text('\n'.join(lines) + '\n')
  print('\n'.join(lines))


if __name__ == '__main__':
  main()
