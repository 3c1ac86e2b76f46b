"""The report of a run as one HTML page that needs nothing else: no network, no other file."""

import base64
from collections.abc import Mapping, Sequence
import html
from importlib import resources
import io
import json
import re
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from byoljax.evals import scores
from byoljax.report.table import html_table

_TILE = 64  # Least side of a picture in the gallery, in pixels.
_SPOT = 40  # Side of a picture under the pointer, as it is stored.
_MOST_CLASSES = 30  # A larger confusion matrix is a list of the commonest mistakes, so many:
_MOST_MISTAKES = 20


class Gallery(NamedTuple):
  """Queries and what lies nearest to them.

  Attributes:
    queries: uint8 [q, S, S, 3].
    query_labels: int [q], -1 where unknown.
    neighbors: uint8 [q, n, S, S, 3], nearest first.
    neighbor_labels: int [q, n].
    cosines: float [q, n], of centered features: 0 for unrelated images.
    query_names: q names of files or records, or ().
    neighbor_names: n names for each query, or ().
  """

  queries: np.ndarray
  query_labels: np.ndarray
  neighbors: np.ndarray
  neighbor_labels: np.ndarray
  cosines: np.ndarray
  query_names: Sequence[str] = ()
  neighbor_names: Sequence[Sequence[str]] = ()


class Map(NamedTuple):
  """Embeddings in the plane.

  Attributes:
    layouts: name -> float [n, 2].
    labels: int [n], -1 where unknown.
    images: uint8 [n, S, S, 3].
    names: n names of files or records, or ().
  """

  layouts: dict[str, np.ndarray]
  labels: np.ndarray
  images: np.ndarray
  names: Sequence[str] = ()


class Page(NamedTuple):
  """What the report shows; empty parts are left out.

  Attributes:
    title: of the page.
    facts: name -> value, the first thing to read.
    results: tables: heading -> rows of {column: text}.
    protocol: dotted field -> value, what the results depend on.
    changes: 'field: preset -> run', how the recipe was changed; None where nobody knows.
    recipe: dotted field -> value, all of it.
    charts: HTML figures.
    pictures: heading -> PNG, whole files.
    gallery: nearest neighbors, or None.
    map: embeddings in the plane, or None.
    confusion: int [c, c], rows true, columns predicted; or None.
    class_names: C names.
    notes: sentences under a heading: what a part was computed from.
    confused: the names of the c classes of `confusion`; empty where they are all.
    verdict: whether the encoder has learned something, in one sentence; '' where nobody knows.
    good: whether it has.
    warning: of images that are others than the run's, or are not there; '' where they are its own.
  """

  title: str
  facts: Mapping[str, str]
  results: Mapping[str, Sequence[Mapping[str, str]]]
  protocol: Mapping[str, Any]
  changes: Sequence[str] | None
  recipe: Mapping[str, Any]
  charts: Sequence[str]
  pictures: Mapping[str, bytes]
  gallery: Gallery | None
  map: Map | None
  confusion: np.ndarray | None
  class_names: Sequence[str]
  notes: Mapping[str, str]
  confused: Sequence[str] = ()
  verdict: str = ''
  good: bool = True
  warning: str = ''


def render(page: Page) -> str:
  """The page as HTML."""
  sections = [
    ('Results', _results(page)),
    ('Training', ''.join(page.charts) and f'<div class="charts">{"".join(page.charts)}</div>'),
    *[(name, _picture(name, content)) for name, content in page.pictures.items()],
    ('Nearest neighbors', page.gallery and _gallery(page.gallery, page.class_names)),
    ('Map of the embeddings', page.map and _map(page.map, page.class_names)),
    ('Classes', _classes(page)),
    ('Recipe', _recipe(page)),
  ]
  there = [(name, body) for name, body in sections if body]
  links = ''.join(f'<a href="#{_anchor(name)}">{html.escape(name)}</a>' for name, _ in there)
  body = ''.join(
    f'<section id="{_anchor(name)}"><h2>{html.escape(name)}</h2>'
    + (f'<p class="note">{html.escape(page.notes[name])}</p>' if name in page.notes else '')
    + f'{content}</section>'
    for name, content in there
  )
  header = f'{_verdict(page)}{facts_list(page.facts)}<nav>{links}</nav>'
  return document(page.title, header, body, styles=('page.css',), script='page.js')


