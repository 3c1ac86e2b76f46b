"""The live page: what it shows, who may read it, and that it follows runs that train."""

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import threading
from urllib.parse import urlencode

import pytest

from byoljax import cli
from byoljax.config import ConfigError
from byoljax.report import curves
from byoljax.web import server as server_lib
from byoljax.web.shelf import Record, Shelf
from tests.paths import ROOT
from tests.report.test_page import browser
from tests.workdir.test_listing import ROWS, make

PNG = b'\x89PNG\r\n\x1a\n' + b'0' * 20


@pytest.fixture
def runs(tmp_path):
  """Three runs, one of them with everything, and a secret beside them."""
  folder = tmp_path / 'runs'
  run = make(folder / 'a', ROWS, saved=[10])
  make(folder / 'group' / 'b c', ROWS[:2])
  make(folder / 'empty')
  (run / 'views.png').write_bytes(PNG)
  (run / 'curves.png').write_bytes(PNG)
  (run / 'report').mkdir()
  (run / 'report' / 'map.png').write_bytes(PNG + b'map')
  (run / 'report.html').write_text('<p>report</p>')
  (run / 'no.png').write_text('text')
  (run / 'run.log').write_text(''.join(f'line {i}\n' for i in range(40)))
  scores = {'knn': {'top1': 0.5}, 'linear': {'top1': 0.75}}
  (run / 'results.json').write_text(json.dumps({'result': {'byol': scores}}))
  (tmp_path / 'secret.png').write_bytes(PNG + b'secret')
  os.symlink(tmp_path / 'secret.png', run / 'link.png')
  return folder


@pytest.fixture
def served(runs):
  with server_lib.Server(Shelf(runs, rest=0), 0) as server:
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def ask(server, path, method='GET', host='localhost', **headers):
  """(status, headers, content) of one request."""
  connection = http.client.HTTPConnection(server_lib.HOST, server.server_port, timeout=10)
  connection.putrequest(method, path, skip_host=True)
  for name, value in {'Host': host, **headers}.items():
    if value is not None:
      connection.putheader(name.replace('_', '-'), value)
  connection.endheaders()
  answer = connection.getresponse()
  content = answer.read()
  connection.close()
  return answer.status, answer.headers, content


def data(server, path, **fields):
  status, _, content = ask(server, f'{path}?{urlencode(fields)}')
  assert status == 200, content
  return json.loads(content)


def test_runs_and_their_details(served):
  found = {run['name']: run for run in data(served, '/api/runs')}
  assert list(found) == ['a', 'empty', 'group/b c']
  assert (found['a']['status'], found['a']['best'], found['empty']['best']) == (
    'finished', 0.75, None
  )  # fmt: skip
  about = data(served, '/api/details', run='a')
  assert about['settings'] == {'task': 'pretrain', 'method.name': 'byol'}
  assert about['facts']['total_steps'] == '10' and about['report']
  assert [each['name'] for each in about['pictures']] == ['views.png', 'report/map.png']
  assert about['log'].splitlines()[0] == 'line 25' and about['log'].endswith('line 39')
  ((title, rows),) = about['tables'].items()
  assert title.startswith('Last step') and rows == [
    {'encoder': 'byol', 'k-NN top-1': '50.0%', 'linear top-1': '75.0%'}
  ]
  nothing = data(served, '/api/details', run='empty')
  assert not (nothing['tables'] or nothing['pictures'] or nothing['report'] or nothing['log'])


def test_files_that_are_damaged_or_being_written_are_passed_over(served, runs):
  (runs / 'a' / 'results.json').write_text('{"result": {"byol": 3')
  evaluation = runs / 'a' / 'evals' / 'knn-online-10'
  evaluation.mkdir(parents=True)
  (evaluation / 'result.json').write_text('{"result": {}, "config": {"task": "finetune"}}')
  assert data(served, '/api/details', run='a')['tables'] == {}
  (runs / 'a' / 'results.json').write_text('[' * 100_000)
  assert data(served, '/api/details', run='a')['tables'] == {}
  (runs / 'a' / 'results.json').write_text('{"result": null}')
  assert data(served, '/api/curves', run='a')['known'] == []


