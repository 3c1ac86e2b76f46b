"""The augmentation in the step: from whole images and from views that the host has cropped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import crop, device, drawn, draws, photometric, resize, views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVEL = 1 / 255


def batch_of(count=12, height=40, width=48, epoch=0, **extra):
  images = np.random.default_rng(3).integers(0, 256, (count, height, width, 3), np.uint8)
  return {'image': images, **examples(count, epoch), **extra}


def examples(count=12, epoch=0):
  """Which examples a batch holds."""
  return {'index': np.arange(count, dtype=np.int32), 'epoch': np.full(count, epoch, np.int32)}


SPECS = (views.ViewSpec(), views.ViewSpec(size=24, blur_prob=0.1, solarize_prob=0.2))


parameters = jax.jit(drawn.parameters, static_argnums=2)


@functools.cache
def make(specs=SPECS, **changes):
  settings = {'seed': 1, 'mean': MEAN, 'std': STD}
  return jax.jit(device.make_augment(specs, **(settings | changes)))


def test_in_step_augmentation():
  batch = batch_of(label=np.arange(12, dtype=np.int32))
  out = make()(batch, jnp.int32(3))
  assert set(out) == {'views', 'drawn', 'index', 'epoch', 'label'}
  assert [view.shape for view in out['views']] == [(12, 32, 32, 3), (12, 24, 24, 3)]
  assert all(view.dtype == jnp.float32 for view in out['views'])
  np.testing.assert_array_equal(out['label'], batch['label'])
  # By the parts, in numpy: draws of epoch 0, crop, mirror, photometric, normalize.
  for number, spec in enumerate(SPECS):
    u = draws.uniforms(np, 1, 0, batch['index'], number, views.NUM_DRAWS)
    boxes = crop.crop_box(np, u, 40, 48, spec)
    view = resize.resample(np, batch['image'], boxes, crop.flips(u, spec), spec.size)
    view = np.asarray(jax.jit(photometric.photometric, static_argnums=2)(view, u, spec))
    view = (view - np.float32(MEAN)) / np.float32(STD)
    window = drawn.window(np, boxes, crop.flips(u, spec), 40, 48)
    expected = parameters(window, u, spec)
    np.testing.assert_allclose(out['drawn'][number], expected, atol=1e-6)
    # A rounded level may fall to the other side, and the jitter enlarges it.
    difference = np.abs(np.asarray(out['views'][number]) - view) * min(STD)
    assert np.mean(difference > 1e-4) < 1e-3
    assert difference.max() < 4 * LEVEL


def test_the_same_key_gives_the_same_picture_and_another_key_another():
  plain = views.ViewSpec(saturation=0.0, hue=0.0, blur_prob=0.0)  # compiles fast
  specs = (plain, plain)  # two views with equal settings still differ
  augment, batch = make(specs), batch_of()
  first = augment(batch, jnp.int32(3))['views']
  np.testing.assert_array_equal(first, augment(batch, jnp.int32(9))['views'])  # the same epoch
  keep = np.array([7, 2, 5])
  part = augment({name: value[keep] for name, value in batch.items()})['views']
  np.testing.assert_allclose(np.stack(part), np.stack(first)[:, keep], atol=1e-5)

  def apart(a, b):
    return np.all(np.abs(np.asarray(a) - np.asarray(b)).max(axis=(1, 2, 3)) > 0.05)

  later = augment(batch | examples(epoch=1))['views']
  assert apart(first[0], first[1])
  assert apart(first[0], later[0])
  assert apart(first[0], make(specs, seed=2)(batch)['views'][0])
  same_image = batch | {'image': np.repeat(batch['image'][:1], 12, axis=0)}
  repeated = np.asarray(augment(same_image)['views'][0])
  assert apart(repeated[1:], repeated[:-1])
  # Every example has its own epoch.
  mixed = augment(batch | {'epoch': np.arange(12, dtype=np.int32) % 2})['views']
  odd = (np.arange(12) % 2)[:, None, None, None]
  for one, a, b in zip(mixed, first, later, strict=True):
    np.testing.assert_array_equal(one, np.where(odd, b, a))


def test_cropped_views_take_the_photometric_part_only():
  batch = batch_of(epoch=2)
  cropped, windows = [], []
  for number, spec in enumerate(SPECS):
    u = draws.uniforms(np, 1, 2, batch['index'], number, views.NUM_DRAWS)
    boxes, flip = crop.crop_box(np, u, 40, 48, spec), crop.flips(u, spec)
    view = resize.resample(np, batch['image'], boxes, flip, spec.size)
    cropped.append(np.round(view * 255).astype(np.uint8))
    windows.append(drawn.window(np, boxes, flip, 40, 48))
  host = {'views': tuple(cropped), 'window': tuple(windows)}
  here, whole = make()(host | examples(epoch=2)), make()(batch)
  for a, b in zip(here['views'], whole['views'], strict=True):
    assert np.mean(np.abs(np.asarray(a) - np.asarray(b)) > 1e-3) < 1e-3
  # A box may differ by a pixel of 40 where the last bit of exp does; none of these does.
  for a, b in zip(here['drawn'], whole['drawn'], strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_drawn_parameters_are_those_of_the_picture():
  """Each column is what the operation is applied with, by hand from the uniforms of one example."""
  names = ('flip', 'jitter', 'gray', 'blur', 'solarize')
  off, on = ({f'{name}_prob': chance for name in names} for chance in (0.0, 1.0))
  u = draws.uniforms(np, 1, 0, np.arange(12), 0, views.NUM_DRAWS)

  def of(spec):
    boxes = crop.crop_box(np, u, 40, 48, spec)
    window = drawn.window(np, boxes, crop.flips(u, spec), 40, 48)
    found = np.asarray(parameters(window, u, spec))
    assert found.shape == (12, drawn.NUM_PARAMETERS) and found.dtype == np.float32
    return boxes, {name: found[:, columns] for name, columns in drawn.COLUMNS.items()}

  boxes, found = of(views.ViewSpec(size=40, hue=0.0, **on))
  y, x, h, w = boxes.T
  expected = {
    'crop': np.stack([(y + h / 2) / 40, (x + w / 2) / 48, h / 40, w / 48], 1),
    'flip': np.ones((12, 1)),
    'color': u[:, [views.BRIGHTNESS, views.CONTRAST, views.SATURATION, views.HUE]] - 0.5,
    'gray': np.ones((12, 1)),
    'blur': (0.1 + 1.9 * u[:, [views.SIGMA]]) / 2.0,
    'solarize': np.ones((12, 1)),
  }
  expected['color'][:, 3] = 0.0  # A hue that cannot turn.
  assert set(expected) == set(found)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
  _, found = of(views.ViewSpec(size=40, **off))
  assert all(not found[name].any() for name in names[:1] + names[2:]) and not found['color'].any()
  np.testing.assert_allclose(found['crop'], expected['crop'], atol=1e-6)
  assert not of(views.ViewSpec(size=16, **on))[1]['blur'].any(), 'too small to be blurred'
  _, found = of(views.ViewSpec(jitter_prob=0.5, solarize_prob=0.25))
  np.testing.assert_array_equal(found['color'].any(1), u[:, views.JITTER] < 0.5)
  np.testing.assert_array_equal(found['solarize'][:, 0], u[:, views.SOLARIZE] < 0.25)


def test_evaluation_transform():
  images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  out = jax.jit(device.make_eval_transform(MEAN, STD))(images)
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, (images / 255 - np.array(MEAN)) / np.array(STD), atol=1e-5)


def test_mistakes_are_refused():
  with pytest.raises(ValueError, match='there is no view'):
    make(())
  with pytest.raises(ValueError, match='a number for each channel'):
    make(std=(0.2, 0.2, 0.0))
  short = {'views': (np.zeros((2, 32, 32, 3), np.uint8),), 'window': (), **examples(2)}
  with pytest.raises(ValueError, match='have sizes'):
    make()(short)
