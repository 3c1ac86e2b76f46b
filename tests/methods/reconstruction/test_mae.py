"""Masked autoencoders: equal to lightly's and timm's, masks, what the loss depends on, pictures."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.length import Length
from byoljax.losses import masked_patches as losses
from byoljax.method import Setting, transformed
from byoljax.methods.reconstruction import mae
from byoljax.models import encoder_factory, vit
from byoljax.models.masked_decoder import MaskedDecoder
from byoljax.models.net import stack
from byoljax.ops import masking
from byoljax.weights import importing
from tests import imported
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import mae_tensors as theirs  # noqa: E402

SETTING = Setting(Length(2, 2, 10), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
DECODER = {'decoder_dim': 16, 'decoder_depth': 1, 'decoder_heads': 2}
TINY = vit.Size(16, 1, 2, patch=4, grid=2)


def tiny(bn_axis=None, bn_groups=0, **changes):
  return vit.ViT(TINY, **changes)


def batch_of(images):
  rows = np.arange(len(images), dtype=np.int32)
  return {'views': (np.asarray(images),), 'index': rows, 'epoch': np.zeros_like(rows)}


def seen_of(method, images, seed=0, step=0):
  """What the network sees of a batch of images."""
  see = jax.jit(lambda batch, key, step: transformed(method, batch, key, step))
  return see(batch_of(images), jax.random.key(seed), np.int32(step))


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'mae.npz'))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  """The authors' file: encoder and decoder in one."""
  path = tmp_path_factory.mktemp('mae') / 'mae.pth'
  imported.torch_file(path, {'model': theirs.state()})
  return importing.encoder_of(str(path), imported.FIELDS)


def state_of(params):
  return mae.Statistics({role: {} for role in params})


def masked_like_theirs(golden):
  images, masked = theirs.images(), golden['masked']
  seen = jax.jit(vit.with_patches, static_argnums=3)(images, masked.reshape(2, 4, 4), 0.0, 8)
  keep = masking.visible_places(masked, theirs.VISIBLE)
  return batch_of(seen) | {'target': images, 'masked': masked.reshape(2, 4, 4), 'keep': keep}


def test_pixels_loss_and_gradients_are_theirs(golden, checkpoint):
  """Weights are those of the authors' format: the import puts encoder and decoder in place."""
  fields = {'name': 'vit_micro', 'patch_size': 8, 'grid': 4, 'positions': 'sincos_xy'}
  method = mae.build(
    encoder_factory(fields), SETTING, decoder_dim=32, decoder_depth=2, decoder_heads=4
  )
  batch = masked_like_theirs(golden)
  inputs = {'encoder': {'keep': batch['keep']}, 'decoder': {'masked': batch['masked']}}

  @jax.jit
  def run(params):
    def loss(params):
      state, zero = state_of(params), jnp.zeros((), int)
      value, _ = method.loss(params, state, batch, jax.random.key(0), zero)
      made, _ = method.net.apply(params, state.bn, batch['views'][0], train=True, inputs=inputs)
      return value, made['pixels']

    return jax.value_and_grad(loss, has_aux=True)(params)

  (value, pixels), gradients = run(checkpoint.encoder.params)
  # Seen: 1.1e-7 of the loss, 1.5e-6 of pixels up to 4.3, 3.3e-8 of gradients; five times each.
  np.testing.assert_allclose(value, golden['mse, normalized'], rtol=6e-7)
  np.testing.assert_allclose(pixels[:, :, :: theirs.STRIDE], golden['pixels'], rtol=0, atol=8e-6)
  own = {
    'mask_token': gradients['decoder']['mask'],
    'cls_token': gradients['encoder']['cls'],
    'patch_embed.proj.bias': gradients['encoder']['patch_embed']['bias'],
    'decoder_pred.bias': gradients['decoder']['pixels']['bias'],
  }
  for name in theirs.GRADIENTS:
    wanted = golden[f'gradient of {name}'].reshape(-1)
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(own[name], wanted, rtol=0, atol=2e-7, err_msg=name)


def test_losses_are_theirs(golden):
  masked = golden['masked']
  patches = vit.patches(theirs.images(), 8)
  error_of = jax.jit(losses.masked_error, static_argnums=3)
  zeros = error_of(np.zeros_like(patches), jax.jit(losses.normalized)(patches), masked)
  np.testing.assert_allclose(zeros, golden['zeros'], rtol=1e-6)
  np.testing.assert_allclose(zeros, 191 / 192, rtol=1e-5)  # 1e-6 beside a variance of 1
  predictions = patches + np.float32(0.5)  # By hand: all errors are a half.
  for error, value in (('mse', 0.25), ('l1', 0.5)):
    np.testing.assert_allclose(error_of(predictions, patches, masked, error), value, rtol=1e-6)


