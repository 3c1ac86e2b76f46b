"""The report of a run: gathers what the page shows, and writes the page and its pictures.

    <run>/report.html            everything, in one file
    <run>/report/*.png           the pictures by themselves; TensorBoard shows them, too

k-NN, the gallery and the map are of the last checkpoint's online encoder on at most a few thousand
images, drawn at random with a fixed seed; the page says how many.
"""

from collections.abc import Mapping, Sequence
import io
import pathlib

import jax
import numpy as np
from PIL import Image

from byoljax import config as config_lib
from byoljax.config import Config, user_errors
from byoljax.data import fields
from byoljax.data.fields import Field
from byoljax.data.sources import datasets
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
  page,
  pictures,
  reconstructions,
  samples,
)
from byoljax.report.page import Gallery, Map, Page
from byoljax.report.reconstructions import Strips
from byoljax.workdir import metrics
from byoljax.workdir.files import replacing

FILE, FOLDER = 'report.html', 'report'
_MOST_BANK, _MOST_QUERIES = 10_000, 2_000


def write(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes the report of a run with a checkpoint.

  Args:
    workdir: the run's directory.

  Returns:
    The page.

  Raises:
    ConfigError: no run there, or its images are not where they were.
  """
  run = pathlib.Path(workdir)
  encoder, config, directory = load.load_encoder(str(run), 'online')
  run = directory.parent.parent
  bank_source, query_source = _sources(config)
  batch_size = config.evals.batch_size
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
  made = _pictures(run, encoder, gallery, shown, confusion, names, confused)
  strips = _strips(run, config, query_source)
  sheets = {heading: strip.path for heading, strip in strips.items() if strip.path is not None}
  made |= {heading.lower(): path for heading, path in sheets.items()}
  record = metrics.read(run)
  verdict, good = facts.verdict(run)
  content = Page(
    title=f'{config.get("method", {}).get("name", "encoder")} on {config.data.name}: {run.name}',
    facts=facts.summary(run, config, encoder, bank_source, record, directory),
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
    gallery=gallery,
    map=shown,
    confusion=confusion,
    confused=confused,
    class_names=names,
    notes=facts.notes(bank, queries, same) | {name: strip.note for name, strip in strips.items()},
    verdict=verdict,
    good=good,
  )
  if hosts.is_first_process():
    with user_errors():
      with replacing(run / FILE, 'w') as file:
        file.write(page.render(content))
      _show_in_tensorboard(run, made, int(directory.name))
  return run / FILE


def _sources(config: Config, further: Sequence[Field] = ()) -> tuple[Source, Source]:
  """(bank, queries): the training and the test images, or the training images twice.

  Of several labels an image none is shown: nothing here votes or colors by more than one.
  """

  def load(split: str) -> Source:
    source = datasets.load(
      config.data.name,
      split,
      data_dir=config.data.dir,
      fields=further,
      frame_gap=config.data.frame_gap,
      range_=config.data.range,
    )
    return source.without_labels() if source.multi_label else source

  with user_errors():
    try:
      return load('train'), load('test')
    except ValueError:
      whole = load('pretrain')
      return whole, whole


def _strips(run: pathlib.Path, config: Config, source: Source) -> dict[str, Strips]:
  """By heading, what the run's method gives back of the queries, and what it draws."""
  if not hosts.is_first_process():
    return {}
  strips, folder = {}, run / FOLDER
  painter, sampler, scorer = painting.painter(run), drawing.sampler(run), likelihood.scorer(run)
  stored = StoredMethod.of(run)
  if painter is not None and painter.fields:
    # With the further fields that the run was given.
    _, source = _sources(config, fields.parsed(config.data.fields))
  with user_errors():
    if painter is not None:
      path = folder / 'reconstructions.png'
      strips['Reconstructions'] = reconstructions.write(painter, source, path)
    if sampler is not None:
      strips['Samples'] = drawn.write(sampler, folder / 'samples.png')
    if scorer is not None:
      data = config.data
      train = datasets.load(data.name, 'pretrain', data_dir=data.dir, range_=data.range)
      strips['Likelihood'] = bits.table(
        scorer, source.of_classes(data.classes), train.of_classes(data.classes)
      )
    if stored is not None and stored.method.decode is not None:
      strips['Codes'] = codes.write(stored, source, folder / 'codes.png')
  return strips


def _pictures(
  run: pathlib.Path,
  encoder: Encoder,
  gallery: Gallery,
  shown: Map,
  confusion: np.ndarray | None,
  names: list[str],
  confused: list[str],
) -> dict[str, pathlib.Path]:
  """Writes the PNGs; their paths by name."""
  folder = run / FOLDER
  if not hosts.is_first_process():
    return {}
  with user_errors():
    folder.mkdir(parents=True, exist_ok=True)
    made = {
      'neighbors': pictures.gallery(folder / 'neighbors.png', gallery, names),
      'map': pictures.scatter(folder / 'map.png', shown, names),
    }
    kernel = pictures.first_kernel(jax.device_get(encoder.params['encoder']))
    if kernel is not None:
      made['filters'] = pictures.filters(folder / 'filters.png', kernel)
    if confusion is not None:
      made['confusion'] = pictures.confusion(folder / 'confusion.png', confusion, confused)
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
