"What a hand or a merge can do to a notebook has its line; what is not ours is left alone; who only looks leaves nothing behind."
import json
import os
import shutil

import pytest

import citrus
from citrus.core.command import parse_args, run_command
from citrus.core.files import UserError, root
from citrus.core.ingredients import ingredients
from citrus.core.parameters import STAGES, notebook_path, parameters
from citrus.core.recipes import settings
from citrus.core.runner import library_notebooks, module_path, out_of_step, same_text

CASES = '20_cases'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    for name in ('nbs', 'citrus', 'settings.ini'):
        source = root() / name
        if source.is_dir(): shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
        else: shutil.copy(source, folder)
    return folder


@pytest.fixture
def copy(whole, monkeypatch, tmp_path):
    "A repository to spoil; it is put right again"
    path = whole / 'nbs' / f'{CASES}.ipynb'
    before_edit, names = path.read_bytes(), set(path.parent.iterdir())
    monkeypatch.setattr(citrus, '__file__', str(whole / 'citrus' / '__init__.py'))   # where `root` looks
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    yield path
    path.write_bytes(before_edit)
    for p in set(path.parent.iterdir()) - names: p.unlink()


def look():
    "What every command does first, and the key of the stage whose notebook was spoilt"
    values = settings({})
    assert not out_of_step()
    return ingredients('cases', values['cases'], {})


def refused():
    with pytest.raises(UserError) as e: look()
    assert '\n' not in str(e.value)
    return str(e.value)


def change(path, edit):
    nb = json.loads(path.read_text())
    edit(nb['cells'])
    path.write_text(json.dumps(nb))


def code_cell(source): return dict(cell_type='code', id='extra', metadata={}, source=source, outputs=[], execution_count=None)


@pytest.mark.parametrize('source', ['%matplotlib inline', '#| stage\n%%time\nlen([1])', '!ls', '#| stage\nfiles = !ls', 'len?', '%load_ext autoreload', '#| stage\n!pip install x'])
def test_a_command_of_ipython_has_its_line(copy, source):
    change(copy, lambda cs: cs.insert(5, code_cell(source)))
    message = refused()
    assert message.startswith('20_cases.ipynb, cell 5: ') and 'command of IPython' in message


@pytest.mark.parametrize('source', ['def f(:', '#| stage\nreturn 3', '#| stage\nx = (1,', '#| stage\n  x = 1\n y = 2'])
def test_what_is_not_python_has_its_line(copy, source):
    change(copy, lambda cs: cs.insert(5, code_cell(source)))
    assert refused().startswith('20_cases.ipynb, cell 5: ')


def test_a_merge_conflict_has_its_line(copy):
    lines = copy.read_text().split('\n')
    copy.write_text('\n'.join([*lines[:9], '<<<<<<< HEAD', lines[9], '=======', lines[9], '>>>>>>> other', *lines[10:]]))
    assert refused() == '20_cases.ipynb, line 10: a merge conflict is not resolved'


