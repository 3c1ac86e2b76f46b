"""`shapes`: a small labelled world drawn by NumPy, so that everything runs without a download.

One of ten shapes at a random place, size and angle, under random colours and textures, on a
textured background among strokes and dots. The class is the outline alone: lighter or darker than
its surroundings, striped or plain, an object keeps its label, so pixels and colour statistics say
little about it. Every example is a function of (seed, split, index) and of nothing else.

The drawing needs NumPy only; TensorFlow Datasets is imported inside `builder` and `prepare`, the
files are prepared once per cache directory, and there is no network access.
"""

from collections.abc import Iterator
import contextlib
import functools
import io
import os
import sys
import tempfile
from typing import Any
import zipfile

import numpy as np

VERSION = '1.0.0'
SEED = 0
SIZE = 32
NUM_TRAIN = 8000
NUM_TEST = 2000
SPLITS = {'train': NUM_TRAIN, 'test': NUM_TEST}
CLASS_NAMES = (
  'circle',
  'square',
  'triangle',
  'star',
  'cross',
  'ring',
  'crescent',
  'heart',
  'arrow',
  'bar',
)

_SUPERSAMPLE = 2
_STREAMS = {'train': 1, 'test': 2}
_LABEL_STREAM = 16
_Array = np.ndarray


def _grid() -> tuple[_Array, _Array]:
  """Centres of the sub-pixels, in pixels from the middle of the image; y points down."""
  n = SIZE * _SUPERSAMPLE
  axis = ((np.arange(n) + 0.5) / _SUPERSAMPLE - SIZE / 2).astype(np.float32)
  x, y = np.meshgrid(axis, axis)
  return x, y


_X, _Y = _grid()


# Signed distances (negative inside) on coordinates where the shape's radius is about 1.
# They are exact near the outline, which is all that anti-aliasing needs.


def _half_planes(x: _Array, y: _Array, angles: list[float], offset: float) -> _Array:
  """Convex polygon: the largest of the distances to its edges' lines."""
  edges = [x * np.float32(np.cos(a)) + y * np.float32(np.sin(a)) for a in angles]
  return functools.reduce(np.maximum, edges) - np.float32(offset)


def _box(x: _Array, y: _Array, half_width: float, half_height: float) -> _Array:
  return np.maximum(np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height))


def _disc(x: _Array, y: _Array, radius: float) -> _Array:
  return np.sqrt(x * x + y * y) - np.float32(radius)


def _triangle(x: _Array, y: _Array) -> _Array:
  angles = [np.pi / 2, np.pi / 2 + 2 * np.pi / 3, np.pi / 2 - 2 * np.pi / 3]
  return _half_planes(x, y - 0.2, angles, 0.62)


def _star(x: _Array, y: _Array) -> _Array:
  """Five points: fold the plane into one half of one point, where the outline is one line."""
  sector = np.float32(2 * np.pi / 5)
  angle = np.arctan2(x, -y)
  angle = np.abs(angle - sector * np.round(angle / sector))
  radius = np.sqrt(x * x + y * y)
  along, across = radius * np.cos(angle), radius * np.sin(angle)
  tip, notch = 1.12, 0.46
  notch_along, notch_across = notch * np.cos(np.pi / 5), notch * np.sin(np.pi / 5)
  length = np.hypot(tip - notch_along, notch_across)
  normal_along, normal_across = notch_across / length, (tip - notch_along) / length
  return (along - np.float32(tip)) * np.float32(normal_along) + across * np.float32(normal_across)


def _cross(x: _Array, y: _Array) -> _Array:
  return np.minimum(_box(x, y, 1.0, 0.32), _box(x, y, 0.32, 1.0))


def _ring(x: _Array, y: _Array) -> _Array:
  return np.abs(_disc(x, y, 0.75)) - np.float32(0.22)


def _crescent(x: _Array, y: _Array) -> _Array:
  return np.maximum(_disc(x, y, 1.0), -_disc(x - 0.5, y, 0.82))


