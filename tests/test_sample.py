"Rejection sampling: rules, filters, pairs and early stops, on a student that is a coin."
import itertools
import math
import random
from dataclasses import replace

import pytest

from citrus.llm.models import BACKENDS
from citrus.llm.models import Model, Reply, Sampling
from citrus.llm.prompt import target
from citrus.core.files import UserError
from citrus.core.records import read_jsonl
from citrus.train.samples import (FILTERS, Limits, Stop, answer_funnel, judge_reply, make_pairs, matched, outcome, pass_at, replayed, right_counts,
                                  sample_answers, savings)

QUESTIONS = [dict(id=f'q{i}', stem='', open_stem=f'Who is number {i}?', options=[], context=None, answer_text=f'Disease {i}', aliases=[]) for i in range(12)]


@pytest.fixture
def coin(tmp_path, monkeypatch):
    "A student that is right on question i with probability i / 11, and speaks at various lengths"
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path))
    asked = []
    def backend(model, sampling, prompts):
        for i, (messages, index) in enumerate(prompts):
            number, rng = int(messages[-1]['content'].split()[-1][:-1]), random.Random(f'{messages} {index} {sampling.seed}')
            asked.append((number, index))
            right, words = rng.random() < number / 11, rng.randrange(1, 9)
            yield i, Reply(target(' '.join(map(str, range(words))), f'Disease {number if right else 99}'), words, 'stop', 0.1)
    monkeypatch.setitem(BACKENDS, 'coin', backend)
    return Model('coin', 'coin', revision=str(tmp_path)), asked


def test_early_stop_asks_for_what_it_would_have_seen(coin):
    "Answers in rounds are the first ones of all answers, so the replay on all of them is exact"
    model, asked = coin
    sampling, stop = Sampling(temperature=1.0, n=20, seed=3), Stop(5, 3, 0.25)
    few = sample_answers(QUESTIONS, model, sampling, stop=stop)
    assert len(asked) == len(set(asked)) == len(few) < 240
    full = sample_answers(QUESTIONS, model, sampling)
    assert len(asked) == 240, 'what was answered is not asked again'
    for q in QUESTIONS:
        mine, whole = ([(r['text'], r['correct']) for r in rows if r['question_id'] == q['id']] for rows in (few, full))
        assert mine == whole[:len(mine)] == [(r['text'], r['correct']) for r in replayed([r for r in full if r['question_id'] == q['id']], 20, stop)]
    assert outcome(QUESTIONS, few, [], 20)['saved'] == 1 - len(few) / 240 == savings(QUESTIONS, full, 20, 3, [0.25]).saved.iloc[0]


def test_rates_after_an_early_stop_are_not_biased(coin):
    "Only the first round counts, which every question has"
    model, _ = coin
    few = sample_answers(QUESTIONS, model, Sampling(temperature=1.0, n=20, seed=4), stop=Stop(4, 1, 0.5))
    full = sample_answers(QUESTIONS, model, Sampling(temperature=1.0, n=20, seed=4))
    correct, n = right_counts(QUESTIONS, few)
    assert n == 4 and correct == [sum(r['correct'] for r in full[i:i + 4]) for i in range(0, 240, 20)]


def test_pass_at_is_the_mean_over_subsets():
    for correct, n, k in ((2, 5, 2), (0, 5, 3), (5, 5, 1), (4, 5, 3)):
        hits = [any(i < correct for i in some) for some in itertools.combinations(range(n), k)]
        assert pass_at([correct], n, k) == pytest.approx(sum(hits) / len(hits))


