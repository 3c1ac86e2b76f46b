"""Fields beside the image: one geometry, whatever the kind, the source and who does the work."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from byoljax.data.augment import crop, device, resize, views
from byoljax.data.batches import examples, pipeline, resident
from byoljax.data.batches.order import Order
from byoljax.data.fields import Field
from byoljax.data.sources import arrays, datasets, folder

COUNT, HEIGHT, WIDTH = 8, 24, 30
PLAIN = {'jitter_prob': 0.0, 'gray_prob': 0.0, 'blur_prob': 0.0}
# The second view has the crop of the first at another size, the third shows the second frame there.
SPECS = (
  views.ViewSpec(size=16, **PLAIN),
  views.ViewSpec(size=8, geometry_of=0, **PLAIN),
  views.ViewSpec(size=16, geometry_of=0, field='frame', **PLAIN),
  views.ViewSpec(size=12, crop_scale=(0.1, 0.4), **PLAIN),
)
FIELDS = (
  Field('depth', 'map'),
  Field('mask', 'mask'),
  Field('frame', 'image'),
  Field('boxes', 'boxes', 3),
  Field('angle', 'label'),
)
NAMES = tuple(field.name for field in FIELDS)


def some(count=COUNT):
  """Smooth images, and fields that say the same in another form."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (count, 5, 5, 3), np.uint8)
  images = np.stack(
    [
      np.asarray(Image.fromarray(x).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
      for x in coarse
    ]
  )
  boxes = np.full((count, 3, 5), -1, np.float32)
  boxes[:, 0] = (0.25, 0.1, 0.75, 0.5, 7)
  boxes[:, 1] = (0.0, 0.8, 0.2, 1.0, 2)
  return images, {
    'depth': images[..., 0].astype(np.uint16) * 100,
    'mask': (images[..., 1] > 127).astype(np.uint8) + (images[..., 2] > 127),
    'frame': 255 - images,
    'boxes': boxes,
    'angle': np.arange(count, dtype=np.int64) - 3,
  }


def file_of(array):
  """A PNG, or, where it is not pixels, an `.npy` file."""
  buffer = io.BytesIO()
  if array.ndim > 1 and array.shape[-1] != 5:
    Image.fromarray(array).save(buffer, 'PNG')
    return buffer.getvalue(), '.png'
  np.save(buffer, array)
  return buffer.getvalue(), '.npy'


def write_folder(root, images, values):
  for name, rows in {'images': images, **values}.items():
    for row, array in enumerate(rows):
      data, suffix = file_of(array)
      path = root / 'train' / name / 'ab'[row % 2] / f'{row:02d}{suffix}'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)


def sources(tmp_path):
  """The same examples as arrays, as a file of arrays and as a folder of files, in one order."""
  images, values = some()
  order = [0, 2, 4, 6, 1, 3, 5, 7]  # by folder
  write_folder(tmp_path / 'folder', images, values)
  images, values = images[order], {name: value[order] for name, value in values.items()}
  labels = np.array([0] * 4 + [1] * 4, np.int32)
  members = {f'{name}_train': value for name, value in values.items()}
  np.savez(tmp_path / 'set.npz', x_train=images, y_train=labels, **members)
  by_field = {field: values[field.name] for field in FIELDS}
  return {
    'arrays': arrays.from_arrays(images, labels, fields=by_field),
    'npz': datasets.load('npz', 'train', data_dir=tmp_path / 'set.npz', fields=FIELDS),
    'folder': datasets.load('folder', 'train', data_dir=tmp_path / 'folder', fields=FIELDS),
  }


@functools.cache
def augmented(specs, fields):
  return jax.jit(device.make_augment(specs, seed=3, mean=(0,), std=(1,), fields=list(fields)))


def finished(source, specs=SPECS, names=NAMES, stop=2, **options):
  """Batches after the augmentation."""
  augment = augmented(tuple(specs), tuple(source.field(name) for name in names))
  made = pipeline.train_batches(
    source, specs, order=Order(source.size, 4, 1), seed=3, start_step=0, stop_step=stop,
    fields=names, **options,
  )  # fmt: skip
  return [jax.tree.map(np.asarray, augment(batch)) for batch in made]