def document(title: str, header: str, main: str, *, styles: Sequence[str], script: str) -> str:
  """A whole page, which needs no other file.

  Args:
    title: text, shown on top, too.
    header: HTML below the title.
    main: HTML of the rest.
    styles: files of this package.
    script: a file of this package.
  """
  style = ''.join(map(_asset, styles))
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{html.escape(title)}</title><link rel="icon" href="data:,">'
    f'<style>{style}</style></head><body><header><h1>{html.escape(title)}</h1>{header}</header>'
    f'<main>{main}</main><script>{_asset(script)}</script></body></html>\n'
  )


def facts_list(facts: Mapping[str, str]) -> str:
  """Names and values as HTML, the first thing to read."""
  lines = ''.join(
    f'<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>'
    for name, value in facts.items()
  )
  return f'<dl class="facts">{lines}</dl>'


def _verdict(page: Page) -> str:
  said = ('good' if page.good else 'bad', page.verdict), ('bad', page.warning)
  shown = (f'<p class="verdict {kind}">{html.escape(text)}</p>' for kind, text in said if text)
  return ''.join(shown)


def _asset(name: str) -> str:
  return resources.files('byoljax.report').joinpath(name).read_text(encoding='utf-8')


def _anchor(name: str) -> str:
  return re.sub(r'\W+', '-', name.lower()).strip('-')


def _results(page: Page) -> str:
  made = [
    f'<h3>{html.escape(heading)}</h3>{_table(rows)}'
    for heading, rows in page.results.items()
    if rows
  ]
  if made and page.protocol:
    made.append(_details('Protocol', _fields(page.protocol)))
  return ''.join(made)


def _recipe(page: Page) -> str:
  if not page.recipe:
    return ''
  return _changes(page.changes) + _details('All settings', _fields(page.recipe))


def _changes(lines: Sequence[str] | None) -> str:
  if lines is None:
    return ''
  items = ''.join(f'<li><code>{html.escape(line)}</code></li>' for line in lines)
  if not items:
    return '<p>Identical to its preset.</p>'
  return f'<p>Changes from its preset:</p><ul>{items}</ul>'


def _details(title: str, body: str) -> str:
  return f'<details><summary>{html.escape(title)}</summary>{body}</details>'


def _fields(fields: Mapping[str, Any]) -> str:
  rows = ''.join(
    f'<tr><td><code>{html.escape(name)}</code></td><td><code>{html.escape(str(value))}</code></td>'
    '</tr>'
    for name, value in fields.items()
  )
  return f'<div class="scroll"><table>{rows}</table></div>'


def _table(rows: Sequence[Mapping[str, str]]) -> str:
  made = html_table(rows, missing='–', attributes=' class="data"')
  return f'<div class="scroll">{made}</div>'


def _picture(name: str, png: bytes) -> str:
  source = base64.b64encode(png).decode()
  return (
    f'<div class="scroll"><img class="picture" alt="{html.escape(name)}" '
    f'src="data:image/png;base64,{source}"></div>'
  )


def _gallery(gallery: Gallery, names: Sequence[str]) -> str:
  rows = []
  count, near = gallery.cosines.shape
  query_files = gallery.query_names or [''] * count
  near_files = gallery.neighbor_names or [[''] * near] * count
  for row, (label, query) in enumerate(zip(gallery.query_labels, gallery.queries, strict=True)):
    cells = [_tile(query, class_name(label, names), 'query', '', query_files[row])]
    for column, other in enumerate(gallery.neighbor_labels[row]):
      known = label >= 0 and other >= 0
      kind = ('right' if other == label else 'wrong') if known else ''
      image, cosine = gallery.neighbors[row, column], gallery.cosines[row, column]
      file = near_files[row][column]
      cells.append(_tile(image, class_name(other, names), kind, f'{cosine:.2f}', file))
    rows.append(f'<div class="row">{"".join(cells)}</div>')
  return f'<div class="gallery">{"".join(rows)}</div>'


