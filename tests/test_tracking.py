"Following a training: every step reaches the tracker, the arms' weights among them, a restart goes on in the same run, and nothing else changes."
import importlib
import sys

import numpy as np
import pytest

from citrus.core.files import UserError
from citrus.core.recipes import consistent, settings
from citrus.core.records import read_jsonl, write_jsonl
from citrus.core.tracking import tracked_name, tracker_missing

WORDS = 'fever gout mumps jaw toe red hurts why what night'.split()
TUNING = dict(epochs=2, learning_rate=1e-3, global_batch=2, micro_batch=1, length=64, weight_decay=1e-4, beta2=0.95, clip=1.0, lora_rank=0, seed=0, checkpoint_seconds=9999.0)
READING = dict(rule='odm', steps=4, global_batch=2, micro_batch=1, length=16, learning_rate=1e-3, weight_decay=1e-4, checkpoint_seconds=0.0, seed=0, epochs=0.0, lost_steps=10)
say = lambda who, text: dict(role=who, content=text)

BACKEND = '''
import json, os
import importlib.machinery
__version__ = '0.43.0'
class Config(dict):
    def update(self, values, **kw): super().update({k: repr(v) for k, v in values.items()})
class Here:
    def get(self): return None
class context_vars: current_space_id = current_project = Here()
config, file = Config(), None
def init(project, name=None, resume='never', **kw):
    global file
    assert resume == 'allow'
    file = open(os.path.join(os.environ['TRACKIO_DIR'], f'{project}+{name}.jsonl'), 'a')
    import trackio
    return trackio
def log(values, step=None, **kw): print(json.dumps(dict(values) | ({} if step is None else dict(step=step))), file=file, flush=True)
def finish(): file.close()
'''


@pytest.fixture(scope='module')
def student(store):
    from citrus.llm.student import micro
    if not (store / 'micro-student').exists(): micro(store / 'micro-student', 0)
    return store / 'micro-student'


@pytest.fixture
def backend(tmp_path, monkeypatch):
    "A package called trackio that writes what it is told to a file a run; the real one is no dependency. Gives the folder"
    (tmp_path / 'packages').mkdir()
    (tmp_path / 'packages' / 'trackio.py').write_text(BACKEND)
    monkeypatch.syspath_prepend(str(tmp_path / 'packages'))
    monkeypatch.setenv('TRACKIO_DIR', str(tmp_path))
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    monkeypatch.delitem(sys.modules, 'trackio', raising=False)
    yield tmp_path
    sys.modules.pop('trackio', None)
    importlib.invalidate_caches()


def rows_of(folder, n=12):
    rng = np.random.default_rng(0)
    words = lambda: ' '.join(rng.choice(WORDS, 12))
    write_jsonl(folder / 'rows.jsonl', [dict(id=f'r{i}', stage=1, source='coqa', messages=[say('user', words()), say('assistant', words())]) for i in range(n)], 'sft')
    return str(folder / 'rows.jsonl')


def arms_of(folder):
    arms = {}
    for name in ('web', 'books'):
        arms[name] = str(folder / f'{name}.jsonl')
        write_jsonl(arms[name], [dict(id=f'{name}{i}', source=name, text=f'{name} goats climb tree {i}. ' * 20, domain='general', lang='en', meta={}) for i in range(4)], 'document')
    return arms


def tuned(folder, student, report_to, stage='sft-0123.partial'):
    from citrus.sft import fine_tune
    out = folder / stage / 'sft1'
    out.parent.mkdir(exist_ok=True)
    fine_tune(out=str(out), base=str(student), rows=rows_of(folder), report_to=report_to, **TUNING)
    return out


def read(folder, student, report_to, stage='pretrain-0123.partial', **changed):
    from citrus.pretrain import pretrain
    out = folder / stage / 'pretrained'
    out.parent.mkdir(exist_ok=True)
    pretrain(out=str(out), base=str(student), arms=arms_of(folder), report_to=report_to, **READING | changed)
    return out


def told(folder, name): return read_jsonl(folder / f'citrus+{name}.jsonl')


def test_a_trainer_tells_every_step(student, backend):
    out = tuned(backend, student, 'trackio')
    history, rows = read_jsonl(f'{out}.history.jsonl'), [r for r in told(backend, 'sft-0123-sft1') if 'train/loss' in r]
    assert [r['train/loss'] for r in rows] == [h['loss'] for h in history] and [r['train/global_step'] for r in rows] == [*range(1, len(history) + 1)]
    assert all('train/learning_rate' in r for r in rows) and len(rows) > 2