def test_every_source_gives_the_same_fields(tmp_path):
  found = {name: finished(source) for name, source in sources(tmp_path).items()}
  for name in ('npz', 'folder'):
    for a, b in zip(found['arrays'], found[name], strict=True):
      assert a.keys() == b.keys() == {'views', 'drawn', 'index', 'epoch', 'label', *NAMES}
      for key in ('index', 'epoch', 'label', 'angle'):
        np.testing.assert_array_equal(a[key], b[key])
      for x, y in zip(a['drawn'], b['drawn'], strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)  # Cut on the host and in the step.
      for key in ('depth', 'mask', 'boxes'):
        assert len(a[key]) == len(SPECS)
        for x, y in zip(a[key], b[key], strict=True):
          assert x.dtype == y.dtype
          np.testing.assert_allclose(x, y, atol=0 if key == 'mask' else 0.05, err_msg=key)
      for key in ('views', 'frame'):  # Rounded to levels by one program and another.
        for x, y in zip(a[key], b[key], strict=True):
          assert x.dtype == y.dtype == np.float32
          assert np.abs(x - y).max() < 1.01 / 255 and np.mean(np.abs(x - y) > 1e-4) < 0.01


def test_fields_follow_the_image(tmp_path):
  """Depth is a channel of the view, the frame its negative, the mask a threshold."""
  source = sources(tmp_path)['arrays']
  for batch in finished(source):
    shown = batch['views']
    np.testing.assert_allclose(shown[2], batch['frame'][0], atol=1e-6)  # A view of the frame.
    for number, spec in enumerate(SPECS):
      image = 1 - shown[number] if spec.field == 'frame' else shown[number]
      np.testing.assert_allclose(batch['frame'][number], 1 - image, atol=1.01 / 255)
      depth, mask = batch['depth'][number][..., 0] / 25500, batch['mask'][number][..., 0]
      # Bilinear beside bicubic, without the borders, where the two see different pixels.
      assert np.abs(depth - image[..., 0])[:, 2:-2, 2:-2].mean() < 0.02
      expected = (image[..., 1] > 0.5).astype(int) + (image[..., 2] > 0.5)
      assert set(np.unique(mask)) <= {0, 1, 2}
      # Nearest beside interpolated, in coarse pictures: at edges they differ.
      assert np.mean(mask != expected) < 0.12
      assert mask.shape == (4, spec.size, spec.size) and mask.dtype == np.uint8


def test_a_map_that_is_resampled_as_an_image_is_the_image():
  images, _ = some()
  like = Field('copy', 'map', resample='bicubic')
  source = arrays.from_arrays(images, fields={like: images})
  for batch in finished(source, SPECS[:1], ('copy',)):
    exact = np.clip(batch['copy'][0], 0, 255)
    assert np.abs(exact / 255 - batch['views'][0]).max() <= 0.501 / 255


def test_views_share_a_geometry():
  images, values = some()
  source = arrays.from_arrays(images, fields={FIELDS[2]: values['frame']})
  both = (SPECS[0], views.ViewSpec(size=16, geometry_of=0, **PLAIN), SPECS[0])
  for batch in finished(source, both, ()):
    first, same, other = batch['views']
    np.testing.assert_array_equal(first, same)
    assert (np.abs(first - other).max((1, 2, 3)) > 0.05).all(), 'the third has a crop of its own'


def test_resident_and_host_give_the_same_fields(tmp_path):
  source = sources(tmp_path)['arrays']
  plan = Order(source.size, 4, 1)
  fields = [source.field(name) for name in NAMES]
  augment = device.make_augment(SPECS, seed=3, mean=(0,), std=(1,), fields=fields)

  def step(state, batch):
    return state, augment(batch)

  many = jax.jit(resident.make_steps(step, source, NAMES))
  placed = resident.place(source, NAMES)
  for number, expected in enumerate(finished(source)):
    rows = np.concatenate(resident.examples(plan, number, 1), axis=-1)
    _, got = many(jnp.int32(0), placed, rows, np.int32(1))
    assert got.keys() == expected.keys()
    for name in expected:
      for x, y in zip(jax.tree.leaves(got[name]), jax.tree.leaves(expected[name]), strict=True):
        np.testing.assert_allclose(x, y, atol=0.05 if name == 'depth' else 2e-5, err_msg=name)


