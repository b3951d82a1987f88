"What is published says where it comes from: every number stands in a file of figures/, and what is of older code says so."
import ast
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import pandas as pd
import pytest

from citrus.core import command, ingredients
from citrus.core import lineage as lineage_module
from citrus.core import stale as stale_module
from citrus.core.parameters import STAGES, cells, notebook_path, parameters
from citrus.core.files import UserError, root
from citrus.core.ingredients import drawings_of
from citrus.core.keys import Drawing
from citrus.core.stale import drawn_with, redraw, stale, stale_list, stale_sentence
from citrus.core.lineage import maker
from citrus.core.prose import read_number, with_numbers

FIGURES = root() / 'figures'
INDEX = cells(root() / 'nbs' / 'index.ipynb')


@pytest.fixture(scope='module')
def old(): return stale()


def test_the_list_of_what_is_stale_is_of_today(old):
    assert (FIGURES / 'stale.md').read_text() == stale_list(old), 'run `citrus_publish --stale`'
    [marked] = [c['source'] for c in INDEX if 'stale' in c['metadata'].get('tags', [])]
    assert marked == stale_sentence(old), 'run `citrus_publish --stale`'
    if len(old): warnings.warn(f'{len(old)} published figures are of older code, see figures/stale.md: ' + ', '.join(old.output))


def test_what_is_stale_says_why(old): assert all(old.why) and not old.output.duplicated().any()


def test_results_in_the_index_are_read_from_files():
    "A share, a difference, a ratio or an interval that is typed would go stale unseen"
    typed = re.compile(r'\d\s*%|\d points|\d(\.\d+)? times\b|\[-?[\d.]+, -?[\d.]+\]')
    for c in INDEX:
        if 'results' in c['metadata'].get('tags', []): continue   # made from the files of the run
        text = re.sub(r'\{\{[^{}]+\}\}', '', c['source'])
        assert not typed.search(text), typed.search(text)[0]


def test_the_page_names_the_figures_it_reads():
    names = {m.split(';')[0] for c in INDEX for m in re.findall(r'\{\{([^{};]+)', c['source'])}
    assert names and all((FIGURES / n).is_file() for n in names)


@pytest.fixture
def folder(tmp_path):
    pd.DataFrame(dict(way=['ours', 'theirs, "plain"', 'none'], x=[0.125, 2.5, -0.001], low=[0.1, 2.0, -0.2], high=[0.2, 3.0, 0.2], n=[1234, 5, 6])).to_csv(tmp_path / 't.csv', index=False)
    return tmp_path


@pytest.mark.parametrize('reference, text', [
    ('t.csv; way=ours; x; .2f', '0.12'), ('t.csv; way=ours; x; 100x.1f %', '12.5 %'), ('t.csv; way=ours; x, low, high; .1f', '0.1 [0.1, 0.2]'),
    ('t.csv; way=none; x; .0f', '0'), ('t.csv; way=none; x, low, high; -100x.0f points', '0 points [-20, 20]'), ('t.csv; way=ours; n; ,d', '1,234'), ('t.csv; ; rows; d', '3'),
    ('t.csv; ; max(x); .1f', '2.5'), ('t.csv; ; sum(n); d', '1245'), ('t.csv; way=ours & n=1234; way; ', 'ours'), ('t.csv; way=theirs, "plain"; x; .1f', '2.5')])
def test_a_reference_gives_its_number(folder, reference, text): assert with_numbers(f'({{{{{reference}}}}})', folder) == f'({text})'


@pytest.mark.parametrize('reference, words', [
    ('t.csv; way=ours; x', 'needs the form'), ('u.csv; way=ours; x; .2f', 'no figures/u.csv'), ('t.csv; road=ours; x; .2f', "no column 'road'"), ('t.csv; way=ours; y; .2f', "no column 'y'"),
    ('t.csv; way=yours; x; .2f', '0 rows'), ('t.csv; ; x; .2f', '3 rows'), ('t.csv; way=ours; x; .2q', 'code'), ('t.csv; way=ours; way; .2f', 'code'), ('t.csv; way=ours; x, low; .2f', '2 columns')])
def test_a_reference_that_means_nothing_is_named(folder, reference, words):
    with pytest.raises(UserError) as e: read_number(reference, folder)
    assert words in str(e.value) and reference in str(e.value)


def test_the_command_says_what_it_takes():
    done = subprocess.run([sys.executable, '-c', 'import sys; from citrus.core.publish import publish_main; sys.argv = ["citrus_publish", "default", "--stale"]; publish_main()'], capture_output=True, text=True)
    assert done.returncode == 1 and '--stale takes no run' in done.stderr and 'Traceback' not in done.stderr