@pytest.mark.parametrize('spoil, words', [
    (lambda b: b'\xef\xbb\xbf' + b, 'starts with a byte order mark'), (lambda b: b[:len(b) // 2], 'is not JSON'), (lambda b: b'', 'is not JSON'), (lambda b: b'[]', 'no notebook'),
    (lambda b: b'{}', 'no notebook'), (lambda b: b.replace(b'a', b'\xff'), 'is not UTF-8')])
def test_a_spoilt_file_has_its_line(copy, spoil, words):
    copy.write_bytes(spoil(copy.read_bytes()))
    assert refused().startswith('20_cases.ipynb') and words in refused()


@pytest.mark.parametrize('cell, words', [
    ('a text', "is 'a text', needs a mapping"), (code_cell('x') | dict(metadata=None), 'has the metadata None'), (code_cell('x') | dict(source=3), 'has the source 3'),
    (code_cell('x') | dict(metadata=dict(tags='a')), "has the tags 'a'"), (dict(source='x'), 'has no `cell_type`')])
def test_a_cell_that_is_none_has_its_line(copy, cell, words):
    change(copy, lambda cs: cs.insert(5, cell))
    assert refused().startswith(f'20_cases.ipynb, cell 5 {words}')


@pytest.mark.parametrize('line, words', [
    ('limit: Optional[int] = None  # most', 'with one of the types int, float'), ('limit: int  # most', 'needs the form'), ('limit = 3  # most', 'needs the form'),
    ('limit: int = 2 * 3  # most', 'written out'), ("limit: int = 'three'  # most", 'needs int'), ('limit: int = True  # most', 'needs int'), ('seed: int = 1  # again', 'declared twice'),
    ('import os', 'needs the form'), ('a.b: int = 2', 'needs the form'), ('limit: dict = {[1]: 2}', 'written out'), ('limit: int = ', 'not Python')])
def test_a_parameter_of_another_form_has_its_line(copy, line, words):
    def add(cs):
        cell = next(c for c in cs if 'parameters' in c['metadata'].get('tags', []))
        cell['source'] = ''.join(cell['source']) + '\n' + line
    change(copy, add)
    message = refused()
    assert message.startswith('20_cases.ipynb, cell ') and words in message


@pytest.mark.parametrize('name', ['20_cases-Copy1.ipynb', '20_cases (copy).ipynb', '20_cases_old.ipynb', 'Untitled.ipynb', '99_draft.ipynb', '01 notes.ipynb'])
def test_strangers_are_left_alone(copy, name):
    before = look()
    shutil.copy(copy, copy.with_name(name))
    assert look() == before
    copy.with_name(name).write_text('<<<<<<< HEAD')
    assert look() == before


def test_a_copy_that_was_exported_is_named(copy):
    shutil.copy(copy, copy.with_name('20_cases-Copy1.ipynb'))
    module = copy.parent.parent / 'citrus' / 'cases.py'
    before_edit = module.read_bytes()
    module.write_bytes(before_edit + b'\nMORE = 1\n')
    message = refused()
    module.write_bytes(before_edit)
    assert message.startswith('20_cases-Copy1.ipynb exports to the module of 20_cases.ipynb')


def test_most_modules_hold_the_text_of_their_notebook():
    "So a command need not parse them; what is written by hand into a module is seen wherever it stands"
    assert len(library_notebooks()) > 90 and all(same_text(p, module_path(p)) for p in library_notebooks())


@pytest.mark.parametrize('spoil', [
    lambda t: t.replace('\n# %% auto', '\nMORE = 1\n\n# %% auto', 1), lambda t: t + '\nMORE = 1\n', lambda t: t.replace('    return', '    return ()\n    return', 1)])
def test_a_module_that_was_changed_by_hand_is_seen(copy, spoil):
    path = copy.parent / 'lib' / 'world' / 'questions.ipynb'
    module = module_path(path)
    before_edit = module.read_text()
    module.write_text(spoil(before_edit))
    late = out_of_step()
    module.write_text(before_edit)
    assert late == ['lib/world/questions.ipynb']


def test_what_changes_no_statement_is_no_change(copy):
    module = module_path(copy)
    before_edit = module.read_text()
    module.write_text(before_edit.replace('from .core.files', 'from citrus.core.files') + '\n# a remark\n')
    same, late = same_text(copy, module), out_of_step()
    module.write_text(before_edit)
    assert not same and not late


def test_what_jupyter_keeps_for_itself_is_no_twin(copy):
    path = copy.parent / 'lib' / 'world' / 'families.ipynb'
    aside = path.parent / '.ipynb_checkpoints'
    aside.mkdir()
    shutil.copy(path, aside / 'families-checkpoint.ipynb')
    module = module_path(path)
    before_edit = module.read_bytes()
    module.write_bytes(before_edit + b'\nMORE = 1\n')
    late = out_of_step()
    module.write_bytes(before_edit)
    shutil.rmtree(aside)
    assert late == ['lib/world/families.ipynb']


# --- who only looks --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('args', [['--dry', '--only', 'rules'], ['--list'], ['--gc'], ['--why', str(root() / 'figures' / 'clean_scale.csv')]])
def test_who_only_looks_writes_nothing(monkeypatch, tmp_path, args, capsys):
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    run_command(parse_args(args))
    assert capsys.readouterr().out and not (tmp_path / 'home').exists()


def test_a_home_that_is_no_folder_is_named(monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'file' / 'home'))
    for args in (['--dry'], []):
        with pytest.raises(UserError, match='CITRUS_HOME is .* is no folder: set CITRUS_HOME'): run_command(parse_args(args))


def test_a_home_where_even_root_cannot_write_is_named(monkeypatch):
    monkeypatch.setenv('CITRUS_HOME', '/proc/x')
    with pytest.raises(UserError, match='CITRUS_HOME is /proc/x, and /proc cannot be written to'): run_command(parse_args([]))


def test_a_home_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    tmp_path.chmod(0o555)
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    if os.access(tmp_path, os.W_OK): pytest.skip('root may write anywhere but in /proc')
    with pytest.raises(UserError, match='cannot be written to: set CITRUS_HOME'): run_command(parse_args(['--dry']))


def test_parameters_of_all_stages_are_read(): assert all(parameters(notebook_path(s)) for s in STAGES) and settings({})
