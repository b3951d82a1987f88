"A stage folder is read by `datasets.load_dataset` as it is, with all its splits."
import json

import datasets
import pytest
import yaml

from citrus.core.loadable import ELSEWHERE, feature_list, folder_page, write_folder_page
from citrus.core.records import write_jsonl
from citrus.core.store import describe_file, result_files

say = lambda *texts: [dict(role=('user', 'assistant')[i % 2], content=t) for i, t in enumerate(texts)]
QUESTION = dict(id='q', source='hpo', split='train', stem='Why?', open_stem=None, options=[dict(label='A', text='So.')], answer='A', answer_text='So.', aliases=[], context=None, difficulty=None, meta={})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    datasets.disable_progress_bars()
    return tmp_path / 'cache'


def page_of(folder):
    files = {n: describe_file(p) for n, p in result_files(folder).items() if n != 'README.md'}
    return write_folder_page('stage', folder, files)


def splits(folder, *name): return {s: len(d) for s, d in datasets.load_dataset(str(folder), *name).items()}


def small_stage(folder):
    "Splits with other optional fields, other `meta`, nulls where another split has text; a table, a figure, another tool's file"
    write_jsonl(folder / 'train.jsonl', [QUESTION | dict(id=f'q{i}', meta=dict(disease=i)) for i in range(3)], 'question')
    write_jsonl(folder / 'patients.jsonl', [QUESTION | dict(context='Goats.', open_stem='Why?', aliases=['Then.'], meta=dict(age='old', n=[1]), subject='goats')], 'question')
    write_jsonl(folder / 'arms-x.jsonl', [QUESTION], 'question')
    write_jsonl(folder / 'facts.jsonl', [dict(id='f', stage=1, source='hpo_facts', messages=say('Why?', 'So.'))], 'sft')
    write_jsonl(folder / 'train.history.jsonl', [dict(step=1, loss=2.0, weights=dict(web=0.5)), dict(step=2, loss=1, weights=dict(books=0.5))])
    write_jsonl(folder / 'rejected.jsonl', [])
    (folder / 'table.csv').write_text('a,b\n1,2\n')
    for other in ELSEWHERE:
        (folder / other).mkdir()
        write_jsonl(folder / other / 'rows.jsonl', [dict(a=1)])


def test_a_small_stage_loads_with_all_its_splits(tmp_path, cache):
    folder = tmp_path / 'stage'
    folder.mkdir()
    small_stage(folder)
    page_of(folder)
    assert splits(folder) == dict(train=3, patients=1, arms_x=1), 'the records are what is loaded without a name'
    assert splits(folder, 'facts') == dict(facts=1) and splits(folder, 'train.history') == {'train.history': 2}
    assert set(datasets.get_dataset_config_names(str(folder))) == {'questions', 'facts', 'train.history'}
    loaded = datasets.load_dataset(str(folder))
    assert loaded['patients'][0]['context'] == 'Goats.' and loaded['train'][0]['context'] is None and loaded['train'][1]['meta'] == dict(disease=1)
    assert loaded['train'].features == loaded['patients'].features and loaded['patients'][0]['aliases'] == ['Then.']


def test_without_the_page_the_folder_does_not_load_so(tmp_path, cache):
    "The control: what `datasets` makes of the folder by itself"
    folder = tmp_path / 'stage'
    folder.mkdir()
    small_stage(folder)
    with pytest.raises(Exception): assert splits(folder) == dict(train=3, patients=1, arms_x=1)


def test_tables_load_where_there_are_no_records(tmp_path, cache):
    folder = tmp_path / 'stage'
    folder.mkdir()
    (folder / 'scores.csv').write_text('model,n\nbase,3\nsft1,4\n')
    page_of(folder)
    assert splits(folder) == dict(scores=2)


def test_a_folder_without_rows_has_no_page(tmp_path):
    assert folder_page('assets', tmp_path, {}) == '' and page_of(tmp_path) is None and not (tmp_path / 'README.md').exists()


@pytest.mark.parametrize('values, kind', [([1, 2], 'int64'), ([1, 0.5], 'float64'), ([True], 'bool'), ([True, 1], 'json'), (['a', 1], 'json'), ([None], 'json'), ([{}], 'json')])
def test_a_column_that_is_not_the_same_in_all_rows_is_json(values, kind):
    assert feature_list([dict(x=v) for v in values]) == [dict(name='x', dtype=kind)]


def test_every_data_folder_of_a_run_loads(micro, store, cache, tmp_path):
    "The real folders: each set, each split, as many rows as the manifest says"
    run, loaded = store / 'runs' / 'micro', {}
    for link in sorted(run.iterdir()):
        m = json.loads((link / 'manifest.json').read_text())
        if 'README.md' not in m['files']: continue
        head = yaml.safe_load((link / 'README.md').read_text().split('---')[1])
        for config in head['configs']:
            rows = splits(link.resolve(), config['config_name'])
            assert rows == {d['split']: m['files'][d['path']]['rows'] for d in config['data_files']}, f'{link.name} {config["config_name"]}'
            loaded[link.name] = loaded.get(link.name, 0) + sum(rows.values())
        named = {d['path'] for c in head['configs'] for d in c['data_files']}
        left = {n for n, f in m['files'].items() if n.endswith('.jsonl') and f['rows'] and n.partition('/')[0] not in ELSEWHERE} - named
        assert not left, f'{link.name}: {left}'
    assert {'cases', 'clean', 'textbook', 'pretrain', 'synth', 'sft', 'prefer', 'evaluate', 'report'} <= loaded.keys()
