"""Files that are replaced whole or not at all."""

import contextlib
import subprocess
import sys

import pytest

from byoljax.workdir.files import replacing, whole_folder
from tests.paths import ROOT


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
  path = tmp_path / 'table.csv'
  path.write_text('old')
  with replacing(path, 'w') as file:
    file.write('new')
    file.flush()
    assert path.read_text() == 'old'
  assert path.read_text() == 'new' and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_alone(tmp_path):
  path = tmp_path / 'table.csv'
  path.write_text('old')
  with pytest.raises(KeyError), replacing(path, 'w') as file:
    file.write('half')
    raise KeyError('interrupted')
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_when_the_block_ends(tmp_path):
  path = tmp_path / 'above' / 'folder'
  for _ in range(2):  # Where nothing is, and where an empty folder is, also behind a link.
    with whole_folder(path) as scratch:
      (scratch / 'one').write_text('all')
      assert not (path / 'one').exists()
    assert (path / 'one').read_text() == 'all' and list(path.parent.iterdir()) == [path]
    (path / 'one').unlink()


def test_a_folder_by_another_name_is_filled(tmp_path, monkeypatch):
  (tmp_path / 'real').mkdir()
  (tmp_path / 'link').symlink_to('real')
  with whole_folder(tmp_path / 'link') as scratch:
    (scratch / 'one').write_text('all')
  assert (tmp_path / 'real' / 'one').read_text() == 'all' and (tmp_path / 'link').is_symlink()
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  with whole_folder('.') as scratch:
    (scratch / 'two').write_text('all')
  assert [each.name for each in (tmp_path / 'here').iterdir()] == ['two']


def test_half_a_folder_is_none(tmp_path):
  path = tmp_path / 'folder'
  with pytest.raises(KeyboardInterrupt), whole_folder(path) as scratch:
    (scratch / 'one').write_text('half')
    raise KeyboardInterrupt
  assert not list(tmp_path.iterdir())
  path.mkdir()
  (path / 'own').write_text('mine')
  with pytest.raises(ValueError, match='is not empty: choose another folder'), whole_folder(path):
    pass
  assert [each.name for each in tmp_path.rglob('*')] == ['folder', 'own']


@pytest.mark.parametrize('there', [False, True])
def test_what_a_killed_process_left_of_a_folder_goes(there, tmp_path):
  """And nothing else: neither what another process is writing now, nor what has such a name."""
  path = tmp_path / 'folder'
  if there:
    path.mkdir()
  program = """if True:
    import os, signal, sys
    from byoljax.workdir.files import whole_folder
    with whole_folder(sys.argv[1]) as scratch:
      (scratch / 'one').write_text('half')
      os.kill(os.getpid(), signal.SIGKILL)
  """
  subprocess.run([sys.executable, '-c', program, path], cwd=ROOT, check=False)
  place = path if there else tmp_path
  (left,) = place.glob('folder.*.tmp')
  own = tmp_path / 'folder.mine.tmp'
  own.mkdir()
  with whole_folder(path) as other:
    assert not left.exists()
    with contextlib.suppress(ValueError), whole_folder(path):
      pass
    assert other.exists()
    if not there:
      (path / 'one').unlink(missing_ok=True)
      path.rmdir()
    (other / 'one').write_text('all')
  assert (path / 'one').read_text() == 'all' and own.exists()


def test_a_place_that_is_not_there_is_named_as_it_was_given(tmp_path):
  path = tmp_path / 'nowhere' / 'sheet.png'
  with pytest.raises(FileNotFoundError) as raised, replacing(path):
    pass
  assert str(raised.value) == f"[Errno 2] No such file or directory: '{path}'"
