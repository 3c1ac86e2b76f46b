"""What methods ask of a batch and of their encoder is said in a sentence, before training."""

import jax
import numpy as np
import pytest

from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods import build_method
from tests.methods.test_contract import TinyEncoder, batch_of, make

ONE = ('deepcluster', 'detection', 'instance_discrimination', 'segmentation', 'supervised')
TWO = (
  'barlow_twins', 'bridge', 'byol', 'interclr', 'moco', 'moco_v3', 'nnclr', 'simclr', 'simsiam',
  'vicreg', 'w_mse',
)  # fmt: skip
SEVERAL = ('deepcluster_v2', 'dino', 'swav', 'triplet')


@pytest.mark.parametrize(
  ('name', 'views', 'message'),
  [
    *((name, 2, 'takes one view of every image, but there are 2') for name in ONE),
    *((name, 3, 'compares two views of every image, but there are 3') for name in TWO),
    *((name, 1, 'but there (is|are) 1: configure view') for name in (*TWO, *SEVERAL)),
  ],
)
def test_the_number_of_views(name, views, message):
  batch = batch_of(name)
  batch['views'] = batch['views'][:1] * views
  if 'drawn' in batch:
    batch['drawn'] = batch['drawn'][:1] * views
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(make(name, axis=None).init, jax.random.key(0), batch)


def test_a_dense_head_has_channels():
  for name, changes in (('segmentation', {'width': 0}), ('depth', {'up_channels': (8, 0)})):
    with pytest.raises(ValueError, match='of a head must be at least 1'):
      make(name, axis=None, **changes)


def test_an_unknown_argument_is_named_with_those_that_there_are():
  with pytest.raises(ValueError, match="argument of byol 'base_tua': .*did you mean 'base_tau'"):
    build_method(TinyEncoder, Setting(Length(8, 2, 4)), {'name': 'byol', 'base_tua': 1})


def test_numbers_at_any_depth_are_finite():
  """Comparisons with NaN are false, so that ranges alone would let it pass."""
  setting = Setting(Length(8, 2, 4), num_examples=8)
  nan, inf = float('nan'), float('inf')
  for fields, message in (
    ({'name': 'swav', 'epsilon': nan}, 'epsilon=nan must be finite'),
    ({'name': 'exemplar', 'changes': {'scale': (0.5, inf)}}, r'changes.scale=\(0.5, inf\) must be'),
  ):
    with pytest.raises(ValueError, match=message):
      build_method(TinyEncoder, setting, fields)


@pytest.mark.parametrize(
  ('name', 'field', 'sizes'),
  [
    ('rotation', 'hidden', (6, 2.5)),
    ('jigsaw', 'tile_features', ('6',)),
    ('augmentation_prediction', 'hidden', (0,)),
    ('bridge', 'predictor', (16, 8.0)),
  ],
)
def test_widths_are_whole_numbers(name, field, sizes):
  with pytest.raises(ValueError, match=f'{field}=.* at least 1, '):
    make(name, axis=None, **{field: sizes})


def test_only_patches_can_be_frozen():
  with pytest.raises(ValueError, match='freeze_patch_embed=True needs a vision transformer'):
    make('moco_v3', freeze_patch_embed=True)


def test_how_dinos_last_layer_starts_is_a_name():
  with pytest.raises(ValueError, match="last_init 'torhc': .*did you mean 'torch'"):
    make('dino', last_init='torhc')


def test_dinos_center_moves_by_one_batch_however_many_parts_it_has():
  rows, ends = np.random.default_rng(0).normal(size=(1, 5)).astype(np.float32), []
  for parts in (1, 4):
    method = make('dino', accumulate=parts, center_momentum=0.9)
    state = jax.eval_shape(method.init, jax.random.key(0), batch_of('dino'))[1]
    state = state.replace(center=np.ones((1, 5), np.float32))
    for _ in range(parts):
      state = method.remember(state, rows, np.bool_(True))
    ends.append(np.asarray(state.center))
  for center in ends:  # Rounded in float32 a few times.
    np.testing.assert_allclose(center, 0.9 + 0.1 * rows, rtol=1e-6, atol=1e-6)
  kept = method.remember(state, rows, np.bool_(False))
  np.testing.assert_array_equal(kept.center, state.center)