def test_shapes_are_known_before_anything_is_read(tmp_path):
  for source in sources(tmp_path).values():
    shapes = pipeline.batch_shapes(source, SPECS, 4, NAMES)
    (batch, *_) = pipeline.train_batches(
      source, SPECS, order=Order(8, 4, 1), seed=3, start_step=0, stop_step=1, fields=NAMES
    )
    described = jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), dict(batch))
    assert jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), shapes) == described


def test_evaluation_crops_every_field_alike(tmp_path):
  ask = {'image_size': 14, 'batch_size': 3, 'fields': NAMES}
  made = {name: list(pipeline.eval_batches(x, **ask)) for name, x in sources(tmp_path).items()}
  for a, b in zip(made['arrays'], made['folder'], strict=True):
    assert a.keys() == b.keys() == {'image', 'index', 'label', 'valid', *NAMES}
    for name in ('index', 'label', 'valid', 'mask', 'boxes', 'angle'):
      np.testing.assert_allclose(a[name], b[name], atol=1e-6, err_msg=name)
    np.testing.assert_allclose(a['depth'], b['depth'], atol=0.05)
    for name in ('image', 'frame'):
      assert a[name].dtype == np.uint8 and a[name].shape == (3, 14, 14, 3)
      assert np.abs(a[name].astype(int) - b[name]).max() <= 1
    inside = a['valid']
    assert np.abs(a['image'][inside].astype(int) + a['frame'][inside] - 255).max() <= 1
  last = made['folder'][-1]
  assert last['valid'].tolist() == [True, True, False]
  assert (last['boxes'][2, :, 4] == -1).all() and last['angle'][2] == -1


def test_an_example_with_a_damaged_field_is_replaced(tmp_path):
  images, values = some()
  write_folder(tmp_path, images, values)
  (tmp_path / 'train' / 'mask' / 'a' / '02.png').write_bytes(b'no picture')
  data, _ = file_of(values['depth'][1][:5])
  (tmp_path / 'train' / 'depth' / 'b' / '01.png').write_bytes(data)
  source = folder.from_folder(tmp_path, 'train', fields=FIELDS)
  seen = np.concatenate([batch['index'] for batch in finished(source, SPECS[:1], NAMES)])
  assert sorted(seen) == [0, 2, 2, 3, 5, 5, 6, 7]  # 1 is a/02, 4 is b/01
  reasons = sorted(source.unreadable.names.values())
  assert reasons == ['depth is 5 x 30 x 1, not 24 x 30 x 1', 'not an image file']
  # Who does not ask for a field does not mind.
  plain = finished(source, SPECS[:1], ())
  assert sorted(np.concatenate([batch['index'] for batch in plain])) == list(range(8))


# --- properties of the geometry ----------------------------------------------------------------


def windows(size, count=200, seed=0):
  spec = views.ViewSpec(size=size, crop_scale=(0.02, 1.0))
  index = np.arange(count)
  sides = (np.full(count, HEIGHT), np.full(count, WIDTH))
  boxes, flips = examples.random_geometry([spec], seed)(index, np.zeros(count, int), *sides)
  return boxes[:, 0], flips[:, 0]


@pytest.mark.parametrize('size', [8, 11, 40])
def test_nearest_takes_the_pixel_under_the_center(size):
  boxes, flips = windows(size)
  rows, columns = np.mgrid[:HEIGHT, :WIDTH]
  positions = np.broadcast_to(np.stack([rows, columns], -1), (len(boxes), HEIGHT, WIDTH, 2))
  for xp in (np, jnp):
    found = np.asarray(
      resize.resample_map(xp, xp.asarray(positions), boxes, flips, size, 'nearest')
    )
    for (y, x, h, w), flip, made in zip(boxes, flips, found, strict=True):
      centers = (np.arange(size) + 0.5) / size
      # Exactly between two pixels the second one is taken, which the products may miss by a bit.
      due = [np.floor(y + centers * h + 1e-9), np.floor(x + centers * w + 1e-9)]
      due[1] = due[1][::-1] if flip else due[1]
      np.testing.assert_array_equal(made[..., 0], np.broadcast_to(due[0][:, None], (size, size)))
      np.testing.assert_array_equal(made[..., 1], np.broadcast_to(due[1], (size, size)))


