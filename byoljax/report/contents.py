"""The report of a run: gathers what the page shows, and writes the page and its pictures.

    <run>/report.html            everything, in one file
    <run>/report/*.png           the pictures by themselves; TensorBoard shows them, too

k-NN, the gallery and the map are of the last checkpoint's online encoder on at most a few thousand
images, drawn at random with a fixed seed; the page says how many.
"""

from collections.abc import Mapping, Sequence
import io
import pathlib
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from byoljax import config as config_lib
from byoljax.config import Config, user_errors
from byoljax.data import fields
from byoljax.data.sources.source import Source
from byoljax.devices import hosts
from byoljax.encoders import likelihood, load
from byoljax.encoders import pictures as painting
from byoljax.encoders import samples as drawing
from byoljax.encoders.encoder import Encoder
from byoljax.encoders.stored_method import StoredMethod
from byoljax.evals import knn
from byoljax.report import (
  bits,
  charts,
  codes,
  curves,
  drawn,
  facts,
  own_images,
  page,
  pictures,
  reconstructions,
  samples,
)
from byoljax.report.own_images import Images
from byoljax.report.page import Gallery, Map, Page
from byoljax.report.reconstructions import Strips
from byoljax.workdir import metrics, places
from byoljax.workdir.files import replacing
from byoljax.workdir.run_dir import say

FILE, FOLDER = 'report.html', 'report'
_MOST_BANK, _MOST_QUERIES = 10_000, 2_000


class _Seen(NamedTuple):
  """What the page shows of images; nothing where they are not there. See `Page` and `facts`."""

  gallery: Gallery | None = None
  map: Map | None = None
  confusion: np.ndarray | None = None
  confused: Sequence[str] = ()
  class_names: Sequence[str] = ()
  notes: Mapping[str, str] = MappingProxyType({})


