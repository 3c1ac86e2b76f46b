"""Which pages the site has, where they come from in the repository, and how their links change.

A page's Markdown is written for the repository: its links are relative to its own place there. The
site holds the same files at other places (`site_path`), so links are rewritten. A linked file that
is no page becomes one: sources are shown as code, anything else is copied.
"""

from collections.abc import Callable, Iterator
import os
import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
RENAMED = {
  'README.md': 'index.md',
  'CONTRIBUTING.md': 'contributing.md',
  'SECURITY.md': 'reporting.md',
  'CHANGELOG.md': 'changelog.md',
}
# Folders that have a page of their own, and not the one of their README.
FOLDERS = {'configs': 'recipes.md'}
# Suffixes of files that a link shows as a page, with the language of their code.
SHOWN = {'.py': 'python', '.toml': 'toml', '.txt': 'text', '': 'text'}
_LINK = re.compile(r'(\]\()([^)\s]+)((?:\s+"[^"]*")?\))')
_CODE = re.compile(r'^(```.*?^```[^\n]*\n?|(?: {4}|\t)[^\n]*\n)|(`[^`\n]+`)', re.S | re.M)


def outside() -> list[str]:
  """Pages that lie outside docs/, as paths in the repository."""
  reports = sorted(ROOT.glob('experiments/**/README.md'))
  return [*RENAMED, *(path.relative_to(ROOT).as_posix() for path in reports)]


def site_path(path: str) -> str:
  """Where the site keeps a file of the repository; both relative, with forward slashes."""
  if path in RENAMED or path in FOLDERS:
    return RENAMED.get(path) or FOLDERS[path]
  path = path.removeprefix('docs/')
  if path.endswith('.ipynb'):
    return path.removesuffix('.ipynb') + '.md'
  suffix = posixpath.splitext(path)[1]
  return f'source/{path}.md' if suffix in SHOWN else path


def links(text: str) -> Iterator[str]:
  """Targets of the relative links of a Markdown text, code left out, anchors included."""
  for match in _LINK.finditer(_CODE.sub('', text)):
    if not re.match(r'[a-z]+:', match.group(2)):
      yield match.group(2)


def target(origin: str, link: str) -> str:
  """The path in the repository that a link of the page `origin` leads to, without its anchor.

  A folder stands for its README, as it does where repositories are browsed.
  """
  name = link.partition('#')[0]
  path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), name)) if name else origin
  is_folder = (ROOT / path).is_dir() and path not in FOLDERS
  return posixpath.join(path, 'README.md') if is_folder else path


def rewritten(text: str, origin: str, page: str) -> str:
  """The text of `origin` with the links that it needs as the site's `page`."""

  def change(match: re.Match) -> str:
    link = match.group(2)
    if re.match(r'[a-z]+:', link) or link.startswith('#'):
      return match.group(0)
    found = site_path(target(origin, link))
    relative = posixpath.relpath(found, posixpath.dirname(page) or '.')
    anchor = link.partition('#')[1] + link.partition('#')[2]
    return f'{match.group(1)}{relative}{anchor}{match.group(3)}'

  return _outside_code(text, lambda part: _LINK.sub(change, part))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
  parts, end = [], 0
  for code in _CODE.finditer(text):
    parts += [change(text[end : code.start()]), code.group(0)]
    end = code.end()
  return ''.join([*parts, change(text[end:])])


def shown(path: str) -> str:
  """A source file as a page."""
  language = SHOWN[posixpath.splitext(path)[1]]
  text = (ROOT / path).read_text()
  fence = '`' * (max((len(run) for run in re.findall(r'`{3,}', text)), default=2) + 1)
  return f'# {path}\n\n{fence}{language}\n{text}\n{fence}\n'


def expanded(nav: list, pages: list[str]) -> list:
  """The navigation with every `folder/*.md` replaced by the pages that it does not name already."""
  named = set(_leaves(nav))

  def expand(entries: list) -> list:
    found = []
    for entry in entries:
      if isinstance(entry, dict):
        ((title, value),) = entry.items()
        found.append({title: expand(value) if isinstance(value, list) else value})
      elif '*' in entry:
        pattern = re.compile(re.escape(entry).replace(r'\*', '[^/]+'))
        found += sorted(page for page in pages if pattern.fullmatch(page) and page not in named)
      else:
        found.append(entry)
    return found

  return expand(nav)


def _leaves(nav: list) -> Iterator[str]:
  for entry in nav:
    value = next(iter(entry.values())) if isinstance(entry, dict) else entry
    if isinstance(value, list):
      yield from _leaves(value)
    else:
      yield value


def sources() -> dict[str, str]:
  """{page of the site: file of the repository} of everything that is written by hand."""
  docs = [path.relative_to(ROOT).as_posix() for path in _markdown(ROOT / 'docs')]
  notebooks = [p.relative_to(ROOT).as_posix() for p in sorted(ROOT.glob('docs/notebooks/*.ipynb'))]
  return {site_path(path): path for path in [*outside(), *docs, *notebooks]}


def _markdown(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  for where, _, names in sorted(os.walk(folder)):
    yield from (pathlib.Path(where) / name for name in sorted(names) if name.endswith('.md'))
