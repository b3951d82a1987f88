"Entities: places, hostile text, agreement with the reader, and the precision that the notebook reports."
import json
import time
from collections import Counter

import pytest
from conftest import MICRO, citrus_run

from citrus.world.reader import FindingReader
from citrus.data.entities import MENTION_KINDS, Mention, Recogniser, abstracts, mentions, name_recogniser, tags
from citrus.data.medical_names import parse_indexing, ambiguity, spellings
from citrus.data.relations import relations
from citrus.studies.entities import claims, precision, read_labels

NAMES = {('disease', 'd1'): ['Alder fever', 'ALDF'], ('finding', 'f1'): ['Rash', 'Skin eruption'], ('finding', 'f2'): ['Night cough'], ('drug', 'r1'): ['Barkine']}
TOY = Recogniser(NAMES)
HOSTILE = ['', ' ', '.' * 1000, '\x00\x07', '\ud800', '\u202eشخص مريض\u202c', '😀🩺' * 50, 'rash' * 1000, 'İ' * 10 + ' rash', 'rash\r\nrash\u2028rash', '(((' * 100, 'no ' * 5000 + 'rash']


@pytest.mark.parametrize('text', HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text(text):
    found = mentions(TOY, text)
    for m in found: assert text[m.start:m.end].lower().startswith(('rash', 'skin', 'night', 'alder', 'barkine'))
    relations(text, found)
    assert tags([text], TOY).density[0] <= 1


def test_time_grows_as_the_text():
    line = 'No rash, but Alder fever characterised by night cough was treated with barkine (ALDF) and others. '
    def seconds(n):
        start = time.process_time()
        text = line * n
        relations(text, mentions(TOY, text))
        return time.process_time() - start
    seconds(10)
    assert seconds(2000) < 40 * max(seconds(200), 0.01)   # ten times the text


def test_a_five_megabyte_line_is_read():
    assert tags(['word and ' * 600_000], TOY).words[0] == 1_200_000


def test_nothing_reaches_across_a_mark():
    assert not mentions(TOY, 'Night. Cough, alder (fever) skin; eruption')
    assert [m.id for m in mentions(TOY, 'night-cough and ALDER FEVERS')] == ['f2', 'd1']


def test_acronyms_keep_their_case():
    assert [m.id for m in mentions(TOY, 'ALDF is not aldf')] == ['d1']


def test_the_reader_of_cases_finds_the_same():
    reader = FindingReader({i: ns for i, ns in NAMES.items() if i[0] == 'finding'})
    own = Recogniser({i: ns for i, ns in NAMES.items() if i[0] == 'finding'})
    for text in ('A rash. No night cough was seen.', 'Without skin eruption but with night coughs.', 'Rash is absent.', 'She has a rash and no night cough'):
        present, absent = reader(text)
        found = mentions(own, text)
        assert {m.ids[0] for m in found if not m.denied} == set(present) and {m.ids[0] for m in found if m.denied} == set(absent), text


DENIED = {'There was no evidence of rash.': True, 'Patients without rash improved.': True, 'Rash was ruled out.': True, 'Patients with or without rash improved.': False, 'It had no effect on rash.': False,
          'The drug did not relieve the rash.': False, 'NO donors and rash were studied.': False, 'Presence or absence of rash was noted.': False}


@pytest.mark.parametrize('text', DENIED)
def test_denials(text): assert mentions(TOY, text)[0].denied == DENIED[text]


RELATED = {'Barkine in the treatment of Alder fever.': [('treats', 'r1', 'd1')], 'Barkine was not effective in Alder fever.': [], 'Barkine is unlikely to be useful in the treatment of Alder fever.': [],
           'Alder fever is characterised by rash and night cough.': [('has', 'd1', 'f1'), ('has', 'd1', 'f2')], 'Alder fever. Rash.': [], 'Alder fever without rash.': [], 'Association of Alder fever with rash.': [],
           'Alder fever and rash were seen.': [], 'Alder fever treated with barkine.': [('treats', 'r1', 'd1')], 'Alder fever with Alder fever.': []}


@pytest.mark.parametrize('text', RELATED)
def test_relations(text): assert [(x.kind, x.subject.id, x.object.id) for x in relations(text, mentions(TOY, text))] == RELATED[text]


def test_indexing_of_broken_records():
    assert parse_indexing(b'') == {} and parse_indexing(b'<MedlineCitation a="1"><PMID Version="1">7</PMID>') == {'pmid-7': {}}


def test_refusals():
    general, medical = Counter(fall=1e-4), Counter(fall=1e-5)
    assert ambiguity('Falls', general, medical) and ambiguity('RA', general, medical) and not ambiguity('Rash', general, medical) and not ambiguity('COPD', general, medical)
    assert spellings('Anemia, Sickle Cell') == ['Sickle Cell Anemia', 'Sickle Cell anaemia']


@pytest.fixture(scope='module')
def labelled():
    "The judged abstracts"
    labels = read_labels()
    return labels, {d['id']: d['text'] for ds in abstracts().values() for d in ds if d['id'] in set(labels.id)}


def test_labels_hold_no_text():
    labels = read_labels()
    assert list(labels.columns) == 'kind id start end start2 end2 right'.split() and labels.id.str.fullmatch(r'pmid-\d+').all()


def test_precision_is_what_the_notebook_says(labelled, store):
    labels, texts = labelled
    r = name_recogniser()
    table = precision(labels, {i: claims(t, mentions(r, t)) for i, t in texts.items()}).set_index('kind')
    assert (table.loc[list(MENTION_KINDS), 'share'] > 0.8).all() and (table.loc[['has', 'treats'], 'share'] > 0.75).all()
    assert (table.loc[['has, no cue', 'treats, no cue'], 'share'] < 0.5).all()   # the control
    assert table.made_no_more.sum() <= 10, 'the rules have moved away from the sample that was read: read a new one'


def test_a_shuffled_vocabulary_loses_its_precision(labelled):
    labels, texts = labelled
    r = name_recogniser()
    kinds, order = dict(zip(MENTION_KINDS, (*MENTION_KINDS[1:], MENTION_KINDS[0]))), labels[labels.kind.isin(MENTION_KINDS)]
    wrong = lambda m: Mention(m.start, m.end, ((kinds[m.kind], m.id),))   # every name belongs to another kind
    table = precision(order, {i: claims(t, list(map(wrong, mentions(r, t)))) for i, t in texts.items()})
    assert table.n.sum() == 0


def test_the_study_runs(micro, store):
    "It is no part of the chain, and runs when it is named"
    assert not (store / 'runs' / 'micro' / 'entities').exists()
    citrus_run(store, '--recipe', str(MICRO), '--only', 'entities')
    folder = store / 'runs' / 'micro' / 'entities'
    assert json.loads((folder / 'manifest.json').read_text())['metrics']['mentions'] > 500 and (folder / 'figures' / 'entities.csv').exists()
