"""How parameters are drawn at first, as the papers say; nothing is computed."""

import math

import jax
import jax.numpy as jnp
import pytest

from byoljax import models
from byoljax.models import (
  dense_heads,
  detectors,
  discriminators,
  masked_decoder,
  quantizers,
  vit_sizes,
)
from byoljax.models.initializers import Drawn
from byoljax.models.token_transformer import Size, TokenTransformer

IMAGES = (2, 32, 32, 3)
OF_MAPS = (dense_heads.DenseHead, detectors.ProposalHead, detectors.BoxHead)


def scales(module, *shapes, dtype=jnp.float32):
  """Path -> scale of every parameter that is drawn, for one input or a list of maps."""
  x = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
  x = x if isinstance(module, OF_MAPS) else x[0]
  made = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)['params']
  leaves = jax.tree_util.tree_leaves_with_path(made, is_leaf=lambda x: isinstance(x, Drawn))
  return {
    '/'.join(key.key for key in path): leaf.scale
    for path, leaf in leaves
    if isinstance(leaf, Drawn)
  }


@pytest.mark.parametrize(
  ('module', 'shape', 'expected'),
  [
    (
      models.make_encoder('dinov2_micro_reg', positions='learned'),
      IMAGES,
      {'cls': 1e-6, 'registers': 1e-6, 'positions': 0.02},
    ),
    (masked_decoder.MaskedDecoder(4, dim=8, depth=1, heads=1), (2, 17, 8), {'mask': 0.02}),
    (masked_decoder.CodePredictor(5), (2, 17, 8), {'mask': 0.02}),
    (quantizers.GumbelQuantizer(5, 3), (2, 4, 4, 8), {'codebook': 1.0}),
    (quantizers.VectorQuantizer(5, 3, decay=0.0), (2, 4, 4, 8), {'codebook': 1.0}),
    # He et al.'s, 2 / fan-in.
    (
      models.make_encoder('nin3'),
      IMAGES,
      {'block2_layer1/conv/kernel': math.sqrt(2 / (5 * 5 * 96))},
    ),
    (
      models.make_encoder('wrn_10_4'),
      IMAGES,
      {
        'stem_conv/kernel': math.sqrt(2 / (3 * 3 * 3)),
        'stage1_block0/conv1/kernel': math.sqrt(2 / (3 * 3 * 16)),
        'stage1_block0/shortcut_conv/kernel': math.sqrt(2 / 16),
      },
    ),
    # The first of two halvings makes half of 128 channels.
    (
      models.make_encoder('codec'),
      IMAGES,
      {
        'down1_conv/kernel': math.sqrt(2 / (4 * 4 * 3)),
        'down2_conv/kernel': math.sqrt(2 / (4 * 4 * 64)),
        'in_conv/kernel': math.sqrt(2 / (3 * 3 * 128)),
      },
    ),
    (dense_heads.DenseHead('linear', 3), (2, 4, 4, 8), {'score/kernel': 0.01}),
    (
      detectors.ProposalHead(3, channels=8),
      (2, 4, 4, 8),
      {'score/kernel': 0.01, 'code/kernel': 0.01},
    ),
    (
      detectors.BoxHead(2, bins=2, width=4),
      (2, 4, 4, 8),
      {'score/kernel': 0.01, 'code/kernel': 0.001},
    ),
    # A block's second convolution of 2 x 3 places and twice 24 channels writes to the stream.
    (
      models.make_encoder('pixelcnn_pp_micro'),
      IMAGES,
      {
        'down0_0_above/conv1/kernel': 1 / math.sqrt(2 * 3 * 48),
        'down0_0_above/conv2/kernel': 0.1 / math.sqrt(2 * 3 * 48),
      },
    ),
  ],
)
def test_scales_are_the_papers(module, shape, expected):
  found = scales(module, shape)
  assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_transformer_over_tokens_starts_as_gpt_2():
  into = 0.02 / math.sqrt(2 * 3)
  own = {'qkv': 0.02, 'proj': into, 'fc1': 0.02, 'fc2': into}
  model = TokenTransformer(Size(8, 3, 2), vocabulary=5, length=4)
  assert scales(model, (2, 4), dtype=jnp.int32) == pytest.approx(
    {'token_table': 0.02, 'position_table': 0.01, 'start': 0.02}
    | {f'blocks_{i}/{name}/kernel': scale for i in range(3) for name, scale in own.items()}
  )


def test_scales_of_the_branches_of_dinov2_and_dinov3():
  found = {name: size.layer_scale for name, size in vit_sizes.VITS.items() if 'dino' in name}
  assert set(found.values()) == {1e-5} and len(found) == 18


@pytest.mark.parametrize(
  'module', [discriminators.ConvDiscriminator(8, 1), discriminators.PatchDiscriminator(8, 1)]
)
def test_a_discriminator_starts_as_dcgans(module):
  assert set(scales(module, (2, 8, 8, 3)).values()) == {0.02}


def test_what_is_negative_is_a_fifth_behind_a_leaky_relu():
  module = discriminators.ConvDiscriminator(width=2, stages=1)
  images = jnp.ones((2, 8, 8, 1)) * jnp.array([1.0, -1.0])[:, None, None, None]

  @jax.jit
  def logits(images):
    made = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    kernels = jax.tree.map(lambda leaf: jnp.full(leaf.shape, float(len(leaf.shape) == 4)), made)
    return module.apply(kernels, images, train=False)

  up, down = map(float, logits(images))
  assert down == pytest.approx(-0.2 * up, rel=1e-5) and up > 0
