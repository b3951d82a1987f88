"The one judge of right and wrong, held to pairs read by hand; names that differ in a sign, a number or an arrow."
import itertools, json, re
from pathlib import Path

import pytest

from citrus.eval.extract import mark
from citrus.eval.naming import EVERYDAY, canonical, name_groups, number, same_name
from citrus.eval.judge import family_name, is_right, matches, reveals
from citrus.core.files import root

SHARED = root().parent / 'shared' / 'data' / 'replies'


def question(name, *aliases): return dict(answer_text=name, aliases=list(aliases))


def pairs(path):
    rows = [json.loads(line) for line in Path(path).read_text(encoding='utf-8').splitlines()]
    return [(r, is_right(r['answer'], question(r['reference'], *r['aliases']), r['others'])) for r in rows]


@pytest.mark.parametrize('path', [root() / 'tests' / 'pairs.jsonl', SHARED / 'verification.jsonl'], ids=['own', 'shared'])
def test_no_wrong_answer_is_accepted_and_few_right_ones_are_refused(path):
    "233 pairs of our own: `develop` and `held` were written before the rules, `held` was not looked at while they were made; `second` and `third` were written after. Before the rules were mended on them no wrong one of 62 was accepted and 21 of 80 right ones were refused"
    if not path.exists(): pytest.skip(f'{path} is not here')
    read = pairs(path)
    right = [r for r, _ in read if r['right']]
    assert [r['answer'] for r, found in read if found is True and not r['right']] == []
    assert sum(found is not True for r, found in read if r['right']) <= len(right) / 20
    assert len(read) >= 30 and len(right) >= 15


@pytest.mark.parametrize('names', [
    ('Haemophilia A', 'hemophilia-A', 'HEMOPHILIA  A'), ('Type II', 'type 2', 'type-2'), ('Rh+', 'Rh positive', 'rh-positive'), ('TNF-α', 'TNF alpha', 'TNFα'),
    ('10⁶', '10^6', '1,000,000', '10**6', '1e6'), ('70,000', '$70,000', '70000'), ('18.00', '18', '18.0'), ('Ｍarfan', 'Marfan'), ('Sjögren', "Sjogren's", 'SJÖGREN’S'),
    ('↑ sodium', 'increased sodium'), ('−18', '-18', '－18'), ('≥ 5', '>= 5'), ('vitamin B₁₂', 'vitamin B12'), ('12mg', '12 mg'), ('ALS', 'amyotrophic lateral sclerosis'),
    ('factor VIII', 'factor 8'), ('oesophageal tumour', 'esophageal tumor'), ('0.5', '.5', '0.50'), ('5 μg', '5 mcg', '5 µg')])
def test_what_does_not_tell_names_apart_is_forgotten(names): assert len(set(map(canonical, names))) == 1


@pytest.mark.parametrize('names', [
    ('Rh+', 'Rh-', 'Rh'), ('> 7.35', '< 7.35', '7.35'), ('+2 D', '-2 D'), ('↑ sodium', '↓ sodium', 'sodium'), ('10⁶', '106', '10⁻⁶'), ('-18', '18'), ('1/5', '1.5', '15'),
    ('2x-1', '2x+1', '2x'), ('12', '12.5', '125'), ('±2', '2', '-2'), ('Vitamin A deficiency', 'Vitamin deficiency'), ('→', '↑', '↓'), ('50 %', '50'), ('1:1000', '11000', '1.1000'),
    ('HBsAg (+)', 'HBsAg (-)', 'HBsAg'), ('type 1', 'type 2'), ('7.35-7.45', '7.35 7.45')])
def test_what_tells_names_apart_is_kept(names): assert len(set(map(canonical, names))) == len(names)


@pytest.mark.parametrize('a, b, same', [('-18', '18', False), ('3', '-3', False), ('1/5', '1.5', False), ('106', '10⁶', False), ('70,000', '70000', True), ('$70,000', '70000', True),
                                        ('18.00', '18', True), ('1/2', '0.5', True), ('10^{-3}', '0.001', True), ('1,5', '1.5', True), ('12', '12 %', False), ('0', '-0', True)])
def test_numbers_are_compared_as_numbers(a, b, same): assert same_name(a, b) == same


