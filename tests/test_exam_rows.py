"Keys and options of benchmarks: what a row says, or one line; never a guess, and never a traceback."
import json
import random
import re

import pytest

from citrus.data.hub import hub_records
from citrus.data.questions import LETTERS, question_record, right_labels
from citrus.eval.orders import reorder
from citrus.evaluate import score_one
from citrus.eval.exams import EXAMS, content, file_records, load_exam, own_exam
from citrus.eval.exam_files import headless_csv, json_columns, json_lines, labelled_abstracts, medbullets
from citrus.eval.exam_faults import shuffled_keys
from citrus.core.files import UserError
from citrus.core.records import write_jsonl

FOUR = dict(opa='Goat', opb='Cow', opc='Ant', opd='Owl')
ROWS = {
    'GBaker/MedQA-USMLE-4-options': dict(question='Who climbs?', options=dict(A='Goat', B='Cow', C='Ant', D='Owl'), answer_idx='B', answer='Cow', meta_info='step1'),
    'openlifescienceai/medmcqa': FOUR | dict(id='x', question='Who climbs?', cop=1, subject_name='Goats'),
    'qiaojin/PubMedQA': dict(pubid=1, question='Do goats climb?', context=dict(contexts=['Goats.', 'Hills.']), final_decision='no'),
    'HPAI-BSC/CareQA': dict(op1='Goat', op2='Cow', op3='Ant', op4='Owl', question='Who climbs?', cop=2, category='Goats', year=2024, unique_id='u'),
    'cais/mmlu': dict(question='Who climbs?', subject='goats', choices=['Goat', 'Cow', 'Ant', 'Owl'], answer=1),
    'TIGER-Lab/MMLU-Pro': dict(question_id=7, question='Who climbs?', options=['Goat', 'Cow', 'Ant', 'Owl'], answer='B', answer_index=1, category='goats'),
    'jdh-algo/JMED': dict(question='Who climbs?', options=dict(zip(LETTERS, ['Goat', 'Cow', 'Ant', 'Owl'])), answer=['B'])}
MEDBULLETS = dict(question='Who climbs?', opa='Goat', opb='Cow', opc='Ant', opd='Owl', answer_idx='B', link='')


def read(id, **more): return list(hub_records([ROWS[id] | more], id, 'test'))


def one_line(e): return '\n' not in str(e.value)


@pytest.mark.parametrize('id', ROWS)
def test_rows_as_they_should_be(id):
    q = read(id)[0]
    assert q['answer_text'].lower() in ('cow', 'no') and right_labels(q) == ['B'] and 'answers' not in q['meta']


WRONG = [('GBaker/MedQA-USMLE-4-options', dict(answer_idx=k)) for k in ('', 'AB', 'E', None, 1)]
WRONG += [('GBaker/MedQA-USMLE-4-options', dict(answer='Goat')), ('GBaker/MedQA-USMLE-4-options', dict(options=dict(A=None, B='Cow'))), ('GBaker/MedQA-USMLE-4-options', dict(options=['Goat', 'Cow']))]
WRONG += [('openlifescienceai/medmcqa', dict(cop=k)) for k in (-2, 4, None, True, '1', 1.0)]
WRONG += [('openlifescienceai/medmcqa', dict(opa=t)) for t in (None, float('nan'), '', ' ')]
WRONG += [('HPAI-BSC/CareQA', dict(cop=k)) for k in (0, 5, 2.5, '', None, float('inf'))] + [('HPAI-BSC/CareQA', dict(op2=None))]
WRONG += [('cais/mmlu', dict(answer=k)) for k in (-1, 4, 'B', None)] + [('cais/mmlu', dict(choices=['Goat'])), ('cais/mmlu', dict(choices=None)), ('cais/mmlu', dict(question=' '))]
WRONG += [('TIGER-Lab/MMLU-Pro', m) for m in (dict(answer_index=-1), dict(answer='C'), dict(answer_index=2), dict(options=['Goat', None]))]
WRONG += [('jdh-algo/JMED', dict(answer=k)) for k in ('', 'AB', ['CD'], [], ['Z'], None, [None])] + [('jdh-algo/JMED', dict(options=None))]
WRONG += [('qiaojin/PubMedQA', dict(final_decision=k)) for k in ('', 'Yes', None)] + [('qiaojin/PubMedQA', dict(context=None))]


@pytest.mark.parametrize('id, more', WRONG, ids=range(len(WRONG)))
def test_no_key_is_guessed(id, more):
    with pytest.raises(UserError, match='row 0') as e: read(id, **more)
    assert one_line(e)


