"Scoring without generation, kills, votes, bad replies."
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from citrus.data.questions import question_record
from citrus.evaluate import Benchmark, likely, order_table, reorder, score_replies, table, validate_benchmark, majority_vote
from citrus.core.files import UserError, root
from citrus.core.records import read_jsonl

TREES = ['Alder disease', 'Birch syndrome', 'Cedar fever', 'Dogwood palsy']
QUESTIONS = [question_record(f'q{i}', 'own', 'test', f'Patient {i} has blue nails. Which diagnosis?', TREES, i % 4) for i in range(40)]


def rows(n, raw): return [dict(id=f'm/b/q{i}', model='m', benchmark='b', question_id=f'q{i}', raw=raw(i), extracted=None, by='', correct=False, tokens=9, finish='stop', subject='') for i in range(n)]


# The questions of the eight benchmarks, once each: MedQA, MedMCQA, PubMedQA, MedBullets, MMLU, MMLU-Pro, CareQA, JMED
EIGHT = dict(medqa=(1273, 4), medmcqa=(4183, 4), pubmedqa=(1000, 3), medbullets=(308, 5), mmlu=(1871, 4), mmlu_pro=(1535, 10), careqa=(5621, 4), jmed=(1000, 21))


def test_all_benchmarks_are_scored_again_from_kept_replies():
    "16,791 kept replies, real ones made longer by a thought of 2,000 characters: no token is generated"
    kept = [r['raw'] for r in read_jsonl(root() / 'tests' / 'extraction.jsonl')]
    sets, said = [], []
    for name, (n, k) in EIGHT.items():
        sets.append(Benchmark(name, 'options', [question_record(f'{name}-{i}', name, 'test', 'Which?', [f'{name} {i} number {j} of {k}' for j in range(k)], i % k) for i in range(n)], 9))
        said += [r | dict(benchmark=name, question_id=f'{name}-{i}', raw=f'<think>{"Blue nails speak for it. " * 80}</think>\n' * (i % 2) + kept[i % len(kept)]) for i, r in enumerate(rows(n, lambda i: ''))]
    scores = table(score_replies(said, sets), sets, [])
    assert len(said) == 16791 and scores.n.sum() == 16791


KILLED = """
import json, sys
from citrus.llm.models import local_model
from citrus.evaluate import Benchmark, answer, score_replies, table
qs = json.load(open(sys.argv[2]))
b = [Benchmark('toys', 'options', qs, 12)]
m = [local_model('micro', sys.argv[1], batch=4)]
table(score_replies(answer(m, b, 1.0, 0, 2), b), b, []).to_csv(sys.argv[3], index=False)
"""


def test_five_kills_leave_the_same_table(store, tmp_path):
    from citrus.llm.student import make_student
    student = make_student('micro', '', 0, tmp_path / 'student')
    (tmp_path / 'qs.json').write_text(json.dumps(QUESTIONS))
    def run(home, out, kill_at=None):
        p = subprocess.Popen([sys.executable, '-c', KILLED, str(student), str(tmp_path / 'qs.json'), str(out)], env=os.environ | dict(CITRUS_HOME=str(home)), stderr=subprocess.DEVNULL)
        if kill_at is None: return p.wait()
        lines = lambda: sum(f.read_bytes().count(b'\n') for f in (home / 'ledger').glob('*.jsonl'))
        while p.poll() is None and lines() < kill_at: time.sleep(0.002)
        if p.poll() is None: p.send_signal(signal.SIGKILL)
        p.wait()
        return lines()
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    left = [run(broken, tmp_path / 'broken.csv', k) for k in (1, 17, 33, 49, 65)]
    assert not (tmp_path / 'broken.csv').exists() and left == sorted(left) and left[-1] < 80, left
    assert run(broken, tmp_path / 'broken.csv') == run(whole, tmp_path / 'whole.csv') == 0
    assert (tmp_path / 'broken.csv').read_bytes() == (tmp_path / 'whole.csv').read_bytes()


@pytest.mark.parametrize('raw', ['', ' ', '\0', 'x' * 100_000, '<think>' * 20_000, '答' * 50_000, '<answer></answer>', '\ud83d', '{}', 'NaN'])
def test_any_reply_is_a_counted_row(raw):
    b = [validate_benchmark(Benchmark('b', 'options', QUESTIONS, 9))]
    from citrus.llm.models import Reply
    from citrus.evaluate import record
    t = table(score_replies([record('m', b[0], q, Reply(raw, 9, 'stop', 0.1)) for q in QUESTIONS], b), b, [])
    assert t.n[0] == 40 and t.abstained[0] == 40 and t.correct[0] == 0


def test_faulty_questions_are_one_line():
    for bad, says in ((dict(options=[]), '0 options'), (dict(answer='E'), "key 'E'"), (dict(answer=None), 'key None'), (dict(id='q1'), 'more than once'), (dict(stem=' '), 'empty stem'),
                      (dict(options=[dict(label='A', text='x'), dict(label='A', text='y')]), 'comes twice'), (dict(options=[dict(label='A', text=float('nan')), dict(label='B', text='y')]), 'without text')):
        with pytest.raises(UserError, match=says) as e: validate_benchmark(Benchmark('b', 'options', QUESTIONS[1:] + [QUESTIONS[0] | bad], 9))
        assert '\n' not in str(e.value)


def test_votes_do_not_depend_on_chance_order():
    b = [Benchmark('b', 'options', QUESTIONS[:1], 9)]
    said = score_replies([r | dict(id=f'm/b/q0#{k}', raw=t) for k, t in enumerate(['B', 'no idea', 'A', 'A']) for r in rows(1, lambda i: '')], b)
    assert [(v['extracted'], v['correct']) for v in majority_vote(said)] == [('A', True)]
    assert majority_vote(said[:1] + said[2:3])[0]['extracted'] == 'B'   # one to one: the earlier


def test_orders_keep_the_key_and_reach_every_place():
    seen = set()
    for q in QUESTIONS:
        for k in range(6):
            r = reorder(q, k, 0)
            assert {o['label']: o['text'] for o in r['options']}[r['answer']] == q['answer_text'] and sorted(o['text'] for o in r['options']) == sorted(TREES)
            seen.add((q['answer'], r['answer']))
    assert len(seen) == 16


def test_likelihood_mode(store, tmp_path, monkeypatch):
    "Letters that carry no meaning for a random model: its accuracy follows the keys, not the texts"
    from citrus.llm.student import make_student
    from citrus.llm.models import local_model
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path))
    m = local_model('micro', make_student('micro', '', 0, tmp_path / 'student'))
    b = [Benchmark('b', 'options', QUESTIONS, 9)]
    first, again = likely([m], b, 2, 0), likely([m], b, 2, 0)
    assert first == again and len(first) == 80
    t = order_table(first, b)
    assert t.n[0] == 40 and t.orders[0] == 2 and t.kept_order[0] == 0 and 0 <= t.bias[0] <= 1
