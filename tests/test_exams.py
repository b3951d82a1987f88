"Exams from the package, from authors' files and from data sets of the hub's form agree question by question."
import json

import pytest

from citrus.eval.exams import CONTENT, EXAMS, content, load_exam
from citrus.eval.exam_faults import card
from citrus.core.files import UserError, root

FILES = root().parent / 'shared' / 'data'
shared = pytest.mark.skipif(not (FILES / 'benchmarks').is_dir(), reason='the authors\' files are not here: ../shared/data')
WITH_FILES = [n for n, e in EXAMS.items() if e.files]


def same(a, b):
    key = lambda q: (q['id'], q['stem'], q['options'], q['answer'], q['context'])
    return sorted(map(key, a)) == sorted(map(key, b))


@shared
@pytest.mark.parametrize('name', WITH_FILES)
def test_authors_files(name):
    found = load_exam(name, str(FILES), 'files')
    assert card(name, found)['agrees'] == 'yes' and len({q['id'] for q in found}) == EXAMS[name].n


@shared
def test_package_and_files_agree_question_by_question():
    assert same(load_exam('mmlu_medical'), load_exam('mmlu_medical', str(FILES), 'files'))
    five, four = ({q['stem']: q for q in load_exam(n, str(FILES))} for n in ('medqa', 'medqa4'))
    assert five.keys() == four.keys() and len(four) == 1273
    for stem, q in four.items():
        assert q['answer_text'] == five[stem]['answer_text'] and {o['text'] for o in q['options']} < {o['text'] for o in five[stem]['options']}


@shared
@pytest.mark.parametrize('name', [n for n in WITH_FILES if EXAMS[n].hub])
def test_a_data_set_of_the_hubs_form_agrees(name, monkeypatch):
    "The hub itself was not reached: a `datasets` data set with its documented fields, typed and nullable as there, stands for it"
    import datasets
    from citrus.eval import exams
    from citrus.data.hub import hub_records
    e = EXAMS[name]
    path = lambda file: next(iter(sorted(FILES.rglob(file))))
    def hub(kind, id, split, config, revision=None):
        rows = [r for f in e.files if config is None or f.startswith((f'{config}_', 'ori', 'care')) for r in e.rows(path(f))]
        return hub_records(datasets.Dataset.from_list(rows), id, split)
    monkeypatch.setattr(exams, 'hub', hub)
    assert same(load_exam(name, '', 'hub'), load_exam(name, str(FILES), 'files'))


def test_jmed_of_our_own_making(monkeypatch):
    import datasets
    from citrus.eval import exams
    from citrus.data.questions import LETTERS
    from citrus.data.hub import hub_records
    rows = [dict(question=f'Patient {i} has blue nails.', options={l: f'Disease {l}' for l in LETTERS[:21]}, answer=[LETTERS[i % 21]]) for i in range(1000)]
    monkeypatch.setattr(exams, 'hub', lambda kind, id, split, config, revision=None: hub_records(datasets.Dataset.from_list(rows), id, split))
    found = load_exam('jmed')
    assert len(found[0]['options']) == 21 and {q['answer'] for q in found} == set(LETTERS[:21]) and card('jmed', found)['agrees'] == 'not seen before'


def test_embedded_content():
    for name in ('medqa', 'medmcqa', 'mmlu_medical', 'mmlu_nine'): assert content(load_exam(name)) == CONTENT[name]


BAD = dict(cut=lambda rows: rows[:-1], key=lambda rows: [rows[0] | dict(answer_idx='E')] + rows[1:], options=lambda rows: [rows[0] | dict(options={})] + rows[1:],
           empty=lambda rows: [rows[0] | dict(question=float('nan'))] + rows[1:], field=lambda rows: [{k: v for k, v in rows[0].items() if k != 'options'}] + rows[1:])


@pytest.mark.parametrize('bad', BAD)
def test_a_bad_file_is_one_line(bad, tmp_path):
    rows = [dict(question=f'Who climbs {i}?', options=dict(A='Goat', B='Cow', C='Hen', D='Owl'), answer_idx='B', answer='Cow', meta_info='step1') for i in range(1273)]
    (tmp_path / 'phrases_no_exclude_test.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in BAD[bad](rows)))
    with pytest.raises(UserError) as e: load_exam('medqa4', str(tmp_path), 'files')
    assert '\n' not in str(e.value) and ('row 0' in str(e.value) or 'needs 1273' in str(e.value))


def test_own_file(tmp_path):
    q = load_exam('medqa')[:3]
    (tmp_path / 'own.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in q))
    assert content(load_exam(str(tmp_path / 'own.jsonl'))) == content(q)
    (tmp_path / 'bad.jsonl').write_text(json.dumps(q[0] | dict(stem=float('nan'))) + '\n')
    with pytest.raises(UserError, match="field 'stem'"): load_exam(str(tmp_path / 'bad.jsonl'))
