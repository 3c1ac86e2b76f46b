import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import crop, draws, resize, views
from tests.paths import GOLDEN

GOLDEN_FILE = GOLDEN / 'augment.npz'
SIZES = [(1, 1), (1, 50), (50, 1), (8, 8), (9, 31), (32, 32), (375, 500), (4000, 17)]


def draw(count, view=0):
  return draws.uniforms(np, 0, 0, np.arange(count), view, views.NUM_DRAWS)


def constant_draws(**columns):
  u = np.zeros((1, views.NUM_DRAWS), np.float32)
  for name, value in columns.items():
    u[0, getattr(views, name.upper())] = value
  return u


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_boxes_lie_inside_and_are_never_empty(height, width):
  spec = views.ViewSpec(crop_scale=(0.001, 1.0), crop_ratio=(0.1, 10.0))
  y, x, h, w = crop.crop_box(np, draw(5000), height, width, spec).T
  assert min(y.min(), x.min()) >= 0
  assert min(h.min(), w.min()) >= 1
  assert (y + h).max() <= height
  assert (x + w).max() <= width
  # The last possible position is reached too.
  assert (y + h).max() == height
  assert (x + w).max() == width


def test_boxes_computed_by_hand():
  spec = views.ViewSpec(crop_scale=(0.25, 0.25), crop_ratio=(1.0, 1.0))
  u = constant_draws(offset_y=0.5, offset_x=0.999999)
  assert crop.crop_box(np, u, 100, 100, spec).tolist() == [[25, 50, 50, 50]]
  # Ratio 4 turns a quarter of 100 x 100 into w = 100, h = 25.
  spec = views.ViewSpec(crop_scale=(0.25, 0.25), crop_ratio=(4.0, 4.0))
  assert crop.crop_box(np, u, 100, 100, spec).tolist() == [[38, 0, 25, 100]]
  # Ratio 16 would need w = 200: it is clamped, and the height stays as drawn.
  spec = views.ViewSpec(crop_scale=(0.25, 0.25), crop_ratio=(16.0, 16.0))
  assert crop.crop_box(np, u, 100, 100, spec)[0, 2:].tolist() == [13, 100]


def test_box_distribution():
  """Area uniform, ratio log-uniform and offsets uniform, where nothing is clamped."""
  spec = views.ViewSpec(crop_scale=(0.08, 0.5))
  y, x, h, w = crop.crop_box(np, draw(20000), 2000, 2000, spec).T.astype(np.float64)
  spread = 5 / np.sqrt(12 * len(y))  # five standard errors of the mean of a U(0, 1)
  area = (h * w / 2000**2 - 0.08) / 0.42
  ratio = (np.log(w / h) - np.log(3 / 4)) / np.log(16 / 9)
  for unit in (area, ratio, y / (2000 - h), x / (2000 - w)):
    assert abs(unit.mean() - 0.5) < spread + 1e-3
    quantiles = np.quantile(unit, [0.1, 0.25, 0.75, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.25, 0.75, 0.9], atol=0.02)


def test_boxes_agree_between_namespaces():
  spec, u = views.ViewSpec(), draw(20000)
  sides = np.arange(20000) % 700 + 8
  boxes = crop.crop_box(np, u, sides, 480, spec)
  jitted = jax.jit(lambda u, h: crop.crop_box(jnp, u, h, 480, spec))(u, sides)
  different = np.any(boxes != np.asarray(jitted), axis=1)
  assert different.mean() < 5e-4
  assert np.abs(boxes - np.asarray(jitted)).max() <= 1


@pytest.mark.parametrize(
  ('height', 'width', 'size', 'box'),
  [
    (256, 256, 224, [16, 16, 224, 224]),
    (375, 500, 224, [24, 86, 328, 328]),
    (500, 375, 224, [86, 24, 328, 328]),
    (367, 301, 224, [52, 19, 263, 263]),
    (32, 32, 32, [0, 0, 32, 32]),
    (224, 224, 224, [0, 0, 224, 224]),
    (32, 40, 32, [2, 6, 28, 28]),
    (1, 1, 8, [0, 0, 1, 1]),
    (1, 50, 8, [0, 25, 1, 1]),
  ],
)
def test_center_crop(height, width, size, box):
  """As BYOL's code: int(224 / (224 + 32) min(H, W)) pixels, from (H - side + 1) // 2 on."""
  assert crop.center_crop_box(np, height, width, size).tolist() == box
  many = crop.center_crop_box(jnp, jnp.array([height] * 2), jnp.array([width] * 2), size)
  assert many.tolist() == [box, box]