def test_nothing_waits_for_a_pipe_in_the_place_of_a_file(served, runs):
  run = runs / 'a'
  (run / 'evals' / 'knn').mkdir(parents=True)
  for name in ('metrics.jsonl', 'run.log', 'lock', 'results.json', 'evals/knn/result.json'):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
  (runs / 'empty' / 'config.json').unlink()
  os.mkfifo(runs / 'empty' / 'config.json')
  found = {each['name']: each for each in data(served, '/api/runs')}
  assert list(found) == ['a', 'group/b c'] and found['a']['best'] is None
  about = data(served, '/api/details', run='a')
  assert (about['log'], about['tables']) == ('', {})
  assert data(served, '/api/curves', run='a')['series'] == {}


def test_what_is_not_as_expected_is_said_of_its_run_alone(served, runs, capfd):
  stored = json.loads((runs / 'a' / 'config.json').read_text())
  stored['facts']['steps_per_epoch'] = float('nan')
  (runs / 'a' / 'config.json').write_text(json.dumps(stored | {'versions': ['1']}))
  with (runs / 'group' / 'b c' / 'metrics.jsonl').open('a') as file:
    file.write(f'{{"step": 8, "loss": {10**50}}}\n')
  for path in ('curves?run=a', 'details?run=a', 'curves?run=group/b%20c'):
    assert ask(served, f'/api/{path}')[::2] == (500, b'not readable\n'), path
  assert ask(served, '/api/details?run=group/b%20c')[0] == ask(served, '/api/runs')[0] == 200
  assert capfd.readouterr().err == ''


def test_curves_follow_a_run(served, runs):
  record = runs / 'a' / 'metrics.jsonl'
  before = data(served, '/api/curves', run='a')
  assert before['series'] == {'loss': [[2, 4], [3, 2]], 'knn/top1': [[2, 4, 6], [0.25, 0.75, 0.5]]}
  assert before['steps_per_epoch'] == 5
  with record.open('a') as file:
    file.write('{"step": 8, "loss": 1.5}\n{"step": 9, "lo')
    file.flush()
    assert data(served, '/api/curves', run='a')['series']['loss'] == [[2, 4, 8], [3, 2, 1.5]]
    file.write('ss": 1.25}\n')
  assert data(served, '/api/curves', run='a')['series']['loss'][1] == [3, 2, 1.5, 1.25]
  # A run that resumes from an earlier checkpoint puts another file in its place.
  (runs / 'new').write_text('{"step": 2, "loss": 7}\n')
  os.replace(runs / 'new', record)
  assert data(served, '/api/curves', run='a')['series'] == {'loss': [[2], [7]]}
  assert data(served, '/api/curves', run='empty')['series'] == {}


