"Replies read by hand against the rules of citrus.eval.extract."
import time
from collections import Counter

import pytest

from citrus.eval.extract import extract_letter, extract_name, mark
from citrus.core.records import read_jsonl
from citrus.core.files import root

LETTERS = 'ABCDEFGHIJKLMNOPQRSTU'


def with_options(name):
    "Each reply of a file with its options; those of questions of the embedded benchmarks are looked up there"
    from citrus.data.questions import BENCHMARKS
    rows = read_jsonl(root() / 'tests' / name)
    need = {r['question'] for r in rows if 'question' in r}
    options = {q['id']: q['options'] for load in BENCHMARKS.values() for q in load() if q['id'] in need}
    return [r | dict(options=options[r['question']] if 'question' in r else [dict(label=l, text=t) for l, t in zip(LETTERS, r['options'])]) for r in rows]


@pytest.fixture(scope='module')
def replies(store): return with_options('extraction.jsonl')


def test_agreement_with_readers(replies):
    "At least 99.5 % as read by hand, and at most 0.1 % an option that the reader did not see chosen"
    read = [(r, *extract_letter(r['raw'], r['options'], r['cut'])) for r in replies]
    off = [(r['id'], r['raw'][:80], r['label'], found, by) for r, found, by in read if found != r['label']]
    wrong = [o for o in off if o[3] is not None]
    assert len(replies) >= 400 and sum(r['label'] is not None for r in replies) > 200
    assert len(wrong) <= 0.001 * len(replies), wrong
    assert len(off) <= 0.005 * len(replies), off


def test_replies_of_a_run_that_the_rules_were_not_made_for(store):
    "166 replies of six models of a default run. When they were read 2 of them were taken wrongly, which is mended, and 14 were left out that a reader would take, which is not"
    read = [(r, extract_letter(r['raw'], r['options'], r['cut'])[0]) for r in with_options('unseen.jsonl')]
    assert len(read) == 166 and len({r['by'] for r, _ in read}) == 6
    assert [r['id'] for r, found in read if found is not None and found != r['label']] == []
    assert sum(found == r['label'] for r, found in read) >= 152


def test_hard_replies_in_five_languages():
    "263 replies: `develop` and `held` were written before the rules, `held` was not looked at while they were made; `second` and `third` were written after. Before the rules were mended on them one of 179 was misread and 21 of 151 were left out"
    rows = read_jsonl(root() / 'tests' / 'choices.jsonl')
    read = [(r, extract_letter(r['raw'], [dict(label=l, text=t) for l, t in zip(LETTERS, r['options'])], r['cut'])[0]) for r in rows]
    assert [(r['raw'], found) for r, found in read if found not in (None, r['label'])] == []
    for half in ('develop', 'held', 'second', 'third'):
        labelled = [found for r, found in read if r['half'] == half and r['label']]
        assert sum(found is None for found in labelled) <= len(labelled) / 20 and len(labelled) >= 36


def test_shared_replies():
    path = root().parent / 'shared' / 'data' / 'replies' / 'extraction.jsonl'
    if not path.exists(): pytest.skip(f'{path} is not here')
    rows = read_jsonl(path)
    assert [(r['raw'], r['right']) for r in rows if extract_letter(r['raw'], r['options'], r['cut'])[0] != r['right']] == []


MARFAN = dict(answer_text='Marfan syndrome', aliases=[], options=[dict(label='A', text='Marfan syndrome'), dict(label='B', text='Gout')], answer='A', meta={})


@pytest.mark.parametrize('answer, right', [('The diagnosis is Marfan syndrome', True), ('Marfan', True), ('not Marfan syndrome', False), ('Marfan syndrome (excluded)', False), ('**Marfan syndrome**', True), ('Diagnóstico: síndrome de Marfan', True)])
def test_training_and_evaluation_judge_alike(answer, right):
    from citrus.evaluate import score_one
    from citrus.train.samples import Limits, judge_reply
    reply, q = f'<think>He is tall.</think>\n<answer>{answer}</answer>', MARFAN | dict(open_stem='Who is tall?', stem='', context=None)
    assert mark(reply, q)[2] == judge_reply(q, reply, Limits())['correct'] == score_one(dict(raw=reply, finish='stop'), q, 'open')['correct'] == right


@pytest.mark.parametrize('raw, found', [('He is tall.</think>\n<answer>Marfan syndrome</answer>', 'Marfan syndrome'), ('<think>x</think><answer>Gout', 'Gout'), ('<think>x</think>\\boxed{\\text{Gout}}', 'Gout'), ('Gout', None)])
def test_where_a_name_is_read(raw, found): assert extract_name(raw)[0] == found


@pytest.mark.parametrize('raw', ['诊断不考虑为A', '不能诊断为A', '鉴别诊断：A', 'La respuesta no es A.', 'Die Antwort ist nicht A.', "La réponse n'est pas A.", 'A ist falsch.', 'A no es correcta', 'A 是错误的', "It isn't A.", 'not A but', 'I doubt it is A.', 'If it is A, treat.'])
def test_refusals_in_other_languages_choose_nothing(raw): assert extract_letter(raw, MARFAN['options'])[0] is None


def test_the_set_is_varied(replies):
    made = Counter(r['by'] for r in replies)
    assert len({(r['raw'], str(r['options']), r['cut']) for r in replies}) == len(replies) and min(made.values()) > 100
    assert len({r['prompt'] for r in replies if 'prompt' in r}) >= 10 and {len(r['options']) for r in replies} >= {3, 4, 5, 10, 21}


def test_simpler_readers_fail(replies):
    "The control: a reader that takes the first capital letter, and one that always takes the most similar option"
    import difflib, re
    first = lambda r: next(iter(l for l in re.findall(r'\b([A-Z])\b', r['raw']) if l in {o['label'] for o in r['options']}), None)
    similar = lambda r: max(r['options'], key=lambda o: difflib.SequenceMatcher(None, o['text'].lower(), r['raw'].lower()[:300]).ratio())['label']
    wrong = {f.__name__ if hasattr(f, '__name__') else f: sum(f(r) is not None and f(r) != r['label'] for r in replies) / len(replies) for f in (first, similar)}
    assert min(wrong.values()) > 0.2, wrong


@pytest.mark.parametrize('raw', ['the answer is ' * 8000, '(' * 100_000, 'A. ' * 33_000, 'x, ' * 33_000, 'B\n' * 50_000, '<think>' * 14_000, '"' * 100_000, 'so A ' * 20_000, 'is the correct ' * 7000, '答案' * 50_000, '\\boxed{' * 14_000, '**A' * 33_000, 'A | correct\n' * 10_000, '诊断' * 50_000, 'wait, ' * 20_000, "it's A, " * 14_000])
def test_long_replies_are_read_in_a_moment(raw):
    options = [dict(label=l, text=f'Disease number {i}') for i, l in enumerate(LETTERS)]
    began = time.time()
    extract_letter(raw, options)
    assert time.time() - began < 3
