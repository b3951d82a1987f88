"""The closed world of the laboratory, cut out of the real ontology: what its sets promise, and that its student is a model like any other."""
import random

import pytest

from citrus.core.files import UserError
from citrus.world.chart import weigh
from citrus.world.closed import closed_world, closure_of, describe_world, finding_name
from citrus.world.closed_cases import check_disjoint, check_told, facts_of, sets_of_closed, table_scores
from citrus.world.expert import knowledge_of
from citrus.world.families import load_world
from citrus.world.holdouts import HELD_OUT, families_left, draw_patients
from citrus.world.narrowing import known as known_sentence, narrowed
from citrus.world.portions import known_world, withheld_pairs
from citrus.world.practice import PRACTISED, fact_table, practice_rows
from citrus.world.steps import candidates_step, conclusion_step
from citrus.world.telling import monologue
from citrus.world.world_student import closed_student, wordings

SIZES = dict(presentations=0, unread=0, withholding=6, tellings=4, single=1500, several=300)


@pytest.fixture(scope='module')
def whole(): return load_world('OMIM')


@pytest.fixture(scope='module')
def world(whole): return closed_world(whole, closure_of(dict(families=90)))


@pytest.fixture(scope='module', params=[0, 1])
def sets(world, request): return sets_of_closed(world, SIZES, 60, 3, 4, request.param, 1.0, train=400, patients=0, diseases=60)


def test_no_finding_alone_decides_and_exactly_one_family_explains_all(world, sets):
    known = known_world(world, sets['portions'])
    for split in ('train', *HELD_OUT):
        for q in sets['questions'][split]:
            assert world.explainers(q['meta']['present']) == {q['answer_text']}
            assert all(len(world.explainers([t])) > 1 for t in q['meta']['present'])
            if split != 'unread': assert known.explainers(q['meta']['present']) == {q['answer_text']}
    assert describe_world(known)['fewest_carriers'] >= 2


def test_a_presentation_shows_only_what_no_case_of_its_disease_has_shown(sets):
    shown = {}
    for q in sets['questions']['train']: shown.setdefault(q['answer_text'], set()).update(q['meta']['present'])
    for q in sets['questions']['presentations']: assert q['answer_text'] in sets['portions'].shown and not shown.get(q['answer_text'], set()) & set(q['meta']['present'])
    for q in sets['questions']['diseases']: assert q['answer_text'] not in shown
    assert any(set(q['meta']['present']) <= shown.get(q['answer_text'], set()) for q in sets['questions']['patients'])   # these may be recognised


def test_tables_of_cases_recognise_new_patients_and_nothing_else(world, sets):
    scores = table_scores(sets, world).set_index(['ranker', 'set']).accuracy
    for name in ('vote of cases', 'neighbour of cases'):
        assert scores[name, 'patients'] > 0.6
        for split in ('presentations', 'diseases', 'unread'): assert scores[name, split] < 0.02
    assert all(scores['vote of texts', split] == 1 for split in ('patients', 'presentations', 'diseases')) and scores['vote of texts', 'unread'] < 0.02


def test_what_is_withheld_is_in_no_text(world, sets):
    check_told(sets, world)
    check_disjoint(sets['questions'])
    family, t = min(withheld_pairs(sets['portions']))
    name = world.terms[t].name
    leak = dict(text=f'A doctor who sees {name[0].lower()}{name[1:]} thinks of {family}.')
    with pytest.raises(UserError, match='withheld or false'): check_told(sets | dict(texts=sets['texts'] | dict(leak=[leak])), world)
    with pytest.raises(UserError, match='told nowhere'): check_told(sets | dict(texts={}, facts=[], dialogues=[]), world)


