"Engines: released for sure before a launch and before the next one, also those that a killed run has left"
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from citrus.core import engines
from citrus.core.engines import Engine, hold_devices, make_room, need_free_devices, engine_notes, release
from citrus.core.files import UserError
from citrus.core.launch import launch
from citrus.core.processes import named_process, offspring, still_there, supervised

# A process with the life of an engine: it has a worker, and takes its time to end
LIFE = """
import signal, subprocess, sys, time
worker = subprocess.Popen([sys.executable, '-c', "import signal, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), exit())); time.sleep(60)"])
signal.signal(signal.SIGTERM, lambda *_: (worker.terminate(), {wait}, sys.exit()))
print(worker.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    yield
    release(patience=0)


def engine(name='toy', share=0.9, devices=(), wait='worker.wait()'):
    process = subprocess.Popen([sys.executable, '-c', LIFE.format(wait=wait)], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    return hold_devices(Engine(name, process.terminate, (named_process(process.pid),), share, devices)), [named_process(process.pid), named_process(worker)]


def test_release_waits_for_the_last_process():
    "Without waiting the worker would still be there for half a second"
    _, family = engine()
    assert len(still_there(family)) == 2
    release()
    assert still_there(family) == [] and engine_notes() == []


def test_a_worker_that_outlives_its_engine_is_ended():
    "The engine ends at once and leaves its worker, which nobody then finds among its children"
    _, family = engine(wait='None')
    release(patience=2.0)
    assert still_there(family) == []


def test_an_engine_that_breaks_while_it_is_closed_is_gone_all_the_same(capsys):
    held, family = engine()
    held.close = lambda: 1 / 0
    release(patience=0.1)
    assert still_there(family) == [] and 'toy: broke while it was closed (ZeroDivisionError' in capsys.readouterr().err


def test_a_process_that_nothing_ends_is_said_in_one_line(monkeypatch):
    held, family = engine()
    monkeypatch.setattr(engines, 'end_processes', lambda family, patience: family)
    with pytest.raises(UserError, match=r'^toy: does not end, so its memory stays taken: `kill -9 \d+ \d+`, then run again$'): release()
    held.close()


def test_a_launch_releases_what_this_process_holds():
    _, family = engine()
    assert launch('core.stats.wilson', k=0, n=64)[0] == 0
    assert still_there(family) == []


def test_a_launch_refuses_while_an_engine_of_another_process_lives(tmp_path, monkeypatch):
    code = LIFE.format(wait='worker.wait()').replace('print(', 'import os\nfrom citrus.core.engines import *\nfrom citrus.core.processes import named_process\n'
                                                      'hold_devices(Engine("judge", None, (named_process(worker.pid),)))\nprint(')
    other = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    other.stdout.readline()
    with pytest.raises(UserError, match=rf'^core.stats.wilson: process {other.pid} holds the devices with the model judge: [^\n]*$'): launch('core.stats.wilson', k=0, n=64)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5')
    with pytest.raises(UserError): need_free_devices('other')   # the other one may use all
    [note] = engine_notes()
    note['path'].write_text(json.dumps({k: v for k, v in note.items() if k != 'path'} | dict(devices='0,1')))
    need_free_devices('other')
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    other.terminate()
    other.wait()
    launch('core.stats.wilson', k=0, n=64)


def test_the_engine_of_a_run_that_was_killed_is_ended(capsys):
    "Its worker is nobody's child any more; the note tells whose it was"
    code = LIFE.format(wait='worker.wait()').replace('print(', 'from citrus.core.engines import *\nfrom citrus.core.processes import named_process\n'
                                                      'hold_devices(Engine("lost", None, (named_process(worker.pid),)))\nprint(')
    run = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    worker = named_process(int(run.stdout.readline()))
    run.kill()
    run.wait()
    assert still_there([worker])
    make_room('next', 0.9)
    assert not still_there([worker]) and engine_notes() == [] and 'lost: left over from a run that was killed' in capsys.readouterr().err


def test_the_next_engine_waits_for_the_last_one():
    _, first = engine('first', 0.92)
    make_room('second', 0.92)
    assert still_there(first) == []
    _, left = engine('left', 0.92, (0, 1))
    _, right = engine('right', 0.92, (2, 3))
    make_room('third', 0.5, (2,))
    assert still_there(left) and not still_there(right)


def test_two_engines_that_are_at_work_do_not_drive_each_other_out():
    held, family = engine('reasoner', 0.92)
    held.busy = 1
    with pytest.raises(UserError, match='^judge and reasoner work at the same time and do not fit .* `device_ids`'): make_room('judge', 0.92)
    assert still_there(family)
    held.busy = 0


def test_a_supervised_command_ends_with_the_run_that_was_killed(tmp_path):
    "Killed, so that nothing in it can tell anybody"
    code = f"from citrus.core.processes import supervised\nguard = supervised([{sys.executable!r}, '-c', {LIFE.format(wait='worker.wait()')!r}])\nguard.wait()"
    run = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    run.stdout.readline()
    family = offspring(run.pid)
    assert len(family) == 3
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    until = time.monotonic() + 10
    while still_there(family) and time.monotonic() < until: time.sleep(0.05)
    assert still_there(family) == []


def test_a_supervised_command_that_ends_is_seen():
    assert supervised(['sh', '-c', 'exit 3']).wait() == 3


# --- models in this process ------------------------------------------------------------------------------------------

def test_where_a_model_fits():
    from citrus.llm.loading import claim, placement
    eight = [80 << 30] * 8
    assert [placement(n << 30, eight) for n in (16, 141)] == ['cuda:0', 'auto'] and placement(16 << 30, []) == 'cpu'
    assert claim(141 << 30, eight) == (pytest.approx(286 / 640), ()) and claim(1 << 30, [80 << 30])[1] == (0,)


def test_no_more_held_out_text_is_tokenised_than_is_used():
    "4,000 documents of which two sequences are wanted; and all of them, as they stand, where all are needed"
    import numpy as np
    from citrus.train.sampler import pack_documents
    from citrus.train.validation import evenly, held_out_sequences, spread_order

    class Letters:
        eos_token_id, bos_token_id, read = 0, None, 0
        def __call__(self, texts, **_):
            self.read += len(texts)
            return dict(input_ids=[list(map(ord, t)) for t in texts])
    texts, count = [f'text {i:6}' for i in range(4000)], Letters()
    sequences = held_out_sequences(texts, count, 20, 3)
    assert sequences.shape == (3, 20) and count.read == 16
    few = texts[:7]
    assert np.array_equal(held_out_sequences(few, count, 8, 50), evenly(pack_documents(few, count, 8), 50))
    assert held_out_sequences([], count, 8, 5).shape == (0, 8)
    first = sorted(spread_order(1000)[:10])
    assert max(np.diff([0, *first, 1000])) < 200


def test_a_model_that_is_loaded_leaves_when_it_is_told_to(tmp_path):
    from citrus.llm import local
    from citrus.llm.student import make_student
    folder = make_student('micro', '', 0, tmp_path / 'student')
    model, _ = local.load_local(str(folder), 'a')
    assert local.load_local(str(folder), 'a')[0] is model and len(local._loaded) == 1
    local.load_local(str(folder), 'b')
    assert len(local._loaded) == 1 and len(engines._held) == 1
    need_free_devices('training')
    assert not local._loaded and not engines._held
