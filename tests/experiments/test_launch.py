"""The scripts of experiments/launch: well formed, and what they call exists and agrees."""

import os
import re
import shlex
import subprocess

import pytest

from byoljax import cli, flags, main
from byoljax import config as config_lib
from byoljax.devices import processes, stop
from tests.paths import ROOT

LAUNCH = ROOT / 'experiments' / 'launch'
SHELL = ('byol.sbatch', 'tpu_vm.sh')
SLURM = ('byol.sbatch', 'one_gpu.sbatch', 'seeds.sbatch')
MANIFESTS = {'jobset.yaml': ('google.com/tpu', 4), 'jobset_gpu.yaml': ('nvidia.com/gpu', 8)}


def parsed(words, monkeypatch):
  """(options, configuration) of arguments of `byoljax.main`."""
  monkeypatch.chdir(LAUNCH.parent.parent)
  options, overrides = main.parse(words)
  processes.check(flags.launch_of(options))
  return options, config_lib.load(options.config, overrides)


def command(name):
  """The words behind 'byoljax.main' in a shell script, its variables at their defaults."""
  text = (LAUNCH / name).read_text().replace('\\\n', ' ')
  for variable, value in re.findall(r'(\w+)=\$\{\1:-([^}]*)\}', text):
    text = re.sub(rf'\$\{{{variable}\}}|\${variable}\b', value, text)
  (line,) = [line for line in text.splitlines() if '-m byoljax.main' in line]
  line = line.partition('-m byoljax.main')[2].partition('>>')[0]
  return shlex.split(line)


def sbatch(field):
  return re.search(rf'^#SBATCH --{field}=(\S+)$', (LAUNCH / 'byol.sbatch').read_text(), re.M)[1]


@pytest.mark.parametrize('name', sorted({*SHELL, *SLURM}))
def test_shell_is_well_formed(name):
  done = subprocess.run(['bash', '-n', LAUNCH / name], capture_output=True, text=True)
  assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize('name', SHELL)
def test_commands_are_ours(name, monkeypatch):
  options, config = parsed(command(name), monkeypatch)
  assert flags.launch_of(options) == processes.Launch('auto', wait=600.0)
  assert options.workdir == '/shared/runs/byol'
  assert (config.encoder.dtype, config.checkpoint.every) == ('bfloat16', '1 epochs')


def test_slurm_has_a_task_for_every_gpu(monkeypatch):
  assert sbatch('ntasks-per-node') == sbatch('gpus-per-node')
  _, config = parsed(command('byol.sbatch'), monkeypatch)
  assert config.train.batch_size % (int(sbatch('nodes')) * int(sbatch('ntasks-per-node'))) == 0
  assert re.fullmatch(r'TERM@\d+', sbatch('signal'))


