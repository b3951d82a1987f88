"Steps are judged by what they claim: of the expert's own as its rule does, of a language model's in whatever words"
import random

import pytest

from citrus.llm.threads import Thread
from citrus.studies.reflection import audit, misjudged
from citrus.world.chart import understand
from citrus.world.expert import Knowledge
from citrus.world.expert_parts import next_step, Prompt, wrong
from citrus.world.steps import ReasoningStep, listed_in, read_step
from citrus.world.verdicts import claim_of, step_verdict

NAMES = dict(f1=['Fever', 'Pyrexia'], f2=['Skin rash'], f3=['Joint pain'], f4=['Seizures'], f5=['Hearing impairment, bilateral'], f6=['Short and broad thumb'])
CARRIERS = dict(f1={'Alder disease': 0.9, 'Birch syndrome': 0.6, 'Cedar palsy': 0.1}, f2={'Alder disease': 0.8}, f3={'Birch syndrome': 0.7, 'Cedar palsy': 0.5},
                f4={'Cedar palsy': 0.9}, f5={'Alder disease': 0.4, 'Cedar palsy': 0.9}, f6={'Birch syndrome': 0.9})
WORLD = Knowledge(CARRIERS, NAMES, 'test')
STEM = 'A child has fever, a skin rash, hearing impairment, bilateral and short and broad thumb. She has no seizures.'
QUESTION = dict(id='q', open_stem=STEM, answer_text='Alder disease', aliases=['AD 1'])
LISTED = ('Alder disease', 'Birch syndrome')


def verdict(text, listed=LISTED):
    return step_verdict(WORLD, claim_of(read_step(text, listed), listed), understand(WORLD, STEM)[0], QUESTION)


def test_of_the_expert_s_own_steps_nothing_changes():
    "2,000 steps of an expert who errs, true and false ones, in several states of a case"
    named, belief = understand(WORLD, STEM)
    counts = {True: 0, False: 0}
    for seed in range(400):
        rng, steps = random.Random(seed), []
        while not (steps and steps[-1].kind == 'conclusion'):
            part = {'Number of candidates': '2'}
            step = next_step(WORLD, Prompt(named, belief, steps, part), 20.0, rng)
            assert isinstance(step, ReasoningStep)
            false = wrong(WORLD, step, steps, named, 'Alder disease')
            assert step_verdict(WORLD, claim_of(step, listed_in(steps)), named, QUESTION) is not false, step
            counts[false] += 1
            steps.append(step)
    assert counts[True] > 200 and counts[False] > 1000


@pytest.mark.parametrize('text', [
    'The patient has fever and a skin rash, but no seizures.', '**Known facts:** pyrexia; bilateral hearing impairment', 'Known: fever.',
    'Differential diagnoses: Birch syndrome, or AD 1.', 'Candidates: Alder disease; Elm fever.', 'Candidates include Alder disease and Birch syndrome',
    'The skin rash is typical of Alder disease.', 'Skin rash supports Alder disease, but not Birch syndrome.', 'Skin rash argues against Birch syndrome.',
    'Fever is seen in both of them.', 'Pyrexia fits Alder disease and Birch syndrome.', 'The absence of seizures is consistent with Alder disease and Birch syndrome.',
    'So the most likely diagnosis is Alder disease.', 'Conclusion: AD 1.', 'Therefore, it is AD 1'])
def test_a_true_step_in_other_words(text): assert verdict(text) is True


@pytest.mark.parametrize('text', [
    'The patient has fever and joint pain.', 'Known: seizures.', 'Known: no fever.', 'Candidates: Birch syndrome; Cedar palsy.', 'Possible diagnoses: Cedar palsy and Elm fever',
    'The skin rash is typical of Birch syndrome.', 'Skin rash argues against Alder disease.', 'Joint pain fits Birch syndrome.', 'Fever fits none of them.', 'So it is Birch syndrome.', 'Conclusion: Cedar palsy.', ''])
def test_a_false_step_in_other_words(text): assert verdict(text) is False


@pytest.mark.parametrize('text', ['Let me think about this again.', 'We should order a blood count.', 'Night sweats fit Alder disease.', 'Skin rash fits Elm fever.', 'The patient has night sweats.'])
def test_what_cannot_be_checked_gets_no_verdict(text): assert verdict(text, ('Elm fever',) if 'Elm' in text else LISTED) is None


def test_the_audit_of_a_language_model_counts_claims_and_not_sentences():
    "By the expert's sentences all four steps would be false"
    thread = Thread(QUESTION)
    for text in ('The patient has fever and a skin rash.', 'Candidates: Alder disease; Birch syndrome.', 'The skin rash is typical of Birch syndrome.', 'Let me think.'): thread.propose(text)
    for step, rating in zip(thread.steps, (1, 1, 1, 1)): step['rating'] = rating
    m = misjudged(WORLD, thread)
    assert (m.accepted_false, m.refused_true, m.unjudged) == (1, 0, 1)
    for step in thread.steps: step['rating'] = 0
    thread.steps[1]['rating'] = 1
    assert misjudged(WORLD, thread).refused_true == 1
    assert audit(WORLD, dict(toy=[thread])).unjudged.tolist() == [0]