def test_resample_by_hand():
  # Enlarging 2 pixels to 4: positions -1/4, 1/4, 3/4, 5/4 with the kernel's k(1/4) = 0.8671875,
  # k(3/4) = 0.2265625, k(5/4) = -0.0703125. Taps outside of the crop are dropped, so the first
  # weights are k(1/4) and k(5/4) over their sum, the second k(1/4) and k(3/4) over theirs.
  first = (60 * 0.8671875 - 200 * 0.0703125) / 0.796875
  second = (60 * 0.8671875 + 200 * 0.2265625) / 1.09375
  expected = np.round([first, second, 260 - second, 260 - first]) / 255
  image = np.zeros((1, 5, 6, 3), np.uint8)
  image[0, 1:3, 2:4] = np.array([60, 200])[None, :, None]
  image[0, 0] = image[0, 3:] = 255  # around the crop: must not leak in
  box = np.array([[1, 2, 2, 2]], np.int32)
  out = resize.resample(np, image, box, None, 4)
  assert out.dtype == np.float32
  np.testing.assert_allclose(out[0, :, :, 1], np.tile(expected, (4, 1)), atol=1e-6)
  mirrored = resize.resample(np, image, box, np.array([True]), 4)
  np.testing.assert_allclose(mirrored[0, :, :, 1], np.tile(expected[::-1], (4, 1)), atol=1e-6)


def test_resampling_the_whole_image_to_its_size_changes_nothing():
  images = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), np.uint8)
  box = np.array([[0, 0, 24, 24]] * 4, np.int32)
  flip = np.array([False, True, False, True])
  expected = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
  for xp in (np, jnp):
    out = np.asarray(resize.resample(xp, xp.asarray(images), xp.asarray(box), xp.asarray(flip), 24))
    np.testing.assert_array_equal(np.round(out * 255), expected)
    assert np.abs(out * 255 - expected).max() < 1e-4
    floats = xp.asarray(images / np.float32(255))
    again = np.asarray(resize.resample(xp, floats, xp.asarray(box), xp.asarray(flip), 24))
    # Of floats nothing is rounded to levels: one unit of float32.
    np.testing.assert_allclose(again, out, atol=1.2e-7)


@pytest.mark.parametrize('xp', [np, jnp])
def test_constant_images_stay_constant(xp):
  levels = np.array([0, 1, 77, 254, 255], np.uint8)
  images = np.broadcast_to(levels[:, None, None, None], (5, 13, 40, 3))
  boxes = crop.crop_box(np, draw(5), 13, 40, views.ViewSpec())
  out = np.asarray(resize.resample(xp, xp.asarray(images), xp.asarray(boxes), None, 19))
  np.testing.assert_array_equal(np.round(out * 255), np.broadcast_to(images[:, :1, :1], out.shape))


def test_overshoot_is_clipped_and_levels_are_whole():
  images = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (8, 16, 16, 3))
  out = resize.resample(np, images, crop.crop_box(np, draw(8), 16, 16, views.ViewSpec()), None, 30)
  assert out.min() == 0
  assert out.max() == 1
  assert np.abs(out * 255 - np.round(out * 255)).max() < 1e-4


def test_enlarging_equals_pillow():
  golden = np.load(GOLDEN_FILE)
  out = resize.resample(np, golden['images'], golden['boxes'], None, 24)
  # Pillow does not round: half a level on top of the tolerance.
  assert np.abs(out - golden['enlarged']).max() < 0.5 / 255 + 2e-3