def test_bilinear_keeps_ramps_and_constants():
  """Inside, positions come out as positions; a constant stays what it is up to the border."""
  boxes, flips = windows(16)
  rows = np.broadcast_to(np.arange(HEIGHT, dtype=np.float32)[:, None], (HEIGHT, WIDTH))
  maps = np.stack([rows, np.full_like(rows, 3.0)], -1)
  maps = np.broadcast_to(maps, (len(boxes), *maps.shape))
  found = resize.resample_map(np, maps, boxes, flips, 16, 'bilinear')
  np.testing.assert_allclose(found[..., 1], 3.0, rtol=1e-6)
  y, h = boxes[:, :1], boxes[:, 2:3]
  due = np.clip((np.arange(16) + 0.5) / 16 * h - 0.5, 0, h - 1) + y
  # The kernel's positions lie on a grid of 1/1024 pixel.
  np.testing.assert_allclose(found[:, :, 5, 0], due, atol=1.5 / 1024)


def test_boxes_lie_where_their_pixels_lie():
  """A box and the pixels inside of it, cut by the same window, agree to a pixel."""
  size = 48
  boxes, flips = windows(size)
  rng = np.random.default_rng(1)
  corners = np.sort(rng.integers(0, [[HEIGHT + 1, WIDTH + 1]] * 2, (len(boxes), 2, 2)), axis=1)
  corners[:, 1] = np.maximum(corners[:, 1], corners[:, 0] + 1)
  inside = np.zeros((len(boxes), HEIGHT, WIDTH, 1), np.uint8)
  for mask, ((top, left), (bottom, right)) in zip(inside, corners, strict=True):
    mask[top:bottom, left:right] = 1
  objects = np.zeros((len(boxes), 1, 5), np.float32)
  objects[:, 0, :4] = corners.reshape(-1, 4) / [HEIGHT, WIDTH, HEIGHT, WIDTH]
  objects[:, 0, 4] = 6
  moved = crop.move_boxes(np, objects, boxes, flips, HEIGHT, WIDTH)[:, 0]
  np.testing.assert_allclose(
    crop.move_boxes(jnp, jnp.asarray(objects), boxes, flips, HEIGHT, WIDTH)[:, 0], moved, atol=1e-6
  )
  masks = resize.resample_map(np, inside, boxes, flips, size, 'nearest')[..., 0]
  gone = kept = 0
  for box, mask in zip(moved, masks, strict=True):
    if box[4] < 0:
      assert not mask.any() and not box[:4].any()
      gone += 1
    elif mask.any():
      rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
      seen = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / size
      assert np.abs(seen - box[:4]).max() <= 0.51 / size + 1e-6 and box[4] == 6
      kept += 1
  assert gone > 10 and kept > 50


# --- channels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'channels', [1, 13, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))]
)
def test_images_of_any_number_of_channels(channels):
  images = np.random.default_rng(0).integers(0, 256, (8, 20, 20, channels), np.uint8)
  source = arrays.from_arrays(images, channels=channels)
  assert source.channels == channels
  colorless = {'saturation': 0.0, 'hue': 0.0, 'gray_prob': 0.0}
  spec = views.ViewSpec(size=20, blur_prob=1.0, solarize_prob=0.5, jitter_prob=1.0, **colorless)
  mean, std = (0.1,) * channels, tuple(0.2 + 0.01 * i for i in range(channels))
  augment = jax.jit(device.make_augment([spec], seed=3, mean=mean, std=std))
  (batch,) = pipeline.train_batches(
    source, [spec], order=Order(8, 8, 1), seed=3, start_step=0, stop_step=1
  )
  (view,) = augment(batch)['views']
  assert view.shape == (8, 20, 20, channels)
  values = np.asarray(view) * std + 0.1
  assert values.min() > -1e-5 and values.max() < 1 + 1e-5
  # Every channel is treated as it would be alone.
  alone = arrays.from_arrays(images[..., -1], channels=1)
  (other,) = pipeline.train_batches(
    alone, [spec], order=Order(8, 8, 1), seed=3, start_step=0, stop_step=1
  )
  single = device.make_augment([spec], seed=3, mean=(0.1,), std=std[-1:])
  np.testing.assert_allclose(jax.jit(single)(other)['views'][0][..., 0], view[..., -1], atol=1e-4)
  (clean,) = pipeline.eval_batches(source, image_size=20, batch_size=8)
  np.testing.assert_array_equal(clean['image'], images)


