"""What the results of these scripts are kept with, and the tally of the kills as a table."""

from collections.abc import Sequence
import datetime
import json
import pathlib
import shlex
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'experiments' / 'bench')]


def facts(script: str, given: Sequence[str]) -> dict[str, Any]:
  """The command, the date, the machine and the versions."""
  import machine

  from byoljax.version import __version__, versions

  return {
    'command': shlex.join(['python', f'experiments/faults/{script}.py', *given]),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes'),
    'hardware': machine.facts(),
    'versions': {'byoljax': __version__, **versions()},
  }


def write_kills(path: pathlib.Path, cases: list[dict[str, Any]], given: Sequence[str]) -> None:
  """The JSON of all cases of `kill.py`, and its table into README.md beside it."""
  whole = facts('kill', given) | {
    'kills': sum(len(case['kills']) for case in cases),
    'equal': all(case['equal'] for case in cases),
    'cases': cases,
  }
  path.write_text(json.dumps(whole, indent=1) + '\n')
  readme = path.with_name('README.md')
  if readme.exists():
    head = readme.read_text().partition('<!-- results -->')[0]
    readme.write_text(f'{head}<!-- results -->\n\n{table(cases)}')


def table(cases: list[dict[str, Any]]) -> str:
  """The kills as a Markdown table."""
  lines = [
    '| method | processes | kills | while starting | training | saving | half-written saves left '
    '| last checkpoint and metrics |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for case in cases:
    modes = [
      sum(kill['while'] == mode for kill in case['kills'])
      for mode in ('starting', 'training', 'saving')
    ]
    torn = sum(bool(kill['half_written']) for kill in case['kills'])
    cells = [case['method'], case['processes'], len(case['kills']), *modes, torn]
    verdict = 'bit-equal' if case['equal'] else 'DIFFERENT'
    lines.append(f'| {" | ".join(map(str, cells))} | {verdict} |')
  return '\n'.join(lines) + '\n'
