"""The report of a run: gathers what the page shows, and writes the page and its pictures.

    <run>/report.html            everything, in one file
    <run>/report/*.png           the pictures by themselves; TensorBoard shows them, too

k-NN, the gallery and the map are of the last checkpoint's online encoder on at most a few thousand
images, drawn at random with a fixed seed; the page says how many.
"""

from collections.abc import Mapping
import functools
import io
import pathlib

import jax
import numpy as np
from PIL import Image

from byoljax import config as config_lib
from byoljax.config import Config
from byoljax.data.sources import datasets
from byoljax.data.sources.source import Source
from byoljax.devices import hosts
from byoljax.encoders import load
from byoljax.encoders.encoder import Encoder
from byoljax.evals import knn
from byoljax.report import charts, facts, page, pictures, samples
from byoljax.report.page import Gallery, Map, Page
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
  gallery = samples.gallery(queries, bank, similarities, rows)
  confusion = None
  classes = query_source.num_classes
  if classes > 1 and not same:
    confusion = samples.confusion(queries, bank, similarities, rows, classes)
  shown = samples.layouts(queries)
  names = list(query_source.class_names) or [str(i) for i in range(classes)]
  made = _pictures(run, encoder, gallery, shown, confusion, names)
  record = metrics.read(run)
  content = Page(
    title=f'{config.get("method", {}).get("name", "encoder")} on {config.data.name}: {run.name}',
    facts=facts.summary(run, config, encoder, bank_source, record, directory),
    results=facts.results(run),
    protocol=facts.protocol(config),
    changes=facts.changes(run, config),
    recipe=config_lib.flatten(config),
    charts=charts.line_charts(record),
    pictures={
      name: path.read_bytes()
      for name, path in (
        ('Augmented views', run / 'views.png'),
        ('First layer', run / FOLDER / 'filters.png'),
        ('Spectrum', run / 'evals' / f'collapse-online-{directory.name}' / 'spectrum.png'),
      )
      if path.exists()
    },
    gallery=gallery,
    map=shown,
    confusion=confusion,
    class_names=names,
    notes=facts.notes(bank, queries, same),
  )
  if hosts.is_first_process():
    with config_lib.user_errors():
      with replacing(run / FILE, 'w') as file:
        file.write(page.render(content))
      _show_in_tensorboard(run, made, int(directory.name))
  return run / FILE


def _sources(config: Config) -> tuple[Source, Source]:
  """(bank, queries): the training and the test images, or the training images twice."""
  load = functools.partial(datasets.load, config.data.name, data_dir=config.data.dir)
  with config_lib.user_errors():
    try:
      return load('train'), load('test')
    except ValueError:
      whole = load('pretrain')
      return whole, whole


def _pictures(
  run: pathlib.Path,
  encoder: Encoder,
  gallery: Gallery,
  shown: Map,
  confusion: np.ndarray | None,
  names: list[str],
) -> dict[str, pathlib.Path]:
  """Writes the PNGs; their paths by name."""
  folder = run / FOLDER
  if not hosts.is_first_process():
    return {}
  with config_lib.user_errors():
    folder.mkdir(parents=True, exist_ok=True)
    made = {
      'neighbors': pictures.gallery(folder / 'neighbors.png', gallery, names),
      'map': pictures.scatter(folder / 'map.png', shown, names),
    }
    kernel = pictures.first_kernel(jax.device_get(encoder.params['encoder']))
    if kernel is not None:
      made['filters'] = pictures.filters(folder / 'filters.png', kernel)
    if confusion is not None:
      made['confusion'] = pictures.confusion(folder / 'confusion.png', confusion, names)
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
<<<<<<< HEAD


def _facts(
  run: pathlib.Path,
  config: Config,
  encoder: Encoder,
  source: Source,
  record: list[dict[str, Any]],
  directory: pathlib.Path,
) -> dict[str, str]:
  count = sum(x.size for x in jax.tree.leaves(encoder.params))
  last = record[-1] if record else {}
  stored = _stored(run / 'config.json')
  facts = {
    'method': config.get('method', {}).get('name', 'another library'),
    'encoder': f'{encoder.fields.get("name", "own module")}, {count:,} parameters',
    'images': f'{source.size:,} of {source.name}',
    'length': f'step {int(directory.name):,}'
    + (f', epoch {last["epoch"]:.4g}' if 'epoch' in last else ''),
    'batch': f'{config.train.batch_size}' if 'train' in config else '',
    'precision': encoder.fields.get('dtype', ''),
    'seed': str(config.seed),
    'training': f'{last["time/elapsed_s"] / 60:.1f} min' if 'time/elapsed_s' in last else '',
    'speed': f'{last["time/img_per_s_run"]:,.0f} images/s' if 'time/img_per_s_run' in last else '',
    'recipe': stored.get('recipe', ''),
    'byoljax': stored.get('byoljax', __version__),
  }
  return {name: value for name, value in facts.items() if value}


def _results(run: pathlib.Path) -> dict[str, list[dict[str, str]]]:
  """The final table, and later evaluations of this run."""
  tables: dict[str, list[dict[str, str]]] = {}
  final = _stored(run / 'results.json').get('result', {})
  if final:
    tables['Last step, beside what it has to beat'] = [
      {
        'encoder': name,
        'k-NN top-1': _percent(each, 'knn'),
        'linear top-1': _percent(each, 'linear'),
      }
      for name, each in final.items()
    ]
  return tables | evaluations.tables(run) | by_tap.tables(run)


def _percent(result: Mapping[str, Any], kind: str) -> str:
  return f'{result[kind]["top1"]:.1%}' if kind in result else '–'


def _protocol(config: Config) -> dict[str, Any]:
  fields = {
    name: value
    for name, value in config_lib.flatten(config).items()
    if name.startswith(('evals.knn.k', 'evals.knn.temperature', 'evals.linear', 'evals.image_size'))
  }
  headline = f'k = {knn.HEADLINE_K}, T = {knn.HEADLINE_TEMPERATURE}, cosine, un-augmented images'
  return {'k-NN headline': headline} | fields


def _changes(run: pathlib.Path, config: Config) -> list[str]:
  """How the run's settings differ from its recipe's; nothing where the recipe is not to be had."""
  recipe = _stored(run / 'config.json').get('recipe', '')
  try:
    return config_lib.differences(config_lib.load(recipe), config)
  except (ConfigError, OSError):
    return []


def _notes(bank: Sample, queries: Sample, same: bool) -> dict[str, str]:
  where = 'the same images' if same else f'{len(bank.labels):,} training images'
  kind = 'images' if same else 'test images'
  return {
    'Nearest neighbors': f'Random {kind} on the left, the nearest of {where} by cosine similarity.',
    'Map of the embeddings': f'{min(_MOST_POINTS, len(queries.labels)):,} {kind}; t-SNE keeps '
    'neighborhoods, not distances. Point at a dot to see the image, choose a class to see it '
    'alone.',
    'Classes': f'k-NN (k = {knn.HEADLINE_K}, T = {knn.HEADLINE_TEMPERATURE}) of '
    f'{len(queries.labels):,} {kind} against {where}.',
    'Augmented views': 'An image on the left, what training makes of it beside it.',
    'Spectrum': 'Singular values of the centered features of each tap, and the spread of their '
    'dimensions: a curve that falls off a cliff is dimensional collapse.',
    'First layer': 'Kernels of the first convolution, each scaled to its own range.',
  }


def _stored(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
=======
>>>>>>> tasks
