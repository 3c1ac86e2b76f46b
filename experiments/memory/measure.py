"""Memory and time of large contrastive batches, queues and banks, from the compiled programs.

    python experiments/memory/measure.py

Writes results.json and the tables of README.md beside this file. Sizes are what XLA reports for the
compiled program on this machine's device; nothing of that size is run but the steps that are timed.
"""

import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byoljax.length import Length
from byoljax.losses import contrastive
from byoljax.method import Setting
from byoljax.methods import METHODS
from byoljax.models import make_encoder
from byoljax.step import init_state, train_step

HERE = pathlib.Path(__file__).parent
MB = 1e6
ROWS, SIZE = 64, 32


def nt_xent(batch: int, chunk: int, dim: int = 128) -> dict:
  """Temporary memory of NT-Xent's value and gradient on one device; compiled, not run."""

  def loss(first: jax.Array, second: jax.Array) -> jax.Array:
    return sum(each.mean() for each in contrastive.nt_xent(first, second, 0.1, chunk=chunk))

  shape = jax.ShapeDtypeStruct((batch, dim), jnp.float32)
  compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(shape, shape).compile()
  return {'batch': batch, 'chunk': chunk, 'temporary_mb': _temporary(compiled)}


def memory_step(name: str, rows: int, steps: int = 20) -> dict:
  """A whole train step of a method whose memory has this many rows of 128 numbers."""
  arguments = {
    'moco': {'projector': (128,), 'queue_size': rows, 'bn_groups': 0},
    'instance_discrimination': {'criterion': 'nce'},
  }[name]
  setting = Setting(Length(ROWS, 10, 100), num_examples=max(rows, ROWS))
  encoder = functools.partial(make_encoder, 'small', stem='cifar')
  method = METHODS[name](lambda axis, groups=0: encoder(bn_axis=axis, bn_groups=groups), setting,
                         **arguments)  # fmt: skip
  tx = optax.sgd(0.01)
  rng = np.random.default_rng(0)
  views = tuple(rng.normal(size=(ROWS, SIZE, SIZE, 3)).astype(np.float32) for _ in range(2))
  batch = {'views': views, 'index': rng.permutation(rows)[:ROWS].astype(np.int32)}
  step = jax.jit(
    functools.partial(
      train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None
    ),
    donate_argnums=0,
  )
  state = init_state(method, tx, batch, 0)
  compiled = step.lower(state, batch).compile()
  times = []
  for number in range(steps):
    began = time.perf_counter()
    state, _ = jax.block_until_ready(compiled(state, batch))
    times += [1e3 * (time.perf_counter() - began)] if number >= 3 else []
  return {
    'method': name,
    'rows': rows,
    'memory_mb': rows * 128 * 4 / MB,
    'temporary_mb': _temporary(compiled),
    'aliased_mb': compiled.memory_analysis().alias_size_in_bytes / MB,
    'step_ms': statistics.median(times),
  }


def _temporary(compiled: jax.stages.Compiled) -> float:
  return compiled.memory_analysis().temp_size_in_bytes / MB


def table(rows: list[dict]) -> str:
  """Markdown."""
  lines = ['| ' + ' | '.join(rows[0]) + ' |', '|' + '---|' * len(rows[0])]
  for row in rows:
    cells = [f'{value:,.1f}' if isinstance(value, float) else f'{value}' for value in row.values()]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def main() -> None:
  """Measures and writes."""
  loss = [nt_xent(batch, chunk) for batch in (1024, 4096, 32768) for chunk in (0, 1024)]
  memory = [
    *[memory_step('moco', rows) for rows in (4096, 65536, 262144)],
    *[memory_step('instance_discrimination', rows) for rows in (10_000, 100_000, 1_281_167)],
  ]
  results = {'jax': jax.__version__, 'device': jax.devices()[0].device_kind}
  results |= {'nt_xent': loss, 'memories': memory}
  (HERE / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
  readme = HERE / 'README.md'
  head = readme.read_text().split('<!-- results -->')[0]
  readme.write_text(f'{head}<!-- results -->\n\n{table(loss)}\n\n{table(memory)}\n')
  print(table(loss), table(memory), sep='\n\n')


if __name__ == '__main__':
  main()