# --- figures are drawn from their CSV --------------------------------------------------------------------------------

def test_a_figure_is_drawn_from_its_csv():
    "Its arguments are the table, written out, or parameters of the stage"
    more = set()
    for name in STAGES:
        params = {p: d.default for p, d in parameters(notebook_path(name)).items()}
        for figure, (_, drawing, _) in drawings_of(name).items():
            call = ast.parse(drawing.figure).body[0].value
            try: [drawn_with(a, drawing, None, params) for a in [*call.args, *(k.value for k in call.keywords)]]
            except UserError: more.add(figure)
    assert not more, f'save what it is drawn from: {more}'


def test_a_published_figure_is_drawn_anew(tmp_path):
    redraw(FIGURES / 'expert.csv', tmp_path)
    redraw(FIGURES / 'clean_funnel.csv', tmp_path)   # by a function of another module
    assert b'cases-' in (tmp_path / 'expert.png').read_bytes() and b'clean-' in (tmp_path / 'clean_funnel.png').read_bytes()


def test_what_stands_in_no_file_cannot_be_drawn():
    drawing = Drawing('losses', 'plot(losses, weights)', 'losses', frozenset())
    table, more = ast.parse(drawing.figure).body[0].value.args
    assert drawn_with(table, drawing, 'the table', {}) == 'the table'
    with pytest.raises(UserError, match="losses: 'weights' stands in no file, so only its stage can draw it"): drawn_with(more, drawing, 'the table', {})


@pytest.fixture
def three_tables(tmp_path, monkeypatch):
    "Three published tables: one is of no stage, one has lost a column"
    folder = tmp_path / 'figures'
    (folder / 'manifests').mkdir(parents=True)
    for name in ('expert', 'right_counts'):
        table = pd.read_csv(FIGURES / f'{name}.csv')
        if name == 'expert': table = table.drop(columns='top1')
        table.to_csv(folder / f'{name}.csv', index=False)
        manifest = f'{table.made_by.iloc[-1]}.json'
        (folder / 'manifests' / manifest).write_text((FIGURES / 'manifests' / manifest).read_text())
    (folder / 'astray.csv').write_text('a\n1\n')
    for module in (stale_module, lineage_module): monkeypatch.setattr(module, 'root', lambda: tmp_path)
    return folder


def test_figures_that_cannot_be_drawn_are_named_after_the_others(three_tables, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['citrus_run', '--figures'])
    with pytest.raises(SystemExit) as e: command.main()
    assert '2 figures could not be drawn' in e.value.code and 'astray.csv: carries no stamp' in e.value.code
    assert "expert: its table has an older form (AttributeError: 'DataFrame' object has no attribute 'top1')" in e.value.code
    assert capsys.readouterr().out.startswith('1 figures drawn in ')
    assert {p.name for p in three_tables.glob('*.png')} == {'right_counts.png'}
    noted = [json.loads(p.read_text()).get('drawings', {}) for p in (three_tables / 'manifests').iterdir()]
    assert any(drawn.get('right_counts') == drawings_of('prefer')['right_counts'][2] for drawn in noted)


def test_a_changed_plot_makes_its_figure_stale_and_nothing_else(monkeypatch):
    before = {name: drawings_of(name) for name in ('pretrain', 'report')}
    own = ingredients.notebook_module
    def changed(path):
        module = own(path)
        for i, d in enumerate(module.definitions):
            if d.label == 'plot_validation': module.definitions[i] = replace(d, code=d.code + '\n# wider')
        return module
    monkeypatch.setattr(ingredients, 'notebook_module', changed)
    after = {name: drawings_of(name) for name in before}
    assert {f for n in before for f in before[n] if before[n][f][2] != after[n][f][2]} == {'pretrain_validation'}


def test_a_table_has_its_own_stamp_and_an_empty_one_that_of_its_picture(tmp_path):
    table, picture = tmp_path / 'scores.csv', tmp_path / 'scores.png'
    picture.write_bytes(b'run default, report-aaaaaaaaaaaa, commit 1')
    table.write_text('a,made_by\n1,report-bbbbbbbbbbbb\n')
    assert maker(table) == 'report-bbbbbbbbbbbb' and maker(picture) == 'report-aaaaaaaaaaaa'
    table.write_text('a,made_by\n')
    assert maker(table) == 'report-aaaaaaaaaaaa'
