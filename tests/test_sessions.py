"A manifest tells of all the work on a stage, also of the sessions that were killed."
import json
import os
import signal
import subprocess
import sys
import time

WORK = '''
import sys, time
from citrus.core.parameters import notebook_path, parameters
from citrus.core.store import stage
spec = parameters(notebook_path('assets'))
s = stage('assets', {p: d.default for p, d in spec.items()} | dict(run='work'))
path = f'trainings/{sys.argv[1]}.jsonl'
s.write(path, [dict(n=1)])
print('at work', flush=True)
if sys.argv[1] == 'first': time.sleep(60)
s.finish()
'''


def work(home, name):
    env = {k: v for k, v in os.environ.items() if k != 'CITRUS_KEY'} | dict(CITRUS_HOME=str(home))
    return subprocess.Popen([sys.executable, '-c', WORK, name], env=env, stdout=subprocess.PIPE, text=True)


def test_a_killed_session_counts(tmp_path):
    first = work(tmp_path, 'first')
    assert first.stdout.readline() == 'at work\n'
    time.sleep(5)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(3)   # nobody works
    [partial] = (tmp_path / 'store').glob('assets-*.partial')
    (partial / 'trainings' / 'brought.jsonl').write_text('{"n": 2}\n')
    os.utime(partial / 'trainings' / 'brought.jsonl', (1e9, 1e9))   # older than all the work
    assert work(tmp_path, 'second').wait() == 0
    m = json.loads((tmp_path / 'runs' / 'work' / 'assets' / 'manifest.json').read_text())
    one, two = m['sessions']
    assert 3 <= one['seconds'] <= 7 and one['commit'] == two['commit'] == m['commit'] and one['started'] < two['started']
    assert m['seconds'] == round(one['seconds'] + two['seconds'], 1) and m['started'] == one['started']
    assert m['earlier'] == ['trainings/brought.jsonl'] and set(m['files']) == {f'trainings/{n}.jsonl' for n in ('first', 'second', 'brought')} | {'README.md'}