def write(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes the report of a run with a checkpoint.

  Where its images are not those that it was trained on, or are not there, that is said; without any
  nothing is shown of them.

  Args:
    workdir: the run's directory.

  Returns:
    The page.

  Raises:
    ConfigError: no run there, or it cannot be written.
  """
  encoder, config, directory = load.load_encoder(str(workdir), 'online')
  run = directory.parent.parent
  places.require_folder(run, 'RUN')
  images, warning = own_images.find(run, config)
  if warning:
    say(warning)
  seen = _Seen() if images is None else _look(encoder, *images, config.evals.batch_size)
  made = _pictures(run, encoder, seen)
  strips = _strips(run, config, images)
  sheets = {heading: strip.path for heading, strip in strips.items() if strip.path is not None}
  made |= {heading.lower(): path for heading, path in sheets.items()}
  record = metrics.read(run)
  verdict, good = facts.verdict(run)
  content = Page(
    title=f'{config.get("method", {}).get("name", "encoder")} on {config.data.name}: {run.name}',
    facts=facts.summary(run, config, encoder, images and images.bank, record, directory),
    results=facts.results(run) | {heading: strip.rows for heading, strip in strips.items()},
    protocol=facts.protocol(config),
    changes=facts.changes(run, config),
    recipe=config_lib.flatten(config),
    charts=charts.line_charts(record, curves.references(run)),
    pictures={
      name: path.read_bytes()
      for name, path in (
        *sheets.items(),
        ('Augmented views', run / 'views.png'),
        ('First layer', run / FOLDER / 'filters.png'),
        ('Spectrum', run / 'evals' / f'collapse-online-{directory.name}' / 'spectrum.png'),
        *(
          (f'Predictions: {path.parent.name}', path)
          for path in sorted(run.glob('evals/*/predictions.png'))
        ),
      )
      if path.exists()
    },
    gallery=seen.gallery,
    map=seen.map,
    confusion=seen.confusion,
    confused=seen.confused,
    class_names=seen.class_names,
    notes={**facts.NOTES, **seen.notes, **{name: strip.note for name, strip in strips.items()}},
    verdict=verdict,
    good=good,
    warning=warning,
  )
  if hosts.is_first_process():
    with user_errors():
      with replacing(run / FILE, 'w') as file:
        file.write(page.render(content))
      _show_in_tensorboard(run, made, int(directory.name))
  return run / FILE


def _look(encoder: Encoder, bank_source: Source, query_source: Source, batch_size: int) -> _Seen:
  """Neighbors, map and confusion of some images."""
  bank = samples.sample(encoder, bank_source, _MOST_BANK, seed=0, batch_size=batch_size)
  queries = samples.sample(encoder, query_source, _MOST_QUERIES, seed=1, batch_size=batch_size)
  same = bank_source.fingerprint == query_source.fingerprint
  similarities, rows = knn.nearest(bank.features, queries.features, knn.HEADLINE_K + same)
  if same:
    own = bank.rows[rows] == queries.rows[:, None]
    similarities, rows = samples.without_self(similarities, rows, own)
  gallery = samples.gallery(queries, bank, rows)
  confusion, confused = None, []
  classes = query_source.num_classes
  names = list(query_source.class_names) or [str(i) for i in range(classes)]
  if classes > 1:
    confusion, occurring = samples.confusion(queries, bank, similarities, rows, classes)
    confused = [names[number] for number in occurring]
  shown = samples.layouts(queries)
  return _Seen(gallery, shown, confusion, confused, names, facts.notes(bank, queries, same))


def _strips(run: pathlib.Path, config: Config, images: Images | None) -> dict[str, Strips]:
  """By heading, what the run's method gives back of the queries, if any, and what it draws."""
  if not hosts.is_first_process():
    return {}
  strips, folder = {}, run / FOLDER
  painter, sampler, scorer = painting.painter(run), drawing.sampler(run), likelihood.scorer(run)
  stored = StoredMethod.of(run)
  source = None if images is None else images.queries
  if source is not None and painter is not None and painter.fields:
    # With the further fields that the run was given.
    source = own_images.load(config, fields.parsed(config.data.fields)).queries
  with user_errors():
    if source is not None and painter is not None:
      path = folder / 'reconstructions.png'
      strips['Reconstructions'] = reconstructions.write(painter, source, path)
    if sampler is not None:
      strips['Samples'] = drawn.write(sampler, folder / 'samples.png')
    if source is not None and scorer is not None:
      classes = config.data.classes
      train = own_images.split(config, 'pretrain').of_classes(classes)
      strips['Likelihood'] = bits.table(scorer, source.of_classes(classes), train)
    if source is not None and stored is not None and stored.method.decode is not None:
      strips['Codes'] = codes.write(stored, source, folder / 'codes.png')
  return strips


def _pictures(run: pathlib.Path, encoder: Encoder, seen: _Seen) -> dict[str, pathlib.Path]:
  """Writes the PNGs; their paths by name."""
  folder = run / FOLDER
  if not hosts.is_first_process():
    return {}
  with user_errors():
    folder.mkdir(parents=True, exist_ok=True)
    made, names = {}, seen.class_names
    if seen.gallery is not None and seen.map is not None:
      made['neighbors'] = pictures.gallery(folder / 'neighbors.png', seen.gallery, names)
      made['map'] = pictures.scatter(folder / 'map.png', seen.map, names)
    kernel = pictures.first_kernel(jax.device_get(encoder.params['encoder']))
    if kernel is not None:
      made['filters'] = pictures.filters(folder / 'filters.png', kernel)
    if seen.confusion is not None:
      path = folder / 'confusion.png'
      made['confusion'] = pictures.confusion(path, seen.confusion, seen.confused)
  return made


def _show_in_tensorboard(run: pathlib.Path, made: Mapping[str, pathlib.Path], step: int) -> None:
  """Adds the pictures to the run's event files, where it has any."""
  board = run / metrics.TENSORBOARD
  if not board.is_dir():
    return
  import tensorboardX

  every = {**made, 'views': run / 'views.png'}
  with tensorboardX.SummaryWriter(str(board), filename_suffix='.report') as writer:
    for name, path in every.items():
      if path.exists():
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
          pixels = np.asarray(picture.convert('RGB'))
        writer.add_image(f'report/{name}', pixels, step, dataformats='HWC')
