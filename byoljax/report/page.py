"""The report of a run as one HTML page that needs nothing else: no network, no other file."""

import base64
from collections.abc import Mapping, Sequence
import html
import io
import json
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

_TILE = 64  # Least side of a picture in the gallery, in pixels.
_SPOT = 40  # Side of a picture under the pointer, as it is stored.
_MOST_CLASSES = 30  # A larger confusion matrix is a list of the commonest confusions.


class Gallery(NamedTuple):
  """Queries and what lies nearest to them.

  Attributes:
    queries: uint8 [q, S, S, 3].
    query_labels: int [q], -1 where unknown.
    neighbors: uint8 [q, n, S, S, 3], nearest first.
    neighbor_labels: int [q, n].
    cosines: float [q, n].
  """

  queries: np.ndarray
  query_labels: np.ndarray
  neighbors: np.ndarray
  neighbor_labels: np.ndarray
  cosines: np.ndarray


class Map(NamedTuple):
  """Embeddings in the plane.

  Attributes:
    layouts: name -> float [n, 2].
    labels: int [n], -1 where unknown.
    images: uint8 [n, S, S, 3].
  """

  layouts: dict[str, np.ndarray]
  labels: np.ndarray
  images: np.ndarray


class Page(NamedTuple):
  """What the report shows; empty parts are left out.

  Attributes:
    title: of the page.
    facts: name -> value, the first thing to read.
    results: tables: heading -> rows of {column: text}.
    protocol: dotted field -> value, what the results depend on.
    changes: 'field: preset -> run', how the recipe was changed.
    recipe: dotted field -> value, all of it.
    charts: HTML figures.
    pictures: heading -> PNG, whole files.
    gallery: nearest neighbors, or None.
    map: embeddings in the plane, or None.
    confusion: int [C, C], rows true, columns predicted; or None.
    class_names: C names.
    notes: sentences under a heading: what a part was computed from.
  """

  title: str
  facts: Mapping[str, str]
  results: Mapping[str, Sequence[Mapping[str, str]]]
  protocol: Mapping[str, Any]
  changes: Sequence[str]
  recipe: Mapping[str, Any]
  charts: Sequence[str]
  pictures: Mapping[str, bytes]
  gallery: Gallery | None
  map: Map | None
  confusion: np.ndarray | None
  class_names: Sequence[str]
  notes: Mapping[str, str]


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
  facts = ''.join(
    f'<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>'
    for name, value in page.facts.items()
  )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{html.escape(page.title)}</title><link rel="icon" href="data:,">'
    f'<style>{_STYLE}</style></head><body><header><h1>{html.escape(page.title)}</h1>'
    f'<dl class="facts">{facts}</dl><nav>{links}</nav></header><main>{body}</main>'
    f'<script>{_SCRIPT}</script></body></html>\n'
  )


def _anchor(name: str) -> str:
  return name.lower().replace(' ', '-')


def _results(page: Page) -> str:
  made = [
    (f'<h3>{html.escape(heading)}</h3>' if len(page.results) > 1 else '') + _table(rows)
    for heading, rows in page.results.items()
    if rows
  ]
  if made and page.protocol:
    made.append(_details('Protocol', _fields(page.protocol)))
  return ''.join(made)


def _recipe(page: Page) -> str:
  changed = ''.join(f'<li><code>{html.escape(line)}</code></li>' for line in page.changes)
  first = f'<p>Changed against its preset:</p><ul>{changed}</ul>' if changed else (
    '<p>As its preset.</p>'
  )  # fmt: skip
  return first + _details('All settings', _fields(page.recipe)) if page.recipe else ''


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
  columns = list(dict.fromkeys(name for row in rows for name in row))
  head = ''.join(f'<th>{html.escape(name)}</th>' for name in columns)
  body = ''.join(
    '<tr>'
    + ''.join(f'<td>{html.escape(str(row.get(name, "–")))}</td>' for name in columns)
    + '</tr>'
    for row in rows
  )
  return f'<div class="scroll"><table class="data"><tr>{head}</tr>{body}</table></div>'


def _picture(name: str, png: bytes) -> str:
  source = base64.b64encode(png).decode()
  return (
    f'<div class="scroll"><img class="picture" alt="{html.escape(name)}" '
    f'src="data:image/png;base64,{source}"></div>'
  )


