"The GPU check: its parts are whole or say what is missing, a planted difference is seen, every measurement has its n."
import csv
import json
import sys

import pytest

from citrus.core.files import root

sys.path.insert(0, str(root() / 'tests' / 'tools'))

import gpu_check   # noqa: E402
import gpu_parts   # noqa: E402


@pytest.fixture
def whole(tmp_path):
    "A file that does not divide into equal parts"
    path = tmp_path / 'whole'
    path.write_bytes(bytes(range(256)) * 41 + b'end')
    return path


@pytest.fixture
def check(tmp_path):
    "A check that has measured nothing"
    return gpu_check.Check(tmp_path, tmp_path / 'work', 'small', 'abc')


@pytest.mark.parametrize('limit', [1000, 10**6])
def test_parts_are_small_and_together_the_same_bytes(whole, tmp_path, limit):
    parts = gpu_parts.split(whole, tmp_path / 'parts', limit)
    sizes = [(p / 'piece').stat().st_size for p in parts]
    assert max(sizes) <= limit and sum(sizes) == whole.stat().st_size
    assert gpu_parts.join(tmp_path / 'parts', tmp_path / 'again').read_bytes() == whole.read_bytes()


def test_a_missing_part_is_named(whole, tmp_path):
    parts = gpu_parts.split(whole, tmp_path / 'parts', 4000)
    (parts[1] / 'piece').unlink()
    again = tmp_path / 'again'
    with pytest.raises(gpu_parts.PartsError, match='part2 of 3 parts missing'): gpu_parts.join(tmp_path / 'parts', again)
    with pytest.raises(gpu_parts.PartsError, match='no part is here'): gpu_parts.join(tmp_path / 'none', again)


def test_damaged_and_mixed_parts_are_refused(whole, tmp_path):
    parts = gpu_parts.split(whole, tmp_path / 'parts', 4000)
    (parts[0] / 'piece').write_bytes(b'x' * 10)
    again = tmp_path / 'again'
    with pytest.raises(gpu_parts.PartsError, match='damaged'): gpu_parts.join(tmp_path / 'parts', again)
    (parts[2] / 'note.json').write_text(json.dumps(dict(parts=2, bytes=1, sha256='')))
    with pytest.raises(gpu_parts.PartsError, match='two times'): gpu_parts.join(tmp_path / 'parts', again)


def test_a_folder_comes_back_as_it_was(tmp_path):
    bundle = tmp_path / 'bundle'
    (bundle / 'data').mkdir(parents=True)
    (bundle / 'data' / 'a.txt').write_text('text')
    gpu_parts.split(gpu_parts.pack(bundle, tmp_path / 'whole.tar'), tmp_path / 'parts', 3000)
    again = gpu_parts.unpack(tmp_path / 'parts', tmp_path / 'again')
    assert [p.name for p in again.iterdir()] == ['data'] and (again / 'data' / 'a.txt').read_text() == 'text'


def test_wheels_are_pinned(): assert all('==' in line for line in gpu_parts.pinned(gpu_parts.WHEELS))


def test_a_planted_difference_is_seen(check, monkeypatch):
    import gpu_work
    losses = {'pretrain': [3.0, 2.9], 'sft': [2.0], 'prefer tokens': [1.5], 'likelihood': [-12.0]}
    (check.work / 'bundle').mkdir(parents=True)
    (check.work / 'bundle' / 'cpu.json').write_text(json.dumps(dict(small=losses)))
    check.values['student'] = 'student'

    def gaps(ours, kind='float32'):
        monkeypatch.setattr(gpu_work, 'parity_values', lambda *args: ours)
        gpu_check.run_part(check, kind, gpu_check.PARTS[kind])
        return check.parts[kind]['fault']
    assert gaps(losses) == ''
    assert gaps(losses | dict(likelihood=[-12.1])) == '', 'a hundredth of 12 is allowed'
    assert 'losses of pretrain differ' in gaps(losses | dict(pretrain=[3.0, 2.94]))
    assert 'pretrain, likelihood differ' in gaps(losses | dict(pretrain=[3.0], likelihood=[float('nan')]))
    assert len(check.rows) == 16, 'what was measured stays'
    assert gaps(losses | dict(pretrain=[3.0, 2.8]), 'bfloat16') == '', 'its later steps are only told'
    assert 'losses of sft differ' in gaps(losses | dict(sft=[2.03]), 'bfloat16')


def test_every_measurement_has_its_n_and_a_failure_stops_nothing(check):
    def good(check): yield gpu_check.Row('speed', 'student', 12.5, 'tokens a second', 49)

    def bad(check):
        yield gpu_check.Row('memory', 'student', 10, 'bytes', 3)
        raise RuntimeError('out of\nmemory')
    assert gpu_check.run_parts(check, dict(bad=bad, good=good), 60) == ['bad']
    rows = list(csv.DictReader(open(check.out / 'gpu_check.csv')))
    assert [(r['what'], r['n']) for r in rows] == [('memory', '3'), ('speed', '49')]
    parts = json.loads((check.out / 'gpu_check.json').read_text())['parts']
    assert parts['bad']['fault'] == 'RuntimeError: out of memory' and parts['good']['fault'] == ''


def test_a_spent_budget_is_said(check):
    def part(check): yield gpu_check.Row('speed', 'student', 1.0, 'tokens a second', 1)
    assert gpu_check.run_parts(check, dict(a=part, b=part), -1) == ['a', 'b']
    assert not check.rows and 'left out' in (check.out / 'gpu_check.log').read_text()


def test_speed_leaves_out_the_warm_up(tmp_path):
    import gpu_work
    note = ''.join(json.dumps(dict(step=i + 1, loss=1.0, time=100.0 + (i and 9) + i)) + '\n' for i in range(20))
    (tmp_path / '.model.log').write_text(note)
    rate, n = gpu_work.speed(tmp_path / 'model', [10 * (i + 1) for i in range(20)])
    assert n == 18 and rate == pytest.approx(10)


def test_an_unknown_part_is_one_line():
    with pytest.raises(SystemExit, match="no part is called 'sfft'"): gpu_check.need_parts(['sfft'])
