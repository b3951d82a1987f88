"What is typed wrong is told in one line, before anything runs."
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import BIN

from citrus.core.command import main
from citrus.core.files import UserError, root
from citrus.core.launch import train_main
from citrus.core.lineage import maker
from citrus.core.parameters import cells
from citrus.core.publish import publish_main
from citrus.core.recipes import load_recipe, settings
from citrus.core.runner import CellBar, last_seconds, papermill_run
from citrus.core.store import run_folder, store


@pytest.fixture
def command(tmp_path, monkeypatch):
    "The command line in this process: its message, or its output, with a store that nothing may be written to"
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))

    def call(capsys, entry, name, *args):
        monkeypatch.setattr(sys, 'argv', [name, *args])
        try: entry()
        except SystemExit as e:
            if isinstance(e.code, str): return e.code
        return capsys.readouterr().out
    return call


@pytest.mark.parametrize('args, message', [
    (['--yes'], '--yes goes with --gc only'), (['--dry', '--yes'], '--yes goes with --gc only'),
    (['--only', 'pretrain', '--from', 'sft'], '--only and --from do not go together'),
    (['--list', '--name', 'a'], '--list and --name do not go together'), (['--gc', '--dry'], '--gc and --dry do not go together'),
    (['--why', 'a.csv', '--list'], 'do not go together'), (['--figures', '--dry'], '--figures and --dry do not go together'), (['--list', '--figures'], '--list and --figures do not go together'), (['--only', ''], '--only has no value'),
    (['--recipe', 'gpu', '--recipe', '8b'], '--recipe is given twice'), (['--nam', 'a'], 'unrecognized arguments: --nam'),
    (['--set', 'pretrain.steps=[1'], "--set pretrain.steps=[1: expected ',' or ']'"), (['--set', 'pretrain.steps=1', 'pretrain.steps=2'], 'pretrain.steps: is given twice'),
    (['--name', '..'], "run '..': a name begins with"), (['--name', '.'], "run '.': a name begins with"), (['--name', 'a\n'], 'a name begins with'),
    (['--dry', '--set', 'pretrain.rule=foo'], "pretrain.rule = 'foo': needs one of"), (['--set', 'evaluate.samples=3'], 'without a temperature'),
    (['--recipe', 'missing.yml'], '--recipe missing.yml: there is no such file'), (['--recipe', 'nbs/recipes'], 'there is no such file'),
    (['--recipe', 'controll'], "did you mean 'control'"), (['--why', '.'], 'is a folder, and not that of a stage')])
def test_a_mistake_is_one_line(command, capsys, tmp_path, args, message):
    output = command(capsys, main, 'citrus_run', *args)
    assert message in output and output.startswith('citrus_run: ') and '\n' not in output.replace('\\n', '').strip()
    assert not list((tmp_path / 'home').glob('*/*')), 'nothing was begun'


@pytest.mark.parametrize('text, message', [
    ('- pretrain', 'must map stages to their parameters, is a list'), ('pretrain', 'is a str'), ('pretrain: 3', "block 'pretrain' must map"),
    ('pretrain:\n  steps: 1\n  steps: 2', "'steps' is given twice (line 3)"), ('pretrain: {steps: 1}\npretrain: {seed: 1}', "'pretrain' is given twice (line 2)"),
    ('pretrain: [', 'line 1'), ('1: {a: 2}', 'unknown stage 1'), ('pretrain: {2: 3}', 'unknown parameter of pretrain 2'), (b'pretrain: {rule: \xff}', 'not UTF-8 at byte 17'),
    ('pretrain: {steps: !!python/name:os.system }', 'could not determine a constructor')])
def test_a_bad_recipe_is_one_line(command, capsys, tmp_path, text, message):
    path = tmp_path / 'r.yml'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    output = command(capsys, main, 'citrus_run', '--dry', '--recipe', str(path))
    assert message in output and '\n' not in output


def test_no_runs_is_a_sentence(command, capsys):
    assert command(capsys, main, 'citrus_run', '--list').startswith('no runs in ')


def test_help_is_help(command, capsys):
    for entry, name in ((main, 'citrus_run'), (publish_main, 'citrus_publish'), (train_main, 'citrus_train')):
        assert f'usage: {name}' in command(capsys, entry, name, '--help')


def test_publish_names_what_is_wrong(command, capsys):
    assert command(capsys, publish_main, 'citrus_publish', '..').startswith("citrus_publish: run '..': a name begins with")
    assert 'unrecognized arguments: b' in command(capsys, publish_main, 'citrus_publish', 'a', 'b')
    assert "run 'nobody' has no finished stage" in command(capsys, publish_main, 'citrus_publish', 'nobody')