def test_patients_speak_in_lay_words_and_texts_say_what_they_mean(world, sets):
    table = fact_table(known_world(world, sets['portions']))
    assert len(table.lay) > 100 and not set(table.lay.values()) & set(table.families) and len(set(table.lay.values())) == len(table.lay)
    for split in ('train', *HELD_OUT):
        for q in sets['questions'][split][:50]:
            names = [finding_name(world, t) for t in q['meta']['present']]
            assert all(said in q['open_stem'].lower() for said in map(str.lower, table.plain_words(names)))
    told = ' '.join(d['text'] for d in sets['texts']['by_words'])
    assert all(f'{plain}: {t}.' in told for t, plain in table.lay.items())


def test_every_answer_of_practice_is_true(world, sets):
    table = fact_table(known_world(world, sets['portions']))
    for name in PRACTISED:
        for r in practice_rows(table, [name], 60, 3):
            last = r['messages'][-1]['content']
            if name in ('finding', 'several', 'both'):
                for sentence in filter(None, last.removesuffix('.').split('. ')):
                    head, _, names = sentence.partition(': ')
                    if head in table.families: assert names.split('; ') == table.families[head]
            if name == 'both':
                *lists, last_left = last.removesuffix('.').split('. ')
                asked = [head for head, _, _ in (sentence.partition(': ') for sentence in lists) if head not in ('Both', 'Known')]
                left = last_left.partition(': ')[2].split('; ')
                assert left == ['none'] or all(f in table.families[t] for f in left for t in asked)


def test_a_trace_is_made_of_what_was_practised(world, sets):
    known = known_world(world, sets['portions'])
    table = fact_table(known)
    k = knowledge_of(known, sets['known'])
    for q in sets['questions']['train'][:40]:
        names = [known.terms[t].name for t in q['meta']['present']]
        steps = [candidates_step(sorted({f for t in q['meta']['present'] for f in k.carriers[t]}))]
        steps += [weigh(name, k.carriers[t], steps[0].candidates) for name, t in zip(names, q['meta']['present'])]
        told = monologue([*steps, conclusion_step(q['answer_text'])], 'lists')
        lists = {n[0].lower() + n[1:] if n[1:2].islower() else n: table.families[n[0].lower() + n[1:] if n[1:2].islower() else n] for n in names}
        assert told == ' '.join([known_sentence(list(lists)), *narrowed(lists)]) + f' So I decide for {q["answer_text"]}.'
        assert f'Both: {q["answer_text"]}.' in told
    assert not facts_of([told], table) & {(f, known.terms[t].name.lower()) for f, t in withheld_pairs(sets['portions'])}


def test_patients_of_a_set_are_as_many_as_there_are(world, sets):
    with pytest.raises(UserError, match='are asked for'): draw_patients(world, sets['portions'], 'unread', 10_000, 3, 0)
    left = families_left(world, draw_patients(world, sets['portions'], 'presentations', 0, 3, 0))
    assert left[0] > 3 and left[2] == 1


def test_a_student_from_scratch_is_a_model_like_any_other(world, tmp_path):
    from citrus.llm.door import chat
    from citrus.llm.models import Sampling, local_model
    from transformers import AutoTokenizer
    closed_student(world, dict(layers=1, width=32, heads=2, inner=64), 0)(tmp_path / 'base')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / 'base')
    table = fact_table(world)
    for text in random.Random(0).sample(wordings(table, 0), 200) + ['Ωμέγα 漢字 \n\n ±']:
        assert tokenizer.decode(tokenizer(text)['input_ids'], skip_special_tokens=True) == text
    for name in (*table.families, *table.findings): assert len(tokenizer(name)['input_ids']) == 1
    questions = [[dict(role='user', content=f'Which diseases show {t}?')] for t in list(table.families)[:3]]
    replies = chat(questions, local_model('student', tmp_path / 'base'), Sampling(max_tokens=4))
    assert [r[0].tokens for r in replies] == [4, 4, 4] or all(r[0].finish == 'stop' for r in replies)


def test_an_unknown_size_is_named():
    with pytest.raises(UserError, match="did you mean 'families'"): closure_of(dict(familys=3))