def _heart(x: _Array, y: _Array) -> _Array:
  """A square standing on its corner, with half discs on its two upper edges."""
  s = np.float32(np.sqrt(0.5))
  u, v = (x + y - 0.12) * s, (y - x - 0.12) * s
  side = 0.62
  lobes = np.minimum(_disc(u, v + side, side), _disc(u + side, v, side))
  return np.minimum(_box(u, v, side, side), lobes)


def _arrow(x: _Array, y: _Array) -> _Array:
  head = np.maximum(0.05 - x, _half_planes(x - 1.05, y, [np.pi / 4.4, -np.pi / 4.4], 0.0))
  return np.minimum(head, _box(x + 0.45, y, 0.6, 0.24))


def _bar(x: _Array, y: _Array) -> _Array:
  return _box(x, y, 1.12, 0.3)


_OUTLINES = {
  'circle': lambda x, y: _disc(x, y, 0.9),
  'square': lambda x, y: _box(x, y, 0.78, 0.78),
  'triangle': _triangle,
  'star': _star,
  'cross': _cross,
  'ring': _ring,
  'crescent': _crescent,
  'heart': _heart,
  'arrow': _arrow,
  'bar': _bar,
}


def _coverage(distance: _Array, scale: float) -> _Array:
  """Part of each sub-pixel inside the outline, [0, 1]; `scale` is the size of one unit in pixels."""
  return np.clip(np.float32(0.5) - distance * np.float32(scale * _SUPERSAMPLE), 0, 1)


def _texture(rng: np.random.Generator) -> _Array:
  """A random pattern in [0, 1]: plain, gradient, stripes, dots, checks or smooth noise."""
  kind, angle, wavelength, phase, phase2, duty = rng.random(6).astype(np.float32)
  angle = np.float32(angle * 2 * np.pi)
  u = _X * np.cos(angle) + _Y * np.sin(angle)
  if kind < 0.2:
    return np.zeros_like(u)
  if kind < 0.4:
    return np.clip(u / SIZE + np.float32(0.5), 0, 1)
  frequency = np.float32(2 * np.pi) / (4 + 5 * wavelength)
  if kind < 0.8:
    first = np.sin(u * frequency + phase * np.float32(2 * np.pi))
    if kind < 0.6:
      wave = first + (duty - np.float32(0.5))
    else:
      v = _Y * np.cos(angle) - _X * np.sin(angle)
      second = np.sin(v * frequency + phase2 * np.float32(2 * np.pi))
      wave = first * second if kind < 0.7 else first + second - np.float32(0.6)
    return np.clip(wave * 3 + np.float32(0.5), 0, 1)
  coarse = rng.random((9, 9), np.float32)
  position = (np.arange(_X.shape[0], dtype=np.float32) + 0.5) * (8 / _X.shape[0])
  low = position.astype(np.int64)
  weight = (position - low).astype(np.float32)
  weight = weight * weight * (3 - 2 * weight)
  rows = coarse[low] * (1 - weight)[:, None] + coarse[low + 1] * weight[:, None]
  return rows[:, low] * (1 - weight) + rows[:, low + 1] * weight


def _colour(rng: np.random.Generator, lightness: float) -> _Array:
  """A random hue and saturation whose mean over the channels is about `lightness`; float32 [3]."""
  hue, saturation = rng.random(2)
  wheel = np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
  return np.clip(lightness + 0.35 * saturation * wheel, 0, 1).astype(np.float32)


def _surface(rng: np.random.Generator, lightness: float, spread: float) -> _Array:
  """A textured area in two colours around `lightness`; float32 [n, n, 3]."""
  delta = spread * rng.uniform(-1, 1)
  first, second = _colour(rng, lightness + delta), _colour(rng, lightness - delta)
  return first + _texture(rng)[:, :, None] * (second - first)


def _paint(image: _Array, coverage: _Array, colour: _Array) -> None:
  """Lays a colour or a surface over `image`, in place."""
  image += coverage[:, :, None] * (colour - image)


def _clutter(rng: np.random.Generator, image: _Array, count: int, lightness: float) -> None:
  """Draws strokes and dots, all much smaller than an object, in place."""
  for _ in range(count):
    x0, y0 = rng.uniform(-16, 16, 2).astype(np.float32)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 9) * rng.integers(2)
    dx, dy = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = _X - x0, _Y - y0
    along = np.clip(x * dx + y * dy, 0, np.float32(length))
    distance = _disc(x - along * dx, y - along * dy, rng.uniform(0.5, 1.5))
    _paint(image, _coverage(distance, 1.0), _colour(rng, lightness + rng.uniform(-0.35, 0.35)))