@pytest.mark.parametrize('key', ['', 'AB', 'CD', 'E', 'Z', None, 1])
def test_no_key_of_medbullets_is_guessed(key):
    with pytest.raises(UserError, match='row 0'): medbullets([MEDBULLETS | dict(answer_idx=key)], 4)
    assert medbullets([MEDBULLETS | dict(answer_idx='b')], 4)[0]['answer_text'] == 'Cow'


def test_an_answer_that_is_not_public_is_no_question():
    assert read('openlifescienceai/medmcqa', cop=-1) == [] == read('HPAI-BSC/CareQA', question=None)


def test_several_right_answers_stay_several():
    q = read('jdh-algo/JMED', answer=['C', 'B'])[0]
    assert right_labels(q) == ['B', 'C'] and q['aliases'] == ['Ant']
    marks = {l: score_one(dict(raw=f'<answer>{l}</answer>', finish='stop'), q, 'options')['correct'] for l in 'ABCD'}
    assert marks == dict(A=False, B=True, C=True, D=False)
    other = reorder(q, 1, 3)
    assert {o['text'] for o in other['options'] if o['label'] in right_labels(other)} == {'Cow', 'Ant'} and other['options'] != q['options']
    assert content([q]) != content([read('jdh-algo/JMED', answer=['B'])[0]])
    assert all(len(right_labels(s)) == 1 for s in shuffled_keys([q] * 5, 0))


CSV = dict(blank=('"Who?",Goat,Cow,Hen,Owl,B\n\n', [1]), small=('"Who?",Goat,Cow,Hen,Owl,b', [1]), mark=('\ufeff"Who?",Goat,Cow,Hen,Owl,B\n', [1]), header=('question,A,B,C,D,answer\n"Who?",Goat,Cow,Hen,Owl,B\n', 'line 1'),
           outside=('"Who?",Goat,Cow,Hen,Owl,Z\n', "the key is 'Z'"), two=('"Who?",Goat,Cow,Hen,Owl,AB\n', "the key is 'AB'"), none=('"Who?",Goat,Cow,Hen,Owl,\n', "the key is ''"), one=('"Who?",Goat,A\n', '3 columns'), text=('Who?\n', '1 columns'))


@pytest.mark.parametrize('name', CSV)
def test_a_file_of_mmlu(name, tmp_path):
    text, right = CSV[name]
    path = tmp_path / 'goats_test.csv'
    path.write_bytes(text.encode())
    if isinstance(right, list):
        rows = list(headless_csv(path))
        assert [r['answer'] for r in rows] == right and rows[0]['question'] == 'Who?'
    else:
        with pytest.raises(UserError, match=right) as e: list(headless_csv(path))
        assert one_line(e) and 'goats_test.csv' in str(e.value)


def test_files_of_another_encoding_and_empty_ones(tmp_path):
    for reader in (headless_csv, json_lines, json_columns, labelled_abstracts):
        (tmp_path / 'latin').write_bytes('"Où?",Goat,Cow,Hen,Owl,B\n'.encode('latin-1'))
        with pytest.raises(UserError, match='not UTF-8 at byte 2'): list(reader(tmp_path / 'latin'))
    for s in EXAMS['mmlu_medical'].files: (tmp_path / s).write_text('\n')
    with pytest.raises(UserError, match='holds no question'): file_records('mmlu_medical', str(tmp_path))
    (tmp_path / 'own.jsonl').write_text('')
    with pytest.raises(UserError, match='holds no question'): load_exam(str(tmp_path / 'own.jsonl'))
    write_jsonl(tmp_path / 'key.jsonl', [question_record('a', 's', 't', 'Who?', ['Goat', 'Cow'], 0) | dict(answer='C')])
    with pytest.raises(UserError, match="line 1: field 'answer' of this question is 'C'"): load_exam(str(tmp_path / 'key.jsonl'))


ODD = [None, '', ' ', 'AB', '\x00', 'NaN', 0, -1, 7, 1e400, float('nan'), True, [], {}, [None], ['A', 'B'], {'A': None}, 'x' * 3000, '\ud800']


def mutated(thing, rng):
    "A row with one place of it changed, dropped, doubled or put elsewhere"
    thing = json.loads(json.dumps(thing))
    inside = [thing]
    while True:
        here = inside[-1]
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else []
        if not keys: return rng.choice(ODD)
        key = rng.choice(list(keys))
        if isinstance(here[key], (dict, list)) and here[key] and rng.random() < 0.5:
            inside.append(here[key])
            continue
        if rng.random() < 0.25: del here[key]
        else: here[key] = rng.choice(ODD)
        return thing


