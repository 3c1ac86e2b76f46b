"""The console command: names instead of paths, from anywhere, out of a wheel."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.config import ConfigError
from tests.paths import ROOT


def said(arguments, capsys):
  status = cli.run(arguments)
  captured = capsys.readouterr()
  return status, captured.out, captured.err


def test_recipes_are_found_by_name_from_anywhere(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  status, out, _ = said(['pretrain', 'byol:cifar10', '--print_config'], capsys)
  assert status == 0 and '--config.data.name' in out and "'cifar10'" in out
  status, out, _ = said(['recipes'], capsys)
  assert {'byol', 'simclr', 'moco', 'bridge'} <= set(out.split())
  assert not {'base', 'scales', 'knn', 'export'} & set(out.split())


@pytest.mark.parametrize(
  'option',
  [['--train.batch_size=32'], ['--config.train.batch_size=32'], ['--train.batch_size', '32']],
)
def test_every_field_is_an_option(option, capsys):
  status, out, _ = said(['pretrain', 'byol', '--print_config', *option], capsys)
  assert status == 0
  assert any('train.batch_size' in line and line.endswith('= 32') for line in out.splitlines())


def test_arguments_become_fields(capsys):
  for command, field in (('knn', 'pretrained'), ('linear', 'pretrained'), ('import', 'file')):
    _, out, _ = said([command, 'some/where', '--print_config'], capsys)
    assert any(field in line and "'some/where'" in line for line in out.splitlines()), command
  _, out, _ = said(['views', 'byol', '--print_config'], capsys)
  assert any('task' in line and "'views'" in line for line in out.splitlines())


def test_the_help_of_a_command_lists_the_fields_of_its_recipe():
  for name, command in cli.COMMANDS.items():
    out = cli.parser().of(name).format_help()
    if not command.recipe:
      assert 'values by default' not in out, name
      continue
    shown = out.partition('values by default')[2]
    fields = config_lib.load(cli.own_recipe(command)).to_dict()
    filled = {field for field, value in fields.items() if value != {}}
    for field in filled - {'task', 'log', command.field}:
      assert f'  --{field}' in shown, (name, field)
  out = cli.parser().of('classify').format_help()
  assert re.search(r"--from= +a run's workdir, or one of its checkpoints/<step>\n", out)
  assert re.search(r'--finetune.NAME=VALUE +\d+ fields\n', out)
  assert 'default: evals/classify-' in out


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['pretrain', 'boyl'], "did you mean 'byol'"),
    (['pretrain', 'mine.py'], 'no configuration file'),
    (['pretrain'], 'required: RECIPE'),
    (['pretrian', 'byol'], "unknown command 'pretrian'"),
    (['pretrian', 'byol'], "did you mean 'pretrain'"),
    ([], 'required: COMMAND'),
    (['pretrain', 'byol', '--train.bach_size=3'], 'train.batch_size'),
    (['pretrain', 'byol', 'more'], "unknown argument 'more'"),
    (['pretrain', 'byol:imagenet,301'], 'there is no preset of 301 epochs'),
    (['pretrain', 'knn'], "there is no recipe 'knn'"),
    (['stats', '/'], "as in 'byol:folder_small --data.dir=/'"),
    (['pretrain', 'mine.npz'], "as in 'byol:npz --data.dir=mine.npz'"),
    (['export', 'nowhere'], 'does not exist'),
    (['knn', 'a', '--pretrained=b'], "--pretrained=b contradicts 'a', which the command says"),
    (['classify', 'a', '--finetune', '--head=knn'], "--head=knn contradicts 'finetune'"),
    (['views', 'byol', '--config.task=pretrain'], "--task=pretrain contradicts 'views'"),
    (['layers', 'a', '--probe=linear', '--layers.logistic=true'], 'drop one of them'),
    (['import', 'nowhere.pth'], 'there is no file'),
    (['completion', 'fish'], "invalid choice: 'fish'"),
  ],
)
def test_mistakes_are_one_sentence(arguments, sentence, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  status, out, err = said(arguments, capsys)
  assert status == 2 and not out
  # On a slow machine a line before it says how long the command has been working.
  assert err.splitlines()[-1].startswith('error: ') and sentence in err
  assert not list(tmp_path.iterdir())


def test_options_may_stand_before_what_a_command_is_about():
  for arguments in (
    ['pretrain', '--train.length', '5 epochs', '--workdir', 'there', 'byol'],
    ['pretrain', '--print_config', '--config.train.length', '5 epochs', 'byol', '--workdir=there'],
  ):
    parsed = cli.parse(arguments)
    assert parsed.options.recipe == 'byol' and parsed.options.workdir == 'there'
    assert parsed.overrides == [('train.length', '5 epochs')]
  parsed = cli.parse(['linear', '--network', 'target', 'some/run'])
  assert parsed.overrides == [('pretrained', 'some/run'), ('network', 'target')]
  with pytest.raises(ConfigError, match='--config.seed has no value'):
    cli.parse(['pretrain', 'byol', '--seed', '--print_config'])


@pytest.mark.parametrize('shell', ['bash', 'zsh'])
def test_completion(shell, tmp_path):
  script = cli.completion(shell)
  assert 'barlow_twins' in script and 'pretrain' in script and '--workdir' in script
  if shutil.which(shell):
    path = tmp_path / 'completion'
    path.write_text(script)
    subprocess.run([shell, '-n', path], check=True)


@pytest.mark.skipif(not shutil.which('bash'), reason='needs bash')
def test_bash_completes_recipes(tmp_path):
  path = tmp_path / 'completion'
  path.write_text(cli.completion('bash'))
  ask = (
    f'source {path}; COMP_WORDS=(byoljax pretrain simc); COMP_CWORD=2; '
    '_shtab_byoljax; echo "${COMPREPLY[@]}"'
  )
  shown = subprocess.run(['bash', '-c', ask], capture_output=True, text=True, check=True)
  assert shown.stdout.split() == ['simclr']


def test_every_directory_is_packaged():
  listed = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['setuptools']['packages']
  found = {path.parent.relative_to(ROOT) for path in (ROOT / 'byoljax').rglob('__init__.py')}
  assert set(listed) == {'.'.join(path.parts) for path in found} | {'byoljax.configs'}


# What the container's image is built from: no more is needed for the wheel, as the next test shows.
IN_THE_IMAGE = [
  line.removeprefix('!')
  for line in (ROOT / '.dockerignore').read_text().splitlines()
  if line.startswith('!')
]


def test_the_image_installs_this_package_at_known_versions():
  assert set(IN_THE_IMAGE) >= {'byoljax', 'configs', 'pyproject.toml', 'constraints.txt'}
  steps = (ROOT / 'Dockerfile').read_text()
  (extra,) = re.findall(r'--build-arg EXTRA=(\w+)', steps)
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  assert extra in project['optional-dependencies']
  assert '-c /source/constraints.txt "/source${EXTRA:+[$EXTRA]}"' in steps
  (python,) = re.findall(r'FROM python:3\.(\d+)-slim', steps)
  assert int(python) >= int(project['requires-python'].removeprefix('>=3.'))


def test_a_wheel_is_enough(tmp_path):
  """Built, unpacked, and used where there is no clone."""
  source, built, site, elsewhere = (
    tmp_path / name for name in ('source', 'built', 'site', 'elsewhere')
  )
  source.mkdir()
  built.mkdir()
  elsewhere.mkdir()
  for name in IN_THE_IMAGE:
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    else:
      shutil.copy(ROOT / name, source)
  build = f'from setuptools import build_meta; build_meta.build_wheel({str(built)!r})'
  subprocess.run([sys.executable, '-c', build], cwd=source, check=True, capture_output=True)
  (wheel,) = built.glob('*.whl')
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(site)
    packed = set(archive.namelist())
  own = (path for path in (source / 'byoljax').rglob('*') if path.is_file())
  assert {path.relative_to(source).as_posix() for path in own} <= packed
  environment = os.environ | {'PYTHONPATH': str(site)}
  run = [sys.executable, '-m', 'byoljax']
  shown = subprocess.run(
    [*run, 'pretrain', 'byol:smoke', '--data.name=npz', '--data.dir=no.npz'],
    cwd=elsewhere, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert 'no.npz' in shown.stderr and shown.returncode == 2, shown.stderr
  own = 'from byoljax.configs import byol, scales\n\ndef get_config(arg=""):\n'
  own += '  config = byol.get_config("smoke")\n  config.seed = 41\n  return config\n'
  (elsewhere / 'mine.py').write_text(own)
  shown = subprocess.run(
    [*run, 'pretrain', 'mine.py', '--print_config'],
    cwd=elsewhere, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert '= 41\n' in shown.stdout, shown.stderr
  where = subprocess.run(
    [sys.executable, '-c', 'from byoljax import cli; print(cli.recipes_directory())'],
    cwd=elsewhere, env=environment, capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert where.stdout.strip() == str(site / 'byoljax' / 'configs')
  entry = next(site.glob('*.dist-info')) / 'entry_points.txt'
  assert 'byoljax = byoljax.__main__:main' in entry.read_text()


def test_options_of_a_command_are_those_of_its_recipe(capsys, untrained):
  assert cli.run(['linear:simclr', str(untrained), '--print_config']) == 0
  shown = capsys.readouterr().out
  assert "'simclr'" in shown and '(0.1,)' in shown
  assert cli.run(['linear:simcl', str(untrained), '--print_config']) == 2
  assert "unknown option 'simcl'" in capsys.readouterr().err
  assert cli.run(['pretrain:cifar10', 'byol']) == 2
  assert "'byoljax pretrain byol:cifar10'" in capsys.readouterr().err