@pytest.fixture
def cluster(tmp_path):
  """Runs a script where `srun` ends with the given statuses, one after the other."""
  stand_ins = {
    'srun': 'echo "$*" >> $LOG; read -r status < $STATUSES; sed -i 1d $STATUSES; exit $status',
    'scontrol': 'echo "scontrol $*" >> $LOG',
  }
  for name, text in stand_ins.items():
    (tmp_path / name).write_text(f'#!/bin/bash\n{text}\n')
    (tmp_path / name).chmod(0o700)
  slurm = {
    'SLURM_JOB_ID': '17', 'SLURM_CPUS_PER_TASK': '12', 'SLURM_ARRAY_JOB_ID': '16',
    'SLURM_ARRAY_TASK_ID': '3',
  }  # fmt: skip
  slurm |= {name.upper(): str(tmp_path / name) for name in ('log', 'statuses')}

  def submit(name, *statuses):
    (tmp_path / 'log').write_text('')
    (tmp_path / 'statuses').write_text('\n'.join(map(str, statuses)) + '\n')
    path = {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    done = subprocess.run(['bash', LAUNCH / name], env=os.environ | slurm | path, check=False)
    return done.returncode, (tmp_path / 'log').read_text().splitlines()

  return submit


@pytest.mark.parametrize('name', SLURM)
def test_slurm_starts_again_what_was_stopped_and_nothing_else(name, cluster):
  own = '16_3' if name == 'seeds.sbatch' else '17'
  for status in (2, 3, 130):
    ended, log = cluster(name, status)
    assert ended == status and len(log) == 1, 'a mistake is not repeated, nothing follows it'
  ended, log = cluster(name, stop.STATUS)
  assert ended == stop.STATUS and log[1:] == [f'scontrol requeue {own}']
  commands = {'one_gpu.sbatch': 2}.get(name, 1)
  ended, log = cluster(name, 0, 0)
  assert ended == 0 and len(log) == commands


@pytest.mark.parametrize('name', ['one_gpu.sbatch', 'seeds.sbatch'])
def test_slurms_jobs_of_one_gpu_run_commands_that_exist(name, cluster):
  for line in cluster(name, 0, 0)[1]:
    parsed = cli.parse(shlex.split(line.partition('byoljax ')[2]))
    loaded = config_lib.load(parsed.options.config, parsed.overrides)
    assert loaded.task in ('pretrain', 'linear')
    if name == 'seeds.sbatch':
      assert loaded.seed == 3 and parsed.options.workdir.endswith('seed3')


def test_slurms_variables_are_those_that_jax_reads():
  """All that the script names are read, and all that JAX needs are named."""
  from jax._src.clusters import slurm_cluster as slurm

  named = set(re.findall(r'SLURM_\w+', (LAUNCH / 'byol.sbatch').read_text()))
  needed = {
    slurm._JOBID_PARAM, slurm._NODE_LIST, slurm._PROCESS_COUNT, slurm._PROCESS_ID,
    slurm._LOCAL_PROCESS_ID,
  }  # fmt: skip
  assert named - {'SLURM_CPUS_PER_TASK'} == needed


@pytest.mark.parametrize('name', MANIFESTS)
def test_manifests(name, monkeypatch):
  yaml = pytest.importorskip('yaml')
  manifest = yaml.safe_load((LAUNCH / name).read_text())
  assert (manifest['apiVersion'], manifest['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  (group,) = manifest['spec']['replicatedJobs']
  job = group['template']['spec']
  assert job['completionMode'] == 'Indexed' and job['backoffLimit'] == 0
  count = job['parallelism']
  assert count == job['completions']
  (container,) = job['template']['spec']['containers']
  assert container['command'] == ['python', '-m', 'byoljax.main']
  words = [each.replace('$(JOB_COMPLETION_INDEX)', str(count - 1)) for each in container['args']]
  options, config = parsed(words, monkeypatch)
  resource, chips = MANIFESTS[name]
  assert container['resources']['limits'] == {resource: chips}
  assert config.train.batch_size % (count * chips) == 0
  volumes = {volume['name'] for volume in job['template']['spec']['volumes']}
  assert {mount['name'] for mount in container['volumeMounts']} == volumes
  ports = {port['containerPort'] for port in container['ports']}
  if options.distributed == 'auto':
    selector = job['template']['spec']['nodeSelector']
    across, down = map(int, selector['cloud.google.com/gke-tpu-topology'].split('x'))
    assert across * down == count * chips
    from jax._src.clusters import cloud_tpu_cluster

    assert int(cloud_tpu_cluster.coordinator_port) in ports
    return
  assert options.num_processes == count
  # JobSet names pods <set>-<job>-<replica>-<index> in a subdomain of the set's name.
  host, port = processes.check(flags.launch_of(options))
  own = manifest['metadata']['name']
  assert host == f'{own}-{group["name"]}-0-0.{own}' and ports == {port}


def test_every_script_is_in_the_table():
  text = (LAUNCH / 'README.md').read_text()
  for path in LAUNCH.iterdir():
    if path.suffix in ('.py', '.sh', '.sbatch', '.yaml'):
      assert f'[{path.name}]({path.name})' in text
