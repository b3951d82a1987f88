"Tests run the real stages on a micro model, in a store of their own; the wheels of the assets are shared."
import contextlib
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from citrus.core.files import home, root

BIN = Path(sys.executable).parent
MICRO = root() / 'tests' / 'micro.yml'
SLOW = set('bandit cases chain chaos chat clean data_size disk engines evaluate exact families hub interchange lab lab_studies likelihood loadable pages patients prefer preflight pretrain ranks rules serving sessions sft sharing side_by_side signals size sources synth tracking vllm'.split())   # Files whose tests train, serve, kill or read much; `make check` leaves them out

SLOW_FIXTURES = {'micro', 'before', 'old'}   # The whole chain; the keys of all stages by the code of several copies; what is stale


def pytest_configure(config): config.addinivalue_line('markers', 'slow: needs more than a few seconds; `make check` leaves it out')


def pytest_collection_modifyitems(items):
    "What uses a slow fixture is slow, and so is every file of `SLOW`. One worker begins with the chain, the others with what does not need it"
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames) or item.path.stem.removeprefix('test_') in SLOW: item.add_marker(pytest.mark.slow)
    waiting = {item.path.stem for item in items if 'micro' in item.fixturenames}
    order = lambda file: (file != 'test_chain', file in waiting, file != 'test_chaos')   # the longest first
    items.sort(key=lambda item: order(item.path.stem))


@pytest.fixture(scope='session')
def shared(tmp_path_factory, worker_id):
    "A folder that all workers of this session have"
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == 'master' else own.parent) / 'shared'
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope='module', autouse=True)
def undecided_devices():
    "No test inherits the number format or the devices that another one computed with"
    if 'accelerate.state' in sys.modules: sys.modules['accelerate.state'].AcceleratorState._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def alone(path):
    "One process at a time"
    with open(path, 'a') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope='session')
def store(shared):
    "A `CITRUS_HOME` of its own with the real wheels"
    from citrus.data.wheels import fetch, pins
    here = shared / 'home'
    with alone(shared / 'fetch.lock'):
        fetch(list(pins().values()))
        if not here.exists():
            here.mkdir()
            (here / 'assets').symlink_to(home() / 'assets')
    return here


def citrus_run(store, *args, ok=True, **env):
    "Run the real command; gives its output"
    done = subprocess.run([str(BIN / 'citrus_run'), *args], env=os.environ | dict(CITRUS_HOME=str(store)) | env, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope='session')
def micro(store, shared):
    "The whole chain, run once on the micro model by the first worker that asks; `trace.txt` notes which functions run. Gives what the command said"
    path = os.pathsep.join([str(MICRO.with_name('tracing')), *filter(None, [os.environ.get('PYTHONPATH')])])
    said = shared / 'micro.txt'
    with alone(shared / 'micro.lock'):
        if not said.exists(): said.write_text(citrus_run(store, '--recipe', str(MICRO), PYTHONPATH=path, CITRUS_TRACE=str(store / 'trace.txt')))
    return said.read_text()


@pytest.fixture
def endpoint():
    "Starts servers of `endpoint.py` with the given options; gives their base URLs"
    started = []

    def start(**options):
        command = [sys.executable, str(MICRO.with_name('endpoint.py')), *(str(a) for k, v in options.items() for a in (f'--{k.replace("_", "-")}', v))]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1].stdout.readline().strip()
    yield start
    for p in started:
        p.kill()
        p.wait()