def _generator(seed: int, split: str, index: int, stream: int = 0) -> np.random.Generator:
  """The counter-based random stream of one example."""
  key = [seed, (_STREAMS[split] + stream) << 48 | index]
  return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))


def _label(seed: int, split: str, index: int) -> int:
  """Classes are balanced: every ten neighbours hold each class once, in random order."""
  count = len(CLASS_NAMES)
  order = _generator(seed, split, index // count, _LABEL_STREAM).permutation(count)
  return int(order[index % count])


def draw(seed: int, split: str, index: int) -> tuple[_Array, int]:
  """Draws one example; the same arguments always give the same picture.

  Args:
    seed: the world's seed, >= 0; `SEED` for the published set.
    split: 'train' or 'test'; they share no random numbers.
    index: the example's position, >= 0; it may exceed the split's size.

  Returns:
    The image, uint8 [32, 32, 3], and its label, an index into `CLASS_NAMES`.

  Raises:
    ValueError: for an unknown split or a negative index.
  """
  if split not in SPLITS:
    raise ValueError(f"shapes has no split {split!r}: use 'train' or 'test'.")
  if index < 0:
    raise ValueError(f'index {index} is negative: examples are numbered from 0.')
  label = _label(seed, split, index)
  rng = _generator(seed, split, index)
  # The object is lighter or darker than the background, with equal chance.
  contrast = rng.uniform(0.28, 0.5) * (1 if rng.integers(2) else -1)
  background = rng.uniform(max(0.15, 0.15 - contrast), min(0.85, 0.85 - contrast))
  image = _surface(rng, background, 0.1)
  _clutter(rng, image, int(rng.integers(2, 6)), background)

  radius = rng.uniform(7.5, 11.5)
  x0, y0 = rng.uniform(-4.5, 4.5, 2)
  angle, mirror = rng.uniform(-0.5, 0.5), 1 if rng.integers(2) else -1
  c, s = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
  x, y = _X - np.float32(x0), _Y - np.float32(y0)
  distance = _OUTLINES[CLASS_NAMES[label]]((c * x + s * y) * np.float32(mirror), c * y - s * x)
  _paint(image, _coverage(distance, radius), _surface(rng, background + contrast, 0.1))

  _clutter(rng, image, int(rng.integers(0, 2)), background)
  n = _SUPERSAMPLE
  image = image.reshape(SIZE, n, SIZE, n, 3).mean((1, 3))
  image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 0.04))
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), label


def default_data_dir() -> str:
  """Where prepared data live: $BYOLJAX_DATA, else ~/.cache/byoljax."""
  chosen = os.environ.get('BYOLJAX_DATA') or os.path.join('~', '.cache', 'byoljax')
  return os.path.abspath(os.path.expanduser(chosen))


def _write_atomically(path: str, images: _Array, labels: _Array) -> None:
  os.makedirs(os.path.dirname(path), exist_ok=True)
  handle, partial = tempfile.mkstemp(suffix='.npz.tmp', dir=os.path.dirname(path))
  try:
    with os.fdopen(handle, 'wb') as file:
      np.savez(file, images=images, labels=labels)
    os.replace(partial, path)
  except BaseException:
    os.unlink(partial)
    raise