def _tile(image: np.ndarray, name: str, kind: str, number: str, file: str) -> str:
  mark = {'right': '✓ ', 'wrong': '✗ '}.get(kind, '')
  side = image.shape[0]
  if side < _TILE:  # Whole multiples: pixels stay pixels.
    image = image.repeat(-(-_TILE // side), 0).repeat(-(-_TILE // side), 1)
  text = html.escape(' '.join(filter(None, [mark + name, number])))
  file = html.escape(file)
  return (
    f'<figure class="tile {kind}" title="{file}"><img alt="{text}" src="{jpeg(image, 160)}">'
    f'<figcaption>{text}' + (f'<small>{file}</small>' if file else '') + '</figcaption></figure>'
  )


def class_name(label: int, names: Sequence[str]) -> str:
  """The name of a class, its number where it has none; '' of what is unknown, -1."""
  if label < 0:
    return ''
  return names[label] if label < len(names) else str(label)


def jpeg(image: np.ndarray, most: int) -> str:
  """An image, at most so many pixels wide and high, as the address of a JPEG."""
  picture = Image.fromarray(image)
  picture.thumbnail((most, most))
  file = io.BytesIO()
  picture.save(file, 'JPEG', quality=85)
  return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()


def _map(shown: Map, names: Sequence[str]) -> str:
  """A scatter plot per layout, of which one is seen, and one sheet with all thumbnails."""
  count = len(shown.labels)
  across = int(np.ceil(np.sqrt(count)))
  sheet = Image.new('RGB', (across * _SPOT, -(-count // across) * _SPOT))
  for number, image in enumerate(shown.images):
    small = Image.fromarray(image).resize((_SPOT, _SPOT), Image.Resampling.LANCZOS)
    sheet.paste(small, (number % across * _SPOT, number // across * _SPOT))
  layouts = {}
  for name, points in shown.layouts.items():
    low, high = points.min(0), points.max(0)
    unit = (points - low) / np.maximum(high - low, 1e-9)
    layouts[name] = np.round(10 + 580 * unit, 1).tolist()
  classes = sorted({int(label) for label in shown.labels if label >= 0})
  hues = {label: round(360 * i / max(1, len(classes))) for i, label in enumerate(classes)}
  data = {
    'layouts': layouts,
    'labels': [int(label) for label in shown.labels],
    'hues': hues,
    'names': {label: class_name(label, names) for label in classes},
    'files': list(shown.names),
    'across': across,
    'spot': _SPOT,
  }
  buttons = ''.join(f'<button data-layout="{html.escape(name)}">{html.escape(name)}</button>'
                    for name in layouts)  # fmt: skip
  legend = ''.join(
    f'<button class="class" data-class="{label}"><i style="--hue:{hues[label]}"></i>'
    f'{html.escape(class_name(label, names))}</button>'
    for label in classes[:_MOST_CLASSES]
  )
  return (
    f'<div class="map" data-map="{html.escape(json.dumps(data))}">'
    f'<div class="choices">{buttons}<button class="pictures">images</button></div>'
    f'<div class="plane" style="--sheet:url({jpeg(np.asarray(sheet), 10**6)})">'
    '<svg viewBox="0 0 600 600" role="img" aria-label="embeddings in the plane"></svg>'
    '<div class="thumbs"></div><div class="spot" hidden><i></i><span></span></div></div>'
    f'<div class="legend">{legend}</div></div>'
  )


def _classes(page: Page) -> str:
  if page.confusion is None:
    return ''
  counts, names = page.confusion, page.confused or page.class_names
  totals = counts.sum(1)
  accuracy = np.divide(np.diag(counts), totals, out=np.zeros(len(counts)), where=totals > 0)
  bars = ''.join(
    f'<div class="bar"><span>{html.escape(class_name(i, names))}</span><b><i style="width:'
    f'{100 * accuracy[i]:.1f}%"></i></b><em>{100 * accuracy[i]:.0f} %</em></div>'
    for i in np.argsort(-accuracy)
    if totals[i] > 0
  )
  body = f'<h3>Accuracy by class</h3><div class="bars">{bars}</div>'
  if len(counts) <= _MOST_CLASSES:
    return f'<div class="classes"><div>{body}</div><div>{_matrix(counts, names)}</div></div>'
  rows = [
    {'is': class_name(truth, names), 'taken for': class_name(said, names), 'times': str(times)}
    for truth, said, times in scores.mistakes(counts, _MOST_MISTAKES)
  ]
  return f'<div class="classes"><div>{body}</div><div>{_table(rows)}</div></div>'


def _matrix(counts: np.ndarray, names: Sequence[str]) -> str:
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  every = [html.escape(class_name(j, names)) for j in range(len(counts))]
  head = ''.join(f'<th><span>{name}</span></th>' for name in every)
  rows = ''.join(
    f'<tr><th>{every[i]}</th>'
    + ''.join(
      f'<td style="--share:{shares[i, j]:.3f}" title="{every[i]} taken for {every[j]}: '
      f'{counts[i, j]}">{100 * shares[i, j]:.0f}</td>'
      for j in range(len(counts))
    )
    + '</tr>'
    for i in range(len(counts))
  )
  return (
    '<h3>Confusion, % of each class (rows: true)</h3><div class="scroll">'
    f'<table class="matrix"><tr><th></th>{head}</tr>{rows}</table></div>'
  )
