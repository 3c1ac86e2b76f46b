"""Python code run in a process that the kernel ends when it tries to talk to anyone."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.paths import ROOT

# A filter in the kernel for this process and all that it starts, in C++ as in Python: a forbidden
# call is the end of the process. 'socket': to make a socket of the internet, IPv4 or IPv6.
# 'connect': to connect a socket of any kind, which looking up a name does, too.
SEALED = """
import ctypes, platform, socket, struct, sys
place = ('x86_64', 'aarch64').index(platform.machine())
LOAD, JUMP, RETURN, KILL, ALLOW = 0x20, 0x15, 0x06, 0x80000000, 0x7fff0000
FILTERS = {
  'socket': [
    (LOAD, 0, 0, 0), (JUMP, 0, 4, (41, 198)[place]),  # The call's number ...
    (LOAD, 0, 0, 16),                                 # ... and its first argument.
    (JUMP, 1, 0, socket.AF_INET), (JUMP, 0, 1, socket.AF_INET6),
    (RETURN, 0, 0, KILL), (RETURN, 0, 0, ALLOW),
  ],
  'connect': [
    (LOAD, 0, 0, 0), (JUMP, 0, 1, (42, 203)[place]), (RETURN, 0, 0, KILL), (RETURN, 0, 0, ALLOW),
  ],
}
program = b''.join(struct.pack('HBBI', *line) for line in FILTERS[sys.argv.pop(1)])
lines = ctypes.create_string_buffer(program, len(program))
header = ctypes.create_string_buffer(
  struct.pack('HxxxxxxP', len(program) // 8, ctypes.addressof(lines))
)
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header):
  sys.exit(77)
"""


def sealed(forbidden, code, *arguments, **environment):
  """Runs Python code in a process that ends when it makes a forbidden call."""
  found = subprocess.run(
    [sys.executable, '-c', SEALED + textwrap.dedent(code), forbidden, *map(str, arguments)],
    cwd=ROOT, env=os.environ | {'PYTHONPATH': str(ROOT)} | environment, capture_output=True,
    text=True, check=False,
  )  # fmt: skip
  if found.returncode == 77:
    pytest.skip('this system lets no process filter its own calls')
  return found


needs_filter = pytest.mark.skipif(
  sys.platform != 'linux' or os.uname().machine not in ('x86_64', 'aarch64'),
  reason='a filter of system calls is Linux',
)

TRAIN_AND_EVALUATE = """
from byoljax import main
run, data = sys.argv[1:3]
tiny = ['--config=configs/byol.py:smoke', f'--config.data.dir={data}', f'--workdir={run}',
        '--config.encoder.name=pixels', '--config.views.view1.size=8',
        '--config.views.view2.size=8', '--config.evals.image_size=8',
        '--config.method.projector=(8,4)', '--config.method.predictor=(8,4)',
        '--config.train.batch_size=8', *sys.argv[3:]]
assert main.main(tiny) == 0
assert main.main(['--config=configs/knn.py', f'--config.pretrained={run}']) == 0
"""
