"Facts that are told and asked are apart where they must be, and the intervals know what was taught."
import numpy as np
import pandas as pd
import pytest

from citrus.studies.knowledge import STUDENT_KINDS, change, check_apart, fact_curricula, knowledge_table, without
from citrus.world.facts import ASKED, TELLINGS, cloze, tell
from citrus.core.files import UserError
from citrus.core.records import read_jsonl
from citrus.studies.throughput import lognormal_pieces, throughput_table

from conftest import MICRO, citrus_run

FACTS = {f'disease {d}': [f'sign {d}{i}' for i in range(4)] for d in 'abcdef'}
TABOO = {f: [] for f in FACTS}


def test_questions_are_not_in_the_words_of_the_text():
    assert not any(ASKED.partition('{')[0] in t for t in TELLINGS) and all('{name}' in t and '{a}' in t and '{b}' in t for t in TELLINGS)


def test_every_telling_holds_every_fact_and_no_other():
    for d in tell(FACTS, 6, 3):
        told = next(f for f in FACTS if f in d['text'].lower())
        assert {x for xs in FACTS.values() for x in xs if x in d['text']} == set(FACTS[told])


def test_wrong_options_are_wrong_and_from_the_same_group():
    taboo = TABOO | {'disease a': ['sign b0', 'sign c1']}
    for q in cloze(FACTS, taboo, 'seen', 0):
        own = q['meta']['disease']
        wrong = [o['text'] for o in q['options'] if o['text'] != q['answer_text']]
        assert q['answer_text'] in FACTS[own] and len(wrong) == 3 and not set(wrong) & set(FACTS[own] + taboo[own]) and set(wrong) <= {x for f in FACTS for x in FACTS[f]}


def test_the_control_tells_each_disease_of_anothers_findings():
    read = fact_curricula(FACTS, dict(medical=[dict(id=f'm{i}', text='m') for i in range(9)], general=[dict(id=f'g{i}', text='g') for i in range(9)]), 2, 0, largest=4)
    for d in read[STUDENT_KINDS[2]]['facts_1']: assert not any(x in d['text'] for f in FACTS if f in d['text'].lower() for x in FACTS[f])
    words = lambda kind: sorted(w for a in ('facts_1', 'facts_2') for d in read[kind][a] for w in d['text'].split() if w.startswith('sign'))
    assert len(words(STUDENT_KINDS[0])) == len(words(STUDENT_KINDS[2])) and read[STUDENT_KINDS[0]]['medical'] == read[STUDENT_KINDS[1]]['medical'] and {d['text'] for d in read[STUDENT_KINDS[1]]['last']} == {'m'}
    assert not {d['id'] for d in read[STUDENT_KINDS[1]]['last']} & {d['id'] for d in read[STUDENT_KINDS[1]]['medical']}


def test_names_in_any_case_are_kept_out():
    docs = [dict(id='1', text='The CAYMAN type.'), dict(id='2', text='Nothing.')]
    assert [d['id'] for d in without(docs, ['Cayman Type'])] == ['2']
    with pytest.raises(UserError, match='name an unseen disease'): check_apart(dict(a=dict(x=docs)), ['cayman type'], [])


def made(p_seen, seeds=(0, 1)):
    rng = np.random.default_rng(0)
    return pd.DataFrame([dict(kind=k, seed=i, group=g, disease=d, question_id=f'{g}{d}-{j}', correct=rng.random() < (p_seen if g == 'seen' and k in STUDENT_KINDS[:2] else .25))
                         for k in ('before', *STUDENT_KINDS) for i in (seeds if k in STUDENT_KINDS[:2] else seeds[:1]) for g in ('seen', 'unseen') for d in range(16) for j in range(5)])


def test_only_what_was_taught_is_found():
    losses = pd.DataFrame([dict(kind=k, seed=i, domain=d, sequence=j, loss=j + .5 * (d == 'general' and k == STUDENT_KINDS[1])) for k in ('before', *STUDENT_KINDS) for i in ((0, 1) if k in STUDENT_KINDS[:2] else (0,)) for d in ('medical', 'general') for j in range(6)])
    table = knowledge_table(made(0.7, (0, 1, 2)), losses).set_index(['kind', 'against', 'measure'])
    assert table.low[STUDENT_KINDS[0], 'before', 'accuracy, seen diseases'] > 0.2
    for kind, group in ((STUDENT_KINDS[0], 'unseen'), (STUDENT_KINDS[2], 'seen')): assert table.low[kind, 'before', f'accuracy, {group} diseases'] < 0 < table.high[kind, 'before', f'accuracy, {group} diseases']
    assert table.change[STUDENT_KINDS[1], 'before', 'loss, general text'] == pytest.approx(0.5) and table.change[STUDENT_KINDS[0], STUDENT_KINDS[1], 'loss, general text'] == pytest.approx(-0.5)


def test_other_seeds_than_zero_are_no_hole_in_the_table():
    r = change(made(0.7, seeds=(5, 6)).query("group == 'seen'"), STUDENT_KINDS[2], 'before', 'correct', 'question_id', 'disease')
    assert r['n'] == 80 and np.isfinite(r['low']) and np.isfinite(r['change'])


def test_lengths_are_lognormal_and_nothing_is_lost():
    parts = lognormal_pieces(np.arange(10**5), 400, 100, 1.0, 1000, 0)
    assert (np.concatenate(parts) == np.arange(sum(map(len, parts)))).all() and 85 < np.median([len(p) for p in parts]) < 115 and max(map(len, parts)) <= 1000


def test_padding_is_not_counted():
    steps = pd.DataFrame([dict(step=i, way=w, tokens=10, computed=c, wall=s, cpu=s, peak=100., loss=1.) for i in (1, 2) for w, c, s in (('padded', 40, 4.), ('packed', 10, 1.))])
    table = throughput_table(steps, 1.).set_index('way')
    assert table.times['packed'] == 4 and table.filled['padded'] == .25 and table.share_of_peak['packed'] == pytest.approx(.1) and table.steps['packed'] == 1


def test_both_studies_run_on_the_micro_model(micro, store):
    citrus_run(store, '--recipe', str(MICRO), '--only', 'knowledge')
    citrus_run(store, '--recipe', str(MICRO), '--only', 'throughput')
    run = store / 'runs' / 'micro'
    asked, choices = read_jsonl(run / 'knowledge' / 'questions.jsonl', 'question'), read_jsonl(run / 'knowledge' / 'choices.jsonl')
    assert len(choices) == 6 * len(asked) and {c['kind'] for c in choices} == {'before', *STUDENT_KINDS} and not list((run / 'knowledge').rglob('*.safetensors'))
    unseen = {q['meta']['disease'].lower() for q in asked if q['split'] == 'unseen'}
    assert unseen and not any(n in d['text'].lower() for d in read_jsonl(run / 'knowledge' / 'told.jsonl', 'document') for n in unseen)
    table = pd.read_csv(run / 'throughput' / 'throughput.csv').set_index('way')
    assert table.filled['packed'] == 1 > table.filled['padded'] and (table.tokens_a_second > 0).all()