def test_only_what_was_appended_is_read(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step"')
  record = Record(tmp_path)
  assert record.rows() == [{'step': 1}]
  with path.open('r+') as file:  # As long as before: would be seen if it was read again.
    file.write('{"step": 7}\n')
  with path.open('a') as file:
    file.write(': 2}\nno row\n[3]\n')
  assert record.rows() == [{'step': 1}, {'step': 2}]


def test_a_file_that_is_replaced_while_it_is_read_is_read_next_time(tmp_path):
  """By one that has become longer."""
  path, new = tmp_path / 'metrics.jsonl', tmp_path / 'new'
  path.write_text('{"step": 1}\n')
  new.write_text('{"step": 2}\n{"step": 3}\n')

  class Replaced:
    is_file = staticmethod(path.is_file)

    def open(self, mode):
      file = path.open(mode)
      new.replace(path)
      return file

  record = Record(tmp_path)
  record._path = Replaced()
  assert record.rows() == [{'step': 1}]
  record._path = path
  assert record.rows() == [{'step': 2}, {'step': 3}]


def test_long_records_become_curves_of_some_hundred_points(tmp_path):
  make(tmp_path / 'run', [{'step': step, 'loss': 2.0 * step} for step in range(1, 3001)])
  x, y = Shelf(tmp_path).curves('run')['series']['loss']
  assert len(x) == len(y) == 300 and y == [2 * step for step in x] and x[0] == 5.5


def test_pictures_and_the_report(served):
  status, headers, content = ask(served, '/picture?run=a&name=report/map.png')
  assert (status, headers['Content-Type'], content) == (200, 'image/png', PNG + b'map')
  status, headers, content = ask(served, '/report?run=a')
  assert (status, content) == (200, b'<p>report</p>')
  policy = headers['Content-Security-Policy']
  assert 'sandbox allow-scripts;' in policy and 'allow-same-origin' not in policy
  assert "default-src 'none'" in policy and 'connect-src' not in policy


@pytest.mark.parametrize(
  'path',
  [
    '/config.json', '/../secret.png', '/%2e%2e/secret.png', '//etc/passwd', '/a/views.png',
    '/picture?run=a&name=../../secret.png', '/picture?run=a&name=link.png',
    '/picture?run=a&name=no.png', '/picture?run=a&name=config.json', '/picture?run=a',
    '/picture?run=a&name=/etc/passwd', '/picture?run=..&name=secret.png',
    '/picture?run=a/..&name=views.png', '/picture?run=&name=views.png', '/api/details?run=..',
    '/api/details?run=/etc', '/api/curves?run=a%00', '/api/details', '/report?run=empty',
    '/report?run=../runs/a', '/api', '/page.js',
  ],
)  # fmt: skip
def test_nothing_else_can_be_read(served, path):
  assert ask(served, path)[::2] == (404, b'not there\n')


def test_what_is_no_address_is_refused(served, capfd):
  for path in ('http://[/', 'http://[::1/api/runs', 'http://[x]/'):
    assert ask(served, path)[::2] == (400, b'no address\n'), path
  assert capfd.readouterr().err == ''


def test_a_report_that_leads_elsewhere_is_not_there(served, runs, tmp_path):
  os.symlink(tmp_path / 'secret.png', runs / 'empty' / 'report.html')
  assert ask(served, '/report?run=empty')[0] == 404


def test_only_this_computer_is_answered(served):
  assert served.socket.getsockname()[0] == '127.0.0.1'
  for host in ('localhost', 'localhost:9', '127.0.0.1:80', '[::1]:1', 'LOCALHOST'):
    assert ask(served, '/api/runs', host=host)[0] == 200, host
  for host in ('byoljax.example', '127.0.0.1.example:8321', 'localhost.example', '', None,
               'example:127.0.0.1', '192.168.0.1:8321', 'user@localhost'):  # fmt: skip
    status, _, content = ask(served, '/api/runs', host=host)
    assert status == 403 and b'runs' not in content, host


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])
def test_nothing_can_be_written(served, runs, method):
  before = {path: path.stat().st_mtime_ns for path in runs.rglob('*')}
  assert ask(served, '/api/runs', method)[0] == 501
  assert {path: path.stat().st_mtime_ns for path in runs.rglob('*')} == before


def test_what_has_not_changed_is_not_sent_again(served, runs):
  _, headers, content = ask(served, '/api/curves?run=a')
  assert content and headers['Content-Type'] == 'application/json'
  tag = {'If_None_Match': headers['ETag']}
  assert ask(served, '/api/curves?run=a', **tag)[::2] == (304, b'')
  with (runs / 'a' / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 8, "loss": 1.5}\n')
  assert ask(served, '/api/curves?run=a', **tag)[0] == 200
  status, headers, content = ask(served, '/api/runs', 'HEAD')
  assert (status, content) == (200, b'') and int(headers['Content-Length']) > 100


def test_the_page_brings_everything_and_runs_only_its_own_script(served):
  status, headers, content = ask(served, '/')
  page, policy = content.decode(), headers['Content-Security-Policy']
  script = re.findall(r'<script>(.*?)</script>', page, re.S)
  digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
  assert status == 200 and len(script) == 1 and f"script-src 'sha256-{digest}'" in policy
  assert set(re.findall(r'https?://[^\'"]*', page)) == {'http://www.w3.org/2000/svg'}
  assert 'innerHTML' not in page, 'names of runs are text, never markup'
  about = json.loads(re.search(r'id="about">(.*?)</script>', page, re.S)[1])
  assert [panel['title'] for panel in about['panels']][:2] == ['Loss', 'Accuracy']
  for name in ('X-Content-Type-Options', 'Cross-Origin-Resource-Policy', 'Referrer-Policy'):
    assert headers[name]


def test_a_directory_cannot_end_the_script(tmp_path):
  odd = tmp_path / '<script>{script}'
  page, _ = server_lib.page(odd)
  assert page.count(b'<script') == 2
  assert json.dumps(str(odd)).replace('<', '\\u003c').encode() in page


def test_mistakes_are_one_sentence(served, runs, capsys):
  for port in (served.server_port, 70000):
    with pytest.raises(ConfigError, match=f'port {port} of 127.0.0.1 cannot be used'):
      server_lib.serve(runs, port, print)
  assert cli.run(['web', str(runs / 'nothing')]) == 2
  assert capsys.readouterr().err.startswith("error: there is no directory '")
  assert cli.parse(['web']).options.port == 8321