def test_gray_images_are_repeated_unless_one_channel_is_asked_for(tmp_path):
  images = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
  np.savez(tmp_path / 'set.npz', x_train=images)
  gray, = datasets.load(
    'npz', 'train', data_dir=tmp_path / 'set.npz', fields=[Field('image', 'image', 1)]
  ).read(np.array([0]), ['image'])  # fmt: skip
  (rgb,) = datasets.load('npz', 'train', data_dir=tmp_path / 'set.npz').read([0], ['image'])
  assert gray.shape == (1, 8, 8, 1) and rgb.shape == (1, 8, 8, 3)
  np.testing.assert_array_equal(np.broadcast_to(gray, rgb.shape), rgb)


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: Field('x', 'maps'), "kind 'maps', but a kind is one of image, map"),
    (lambda: Field('views', 'map'), "cannot be named 'views'"),
    (lambda: Field('m', 'mask', resample='bilinear'), "mask, cannot be resampled 'bilinear'"),
    (lambda: Field('m', 'map', resample='area'), "'bicubic' or 'bilinear' or 'nearest'"),
  ],
)
def test_a_field_that_cannot_be(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize(
  ('field', 'shape', 'dtype', 'message'),
  [
    (
      Field('d', 'map'),
      (8, 24, 29),
      'float32',
      'd has 24 x 29 pixels, but .* 24 x 30',
    ),
    (Field('d', 'map'), (7, 24, 30), 'float32', 'd has 7 entries for 8 images'),
    (Field('d', 'mask'), (8, 24, 30), 'float32', 'masks must be whole numbers'),
    (Field('d', 'image'), (8, 24, 30, 3), 'float32', 'images must be uint8'),
    (Field('d', 'boxes'), (8, 3, 4), 'float32', r'boxes must be \[N, n, 5\]'),
    (Field('d', 'map', 2), (8, 24, 30), 'float32', '1 channel, but 2 were asked for'),
  ],
)
def test_arrays_that_do_not_fit(field, shape, dtype, message):
  with pytest.raises(ValueError, match=message):
    arrays.from_arrays(some()[0], fields={field: np.zeros(shape, dtype)})


@pytest.mark.parametrize(
  ('specs', 'names', 'message'),
  [
    (SPECS[:1], ('dept',), "no field 'dept': it has image, depth; did you mean 'depth'"),
    (SPECS[:1], ('image',), "without 'image'"),
    ([views.ViewSpec(field='depth')], (), 'a view shows an image of 3 channels'),
    ([views.ViewSpec(geometry_of=0)], (), 'view 0 has geometry_of 0'),
    (SPECS[1:2], (), 'a view that has a geometry of its own'),
  ],
)
def test_batches_that_cannot_be(specs, names, message):
  images, values = some()
  source = arrays.from_arrays(images, fields={FIELDS[0]: values['depth']})
  with pytest.raises(ValueError, match=message):
    finished(source, specs, names)


def test_color_needs_red_green_and_blue():
  source = arrays.from_arrays(some()[0][..., :2])
  with pytest.raises(ValueError, match='2 channels.*set saturation=0 and hue=0 and gray_prob=0'):
    finished(source, [views.ViewSpec(size=8)], ())
  with pytest.raises(ValueError, match='2 channels, but mean has 3'):
    jax.eval_shape(
      device.make_augment([SPECS[0]], seed=0, mean=(0.5,) * 3, std=(0.2,) * 3),
      pipeline.batch_shapes(source, [SPECS[0]], 4),
    )


def test_fields_of_a_folder_must_be_there(tmp_path):
  images, values = some(2)
  write_folder(tmp_path, images, {'depth': values['depth']})
  with pytest.raises(ValueError, match="the field 'mask' needs a folder"):
    folder.from_folder(tmp_path, 'train', fields=[Field('mask', 'mask')])
  (tmp_path / 'train' / 'depth' / 'b' / '01.png').unlink()
  with pytest.raises(ValueError, match=r'no file for 1 of 2 images; the first is b/01.png'):
    folder.from_folder(tmp_path, 'train', fields=[Field('depth', 'map')])