@pytest.mark.parametrize(
  ('height', 'width', 'size'), [(32, 32, 32), (120, 160, 96), (9, 31, 40), (1, 50, 8), (50, 1, 8)]
)
def test_resample_equals_tensorflow(height, width, size):
  """As slice, tf.image.resize, clip, round, mirror.

  Rounded output lies within half a level of TensorFlow's unrounded one. Over tens of thousands of
  pixels, whose fractions fill (0, 1) densely, that bounds the difference before rounding as well.
  """
  tf = pytest.importorskip('tensorflow')
  tnp = tf.experimental.numpy
  count = 10
  images = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
  spec, u = views.ViewSpec(), draw(count)
  boxes, flip = crop.crop_box(np, u, height, width, spec), crop.flips(u, spec)
  expected = []
  for image, (y, x, h, w), mirror in zip(images, boxes, flip, strict=True):
    cut = tf.image.resize(image[y : y + h, x : x + w], (size, size), 'bicubic', antialias=False)
    cut = np.clip(cut.numpy(), 0, 255) / 255
    expected.append(cut[:, ::-1] if mirror else cut)

  def in_graph(image, box, mirror):
    image = tf.ensure_shape(image, (None, None, None, 3))  # sizes known only when it runs
    return resize.resample(tnp, image, box, mirror, size)

  data = tf.data.Dataset.from_tensor_slices((images, boxes, flip)).batch(4).map(in_graph)
  results = {
    'numpy': resize.resample(np, images, boxes, flip, size),
    'jax': jax.jit(lambda *a: resize.resample(jnp, *a, size))(images, boxes, flip),
    'tensorflow': np.concatenate([batch.numpy() for batch in data]),
  }
  for name, result in results.items():
    assert np.abs(np.asarray(result) - np.stack(expected)).max() < 0.5 / 255 + 1e-6, name


def test_flip_probability():
  u = draw(20000)
  assert crop.flips(u, views.ViewSpec(flip_prob=0.0)).sum() == 0
  assert crop.flips(u, views.ViewSpec(flip_prob=1.0)).all()
  assert abs(crop.flips(u, views.ViewSpec(flip_prob=0.3)).mean() - 0.3) < 0.02


def test_a_zoom_gives_crops_of_a_scale_of_their_own():
  """By hand; and squares inside of every image, none larger than its shorter side."""
  u = constant_draws(area=0.5, offset_y=0.5, offset_x=0.999999)
  spec = views.ViewSpec(size=64, zoom=(0.5, 1.5))
  assert crop.crop_box(np, u, 100, 300, spec).tolist() == [[18, 236, 64, 64]]
  assert crop.crop_box(np, u, 50, 300, spec).tolist() == [[0, 250, 50, 50]]
  for height, width in SIZES:
    y, x, h, w = crop.crop_box(np, draw(1000), height, width, spec).T
    assert (h == w).all() and h.min() >= 1 and h.max() <= min(height, width, 128)
    assert min(y.min(), x.min()) >= 0 and (y + h).max() <= height and (x + w).max() <= width
  sides = crop.crop_box(np, draw(5000), 500, 500, spec)[:, 2]
  assert sides.min() == 43 and sides.max() == 128
  traced = jax.jit(lambda u: crop.crop_box(jnp, u, 500, 400, spec))(draw(100))
  assert np.abs(traced - crop.crop_box(np, draw(100), 500, 400, spec)).max() <= 1
  with pytest.raises(ValueError, match='zoom is'):
    views.ViewSpec(zoom=(2.0, 1.0))


def test_a_mask_follows_its_image_through_zoom_and_mirror():
  """Where the image is plain within every class, each of its colors still lies on that class."""
  rng = np.random.default_rng(0)
  classes = np.kron(rng.integers(0, 5, (8, 4, 4)), np.ones((8, 8), int)).astype(np.uint8)[..., None]
  images = np.repeat(classes * 50, 3, axis=-1)
  spec = views.ViewSpec(size=32, zoom=(0.8, 2.0))
  u = draw(8)
  boxes, flip = crop.crop_box(np, u, 32, 32, spec), crop.flips(u, spec)
  assert 0 < flip.sum() < 8
  mask = resize.resample_map(np, classes, boxes, flip, 32, 'nearest')
  seen = resize.resample(np, images, boxes, flip, 32) * 255 / 50
  assert set(np.unique(mask)) <= set(range(5)) and mask.dtype == np.uint8
  # Away from edges, where colors are mixed, both agree.
  plain = np.ones_like(mask, bool)
  for axis in (1, 2):
    for step in (-2, -1, 1, 2):
      plain &= np.roll(mask, step, axis) == mask
  plain[:, [0, 1, -2, -1]] = plain[:, :, [0, 1, -2, -1]] = False
  assert plain.sum() > 1000
  np.testing.assert_array_equal(np.round(seen[..., :1][plain]), mask[plain])
