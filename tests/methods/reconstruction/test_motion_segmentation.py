"""Motion segmentation: where its truth is from, loss and scores, what is shown and refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from byoljax import cli
from byoljax import config as config_lib
from byoljax.data.augment import crop
from byoljax.data.augment.views import NUM_DRAWS, ViewSpec
from byoljax.data.fields import Field
from byoljax.data.sources import sprites
from byoljax.evals import segmentation
from byoljax.method import transformed
from byoljax.methods.reconstruction import motion_segmentation
from byoljax.train import assemble
from tests.methods.test_contract import batch_of, make
from tests.paths import ROOT

NAME = 'motion_segmentation'
KEY, STEP = jax.random.key(0), jnp.int32(0)


def seen(batch, **changes):
  method = make(NAME, axis=None, setting={'mean': (0.5,) * 3, 'std': (0.25,) * 3}, **changes)
  return method, transformed(method, batch, KEY, STEP)


@functools.cache
def masked():
  """The method with masks, its batch, parameters and state, its loss and the gradient."""
  method, batch = seen(batch_of(NAME), moving_weight=3.0)
  params, state = method.init(KEY, batch)
  return method, batch, params, state


def test_whatever_is_not_0_moves():
  batch = batch_of(NAME)
  batch['moving'] = (batch['moving'][0] * np.uint8(255),)
  _, found = seen(batch)
  np.testing.assert_array_equal(found['target'], batch['moving'][0] / 255)
  assert found['target'].dtype == np.float32
  np.testing.assert_array_equal(found['views'][0], batch['views'][0])


def test_loss_and_scores_are_those_of_the_formulas():
  """In float64: mean over images of sum w e / sum w, and counts over the whole batch."""
  method, batch, params, state = masked()
  value, aux = method.loss(params, state, batch, KEY, STEP)
  made, _ = method.net.apply(params, state.bn, batch['views'][0], train=True)
  logits, target = np.asarray(made['output'], np.float64), np.asarray(batch['target'])
  assert logits.shape == target.shape == (32, 8, 8, 1)
  error = np.log1p(np.exp(-logits * (2 * target - 1)))
  weight = np.where(target > 0, 3.0, 1.0)
  expected = ((weight * error).sum((1, 2, 3)) / weight.sum((1, 2, 3))).mean()
  assert float(value) == pytest.approx(expected, rel=1e-5)
  both, either = ((logits > 0) & (target > 0)).sum(), ((logits > 0) | (target > 0)).sum()
  assert float(aux.metrics['iou']) == pytest.approx(both / either, rel=1e-6)
  right = ((logits > 0) == (target > 0)).mean()
  assert float(aux.metrics['pixel_accuracy']) == pytest.approx(right, rel=1e-6)
  assert float(aux.metrics['moving']) == pytest.approx(target.mean(), rel=1e-6)


def test_scores_by_hand():
  scores = segmentation.binary_scores(
    jnp.array([True, True, False, False]), jnp.array([True, False, True, False])
  )
  assert {name: float(x) for name, x in scores.items()} == pytest.approx(
    {'iou': 1 / 3, 'pixel_accuracy': 0.5}
  )
  nothing = jnp.zeros(4, bool)
  assert float(segmentation.binary_scores(nothing, nothing)['iou']) == 1.0
  with pytest.raises(ValueError, match='one shape'):
    segmentation.binary_scores(nothing, nothing[:2])


def test_differences_above_the_threshold_move():
  first = np.zeros((32, 8, 8, 3), np.float32)
  second = first.copy()
  second[0, 2, 3, 1] = 0.3 / 0.25  # of pixels in [0, 1], through the normalization
  second[0, 5, 5, :] = 0.1 / 0.25
  second[1, 0, 0, 2] = -0.3 / 0.25
  batch = batch_of(NAME) | {'views': (first, second)}
  _, found = seen(batch, mask='', threshold=0.2)
  assert sorted(map(tuple, np.argwhere(found['target']))) == [(0, 2, 3, 0), (1, 0, 0, 0)]
  assert len(found['views']) == 1 and not np.any(found['views'][0])
  gradient = jax.grad(lambda x: motion_segmentation.difference_mask(x, 0.2).sum())(second)
  assert not np.any(gradient)


def test_masks_and_second_frames_follow_the_crop_of_the_frame():
  """On scenes of `sprites` at rest: what differs is near what moves, in every crop."""
  scenes = [sprites.draw(0, 'train', i) for i in range(30)]
  scenes = [scene for scene in scenes if not scene['pan'].any() and scene['moving'].any()]
  kinds = {'image': 'image', 'second': 'image', 'moving': 'mask'}
  spec = ViewSpec(crop_scale=(0.4, 0.6))
  draws = np.random.default_rng(0).random((len(scenes), NUM_DRAWS), np.float32)
  window = crop.crop_box(np, draws, 32, 32, spec), crop.flips(draws, spec), 32
  first, second, moving = (
    crop.crop_field(
      np, Field(name, kind, dtype='uint8'), np.stack([scene[name] for scene in scenes]),
      *window, 32, 32,
    )
    for name, kind in kinds.items()
  )  # fmt: skip
  assert set(np.unique(moving)) == {0, 1} and moving.dtype == np.uint8
  difference = np.asarray(motion_segmentation.difference_mask(second - first, 0.15))[..., 0]
  # Four pixels of motion are at most eight in a crop of 0.4, three to four.
  near = ndimage.maximum_filter(moving[..., 0], (1, 21, 21))
  some = near.any((1, 2))
  assert len(scenes) > 5 and difference[some].sum() > 100
  assert not (difference[some] * (1 - near[some])).any()


def test_pictures_show_the_truth_where_there_is_one():
  method, batch, params, state = masked()
  given = {'views': batch['views'], 'moving': batch['moving']}
  shown = method.pictures(params, state, given, KEY)
  assert list(shown) == ['image', 'moving', 'predicted']
  np.testing.assert_array_equal(shown['moving'], batch['target'])
  made, _ = method.net.apply(params, state.bn, batch['views'][0], train=False)
  np.testing.assert_allclose(shown['predicted'], 1 / (1 + np.exp(-made['output'])), rtol=1e-5)
  assert list(method.pictures(params, state, {'views': batch['views']}, KEY)) == [
    'image', 'predicted',
  ]  # fmt: skip
  differing = make(NAME, axis=None, mask='')
  second = {'second': (batch['views'][0] + 1.0,)}
  shown = differing.pictures(params, state, {'views': batch['views']} | second, KEY)
  assert list(shown) == ['image', 'differing', 'predicted'] and np.all(shown['differing'] == 1)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'threshold': 0.0}, r'threshold=0.0 must be in \(0, 1\)'),
    ({'moving_weight': -1.0}, 'above 0'),
    ({'decoder_width': 0}, 'at least 1'),
    ({'tap': 'mapp'}, "did you mean 'map'"),
  ],
)
def test_bad_settings_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    make(NAME, axis=None, **changes)


def test_what_the_batch_lacks_is_said():
  batch = batch_of(NAME)
  two = batch | {'views': batch['views'] * 2}
  without = {name: value for name, value in batch.items() if name != 'moving'}
  for wrong, changes, message in (
    (two, {}, 'there are 2 views: configure view1 alone'),
    (without, {}, 'no such field: name it in data.fields'),
    (batch, {'mask': ''}, "'geometry_of': 'view1'.*the number of views is 1"),
  ):
    with pytest.raises(ValueError, match=message):
      seen(wrong, **changes)


def test_recipes_name_the_fields_that_they_look_at():
  recipe = str(ROOT / 'configs' / f'{NAME}.py')
  config = config_lib.load(f'{recipe}:shapes,smoke')
  assert config.data.name == 'sprites' and assemble.data_options(config).fields == ('moving',)
  config = config_lib.load(f'{recipe}:folder_small,differencing')
  first, second = assemble.view_specs(config)
  assert second.field == 'second' and second.geometry_of == 0 and config.method.mask == ''
  assert assemble.data_options(config).fields == ()
  assert not (first.jitter_prob or first.gray_prob or second.jitter_prob or second.blur_prob)


@pytest.mark.parametrize(
  ('recipe', 'said'),
  [
    ('npz', "has no 'moving_train', which the field 'moving' needs"),
    ('npz,differencing', "has no 'second_train', which the field 'second' needs"),
    ('shapes', "shapes has no field 'moving', only images and labels"),
  ],
)
def test_images_that_do_not_move_are_refused_before_anything_is_written(
  recipe, said, npz, tmp_path, capsys
):
  data = [f'--data.dir={npz}'] if 'npz' in recipe else ['--data.name=shapes']
  command = ['pretrain', f'{NAME}:{recipe}', *data, '--train.batch_size=16']
  assert cli.run([*command, f'--workdir={tmp_path / "run"}']) == 2
  assert said in capsys.readouterr().err.strip() and not (tmp_path / 'run').exists()
