"""Split-brain autoencoders: nothing crosses, what each half is asked for, depth, and pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.method import Setting, transformed
from byoljax.methods.reconstruction import split_brain
from byoljax.models import rescaled
from byoljax.models.net import stack
from byoljax.models.taps import taps_of
from byoljax.ops import color
from tests.methods import test_contract as contract
from tests.methods.test_contract import batch_of, halved, make, pictures_of

NAME, KEY, STEP = 'split_brain', jax.random.key(0), jnp.int32(0)
SMALL = {'grid': 20, 'bins': 0, 'lightness_bins': 8, 'depth_bins': 5, 'stride': 2}


def batch(rows=4, depth=False):
  rng = np.random.default_rng(0)
  made = batch_of(NAME, rows=rows)
  made['views'] = (rng.uniform(0.05, 0.95, (rows, 8, 8, 3)).astype(np.float32),)
  if depth:
    made['depth'] = (rng.uniform(0, 2, (rows, 8, 8, 1)).astype(np.float32),)
  return made


def of_kind(kind, **changes):
  setting = Setting(contract.Length(4, 2, 20), num_devices=1)
  encoder = functools.partial(halved, kind=kind)
  return split_brain.build(encoder, setting, **(SMALL | changes))


def begin(method, batch):
  """The method, a batch as it sees it, parameters and state."""

  @jax.jit
  def create(batch):
    seen = transformed(method, batch, KEY, STEP)
    return seen, *method.init(KEY, seen)

  return method, *create(batch)


@pytest.fixture(scope='module')
def rgbd():
  """With depth in [0, 2]."""
  return begin(of_kind('rgbd_halves', depth_range=(0.0, 2.0)), batch(depth=True))


@pytest.fixture(scope='module')
def lab():
  return begin(of_kind('lab_halves'), batch())


def random_heads(params):
  """Heads begin with zeros, through which no gradient would reach the encoder at all."""
  fill = functools.partial(
    jax.tree.map, lambda x: 0.1 * np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
  )
  return {role: value if role == 'encoder' else fill(value) for role, value in params.items()}


def largest(tree):
  return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('kind', ['lab', pytest.param('rgbd', marks=pytest.mark.slow)])
def test_no_gradient_crosses(kind, request):
  method, seen, params, state = request.getfixturevalue(kind)

  @jax.jit
  def gradients(params):
    def term(name):
      return lambda params: method.loss(params, state, seen, KEY, STEP)[1].metrics[f'loss/{name}']

    firsts, seconds = split_brain.ASKED[f'{kind}_halves']
    sums = [lambda p, n=names: sum(term(name)(p) for name in n) for names in (firsts, seconds)]
    return [jax.grad(each)(params) for each in sums]

  first, second = gradients(random_heads(params))
  assert largest(first['encoder']['first']) > 1e-5 and largest(first['first_decoder']) > 1e-5
  assert largest(second['encoder']['second']) > 1e-5 and largest(second['second_decoder']) > 1e-5
  assert largest(first['encoder']['second']) == largest(first['second_decoder']) == 0.0
  assert largest(second['encoder']['first']) == largest(second['first_decoder']) == 0.0


def test_each_half_sees_its_channels_only(lab):
  method, _, params, state = lab
  view = batch()['views'][0]
  embed = jax.jit(lambda x: method.embed(params, state, x)['embedding'])
  lightness = np.array([1, 0, 0], np.float32).reshape(1, 1, 1, 3)
  gray = jax.jit(lambda x: color.lab_to_rgb(color.rgb_to_lab(x) * lightness))(view)
  plain, without = (np.asarray(embed(x)) for x in (view, gray))
  size = plain.shape[1] // 2
  np.testing.assert_allclose(without[:, :size], plain[:, :size], atol=1e-4)
  assert np.abs(without[:, size:] - plain[:, size:]).max() > 1e-2


def test_losses_begin_at_the_logarithms_of_the_classes_and_add_up(lab, rgbd):
  for (method, seen, params, state), sizes in (
    (lab, {'ab': 75, 'lightness': 8}), (rgbd, {'depth': 5, 'lightness': 8, 'ab': 75}),
  ):  # fmt: skip
    value, aux = jax.jit(method.loss)(params, state, seen, KEY, STEP)
    assert set(aux.metrics) == {f'loss/{name}' for name in sizes}
    for name, count in sizes.items():
      assert float(aux.metrics[f'loss/{name}']) == pytest.approx(np.log(count), rel=1e-5)
    assert float(value) == pytest.approx(sum(map(np.log, sizes.values())), rel=1e-5)


def test_depth_is_the_fourth_channel_and_what_is_missing_is_not_asked_for(rgbd):
  method, _, params, state = rgbd
  given = batch(depth=True)
  given['depth'][0][:2, :4] = np.nan
  seen = jax.jit(lambda batch: transformed(method, batch, KEY, STEP))(given)
  view = np.asarray(seen['views'][0])
  assert view.shape == (4, 8, 8, 4)
  np.testing.assert_allclose(view[2:, ..., 3:], given['depth'][0][2:] - 1, atol=1e-6)
  assert not view[:2, :4, :, 3].any()
  loss = jax.jit(method.loss)
  value, _ = loss(random_heads(params), state, seen, KEY, STEP)
  assert np.isfinite(value)
  # A quarter of the places has no depth; with equal outputs every other one costs the same.
  _, aux = loss(params, state, seen, KEY, STEP)
  assert float(aux.metrics['loss/depth']) == pytest.approx(0.75 * np.log(5), rel=1e-5)


def test_images_without_depth_have_the_features_of_the_first_half_and_zeros(rgbd):
  method, seen, params, state = rgbd
  view = np.asarray(seen['views'][0])
  embed = jax.jit(lambda x: method.embed(params, state, x)['embedding'])
  whole, alone = (np.asarray(embed(x)) for x in (view, view[..., :3]))
  size = whole.shape[1] // 2
  np.testing.assert_allclose(alone[:, :size], whole[:, :size], atol=1e-6)
  assert not alone[:, size:].any() and whole[:, size:].any()
  shapes = jax.eval_shape(method.net.init, KEY, view[..., :3])[0]
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


def test_intervals_by_hand():
  target = split_brain.intervals(0.0, 10.0, 5, 1.0)
  outputs = np.log(np.array([[[[0.1, 0.2, 0.4, 0.2, 0.1]]]], np.float32))
  loss = jax.jit(target.loss)
  for truth, share in ((0.0, 0.1), (5.0, 0.4), (7.9, 0.2), (10.0, 0.1), (-3.0, 0.1), (99.0, 0.1)):
    value = loss(outputs, np.full((1, 1, 1, 1), truth, np.float32))
    assert float(value) == pytest.approx(-np.log(share), rel=1e-5)
  assert float(jax.jit(target.decoded)(outputs)[0, 0, 0, 0]) == pytest.approx(5.0, rel=1e-5)


def test_numbers_by_hand():
  target = split_brain.numbers(0.0, 10.0)
  outputs = np.array([0.5, 0.0], np.float32).reshape(1, 1, 2, 1)
  truth = np.array([10.0, np.nan], np.float32).reshape(1, 1, 2, 1)
  assert float(jax.jit(target.loss)(outputs, truth)) == pytest.approx((0.5**2 / 2 + 0) / 2)
  assert np.asarray(jax.jit(target.decoded)(outputs)).ravel().tolist() == [7.5, 5.0]


@pytest.mark.parametrize('loss', ['classification', 'regression'])
def test_pictures(lab, rgbd, loss):
  method, _, params, state = lab
  if loss == 'regression':
    method, _, params, state = begin(of_kind('lab_halves', loss=loss), batch())
  shown = pictures_of(method, params, state, batch(), KEY)
  assert list(shown) == ['image', 'input', 'output', 'color', 'from_color']
  method, _, params, state = rgbd
  with_depth = pictures_of(method, params, state, batch(depth=True), KEY)
  assert list(with_depth) == ['image', 'target', 'output', 'from_depth']
  np.testing.assert_allclose(with_depth['target'], batch(depth=True)['depth'][0] / 2, atol=1e-6)
  for name, picture in (shown | with_depth).items():
    assert picture.shape[:3] == (4, 8, 8) and picture.shape[3] in (1, 3), name
    assert np.min(picture) >= 0 and np.max(picture) <= 1


@pytest.mark.parametrize('kind', ['lab_halves', 'rgbd_halves'])
def test_a_network_is_split_into_two_of_half_its_width(kind):
  module = models.make_encoder('small', input=kind, mean=(0.5,) * 3, std=(0.25,) * 3)
  net = stack((('encoder', 'embedding', module),))
  x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  params, _ = jax.eval_shape(net.init, KEY, x)
  kernel = params['encoder']['first']['stage2_block0']['conv2']['kernel']
  assert kernel.shape == params['encoder']['second']['stage2_block0']['conv2']['kernel'].shape
  assert kernel.shape == (3, 3, 64, 64)
  assert taps_of(net, x) == {
    'stem': (2, 16, 16, 16), 'stage1': (2, 8, 8, 32), 'stage2': (2, 4, 4, 128),
    'embedding': (2, 128),
  }  # fmt: skip
  fitted = jax.eval_shape(functools.partial(rescaled.rescaled, net), *net_shapes(net, x), x)
  assert jax.tree.map(jnp.shape, fitted[0]) == jax.tree.map(jnp.shape, params)


def net_shapes(net, x):
  return jax.eval_shape(net.init, KEY, x)


SPLIT = {
  'alexnet': 4096, 'convnext_micro': 128, 'exemplar_cnn': 512, 'nin': 192, 'resnet18': 512,
  'vgg_dilated': 256, 'wrn_10_4': 256,
}  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'features'),
  [pytest.param(*case, marks=[] if case[0] == 'alexnet' else pytest.mark.slow)
   for case in SPLIT.items()],
)  # fmt: skip
def test_every_encoder_of_convolutions_can_be_split(name, features):
  module = models.make_encoder(name, input='lab_halves', mean=(0.5,) * 3, std=(0.25,) * 3)
  net = stack((('encoder', 'embedding', module),))
  assert taps_of(net, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))['embedding'] == (
    2, features,
  )  # fmt: skip


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'loss': 'l1'}, "loss='l1' is not one of"),
    ({'lightness_bins': 1}, 'lightness_bins=1 and'),
    ({'depth_range': (1.0, 1.0)}, 'two ascending numbers'),
    ({'depth_range': (0.0,)}, 'two ascending numbers'),
    ({'neighbors': 1000}, 'neighbors=1000 are more than'),
    ({'sigma': 0.0}, 'sigma=0.0'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)


def test_a_missing_half_and_missing_depth_are_explained():
  setting = Setting(contract.Length(4, 2, 20))
  with pytest.raises(ValueError, match=r'set encoder\.input to one of lab_halves, rgbd_halves'):
    split_brain.build(contract.TinyEncoder, setting, **SMALL)
  with pytest.raises(ValueError, match=r"set data\.fields=\('depth:map',\)"):
    transformed(of_kind('rgbd_halves'), batch(), KEY, STEP)
  with pytest.raises(ValueError, match='but the data have 5'):
    models.make_encoder('small', input='rgbd_halves', mean=(0.5,) * 5, std=(0.2,) * 5)
