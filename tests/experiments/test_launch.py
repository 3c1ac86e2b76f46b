"""The scripts of experiments/launch: well formed, and what they call exists and agrees."""

import re
import shlex
import subprocess

import pytest

from byoljax import config as config_lib
from byoljax import flags, main
from byoljax.devices import processes
from tests.paths import ROOT

LAUNCH = ROOT / 'experiments' / 'launch'
SHELL = ('byol.sbatch', 'tpu_vm.sh')
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


@pytest.mark.parametrize('name', SHELL)
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
