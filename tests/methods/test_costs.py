"""What a train step costs, counted in the compiled program instead of timed: the same everywhere.

A number that changes here is not wrong by itself. It says that a step has more collectives, copies,
convolutions or arithmetic than before: find out why, and pin the new number if it has to be so.
Numbers were equal, or within the bounds, on JAX 0.10.2 and 0.11.2.
"""

from collections import Counter
import functools
import os
import re

import jax
import numpy as np
import pytest

from byoljax.devices import mapping
from tests.methods.test_contract import batch_of, make, pure_step

# Before XLA's own passes: exact. Four devices; a tiny encoder of one convolution.
# BYOL: online and target forward for two views, gradient of the online weights for both. SimCLR:
# both views in one batch. MoCo, symmetric: as BYOL, and three permutations of two sorts each.
WRITTEN = {
  'byol': {'convolution': 6, 'dot_general': 28, 'all_reduce': 33},
  'simclr': {
    'convolution': 3, 'dot_general': 15, 'all_reduce': 20, 'all_gather': 4, 'reduce_scatter': 2,
    'while': 4,
  },
  'moco': {
    'convolution': 6, 'dot_general': 20, 'all_reduce': 15, 'all_gather': 6, 'while': 14, 'sort': 6,
  },
}  # fmt: skip
# After them, at most: how many all-reduces are left after combining, copies, megaflops, and
# temporary kilobytes per device. Most of MoCo's copies are scalars: on a CPU, folding a number into
# a key is a loop with some 20 of them.
COMPILED = {
  'byol': (10, 8, 0.53, 42),
  'simclr': (7, 30, 0.55, 54),
  'moco': (2, 190, 0.55, 96),
}


@functools.cache
def lowered(name):
  step, create = pure_step(make(name))
  batch = batch_of(name)
  state = mapping.replicate(create(batch, 0))
  return mapping.spmd(step).lower(state, mapping.shard(batch)), state


@functools.cache
def compiled(name):
  # With XLA's own emitters, not with those that compile the tests quickly where there are both.
  own = (
    {'xla_cpu_use_fusion_emitters': True} if 'fusion_emitters' in os.environ['XLA_FLAGS'] else {}
  )
  return lowered(name)[0].compile(own)


def executed(text):
  """Operations by kind; those of a function count as often as it is called."""
  kinds = 'convolution|dot_general|all_reduce|all_gather|reduce_scatter|all_to_all|while|sort'
  bodies = {}
  for body in re.split(r'\n  func\.func ', text)[1:]:
    bodies[re.match(r'\w+ @([\w.]+)', body)[1]] = body

  def count(name):
    found = Counter(re.findall(rf'stablehlo\.({kinds})\b', bodies[name]))
    return sum(map(count, re.findall(r'call @([\w.]+)\(', bodies[name])), found)

  return count('main')


every = pytest.mark.parametrize('name', sorted(WRITTEN))
some = pytest.mark.parametrize(
  'name', ['byol', *(pytest.param(name, marks=pytest.mark.slow) for name in ('moco', 'simclr'))]
)


@every
def test_operations_of_a_step(name):
  assert dict(executed(lowered(name)[0].as_text())) == WRITTEN[name]


@some
def test_cost_of_a_compiled_step(name):
  program, (reduces, copies, megaflops, kilobytes) = compiled(name), COMPILED[name]
  kinds = 'convolution|all-reduce|all-gather|copy'
  found = Counter(re.findall(rf'= \S+ ({kinds})\(', program.as_text()))
  assert found['convolution'] == WRITTEN[name]['convolution'], 'XLA computes none of them twice'
  assert found['all-gather'] == WRITTEN[name].get('all_gather', 0)
  assert 1 <= found['all-reduce'] <= reduces
  assert found['copy'] <= copies
  flops = program.cost_analysis()['flops'] / 1e6
  assert 0.9 * megaflops < flops <= megaflops
  assert program.memory_analysis().temp_size_in_bytes <= 1000 * kilobytes


@some
def test_the_state_is_updated_in_place(name):
  """Every byte of the donated state is written over: no second copy of it exists."""
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(lowered(name)[1]))
  assert compiled(name).memory_analysis().alias_size_in_bytes == size


@pytest.mark.slow
@pytest.mark.parametrize('unrolled', [True, False])
def test_accumulation_saves_memory(monkeypatch, unrolled):
  """Four micro-batches take little more than half of the memory of one, in a loop or without."""
  monkeypatch.setattr(mapping, 'must_unroll', lambda: unrolled)
  sizes = {}
  for parts in (1, 4):
    step, create = pure_step(make('simsiam', None, accumulate=parts), None, parts)
    batch = batch_of('simsiam')
    batch['views'] = tuple(np.ones((32, 48, 48, 3), np.float32) for _ in batch['views'])
    program = jax.jit(step, donate_argnums=0).lower(create(batch, 0), batch).compile()
    sizes[parts] = program.memory_analysis().temp_size_in_bytes
  assert sizes[4] < 0.55 * sizes[1], sizes
  assert sizes[1] > 5e6, 'activations, not parameters'


def test_cpu_loops_hold_no_convolution():
  """XLA's CPU compiler is many times slower on gradients of convolutions inside of loops."""
  step, create = pure_step(make('simsiam', None, accumulate=2), None, 2)
  batch = batch_of('simsiam')
  text = jax.jit(step).lower(create(batch, 0), batch).compile().as_text()
  assert len(re.findall(r'= \S+ convolution\(', text)) == 2 * 4
  assert ' while(' not in text
