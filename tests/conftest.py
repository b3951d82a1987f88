"Tests run the real stages on a micro model, in a store of their own; the wheels of the assets are shared."
import os
import subprocess
import sys
from pathlib import Path

import pytest

from citrus.core.files import home, root

BIN = Path(sys.executable).parent
MICRO = root() / 'tests' / 'micro.yml'
SLOW = set('bandit cases chain chaos chat clean evaluate exact families interchange likelihood pretrain pages patients prefer ranks rules sessions sft signals size sources synth vllm'.split())   # Files whose tests train, serve, kill or read much; `make check` leaves them out


SLOW_FIXTURES = {'micro', 'before', 'old'}   # The whole chain; the keys of all stages by the code of several copies; what is stale


def pytest_configure(config): config.addinivalue_line('markers', 'slow: needs more than a few seconds; `make check` leaves it out')


def pytest_collection_modifyitems(items):
    "What uses a slow fixture is slow, and so is every file of `SLOW`"
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames) or item.path.stem.removeprefix('test_') in SLOW: item.add_marker(pytest.mark.slow)


@pytest.fixture(scope='session')
def store(tmp_path_factory):
    "A `CITRUS_HOME` of its own with the real wheels"
    from citrus.data.wheels import fetch, pins
    fetch(list(pins().values()))
    here = tmp_path_factory.mktemp('home')
    (here / 'assets').symlink_to(home() / 'assets')
    return here


def citrus_run(store, *args, ok=True, **env):
    "Run the real command; gives its output"
    done = subprocess.run([str(BIN / 'citrus_run'), *args], env=os.environ | dict(CITRUS_HOME=str(store)) | env, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope='session')
def micro(store):
    "The whole chain, run once on the micro model; `store/trace.txt` notes which functions run"
    path = os.pathsep.join([str(MICRO.with_name('tracing')), *filter(None, [os.environ.get('PYTHONPATH')])])
    return citrus_run(store, '--recipe', str(MICRO), PYTHONPATH=path, CITRUS_TRACE=str(store / 'trace.txt'))