@pytest.mark.parametrize('id', ROWS)
def test_mutated_rows_are_read_or_refused(id):
    rng, outcomes = random.Random(id), []
    for _ in range(150):
        row = mutated(ROWS[id], rng)
        try: outcomes += [right_labels(q)[0] in [o['label'] for o in q['options']] and all(o['text'].strip() not in ('', 'None', 'nan') for o in q['options']) for q in hub_records([row], id, 'test')]
        except UserError as e: assert '\n' not in str(e)
    assert all(outcomes) and len(outcomes) < 150


FILES = {'medqa4': ('phrases_no_exclude_test.jsonl', json.dumps(ROWS['GBaker/MedQA-USMLE-4-options']) + '\n'),
         'medbullets4': ('medbullets_op4.json', json.dumps({k: {'0': v, '1': v} for k, v in MEDBULLETS.items()})),
         'pubmedqa_all': ('ori_pqal.json', json.dumps({'1': dict(QUESTION='Do goats climb?', CONTEXTS=['Goats.'], final_decision='no')})),
         'careqa': ('care_qa.jsonl', json.dumps(ROWS['HPAI-BSC/CareQA']) + '\n'),
         'mmlu_medical': ('anatomy_test.csv', '"Who climbs?",Goat,Cow,Hen,Owl,B\n')}


@pytest.mark.parametrize('name', FILES)
def test_mutated_files_are_read_or_refused(name, tmp_path):
    "Bytes changed, cut, doubled: one line that names the file, or questions"
    file, text = FILES[name]
    for other in EXAMS[name].files: (tmp_path / other).write_text(text)
    rng = random.Random(name)
    for _ in range(150):
        data = bytearray(text.encode())
        for _ in range(rng.randint(1, 4)):
            i = rng.randrange(len(data))
            way = rng.randrange(4)
            if way == 0: data[i] = rng.randrange(256)
            elif way == 1: del data[i:i + rng.randint(1, 20)]
            elif way == 2: data[i:i] = data[max(0, i - 9):i]
            else: data[i:i] = rng.choice([b'\x00', b'\n', b'"', b'{', b'\xff', b'NaN', b'null', b'[' * 3000])
            if not data: data = bytearray(b' ')
        (tmp_path / file).write_bytes(data)
        try: assert file_records(name, str(tmp_path))
        except UserError as e: assert '\n' not in str(e)


def test_a_text_that_is_right_and_wrong_is_refused():
    with pytest.raises(ValueError, match="one of two options 'x'"): question_record('q', 'own', 'test', 'Who?', ['x', 'x', 'c'], [0, 2])
    assert right_labels(question_record('q', 'own', 'test', 'Who?', ['x', 'y', 'c'], [0, 2])) == ['A', 'C']


TWO = [dict(label='A', text='Cow'), dict(label='B', text='Goat')]
OWN = [(dict(answer_text='Cow'), "is 'Cow', and option B is 'Goat'"), (dict(options=TWO[1:]), 'one option'), (dict(answer='C'), "answer"),
       (dict(meta=dict(answers=['Goat', 'Hen'])), "'Hen' is the text of no option"), (dict(meta=dict(answers=['Cow'])), "meta.answers lacks the text of B"),
       (dict(meta=dict(answers='Goat')), 'meta.answers needs a list'), (dict(options=[*TWO, dict(label='C', text='Goat')]), "'Goat' is right and stands twice"),
       (dict(options=[*TWO, dict(label='A', text='Hen')]), 'has a label twice')]


@pytest.mark.parametrize('more, message', OWN)
def test_a_key_of_ones_own_is_clear_or_refused(tmp_path, more, message):
    q = question_record('q', 'own', 'test', 'Who?', ['Cow', 'Goat'], 1)
    path = tmp_path / 'own.jsonl'
    write_jsonl(path, [q, q | dict(id='q2') | more])
    with pytest.raises(UserError, match='line 2: .*' + re.escape(message)): own_exam(str(path))
    several, open_one = question_record('q2', 'own', 'test', 'Who?', ['Cow', 'Goat', 'Hen'], [1, 2]), q | dict(id='q3', options=[], answer=None)
    write_jsonl(path, [q, several, open_one])
    assert len(own_exam(str(path))) == 3
