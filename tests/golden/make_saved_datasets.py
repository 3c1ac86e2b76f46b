"""Writes saved_datasets.zip: folders as Hugging Face's `datasets` writes them, of few pixels.

Run in an environment with `datasets` (made with 5.2.0; pip install datasets pillow):

    python tests/golden/make_saved_datasets.py

`saved` is a DatasetDict of two splits by save_to_disk, the training images in two files; `single`
one Dataset whose folder has been computed in, so that a table is left over; `data` the same images
as Parquet files. The pixels of training image i are i, those of test image i 100 + i; its class is
i % 3, with a second column of classes beside it.
"""

import pathlib
import tempfile
import zipfile

import datasets
import numpy as np
from PIL import Image

FEATURES = datasets.Features(
  {
    'id': datasets.Value('int32'),
    'picture': datasets.Image(),
    'group': datasets.ClassLabel(names=['all']),
    'label': datasets.ClassLabel(names=['cat', 'dog', 'owl']),
  }
)


def make(count: int, first: int) -> datasets.Dataset:
  rows = range(count)
  images = [Image.fromarray(np.full((3, 4, 3), first + row, np.uint8)) for row in rows]
  columns = {'id': list(rows), 'picture': images, 'group': [0] * count}
  return datasets.Dataset.from_dict(columns | {'label': [i % 3 for i in rows]}, features=FEATURES)


def main() -> None:
  both = datasets.DatasetDict(train=make(5, 0), test=make(2, 100))
  with tempfile.TemporaryDirectory() as place:
    root = pathlib.Path(place)
    both.save_to_disk(root / 'saved', num_shards={'train': 2, 'test': 1})
    both['train'].save_to_disk(root / 'single')
    loaded = datasets.load_from_disk(root / 'single')
    loaded.map(lambda row: {'id': row['id'] + 1})
    for name, split in both.items():
      split.to_parquet(root / 'data' / f'{name}-00000-of-00001.parquet')
    target = pathlib.Path(__file__).with_name('saved_datasets.zip')
    with zipfile.ZipFile(target, 'w', zipfile.ZIP_DEFLATED) as written:
      for file in sorted(path for path in root.rglob('*') if path.is_file()):
        # A fixed time, so that the file does not change by being made again.
        about = zipfile.ZipInfo(file.relative_to(root).as_posix())
        written.writestr(about, file.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == '__main__':
  main()
