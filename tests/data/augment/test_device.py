"""The in-step augmentation, and the parity of the host's tf.data graph and the accelerator."""

import functools
import itertools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import crop, device, draws, photometric, views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVEL = 1 / 255


def natural_images(count, size):
  """Sums of waves, edges and noise, ramps and constants, as uint8."""
  rng = np.random.default_rng(0)
  grid = np.linspace(0, 1, size)
  out = rng.normal(0.5, 0.2, (count, 1, 1, 3)) + rng.normal(0, 0.03, (count, size, size, 3))
  for image in out:
    for _ in range(5):
      angle = rng.uniform(-9, 9, 2)
      wave = np.cos(angle[0] * grid[:, None] + angle[1] * grid + rng.uniform(0, 6))
      image += wave[..., None] * rng.normal(0, 0.2, 3)
    image[size // 3 :, : size // 2] += rng.normal(0, 0.3, 3)
  out[0] = grid[:, None, None]
  out[1] = grid[:, None] * np.array([1, 0.5, 0])
  out[2], out[3], out[4] = 0, 1, np.array([0.2, 0.7, 0.7])
  return np.round(255 * np.clip(out, 0, 1)).astype(np.uint8)


def real_images(count, size):
  """Photographs found below the folder that BYOLJAX_TEST_DATA names."""
  root = os.environ.get('BYOLJAX_TEST_DATA')
  if not root:
    pytest.skip('BYOLJAX_TEST_DATA does not name a folder with JPEG files')
  from PIL import Image

  files = (
    path for path in pathlib.Path(root).rglob('*') if path.suffix.lower() in ('.jpg', '.jpeg')
  )
  found = []
  for path in itertools.islice(files, count):
    with Image.open(path) as image:
      found.append(np.asarray(image.convert('RGB').resize((size, size))))
  if not found:
    pytest.skip(f'no JPEG file below {root}, which BYOLJAX_TEST_DATA names')
  return np.stack(found)


def host_photometric(images, u, spec):
  """The photometric part in a tf.data graph, on batches whose size the graph does not know."""
  tf = pytest.importorskip('tensorflow')
  tnp = tf.experimental.numpy

  def in_graph(images, u):
    return photometric.photometric(tnp, photometric.to_unit(tnp, images), u, spec)

  data = tf.data.Dataset.from_tensor_slices((images, u)).batch(64).map(in_graph)
  return np.concatenate([batch.numpy() for batch in data])


@pytest.mark.parametrize('source', [natural_images, real_images])
def test_host_and_accelerator_give_the_same_picture(source):
  images = source(150, 64)
  for view, probabilities in enumerate(({}, {'blur_prob': 0.1, 'solarize_prob': 0.2})):
    spec = views.ViewSpec(size=64, **probabilities)
    u = draws.uniforms(np, 0, 5, np.arange(len(images)), view, views.NUM_DRAWS)
    host = host_photometric(images, u, spec)
    here = jax.jit(lambda images, u, spec=spec: photometric.photometric(jnp, images, u, spec))
    here = np.asarray(here(photometric.to_unit(np, images), u))
    assert np.abs(host - here).max() < 1e-4
    # What the host sends is rounded to 8 bits.
    sent = photometric.to_unit(np, photometric.to_uint8(np, host))
    assert np.abs(sent - here).max() < LEVEL


def batch_of(count=12, height=40, width=48, **extra):
  images = np.random.default_rng(3).integers(0, 256, (count, height, width, 3), np.uint8)
  return {'image': images, 'index': np.arange(count, dtype=np.int32), **extra}


SPECS = (views.ViewSpec(), views.ViewSpec(size=24, blur_prob=0.1, solarize_prob=0.2))


@functools.cache
def make(specs=SPECS, **changes):
  settings = {'seed': 1, 'steps_per_epoch': 10, 'mean': MEAN, 'std': STD}
  return jax.jit(device.make_augment(specs, **(settings | changes)))


def test_in_step_augmentation():
  batch = batch_of(label=np.arange(12, dtype=np.int32))
  out = make()(batch, jnp.int32(3))
  assert set(out) == {'views', 'index', 'label'}
  assert [view.shape for view in out['views']] == [(12, 32, 32, 3), (12, 24, 24, 3)]
  assert all(view.dtype == jnp.float32 for view in out['views'])
  np.testing.assert_array_equal(out['label'], batch['label'])
  # By the parts, in numpy: draws of epoch 0, crop, mirror, photometric, normalize.
  for number, spec in enumerate(SPECS):
    u = draws.uniforms(np, 1, 0, batch['index'], number, views.NUM_DRAWS)
    boxes = crop.crop_box(np, u, 40, 48, spec)
    view = crop.resample(np, batch['image'], boxes, crop.flips(u, spec), spec.size)
    view = photometric.normalize(np, photometric.photometric(np, view, u, spec), MEAN, STD)
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
  part = augment({name: value[keep] for name, value in batch.items()}, jnp.int32(3))['views']
  np.testing.assert_allclose(np.stack(part), np.stack(first)[:, keep], atol=1e-5)

  def apart(a, b):
    return np.all(np.abs(np.asarray(a) - np.asarray(b)).max(axis=(1, 2, 3)) > 0.05)

  assert apart(first[0], first[1])
  assert apart(first[0], augment(batch, jnp.int32(10))['views'][0])  # the next epoch
  assert apart(first[0], make(specs, seed=2)(batch, jnp.int32(3))['views'][0])
  same_image = batch | {'image': np.repeat(batch['image'][:1], 12, axis=0)}
  repeated = np.asarray(augment(same_image, jnp.int32(3))['views'][0])
  assert apart(repeated[1:], repeated[:-1])


def test_cropped_views_take_the_photometric_part_only():
  batch = batch_of()
  cropped = []
  for number, spec in enumerate(SPECS):
    u = draws.uniforms(np, 1, 2, batch['index'], number, views.NUM_DRAWS)
    boxes = crop.crop_box(np, u, 40, 48, spec)
    view = crop.resample(np, batch['image'], boxes, crop.flips(u, spec), spec.size)
    cropped.append(photometric.to_uint8(np, view))
  host = {'views': tuple(cropped), 'index': batch['index']}
  here = make()(host, jnp.int32(20))['views']
  whole = make()(batch, jnp.int32(20))['views']
  for a, b in zip(here, whole, strict=True):
    assert np.mean(np.abs(np.asarray(a) - np.asarray(b)) > 1e-3) < 1e-3
  plain = make(photometric_on='host')(host, jnp.int32(20))['views']
  for a, b in zip(plain, cropped, strict=True):
    np.testing.assert_allclose(a, (b / 255 - np.array(MEAN)) / np.array(STD), atol=1e-5)


def test_evaluation_transform():
  images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  out = device.make_eval_transform(MEAN, STD)(jnp.asarray(images))
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, (images / 255 - np.array(MEAN)) / np.array(STD), atol=1e-5)


def test_mistakes_are_refused():
  with pytest.raises(ValueError, match='specs is empty'):
    make(())
  with pytest.raises(ValueError, match='steps_per_epoch is 0'):
    make(steps_per_epoch=0)
  with pytest.raises(ValueError, match="photometric_on is 'gpu'"):
    make(photometric_on='gpu')
  with pytest.raises(ValueError, match='a number for every channel'):
    make(std=(0.2, 0.2, 0.0))
  short = {'views': (np.zeros((2, 32, 32, 3), np.uint8),), 'index': np.arange(2, dtype=np.int32)}
  with pytest.raises(ValueError, match='have shapes'):
    make()(short, jnp.int32(0))
