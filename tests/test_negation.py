"Negation: 221 labelled sentences, the reported faults one by one, hostile text, and one reading for patients and abstracts."
import json
import random
import time

import pytest

from citrus.core.files import root
from citrus.data.entities import Recogniser, mentions
from citrus.world.statements import outline, statements
from citrus.world.negation import signs
from citrus.world.questions import ABSENT, PRESENT, listing
from citrus.world.reader import FindingReader

SENTENCES = [json.loads(line) for line in open(root() / 'tests' / 'data' / 'negation.jsonl', encoding='utf-8')]
NAMES = {n: [n] for n in 'fever cough vomiting headache rash nausea diabetes asthma seizure dyspnea'.split()} | {'weight loss': ['Weight loss'], 'chest pain': ['Chest pain'], 'absent thumb': ['Absent thumb']}
READER = FindingReader(NAMES)
OWN = Recogniser({('finding', i): ns for i, ns in NAMES.items()})


def read(text): return tuple({n: s for (*_, n), s in zip(named, signs(text, [(a, b) for a, b, _ in named]))} for named in [list(READER.named(text))])[0]


@pytest.mark.parametrize('half, sentences, names', [('develop', 70, 118), ('apart', 70, 120), ('later', 48, 56), ('abstracts', 33, 39)])
def test_labelled_sentences(half, sentences, names):
    mine = [s for s in SENTENCES if s['half'] == half]
    rows = [(half, right, read) for s in mine for (*_, right), read in zip(s['names'], signs(s['text'], [(a, b) for a, b, _ in s['names']]))]
    assert len(mine) == sentences and len(rows) == names
    assert all(right == read for _, right, read in rows)


P, A, O = 'present', 'absent', 'other'
REPORTED = {
    'She denies fever, cough, vomiting, weight loss, chest pain, dyspnea, nausea or headache.': dict.fromkeys('fever cough vomiting dyspnea nausea headache'.split() + ['weight loss', 'chest pain'], A),
    'Fever cannot be ruled out.': dict(fever=P), 'Fever can not be excluded, cough was.': dict(fever=P, cough=P), 'No change in cough.': dict(cough=P), 'There was no cause for the fever.': dict(fever=P),
    'He did not deny cough.': dict(cough=P), 'Cough: no': dict(cough=A), 'Cough (-)': dict(cough=A), 'Seizure-free': dict(seizure=A), 'She does not have fever.': dict(fever=A), 'Denies fever, reports cough.': dict(fever=A, cough=P),
    'Positive for cough, negative for fever.': dict(cough=P, fever=A), 'Negative for fever, positive for cough.': dict(cough=P, fever=A), 'Family history of diabetes.': dict(diabetes=O), 'His mother had asthma.': dict(asthma=O),
    'Mother reports cough.': dict(cough=P), 'She is a mother of 2 and has asthma.': dict(asthma=P), 'Asthma was not diagnosed until the age of 5.': dict(asthma=P),
    'The trial did not support the use of steroids in asthma.': dict(asthma=P), 'He was evaluated for cough.': dict(cough=P), 'He had not been diagnosed with asthma.': dict(asthma=A), 'She was not diagnosed with asthma until age 5.': dict(asthma=P), 'It is not clear whether asthma is present.': dict(asthma=O),
    'His sister is being treated for asthma.': dict(asthma=O), 'The test for asthma was positive.': dict(asthma=P), 'He denied cough, fever and his usual headache.': dict(cough=A, fever=A, headache=A), 'No fever present.': dict(fever=A), 'No fever, cough present.': dict(fever=A, cough=P), 'Absent thumb, no cough': {'absent thumb': P, 'cough': A}, 'Denies fever at 38.5 degrees or cough.': dict(fever=A, cough=A),
    'FEVER: NO. COUGH: YES.': dict(fever=A, cough=P), 'NO FEVER OR COUGH': dict(fever=A, cough=A), '- fever\n- cough': dict(fever=P, cough=P), 'no fever\ncough': dict(fever=A, cough=P)}


@pytest.mark.parametrize('text', REPORTED)
def test_reported(text): assert read(text) == REPORTED[text]


@pytest.mark.parametrize('form', [*PRESENT, *ABSENT])
def test_every_form_of_the_cases_is_read_to_its_end(form):
    for n in (1, 2, 3, 5):
        for last in ('and', 'or'):
            named = 'fever cough vomiting headache rash'.split()[:n]
            text = form.format(who='a male patient aged 40', he='he', what=listing(named, last))
            assert read(text) == dict.fromkeys(named, A if form in ABSENT else P), text


def test_patients_and_abstracts_are_read_alike():
    for text in [*REPORTED, *(s['text'] for s in SENTENCES)]:
        mentioned = mentions(OWN, text)
        present, absent = READER(text)
        assert {m.id for m in mentioned if m.denied} == set(absent), text
        assert {m.id for m in mentioned if not m.denied and not m.aside} == set(present), text


def test_any_text_is_read():
    rng = random.Random(0)
    pieces = ['fever', 'cough', 'no ', 'denies ', 'not ', '(', ')', '-', '+', ':', '?', '.', ',', '\n', ' and ', 'mother had ', '@', '⊕', '\x00', '\ud800', 'İ', "n't ", 'NO ', ' ruled out ', '38.5', 'family history of ']
    for _ in range(600):
        text = ''.join(rng.choices(pieces, k=rng.randint(0, 30)))
        named = list(READER.named(text))
        assert set(signs(text, [(a, b) for a, b, _ in named])) <= {P, A, O} and all(text[a:b].lower() in NAMES for a, b, _ in named)
        assert ''.join(text[a:b] for a, b in statements(text)) == text
        assert outline(text, 0, len(text), [(a, b) for a, b, _ in named]).split().count('@') == len(named)


@pytest.mark.parametrize('line', ['No fever, cough or rash, but headache. ', 'no fever, ', 'fever and ', 'not ', 'mother ', '( ', 'fever? '])
def test_time_grows_as_the_text(line):
    def seconds(n):
        text, start = line * n, time.process_time()
        READER(text)
        return time.process_time() - start
    seconds(10)
    assert seconds(4000) < 40 * max(seconds(400), 0.01)
