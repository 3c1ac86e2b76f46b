"""The contract that every method keeps; one case for every row of METHODS.

By default every method is trained on four devices, and what needs no further program is tried.
The promises that need further programs are spread over the methods, so that each meets few or
none. The rest is slow: all promises for one are

    python -m pytest tests/methods/test_contract.py -m 'slow or not slow' -k NAME
"""

import functools
import itertools

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import optim
from byoljax.devices import collectives, mapping
from byoljax.encoders import codec, teachers
from byoljax.encoders.encoder import Encoder, Preprocessing
from byoljax.length import Length
from byoljax.losses import classification
from byoljax.method import NETWORKS, Setting
from byoljax.methods import METHODS
from byoljax.models import (
  biased,
  halves,
  heads,
  image_transformer,
  layers,
  pixelcnn,
  pixelcnn_pp,
  vit,
)
from byoljax.models.net import stack
from byoljax.ops.sampling import Sampling
from byoljax.optim import recipe
from byoljax.step import init_state, train_step
from byoljax.train.online_probe import with_online_probe
from byoljax.workdir import checkpoint

SIZE, CLASSES, BATCH, STEPS = 8, 3, 32, 20


class TinyEncoder(nn.Module):
  """A network that compiles quickly and still has batch statistics."""

  bn_axis: str | None
  bn_groups: int = 0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    x = biased.Conv(
      8, (3, 3), (2, 2), dtype=self.dtype, conv_general_dilated=lax.conv_general_dilated
    )(x)
    x = nn.relu(layers.batch_norm(train, self.bn_axis, self.dtype, 'bn', groups=self.bn_groups)(x))
    self.sow('intermediates', 'map', x)
    return x.mean((1, 2)).astype(jnp.float32)


def tiny_vit(bn_axis, bn_groups=0, dtype=jnp.float32):
  """The same for methods that need tokens."""
  del bn_axis, bn_groups
  return vit.ViT(vit.Size(8, 1, 2, patch=2, grid=4), dtype=dtype)


def tiny_pixelcnn(bn_axis, bn_groups=0, dtype=jnp.float32, gated=True):
  """The same for methods that predict what comes next."""
  del bn_axis, bn_groups
  return pixelcnn.PixelCNN(pixelcnn.Size(6, 1, gated, first=3), dtype=dtype)


def tiny_pixelcnn_pp(bn_axis, bn_groups=0, dtype=jnp.float32):
  """The same with two streams."""
  del bn_axis, bn_groups
  return pixelcnn_pp.PixelCNNpp(pixelcnn_pp.Size(4, 1, 1), weight_norm=True, dtype=dtype)


def tiny_image_gpt(bn_axis, bn_groups=0, dtype=jnp.float32, causal=True):
  """The same for methods that need colors of a palette."""
  del bn_axis, bn_groups
  size = image_transformer.Size(8, 1, 2)
  return image_transformer.ImageTransformer(size, 6, SIZE, causal, dtype=dtype)


def halved(bn_axis, bn_groups=0, dtype=jnp.float32, kind='lab_halves'):
  tiny = TinyEncoder(bn_axis, bn_groups, dtype)
  return halves.behind_input(tiny, kind, (0.0,) * 3, (1.0,) * 3)


@functools.cache
def _frozen():
  encoder = TinyEncoder(None)
  net = stack((('encoder', 'embedding', encoder),))
  params, bn = net.init(jax.random.key(7), jnp.zeros((2, SIZE, SIZE, 3)))
  return Encoder(net, params, bn, Preprocessing((0.5,) * 3, (0.25,) * 3, SIZE))


@functools.cache
def _teacher():
  """A linear classifier on the frozen encoder."""
  kernel = 5.0 * jax.random.normal(jax.random.key(3), (8, CLASSES))
  return teachers.with_classifier(_frozen(), kernel, jnp.zeros(CLASSES))


