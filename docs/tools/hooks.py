"""Hooks of `mkdocs build`: the pages that lie outside docs/ or are made of something else.

With BYOLJAX_DOCS_RUN=1 the notebooks are run, a minute each, and shown with their outputs.
"""

import os
import pathlib
import tempfile
from typing import Any

from mkdocs.structure.files import File
import notebooks
import pages
import recipe_pages

# Page of the site -> file of the repository, for the links.
_origins: dict[str, str] = {}


def on_files(files: Any, config: Any) -> Any:
  """Adds what the pages need and docs/ does not hold."""
  _origins.clear()
  _origins.update(pages.sources())
  files.append(File.generated(config, 'recipes.md', content=recipe_pages.page()))
  for page, origin in list(_origins.items()):
    path = pages.ROOT / origin
    if origin.endswith('.ipynb'):
      text = _notebook(path)
    else:
      text = path.read_text()
    if files.get_file_from_path(page) is None:
      files.append(File.generated(config, page, content=text))
    for link in pages.links(text):
      _add_linked(files, config, pages.target(origin, link))
  config.nav = pages.expanded(config.nav, [f.src_uri for f in files.documentation_pages()])
  return files


def on_page_markdown(markdown: str, page: Any, **unused: Any) -> str:
  """Rewrites the links of a page that has another place in the repository."""
  origin = _origins.get(page.file.src_uri)
  return pages.rewritten(markdown, origin, page.file.src_uri) if origin else markdown


def _add_linked(files: Any, config: Any, target: str) -> None:
  """A linked file that is no page yet: shown as code, or copied."""
  found, path = pages.site_path(target), pages.ROOT / target
  if files.get_file_from_path(found) is not None or found in _origins or not path.is_file():
    return
  if found.startswith('source/'):
    file = File.generated(config, found, content=pages.shown(target))
    file.inclusion = _not_in_nav()
  else:
    file = File.generated(config, found, abs_src_path=str(path))
  files.append(file)


def _not_in_nav() -> Any:
  from mkdocs.structure.files import InclusionLevel

  return InclusionLevel.NOT_IN_NAV


def _notebook(path: pathlib.Path) -> str:
  cells = notebooks.read(path)
  if os.environ.get('BYOLJAX_DOCS_RUN') != '1':
    return notebooks.markdown(cells)
  here = pathlib.Path.cwd()
  with tempfile.TemporaryDirectory() as workdir:
    os.chdir(workdir)
    try:
      return notebooks.markdown(cells, notebooks.run(cells))
    finally:
      os.chdir(here)