def test_all_zeros_cost_767_of_768():
  patches = np.random.default_rng(0).normal(size=(2, 5, 768)).astype(np.float32)
  masked = np.arange(10).reshape(2, 5) % 2 == 0
  value = jax.jit(lambda x: losses.masked_error(jnp.zeros_like(x), losses.normalized(x), masked))(
    patches
  )
  np.testing.assert_allclose(value, 767 / 768, rtol=5e-6)
  with pytest.raises(ValueError, match='norm_pixels=False'):
    losses.normalized(patches[..., :1])
  with pytest.raises(ValueError, match=r'need predictions and targets \[b,n,D\]'):
    losses.masked_error(patches, patches, masked[:1])


def test_masks_are_sorted_noise_and_their_places(golden):
  noise = theirs.noise()
  lowest = jax.jit(masking.lowest_visible, static_argnums=1)
  np.testing.assert_array_equal(lowest(noise, 4), golden['masked'])
  places = jax.jit(masking.visible_places, static_argnums=1)(golden['masked'], 4)
  np.testing.assert_array_equal(places, np.sort(noise.argsort(1)[:, :4], axis=1))
  tokens = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)
  back = np.asarray(jax.jit(masking.put_back)(tokens, golden['masked'], np.full(3, -1, np.float32)))
  np.testing.assert_array_equal(np.take_along_axis(back, places[:, :, None], 1), tokens)
  np.testing.assert_array_equal(back[golden['masked']], -1.0)


def test_every_set_of_patches_is_as_likely_as_any_other():
  draw = jax.jit(lambda key: masking.random_masks(jax.random.split(key, 6000), 4, 2))
  masked = np.asarray(draw(jax.random.key(0)))
  assert (masked.sum(1) == 2).all()
  counts = np.bincount(masked @ [1, 2, 4, 8], minlength=16)
  assert (np.flatnonzero(counts) == [3, 5, 6, 9, 10, 12]).all()
  # 1000 each, standard deviation 29.
  assert np.abs(counts[counts > 0] - 1000).max() < 5 * 29


@pytest.mark.parametrize(
  ('count', 'ratio', 'visible'), [(196, 0.75, 49), (10, 0.9, 1), (64, 0.9, 6)]
)
def test_visible_patches_are_counted_as_the_authors_do(count, ratio, visible):
  assert masking.visible_count(count, ratio) == visible


def test_masks_are_the_keys_and_positions():
  method = mae.build(tiny, SETTING, **DECODER)
  images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
  made = seen_of(method, images, 1)
  masked = np.asarray(made['masked'])
  assert masked.shape == (4, 4, 4) and (masked.sum((1, 2)) == 12).all()
  assert len({row.tobytes() for row in masked}) == 4  # each image's own
  again = seen_of(method, images[:2], 1, step=1)
  np.testing.assert_array_equal(again['masked'], masked[:2])
  other = seen_of(method, images, 2)
  assert not np.array_equal(other['masked'], masked)
  np.testing.assert_array_equal(made['target'], images)
  pixels = masked.repeat(4, 1).repeat(4, 2)
  assert not np.asarray(made['views'][0])[pixels].any()
  np.testing.assert_array_equal(np.asarray(made['views'][0])[~pixels], images[~pixels])
  np.testing.assert_array_equal(np.sort(made['keep'], 1), made['keep'])
  assert not np.take_along_axis(masked.reshape(4, -1), np.asarray(made['keep']), 1).any()


@pytest.mark.parametrize('masked', ['dropped', 'filled'])
def test_squares_of_patches_are_masked_together(masked):
  method = mae.build(tiny, SETTING, mask_size=8, mask_ratio=0.5, masked=masked, **DECODER)
  batch = batch_of(np.ones((4, 16, 24, 3), np.float32))
  made = transformed(method, batch, jax.random.key(1), jnp.zeros((), int))
  where = np.asarray(made['masked'])
  squares = where[:, ::2, ::2]
  np.testing.assert_array_equal(squares.repeat(2, 1).repeat(2, 2), where)
  assert (squares.sum((1, 2)) == 3).all() and squares.std(0).any()
  np.testing.assert_array_equal(made['views'][0][..., 0] == 0, where.repeat(4, 1).repeat(4, 2))
  assert masked == 'filled' or made['keep'].shape == (4, 12)
  with pytest.raises(ValueError, match='mask_size=8 must divide the sides of the images'):
    uneven = batch_of(np.ones((2, 12, 12, 3), np.float32))
    transformed(method, uneven, jax.random.key(1), jnp.zeros((), int))


def test_loss_depends_on_masked_targets_and_visible_inputs_alone():
  method = mae.build(tiny, SETTING, norm_pixels=False, **DECODER)
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  batch = seen_of(method, images)
  params, state = jax.jit(method.init)(jax.random.key(0), batch)

  @jax.jit
  def gradients(seen, target):
    def value(seen, target):
      given = batch | {'views': (seen,), 'target': target}
      return method.loss(params, state, given, jax.random.key(0), jnp.zeros((), int))[0]

    return jax.grad(value, (0, 1))(seen, target)

  seen, target = (np.asarray(x) for x in gradients(batch['views'][0], batch['target']))
  pixels = np.asarray(batch['masked']).repeat(4, 1).repeat(4, 2)
  assert not seen[pixels].any() and seen[~pixels].any()
  assert not target[~pixels].any() and (target[pixels] != 0).all()


