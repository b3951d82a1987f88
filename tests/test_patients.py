"Published patients and annotations: what is excluded, unsettled or doubled, ids that moved, frequencies that cannot be, and anything else that JSON can hold."
import json
import random
from collections import Counter

import pytest

from citrus.data.abstracts import hpo_files, quoted
from citrus.world.ontology import FINDING, annotations, findings_of, finding_frequency, parse_replaced, parse_terms, pooled
from citrus.world.families import World, families
from citrus.world.phenopackets import diagnosis, published_patients, read_phenopacket, seen_findings
from citrus.core.files import UserError, root

PACKETS = root().parent / 'shared' / 'data' / 'phenopackets' / 'phenopackets_300.jsonl'
OBO = '\n[Term]\n'.join(['', f'id: {FINDING}\nname: Phenotypic abnormality\n', *(f'id: HP:{i}\nname: Sign {"abcde"[i]}\nis_a: {FINDING} ! x\n' for i in range(5)),
                         'id: HP:9\nname: Old sign\nis_obsolete: true\nreplaced_by: HP:8\n', 'id: HP:8\nname: Older sign\nis_obsolete: true\nreplaced_by: HP:1\n',
                         'id: HP:7\nname: Round\nis_obsolete: true\nreplaced_by: HP:6\n', 'id: HP:6\nname: Round again\nis_obsolete: true\nreplaced_by: HP:7\n',
                         'id: HP:5\nname: Quoted\nalt_id: HP:55\ndef: "A \\"double\\" sign, \\\\ and more." [x]\nsynonym: "A \\"twofold\\" sign" EXACT layperson []\nis_a: HP:0000118 ! x\n'])


def row(disease, name, finding, frequency='1/1'): return [disease, name, '', finding, 'PMID:1', 'PCS', '', frequency, '', '', 'P', '']


LINES = [row('OMIM:1', 'Alder syndrome', 'HP:0'), row('OMIM:1', 'Alder syndrome', 'HP:1'), row('OMIM:2', 'Birch syndrome', 'HP:2'), row('OMIM:3', 'Cedar syndrome', FINDING)]
WORLD = World(parse_terms(OBO), families(findings_of(LINES)), 'x', parse_replaced(OBO))
HOME = {d: f.name for f in WORLD.families.values() for d, findings in f.members.items() if findings}


def case(id, **more): return dict(diagnosis=dict(disease=dict(id=id))) | more


def disease(id, **more): return dict(term=dict(id=id)) | more


def finding(id, **more): return dict(type=dict(id=id)) | more


def seen(*features): return seen_findings(WORLD, dict(phenotypicFeatures=list(features)))


def test_what_is_not_there():
    assert seen(finding('HP:0', negated=True), finding('HP:1', excluded=True), finding('HP:2', excluded=False), finding('HP:3', excluded='true'), finding('HP:4', negated='false')) == (['HP:2', 'HP:4'], ['HP:0', 'HP:1', 'HP:3'], 0)
    assert seen(finding('HP:0', excluded=[]), finding('HP:1', negated=7)) == ([], [], 2)   # cannot be told


def test_ids_of_today_and_the_root():
    assert seen(finding('HP:9'), finding('HP:55'), finding('hp_2'), finding(' HP:3 ')) == (['HP:1', 'HP:5', 'HP:2', 'HP:3'], [], 0)
    assert seen(finding(FINDING), finding('HP:7'), finding('HP:404')) == ([], [], 3)
    assert FINDING not in WORLD.families['Cedar syndrome'].findings if 'Cedar syndrome' in WORLD.families else True
    real = parse_replaced(hpo_files()[0])
    assert len(real) > 3000 and not set(real.values()) & set(real)


DIAGNOSES = [
    (dict(interpretations=[case('OMIM:1', progressStatus='SOLVED')]), 'OMIM:1'), (dict(interpretations=[case('OMIM:1')], diseases=[disease('OMIM:1')]), 'OMIM:1'),
    (dict(interpretations=[case('OMIM:2', progressStatus='UNSOLVED'), case('OMIM:1', progressStatus='SOLVED')]), 'OMIM:1'),
    (dict(interpretations=[case('OMIM:2', progressStatus='COMPLETED'), case('OMIM:1', progressStatus='SOLVED')]), 'OMIM:1'),
    (dict(interpretations=[case('OMIM:1', progressStatus='UNSOLVED')]), 'no diagnosis'), (dict(interpretations=[case('OMIM:1', progressStatus='IN_PROGRESS')], diseases=[disease('OMIM:1')]), 'no diagnosis'),
    (dict(diseases=[disease('OMIM:1', excluded=True)]), 'no diagnosis'), (dict(diseases=[disease('OMIM:2', excluded=True), disease('OMIM:1')]), 'OMIM:1'),
    (dict(interpretations=[case('OMIM:1'), case('OMIM:2')]), 'several diagnoses'), (dict(diseases=[disease('OMIM:1'), disease('OMIM:404')]), 'several diagnoses'), (dict(interpretations=[case('OMIM:1'), case('OMIM:1')]), 'OMIM:1'),
    (dict(interpretations=[case('MONDO:7'), case('OMIM:1')]), 'OMIM:1'), (dict(diseases=[disease('MONDO:7'), disease('mim:1')]), 'OMIM:1'), (dict(diseases=[disease('MONDO:7')]), 'the diagnosis has no findings in the namespace'), ({}, 'no diagnosis'),
    (dict(interpretations=7, diseases={'a': 1}), 'no diagnosis')]


