"""The network of colorization: equal to PyTorch's, its size, what can be read out of it."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.models import layers, vgg
from byoljax.models.net import stack
from byoljax.models.taps import taps_of
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import color_tensors  # noqa: E402


def drawn(tree):
  """Every leaf drawn by its name in PyTorch, and turned."""
  names = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}

  def leaf(path, value):
    _, block, layer, last = (key.key for key in path)
    number, place, shape = block.removeprefix('block'), layer.removeprefix('conv'), value.shape
    module = f'bn{number}' if layer == 'bn' else f'conv{number}_{place}'
    name = f'{module}.{names.get(last, last)}'
    if len(shape) != 4:
      return color_tensors.tensor(name, shape)
    if module == 'conv8_1':  # Transposed: [in,out,h,w], and turned by a half.
      kernel = color_tensors.tensor(name, (shape[2], shape[3], *shape[:2]))
      return kernel[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    return color_tensors.tensor(name, (shape[3], shape[2], *shape[:2])).transpose(2, 3, 1, 0)

  return jax.tree_util.tree_map_with_path(leaf, tree)


@pytest.mark.parametrize('train', [False, True])
def test_every_convolution_gives_what_pytorchs_gives(train):
  golden = np.load(GOLDEN / 'colorization.npz')
  module = vgg.DilatedVGG(width=color_tensors.WIDTH)
  net = stack((('encoder', 'embedding', module),), color_tensors.TAPS)
  x = color_tensors.lightness()
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)
  params, bn = map(drawn, shapes)
  outputs, _ = jax.jit(lambda x: net.apply(params, bn, x, train=train))(x)
  for tap in color_tensors.TAPS:
    expected = golden[f'{"train" if train else "eval"}/{tap}']
    # The largest errors are 2e-7 of 1 + |value|, and 6e-6 with the statistics of 18 places.
    tolerance = 3e-5 if train else 1e-6
    found = outputs[tap].mean((1, 2))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=tap)


def test_parameters_and_maps_are_the_papers():
  net = stack((('encoder', 'embedding', models.make_encoder('vgg_dilated')),))
  x = jax.ShapeDtypeStruct((1, 224, 224, 1), jnp.float32)
  params, _ = jax.eval_shape(net.init, jax.random.key(0), x)
  outputs = 256 * 313 + 313  # the method's 1x1 convolution
  count = sum(leaf.size for leaf in jax.tree.leaves(params)) + outputs
  assert count == int(np.load(GOLDEN / 'colorization.npz')['count']) == 32_235_385
  found = {name: shape[1:] for name, shape in taps_of(net, x).items()}
  convs = [2, 2, 3, 3, 3, 3, 3, 3]
  names = [f'conv{b}_{c}' for b, n in enumerate(convs, start=1) for c in range(1, n + 1)]
  assert list(found) == [*names, 'embedding']
  edges = [found[f'conv{block}_{count}'] for block, count in enumerate(convs, start=1)]
  assert edges == [
    (112, 112, 64), (56, 56, 128), (28, 28, 256), (28, 28, 512), (28, 28, 512), (28, 28, 512),
    (28, 28, 512), (56, 56, 256),
  ]  # fmt: skip
  assert found['embedding'] == (256,)


def test_signals_keep_their_size_through_the_transposed_convolution():
  module = vgg._Block(8, 1 / 8, jnp.float32, None, 0)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 128)), jnp.float32)
  net = stack((('encoder', 'embedding', _First(module)),))
  params, bn = net.init(jax.random.key(0), x)
  y = net.apply(params, bn, x, train=False)[0]['embedding']
  # E[relu(y)^2] = E[x^2] for x without a ReLU before: the kernel is made for E[x^2] / 2 twice over.
  assert float(jnp.mean(y**2)) == pytest.approx(1.0, rel=0.15)


class _First(vgg.nn.Module):
  """The first map of a block."""

  block: vgg._Block

  def __call__(self, x, *, train):
    return self.block(x, train=train)[0][:, 4:-4, 4:-4]


def test_channels_times_a_width_are_whole():
  assert layers.widened(64, 0.5) == 32 and layers.widened(64, 2) == 128
  with pytest.raises(ValueError, match=r'3 channels times a width of 0\.5'):
    layers.widened(3, 0.5)