@functools.cache
def _codec():
  """A VQ-VAE with 4 x 4 codes of 12, as it is before training."""
  method = make('vq_vae', axis=None)
  params, state = method.init(jax.random.key(5), batch_of('vq_vae'))
  seen = Preprocessing((0.0,) * 3, (1.0,) * 3, SIZE)
  return codec.of_method(method, seen, params, state.bn, {'digest': 'none'})


def _given(name):
  if name in ('beit', 'prior'):
    return {'codec': _codec()}
  return {'encoder': _frozen(), 'teacher': _teacher()}


# name -> (arguments of the builder, number of views)
CASES = {
  'augmentation_prediction': ({'targets': ('crop', 'flip', 'color'), 'hidden': (16,)}, 2),
  'barlow_twins': ({'projector': (16, 16, 8)}, 2),
  'beit': ({'mask_ratio': 0.5, 'least_block': 3}, 1),
  'bridge': ({'projector': (16, 8), 'predictor': (), 'base_tau': 0.9, 'beta': 0.5}, 2),
  'byol': ({'projector': (16, 8), 'predictor': (16, 8), 'base_tau': 0.9}, 2),
  'colorization': ({'grid': 20, 'bins': 0, 'stride': 2}, 1),
  'context_encoder': (
    {'hole': 'blocks', 'share': 0.6, 'overlap': 1, 'adversarial': 'alternating',
     'adversarial_weight': 0.1, 'discriminator_width': 4, 'discriminator_stages': 1,
     'decoder_width': 4},
    1,
  ),
  'counting': ({'projector': (12, 8)}, 1),
  'deepcluster': ({'num_clusters': 6, 'pca_dim': 4}, 1),
  'deepcluster_v2': ({'projector': (16, 8), 'prototypes': (6, 5)}, 3),
  'denoising_autoencoder': ({'decoder_width': 4, 'noise': 'masking', 'emphasis': (1.0, 0.5)}, 1),
  'detection': (
    {'taps': ('map',), 'channels': 4, 'width': 8, 'anchor_scales': (1.5,), 'bins': 2, 'first': 16,
     'second': 8, 'training': (20, 8), 'testing': (20, 8), 'found': (0.05, 0.5, 20, 5)},
    1,
  ),
  'depth': ({'up_channels': (4,), 'mean_depth': 2.0}, 1),
  'dino': ({'projector': (16, 8), 'outputs': 12, 'freeze_last': '1 steps'}, 3),
  'distillation': ({'temperature': 0.5}, 1),
  'fixmatch': ({'threshold': 0.4, 'tau': 0.9}, 2),
  'geometric': ({'per_image': 3}, 1),
  'supervised': ({}, 1),
  'dvae': ({'codes': 12, 'dim': 4, 'kl_warmup': '2 steps', 'decoder': 'codec_small'}, 1),
  'exemplar': ({'changes': {'patch': 5}, 'samples': 2}, 1),
  'image_gpt': ({}, 1),
  'instance_discrimination': ({'projector': (8,), 'num_noise': 12}, 1),
  'interclr': (
    {'projector': (16, 8), 'queue_size': 80, 'tau': 0.9, 'bn_groups': 4, 'num_clusters': 6,
     'pool_size': 24, 'num_negatives': 10, 'centroid_every': 2},
    2,
  ),
  'jigsaw': (
    {'tiles': {'grid': 2, 'tile': 3, 'jitter': 1, 'gray_prob': 0.5, 'channel_shift': 1},
     'permutations': 6, 'puzzles': 3, 'tile_features': (6,), 'hidden': (6,)},
    1,
  ),
  'linear_probe': ({'num_heads': 2}, 1),
  'mae': ({'mask_ratio': 0.5, 'decoder_dim': 8, 'decoder_depth': 1, 'decoder_heads': 2}, 1),
  'masked_tokens': ({'mask_ratio': 0.4, 'least_block': 3}, 1),
  'moco': ({'projector': (16, 8), 'queue_size': 80, 'tau': 0.9, 'symmetric': True,
            'bn_groups': 4}, 2),
  'moco_v3': ({'projector': (16, 8), 'predictor': (16, 8), 'base_tau': 0.9}, 2),
  'motion_segmentation': ({'decoder_width': 4}, 1),
  'multi_task': (
    {'parts': {
      'pair': {'name': 'byol', 'projector': (16, 8), 'predictor': (16, 8), 'base_tau': 0.9},
      'turns': {'name': 'rotation', 'hidden': (6,), 'weight': 0.5, 'views': (1,)},
    }},
    2,
  ),
  'nnclr': ({'projector': (16, 16, 8), 'predictor': (16, 8), 'queue_size': 48}, 2),
  'pixelcnn': ({'levels': 8, 'hidden': 6}, 1),
  'pixelcnn_pp': ({'levels': 8, 'mixtures': 2, 'average': 0.9}, 1),
  'prior': ({'grid': 4, 'dim': 8, 'depth': 1, 'heads': 2, 'keep': 0.9}, 1),
  'relative_patch_location': (
    {'tiles': {'grid': 2, 'tile': 3, 'jitter': 1, 'gray_prob': 0.3, 'project_prob': 0.3,
               'drop_prob': 0.3, 'coarse_prob': 0.3, 'coarse_side': 2},
     'hidden': (6,)},
    1,
  ),
  'rotation': ({'hidden': (6,)}, 1),
  'segmentation': ({'classes': CLASSES, 'head': 'fcn', 'width': 4}, 1),
  'simclr': ({'projector': (16, 8), 'memory_size': 80, 'memory_tau': 0.9, 'chunk': 24}, 2),
  'simsiam': ({'projector': (16, 8), 'predictor': (16, 8)}, 2),
  'swav': (
    {'projector': (16, 8), 'prototypes': 6, 'queue_size': 48, 'queue_from': '2 steps',
     'freeze': '1 steps'},
    3,
  ),
  'split_brain': ({'grid': 20, 'bins': 0, 'lightness_bins': 8, 'stride': 2}, 1),
  'triplet': ({'projector': (16, 8)}, 2),
  'vicreg': ({'projector': (16, 16, 8)}, 2),
  'vq_gan': (
    {'codes': 12, 'dim': 4, 'decay': 0.9, 'start': '1 steps', 'discriminator_width': 4,
     'discriminator_stages': 1, 'decoder': 'codec_small'},
    1,
  ),
  'vq_vae': ({'codes': 12, 'dim': 4, 'restart': 0.5, 'decoder': 'codec_small'}, 1),
  'w_mse': ({'projector': (16, 4)}, 2),
}  # fmt: skip
# Methods that need another encoder.
ENCODERS = {
  'beit': tiny_vit,
  'image_gpt': tiny_image_gpt,
  'mae': tiny_vit,
  'masked_tokens': functools.partial(tiny_image_gpt, causal=False),
  'pixelcnn': tiny_pixelcnn,
  'pixelcnn_pp': tiny_pixelcnn_pp,
  'split_brain': halved,
}
# Whose batches hold the parameters of the augmentation, as those of all methods do in a run.
READ_DRAWN = {'augmentation_prediction'}
# name -> the field that it reads beside its view
READ_MASKS = {'depth': 'depth', 'motion_segmentation': 'moving', 'segmentation': 'mask'}
WITH_TARGET = {'bridge', 'byol', 'dino', 'fixmatch', 'interclr', 'moco', 'moco_v3', 'simclr'}
WITH_TARGET |= {'pixelcnn_pp'}
every_method = pytest.mark.parametrize('name', sorted(METHODS))


