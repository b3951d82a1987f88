"Training in two processes, by gloo and under ZeRO-3: as one process trains, and on from a checkpoint as if nothing had happened."
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from citrus.train.checkpoints import companion
from citrus.core.files import UserError, root
from citrus.core.launch import call, divided, free_port, launch, nodes
from citrus.core.records import read_jsonl, write_jsonl

ZERO3 = yaml.safe_load((root() / 'nbs' / 'recipes' / 'zero3.yaml').read_text()) | dict(use_cpu=True, mixed_precision='no')
GLOO = dict(compute_environment='LOCAL_MACHINE', distributed_type='MULTI_CPU', mixed_precision='no', num_machines=1, machine_rank=0, use_cpu=True)
ASIDE = root() / '.deepspeed'   # where `make test` puts it
ENV = dict(DS_ACCELERATOR='cpu', OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', PYTHONPATH=os.pathsep.join([*filter(None, [os.environ.get('PYTHONPATH')]), str(root() / 'tests' / 'uncompiled'), str(ASIDE)]))
needs_deepspeed = pytest.mark.skipif(not (find_spec('deepspeed') or (ASIDE / 'done').exists()), reason='DeepSpeed is not there: `make .deepspeed/done`, or the gpu extra')


def launched(config, jobs, folder):
    "Run jobs, name -> (function, arguments), in two processes; each writes to `folder/name`"
    folder.mkdir(exist_ok=True)
    (folder / 'config.yaml').write_text(yaml.safe_dump(config))
    (folder / 'jobs.json').write_text(json.dumps([(function, arguments | dict(out=str(folder / name))) for name, (function, arguments) in jobs.items()]))
    done = subprocess.run([sys.executable, '-m', 'accelerate.commands.launch', '--config_file', str(folder / 'config.yaml'), '--num_processes', '2', '--main_process_port', '0',
                           str(root() / 'tests' / 'ranks.py'), str(folder / 'jobs.json')], env=os.environ | ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder


@pytest.fixture(scope='module')
def student(store):
    from citrus.llm.student import micro
    return micro(store / 'ranks-student', 0) or store / 'ranks-student'


@pytest.fixture(scope='module')
def jobs(student, tmp_path_factory):
    "A training of each kind, a few steps of few rows, a checkpoint after every step"
    folder, say = tmp_path_factory.mktemp('rows'), lambda who, text: [dict(role=who, content=text)]
    rng, words = np.random.default_rng(0), 'fever cough rash knee liver spine blood sleep pain fall'.split()
    arms = {a: str(folder / f'{a}.jsonl') for a in ('dull', 'rich')}
    for a, k in dict(dull=2, rich=10).items():
        write_jsonl(arms[a], [dict(id=f'{a}{i}', source=a, text=' '.join(rng.choice(words[:k], 30)), domain='medical', lang='en', meta={}) for i in range(20)], 'document')
    write_jsonl(folder / 'rows.jsonl', [dict(id=str(i), stage=1, source='coqa', messages=say('user', f'Question {i}?') + say('assistant', f'Answer {i * i}.')) for i in range(12)], 'sft')
    write_jsonl(folder / 'pairs.jsonl', [dict(id=str(i), question_id=str(i), prompt=say('user', 'Why, then? ' * (i % 3 + 1)), chosen=say('assistant', ' '.join(words[:i + 2])),
                                              rejected=say('assistant', ' '.join(words[-3:])), n_correct=1, n_samples=2) for i in range(6)], 'pair')
    common = dict(base=str(student), checkpoint_seconds=0.0, report_to='none', seed=0)
    sft = common | dict(rows=str(folder / 'rows.jsonl'), epochs=1, learning_rate=1e-3, global_batch=2, micro_batch=1, length=64, weight_decay=1e-4, beta2=0.95, clip=1.0, lora_rank=0)
    return dict(
        pretrain=('pretrain.pretrain', common | dict(arms=arms, rule='odm', smoothing=0.5, steps=5, global_batch=4, length=32, learning_rate=1e-3, weight_decay=1e-4,
                                        micro_batch=1, epochs=0.0, lost_steps=10)), sft=('sft.fine_tune', sft),
        lora=('sft.fine_tune', sft | dict(lora_rank=4, learning_rate=3e-3)),
        prefer=('prefer.train_preferred', common | dict(pairs=str(folder / 'pairs.jsonl'), beta=10.0, gamma=5.4, alpha=0.05, learning_rate=1e-3, global_batch=2, epochs=2,
                                              length=2048, micro_batch=1, lora_rank=0)))


@pytest.fixture(scope='module')
def alone(jobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('alone')
    for name, (function, arguments) in jobs.items(): call(function, arguments | dict(out=str(folder / name)))
    return folder


@pytest.fixture(scope='module')
def gloo(jobs, tmp_path_factory): return launched(GLOO, {name: jobs[name] for name in ('pretrain', 'sft', 'prefer')}, tmp_path_factory.mktemp('gloo'))


@pytest.fixture(scope='module')
def zero3(jobs, tmp_path_factory): return launched(ZERO3, {again: jobs[name] for name in jobs for again in ([name] if name == 'lora' else [name, f'{name}_again'])}, tmp_path_factory.mktemp('zero3'))


NEAR = dict(pretrain=5e-3, sft=1e-3, lora=1e-3, prefer=2e-2)   # of the losses, in a run that multiplies in bfloat16


@pytest.mark.parametrize('kind, name', [*(('gloo', n) for n in ('pretrain', 'sft', 'prefer')), *(pytest.param('zero3', n, marks=needs_deepspeed) for n in NEAR)])
def test_two_processes_train_as_one(kind, name, alone, student, request):
    "The same history, and weights on disk that are whole and have moved the same way"
    two = request.getfixturevalue(kind)
    one, again = (read_jsonl(f'{folder / name}.history.jsonl') for folder in (alone, two))
    assert len(one) == len(again) > 4
    for a, b in zip(one, again):
        if name == 'pretrain': assert a['epochs'] == b['epochs'], 'other sequences were drawn'
        for key in ('weights', 'losses') if name == 'pretrain' else a: assert a[key] == pytest.approx(b[key], rel=NEAR[name], abs=NEAR[name]), key
    a, b, base = (load_file(folder / 'model.safetensors') for folder in (alone / name, two / name, student))
    assert a.keys() == b.keys() == base.keys() and all(a[k].shape == b[k].shape for k in a)
    moved = lambda w: torch.cat([(w[k].float() - base[k].float()).flatten() for k in base])
    assert moved(a).norm() > 0 and torch.nn.functional.cosine_similarity(moved(a), moved(b), dim=0) > 0.9


@needs_deepspeed
@pytest.mark.parametrize('name', ['pretrain', 'sft', 'prefer'])
def test_sharded_training_goes_on_exactly(name, zero3):
    "From what a kill after the third step leaves, our loop and the Trainer end with the same history and the same weights, to the last bit"
    steps = [json.loads(line)['step'] for line in companion(zero3 / f'{name}_again', 'log').read_text().splitlines()]
    assert steps[0] == 4, 'it went on from the checkpoint'
    for file in ('.history.jsonl', '/model.safetensors'): assert Path(f'{zero3 / name}{file}').read_bytes() == Path(f'{zero3 / name}_again{file}').read_bytes(), file


RECEIVED = '''
import json, os, sys
import deepspeed, torch
import citrus.train.steps, citrus.train.trainers
from accelerate.state import AcceleratorState
from citrus.core.launch import call, leave
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
citrus.train.steps.compute_dtype = citrus.train.trainers.compute_dtype = lambda: torch.bfloat16   # as on a GPU
if sys.argv[3:]: citrus.train.steps.EXACT_SUMS.clear()   # the control
received, initialize = {}, deepspeed.initialize
def noting(*args, **given):
    engine, optimizer, *others = initialize(*args, **given)
    config = given.get("config") or given["config_params"]
    sums = optimizer.gradient_accumulation_dtype, optimizer.communication_data_type
    received[name] = dict(weights=str(engine.get_data_types()[0]), sums=list(map(str, sums)), config={k: config.get(k) for k in ("communication_data_type", "data_types")})
    return engine, optimizer, *others
deepspeed.initialize = noting
for name, (function, arguments) in json.loads(open(sys.argv[1]).read()).items():
    call(function, arguments)
    AcceleratorState._reset_state(True)
    unset_hf_deepspeed_config()
if os.environ["RANK"] == "0":
    with open(sys.argv[2], "w") as f: json.dump(received, f)
leave()
'''


def received(folder, jobs, *control):
    "What DeepSpeed receives from trainings in two processes, as on a GPU, and what its optimisers then do"
    folder.mkdir()
    (folder / 'config.yaml').write_text(yaml.safe_dump(ZERO3 | dict(mixed_precision='bf16')))
    (folder / 'script.py').write_text(RECEIVED)
    few = {name: (function, arguments | dict(out=str(folder / name), checkpoint_seconds=9999.0)) for name, (function, arguments) in jobs.items()}
    (folder / 'jobs.json').write_text(json.dumps(few))
    launch = [sys.executable, '-m', 'accelerate.commands.launch', '--config_file', str(folder / 'config.yaml'), '--num_processes', '2', '--main_process_port', '0']
    done = subprocess.run([*launch, str(folder / 'script.py'), str(folder / 'jobs.json'), str(folder / 'received.json'), *control], env=os.environ | ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return json.loads((folder / 'received.json').read_text())


@needs_deepspeed
def test_gradients_are_summed_in_float32(jobs, tmp_path):
    "B5: what each training hands to DeepSpeed, and the types that gradients of bfloat16 weights are then accumulated and reduced in. Left to itself it does both in bfloat16. All three are sharded, our own loop too"
    exact = dict(weights='torch.bfloat16', sums=['torch.float32'] * 2, config=dict(communication_data_type='fp32', data_types=dict(grad_accum_dtype='fp32')))
    assert received(tmp_path / 'a', {name: jobs[name] for name in ('pretrain', 'sft', 'prefer')}) == dict.fromkeys(['pretrain', 'sft', 'prefer'], exact)
    assert received(tmp_path / 'b', dict(pretrain=jobs['pretrain']), 'control')['pretrain']['sums'] == ['torch.bfloat16'] * 2


# --- several nodes ---------------------------------------------------------------------------------------------------

@pytest.fixture
def reach(tmp_path):
    "A login to `node2`, another loopback address of this machine, by a real sshd; where there is none, a shell stands in for it"
    sshd, keygen = shutil.which('sshd') or shutil.which('/usr/sbin/sshd'), shutil.which('ssh-keygen')
    if not (sshd and keygen):
        (tmp_path / 'login').write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
        (tmp_path / 'login').chmod(0o755)
        yield str(tmp_path / 'login')
        return
    for key in ('host', 'user'): subprocess.run([keygen, '-q', '-t', 'ed25519', '-N', '', '-f', str(tmp_path / key)], check=True)
    port = free_port()
    (tmp_path / 'sshd').write_text(f'Port {port}\nListenAddress 127.0.0.2\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\nPidFile none\n')
    (tmp_path / 'ssh').write_text(f'Host node2\nHostName 127.0.0.2\nPort {port}\nIdentityFile {tmp_path}/user\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\nBatchMode yes\n')
    if os.geteuid() == 0: Path('/run/sshd').mkdir(exist_ok=True)   # it refuses to start without
    server = subprocess.Popen([sshd, '-D', '-e', '-f', str(tmp_path / 'sshd')], stderr=subprocess.DEVNULL)
    yield f'ssh -F {tmp_path}/ssh'
    server.kill()
    server.wait()


def start(out, jobs, env):
    "Launch the training of `jobs` as a notebook would"
    function, arguments = jobs['pretrain']
    code = f'from citrus.core.launch import launch; launch({function!r}, 2, **{arguments | dict(out=str(out))!r})'
    return subprocess.Popen([sys.executable, '-c', code], env=os.environ | ENV | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ranks(out):
    "Processes that train into a folder, wherever they were started"
    found = []
    for p in psutil.process_iter(['cmdline']):
        if any('citrus_train' in a for a in p.info['cmdline'] or []) and str(out.with_suffix('.json')) in p.info['cmdline']: found.append(p)
    return found


@needs_deepspeed
def test_two_nodes_train_as_one_and_go_on_after_a_kill(reach, jobs, zero3, tmp_path):
    "The runner dies in the middle: the ranks of both nodes die with it, and the next try ends with the weights of an undisturbed training on one node"
    (tmp_path / 'hosts').write_text('# the first is this machine\nlocalhost slots=1\nnode2 slots=1\n')
    out, env = tmp_path / 'model', dict(CITRUS_HOSTFILE=str(tmp_path / 'hosts'), CITRUS_SSH=reach, GLOO_SOCKET_IFNAME='lo')
    first, until = start(out, jobs, env), time.time() + 300
    while first.poll() is None and time.time() < until and not list(companion(out, 'checkpoint').glob('step-*[2-4]')): time.sleep(0.02)
    assert first.poll() is None, first.communicate()[0][-4000:]
    assert len(ranks(out)) == 4, 'on each node the launcher and one process'
    first.kill()
    while ranks(out) and time.time() < until: time.sleep(0.05)
    assert not ranks(out) and not out.exists()
    said, last = start(out, jobs, env).communicate()[0], [json.loads(line)['step'] for line in companion(out, 'log').read_text().splitlines()]
    assert last[-1] == 5 and last.count(1) == 1, said[-4000:]
    for file in ('.history.jsonl', '/model.safetensors'): assert Path(f'{out}{file}').read_bytes() == Path(f'{zero3}/pretrain{file}').read_bytes(), file


def test_nodes_that_do_not_add_up_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('CITRUS_HOSTFILE', str(tmp_path / 'hosts'))
    with pytest.raises(UserError, match='No such file.*give the full path'): nodes()
    for text, wrong in (('a slots=8\nb\n', 'line 2: .b.'), ('a slots=8\na slots=8\n', 'line 2'), ('a slots=x', 'line 1')):
        (tmp_path / 'hosts').write_text(text)
        with pytest.raises(UserError, match=f'{wrong}.* needs the form'): nodes()
    (tmp_path / 'hosts').write_text('a slots=8  # beside the printer\n\nb slots=4\n')
    assert nodes() == dict(a=8, b=4) and divided(8, nodes()) == ['a']
    with pytest.raises(UserError, match='pretrain.pretrain asks for 12 GPUs, the hostfile has 8 on a, 4 on b'): launch('pretrain.pretrain', 12, out=str(tmp_path / 'm'))
    monkeypatch.setenv('DS_ACCELERATOR', 'cpu')
    (tmp_path / 'hosts').write_text('localhost slots=999\nb slots=999\n')
    monkeypatch.setenv('CITRUS_SSH', 'false')
    with pytest.raises(UserError, match='exit status 1'): launch('pretrain.pretrain', 1998, out=str(tmp_path / 'm'))


UNAWAITED = '''
import sys
import torch, torch.distributed as dist
from citrus.core.launch import leave
dist.init_process_group('gloo', init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
for _ in range(2000): dist.all_reduce(torch.ones(1000), async_op=True)
leave()
'''


def test_a_process_ends_while_its_threads_still_gather(tmp_path):
    "As ZeRO-3 leaves them; the usual end of Python aborts such a process nine times of ten"
    ranks = [subprocess.Popen([sys.executable, '-c', UNAWAITED, f'file://{tmp_path}/meet', str(r)], env=os.environ | ENV) for r in range(2)]
    assert [p.wait(120) for p in ranks] == [0, 0]