def test_pictures_paste_what_was_visible_and_undo_the_normalization():
  method = mae.build(tiny, SETTING, **DECODER)
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  batch = seen_of(method, images)
  params, state = jax.jit(method.init)(jax.random.key(0), batch)
  # Predictions of zero stand for each patch's own mean color.
  params['decoder']['pixels'] = jax.tree.map(np.zeros_like, params['decoder']['pixels'])
  shown = jax.jit(method.pictures)(params, state, batch_of(images), jax.random.key(0))
  assert list(shown) == ['image', 'input', 'output'] or set(shown) == {'image', 'input', 'output'}
  image, masked_, output = (np.asarray(shown[name]) for name in ('image', 'input', 'output'))
  mean, std = (np.float32(x) for x in (SETTING.mean, SETTING.std))
  np.testing.assert_allclose(image, np.clip(images * std + mean, 0, 1), atol=1e-6)
  hidden = np.asarray(batch['masked']).repeat(4, 1).repeat(4, 2)
  np.testing.assert_allclose(masked_[hidden], np.broadcast_to(mean, (hidden.sum(), 3)), atol=1e-6)
  for picture in (masked_, output):
    np.testing.assert_array_equal(picture[~hidden], image[~hidden])
  # All channels of a patch share one mean.
  of_patch = np.asarray(vit.patches(images, 4)).mean(-1)
  flat = of_patch.reshape(2, 4, 4).repeat(4, 1).repeat(4, 2)[..., None] * std + mean
  np.testing.assert_allclose(output[hidden], np.clip(flat, 0, 1)[hidden], atol=1e-5)


def test_encoder_may_see_masked_patches_in_the_mean_color():
  """SimMIM's form: a linear layer on all tokens."""
  method = mae.build(tiny, SETTING, masked='filled', decoder_depth=0, norm_pixels=False, error='l1')
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  batch = seen_of(method, images)
  assert 'keep' not in batch
  params, state = jax.jit(method.init)(jax.random.key(0), batch)
  assert set(params['decoder']) == {'pixels'}
  value, _ = jax.jit(method.loss)(params, state, batch, jax.random.key(0), np.int32(0))
  of_tokens = jax.jit(lambda *given: tiny().apply(*given, method=vit.ViT.tokens))
  tokens = of_tokens({'params': params['encoder']}, batch['views'][0])
  kernel, bias = (np.asarray(params['decoder']['pixels'][x]) for x in ('kernel', 'bias'))
  error = np.abs(np.asarray(tokens)[:, 1:] @ kernel + bias - vit.patches(images, 4))
  wanted = error[np.asarray(batch['masked']).reshape(2, 16)].mean()
  np.testing.assert_allclose(value, wanted, rtol=1e-5)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'mask_ratio': 1.0}, 'mask_ratio=1.0 must be above 0 and below 1'),
    ({'decoder_depth': 0}, "decoder_depth=0 must be at least 1, or 0 with masked='filled'"),
    ({'decoder_heads': 5}, 'decoder_dim=512, decoder_heads=5: the width must be a multiple'),
    ({'error': 'l2'}, "error 'l2'"),
    ({'masked': 'gray'}, "masked 'gray'"),
    ({'mask_size': 6}, 'mask_size=6 must be a multiple of 4'),
  ],
)
def test_wrong_options_are_refused(changes, said):
  with pytest.raises(ValueError) as refused:
    mae.build(tiny, SETTING, **changes)
  assert said in str(refused.value)


def test_ratios_that_leave_nothing_and_several_views_are_refused():
  method = mae.build(tiny, SETTING, mask_ratio=0.9, **DECODER)
  small = np.zeros((2, 8, 8, 3), np.float32)
  with pytest.raises(ValueError, match=r'mask_ratio=0.9 of 4 patches leaves none of them visible'):
    transformed(method, batch_of(small), jax.random.key(0), jnp.zeros((), int))
  two = batch_of(small) | {'views': (small, small)}
  with pytest.raises(ValueError, match='takes one view of every image, but there are 2'):
    transformed(method, two, jax.random.key(0), jnp.zeros((), int))
  with pytest.raises(ValueError, match="masked='dropped' needs an encoder that can leave patches"):
    mae.build(encoder_factory({'name': 'small'}), SETTING)


@pytest.mark.parametrize(('name', 'dim'), [('vit_base', 768), ('vit_large', 1024)])
def test_parameter_counts_equal_lightlys_without_fixed_positions(golden, name, dim):
  """Of the decoder; tests/models/test_vit.py counts the encoders."""
  decoder = stack((('decoder', 'pixels', MaskedDecoder(16)),))
  tokens = jax.ShapeDtypeStruct((1, 197, dim), jnp.float32)
  params, _ = jax.eval_shape(lambda: decoder.init(jax.random.key(0), tokens))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == golden[f'count/{name}']