def test_pre_training_tells_the_weights_of_its_arms(student, backend):
    out = read(backend, student, 'trackio')
    history, rows = read_jsonl(f'{out}.history.jsonl'), told(backend, 'pretrain-0123-pretrained')
    assert [r['step'] for r in rows] == [1, 2, 3, 4] and all(r['train/tokens_a_second'] > 0 and 0 < r['train/learning_rate'] <= 1e-3 for r in rows)
    for r, h in zip(rows, history):
        assert {a: r[f'weights/{a}'] for a in ('web', 'books')} == pytest.approx(h['weights']) and r['train/loss'] == pytest.approx(np.mean([*h['losses'].values()]))


def test_a_restart_goes_on_in_the_same_run(student, backend, monkeypatch):
    "Killed after two steps: the run has steps 1 and 2 from the first process, 3 and 4 from the second"
    import citrus.pretrain
    real, done = citrus.pretrain.advance, []
    def advance(*args, **kw):
        if len(done) == 2: raise KeyboardInterrupt
        done.append(1)
        return real(*args, **kw)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(citrus.pretrain, 'advance', advance)
        read(backend, student, 'trackio')
    read(backend, student, 'trackio')
    assert [r['step'] for r in told(backend, 'pretrain-0123-pretrained')] == [1, 2, 3, 4]


def test_a_tracker_changes_no_result(student, backend):
    for run, file in ((tuned, 'training.json'), (read, 'training.json')):
        plain, told_of = run(backend, student, 'none', 'plain'), run(backend, student, 'trackio', 'told')
        same = lambda name: (plain / name).read_bytes() == (told_of / name).read_bytes()
        assert same('model.safetensors') and same(file) and same('README.md')
    from citrus.core.ingredients import ingredients
    from citrus.core.keys import digest
    values = settings({})
    for stage in ('pretrain', 'sft', 'prefer'):
        key = lambda **more: digest(ingredients(stage, values[stage] | more, {}))
        assert key() == key(report_to='wandb', checkpoint_seconds=1.0) != key(seed=1)


def test_what_cannot_follow_is_one_line_before_anything_is_trained(student, tmp_path, monkeypatch):
    assert tracker_missing('none') == '' and 'needs one of none, trackio' in tracker_missing('tensorbord')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None)
    with pytest.raises(UserError, match="sft: report_to = 'wandb': the package is not installed: pip install wandb"): consistent(settings({}, ['sft.report_to=wandb']), ['sft'])
    with pytest.raises(UserError, match="sft.report_to = 'tensorbord': needs one of .*did you mean 'tensorboard'"): settings({}, ['sft.report_to=tensorbord'])
    for run in (tuned, read):
        with pytest.raises(UserError, match='pip install trackio'): run(tmp_path, student, 'trackio')
    assert not [*tmp_path.rglob('*.history.jsonl')] and not [*tmp_path.rglob('step-*')]


def test_all_trainings_of_a_recipe_are_followed_by_one_line():
    values = settings({}, ['common.report_to=tensorboard'])
    assert {s for s, p in values.items() if p.get('report_to') == 'tensorboard'} == {'pretrain', 'sft', 'prefer'}
    assert tracked_name('store/prefer-ab12.partial/.uniform') == 'prefer-ab12-uniform'


def scalars(folder):
    "tag -> steps, of what TensorBoard's own reader finds in a folder"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}


def test_tensorboard_reads_what_both_loops_write(student, tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    out = tuned(tmp_path, student, 'tensorboard')
    read(tmp_path, student, 'tensorboard')
    steps = len(read_jsonl(f'{out}.history.jsonl'))
    assert scalars(tmp_path / 'home' / 'tracking' / 'sft-0123-sft1')['train/loss'] == [*range(1, steps + 1)]
    assert scalars(tmp_path / 'home' / 'tracking' / 'pretrain-0123-pretrained')['weights/books'] == [1, 2, 3, 4]


def test_the_real_trackio_keeps_what_both_loops_tell(student, tmp_path, monkeypatch):
    trackio = pytest.importorskip('trackio')
    import sqlite3
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    tuned(tmp_path, student, 'trackio')
    read(tmp_path, student, 'trackio')
    names = {r for f in trackio.utils.TRACKIO_DIR.glob('citrus*.db') for r, in sqlite3.connect(f).execute('select distinct run_name from metrics')}
    assert {'sft-0123-sft1', 'pretrain-0123-pretrained'} <= names
