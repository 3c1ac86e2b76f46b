"""What tests of several sources share."""

import pytest


@pytest.fixture(scope='module')
def own_cache(tmp_path_factory):
  """A cache without anything in it."""
  patch = pytest.MonkeyPatch()
  patch.setenv('BYOLJAX_DATA', str(tmp_path_factory.mktemp('cache')))
  yield
  patch.undo()
