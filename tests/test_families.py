"Families: of one name and alike in their findings; counted, in one order, and apart in the held-out sets."
import itertools

import numpy as np
import pytest

from citrus.data.abstracts import hpo_files
from citrus.world.families import ALIKE, alike, families, likeness, load_world, named_parts, same_named
from citrus.cases import choose_families
from citrus.world.patients import naming
from citrus.world.ontology import parse_diseases
from citrus.eval.judge import family_name


@pytest.fixture(scope='module', params=['ORPHA', 'OMIM'])
def world(request, store): return load_world(request.param)


def within(f): return np.mean([likeness(a, b) for a, b in itertools.combinations(f.members.values(), 2)])


def test_members_are_alike(world):
    "No family is of one name alone"
    several = [f for f in world.families.values() if len(f.members) > 1]
    unlike = [f for f in several if within(f) < ALIKE - 1e-9]
    assert len(several) > 60 and unlike == []
    assert len({d for f in world.families.values() for d in f.members}) == sum(len(f.members) for f in world.families.values())


def test_the_reported_names():
    _, hpoa, _ = hpo_files()
    orpha = families(parse_diseases(hpoa, 'ORPHA'))
    assert [n for n in orpha if n.startswith(('Bartter', 'Tyrosinemia'))] == [n for n in ('Bartter syndrome', 'Bartter syndrome type 4', 'Tyrosinemia type 1', 'Tyrosinemia type 2') if n in orpha]
    assert len(orpha) == 4095


def test_average_linkage():
    one, two, three = dict.fromkeys('abcd', 1), dict.fromkeys('abcx', 1), dict.fromkeys('pqrs', 1)
    assert alike([one, three, two]) == [[0, 2], [1]] and alike([]) == [] and alike([one]) == [[0]] and alike([{}, {}]) == [[0], [1]]
    many = [dict.fromkeys(range(i, i + 6), 1) for i in range(12)]
    groups = alike(many)
    assert sorted(itertools.chain(*groups)) == list(range(12)) and groups == alike(many)
    for g in groups: assert len(g) == 1 or np.mean([likeness(many[a], many[b]) for a, b in itertools.combinations(g, 2)]) >= ALIKE


def test_a_run_holds_no_two_families_of_one_name(world):
    known, new = choose_families(world, 40, 10, 1, 5, 8)
    stems = [family_name(n) for n in known + new]
    assert len(set(stems)) == 50


def test_the_short_name_gives_a_part_away():
    toy = {'a': ('Cedar disease type 1', {'HP:1': 1}), 'b': ('Cedar disease type 2', {'HP:2': 1})}
    from citrus.world.ontology import Term
    from citrus.world.families import World
    terms = {'HP:1': Term('HP:1', 'Rash of Cedar disease', ['Rash of Cedar disease']), 'HP:2': Term('HP:2', 'Cough', ['Cough'])}
    toy_world = World(terms, families(toy), 'x')
    assert list(toy_world.families) == ['Cedar disease type 1', 'Cedar disease type 2'] and naming(toy_world, 'Cedar disease type 2') == {'HP:1'}


def test_parts_of_one_name_that_are_not_alike_are_left_out_and_counted():
    "An answer cannot tell them apart: they are no family of nothing in common, and no two of one name"
    twins = {'O:1': ('Foo', {'a': 1, 'b': 1}), 'O:2': ('Foo', {'x': 1, 'y': 1}), 'O:3': ('Bar', {'a': 1})}
    assert list(families(twins)) == ['Bar'] and same_named(twins) == {'Foo': 2}
    _, hpoa, _ = hpo_files()
    for namespace, n in dict(OMIM=4, ORPHA=0).items():
        diseases = parse_diseases(hpoa, namespace)
        shared, parts = same_named(diseases), named_parts(diseases)
        assert len(shared) == n and len(families(diseases)) == len(parts) - shared.total()