def some(cases, column, share=4):
  """All cases, of which every `share`-th is tried by default; another part in each column."""
  return [
    pytest.param(*case, marks=() if (place + column) % share == 0 else pytest.mark.slow)
    for place, case in enumerate(cases)
  ]


def some_methods(column, without=(), share=4):
  names = [(name,) for name in sorted(set(METHODS) - set(without))]
  return pytest.mark.parametrize(('name',), some(names, column, share))


def make(name, axis=collectives.AXIS, dtype='float32', accumulate=1, setting=None, **changes):
  arguments, _ = CASES[name]
  fields = {'total_steps': STEPS, 'batch_size': BATCH} | (setting or {})
  length = Length(fields.pop('batch_size'), 2, fields.pop('total_steps'))
  run = Setting(
    length, accumulate=accumulate, num_devices=4 if axis else 1, num_examples=64,
    num_classes=CLASSES, axis=axis, dtype=dtype, shares=(1, 3),
    given=_given(name),
  )._replace(**fields)  # fmt: skip
  encoder = functools.partial(ENCODERS.get(name, TinyEncoder), dtype=jnp.dtype(dtype))
  return METHODS[name](encoder, run, **(arguments | changes))


def boxes_of(rng, rows):
  """Two boxes in every image but the first, which has none."""
  low, size = rng.uniform(0, 0.5, (rows, 2, 2)), rng.uniform(0.2, 0.5, (rows, 2, 2))
  kinds = rng.integers(0, CLASSES, (rows, 2, 1))
  kinds[0] = -1
  return np.concatenate([low, low + size, kinds], -1).astype(np.float32)


