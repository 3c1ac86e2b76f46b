"""Starts several processes of one run on this machine, as a cluster would.

    python experiments/launch/localhost.py --processes=4 --devices=1 \\
      --config=configs/byol.py:smoke --workdir=runs/four

Everything but its own two flags goes to `python -m byoljax.main`. What all of them say appears
here, the exit status is the first that is not 0, and Ctrl-C asks all of them to save and stop.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def main(arguments: list[str]) -> int:
  """Starts them, waits for them, and returns the first exit status that is not 0."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
  parser.add_argument('--processes', type=int, default=2)
  parser.add_argument('--devices', type=int, default=0, help='virtual CPU devices of each process')
  options, rest = parser.parse_known_args(arguments)
  environment = dict(os.environ)
  environment['PYTHONPATH'] = os.pathsep.join(
    filter(None, [str(ROOT), environment.get('PYTHONPATH')])
  )
  if options.devices:
    flags = [f for f in environment.get('XLA_FLAGS', '').split() if 'device_count' not in f]
    flags.append(f'--xla_force_host_platform_device_count={options.devices}')
    environment |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ' '.join(flags)}
  port = _free_port()
  started = [
    subprocess.Popen(
      [
        sys.executable, '-m', 'byoljax.main', *rest, f'--coordinator_address=localhost:{port}',
        f'--num_processes={options.processes}', f'--process_id={number}',
      ],
      cwd=ROOT, env=environment,
    )
    for number in range(options.processes)
  ]  # fmt: skip
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda *_: [process.terminate() for process in started])
  # Those that fail together end together: see `byoljax.devices.processes`.
  statuses = [process.wait() for process in started]
  return next((status if status > 0 else 128 - status for status in statuses if status), 0)


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(('localhost', 0))
    return found.getsockname()[1]


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
