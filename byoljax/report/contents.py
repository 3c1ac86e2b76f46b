"""The report of a run: gathers what the page shows, and writes the page and its pictures.

    <run>/report.html            everything, in one file
    <run>/report/*.png           the pictures by themselves; TensorBoard shows them, too

k-NN, the gallery and the map are of the last checkpoint's online encoder on at most a few thousand
images, drawn at random with a fixed seed; the page says how many.
"""

from collections.abc import Mapping
import functools
import io
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from byoljax import config as config_lib
from byoljax import streams
from byoljax.config import Config, ConfigError
from byoljax.data.batches import pipeline
from byoljax.data.sources import datasets
from byoljax.data.sources.source import Source
from byoljax.devices import hosts
from byoljax.encoders import load
from byoljax.encoders.encoder import Encoder
from byoljax.evals import features, knn
from byoljax.protocols import extraction
from byoljax.report import by_tap, charts, evaluations, page, pictures
from byoljax.report.page import Gallery, Map, Page
from byoljax.version import __version__
from byoljax.workdir import metrics
from byoljax.workdir.files import replacing

FILE, FOLDER = 'report.html', 'report'
_MOST_BANK, _MOST_QUERIES, _MOST_POINTS = 10_000, 2_000, 1_000
_GALLERY_ROWS, _GALLERY_COLUMNS = 12, 8


class Sample(NamedTuple):
  """A random part of a data set with its embeddings; the images stay where they are.

  Attributes:
    source: the data set.
    rows: int [n], positions in it.
    features: float32 [n, D].
    labels: int32 [n], -1 where unknown.
  """

  source: Source
  rows: np.ndarray
  features: np.ndarray
  labels: np.ndarray


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
  bank = _sample(encoder, config, bank_source, _MOST_BANK, seed=0)
  queries = _sample(encoder, config, query_source, _MOST_QUERIES, seed=1)
  same = bank_source.fingerprint == query_source.fingerprint
  similarities, rows = knn.nearest(bank.features, queries.features, knn.HEADLINE_K + same)
  if same:
    similarities, rows = without_self(similarities, rows, bank.rows[rows] == queries.rows[:, None])
  gallery = _gallery(config, queries, bank, similarities, rows)
  confusion = None
  classes = query_source.num_classes
  if classes > 1 and not same:
    predicted = knn.vote(similarities, bank.labels[rows], classes, knn.HEADLINE_TEMPERATURE)
    known = queries.labels >= 0
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (queries.labels[known], predicted[known]), 1)
  shown = _map(config, queries)
  names = list(query_source.class_names) or [str(i) for i in range(classes)]
  made = _pictures(run, encoder, gallery, shown, confusion, names)
  record = metrics.read(run)
  content = Page(
    title=f'{config.get("method", {}).get("name", "encoder")} on {config.data.name}: {run.name}',
    facts=_facts(run, config, encoder, bank_source, record, directory),
    results=_results(run),
    protocol=_protocol(config),
    changes=_changes(run, config),
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
    notes=_notes(bank, queries, same),
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


def _sample(encoder: Encoder, config: Config, source: Source, most: int, seed: int) -> Sample:
  """At most `most` of the images that can be read."""
  order = np.random.default_rng((0, streams.REPORT_SAMPLE, seed)).permutation(source.size)[:most]
  rows = np.sort(order)
  chosen = source.subset(rows)
  numbered = features.with_index_as_label(_batches(config, chosen))
  extract = extraction.extractor(encoder)
  found, index = extract(encoder.params, encoder.bn, numbered)
  labels = chosen.labels
  known = np.full(len(index), -1, np.int32) if labels is None else labels[index]
  return Sample(source, rows[index], found, known)


def without_self(
  similarities: np.ndarray, rows: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """One neighbor fewer: the query itself where it is among them, else the farthest.

  Args:
    similarities: [M, k], descending.
    rows: [M, k].
    own: bool [M, k], at most one a row: where the neighbor is the query. Without a test split
      queries and bank are the same images; the query need not come first, for images may occur
      twice, and need not be there at all, for a large bank is a part of them.
  """
  keep = ~own
  keep[~own.any(1), -1] = False
  shape = (len(rows), rows.shape[1] - 1)
  return similarities[keep].reshape(shape), rows[keep].reshape(shape)


def _batches(config: Config, source: Source, batch_size: int = 0) -> Any:
  """Every image once, un-augmented."""
  return pipeline.eval_batches(
    source,
    image_size=config.evals.image_size,
    batch_size=batch_size or extraction.fit_to_devices(config.evals.batch_size),
    process_index=0 if batch_size else jax.process_index(),
    process_count=1 if batch_size else jax.process_count(),
  )


def _images(config: Config, source: Source, rows: np.ndarray) -> np.ndarray:
  """The images at these positions, uint8 [..., S, S, 3]; every process reads all of them."""
  wanted, back = np.unique(rows, return_inverse=True)
  side = config.evals.image_size
  made = np.zeros((len(wanted), side, side, 3), np.uint8)
  for batch in _batches(config, source.subset(wanted), batch_size=64):
    real = batch['valid']
    made[batch['index'][real]] = batch['image'][real]
  return made[back.reshape(rows.shape)]


def _gallery(
  config: Config, queries: Sample, bank: Sample, similarities: np.ndarray, rows: np.ndarray
) -> Gallery:
  """A dozen random queries, of every class in turn where there are classes."""
  order = np.random.default_rng((0, streams.REPORT_GALLERY)).permutation(len(queries.labels))
  # Stable: the first of every class, then the second of every class, ...
  seen: dict[int, int] = {}
  turn = []
  for i in order:
    label = int(queries.labels[i])
    turn.append(seen.get(label, 0))
    seen[label] = turn[-1] + 1
  chosen = order[np.lexsort((np.arange(len(order)), turn))][:_GALLERY_ROWS]
  near = rows[chosen, :_GALLERY_COLUMNS]
  return Gallery(
    _images(config, queries.source, queries.rows[chosen]),
    queries.labels[chosen],
    _images(config, bank.source, bank.rows[near]),
    bank.labels[near],
    similarities[chosen, :_GALLERY_COLUMNS],
  )


def _map(config: Config, sample: Sample) -> Map:
  """Principal components of unit features, and t-SNE where scikit-learn is installed."""
  try:
    from sklearn.manifold import TSNE
  except ImportError:  # Machines for training may have little more than JAX.
    TSNE = None
  count = min(_MOST_POINTS, len(sample.labels))
  unit = sample.features[:count] / np.maximum(
    np.linalg.norm(sample.features[:count], axis=1, keepdims=True), 1e-12
  )
  centered = unit - unit.mean(0)
  _, _, axes = np.linalg.svd(centered, full_matrices=False)
  layouts = {}
  if TSNE is not None and count > 5:
    perplexity = min(30.0, (count - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init='pca', random_state=0)
    layouts['t-SNE'] = tsne.fit_transform(unit)
  components = centered @ axes[:2].T
  layouts['PCA'] = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
  images = _images(config, sample.source, sample.rows[:count])
  return Map(layouts, sample.labels[:count], images)


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