def arrays(split: str, data_dir: str | None = None) -> tuple[_Array, _Array]:
  """A whole split in memory, without TensorFlow.

  Args:
    split: 'train' or 'test'.
    data_dir: cache directory, `default_data_dir()` when None. Drawn once and kept there; where it
      cannot be written the pictures are drawn anew.

  Returns:
    Images, uint8 [N, 32, 32, 3], and labels, int32 [N].

  Raises:
    ValueError: for an unknown split.
  """
  if split not in SPLITS:
    raise ValueError(f"shapes has no split {split!r}: use 'train' or 'test'.")
  directory = os.path.abspath(os.path.expanduser(data_dir or default_data_dir()))
  path = os.path.join(directory, 'shapes_arrays', f'{VERSION}-{split}.npz')
  # A missing, truncated or foreign file is replaced: it can always be drawn again.
  with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    with np.load(path) as kept:
      images, labels = kept['images'], kept['labels']
    if images.shape == (SPLITS[split], SIZE, SIZE, 3) and labels.shape == (SPLITS[split],):
      return images, labels
  examples = [draw(SEED, split, i) for i in range(SPLITS[split])]
  images = np.stack([image for image, _ in examples])
  labels = np.array([label for _, label in examples], np.int32)
  with contextlib.suppress(OSError):
    _write_atomically(path, images, labels)
  return images, labels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Drops what TFDS prints, and what native libraries write to file descriptor 2."""
  sys.stderr.flush()
  saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, 2)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    sys.stderr.flush()
    os.dup2(saved, 2)
    os.close(saved)
    os.close(null)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
  """Holds an exclusive lock between processes, where the system and its file system have one."""
  with open(path, 'a', encoding='utf-8') as file:
    try:
      import fcntl

      fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
      pass  # Two writers then race to one atomic rename, and the slower one's work is dropped.
    yield


@functools.cache
def _builder_class() -> Any:
  import tensorflow_datasets as tfds

  with tfds.core.registered.skip_registration():

    class Shapes(tfds.core.GeneratorBasedBuilder):
      """Ten drawn shapes on 32x32 pixels."""

      name = 'shapes'
      VERSION = tfds.core.Version(VERSION)
      RELEASE_NOTES = {'1.0.0': 'First release.'}

      def _info(self) -> Any:
        features = {
          'image': tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format='png'),
          'label': tfds.features.ClassLabel(names=list(CLASS_NAMES)),
        }
        return tfds.core.DatasetInfo(
          builder=self,
          description='Procedurally drawn shapes under random colour, texture and clutter.',
          features=tfds.features.FeaturesDict(features),
          supervised_keys=('image', 'label'),
          disable_shuffling=True,
        )

      def _split_generators(self, dl_manager: Any) -> Any:
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

      def _generate_examples(self, split: str) -> Any:
        images, labels = arrays(split, os.fspath(self.data_dir_root))
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
          yield index, {'image': image, 'label': int(label)}

  return Shapes


def builder(data_dir: str | None = None) -> Any:
  """The `tfds.core.GeneratorBasedBuilder` of this set under `data_dir`; see `prepare`."""
  directory = os.path.abspath(os.path.expanduser(data_dir or default_data_dir()))
  with _quiet():
    return _builder_class()(data_dir=directory)


def _prepare_files(directory: str, complete: str) -> None:
  import tensorflow_datasets as tfds

  config = tfds.download.DownloadConfig(try_download_gcs=False)
  try:
    shapes = builder(directory)
    with _quiet():
      tfds.disable_progress_bar()
      shapes.download_and_prepare(download_config=config)
  except Exception:
    # Without a working lock another process may have finished first, which is as good.
    if not os.path.exists(complete):
      raise


def prepare(data_dir: str | None = None) -> str:
  """Draws and writes the set on first use; later calls only look.

  Safe when several processes call it at once: one writes, in a directory that is renamed when it
  is complete, the others wait.

  Args:
    data_dir: TFDS data directory, `default_data_dir()` when None.

  Returns:
    The prepared version directory, for `tfds.builder_from_directory`. Examples are stored in the
    order of `arrays`.

  Raises:
    ValueError: when the directory cannot be written.
  """
  directory = os.path.abspath(os.path.expanduser(data_dir or default_data_dir()))
  path = os.path.join(directory, 'shapes', VERSION)
  complete = os.path.join(path, 'dataset_info.json')
  if os.path.exists(complete):
    return path
  try:
    os.makedirs(directory, exist_ok=True)
    with _locked(os.path.join(directory, '.shapes.lock')):
      if not os.path.exists(complete):
        _prepare_files(directory, complete)
  except OSError as error:
    raise ValueError(
      f'cannot prepare shapes in {directory} ({error}): set BYOLJAX_DATA to a writable directory.'
    ) from error
  return path
