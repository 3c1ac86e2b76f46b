"""Data sets of Hugging Face's hub by name, 'hf:owner/name': fetched, then read as packed files.

Of a repository its Parquet files are fetched; of one without any its tars, zips and Arrow files,
else what the hub itself has converted to Parquet (the branch `refs/convert/parquet`). Where it has
several configurations, each a folder, the name says which: 'hf:owner/name/configuration'. Nothing
that could execute is fetched: a loading script is not, and a set that consists of one is read as
the hub has converted it.
"""

import functools
import os
import re

from byoljax import hub
from byoljax.data.sources import packed_files, table_file

PREFIX = hub.PREFIX
_CONVERTED = 'refs/convert/parquet'
# A README.md says what there is; every repository has the other file, so that something is found.
_ABOUT = ('README.md', '.gitattributes')
_PARQUET = ('*.parquet',)
_OTHERS = ('*.tar', '*.zip', '*.arrow', '*state.json', '*dataset_info.json')
_PARTS = re.compile(r'([^/@]+/[^/@]+)(?:/([^@]+))?(?:@(.+))?')


@functools.cache
def folder_of(name: str, cache: str = '') -> str:
  """The folder that a data set of the hub lies in, fetched unless it is there already.

  Args:
    name: 'hf:owner/name', 'hf:owner/name/configuration', and '@revision' behind either.
    cache: where to keep what is fetched; '' for the hub's own cache.

  Raises:
    ValueError: an extra is not installed, no such name, several configurations, no file that can be
      read, or the hub does not answer.
  """
  found = _PARTS.fullmatch(name.removeprefix(PREFIX))
  if found is None:
    raise ValueError(
      f"'{name}' is no data set of the hub: write hf:owner/name, hf:owner/name/configuration, "
      'hf:owner/name@revision.'
    )
  repository, inner, revision = (part or '' for part in found.groups())
  table_file.require_pyarrow("The hub's")

  def fetched(patterns: tuple[str, ...], revision: str) -> str:
    options = {'cache_dir': os.path.expanduser(cache)} if cache else {}
    return hub.fetch(name, repository, patterns, revision=revision, repo_type='dataset', **options)

  if not inner:
    several = packed_files.configurations(fetched(_ABOUT, revision))
    if len(several) > 1:
      raise ValueError(
        f"'{name}' holds several data sets, {', '.join(several)}: write which, "
        f'{PREFIX}{repository}/{several[0]}{revision and "@" + revision}.'
      )
  tries = [(_PARQUET, revision), (_OTHERS, revision)]
  tries += [] if revision else [(_PARQUET, _CONVERTED)]
  for patterns, place in tries:
    wanted = tuple(f'{inner}/{pattern}' for pattern in patterns) if inner else patterns
    there = os.path.join(fetched((*_ABOUT, *wanted), place), inner)
    if os.path.isdir(there) and packed_files.holds(there):
      return there
  what = f'in {inner!r} ' if inner else ''
  raise ValueError(
    f"'{name}' has no Parquet, tar, zip or Arrow file {what}that could be read: download it, and "
    'name the folder of its images with --data.name=folder.'
  )