def test_pairs_are_right_against_wrong_and_near_in_length(coin):
    model, _ = coin
    rows = sample_answers(QUESTIONS, model, Sampling(temperature=1.0, n=20, seed=1))
    pairs, by = make_pairs(QUESTIONS, rows, 3), {(r['question_id'], r['text']): r for r in rows}
    assert len(pairs) > 15 and len({p['id'] for p in pairs}) == len(pairs)
    used = [(p['question_id'], p[s][0]['content']) for p in pairs for s in ('chosen', 'rejected')]
    assert len(used) == len(set(used)), 'no answer is used twice'
    for p in pairs:
        right, wrong = (by[p['question_id'], p[s][0]['content']] for s in ('chosen', 'rejected'))
        assert right['correct'] and not wrong['correct'] and 0 < p['n_correct'] < 20 == p['n_samples']
    assert [p['n_correct'] for p in pairs] == sorted(p['n_correct'] for p in pairs), 'hardest first'
    gap = lambda ps: sum(abs(by[p['question_id'], p['chosen'][0]['content']]['tokens'] - by[p['question_id'], p['rejected'][0]['content']]['tokens']) for p in ps) / len(ps)
    rng = random.Random(0)
    some = lambda i, c: rng.choice([r for r in rows if r['question_id'] == i and r['correct'] == c])['tokens']
    unmatched = sum(abs(some(p['question_id'], True) - some(p['question_id'], False)) for p in pairs) / len(pairs)
    assert gap(pairs) < 0.5 < 1.5 < unmatched
    assert make_pairs(QUESTIONS, rows, 3, 5) == pairs[:5]
    assert max(sum(p['question_id'] == q['id'] for p in pairs) for q in QUESTIONS) == 3


def test_the_funnel_adds_up(coin):
    model, _ = coin
    rows = sample_answers(QUESTIONS, model, Sampling(temperature=1.0, n=20, seed=2))
    for i, name in enumerate(FILTERS): rows[i]['problem'] = name
    pairs = make_pairs(QUESTIONS, rows, 3)
    t = answer_funnel(QUESTIONS, rows, pairs).set_index('answers')
    for side in ('right', 'wrong'): assert t[side]['asked'] == t[side].drop(['asked', 'in a pair']).sum() and t[side]['in a pair'] == len(pairs) <= t[side]['question has both']
    none = answer_funnel(QUESTIONS, [r for r in rows if r['question_id'] in ('q0', 'q11')], [])
    assert none.set_index('answers').questions['question has both'] == 0


@pytest.mark.parametrize('text, problem, correct', [
    ('', 'format', False), ('<answer>Disease 3</answer>', 'format', False), (target('So.', 'Disease 3') * 2, 'format', False), (target('So.', 'Disease 3') + ' Really.', 'format', False),
    (target('所以是这个病。' * 3, 'Disease 3'), 'language', True), (target('So. ' * 9000, 'Disease 3'), 'length', True), (target('and so on ' * 50, 'Disease 3'), 'repetition', True),
    (target('So.', 'disease-3'), '', True), (target('So.', 'Disease 4'), '', False), ('\x00<think>\ud800</think>', 'format', False)])
def test_hostile_answers(text, problem, correct):
    said = judge_reply(QUESTIONS[3], text, Limits())
    assert (said['problem'], said['correct']) == (problem, correct)


def test_a_student_of_bare_answers_needs_no_thought():
    bare = replace(Limits(), thinks=False)
    assert [judge_reply(QUESTIONS[3], t, bare)['problem'] for t in ('<answer>Disease 3</answer>', '<answer>Disease 3', 'So <answer>Disease 3</answer>', target('So.', 'Disease 3'))] == ['', 'format', 'format', '']


def test_a_question_in_chinese_wants_chinese():
    q = QUESTIONS[3] | dict(open_stem='患者发热三天，最可能的诊断是什么？', answer_text='流感')
    assert [judge_reply(q, target(t, '流感'), Limits())['problem'] for t in ('发热三天，考虑流感。', 'Three days of fever suggest influenza.')] == ['', 'language']


def test_matching_prefers_near_pairs_over_many():
    rows = lambda *tokens: [dict(text=f'{i} {t}', tokens=t) for i, t in enumerate(tokens)]
    made = matched([r | dict(text='r' + r['text']) for r in rows(1, 50, 100)], [r | dict(text='w' + r['text']) for r in rows(99, 2)], 5)
    assert [(r['tokens'], w['tokens']) for r, w in made] == [(1, 2), (100, 99)]
    assert matched([], rows(1), 3) == matched(rows(1), [], 3) == []