@pytest.mark.parametrize('packet, right', DIAGNOSES, ids=range(len(DIAGNOSES)))
def test_the_diagnosis(packet, right):
    if right == 'OMIM:1': assert diagnosis(packet, HOME) == right
    else:
        with pytest.raises(ValueError, match=right): diagnosis(packet, HOME)


def test_the_onset_is_of_the_diagnosis():
    own = dict(onset=dict(ontologyClass=dict(id='HP:0003577')))
    p = read_phenopacket(WORLD, dict(phenotypicFeatures=[finding('HP:0')], diseases=[disease('OMIM:2', excluded=True, onset=dict(ontologyClass=dict(id='HP:0003593'))), disease('OMIM:1') | own], subject=dict(ageAtCollection=dict(age='P3Y'))), HOME)
    assert p.about['onset'] == 'HP:0003577' and p.about['age'] == '3 years'


def test_frequencies():
    assert [finding_frequency(t) for t in ('', '3/4', '0/0', '25%', '~50%', '5-29%', '5%-29%', '12.5 %', '<1%', 'HP:0040281')] == pytest.approx([.5, .75, .5, .25, .5, .17, .17, .125, .01, .9])
    for bad in ('9/7', '130%', 'often', 'HP:0000001', '-5%', '1/2/3', 'nan'):
        with pytest.raises(ValueError): finding_frequency(bad)
    assert 0 < pooled(['0/1', 'HP:0040281']) < .9 and pooled(['9/10', '0/2']) == .75 and pooled(['']) == .5 and pooled(['0/1', '0/3']) == 0 and pooled(['0/1', '']) > 0
    rng = random.Random(0)
    some = ['0/1', '3/7', '0/0', '', '50%', *[f'HP:004028{i}' for i in range(6)]]
    for _ in range(300):
        texts = rng.choices(some, k=rng.randint(1, 6))
        assert 0 <= pooled(texts) <= 1 and pooled(texts) == pytest.approx(pooled(texts[::-1]))


def test_a_frequency_that_cannot_be_is_one_line():
    with pytest.raises(UserError, match='frequency of HP:0 in OMIM:1: 9 of 7 patients'): annotations('\t'.join(row('OMIM:1', 'A', 'HP:0', '9/7')), 'OMIM')


def test_quoted_text_is_whole():
    assert quoted('"a \\"b\\" c" EXACT []') == 'a "b" c' and quoted('none') == '' and quoted('"a\\nb"') == 'a\nb'
    t = parse_terms(OBO)['HP:5']
    assert t.definition == 'A "double" sign, \\ and more.' and t.lay == ['A "twofold" sign']
    real = parse_terms(hpo_files()[0]).values()
    assert sum('"' in t.definition for t in real) == 26 and not any(t.definition.endswith('\\') for t in real)


ODD = [None, '', 0, -1, 1e400, True, [], {}, [None], {'id': 7}, 'x' * 2000, '\ud800', 'HP:0000118', 'OMIM:2', 'P' + '9' * 6000 + 'Y', 'UNSOLVED']


def mutated(thing, rng):
    "JSON with one place of it changed, dropped or doubled"
    thing = json.loads(json.dumps(thing))
    here = thing
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys: return thing
        key = rng.choice(keys)
        if isinstance(here[key], (dict, list)) and here[key] and rng.random() < 0.7: here = here[key]
        elif rng.random() < 0.2:
            del here[key]
            return thing
        elif isinstance(here, list) and rng.random() < 0.3:
            here.append(here[key])
            return thing
        else:
            here[key] = rng.choice(ODD)
            return thing


def test_mutated_phenopackets_are_read_or_counted(tmp_path):
    rng = random.Random(0)
    whole = dict(id='p', subject=dict(id='s', sex='MALE', timeAtLastEncounter=dict(age=dict(iso8601duration='P7Y'))), phenotypicFeatures=[finding('HP:0'), finding('HP:2', excluded=True)],
                 interpretations=[case('OMIM:1', progressStatus='SOLVED')], diseases=[disease('OMIM:1', onset=dict(ontologyClass=dict(id='HP:0003577')))], metaData=dict(externalReferences=[dict(id='PMID:1')]))
    texts = [json.dumps(mutated(mutated(whole, rng), rng)) for _ in range(800)]
    for _ in range(300):   # bytes of the text changed
        text = list(json.dumps(whole))
        for _ in range(rng.randint(1, 3)): text[rng.randrange(len(text))] = rng.choice(['', '"', '{', ']', '\x00', '9' * 5000, '[' * 100000, 'é'])
        texts.append(''.join(text))
    for i, text in enumerate(texts): (tmp_path / f'{i}.json').write_text(text)
    patients, rejected = published_patients(WORLD, tmp_path)
    assert len(patients) + len(rejected) == len(texts) == 1100 and len(patients) > 200
    assert all(p.present and set(p.present + p.absent) <= set(WORLD.terms) - {FINDING} for p in patients.values())
    assert all(0 < len(r['reason']) < 120 and '\n' not in r['reason'] for r in rejected), Counter(r['reason'] for r in rejected)


@pytest.mark.skipif(not PACKETS.exists(), reason='../shared/data is not there')
def test_real_packets_are_read_as_before():
    terms = parse_terms(hpo_files()[0])
    from citrus.world.families import load_world
    world = load_world('OMIM')
    patients, rejected = published_patients(world, PACKETS.parent)
    assert len(patients) == 210 and {r['reason'] for r in rejected} == {'the diagnosis has no findings in the namespace'} and len(terms) > 19000
