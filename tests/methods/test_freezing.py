"""Fine-tuning from a part of the encoder on: the parts before it keep every bit."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from byoljax import optim
from byoljax.encoders.encoder import Preprocessing, random_encoder
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.supervised import supervised
from byoljax.models import net
from byoljax.step import init_state, train_step

SEEN = Preprocessing((0.5,) * 3, (0.25,) * 3, 16)


@functools.cache
def encoder():
  return random_encoder({'name': 'small', 'width': 1, 'stem': 'cifar'}, SEEN, 0)


def build(**fields):
  setting = Setting(Length(8, 2, 4), num_classes=3, given={'encoder': encoder()})
  return supervised.build(encoder().make_encoder, setting, **({'batch_norm': 'frozen'} | fields))


def names():
  return net.modules_in_order(encoder().net.parts[0][2], SEEN.example())


def test_parts_come_in_the_order_in_which_they_are_used():
  fields = {'name': 'resnet18', 'stem': 'cifar'}
  parts = net.modules_in_order(
    dataclasses.replace(encoder(), fields=fields).make_encoder(None), SEEN.example()
  )
  first = [part.partition('_')[0] for part in parts]
  assert list(dict.fromkeys(first))[-4:] == ['stage1', 'stage2', 'stage3', 'stage4']
  gray = dataclasses.replace(encoder(), fields=fields | {'input': 'gray'}).make_encoder(None)
  assert [part.rpartition('/')[2] for part in net.modules_in_order(gray, SEEN.example())] == list(
    parts
  )


@pytest.mark.parametrize('last', [pytest.param(0, marks=pytest.mark.slow), 1, 'all'])
def test_what_is_frozen_keeps_every_bit(last):
  parts = names()
  method = build(freeze=last if last == 'all' else parts[last])
  kept = parts if last == 'all' else parts[: last + 1]
  assert len(parts) > 2
  tx = optim.make(method.groups, {'default': optax.sgd(0.1)})
  rng = np.random.default_rng(0)
  batch = {
    'views': (rng.normal(size=(8, 16, 16, 3)).astype(np.float32),),
    'label': np.arange(8, dtype=np.int32) % 3,
    'index': np.arange(8, dtype=np.int32), 'epoch': np.zeros(8, np.int32),
  }  # fmt: skip
  state = init_state(method, tx, batch, 0)
  step = jax.jit(
    functools.partial(
      train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None
    )
  )
  after = state
  for _ in range(2):  # The classifier starts at zero: nothing below it moves in the first step.
    after, _ = step(after, batch)
  before, moved = state.params['encoder'], after.params['encoder']
  for part in parts:
    same = [np.array_equal(a, b) for a, b in zip(
      jax.tree.leaves(before[part]), jax.tree.leaves(moved[part]), strict=True)]  # fmt: skip
    assert all(same) if part in kept else not all(same), part
  assert not np.array_equal(
    state.params['head']['linear1']['kernel'], after.params['head']['linear1']['kernel']
  )
  jax.tree.map(np.testing.assert_array_equal, state.method_state, after.method_state)


def test_what_cannot_be_frozen():
  with pytest.raises(ValueError, match="set batch_norm to 'frozen'"):
    build(freeze='all', batch_norm='batch')
  with pytest.raises(ValueError, match=f'is no part of the encoder: {names()[0]}'):
    build(freeze='stage9')
  setting = Setting(Length(8, 2, 4), num_classes=3)
  with pytest.raises(ValueError, match='none are given'):
    supervised.build(encoder().make_encoder, setting, batch_norm='frozen', freeze='all')
