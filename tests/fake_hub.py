"""A small module in the place of `huggingface_hub`, for tests without a network."""

import fnmatch
import pathlib
import shutil
import types


class FakeHub(types.ModuleType):
  """Repositories as folders; what is fetched is copied, as far as the patterns allow.

  A model `owner/name` is the folder `hub/owner/name`, a data set `hub/dataset/owner/name`, and a
  branch whose name has a slash lies beside it: `hub/dataset/owner/name@refs-convert-parquet`.
  """

  def __init__(self, home):
    super().__init__('huggingface_hub')
    self.home, self.asked, self.pushed, self.known = home, [], [], True

  def snapshot_download(self, repo_id, revision, allow_patterns, repo_type=None, cache_dir=None):
    self.asked.append((repo_id, revision))
    branch = f'@{revision.replace("/", "-")}' if '/' in (revision or '') else ''
    place = pathlib.Path(repo_type or '') / f'{repo_id}{branch}'
    there = self.home / 'hub' / place
    if not there.is_dir():
      raise OSError('404 Client Error.\n\nRepository Not Found for url.')
    cache = pathlib.Path(cache_dir or self.home / 'cache') / place
    for path in sorted(there.rglob('*')):
      name = path.relative_to(there)
      if path.is_file() and any(fnmatch.fnmatch(str(name), wanted) for wanted in allow_patterns):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, cache / name)
    return str(cache)

  def HfApi(self):
    return self

  def whoami(self):
    if not self.known:
      raise OSError('Token is required.')

  def create_repo(self, repo_id, private, exist_ok):
    assert exist_ok
    self.pushed.append((repo_id, private))
    return f'https://hub.example/{repo_id}'

  def upload_folder(self, repo_id, folder_path, commit_message):
    self.message = commit_message
    shutil.copytree(folder_path, self.home / 'hub' / repo_id)