def test_a_flipped_sign_never_passes():
    for n in range(1, 2000, 7):
        assert number(f'{n:,}') == n and not matches(f'-{n}', question(str(n))) and not matches(str(n), question(f'-{n}')) and matches(f'${n:,}.00', question(str(n)))


@pytest.mark.parametrize('answer, name', [
    ('Marfan syndrome (excluded)', 'Marfan syndrome'), ('Marfan syndrome (ruled out)', 'Marfan syndrome'), ('Marfan syndrome (or Loeys-Dietz syndrome)', 'Marfan syndrome'),
    ('Hepatitis B (negative)', 'Hepatitis B'), ('12.5', '12'), ('COX', 'CO'), ('HIV', 'H'), ('not Marfan syndrome', 'Marfan syndrome'), ('Anything but Marfan syndrome', 'Marfan syndrome'),
    ('Marfan syndrome or Beals syndrome', 'Marfan syndrome'), ('Marfan syndrome?? no', 'Marfan syndrome'), ('HIV', 'HI'), ('DI', 'D'), ('Marfan syndrome (in remission of doubt)', 'Marfan syndrome'),
    ('Gaucher disease type 3', 'Gaucher disease type 1'), ('The diagnosis is not Marfan syndrome', 'Marfan syndrome'), ('kein Marfan-Syndrom', 'Marfan syndrome'), ('不是流感', '流感')])
def test_never_accepted(answer, name): assert is_right(answer, question(name)) is not True


@pytest.mark.parametrize('answer', ['The diagnosis is Marfan syndrome', 'Diagnosis: Marfan syndrome.', '**Marfan syndrome**', "Marfan's syndrome (MFS)", 'Síndrome de Marfan',
                                    'The most likely diagnosis is Marfan syndrome', 'Marfan syndrome is the most likely diagnosis.', 'Marfan', 'Marfan syndrome (FBN1 mutation)'])
def test_accepted(answer): assert is_right(answer, question('Marfan syndrome')) is True


@pytest.mark.parametrize('text, name', [('Think of Marfan instead.', 'Marfan syndrome'), ("Marfan's syndrome?", 'Marfan syndrome'), ('It is MARFAN-SYNDROME', 'Marfan syndrome'),
                                        ('a Guillain-Barre picture', 'Guillain-Barré syndrome'), ('Marfan  syndrome', 'Marfan syndrome'), ('Sturge Weber', 'Sturge-Weber syndrome'),
                                        ('Consider ALS here', 'Amyotrophic lateral sclerosis'), ('diabetes mellitus type II', 'Type 2 diabetes mellitus'), ('haemophilia A?', 'Hemophilia A'),
                                        ('is it Down?', 'Down syndrome'), ('Glycogen storage disease IV here', 'Glycogen storage disease IV'), ('我觉得是高血压病人', '高血压'), ('a type IIa defect of this kind', 'Type II defect'), ('ALL fits', 'ALL')])
def test_whatever_would_be_accepted_is_a_leak(text, name): assert reveals(text, question(name))


@pytest.mark.parametrize('text, name', [('He also has a cough', 'ALS'), ('a clean environment', 'Iron'), ('going down', 'Down syndrome'), ('all patients', 'ALL'), ('a rare syndrome', 'Marfan syndrome'),
                                        ('hepatitis B', 'Hepatitis C'), ('type 2 of something', 'Type 2 diabetes mellitus'), ('', 'Marfan syndrome'), ('it may be', 'May syndrome')])
def test_no_false_alarm(text, name): assert not reveals(text, question(name))


@pytest.mark.parametrize('name, family', [
    ('Bartter syndrome, type 4A', 'Bartter syndrome'), ('Brachydactyly, type A3', 'Brachydactyly'), ('Tuberous sclerosis-2', 'Tuberous sclerosis'), ('LARYNGOMALACIA', 'LARYNGOMALACIA'), ('HYPERLEXIA', 'HYPERLEXIA'),
    ('Charcot-Marie-Tooth disease, axonal, type 2A1', 'Charcot-Marie-Tooth disease, axonal'), ('COX', 'COX'), ('HIV', 'HIV'), ('12.5', '12.5'), ('COVID-19', 'COVID-19'), ('Mucopolysaccharidosis II', 'Mucopolysaccharidosis'),
    ('Silver-Russell syndrome due to an imprinting defect of 11p15', 'Silver-Russell syndrome due to an imprinting defect of 11p15'), ('Gaucher disease (type 1)', 'Gaucher disease')])
