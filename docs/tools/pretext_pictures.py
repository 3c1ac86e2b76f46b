"""Draws docs/pretext/<task>.png: what pretext tasks show their networks.

    PYTHONPATH=. python docs/tools/pretext_pictures.py docs/pretext [task ...]

Every picture is what `byoljax views` shows of the task's recipe on the built-in images: a row for
each image, with the label that the network is asked for. Nothing is trained.
"""

import pathlib
import sys

from byoljax import config as config_lib
from byoljax.report import preview
from byoljax.tasks import data
from byoljax.train import assemble

ROWS = 4
# Task -> changed fields of its recipe, and headings of the columns; () numbers them.
TASKS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
  'rotation': ({}, ('0 degrees', '90', '180', '270')),
  'geometric': ({'method.per_image': '8'}, ()),
  'relative_patch_location': ({}, ('tile 0', 'tile 1', 'tile 2', 'tile 3')),
  'jigsaw': ({'method.puzzles': '1'}, ('place 0', 'place 1', 'place 2', 'place 3')),
  'exemplar': ({}, ('sample 1', 'sample 2', 'sample 3', 'sample 4')),
  'counting': ({}, ('half as large', 'quarter 1', 'quarter 2', 'quarter 3', 'quarter 4')),
}


def main(folder: pathlib.Path, names: list[str]) -> None:
  """Draws the pictures of the tasks, or of all.

  Args:
    folder: where they go.
    names: keys of `TASKS`; empty for all.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for name in names or list(TASKS):
    changes, headings = TASKS[name]
    fields = [('data.resident', 'off'), ('train.batch_size', '16'), *changes.items()]
    config = config_lib.load(f'configs/{name}.py', fields)
    run = assemble.from_config(config, data.open_split(config, 'pretrain', None))
    preview.write_sheet(run, folder / f'{name}.png', headings, count=ROWS)
    print(folder / f'{name}.png')


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), sys.argv[2:])
