"Who needs GPUs, the Slurm script that asks for them, and what a stage costs."
import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from citrus.core import costs
from citrus.core.command import parse_args
from citrus.core.files import UserError
from citrus.core.needs import Machines, machines, need
from citrus.core.parameters import STAGES, STUDIES
from citrus.core.recipes import load_recipe, settings
from citrus.core.slurm import slurm_script
from citrus.train.memory import gpu_hours, student_shape, weight_count

CHAIN = [s for s in STAGES if s not in STUDIES]
SIZES = ['8b', '70b', '72b']
SERVED = ['textbook.writer=openai:http://h:8000/v1#q', 'textbook.judge=openai:http://h:8000/v1#q', 'synth.reasoner=openai:http://h:8000/v1#q',
          'synth.reflector=openai:http://h:8000/v1#q', "synth.graders=['openai:http://h:8000/v1#q', 'expert@2']"]


@pytest.mark.parametrize('name', SIZES)
def test_gpus_are_needed_by_who_trains_or_runs_models(name):
    values = settings(load_recipe(name))
    assert [s for s in CHAIN if need(values[s]) == 'gpu'] == ['textbook', 'pretrain', 'synth', 'sft', 'prefer', 'evaluate']
    others = settings(load_recipe(name), SERVED)   # their models are somebody else's
    assert [s for s in CHAIN if need(others[s]) == 'gpu'] == ['pretrain', 'sft', 'prefer', 'evaluate']
    one = settings(load_recipe(name), [*SERVED[:4], "synth.graders=['openai:http://h:8000/v1#q', 'vllm:/a#b@2']"])
    assert need(one['synth']) == 'gpu'


def test_machines_are_those_of_the_processes_and_the_engines():
    values = settings(load_recipe('70b'))
    asked = {s: machines(values[s]) for s in CHAIN}
    assert asked['pretrain'] == asked['sft'] == Machines(4, 8) and asked['prefer'] == Machines(2, 8)
    assert asked['textbook'] == asked['synth'] == asked['evaluate'] == Machines(1, 8) and asked['clean'] == asked['report'] == Machines(1, 0)
    assert machines(settings(load_recipe('gpu'))['pretrain']) == Machines(1, 1)
    assert machines(dict(learning_rate=1.0, engine=dict(a=dict(device_ids=[0, 1]), b=dict(device_ids=[2, 3], tensor_parallel_size=2)))) == Machines(1, 4)


SBATCH = '''#!/bin/bash
n=$(ls "$OUT" | wc -l); printf '%s\\n' "$@" > "$OUT/$n.args"; cat > "$OUT/$n.job"; echo "$((100 + n))"
'''


@pytest.fixture
def submitted(tmp_path):
    "What a script submits, job by job: options of `sbatch`, and the job"
    def submit(text):
        (tmp_path / 'run.sh').write_text(text)
        for folder in ('bin', 'out'): (tmp_path / folder).mkdir()
        (tmp_path / 'bin' / 'sbatch').write_text(SBATCH.replace('| wc -l', '| grep -c args'))
        (tmp_path / 'bin' / 'sbatch').chmod(0o755)
        env = os.environ | dict(PATH=f'{tmp_path / "bin"}:{os.environ["PATH"]}', OUT=str(tmp_path / 'out'), CITRUS_SBATCH_GPU='--partition=h100')
        subprocess.run(['bash', '-n', tmp_path / 'run.sh'], check=True)
        subprocess.run(['bash', tmp_path / 'run.sh'], check=True, env=env)
        n = len(list((tmp_path / 'out').glob('*.args')))
        return [[(tmp_path / 'out' / f'{i}.{kind}').read_text() for kind in ('args', 'job')] for i in range(n)]
    return submit


def test_the_script_asks_for_gpus_where_they_are_used(submitted):
    values = settings(load_recipe('70b'))
    command = ['citrus_run', '--name', '70b', '--recipe', '70b', '--set', 'synth.temperature=0.5']
    jobs = submitted(slurm_script('run.sh', command, values, CHAIN))
    stages = [re.findall(r'--only (\w+)', job) for _, job in jobs]
    assert sum(stages, []) == CHAIN
    for i, ((args, job), names) in enumerate(zip(jobs, stages)):
        asked = machines(values[names[0]])
        assert {machines(values[s]) for s in names} == {asked} and ('--gpus-per-node=8' in args) == ('--partition=h100' in args) == (need(values[names[0]]) == 'gpu')
        assert f'--nodes={asked.nodes}\n' in args and ('CITRUS_HOSTFILE=' in job) == (asked.nodes > 1)
        assert (f'--dependency=afterok:{99 + i}' in args) == (i > 0)
        lines = [l.split()[1:] for l in job.splitlines() if l.startswith('citrus_run ')]
        for line in lines: parse_args(line)   # every option is one


def test_finished_stages_ask_for_nothing():
    assert 'sbatch --parsable' not in slurm_script('run.sh', ['citrus_run'], settings(load_recipe('8b')), [])
    with pytest.raises(UserError, match='--dry and --slurm do not go together'): parse_args(['--dry', '--slurm', 'x'])
    with pytest.raises(UserError, match='do not go together'): parse_args(['--list', '--slurm', 'x'])


def test_costs_are_those_of_the_last_run_then_of_arithmetic(monkeypatch):
    values = settings(load_recipe('70b'))
    last = dict(seconds=5400, device='NVIDIA H100', params=values['sft'], files={'sft1/model.safetensors': dict(bytes=141e9)})
    monkeypatch.setattr(costs, 'last_manifest', lambda run, stage: last if stage == 'sft' else None)
    table = costs.with_costs(pd.DataFrame(dict(stage=CHAIN)), 'r', values).set_index('stage')
    assert list(table.loc['sft', ['hours', 'gpu_hours', 'disk_gb', 'costs_by']]) == ['1.5', '48', '141', 'last run']
    s = student_shape(values['assets']['student'])
    hours = gpu_hours(s, 2400 * 512 * 8192, 8192)
    assert table.loc['pretrain', 'gpu_hours'] == f'{hours:,.0f}' and table.loc['pretrain', 'costs_by'] == 'arithmetic'
    assert table.loc['pretrain', 'disk_gb'] == f'{weight_count(s) * (2 + 28) / 1e9:,.0f}' and table.loc['pretrain', 'needs'] == 'gpu'
    assert table.loc['synth', 'hours'] == '' and table.loc['synth', 'costs_by'] == ''


def test_the_embedded_plan_has_no_needs_and_only_what_was_measured(monkeypatch):
    monkeypatch.setattr(costs, 'last_manifest', lambda run, stage: None)
    assert list(costs.with_costs(pd.DataFrame(dict(stage=CHAIN)), 'r', settings({}))) == ['stage']
    last = dict(seconds=36, device='x86_64 CPU, 2 cores', params={}, files={})
    monkeypatch.setattr(costs, 'last_manifest', lambda run, stage: last)
    assert list(costs.with_costs(pd.DataFrame(dict(stage=['cases'])), 'r', settings({}))) == ['stage', 'hours', 'disk_gb', 'costs_by']


def test_the_arithmetic_of_a_plan_loads_no_torch():
    code = "import sys, citrus.core.command; print('torch' in sys.modules, 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.split() == ['False', 'False']