def test_a_family_has_the_whole_name(name, family): assert family_name(name) == family


def test_a_kind_that_is_an_option_of_its_own_is_not_right():
    q = dict(answer_text='Cone dystrophy', aliases=[], options=[dict(label='A', text='Cone dystrophy'), dict(label='B', text='Peripheral cone dystrophy')])
    assert not mark('<answer>Peripheral cone dystrophy</answer>', q)[2] and mark('<answer>Cone dystrophy, type 3</answer>', q)[2]


def test_every_accepted_form_of_a_name_is_a_leak_in_a_sentence():
    "What `matches` accepts of our pairs is found when it stands in a text"
    rows = [r for r, found in pairs(root() / 'tests' / 'pairs.jsonl') if found is True]
    missed = [r['answer'] for r in rows if not r['reference'][:1].isdigit() and not reveals(f'Have you thought of this: {r["answer"]}', question(r['reference'], *r['aliases']))]
    assert len(rows) > 30 and missed == []


def spellings(name):
    "A name, its plural, in capitals, with hyphens, with a Roman numeral, its type in front, a first syllable joined"
    numeral = lambda m: 'type ' + ['I', 'II', 'III'][int(m[1]) - 1]
    found = [name, name.lower(), name.upper(), f'{name}s', name.replace(' ', '-'), re.sub(r'type ([123])', numeral, name)]
    found += [re.sub(r'^(.+) (type \w+)$', r'\2 \1', n) for n in found] + [re.sub(r'^(type \w+) (.+)$', r'\2 \1', n) for n in found]
    found += [re.sub(r'^(post|non|pre) ', r'\1', name, flags=re.I), re.sub(r'^(post|non|pre) ', r'\1-', name, flags=re.I)]
    return [n for n in dict.fromkeys(found) if n not in EVERYDAY]   # `all` is no leukemia in a text


def test_what_is_accepted_for_a_known_name_is_a_leak():
    "All pairs of names of a group of the table, in both directions, in every spelling"
    groups = [[s for name in group.split('=') for s in spellings(name)] for group in name_groups()]
    taken = [(a, b) for group in groups for a, b in itertools.product(group, group) if matches(b, question(a))]
    assert len(taken) > 5000 and [(a, b) for a, b in taken if not reveals(f'Think of {b} here.', question(a))] == []


@pytest.mark.parametrize('name, texts', [('Myocardial infarction', ['heart attack', 'a STEMI', 'AMI']), ('Diabetes mellitus type 2', ['type 2 diabetes', 'type II diabetes', 'T2DM']),
                                         ('Posttraumatic stress disorder', ['PTSD', 'post traumatic stress disorder', 'post-traumatic stress disorder']), ('Post traumatic stress disorder', ['posttraumatic stress disorder'])])
def test_a_known_name_of_another_spelling_is_a_leak(name, texts):
    accepted = [t for t in texts if matches(t, question(name))]
    assert len(accepted) >= len(texts) - 1 and all(reveals(f'It may be {t}.', question(name)) for t in accepted)


@pytest.mark.parametrize('answer, name, verdict', [
    ('Gonorrhoea', 'Gonorrhea', True), ('obstructive sleep apnoea', 'Obstructive sleep apnea', True), ('Diarrhoeal disease', 'Diarrheal disease', True),
    ('Es handelt sich um einen Herzinfarkt', 'Herzinfarkt', True), ('Es handelt sich um keinen Herzinfarkt', 'Herzinfarkt', False),
    ('Se trata de una apendicitis', 'apendicitis', True), ("Il s'agit d'une appendicite", 'appendicite', True), ('患者最可能患有肺炎', '肺炎', True),
    ('The most likely diagnosis in this patient is gout', 'Gout', True), ('I think this is a case of gout', 'Gout', True),
    ('Gout, not pseudogout', 'Gout', None), ('Gout rather than pseudogout', 'Gout', None), ('Gout without tophi', 'Gout', None),
    ('pseudogout, not gout', 'Gout', False), ('not gout', 'Gout', False)])
def test_leads_and_contrasts_in_five_languages(answer, name, verdict): assert is_right(answer, question(name)) is verdict
