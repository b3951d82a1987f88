"A disk that is full, or too small for a second checkpoint, costs a checkpoint and never the training."
import errno
import json
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from citrus.core.files import UserError
from citrus.core.records import write_jsonl
from citrus.llm.student import micro as micro_student
from citrus.train import disk
from citrus.train.checkpoints import companion, last_checkpoint
from test_pretrain import SETTINGS as READ
from test_sft import SETTINGS as TUNED

FREE = namedtuple('usage', 'total used free')
LIMIT = 8 << 20   # bytes of a file: the model of 6 MB can be written, weights and moments of 12 MB in a checkpoint cannot
CHILD = '''
import json, resource, sys
function, arguments, limit = json.loads(sys.stdin.read())
if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from citrus.core.launch import call
call(function, arguments)
'''


@pytest.fixture(scope='module')
def jobs(tmp_path_factory):
    "A training of each loop, a checkpoint after every step"
    folder = tmp_path_factory.mktemp('full')
    micro_student(folder / 'base', 0)
    words = 'fever cough rash knee liver spine blood sleep pain fall'.split()
    text = lambda i: ' '.join(np.random.default_rng(i).choice(words, 30))
    write_jsonl(folder / 'arm.jsonl', [dict(id=f'a{i}', source='a', text=text(i), domain='medical', lang='en', meta={}) for i in range(20)], 'document')
    talk = lambda i: [dict(role='user', content=text(i)), dict(role='assistant', content=text(i + 100))]
    write_jsonl(folder / 'rows.jsonl', [dict(id=f'r{i}', stage=1, source='a', messages=talk(i)) for i in range(6)], 'sft')
    base = dict(base=str(folder / 'base'))
    return {'pretrain.pretrain': READ | base | dict(arms=dict(a=str(folder / 'arm.jsonl')), steps=2, checkpoint_seconds=0.0),
            'sft.fine_tune': TUNED | base | dict(rows=str(folder / 'rows.jsonl'), length=96, checkpoint_seconds=0.0)}


def train(jobs, function, out, limit=0):
    job = json.dumps([function, jobs[function] | dict(out=str(out)), limit])
    return subprocess.run([sys.executable, '-c', CHILD], input=job, text=True, capture_output=True)


@pytest.mark.parametrize('function', ['pretrain.pretrain', 'sft.fine_tune'])
def test_a_full_disk_costs_a_checkpoint_and_nothing_else(function, jobs, tmp_path):
    "A real limit of the system, which a checkpoint goes over and the model does not"
    free, full = (train(jobs, function, tmp_path / name, limit) for name, limit in (('free', 0), ('full', LIMIT)))
    assert free.returncode == full.returncode == 0, full.stderr[-2000:]
    lines = [l for l in full.stdout.splitlines() if l.startswith('no checkpoint: the disk of ')]
    assert len(lines) >= 2 and lines[0].endswith('there is none yet, the training goes on') and 'no checkpoint' not in free.stdout
    same = [(tmp_path / name / 'model.safetensors').read_bytes() for name in ('free', 'full')]
    assert same[0] == same[1]
    left = companion(tmp_path / 'full', 'checkpoint')
    assert not left.exists() or not any(p.is_file() for p in left.rglob('*'))


def test_a_checkpoint_stays_where_there_is_no_room_for_another(tmp_path, monkeypatch, capsys):
    old = companion(tmp_path / 'model', 'checkpoint') / 'step-00000005'
    old.mkdir(parents=True)
    (old / 'model.safetensors').write_bytes(bytes(7000))
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: FREE(10**9, 0, 7999))
    assert not disk.has_room(old.parent, last_checkpoint(tmp_path / 'model'), 500) and old.exists()
    assert capsys.readouterr().out.endswith('; step-00000005 is kept, the training goes on\n')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: FREE(10**9, 0, 8000))
    assert disk.has_room(old.parent, old, 500) and disk.has_room(old.parent, None, 500) and not disk.has_room(old.parent, None, 501)


def test_other_processes_do_not_wait_for_one_that_could_not_write(tmp_path):
    part = tmp_path / 'part'
    part.mkdir()
    with pytest.raises(UserError, match='there is none yet$') as e:
        with disk.room_or_none(part, None, 2): raise RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0')
    assert '\n' not in str(e.value) and not part.exists()


def test_another_error_is_not_taken_for_a_full_disk(tmp_path):
    for error in (OSError(errno.EACCES, 'Permission denied'), RuntimeError('CUDA error'), ValueError('x')):
        with pytest.raises(type(error)), disk.room_or_none(tmp_path / 'part', None, 1): raise error
