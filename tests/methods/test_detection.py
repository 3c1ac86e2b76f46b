"""Detectors: anchors, proposals and detections by hand; what they are put on; what is frozen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.supervised import detection
from byoljax.models import detectors, faster_rcnn, make_encoder
from byoljax.ops import anchors, boxes, proposals
from byoljax.ops.proposals import DetectionOptions, ProposalOptions

SETTING = Setting(Length(4, 2, 20), num_classes=3)
TINY = {'channels': 4, 'width': 8, 'anchor_scales': (2.0,), 'bins': 3, 'first': 16, 'second': 8,
        'training': (20, 8), 'testing': (20, 8), 'found': (0.05, 0.5, 20, 5)}  # fmt: skip


def small(bn_axis, **_):
  return make_encoder('small', bn_axis=bn_axis)


def test_anchors_by_hand():
  made = anchors.of_maps([(2, 2), (1, 1)], (32, 32), (1.0, 2.0), (1.0, 4.0))
  assert made.shape == (20, 4) and anchors.per_place((1.0, 2.0), (1.0, 4.0)) == 4
  assert made[0].tolist() == [0, 0, 16, 16] and made[2].tolist() == [-8, -8, 24, 24]
  assert made[1].tolist() == [-8, 4, 24, 12], 'twice as high, half as wide'
  assert made[4].tolist() == [0, 16, 16, 32] and made[8].tolist() == [16, 0, 32, 16]
  assert made[16].tolist() == [0, 0, 32, 32]
  np.testing.assert_allclose(jax.jit(boxes.area)(made[:4]), [256, 256, 1024, 1024])


def test_proposals_are_the_best_that_do_not_overlap():
  own = np.array([[0, 0, 8, 8], [0, 1, 8, 9], [8, 8, 16, 16], [0, 8, 8, 16], [0, 0, 8, 8]])
  own = own.astype(np.float32)
  score, codes = np.array([1, 3, 2, -1, 5], np.float32), np.zeros((5, 4), np.float32)
  options = ProposalOptions(before=3, after=4, threshold=0.5)
  find = functools.partial(
    proposals.propose, anchors=own, counts=(4, 1), image=(16, 16), options=options
  )
  made, there = jax.jit(find)(score, codes)
  # The second map's box does not drop the first's; the worst was not among three.
  assert made.tolist() == [[0, 0, 8, 8], [0, 1, 8, 9], [8, 8, 16, 16], [0, 0, 0, 0]]
  assert there.tolist() == [True, True, True, False]


def test_detections_by_hand():
  regions = np.array([[0, 0, 8, 8], [0, 0, 8, 7], [8, 8, 24, 16], [0, 0, 8, 8]], np.float32)
  shares = [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.02, 0.08, 0.9], [0.9, 0, 0.1]]
  with np.errstate(divide='ignore'):
    logits = np.log(np.array(shares, np.float32))
  there = np.array([True, True, True, False])
  options = DetectionOptions(score=0.05, threshold=0.5, candidates=8, most=6)
  find = jax.jit(proposals.detections, static_argnums=(4, 5))
  codes = np.zeros((4, 2, 4), np.float32)
  made = np.asarray(find(logits, codes, regions, there, (16, 32), options))
  assert made.shape == (6, 6)
  wanted = [[0, 0, 0.5, 0.25, 0, 0.7], [0, 0, 0.5, 7 / 32, 1, 0.3], [0.5, 0.25, 1, 0.5, 1, 0.08]]
  np.testing.assert_allclose(made[:3], wanted, atol=1e-6)
  assert made[3:].tolist() == [[0, 0, 0, 0, -1, 0]] * 3


def test_regions_are_read_from_the_map_of_their_size():
  maps = [np.full((8 >> n, 8 >> n, 1), n + 1, np.float32) for n in range(3)]
  sides = np.array([0.1, 0.26, 0.49, 0.51, 1.0], np.float32)
  regions = np.stack([0 * sides, 0 * sides, sides, sides], 1)
  made = np.asarray(jax.jit(functools.partial(proposals.pooled, bins=2, finest=2.0))(maps, regions))
  assert made[:, 0, 0, 0].tolist() == [1, 1, 1, 2, 3]


@pytest.mark.parametrize(
  ('encoder', 'kind', 'maps', 'copied'),
  [
    ('small', 'fpn', ('stage1', 'stage2'), ()),
    ('small', 'c4', ('stage1',), ('stage2_block0',)),
    ('resnet18', 'c4', ('stage3',), ('stage4_block0', 'stage4_block1')),
    pytest.param(
      'resnet50', 'fpn', ('stage1', 'stage2', 'stage3', 'stage4'), (), marks=pytest.mark.slow
    ),
  ],
)
def test_what_is_put_on_an_encoder(encoder, kind, maps, copied):
  detector = faster_rcnn.Detector(kind=kind)
  stages = faster_rcnn.stages_of(make_encoder(encoder), detector, 5)
  assert dict(stages.whole.reads)['rpn'] == maps and stages.copied == copied
  image = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
  params, bn = jax.eval_shape(stages.whole.init, jax.random.key(0), image)
  assert set(params) == {'encoder', 'rpn', 'box_head'} and set(copied) <= set(params['box_head'])
  for name in copied:
    assert jax.tree.map(jnp.shape, params['box_head'][name]) == jax.tree.map(
      jnp.shape, params['encoder'][name]
    )
  found = jax.eval_shape(stages.detect, params, bn, image)
  assert found['detections'].shape == (2, 600)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'kind': 'yolo'}, "unknown detector 'yolo'"),
    ({'taps': ('stage7',)}, "unknown map 'stage7'"),
    ({'batch_norm': 'none'}, "unknown batch_norm 'none'"),
    ({'anchor_sizes': 3}, "unknown detector setting 'anchor_sizes'"),
    ({'kind': 'c4', 'taps': ('stem',)}, r"taps=\('stem',\) must be \(\) or \('stage1',\)"),
    ({'channels': 0}, 'channels=0, which must be a whole number from 1'),
    ({'width': 0}, 'width=0, which must be a whole number from 1'),
    ({'bins': -1}, 'bins=-1, which must be a whole number from 0'),
    ({'first': 0}, 'first=0, which must be a whole number from 1'),
    ({'second': -1}, 'second=-1, which'),
    ({'training': (100,)}, r'training=\(100,\), which must be two whole numbers'),
    ({'training': (-5, 10)}, r'training=\(-5, 10\), which'),
    ({'testing': (10, 0)}, r'testing=\(10, 0\), which'),
    ({'anchor_scales': (-1.0,)}, r'anchor_scales=\(-1.0,\), which must be positive'),
    ({'anchor_ratios': ()}, r'anchor_ratios=\(\), which must be at least one'),
    ({'finest': 0.0}, 'finest=0.0, which must be a positive'),
    ({'found': (0.05, 0.5)}, r'found=\(0.05, 0.5\), which must be a score and an overlap'),
    ({'found': (0.05, 0.5, 100, 0)}, r'found=\(0.05, 0.5, 100, 0\), which'),
    ({'found': (0.05, 0.5, 100, 20, 1)}, 'found=.*, which'),
    ({'found': (5, 0.5, 100, 20)}, 'found=.*, which'),
  ],
)
def test_settings_that_are_none_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    detection.build(small, SETTING, **(TINY | changes))


def test_what_no_detector_can_be_put_on_is_refused():
  with pytest.raises(ValueError, match='boxes of at least one class'):
    detection.build(small, SETTING._replace(num_classes=0), **TINY)
  with pytest.raises(ValueError, match='last stage of a ResNet on every region, which ViT has not'):
    vit = lambda *_, **__: make_encoder('vit_micro')  # noqa: E731
    detection.build(vit, SETTING, kind='c4')


@pytest.mark.slow
def test_what_is_frozen_gets_no_gradient():
  """With c4 the regions' copy of the last stage, too; crowds and missing boxes are not there."""
  method = detection.build(small, SETTING, frozen=True, **(TINY | {'kind': 'c4', 'bins': 4}))
  assert method.starts == {'encoder': 20, 'box_head/stage2_block0': 20}
  rng = np.random.default_rng(0)
  rows = np.array([[[0.1, 0.1, 0.6, 0.7, 1], [0, 0, 1, 1, 2]], [[0, 0, 0, 0, -1]] * 2], np.float32)
  batch = {
    'views': (rng.normal(size=(2, 32, 32, 3)).astype(np.float32),),
    'boxes': (rows,),
    'kinds': np.array([[0, 2], [0, 0]]),
  }
  params, state = jax.jit(method.init)(jax.random.key(0), batch)
  copied = params['box_head']['stage2_block0']
  jax.tree.map(np.testing.assert_array_equal, copied, params['encoder']['stage2_block0'])

  @jax.jit
  def slopes(batch):
    loss = jax.value_and_grad(method.loss, has_aux=True)
    (_, aux), gradient = loss(params, state, batch, jax.random.key(1), jnp.zeros((), jnp.int32))
    return aux, gradient

  aux, gradient = slopes(batch)
  still = (gradient['encoder'], gradient['box_head'].pop('stage2_block0'))
  assert not any(map(np.any, jax.tree.leaves(still)))
  assert all(map(np.any, jax.tree.leaves(gradient['rpn'])))
  jax.tree.map(np.testing.assert_array_equal, aux.method_state.bn, state.bn)
  gone = np.where(np.arange(2)[None, :, None] == 1, [0, 0, 0, 0, -1], rows).astype(np.float32)
  alone = batch | {'boxes': (gone,)}
  other, _ = slopes(alone)
  for name in aux.metrics:
    np.testing.assert_allclose(aux.metrics[name], other.metrics[name], rtol=1e-5)


def test_a_further_level_is_every_second_place_of_the_last_one():
  """As Feature Pyramid Networks have it, from the first place on."""
  x = jax.random.normal(jax.random.key(0), (1, 3, 3, 2))
  head, alone = (detectors.ProposalHead(1, channels=0, extra=extra) for extra in (True, False))

  @jax.jit
  def both(key):
    params = alone.init(key, [x], train=False)
    second = alone.apply(params, [x[:, ::2, ::2]], train=False)
    return head.apply(params, [x], train=False), second

  made, further = both(jax.random.key(1))
  assert made.shape == (1, 9 + 4, 5)
  np.testing.assert_allclose(made[:, 9:], further, atol=1e-6)


def test_anchors_are_those_of_the_papers():
  c4, fpn = (faster_rcnn.Detector(kind) for kind in ('c4', 'fpn'))
  # 32 to 512 pixels at a stride of 16, and eight strides on every level.
  assert [16 * scale for scale in c4.scales] == [32, 64, 128, 256, 512] and fpn.scales == (8,)
  assert (c4.grid, fpn.grid) == (14, 7)