def _gallery(gallery: Gallery, names: Sequence[str]) -> str:
  rows = []
  for query, label, images, labels, cosines in zip(*gallery, strict=True):
    cells = [_tile(query, _name(label, names), 'query', '')]
    for image, other, cosine in zip(images, labels, cosines, strict=True):
      known = label >= 0 and other >= 0
      kind = ('right' if other == label else 'wrong') if known else ''
      cells.append(_tile(image, _name(other, names), kind, f'{cosine:.2f}'))
    rows.append(f'<div class="row">{"".join(cells)}</div>')
  return f'<div class="gallery">{"".join(rows)}</div>'


def _tile(image: np.ndarray, name: str, kind: str, number: str) -> str:
  mark = {'right': '✓ ', 'wrong': '✗ '}.get(kind, '')
  side = image.shape[0]
  if side < _TILE:  # Whole multiples: pixels stay pixels.
    image = image.repeat(-(-_TILE // side), 0).repeat(-(-_TILE // side), 1)
  text = html.escape(' '.join(filter(None, [mark + name, number])))
  return (
    f'<figure class="tile {kind}"><img alt="{text}" src="{_jpeg(image, 160)}">'
    f'<figcaption>{text}</figcaption></figure>'
  )


def _name(label: int, names: Sequence[str]) -> str:
  if label < 0:
    return ''
  return names[label] if label < len(names) else str(label)


def _jpeg(image: np.ndarray, most: int) -> str:
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
    'names': {label: _name(label, names) for label in classes},
    'across': across,
    'spot': _SPOT,
  }
  buttons = ''.join(f'<button data-layout="{html.escape(name)}">{html.escape(name)}</button>'
                    for name in layouts)  # fmt: skip
  legend = ''.join(
    f'<button class="class" data-class="{label}"><i style="--hue:{hues[label]}"></i>'
    f'{html.escape(_name(label, names))}</button>'
    for label in classes[:_MOST_CLASSES]
  )
  return (
    f'<div class="map" data-map="{html.escape(json.dumps(data))}">'
    f'<div class="choices">{buttons}</div><div class="plane">'
    '<svg viewBox="0 0 600 600" role="img" aria-label="embeddings in the plane"></svg>'
    f'<div class="spot" hidden><i style="background-image:url({_jpeg(np.asarray(sheet), 10**6)})">'
    f'</i><span></span></div></div><div class="legend">{legend}</div></div>'
  )


def _classes(page: Page) -> str:
  if page.confusion is None:
    return ''
  counts, names = page.confusion, page.class_names
  totals = counts.sum(1)
  accuracy = np.divide(np.diag(counts), totals, out=np.zeros(len(counts)), where=totals > 0)
  bars = ''.join(
    f'<div class="bar"><span>{html.escape(_name(i, names))}</span><b><i style="width:'
    f'{100 * accuracy[i]:.1f}%"></i></b><em>{100 * accuracy[i]:.0f} %</em></div>'
    for i in np.argsort(-accuracy)
    if totals[i] > 0
  )
  body = f'<h3>Accuracy by class</h3><div class="bars">{bars}</div>'
  if len(counts) <= _MOST_CLASSES:
    return f'<div class="classes"><div>{body}</div><div>{_matrix(counts, names)}</div></div>'
  wrong = counts - np.diag(np.diag(counts))
  order = np.argsort(-wrong, axis=None)[:20]
  rows = [
    {'is': _name(i, names), 'taken for': _name(j, names), 'times': str(wrong[i, j])}
    for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
    if wrong[i, j]
  ]
  return f'<div class="classes"><div>{body}</div><div>{_table(rows)}</div></div>'


def _matrix(counts: np.ndarray, names: Sequence[str]) -> str:
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  every = [html.escape(_name(j, names)) for j in range(len(counts))]
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


_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2024;--soft:#667;--line:#dde1e6;--card:#f6f7f9;
--accent:#1f5fa8;--good:#1a7f4b;--bad:#b8352c;--c0:#1f5fa8;--c1:#d9730d;--c2:#2e8b57;--c3:#8e44ad;
--c4:#b03a3a;--light:45%}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e6e9ec;--soft:#9aa3ad;--line:#30363d;
--card:#1c2126;--accent:#6ea8e6;--good:#4cc38a;--bad:#ff7b72;--c0:#6ea8e6;--c1:#f0a35e;--c2:#5fc08a;
--c3:#c08be0;--c4:#e67a7a;--light:62%}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
header,main{max-width:1180px;margin:0 auto;padding:0 20px}
h1{font-size:26px;margin:28px 0 12px;overflow-wrap:anywhere}h2{font-size:20px;margin:36px 0 10px}
h3{font-size:15px;margin:14px 0 8px}
.facts{display:flex;flex-wrap:wrap;gap:8px 28px;margin:0}.facts dt{color:var(--soft);font-size:12px}
.facts dd{margin:0;font-weight:600}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:18px 0 0;padding:10px 0;
border-top:1px solid var(--line);border-bottom:1px solid var(--line)}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
.note,.legend{color:var(--soft);font-size:13px}.note{margin:0 0 10px}
.scroll{overflow-x:auto}code{font:12.5px ui-monospace,monospace;overflow-wrap:anywhere}
table{border-collapse:collapse}td,th{text-align:left;padding:4px 14px 4px 0;vertical-align:top}
.data td,.data th{border-bottom:1px solid var(--line);padding:7px 22px 7px 0}
.data td:not(:first-child){font-variant-numeric:tabular-nums}
details{margin:12px 0}summary{cursor:pointer;color:var(--accent)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:14px}
.chart{margin:0;padding:12px;background:var(--card);border-radius:8px}
.chart figcaption{font-weight:600}
.chart svg{width:100%;height:auto;display:block;touch-action:pan-y}
.chart text{fill:var(--soft);font-size:11px}.grid{stroke:var(--line)}
.line{fill:none;stroke-width:1.7;stroke:currentColor;stroke-linejoin:round}
.dot{fill:currentColor;stroke:none}
.cursor{stroke:var(--soft);stroke-dasharray:3 3;visibility:hidden}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}
.key{margin-right:14px;white-space:nowrap}
.key i{display:inline-block;width:14px;height:3px;background:currentColor;margin-right:6px;
vertical-align:middle}
output{display:block;min-height:1.5em;font-variant-numeric:tabular-nums;color:var(--ink)}
.picture{max-width:100%;min-width:min(100%,480px);background:#fff;border-radius:8px;
image-rendering:auto}
.row{display:flex;flex-wrap:wrap;gap:8px;padding:8px 0;border-bottom:1px solid var(--line)}
.tile{margin:0;width:84px;font-size:11.5px;line-height:1.3}
.tile img{width:84px;height:84px;display:block;border-radius:6px;border:3px solid transparent;
object-fit:cover}
.tile.query img{border-color:var(--soft)}.tile.right img{border-color:var(--good)}
.tile.wrong img{border-color:var(--bad)}.tile.right figcaption{color:var(--good)}
.tile.wrong figcaption{color:var(--bad)}.tile.query{margin-right:10px;font-weight:600}
.map .plane{position:relative;max-width:640px}.map svg{width:100%;height:auto;display:block;
background:var(--card);border-radius:8px;touch-action:none}
.map circle{fill:hsl(var(--hue) 65% var(--light));fill-opacity:.75;cursor:pointer}
.map circle.none{fill:var(--soft)}.map circle.faded{fill-opacity:.08}
.map circle.chosen{stroke:var(--ink);stroke-width:2.5;fill-opacity:1}
.spot{position:absolute;pointer-events:none;background:var(--paper);
border:1px solid var(--line);border-radius:8px;padding:6px;box-shadow:0 4px 18px #0004;
font-size:12px;text-align:center;z-index:2}
.spot[hidden]{display:none}.spot i{display:block;width:80px;height:80px;background-repeat:no-repeat}
button{font:inherit;color:var(--ink);background:var(--card);border:1px solid var(--line);
border-radius:6px;padding:3px 10px;margin:0 6px 8px 0;cursor:pointer}
button[aria-pressed=true]{border-color:var(--accent);color:var(--accent)}
.class i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:6px;
background:hsl(var(--hue) 65% var(--light))}
.classes{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:24px}
.bar{display:grid;grid-template-columns:110px 1fr 52px;gap:10px;align-items:center;font-size:13px;
margin:3px 0}.bar span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.bar b{background:var(--card);border-radius:4px;height:14px}
.bar i{display:block;height:14px;background:var(--accent);border-radius:4px}
.bar em{font-style:normal;text-align:right}
.matrix{font-size:12px}.matrix td{padding:0;width:30px;height:28px;text-align:center;
vertical-align:middle;border:1px solid var(--paper);
background:color-mix(in srgb,var(--accent) calc(var(--share)*85%),var(--card))}
.matrix th{font-weight:400;padding:2px 6px 2px 0;vertical-align:middle}
.matrix tr:first-child th{height:74px;vertical-align:bottom;padding:0}
.matrix tr:first-child span{writing-mode:vertical-rl;transform:rotate(180deg)}
"""

_SCRIPT = """
'use strict';
for (const svg of document.querySelectorAll('.chart svg')) {
  const lines = JSON.parse(svg.dataset.lines);
  const cursor = svg.querySelector('.cursor');
  const out = svg.parentElement.querySelector('output');
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const near = line => line.px.reduce((best, x, i) =>
      Math.abs(x - at) < Math.abs(line.px[best] - at) ? i : best, 0);
    const places = lines.map(near);
    const x = lines[0].px[places[0]];
    cursor.setAttribute('x1', x);
    cursor.setAttribute('x2', x);
    cursor.style.visibility = 'visible';
    out.textContent = 'step ' + Math.round(lines[0].x[places[0]]).toLocaleString() + ': ' +
      lines.map((line, i) => Number(line.y[places[i]].toPrecision(4))).join(' / ');
  });
  svg.addEventListener('pointerleave', () => {
    cursor.style.visibility = 'hidden';
    out.textContent = '';
  });
}
for (const map of document.querySelectorAll('.map')) {
  const data = JSON.parse(map.dataset.map);
  const svg = map.querySelector('svg'), spot = map.querySelector('.spot');
  const picture = spot.querySelector('i'), label = spot.querySelector('span');
  const dots = data.labels.map((name, i) => {
    const dot = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
    dot.setAttribute('r', 4.5);
    if (name < 0) dot.classList.add('none');
    else dot.style.setProperty('--hue', data.hues[name]);
    svg.append(dot);
    return dot;
  });
  let points, only = null, chosen = null;
  const buttons = [...map.querySelectorAll('[data-layout]')];
  const lay = name => {
    points = data.layouts[name];
    dots.forEach((dot, i) => {
      dot.setAttribute('cx', points[i][0]);
      dot.setAttribute('cy', points[i][1]);
    });
    buttons.forEach(b => b.setAttribute('aria-pressed', b.dataset.layout === name));
  };
  buttons.forEach(b => b.addEventListener('click', () => lay(b.dataset.layout)));
  lay(buttons[0].dataset.layout);
  const classes = [...map.querySelectorAll('[data-class]')];
  classes.forEach(b => b.addEventListener('click', () => {
    only = only === b.dataset.class ? null : b.dataset.class;
    classes.forEach(c => c.setAttribute('aria-pressed', c.dataset.class === only));
    dots.forEach((dot, i) =>
      dot.classList.toggle('faded', only !== null && String(data.labels[i]) !== only));
  }));
  picture.style.backgroundSize = data.across * 80 + 'px';
  const show = event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * 600 / box.width;
    const y = (event.clientY - box.top) * 600 / box.height;
    let best = -1, nearest = 400;
    points.forEach(([a, b], i) => {
      const far = (a - x) ** 2 + (b - y) ** 2;
      if (far < nearest && !dots[i].classList.contains('faded')) { nearest = far; best = i; }
    });
    if (chosen !== null) dots[chosen].classList.remove('chosen');
    chosen = best < 0 ? null : best;
    spot.hidden = best < 0;
    if (best < 0) return;
    dots[best].classList.add('chosen');
    picture.style.backgroundPosition =
      -(best % data.across) * 80 + 'px ' + -Math.floor(best / data.across) * 80 + 'px';
    label.textContent = data.names[data.labels[best]] || '';
    const left = points[best][0] * box.width / 600, top = points[best][1] * box.height / 600;
    spot.style.left = Math.min(left + 12, box.width - 100) + 'px';
    spot.style.top = Math.max(0, top - 110) + 'px';
  };
  svg.addEventListener('pointermove', show);
  svg.addEventListener('pointerdown', show);
  svg.addEventListener('pointerleave', () => {
    spot.hidden = true;
    if (chosen !== null) dots[chosen].classList.remove('chosen');
    chosen = null;
  });
}
"""