def test_hope_follows_the_rule_of_succession():
    "Simulated: the share of questions whose next r answers all agree with their first m"
    rng, kept, agree = random.Random(0), 0, 0
    for _ in range(40000):
        p = rng.random()
        if all(rng.random() < p for _ in range(6)):
            kept += 1
            agree += all(rng.random() < p for _ in range(4))
    chance = 1 - agree / kept
    rows = [dict(correct=True, problem='')] * 6
    assert math.isclose(chance, 1 - 7 / 11, abs_tol=0.02)
    assert not Stop(1, 3, chance - 0.03).now(rows, 4) and Stop(1, 3, chance + 0.03).now(rows, 4)


def test_problems_that_stage_3_has_not_seen_come_first(store):
    "The embedded non-medical problems are open questions whose own solutions are right"
    from types import SimpleNamespace
    from citrus.prefer import to_ask
    from citrus.synth import general_rows
    solutions = {r['id']: r['messages'][-1]['content'] for r in general_rows([], 600)}
    seen = sorted(solutions)[:-3]
    files = {'train.jsonl': QUESTIONS, 'sft3.jsonl': [dict(id=i) for i in seen] + [dict(id=f'sft-{i}', question_id=f'q{i}') for i in (0, 1, 4, 7)]}
    s = SimpleNamespace(params=dict(start='sft3', questions=8, general=5, general_hub=[], general_longest=600, seed=0, questions_from='cases'),
                        read=lambda stage, file, record: files[file])
    medical, other = to_ask(s)
    assert {q['id'] for q in medical} == {f'q{i}' for i in range(12)} - {'q0', 'q1', 'q4', 'q7'} and len(other) == 5
    assert len([q for q in other if q['id'] in seen]) == 2 and not {q['id'] for q in other[:3]} & set(seen)
    s.params['questions'] = 9
    with pytest.raises(UserError, match='prefer.questions = 9: training left 8 of 12 unread; raise cases.train'): to_ask(s)
    assert all(judge_reply(q, solutions[q['id']], Limits()) == dict(answer=q['answer_text'], problem='', correct=True) for q in other)
    assert not any(judge_reply(q, solutions[other[i - 1]['id']], Limits())['correct'] for i, q in enumerate(other)), 'that of another problem is wrong'


def test_preference_asks_nothing_that_its_student_was_trained_on(micro, store):
    "By id, with more training questions than the recipe's and in whatever order they were read"
    folder = store / 'runs' / 'micro'
    read = {r['question_id'] for r in read_jsonl(folder / 'sft' / 'sft3.jsonl') if 'question_id' in r}
    asked = {r['question_id'] for r in read_jsonl(folder / 'prefer' / 'samples.jsonl')}
    assert read and len(asked) == 3 and not asked & read


def test_a_prompt_that_the_model_refuses_is_counted_with_its_reason(coin, monkeypatch):
    from citrus.llm.models import refused_reply
    model, _ = coin
    real = BACKENDS['coin']
    def picky(model, sampling, prompts):
        for i, reply in real(model, sampling, prompts): yield i, refused_reply('400 content_filter') if 'number 7?' in prompts[i][0][-1]['content'] else reply
    monkeypatch.setitem(BACKENDS, 'coin', picky)
    rows = sample_answers(QUESTIONS, model, Sampling(temperature=1.0, n=4))
    refused = [r for r in rows if r['question_id'] == 'q7']
    assert len(rows) == 48 and {(r['problem'], r['correct']) for r in refused} == {('set aside: 400 content_filter', False)}
    assert outcome(QUESTIONS, rows, [], 4)['well_formed'] == 44 / 48
    table = answer_funnel(QUESTIONS, rows, []).set_index('answers')
    assert table.loc['fails: set aside: 400 content_filter', ['right', 'wrong']].sum() == 4
