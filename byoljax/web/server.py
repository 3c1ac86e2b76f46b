"""The server of the page: loopback only, reading only, the standard library only.

    /                               the page, with its style and its script inside
    /api/runs                       all runs
    /api/curves?run=NAME            metrics of a run
    /api/details?run=NAME           settings, results, names of pictures, end of the log
    /picture?run=NAME&name=NAME     PNG
    /report?run=NAME                the run's report.html

It listens on 127.0.0.1 and answers only requests that were made to a name of this computer: a page
of another site cannot make a browser read it by letting its own name point here (DNS rebinding).
Nothing can be written, and the policy that is sent with every answer keeps the page from loading
anything from elsewhere. A report may run its script, without access to anything else here.
"""

import base64
from collections.abc import Callable
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
import json
import pathlib
import socketserver
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

from byoljax.config import ConfigError
from byoljax.report import curves, evaluations
from byoljax.version import __version__
from byoljax.web.shelf import Shelf
from byoljax.wording import counted

HOST = '127.0.0.1'
# What a browser on this computer calls it; the port may be that of a tunnel.
_OWN_NAMES = ('127.0.0.1', 'localhost', '[::1]')
_HEADERS = {
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cache-Control': 'no-cache',
}
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_REPORT_POLICY = (
  f"{_NOTHING}; sandbox allow-scripts; img-src data:; style-src 'unsafe-inline'; "
  "script-src 'unsafe-inline'"
)
Answer = tuple[bytes, str, str]  # content, type, policy


class Server(ThreadingHTTPServer):
  """The server, listening.

  Args:
    shelf: the runs.
    port: 0 for any that is free.

  Raises:
    ConfigError: the port is taken, or may not be used.
  """

  daemon_threads = True

  def __init__(self, shelf: Shelf, port: int):
    self.shelf = shelf
    self.page, self.policy = page(shelf.directory)
    try:
      super().__init__((HOST, port), _Handler)
    except (OSError, OverflowError) as error:
      raise ConfigError(
        f'port {port} of {HOST} cannot be used ({error}): choose another with --port, 0 for any '
        'that is free.'
      ) from error

  def server_bind(self) -> None:
    """Binds without looking up the computer's name, for which the base class asks the network."""
    socketserver.TCPServer.server_bind(self)
    self.server_name, self.server_port = HOST, int(self.server_address[1])

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Says nothing of browsers that went away."""
    if not isinstance(sys.exception(), ConnectionError | TimeoutError):
      super().handle_error(request, client_address)

  @property
  def url(self) -> str:
    """The page's address."""
    return f'http://{HOST}:{self.server_port}/'


def page(directory: pathlib.Path) -> tuple[bytes, str]:
  """The page with everything inside, and the policy that allows its own script alone."""
  files = resources.files('byoljax.web')
  text, style, *scripts = (
    files.joinpath(name).read_text(encoding='utf-8')
    for name in ('page.html', 'page.css', 'page.js', 'charts.js')
  )
  script = ''.join(scripts)
  about = {
    'directory': str(directory),
    'version': __version__,
    'panels': [
      panel._asdict() | {'curves': [curve._asdict() for curve in panel.curves]}
      for panel in curves.PANELS
    ],
  }
  data = json.dumps(about).replace('<', '\\u003c')
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = (
    f"{_NOTHING}; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{digest}'"
  )
  whole = text.replace('{style}', style).replace('{script}', script).replace('{about}', data)
  return whole.encode(), policy


class _Handler(BaseHTTPRequestHandler):
  """One connection."""

  server: Server
  protocol_version = 'HTTP/1.1'
  server_version, sys_version = 'byoljax', ''
  timeout = 60  # seconds without a request

  def do_GET(self) -> None:
    """Answers with the content, or with a status and one word."""
    host = self.headers.get('Host', '')
    if _without_port(host) not in _OWN_NAMES:
      return self._send(403, (b'this page is for this computer alone\n', 'text/plain', _NOTHING))
    try:
      address = urlsplit(self.path)
    except ValueError:
      return self._send(400, (b'no address\n', 'text/plain', _NOTHING))
    answer = _ANSWERS.get(address.path)
    query = {name: values[-1] for name, values in parse_qs(address.query).items()}
    try:
      if answer is None:
        raise KeyError(address.path)
      status, made = 200, answer(self.server, query)
    except (KeyError, OSError, ConfigError):
      status, made = 404, (b'not there\n', 'text/plain', _NOTHING)
    except (ArithmeticError, *evaluations.ODD):  # A file is damaged, or of another version.
      status, made = 500, (b'not readable\n', 'text/plain', _NOTHING)
    return self._send(status, made)

  do_HEAD = do_GET

  def _send(self, status: int, answer: Answer) -> None:
    content, kind, policy = answer
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    same = status == 200 and self.headers.get('If-None-Match') == tag
    self.send_response(304 if same else status)
    for name, value in _HEADERS.items():
      self.send_header(name, value)
    self.send_header('Content-Security-Policy', policy)
    self.send_header('ETag', tag)
    if not same:
      self.send_header('Content-Type', kind)
      self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if not same and self.command != 'HEAD':
      self.wfile.write(content)

  def log_message(self, format: str, *args: Any) -> None:
    """Requests are not logged."""


def _without_port(host: str) -> str:
  name, colon, port = host.rpartition(':')
  return name.lower() if colon and port.isdigit() else host.lower()


def _json(value: Any) -> Answer:
  text = json.dumps(value, allow_nan=False, separators=(',', ':'))
  return text.encode(), 'application/json', _NOTHING


_ANSWERS: dict[str, Callable[[Server, dict[str, str]], Answer]] = {
  '/': lambda server, _: (server.page, 'text/html; charset=utf-8', server.policy),
  '/api/runs': lambda server, _: _json([run._asdict() for run in server.shelf.runs()]),
  '/api/curves': lambda server, query: _json(server.shelf.curves(query['run'])),
  '/api/details': lambda server, query: _json(server.shelf.details(query['run'])),
  '/picture': lambda server, query: (
    server.shelf.picture(query['run'], query['name']), 'image/png', _NOTHING
  ),
  '/report': lambda server, query: (
    server.shelf.report(query['run']), 'text/html; charset=utf-8', _REPORT_POLICY
  ),
}  # fmt: skip


def serve(directory: pathlib.Path, port: int, say: Callable[[str], object]) -> None:
  """Serves until the process is ended.

  Args:
    directory: that holds runs.
    port: 0 for any that is free.
    say: is told the address.

  Raises:
    ConfigError: no such directory, or the port cannot be used.
  """
  shelf = Shelf(directory)
  count = len(shelf.runs())
  with Server(shelf, port) as server:
    where = f"{counted(count, 'run')} of '{directory}' at {server.url}"
    say(f'{where}\nFor this computer alone; Ctrl-C ends it.')
    server.serve_forever()
