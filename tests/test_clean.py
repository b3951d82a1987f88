"The stage of cleaning: kills, hostile documents, several processes."
import functools, os, random, signal, subprocess, sys, time, tracemalloc
from pathlib import Path

import pytest

from citrus.assets import Arm
from citrus.clean import build_index, parts, read_arm, read_batch, read_corpus, readings_of, records, remove_benchmarks, remove_copies
from citrus.run import cells, notebook_path, parameters

P = {name: p.default for name, p in parameters(notebook_path('clean')).items()} | dict(task=10, documents=0)
INDEX = build_index({})


def document(id, text, **more): return dict(id=id, source='test', text=text, domain='general', lang='en', meta={}) | more


def prose(n, seed=0):
    rng = random.Random(seed)
    words = [''.join(rng.choices('abcdefghiklmnoprstu', k=rng.randint(3, 9))) for _ in range(500)]
    return [document(f'd{i}', f'The {rng.choice(words)} of this and that ' + ' '.join(rng.choices(words, k=80)) + '.') for i in range(n)]


def test_killed_tasks_resume_and_nothing_is_done_twice(tmp_path):
    code = f'''
import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_clean import *
import citrus.clean as c
run = c.run_task
def slow(*a, **k): time.sleep(.3); run(*a, **k)
c.run_task = slow
c.read_arm(Path({str(tmp_path / 'killed')!r}), 'a', iter(prose(100)), INDEX, None, P)'''
    child = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while len(list((tmp_path / 'killed').rglob('*.jsonl'))) < 3 and time.time() < end: time.sleep(.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / 'killed' / 'a').glob('*.jsonl')}
    assert 3 <= len(done) < 10
    read_arm(tmp_path / 'killed', 'a', iter(prose(100)), INDEX, None, P)
    read_arm(tmp_path / 'whole', 'a', iter(prose(100)), INDEX, None, P)
    assert all(p.stat().st_mtime_ns == t for p, t in done.items())
    whole = sorted(p for p in (tmp_path / 'whole').rglob('*') if p.suffix in ('.jsonl', '.sig'))
    assert len(whole) == 10 + 14 * 10
    for p in whole: assert p.read_bytes() == (tmp_path / 'killed' / p.relative_to(tmp_path / 'whole')).read_bytes()


def test_two_processes_find_what_one_finds(tmp_path):
    arms = {a: Arm(functools.partial(prose, 40, seed), 'general', 'ours') for seed, a in enumerate('xyz')}
    for name, workers in dict(one=1, two=2).items():
        table = read_corpus(tmp_path / name, arms, INDEX, None, P | dict(workers=workers, exempt={}))
        assert table.documents.tolist() == [40, 40, 40]
    for p in (tmp_path / 'one').rglob('*.*'): assert p.read_bytes() == (tmp_path / 'two' / p.relative_to(tmp_path / 'one')).read_bytes()


def test_copies_by_id_address_text_and_band(tmp_path):
    a, b = prose(12, 1), prose(3, 2)
    b += [a[0], a[1] | dict(id='same text'), a[2] | dict(id='near', text=a[2]['text'] + ' It ended.'), a[3] | dict(id='page', text=b[0]['text'] + ' More of it.', url='https://www.x.org/a/')]
    a[3] = a[3] | dict(url='http://X.org/a')
    arms = dict(a=Arm(lambda: iter(a), 'general', 'ours'), b=Arm(lambda: iter([d | dict(id='b' + d['id']) if d in b[:3] else d for d in b]), 'general', 'ours'))
    p = P | dict(exempt={x: ['prose', 'language'] for x in 'ab'})
    read_corpus(tmp_path, arms, INDEX, None, p)
    readings = readings_of(tmp_path, arms)
    remove_copies(tmp_path, readings, arms, p)
    remove_benchmarks(readings)
    assert {r.id: r.reason for r in readings if r.reason} == {'d0': 'same id or address', 'same text': 'exact duplicate', 'near': 'near-duplicate', 'page': 'same id or address'}
    assert all(r.arm == 'b' for r in readings if r.reason)
    written = [d['id'] for keep in parts(readings, arms, 0.2).values() for d in records(tmp_path, readings, keep)]
    assert sorted(written) == sorted(r.id for r in readings)


def test_a_line_of_200_mb_is_counted_and_not_kept():
    text = 'word ' * 40_000_000
    tracemalloc.start()
    t = time.time()
    out, signed, _ = read_batch('a', [document('long', text)], INDEX, None, P)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out[0]['reason'] == 'characters' and not len(signed) and len(out[0]['doc']['text']) <= 1000
    assert used < 100e6 and time.time() - t < 60


@pytest.mark.parametrize('text', ['', '\x00' * 1000, '\ud800' * 99, '\u202e' + 'مرحبا ' * 30, '😀' * 500, '\n' * 99_999, 'a' * 999_999, '(' * 999_999, '<div>' * 50_000, '\u0301' * 99_999, 'x\u2028' * 9999])
def test_hostile_documents_are_counted(text):
    [row], signed, _ = read_batch('a', [document('x', text)], INDEX, None, P)
    assert row['reason'] and not len(signed)


def test_chinese_is_kept_and_french_is_not():
    chinese = '患者三天前开始发热，伴有咳嗽和头痛。医生给予休息和补液治疗，体温在一周内恢复正常。复查血常规未见异常，建议继续观察。'
    french = 'Le malade a de la fièvre depuis trois jours et une douleur à la poitrine qui ne passe pas avec le repos.'
    out = read_batch('a', [document('zh', chinese), document('fr', french)], INDEX, None, P)[0]
    assert [r['reason'] for r in out] == ['', 'language'] and out[0]['doc']['lang'] == 'zh'
