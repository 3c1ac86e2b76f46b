"""Layer-wise rates: timm's factors, what moves by how much, what has no layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models, optim
from byoljax.models import heads, vit
from byoljax.models.net import stack
from byoljax.optim import layerwise, schedules
from byoljax.weights import vit_names
from tests.paths import GOLDEN

RATE = schedules.constant(0.1, total_steps=10)


@pytest.fixture(scope='module')
def params():
  """Shapes of timm's ViT in tests/golden/make_finetune.py."""
  encoder = vit.ViT(vit.Size(16, 3, 2, patch=4, grid=4), positions='learned')
  net = stack((('encoder', 'embedding', encoder), ('head', 'logits', heads.LinearHead(5))))
  images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  return jax.eval_shape(net.init, jax.random.key(0), images)[0]


def test_factors_are_timms(params):
  golden = dict(np.load(GOLDEN / 'finetune.npz'))
  own = {}
  for path, factor in jax.tree_util.tree_leaves_with_path(layerwise.layer_factors(params, 0.65)):
    role, *rest = optim.path_name(path).split('/')
    leaf = {'kernel': 'weight', 'bias': 'bias'}.get(rest[-1])
    own[f'head.{leaf}' if role == 'head' else vit_names.name_of(tuple(rest))] = factor
  wanted = {n.removeprefix('factor/'): x for n, x in golden.items() if n.startswith('factor/')}
  assert own.keys() == wanted.keys() and len(set(own.values())) == 5
  for name, factor in wanted.items():
    if name.startswith('norm.'):
      factor = 1.0  # timm counts it to the last block, MAE's code to the head.
    np.testing.assert_allclose(own[name], factor, rtol=1e-12, err_msg=name)
  # By hand: three blocks, so the first is three layers below the top, the embedding four.
  np.testing.assert_allclose(own['blocks.0.mlp.fc1.weight'], 0.65**3, rtol=1e-12)
  np.testing.assert_allclose(own['cls_token'], 0.65**4, rtol=1e-12)
  assert own['norm.weight'] == own['head.bias'] == 1.0


def test_updates_are_scaled_with_their_decay(params):
  """AdamW's first step is the rate times the sign, and the decay the rate times the weight."""
  schedule, ones = RATE, jax.tree.map(lambda x: np.ones(x.shape), params)
  settings = {'schedule': schedule, 'weight_decay': 0.5, 'exclude_bias_and_norm': False}
  tx = optim.make_optimizer('adamw', layer_decay=0.5, **settings)
  updates = jax.jit(lambda x: tx.update(x, tx.init(x), x)[0])(ones)
  for block, factor in (('block1', 0.125), ('block3', 0.5)):
    moved = updates['encoder'][block]['fc1']['bias']
    np.testing.assert_allclose(moved, -0.1 * (1 + 0.5) * factor, rtol=1e-5)
  np.testing.assert_allclose(updates['head']['linear1']['bias'], -0.15, rtol=1e-5)


def test_encoders_without_layers_and_other_values_are_refused():
  net = stack((('encoder', 'embedding', models.make_encoder('small')),))
  images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  small = jax.eval_shape(net.init, jax.random.key(0), images)[0]
  with pytest.raises(ValueError, match='layer_decay=0.5 needs an encoder of numbered blocks'):
    layerwise.scale_by_layer(0.5).init(small)
  # The optimizer of a head alone has nothing to scale.
  assert layerwise.layer_factors({'encoder': {}, 'head': {'bias': 1.0}}, 0.5)['head']['bias'] == 1
  for decay in (0.0, 1.5):
    with pytest.raises(ValueError, match='layer_decay must be in'):
      optim.make_optimizer('adamw', schedule=RATE, layer_decay=decay)


def test_what_comes_before_the_blocks_moves_least():
  """Registers, too, which the ViT above has none of."""
  first = ('cls', 'positions', 'registers')
  own = dict.fromkeys(first, 0.0) | {'block1': {'bias': 0.0}, 'norm': {'bias': 0.0}}
  found = layerwise.layer_factors({'encoder': own}, 0.5)['encoder']
  assert {found[name] for name in first} == {0.25}
  assert found['block1']['bias'] == 0.5 and found['norm']['bias'] == 1.0
