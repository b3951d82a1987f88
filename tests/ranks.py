"Two processes on a CPU, as `accelerate launch` starts them on two GPUs."
import json
import os
import subprocess
import sys

import yaml
from conftest import BIN

from citrus.run import root

ZERO3 = yaml.safe_load((root() / 'nbs' / 'recipes' / 'zero3.yaml').read_text()) | dict(use_cpu=True, mixed_precision='no')
GLOO = dict(compute_environment='LOCAL_MACHINE', distributed_type='MULTI_CPU', mixed_precision='no', num_machines=1, machine_rank=0, use_cpu=True)


def launched(config, processes, function, **arguments):
    "Call a function of the package in several processes under an accelerate configuration; gives what they printed"
    out = arguments['out']
    files = {'yaml': yaml.safe_dump(config), 'json': json.dumps(dict(function=function, arguments=arguments))}
    for kind, text in files.items(): open(f'{out}.{kind}', 'w').write(text)
    env = os.environ | dict(DS_ACCELERATOR='cpu', OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    done = subprocess.run([sys.executable, '-m', 'accelerate.commands.launch', '--config_file', f'{out}.yaml', '--num_processes', str(processes), '--main_process_port', '0',
                           '--no_python', str(BIN / 'citrus_train'), f'{out}.json'], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr
