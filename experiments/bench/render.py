"""Results as Markdown: the tables of all parts, each with what it was measured on."""

from collections.abc import Sequence
import pathlib
from typing import Any

from sections import PARTS, limits

BEGIN, END = '<!-- results -->', '<!-- end of results -->'
# Written last, because it sets the others' figures in relation: it needs all parts.
_LIMITS = 'limits'
_FACTS = ('command', 'quick', 'busy', 'cores', 'machine', 'before', 'after', 'versions')


def by_part(results: dict[str, Any]) -> dict[str, Any]:
  """Results in today's form: 'parts', and under 'runs' for each what it was measured on and when.

  Results from before parts could be measured apart have one of these for all.
  """
  if 'runs' in results:
    return results
  run = {name: results[name] for name in _FACTS}
  run['started'] = run['before']['time']
  return {'parts': results['parts'], 'runs': dict.fromkeys(results['parts'], run)}


def report(results: dict[str, Any]) -> str:
  """Everything that was measured, grouped by run, each with its machine and versions."""
  results = by_part(results)
  groups: dict[str, list[str]] = {}
  for name in (*PARTS, _LIMITS):
    if name in results['parts']:
      groups.setdefault(results['runs'][name]['started'], []).append(name)
  sections = []
  for names in groups.values():
    runs = [results['runs'][name] for name in names]
    title = f'### {", ".join(names)}\n\n' if len(groups) > 1 else ''
    found = results['parts']
    parts = [limits(found) if name == _LIMITS else PARTS[name](found[name]) for name in names]
    sections.append(title + '\n\n'.join([*_measured_on(runs), *parts]))
  return '\n\n'.join(sections) + '\n'


def _measured_on(runs: Sequence[dict[str, Any]]) -> list[str]:
  """Paragraphs about the machine, the versions and the load of one run's parts."""
  first, machine = runs[0], runs[0]['machine']
  found = {name: version for run in runs for name, version in run['versions'].items()}
  versions = ', '.join(f'{name} {version}' for name, version in found.items())
  flags = ', '.join(machine['instructions'])
  before = max(run['before']['busy_cores'] for run in runs)
  after = max(run['after']['busy_cores'] for run in runs)
  lines = [
    f'{first["started"]}, {machine["cpu"]} ({flags}), {first["cores"]} cores'
    f'{", virtual machine" if machine["virtual"] else ""}, {machine.get("memory_gb", "?")} GB, '
    f'{machine["system"]}. Cores used by others before and after: {before:.2f} and {after:.2f}'
    f'{", the most of all parts" if len(runs) > 1 else ""}.',
    *([f'Versions: {versions}.'] if versions else []),
    f'Command: `{first["command"]}`.',
  ]
  if any(run['quick'] for run in runs):
    lines.append('**Tiny settings (`--quick`): these numbers mean nothing.**')
  if any(run['busy'] for run in runs):
    lines.append('**The machine was not quiet when this was measured: do not quote it.**')
  return lines


def put(text: str, readme: pathlib.Path) -> None:
  """Replaces what lies between the markers of a file.

  Raises:
    ValueError: the file does not have both markers, in order.
  """
  whole = readme.read_text(encoding='utf-8')
  before, begin, rest = whole.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not (begin and end):
    raise ValueError(f'{readme} has no {BEGIN} followed by {END}: put them where results belong.')
  readme.write_text(f'{before}{BEGIN}\n\n{text}\n{END}{after}', encoding='utf-8')
