"Kill -9 in the middle of things: what goes on afterwards ends as if nothing had happened. `make chaos` is the long version."
import hashlib
import json
import os
import random
import subprocess
import time

import pytest
from chaos import BIN, TESTS, Home, compared, disturbed, kill
from conftest import MICRO

from citrus.core.records import read_jsonl, write_jsonl
from citrus.core.files import root

TRAIN = 'import json, sys; from citrus.core.launch import call\nfor function, arguments in json.load(open(sys.argv[1])): call(function, arguments)'


def test_a_chain_killed_three_times_ends_identically(micro, store, tmp_path):
    here = disturbed(tmp_path / 'home', 3, seconds=None, operations=400, rng=random.Random(3))
    assert len(here.kills) == 3 and compared(here, Home(store)) == 'identical', here.kills


def trainings(folder, student):
    "A training of each kind, two epochs or sixteen steps long, as (function, arguments)"
    say = lambda who, text: [dict(role=who, content=text)]
    sft = [dict(id=str(i), stage=1, source='test', messages=say('user', f'Question {i}?') + say('assistant', f'Answer {i * i}.')) for i in range(24)]
    pairs = [dict(id=str(i), question_id=str(i), prompt=say('user', f'Question {i}?'), chosen=say('assistant', 'Alder is right.'), rejected=say('assistant', f'Birch {i}.'), n_correct=1, n_samples=2) for i in range(12)]
    write_jsonl(folder / 'sft.jsonl', sft, 'sft')
    write_jsonl(folder / 'pairs.jsonl', pairs, 'pair')
    for arm in 'ab': write_jsonl(folder / f'{arm}.jsonl', [dict(id=f'{arm}{i}', source=arm, text=f'{arm} text {i} ' * 9, domain='medical', lang='en', meta={}) for i in range(20)], 'document')
    same = dict(base=str(student), learning_rate=1e-3, global_batch=2, checkpoint_seconds=0.0, report_to='none', seed=0)
    return [('pretrain.pretrain', same | dict(out=str(folder / 'pretrain'), arms={a: str(folder / f'{a}.jsonl') for a in 'ab'}, rule='odm', smoothing=0.9, steps=16, length=32, weight_decay=1e-4,
                                micro_batch=1, epochs=0.0, lost_steps=10)),
            ('sft.fine_tune', same | dict(out=str(folder / 'sft'), rows=str(folder / 'sft.jsonl'), epochs=2, micro_batch=1, length=64, weight_decay=1e-4, beta2=0.95, clip=1.0,
                                lora_rank=0)),
            ('prefer.train_preferred', same | dict(out=str(folder / 'prefer'), pairs=str(folder / 'pairs.jsonl'), beta=10.0, gamma=5.4, alpha=0.05, epochs=2,
                                   length=2048, micro_batch=1, lora_rank=0))]


def train(folder, student, at=0):
    "Run the three trainings in a process of their own, killed at a file operation if there is one; gives how many there were"
    folder.mkdir(exist_ok=True)
    config = folder / 'config.json'
    config.write_text(json.dumps(trainings(folder, student)))
    count = folder.with_suffix('.count')
    env = os.environ | dict(CITRUS_HOME=str(folder), CHAOS_AT=str(at), CHAOS_COUNT=str(count), PYTHONPATH=os.pathsep.join([str(TESTS / 'stopper'), str(root())]))
    p = subprocess.Popen([str(BIN / 'python'), '-c', TRAIN, str(config)], env=env)
    while p.poll() is None:
        time.sleep(0.01)
        if count.with_suffix('.count.stopped').exists(): p.kill()
    count.with_suffix('.count.stopped').unlink(missing_ok=True)
    assert p.returncode == (-9 if at else 0)
    return count.stat().st_size


def made(folder):
    "Hashes of the models and histories"
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file() and not any(part.startswith('.') for part in p.relative_to(folder).parts)}


def test_every_training_resumes_bit_for_bit(micro, store, tmp_path):
    student = store / 'runs' / 'micro' / 'assets' / 'base'
    n = train(tmp_path / 'a', student)
    for share in (0.12, 0.5, 0.9): train(tmp_path / 'b', student, int(share * n))
    train(tmp_path / 'b', student)
    whole, broken = made(tmp_path / 'a'), made(tmp_path / 'b')
    differ = [n for n in whole.keys() | broken.keys() if whole.get(n) != broken.get(n)]
    assert differ == ['config.json'] and not list(tmp_path.rglob('*checkpoint*'))   # the two have different paths
    for name, steps in dict(pretrain=16, sft=None, prefer=12).items():
        done, history = [json.loads(row)['step'] for row in (tmp_path / 'b' / f'.{name}.log').read_text().splitlines()], read_jsonl(tmp_path / 'b' / f'{name}.history.jsonl')
        assert len(done) - len(history) in (0, 1) and steps in (None, len(history)), 'a kill costs at most one step'


def test_a_run_takes_over_from_one_that_died(micro, store):
    "Two runs want the same stage; the one that makes it is killed"
    start = lambda name: subprocess.Popen([str(BIN / 'citrus_run'), '--recipe', str(MICRO), '--only', 'cases', '--set', 'cases.facts=1', '--name', name], env=os.environ | dict(CITRUS_HOME=str(store)),
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
    def until(p, words):
        said = ''
        while words not in said: said += p.stdout.readline() or pytest.fail(f'no {words!r} in:\n{said}')
    first = start('first')
    until(first, 'cases     run')
    second = start('second')
    until(second, 'waiting')
    kill(first, lambda kinds: 'all')
    said = second.communicate()[0]
    assert second.returncode == 0 and (store / 'runs' / 'second' / 'cases' / 'manifest.json').exists(), said
    assert not (store / 'runs' / 'first' / 'cases').exists()