def batch_of(name, seed=0, rows=BATCH):
  rng = np.random.default_rng(seed)
  _, views = CASES[name]
  further = {}
  if name in READ_DRAWN:
    uniform = np.random.default_rng((seed, 1)).uniform
    further['drawn'] = tuple(uniform(size=(rows, 12)).astype(np.float32) for _ in range(views))
  if name in READ_MASKS:
    mask = np.random.default_rng((seed, 2)).integers(0, 2, (rows, SIZE, SIZE, 1))
    kind = np.float32 if name == 'depth' else np.uint8
    further[READ_MASKS[name]] = (mask.astype(kind),) * views
  if name == 'detection':
    further['boxes'] = (boxes_of(np.random.default_rng((seed, 3)), rows),)
  return further | {
    # From the third view on small crops, as methods with more than two have them.
    'views': tuple(
      rng.normal(size=(rows, *(2 * (SIZE if view < 2 else SIZE // 2,)), 3)).astype(np.float32)
      for view in range(views)
    ),
    'index': np.arange(rows, dtype=np.int32),
    'epoch': np.zeros(rows, np.int32),
    'label': rng.integers(0, CLASSES, rows).astype(np.int32),
  }


@pytest.mark.parametrize(
  ('name', 'path'), [('dino', 'projector/last/kernel'), ('swav', 'prototypes/kernel')]
)
def test_what_is_frozen_at_first_keeps_every_bit_and_then_moves(name, path):
  method = make(name, axis=None)  # frozen for a step
  params = jax.eval_shape(method.init, jax.random.key(0), batch_of(name))[0]
  params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), params)
  fields = {'name': 'lars', 'base_lr': 0.1, 'weight_decay': 0.1, 'lr_scaling': 'none'}
  made = recipe.make_recipe(fields, Length(BATCH, 2, STEPS)).starting(method.starts)
  tx = optim.make(made.label(method.groups(params), params), made.transformations)
  state, moved = tx.init(params), []
  for _ in range(2):
    updates, state = jax.jit(tx.update)(params, state, params)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    moved.append({optim.path_name(path) for path, x in leaves if np.any(np.asarray(x))})
  assert moved[0] == {each for each in moved[1] if each != path} and path in moved[1]
  with pytest.raises(ValueError, match="no parameters are at 'nothing'"):
    made.starting({'nothing': 1}).label(method.groups(params), params)


def pure_step(method, axis=collectives.AXIS, accumulate=1, traces=None):
  def augment(batch, step):
    del step
    if traces is not None:
      traces.append(1)
    return batch

  tx = optax.sgd(0.1, momentum=0.9)
  step = functools.partial(
    train_step, method=method, tx=tx, augment=augment, axis=axis, accumulate=accumulate
  )
  return step, functools.partial(init_state, method, tx)


@functools.cache
def start(name, **changes):
  """The state before training, on the host."""
  _, create = pure_step(make(name, **changes))
  return mapping.fetch(create(batch_of(name), 0))


def program(name, how=mapping.spmd, **changes):
  """A step that is compiled once for all tests of a method, and a list that grows when traced."""
  return _program(name, how, **changes)


@functools.cache
def _program(name, how, accumulate=1, **changes):
  axis, traces = None if how is jax.jit else collectives.AXIS, []
  method = make(name, axis, accumulate=accumulate, **changes)
  step = how(pure_step(method, axis, accumulate, traces)[0])
  if how is mapping.spmd:
    return lambda state, batch: step(state, mapping.shard(batch)), traces
  return step, traces


@functools.cache
def steps_of(name, steps, how=mapping.spmd, **changes):
  """The states on the host before, between and after a few steps, and the metrics of each."""
  step, _ = program(name, how, **changes)
  states, metrics = [start(name, **changes)], []
  state = mapping.replicate(states[0])
  for number in range(steps):
    state, measured = step(state, batch_of(name, seed=number))
    states.append(mapping.fetch(state))
    metrics.append(mapping.fetch(measured))
  return states, metrics


def run(name, steps, **how):
  """Trains a few steps; returns the state and the last metrics on the host."""
  states, metrics = steps_of(name, steps, **how)
  return states[-1], metrics[-1]


def assert_each_step_is_one_devices(name, steps, tolerance, **changes):
  """Four devices against one, which takes every step from the state of the four.

  Were each to go on from its own, the difference by rounding would grow from step to step: it
  doubles to quadruples with SimCLR, in float64 as in float32.
  """
  states, metrics = steps_of(name, steps, **changes)
  alone, _ = program(name, jax.jit, **changes)
  for number, (before, after) in enumerate(itertools.pairwise(states)):
    found, measured = alone(before, batch_of(name, seed=number))
    assert_close(after, mapping.fetch(found), tolerance)
    assert_close(metrics[number], mapping.fetch(measured), tolerance)


def assert_close(a, b, tolerance):
  """Within `tolerance`, of 1 or of the largest entry of the array: momentum may be large."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  for x, y in pairs:
    scale = max(1.0, float(np.max(np.abs(y), initial=0.0)))
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * scale)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_method_has_a_case():
  assert set(CASES) == set(METHODS)


@every_method
def test_step_trains_is_finite_and_compiles_once(name):
  step, traces = program(name)
  state, metrics = step(mapping.replicate(start(name)), batch_of(name))
  once = len(traces)
  for seed in range(3):
    state, metrics = step(state, batch_of(name, seed))
  assert len(traces) == once, 'the step was traced again'
  assert int(mapping.fetch(state.step)) == 4
  assert_replicas_are_equal((state, metrics))
  assert all(np.isfinite(value) for value in mapping.fetch(metrics).values())
  after = mapping.fetch(state)
  moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), start(name).params, after.params)
  assert any(jax.tree.leaves(moved))


def assert_replicas_are_equal(outputs):
  """What comes back from every device; who reads it takes the first for all."""
  for path, leaf in jax.tree.leaves_with_path(outputs):
    first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
    assert len(others) == 3
    for other in others:
      np.testing.assert_array_equal(first, other, err_msg=jax.tree_util.keystr(path))


def test_replicas_that_differ_are_seen():
  def step(state, batch):
    return state + jax.lax.axis_index(collectives.AXIS) * batch['view'].sum(), {}

  batch = mapping.shard({'view': np.ones(4, np.float32)})
  with pytest.raises(AssertionError, match='Mismatched'):
    assert_replicas_are_equal(mapping.spmd(step)(mapping.replicate(jnp.zeros(())), batch))


@some_methods(11, share=24)
def test_four_devices_are_one_device(name):
  # One step differs by rounding, 1e-5 at most (VICReg); a part of the batch for the whole, by 1e-2.
  assert_each_step_is_one_devices(name, 3, 1e-4)


@some_methods(1, share=22)
def test_shard_map_is_pmap(name):
  assert_close(run(name, 3), run(name, 3, how=mapping.spmd_shard_map), 1e-6)


@pytest.mark.parametrize(
  ('name', 'accumulate'), some([*((name, 2) for name in sorted(METHODS)), ('byol', 4)], 2, share=22)
)
def test_accumulation_does_not_depend_on_devices(name, accumulate):
  # As above; other micro-batches would differ by 1e-2.
  assert_each_step_is_one_devices(name, 2, 1e-4, accumulate=accumulate)


@some_methods(2)
def test_resume_is_bit_exact(name, tmp_path):
  step, _ = program(name)
  state = mapping.replicate(start(name))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  for number in range(4):
    if number == 2:
      checkpoints.save(2, state, {'loss': 1.0})
    state, _ = step(state, batch_of(name, number))
  restored = checkpoints.restore(jax.eval_shape(lambda: state), 2)
  checkpoints.close()
  assert type(restored) is type(state)
  again = mapping.replicate(restored)
  for number in (2, 3):
    again, _ = step(again, batch_of(name, number))
  assert_equal(mapping.fetch(state), mapping.fetch(again))


@some_methods(28, share=32)
def test_bfloat16_compute_keeps_float32_state_and_loss(name):
  state, metrics = run(name, 2, dtype='bfloat16')
  for leaf in jax.tree.leaves((state.params, state.method_state)):
    assert leaf.dtype in (np.float32, np.int32, np.uint32)
  assert metrics['loss'].dtype == np.float32 and np.isfinite(metrics['loss'])


@functools.cache
def embedder(name):
  """A method, and its `embed` and its network's outputs as functions of images."""
  method, state = make(name, axis=None), start(name)
  embed = functools.partial(method.embed, state.params, state.method_state)

  def outputs(images):
    return method.net.apply(state.params, state.method_state.bn, images, train=False)[0]

  return method, jax.jit(embed), jax.jit(outputs)


def pictures_of(method, *given):
  """`Method.pictures`, compiled, and in their order: a compiled function sorts them by name."""
  names = []

  def paint(*given):
    shown = method.pictures(*given)
    names.extend(shown)
    return list(shown.values())

  return dict(zip(names, map(np.asarray, jax.jit(paint)(*given)), strict=True))


@every_method
def test_embedding_is_deterministic_and_per_image(name):
  _, embed, _ = embedder(name)
  images = batch_of(name)['views'][0]
  together = embed(images)
  assert together['embedding'].shape[0] == BATCH
  others = batch_of(name, seed=1)['views'][0]
  others[3] = images[3]
  among_others = embed(others)
  for tap, value in together.items():
    np.testing.assert_array_equal(value[3], among_others[tap][3])
  changed = np.abs(together['embedding'] - among_others['embedding'])[:3]
  assert changed.max() > 0.01 * np.abs(together['embedding']).max()


@some_methods(0, share=2)
def test_pictures_are_what_the_protocol_says(name):
  """Of whole images, on one device, a function of the key, and of each image by itself."""
  method, _, _ = embedder(name)
  if method.pictures is None:
    return
  state, batch = start(name), batch_of(name)
  batch |= {key: value[:1] for key, value in batch.items() if isinstance(value, tuple)}
  paint = jax.jit(functools.partial(method.pictures, state.params, state.method_state))
  shown = paint(batch, jax.random.key(0))
  # Maps have names of their own: nothing is compared with the image then.
  assert 'image' in shown and len(shown) > 1
  for picture in shown.values():
    assert picture.dtype == np.float32 and picture.shape[:3] == (BATCH, SIZE, SIZE)
    assert picture.shape[3] in (1, 3) and picture.min() >= 0 and picture.max() <= 1
  batch['views'][0][1:] = batch['views'][0][1:][::-1]
  again = paint(batch, jax.random.key(0))
  for each, picture in shown.items():
    np.testing.assert_array_equal(picture[0], again[each][0])


@some_methods(0, share=2)
def test_samples_are_what_the_protocol_says(name):
  """Images in [0, 1], a function of the key."""
  method, _, _ = embedder(name)
  if method.sample is None:
    return
  state, side = start(name), SIZE
  draw = jax.jit(
    functools.partial(method.sample, state.params, state.method_state), static_argnums=2
  )
  images = draw(jax.random.key(0), None, Sampling(3, side))
  assert images.shape == (3, side, side, 3) and images.dtype == np.float32
  assert images.min() >= 0 and images.max() <= 1 and not np.array_equal(images[0], images[1])
  assert not np.array_equal(draw(jax.random.key(1), None, Sampling(3, side)), images)


@some_methods(1, share=2)
def test_the_network_gives_what_embed_gives(name):
  """Evaluations read a run's heads through `net`, with the weights that `params` holds by role."""
  method, embed, of_network = embedder(name)
  if method.net is None:
    assert name == 'linear_probe'  # An encoder alone.
    return
  images = batch_of(name)['views'][0]
  assert [role for role, _, _ in method.net.parts][0] == 'encoder'
  outputs = of_network(images)
  for tap, value in embed(images).items():
    if tap in outputs:
      np.testing.assert_allclose(outputs[tap], value, rtol=1e-5, atol=1e-6)
  assert 'embedding' in outputs and len(outputs) > 1


@every_method
def test_networks_are_where_the_protocol_says(name):
  method = make(name, axis=None)
  batch = batch_of(name)
  state = jax.eval_shape(lambda: init_state(method, optax.sgd(0.1), batch, 0))

  def read(path):
    return functools.reduce(lambda tree, field: getattr(tree, field, None), path, state)

  (online, statistics), (target, target_statistics) = (
    [read(path) for path in NETWORKS[network]] for network in ('online', 'target')
  )
  if method.net is not None:
    roles = [role for role, _, _ in method.net.parts]
    assert roles[0] == 'encoder' and set(roles) == set(online) == set(statistics)
  assert bool(target) == (name in WITH_TARGET)
  if target:
    assert 'encoder' in target and set(target) == set(target_statistics)
    assert target == {role: online[role] for role in target}
    assert target_statistics == {role: statistics[role] for role in target}


ROWS, WIDTH = 1 << 14, 256
# name -> arguments that make the memory large, and how many rows it then has
MEMORIES = {
  'deepcluster_v2': ({'projector': (16, WIDTH)}, 2 * ROWS),
  'instance_discrimination': ({'projector': (WIDTH,)}, ROWS),
  'interclr': ({'projector': (16, WIDTH), 'queue_size': ROWS, 'bn_groups': 0}, 2 * ROWS),
  'moco': ({'projector': (16, WIDTH), 'queue_size': ROWS, 'bn_groups': 0}, ROWS),
  'nnclr': ({'projector': (16, WIDTH), 'predictor': (16, WIDTH), 'queue_size': ROWS}, ROWS),
  'simclr': ({'projector': (16, WIDTH), 'memory_size': ROWS}, ROWS),
  'swav': ({'projector': (16, WIDTH), 'queue_size': ROWS}, 2 * ROWS),
}


@pytest.mark.parametrize(
  ('name', 'accumulate'),
  some([(name, accumulate) for name in sorted(MEMORIES) for accumulate in (1, 2)], 0, share=7),
)
def test_memories_are_written_in_place(name, accumulate):
  changes, rows = MEMORIES[name]
  setting = {'num_examples': ROWS, 'batch_size': 2 * accumulate, 'num_devices': 1}
  method = make(name, None, accumulate=accumulate, setting=setting, **changes)
  step, create = pure_step(method, None, accumulate)
  batch = batch_of(name, rows=2 * accumulate)
  state = jax.eval_shape(lambda: create(batch, 0))
  compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
  # What grows with the memory, such as similarities of a small batch with it, is far smaller.
  assert compiled.memory_analysis().temp_size_in_bytes < 4 * rows * WIDTH / 3


def test_a_batch_with_a_gradient_that_is_not_finite_is_not_remembered():
  method = make('moco', None, setting={'num_devices': 1})
  step, create = pure_step(method, None)
  batch = batch_of('moco')
  state = create(batch, 0)
  good, _ = jax.jit(step)(state, batch)
  assert int(good.method_state.queue.pointer) == 2 * BATCH
  batch['views'][0][3] = np.nan
  bad, metrics = jax.jit(step)(state, batch)
  assert not np.isfinite(metrics['grad_norm'])
  before, after = state.method_state.queue, bad.method_state.queue
  jax.tree.map(np.testing.assert_array_equal, after, before)


SUPERVISED = ('fixmatch', 'linear_probe', 'supervised')


def garbage(batch, amount):
  return batch | {'label': (batch['label'] + amount) % CLASSES}


@pytest.mark.parametrize('name', sorted(set(METHODS) - set(SUPERVISED)))
def test_labels_are_not_read(name):
  step, _ = program(name)
  state = mapping.replicate(start(name))
  for number in range(3):
    state, metrics = step(state, garbage(batch_of(name, number), 1 + number))
  assert_equal((mapping.fetch(state), mapping.fetch(metrics)), run(name, 3))


def probed(name):
  """A method with a linear probe beside it, which reads labels."""
  head = stack((('probe', 'logits', heads.LinearHead(CLASSES)),))
  return with_online_probe(
    make(name),
    lambda key, x: head.init(key, x)[0]['probe'],
    lambda params, x: head.apply({'probe': params}, {'probe': {}}, x, train=True)[0]['logits'],
    lambda logits, labels: (classification.cross_entropy(logits, labels), {}),
  )


@some_methods(13, without=SUPERVISED, share=48)
def test_labels_cannot_leak(name):
  """The probe learns from garbage; everything else is bit-equal, and as without a probe."""
  step, create = pure_step(probed(name))
  mapped, first, states = mapping.spmd(step), mapping.fetch(create(batch_of(name), 0)), []
  for amount in (0, 1):
    state = mapping.replicate(first)
    for number in range(3):
      batch = garbage(batch_of(name, number), amount * (1 + number))
      state, metrics = mapped(state, mapping.shard(batch))
    states.append((mapping.fetch(state), mapping.fetch(metrics)))
  (right, right_metrics), (wrong, wrong_metrics) = states
  assert not np.array_equal(
    right.params['probe']['linear1']['kernel'], wrong.params['probe']['linear1']['kernel']
  )
  own = [{k: v for k, v in s.params.items() if k != 'probe'} for s in (right, wrong)]
  assert_equal(*own)
  assert_equal(right.method_state, wrong.method_state)
  for metric in right_metrics:
    if not metric.startswith('probe/'):
      np.testing.assert_array_equal(right_metrics[metric], wrong_metrics[metric])
  plain, _ = run(name, 3)
  assert_close(plain.params['encoder'], right.params['encoder'], 1e-7)


def heads_of(state):
  return state.params['head']['features']


def test_linear_probe_never_touches_the_encoder():
  state, _ = run('linear_probe', 3)
  before = _frozen()
  assert_equal(state.method_state.params, mapping.fetch(before.params))
  assert_equal(state.method_state.bn, mapping.fetch(before.bn))


def test_stacked_probe_heads_are_separate_runs():
  """Two heads side by side are one head alone, twice."""
  two, _ = run('linear_probe', 3)
  one, _ = run('linear_probe', 3, num_heads=1)
  for head in range(2):
    np.testing.assert_allclose(
      heads_of(two)['kernel'][head], heads_of(one)['kernel'][0], rtol=1e-5, atol=1e-6
    )