@pytest.mark.parametrize('text, message', [(None, 'No such file'), ('{', 'not JSON'), ('[]', 'needs the fields'), ('{"function": "pretrain.pretrain"}', 'needs the fields')])
def test_train_needs_a_job(command, capsys, tmp_path, text, message):
    if text is not None: (tmp_path / 'job.json').write_text(text)
    assert message in command(capsys, train_main, 'citrus_train', str(tmp_path / 'job.json'))


def test_train_alone_is_one_line(command, capsys):
    assert 'required: config' in command(capsys, train_main, 'citrus_train')


def test_train_tells_its_error_in_one_line(tmp_path):
    (tmp_path / 'job.json').write_text(json.dumps(dict(function='core.recipes.load_recipe', arguments=dict(name='nowhere.yml'))))
    done = subprocess.run([str(BIN / 'citrus_train'), str(tmp_path / 'job.json')], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == 'citrus_train: --recipe nowhere.yml: there is no such file\n'


def test_a_folder_of_a_stage_can_be_asked_for(tmp_path):
    "`--why` takes the folder of a stage, where its manifest lies"
    folder = tmp_path / 'pretrain-0123456789ab'
    folder.mkdir(parents=True)
    (folder / 'manifest.json').write_text('{}')
    assert maker(folder) == maker(folder / 'manifest.json') == folder.name


def test_outside_a_clone_one_line(tmp_path):
    shutil.copytree(root() / 'citrus', tmp_path / 'citrus', ignore=shutil.ignore_patterns('__pycache__'))
    for module, entry, args in (('command', 'main', ['--recipe', 'gpu', '--dry']), ('publish', 'publish_main', ['default'])):
        code = f'import sys; from citrus.core.{module} import {entry}; sys.argv[1:] = {args}; {entry}()'
        done = subprocess.run([sys.executable, '-c', code], env=os.environ | dict(PYTHONPATH=str(tmp_path)), cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and 'citrus runs from a clone' in done.stderr and len(done.stderr.strip().split('\n')) == 1


@pytest.mark.parametrize('name', ['..', '.', '', 'a/b', '-x', '.hidden', 'a b', 'x\n'])
def test_a_run_cannot_leave_its_folder(name):
    with pytest.raises(UserError, match='a name begins with'): run_folder(name)


def test_the_last_of_common_block_and_set_wins():
    v = settings({'common': dict(seed=1), 'pretrain': dict(seed=2)}, ['sft.seed=3'])
    assert (v['clean']['seed'], v['pretrain']['seed'], v['sft']['seed']) == (1, 2, 3)
    assert load_recipe('') == {}


# --- the bar of a stage ------------------------------------------------------------------------------------------------

SLOW = '{"cells": [%s], "metadata": {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}'


def cell(id, source): return json.dumps(dict(cell_type='code', id=id, metadata={}, source=source, outputs=[], execution_count=None))


def test_a_bar_counts_the_seconds_of_the_longest_run(tmp_path, monkeypatch, capfd):
    "The real papermill, twice: first in cells, then in seconds of the first time, most of which one cell takes"
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    source = tmp_path / 'slow.ipynb'
    source.write_text(SLOW % ', '.join([cell('quick', '1'), cell('slow', 'import time; time.sleep(1.5)'), cell('last', '2')]))
    folder = store() / 'slow-0123456789ab'
    folder.mkdir(parents=True)
    papermill_run(source, folder / 'notebook.ipynb', {}, 'slow')
    assert '3 of 3 cells' in capfd.readouterr().err and last_seconds('slow') == {}, 'not finished'
    (folder / 'manifest.json').write_text('{}')
    spent = last_seconds('slow')
    assert 1.5 < spent['slow'] < 10 and spent['quick'] < 0.5
    resumed = store() / 'slow-ba9876543210'
    resumed.mkdir()
    (resumed / 'manifest.json').write_text('{}')
    (resumed / 'notebook.ipynb').write_text((folder / 'notebook.ipynb').read_text().replace('"duration": 1.', '"duration": 0.'))
    assert last_seconds('slow') == spent
    papermill_run(source, tmp_path / 'again.ipynb', {}, 'slow')
    shown = capfd.readouterr().err
    assert 's of the last time' in shown and '100%' in shown
    bar = CellBar('slow', cells(source), spent)
    bar.show([dict(id='quick', metadata=dict(papermill=dict(status='completed')))])
    assert bar.bar.n / bar.bar.total < 0.3, 'a third of the cells, but not of the time'
    bar.close()
