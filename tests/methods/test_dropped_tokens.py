"""Training on a share of the patches: which, for which methods, and that evaluations see all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.devices import collectives, mapping
from byoljax.length import Length
from byoljax.main import main
from byoljax.method import Setting, transformed
from byoljax.methods import METHODS, dropped_tokens
from byoljax.models import kept_tokens, make_encoder, vit
from byoljax.models.net import stack
from byoljax.plan import flops
from tests.methods.test_contract import (
  BATCH,
  CASES,
  assert_close,
  batch_of,
  pure_step,
  tiny_vit,
)
from tests.said import one_sentence

SHARE = 0.5
JOINT = {
  name for name, build in METHODS.items() if '.joint_embedding.' in getattr(build, '__module__', '')
}


def with_dropped(name, axis, share=SHARE, encoder=tiny_vit):
  def of_encoder(made):
    setting = Setting(Length(BATCH, 2, 20), num_examples=64, axis=axis)
    return METHODS[name](made, setting, **CASES[name][0])

  return dropped_tokens.build(of_encoder, encoder, share, channels=3, axis=axis)


def test_the_kept_patches_are_those_that_the_channel_names():
  """Of 2 x 2 patches of 2 pixels the first and the last: their tokens alone, in any network."""
  network = tiny_vit(None)
  module = kept_tokens.KeptTokens(network, channels=3, share=SHARE)
  images = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  kept = jnp.array([[1.0, 0.0], [0.0, 1.0]]).repeat(2, 0).repeat(2, 1)
  marked = jnp.concatenate([images, jnp.broadcast_to(kept[..., None], (2, 4, 4, 1))], -1)
  net, plain = (stack((('encoder', 'embedding', each),)) for each in (module, network))
  params, bn = net.init(jax.random.key(1), marked)
  same, _ = plain.init(jax.random.key(1), images)
  jax.tree.map(np.testing.assert_array_equal, params, same)
  keep = {'encoder': {'keep': jnp.array([[0, 3], [0, 3]])}}
  wanted, _ = plain.apply(params, bn, images, train=True, inputs=keep)
  found, _ = net.apply(params, bn, marked, train=True)
  np.testing.assert_array_equal(found['embedding'], wanted['embedding'])
  whole, _ = net.apply(params, bn, images, train=True)
  np.testing.assert_array_equal(
    whole['embedding'], plain.apply(params, bn, images, train=True)[0]['embedding']
  )
  # What is left out is not looked at.
  changed = jnp.where(kept[..., None] > 0, marked, marked.at[..., :3].add(1.0))
  again, _ = net.apply(params, bn, changed, train=True)
  np.testing.assert_array_equal(again['embedding'], wanted['embedding'])


def test_an_input_stage_does_not_see_the_channel():
  gray = make_encoder('vit_micro', input='gray', mean=(0.5,) * 3, std=(0.2,) * 3)
  net = stack((('encoder', 'embedding', kept_tokens.KeptTokens(gray, channels=3, share=0.25)),))
  params, _ = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((2, 16, 16, 4)))
  assert params['encoder']['patch_embed']['kernel'].shape == (4 * 4 * 1, 64)


@pytest.mark.parametrize(
  ('count', 'share', 'kept'), [(196, 0.5, 98), (25, 0.3, 8), (16, 0.99, 16), (4, 0.1, 1)]
)
def test_how_many_are_kept(count, share, kept):
  """25 x 0.3 is 7.5, which is rounded to the even number; of few patches one is kept."""
  assert kept_tokens.kept_count(count, share) == kept


def test_each_image_keeps_its_own_patches_whatever_the_number_of_devices():
  method, batch = with_dropped('byol', collectives.AXIS), batch_of('byol')
  key, step = jax.random.key(3), jnp.zeros((), jnp.int32)
  alone = transformed(method, batch, key, step)['views']
  see = mapping.spmd(lambda batch: method.transform(batch, key, step)['views'], in_axes=(0,),
                     out_axes=0, donate=False)  # fmt: skip
  together = [np.reshape(view, (BATCH, *view.shape[2:])) for view in see(mapping.shard(batch))]
  for view, other, given in zip(alone, together, batch['views'], strict=True):
    np.testing.assert_array_equal(view, other)
    np.testing.assert_array_equal(view[..., :3], given)
    masks = np.asarray(view[:, ::2, ::2, 3]).reshape(BATCH, -1)
    assert set(masks.sum(1)) == {8}, 'half of 4 x 4 patches'
    assert len({tuple(row) for row in masks}) > BATCH // 2, 'others for each image'
  assert not np.array_equal(alone[0][..., 3], alone[1][..., 3]), 'and for each view'
  shown = dropped_tokens.visible(np.asarray(alone[0]), 3)
  assert np.mean(np.all(shown == 0, axis=-1)) == SHARE
  np.testing.assert_array_equal(dropped_tokens.visible(batch['views'][0], 3), batch['views'][0])


@pytest.mark.slow
def test_a_step_on_four_devices_is_that_of_one():
  """Within the contract's tolerance, 2e-5, for sums in another order."""
  results = []
  for axis in (None, collectives.AXIS):
    step, create = pure_step(with_dropped('simsiam', axis), axis)
    state, batch = create(batch_of('simsiam'), 0), batch_of('simsiam')
    if axis is None:
      results.append(jax.jit(step)(state, batch))
    else:
      results.append(mapping.spmd(step)(mapping.replicate(state), mapping.shard(batch)))
  one, four = (mapping.fetch(each) if number else each for number, each in enumerate(results))
  assert_close(one, four, 2e-5)


@pytest.mark.parametrize(
  'name',
  [pytest.param(name, marks=() if name == 'moco' else pytest.mark.slow) for name in sorted(JOINT)],
)
def test_joint_embedding_methods_do_less_work(name):
  """Half of the patches: less than 0.7 of the work, with the class token and heads."""
  whole, half = (work_of_a_step(name, share) for share in (1.0, SHARE))
  assert half < 0.7 * whole


def work_of_a_step(name, share):
  def encoder(bn_axis, bn_groups=0):
    del bn_axis, bn_groups
    return vit.ViT(vit.Size(64, 1, 2, patch=2, grid=4))

  step, create = pure_step(with_dropped(name, None, share, encoder), None)
  batch = batch_of(name)
  state = jax.eval_shape(lambda: create(batch, 0))
  return flops.count(step, state, batch).total


def test_every_joint_embedding_method_is_meant():
  assert len(JOINT) == 17 and 'byol' in JOINT and 'mae' not in JOINT


@pytest.mark.parametrize(
  ('recipe', 'changes', 'sentence'),
  [
    ('byol', ['keep_tokens=0.5'], 'leaves out tokens, and this encoder has none'),
    ('byol', ['keep_tokens=0'], 'train.keep_tokens=0.0 must be above 0 and at most 1'),
    ('mae', ['keep_tokens=0.5'], 'is for joint-embedding methods, and this one needs its views'),
  ],
)
def test_mistakes_are_one_sentence(recipe, changes, sentence, tmp_path, capsys):
  arguments = [f'--config.train.{change}' for change in changes]
  assert main([f'--config=configs/{recipe}.py:smoke', *arguments, f'--workdir={tmp_path}']) == 2
  error = capsys.readouterr().err
  assert sentence in error and one_sentence(error)