def test_how_many_runs_there_are_is_said(runs, monkeypatch):
  monkeypatch.setattr(server_lib.Server, 'serve_forever', lambda self: None)
  said = []
  for folder in (runs, runs / 'group'):
    server_lib.serve(folder, 0, said.append)
  assert [text.partition(' of ')[0] for text in said] == ['3 runs', '1 run']


@pytest.mark.skipif(shutil.which('node') is None, reason='needs node')
def test_the_address_may_name_any_run():
  script = (ROOT / 'byoljax' / 'web' / 'page.js').read_text()
  function = re.search(r'^function named.*?^}', script, re.S | re.M)[0]
  said = f'{function}; console.log(JSON.stringify(["#a,lr%2010%25,x%2Cy", "#1%", ""].map(named)))'
  done = subprocess.run(['node', '-e', said], capture_output=True, text=True, check=True)
  assert json.loads(done.stdout) == [['a', 'lr 10%', 'x,y'], [], []]


@pytest.mark.skipif(shutil.which('node') is None, reason='needs node')
def test_runs_of_any_name_are_compared():
  """Objects would put '1' first, and have one place for a run and a column of the same name."""
  script = (ROOT / 'byoljax' / 'web' / 'page.js').read_text()
  function = re.search(r'^function differences.*?^}', script, re.S | re.M)[0]
  settings = '[{ lr: "1", seed: "0" }, { lr: "2", seed: "0", tau: "1" }, { lr: "1", seed: "0" }]'
  said = f'console.log(JSON.stringify(differences(["setting", "2", "1"], {settings})))'
  done = subprocess.run(
    ['node', '-e', f'{function}; {said}'], capture_output=True, text=True, check=True
  )
  assert json.loads(done.stdout) == [
    ['setting', 'setting', '2', '1'], [['lr', '1', '2', '1'], ['tau', '–', '1', '–']]
  ]  # fmt: skip


@pytest.mark.skipif(shutil.which('node') is None, reason='needs node')
def test_lines_that_share_a_color_differ_in_their_dashes():
  home = ROOT / 'byoljax' / 'web'
  page, charts = (home / 'page.js').read_text(), (home / 'charts.js').read_text()
  constants = '\n'.join(re.findall(r'^const (?:COLORS|CURVES|DASHES) .*?;$', page, re.S | re.M))
  said = """
    const picked = [...Array(32).keys()], series = { a: [[0], [1]], b: [[0], [1]], c: [[0], [1]] };
    const state = { picked, curves: new Map(picked.map(name => [name, { data: { series } }])) };
    const $ = () => ({ value: 'step' }), curves = ['a', 'b', 'c'].map(key => ({ key }));
    console.log(JSON.stringify(lines({ curves }).map(line => [line.color, line.dash])));
  """
  done = subprocess.run(
    ['node', '-e', f'{constants}\n{charts}\n{said}'], capture_output=True, text=True, check=True
  )
  looks = [tuple(look) for look in json.loads(done.stdout)]
  assert len(looks) == len(set(looks)) == 32 * 3
  assert max(len(p.curves) for p in curves.PANELS) <= 3


@pytest.mark.skipif(browser() is None, reason='no Chromium on PATH or in BYOLJAX_BROWSER')
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('size', [(1280, 800), (390, 844)])
def test_in_a_browser(served, runs, size, scheme):
  playwright = pytest.importorskip('playwright.sync_api', reason='needs playwright')
  said = []
  with (
    playwright.sync_playwright() as play,
    play.chromium.launch(executable_path=browser(), args=['--no-sandbox']) as started,
  ):
    page = started.new_page(
      viewport=dict(zip(('width', 'height'), size, strict=True)), color_scheme=scheme
    )
    page.on('pageerror', lambda error: said.append(str(error)))
    page.on('console', lambda message: said.append(message.text))
    page.goto(f'{served.url}#a,group%2Fb%20c')
    page.wait_for_selector('#panels .chart')
    assert page.locator('#runs tbody tr').count() == 3
    assert page.locator('#panels .chart').first.locator('polyline').count() == 2, 'overlaid'
    assert page.evaluate('document.documentElement.scrollWidth') <= size[0]
    with (runs / 'a' / 'metrics.jsonl').open('a') as file:
      file.write('{"step": 1234, "loss": 1.5}\n')
    page.get_by_text('1,234 of 10').wait_for(timeout=10_000)
  assert not said
