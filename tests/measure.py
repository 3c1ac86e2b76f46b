"""A plugin that tells what the tests cost and how far each comparison is from its tolerance.

    python -m pytest -p tests.measure

At the end it lists the CPU seconds of every file, child processes included, and the comparisons
that use more than a fifth of what they allow: those could fail on another processor, which rounds
and adds up in another order. With `--xla_cpu_max_isa=AVX2` or `SSE4_2` in XLA_FLAGS this one
behaves like it. `MEASURED=<file>` writes all of it there, as JSON.
"""

import collections
import contextlib
import json
import os
import pathlib
import sys
import time

import numpy as np
import pytest

_HERE = pathlib.Path(__file__).parent
_SHARE = 0.2
_used: dict[str, float] = {}  # Of the running test: where -> largest share of the tolerance.


def _place():
  """The test that compares, and the line; comparisons of helpers belong to who called them."""
  frame, here, names = sys._getframe(2), None, []
  while frame is not None:
    path = pathlib.Path(frame.f_code.co_filename)
    if _HERE in path.parents and path.name != 'measure.py' and '<' not in frame.f_code.co_name:
      here = here or (path.relative_to(_HERE), frame.f_lineno)
      names.append(frame.f_code.co_name)
    frame = frame.f_back
  return f'{here[0]}:{here[1]} ({" < ".join(names)})' if here else None


def _record(found, wanted, rtol, atol):
  place = _place()
  if place is None:
    return
  with contextlib.suppress(TypeError, ValueError), np.errstate(all='ignore'):
    found, wanted = (np.asarray(x, np.float64) for x in (found, wanted))
    error, allowed = np.abs(found - wanted), atol + rtol * np.abs(wanted)
    share = np.where(error > 0, error / allowed, 0.0)
    _used[place] = max(_used.get(place, 0.0), float(np.nanmax(share, initial=0.0)))


def _watch():
  compare = np.testing.assert_allclose

  def assert_allclose(actual, desired, rtol=1e-7, atol=0, *arguments, **named):
    _record(actual, desired, rtol, atol)
    return compare(actual, desired, rtol, atol, *arguments, **named)

  np.testing.assert_allclose = assert_allclose
  approx = pytest.approx

  def watched(expected, rel=None, abs=None, nan_ok=False):
    wanted = approx(expected, rel=rel, abs=abs, nan_ok=nan_ok)
    kind = type(wanted)

    def compared(self, found):
      relative = 0.0 if rel is None and abs is not None else 1e-6 if rel is None else rel
      with contextlib.suppress(Exception):
        a, b = found, expected
        if isinstance(b, dict):
          a, b = [a[k] for k in b], list(b.values())
        margins = (abs or 1e-12, relative)
        # The larger of both is allowed, not their sum.
        limit = np.maximum(margins[0], margins[1] * np.abs(np.asarray(b, np.float64)))
        _record(np.asarray(a) / limit, np.asarray(b) / limit, 0.0, 1.0)
      return kind.__eq__(self, found)

    wanted.__class__ = type(kind.__name__, (kind,), {'__eq__': compared, '__hash__': None})
    return wanted

  pytest.approx = watched


def pytest_configure(config):
  _watch()
  config.pluginmanager.register(_Summary(config), 'measured')


def _cpu():
  return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
  _used.clear()
  item.stash[_START] = (_cpu(), time.perf_counter())
  return (yield)


_START = pytest.StashKey[tuple[float, float]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  report = yield
  if call.when == 'teardown':
    cpu, wall = item.stash[_START]
    report.user_properties.append(
      ('measured', [_cpu() - cpu, time.perf_counter() - wall, dict(_used)])
    )
  return report


class _Summary:
  """Gathers in the process that prints; workers send it all in their reports."""

  def __init__(self, config):
    self.tests, self.used = {}, collections.defaultdict(lambda: (0.0, ''))
    self.worker = hasattr(config, 'workerinput')

  def pytest_runtest_logreport(self, report):
    for name, value in report.user_properties:
      if name == 'measured' and report.when == 'teardown':
        self.tests[report.nodeid] = value[:2]
        for place, share in value[2].items():
          self.used[place] = max(self.used[place], (share, report.nodeid.partition('::')[2]))

  def pytest_terminal_summary(self, terminalreporter):
    if self.worker or not self.tests:
      return
    files = collections.defaultdict(lambda: [0.0, 0.0])
    for nodeid, times in self.tests.items():
      for kind, seconds in enumerate(times):
        files[nodeid.split('::')[0]][kind] += seconds
    tell = terminalreporter.write_line
    terminalreporter.section('CPU seconds of files')
    for name, (cpu, wall) in sorted(files.items(), key=lambda item: -item[1][0]):
      tell(f'{cpu:8.1f} cpu {wall:8.1f} s  {name}')
    tell(f'{sum(cpu for cpu, _ in files.values()):8.1f} cpu in all')
    terminalreporter.section(f'comparisons that use more than {_SHARE} of their tolerance')
    for place, (share, test) in sorted(self.used.items(), key=lambda item: -item[1][0]):
      if share > _SHARE:
        tell(f'{share:6.3f}  {place}  {test}')
    if path := os.environ.get('MEASURED'):
      stored = {'tests': self.tests, 'tolerances': dict(self.used)}
      pathlib.Path(path).write_text(json.dumps(stored, indent=1))
