"""`shapes`: a small labelled world drawn by NumPy, so that everything runs without a download.

One of ten shapes at a random place, size and angle, under random colors and textures, on a
textured background among strokes and dots. The class is the outline alone: lighter or darker than
its surroundings, striped or plain, an object keeps its label, so pixels and color statistics say
little about it. Every example is a function of (seed, split, index) and of nothing else.

The drawing (`byoljax.data.sources.drawing`) needs NumPy only; TensorFlow Datasets is imported
inside `builder` and `prepare`, the files are prepared once per cache directory, and there is no
network access.
"""

from collections.abc import Iterator
import contextlib
import functools
import io
import os
from typing import Any

import numpy as np

from byoljax.data.sources import built_in, drawing, tensorflow_import

VERSION = '1.0.0'
SEED = 0
SIZE = drawing.SIZE
NUM_TRAIN = 8000
NUM_TEST = 2000
SPLITS = {'train': NUM_TRAIN, 'test': NUM_TEST}
CLASS_NAMES = tuple(drawing.OUTLINES)
_STREAMS = {'train': 1, 'test': 2}
_LABEL_STREAM = 16
_Array = np.ndarray


def _label(seed: int, split: str, index: int) -> int:
  """Classes are balanced: every ten neighbors hold each class once, in random order."""
  stream = _STREAMS[split] + _LABEL_STREAM
  return built_in.balanced_label(seed, stream, index, len(CLASS_NAMES))


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
  built_in.check('shapes', SPLITS, split, index)
  label = _label(seed, split, index)
  rng = built_in.generator(seed, _STREAMS[split], index)
  return drawing.picture(rng, CLASS_NAMES[label]), label


def contact_sheet(columns: int = 16, seed: int = SEED) -> _Array:
  """The first training pictures, a row for each class, on white; uint8 [H, W, 3]."""
  step = SIZE + 2
  sheet = np.full((len(CLASS_NAMES) * step + 2, columns * step + 2, 3), 255, np.uint8)
  for index in range(len(CLASS_NAMES) * columns):
    image, label = draw(seed, 'train', index)
    # Ten neighbors hold every class once, so each block of ten is a column.
    top, left = 2 + label * step, 2 + index // len(CLASS_NAMES) * step
    sheet[top : top + SIZE, left : left + SIZE] = image
  return sheet


def arrays(split: str, data_dir: str | None = None) -> tuple[_Array, _Array]:
  """A whole split in memory, without TensorFlow.

  Args:
    split: 'train' or 'test'.
    data_dir: cache directory, `built_in.default_data_dir()` when None. Drawn once and kept there;
      where it cannot be written the pictures are drawn anew.

  Returns:
    Images, uint8 [N, 32, 32, 3], and labels, int32 [N].

  Raises:
    ValueError: for an unknown split.
  """
  built_in.check('shapes', SPLITS, split)
  path = os.path.join(built_in.directory_of(data_dir), 'shapes_arrays', f'{VERSION}-{split}.npz')
  count = SPLITS[split]

  def drawn() -> dict[str, _Array]:
    examples = [draw(SEED, split, i) for i in range(count)]
    images = np.stack([image for image, _ in examples])
    return {'images': images, 'labels': np.array([label for _, label in examples], np.int32)}

  kept = built_in.cached(path, {'images': (count, SIZE, SIZE, 3), 'labels': (count,)}, drawn)
  return kept['images'], kept['labels']


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
  tfds = tensorflow_import.tensorflow_datasets()
  from tensorflow_datasets.core import registered

  with registered.skip_registration():

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
          description='Procedurally drawn shapes under random color, texture and clutter.',
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
  directory = built_in.directory_of(data_dir)
  return _builder_class()(data_dir=directory)


def _prepare_files(directory: str, complete: str) -> None:
  tfds = tensorflow_import.tensorflow_datasets()
  tfds.disable_progress_bar()
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  try:
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces what it does.
      builder(directory).download_and_prepare(download_config=config)
  except Exception:
    # Without a working lock another process may have finished first, which is as good.
    if not os.path.exists(complete):
      raise


def prepare(data_dir: str | None = None) -> str:
  """Draws and writes the set on first use; later calls only look.

  Safe when several processes call it at once: one writes, in a directory that is renamed when it
  is complete, the others wait.

  Args:
    data_dir: TFDS data directory, `built_in.default_data_dir()` when None.

  Returns:
    The prepared version directory, for `tfds.builder_from_directory`. Examples are stored in the
    order of `arrays`.

  Raises:
    ValueError: when the directory cannot be written.
  """
  directory = built_in.directory_of(data_dir)
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
