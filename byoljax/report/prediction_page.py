"""Predictions to look through: one HTML page with every image, sorted by confidence.

It needs nothing else: neither a network nor another file. Without a script it is a sorted sheet;
with one it can be sorted the other way and filtered by class.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import html

import numpy as np

from byoljax.report import page
from byoljax.report.predictions import Answer, short, unreadable

# More images would make a page that phones cannot open: some 10 KB each.
MOST = 500
SIDE = 160
_PRESSED = ' aria-pressed="true"'


def chosen(answers: Sequence[Answer], most: int = MOST) -> list[Answer]:
  """What the page shows, least confident first: all, or `most` of them.

  Of more, half are the first, the others the surest of each class in equal numbers: one class that
  is easy would fill them. Where classes are known, the surest mistakes come first.
  """
  shown = [each for each in answers if each.top]

  def rank(each: Answer) -> tuple[bool, float]:
    wrong = _is_wrong(each)
    return not wrong, -each.confidence if wrong else each.confidence

  shown.sort(key=rank)
  if len(shown) <= most:
    return shown
  first, rest = shown[: most - most // 2], shown[most - most // 2 :]
  counts, places = Counter(), dict[int, int]()
  for each in sorted(rest, key=lambda each: -each.confidence):
    counts[each.top[0][0]] += 1
    places[each.row] = counts[each.top[0][0]]
  surest = {each.row for each in sorted(rest, key=lambda each: places[each.row])[: most // 2]}
  return first + [each for each in rest if each.row in surest]


def render(
  title: str,
  answers: Sequence[Answer],
  shown: Sequence[Answer],
  images: Mapping[int, np.ndarray],
  *,
  facts: Mapping[str, str],
  root: str = '',
) -> str:
  """The page as HTML.

  Args:
    title: of the page.
    answers: all of them.
    shown: of `chosen`.
    images: row -> uint8 [S, S, 3], of those that are shown.
    facts: name -> value, the first thing to read.
    root: files are named by their path within this folder.
  """
  there = [each for each in shown if each.row in images]
  every = len([each for each in answers if each.top])
  note = 'Least confident first. '
  if any(map(_is_wrong, there)):
    note = 'Most confident mistakes first, then correct answers, least confident first. '
  if len(there) < every:
    note += f'{len(there):,} of {every:,} images: the first, and the most confident of each class. '
  body = ''.join(_figure(each, images[each.row], root) for each in there)
  main = (
    f'<p class="note">{note}Bars are probabilities of the likeliest classes.</p>'
    f'<div class="answers">{body}</div>{_unreadable(answers, root)}'
  )
  return page.document(
    title,
    page.facts_list(facts) + _buttons(there),
    main,
    styles=('page.css', 'predictions.css'),
    script='predictions.js',
  )


def _is_wrong(each: Answer) -> bool:
  return bool(each.truth) and each.truth != each.top[0][0]


def _figure(each: Answer, image: np.ndarray, root: str) -> str:
  wrong = _is_wrong(each)
  kind = ('wrong' if wrong else 'right') if each.truth else ''
  name = html.escape(short(each.name, root))
  said = html.escape(each.top[0][0])
  head = f'<i>not named</i> {said}?' if each.note else said
  bars = ''.join(
    f'<li><span>{html.escape(label)}</span><em>{100 * chance:.0f} %</em>'
    f'<b><i style="width:{100 * chance:.1f}%"></i></b></li>'
    for label, chance in each.top[:3]
  )
  truth = f'<p class="truth">is {html.escape(each.truth)}</p>' if wrong else ''
  return (
    f'<figure class="answer {kind}" data-class="{said}" data-p="{each.confidence:.6f}" '
    f'data-wrong="{int(wrong)}"><img loading="lazy" alt="{name}" '
    f'src="{page.jpeg(image, SIDE)}">'
    f'<figcaption><strong>{head}</strong>{truth}<ul>{bars}</ul>'
    f'<small title="{name}">{name}</small></figcaption></figure>'
  )


def _buttons(shown: Sequence[Answer]) -> str:
  """To sort and to filter; hidden where no script runs."""
  counts: dict[str, int] = {}
  for each in shown:
    counts[each.top[0][0]] = counts.get(each.top[0][0], 0) + 1
  wrong = sum(map(_is_wrong, shown))
  classes = ''.join(
    f'<button data-show="{html.escape(label)}">{html.escape(label)} {count:,}</button>'
    for label, count in sorted(counts.items())
  )
  mistakes = f'<button data-mistakes="1">mistakes {wrong:,}</button>' if wrong else ''
  shown_so = '' if wrong else _PRESSED
  return (
    f'<nav class="controls" hidden><button data-sort="1"{shown_so}>least confident first</button>'
    f'<button data-sort="-1">most confident first</button><span></span>'
    f'<button data-show=""{_PRESSED}>all {len(shown):,}</button>{mistakes}{classes}</nav>'
  )


def _unreadable(answers: Sequence[Answer], root: str) -> str:
  rows = ''.join(
    f'<li>{html.escape(short(each.name, root))}: {html.escape(each.note)}</li>'
    for each in unreadable(answers)
  )
  return f'<section><h2>Not readable</h2><ul>{rows}</ul></section>' if rows else ''
