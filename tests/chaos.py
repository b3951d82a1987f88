"""Kill the micro chain at random moments, let it go on, and compare what it ends with to an undisturbed run.

A moment is a time, or a file operation (see stopper/sitecustomize.py): as many of each. What is killed, with SIGKILL, is the kernel, the runner, a
training subprocess, or all of them at once. A killed runner leaves its kernel an orphan; the next run starts at once, while that one still lives.
Work is counted in what was finished: optimiser steps (the log of each training) and generated replies (rows of the ledger). A step or a batch of
replies that was in flight at the kill counts as neither."""
import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from citrus.core.runner import chosen
from citrus.core.files import home, root

BIN, TESTS = Path(sys.executable).parent, root() / 'tests'


@dataclass
class Home:
    "A `CITRUS_HOME` of its own, on shared wheels"
    path: Path
    at: int = 0               # File operation to stop at, 0 for none
    kills: list = field(default_factory=list)
    wall: float = 0.0         # Seconds in which a runner lived

    @classmethod
    def new(cls, path):
        path.mkdir(parents=True)
        (path / 'assets').symlink_to(home() / 'assets')
        return cls(path)

    @property
    def count(self): return self.path / 'count'

    @property
    def out(self): return self.path / 'out.txt'

    def start(self):
        "Start the runner, in a session of its own"
        (self.path / 'count.stopped').unlink(missing_ok=True)
        env = os.environ | dict(CITRUS_HOME=str(self.path), CHAOS_AT=str(self.at), CHAOS_COUNT=str(self.count), PYTHONPATH=os.pathsep.join([str(TESTS / 'stopper'), str(root())]))
        with open(self.out, 'w') as out: return subprocess.Popen([str(BIN / 'citrus_run'), '--recipe', str(TESTS / 'micro.yml')], env=env, start_new_session=True, stdout=out, stderr=subprocess.STDOUT)

    def operations(self): return self.count.stat().st_size if self.count.exists() else 0

    def stage(self): return (re.findall(rf'^({"|".join(chosen())}) +(?:run|unchanged) ', self.out.read_text(), re.M) or ['start'])[-1]

    def files(self):
        "stage -> {file: hash} of the finished run. Raises `AssertionError` if a folder is not what its manifest says"
        found = {}
        for stage in chosen():
            folder = self.path / 'runs' / 'micro' / stage
            m = json.loads((folder / 'manifest.json').read_text())
            assert folder.resolve().name == f'{stage}-{m["key"]}'
            found[stage] = dict(key=m['key']) | {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in m['files']}
            assert all(found[stage][n] == f['sha256'] for n, f in m['files'].items()), f'{stage} is not what its manifest says'
        return found

    def unfinished(self): return [str(p.relative_to(self.path)) for p in (self.path / 'store').rglob('*') if p.name.endswith(('.partial', '.part', '.checkpoint'))]

    def work(self):
        "(optimiser steps, replies) that were finished, repeated ones included"
        lines = lambda pattern: sum(p.read_bytes().count(b'\n') for p in self.path.glob(pattern))
        return lines('store/*/.*.log'), lines('ledger/*.jsonl')


def kill(runner, choose):
    "Kill something of a living run: what `choose` takes from the list of what there is; gives what it was"
    try: below = psutil.Process(runner.pid).children(recursive=True)
    except psutil.NoSuchProcess: below = []
    def named(word):
        found = []
        for p in below:
            try: found += [p] * (word in ' '.join(p.cmdline()))
            except psutil.NoSuchProcess: pass
        return found
    kinds = dict(runner=[runner.pid], all=[runner.pid, *(p.pid for p in below)]) | {k: [p.pid for p in named(w)] for k, w in dict(kernel='ipykernel_launcher', training='citrus_train').items() if named(w)}
    kind = choose(sorted(kinds))
    for pid in kinds[kind]:
        try: os.kill(pid, signal.SIGKILL)
        except ProcessLookupError: pass
    for p in [psutil.Process(runner.pid)] * psutil.pid_exists(runner.pid) + below:   # one of them may be stopped before its file operation
        try: p.resume()
        except psutil.NoSuchProcess: pass
    return kind


def attempt(here, moment, rng):
    "Start a run and kill it at a moment: ('time', seconds of all attempts) or ('operation', number), None for never. Whether it came to its end"
    what, when = moment or ('time', float('inf'))
    here.at = when if what == 'operation' else 0
    runner, began, struck = here.start(), time.time(), False
    while runner.poll() is None and not struck:
        time.sleep(0.02)
        stopped, now = here.path / 'count.stopped', here.wall + time.time() - began
        struck = stopped.exists() or what == 'time' and now >= when
        if struck:
            here.kills.append(f'{here.stage()}: {kill(runner, rng.choice)} at {stopped.read_text() if stopped.exists() else f"{now:.1f} s"}')
            runner.wait(120)
    here.wall += time.time() - began
    assert struck or runner.returncode == 0, f'{here.path}: ended by itself:\n{here.out.read_text()[-2000:]}'
    return runner.returncode == 0


def disturbed(path, kills, seconds, operations, rng):
    "A run killed `kills` times at most, at moments drawn from the seconds (None: not by the clock) and file operations that an undisturbed run takes"
    here = Home.new(path)
    kinds = lambda f: [('operation', 1 + int(f * operations))] + ([('time', f * seconds)] if seconds else [])
    moments = [rng.choice(kinds(f)) for f in sorted(rng.random() for _ in range(kills))]
    done = False
    while moments and not done:
        passed = lambda m: m[1] <= (here.wall if m[0] == 'time' else here.operations())
        moment = moments.pop(0)
        if not passed(moment): done = attempt(here, moment, rng)
    if not done: attempt(here, None, rng)
    return here


def compared(here, reference):
    "'identical', or the files that differ or should not be there"
    want, got = reference.files(), here.files()
    return ', '.join([f'{s}/{n}' for s in want for n in sorted(want[s].keys() | got[s].keys()) if want[s].get(n) != got[s].get(n)] + here.unfinished()) or 'identical'


def chaos(folder, runs, kills, seed, jobs):
    "Print what became of each run; whether all ended identically with at most 1.05 times the work"
    os.environ['GIT_DIR'] = os.devnull   # figures are stamped with the commit, and somebody may commit meanwhile
    if jobs > 1: os.environ['OMP_NUM_THREADS'] = '1'
    reference = Home.new(folder / 'undisturbed')
    attempt(reference, None, None)
    units, total, verdicts, struck = reference.work(), [0, 0], [], 0
    print(f'undisturbed: {units[0]} steps, {units[1]} replies, {reference.operations()} file operations, {reference.wall:.0f} s\n', flush=True)

    def one(i):
        rng = random.Random(f'{seed}-{i}')
        return disturbed(folder / f'run{i + 1}', rng.randint(1, kills), reference.wall, reference.operations(), rng)
    with ThreadPoolExecutor(jobs) as pool:
        for i, here in enumerate(pool.map(one, range(runs))):
            verdict, work = compared(here, reference), here.work()
            print(f'run {i + 1:2}  {verdict}  steps {work[0] / units[0]:.3f}  replies {work[1] / units[1]:.3f}  {here.wall:.0f} s', *here.kills, sep='\n        ', flush=True)
            verdicts, total, struck = verdicts + [verdict], [a + b for a, b in zip(total, work)], struck + len(here.kills)
            if verdict == 'identical': shutil.rmtree(here.path)
    ratios = [t / runs / u for t, u in zip(total, units)]
    print(f'\n{runs} runs, {struck} kills: {verdicts.count("identical")} identical; steps {ratios[0]:.3f}, replies {ratios[1]:.3f} times those of the undisturbed run')
    return set(verdicts) == {'identical'} and max(ratios) <= 1.05


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for name, default, meaning in (('runs', 20, 'disturbed runs'), ('kills', 5, 'most kills of a run'), ('seed', 0, 'of the moments and of what is killed'), ('jobs', 1, 'runs at a time')):
        p.add_argument(f'--{name}', type=int, default=default, help=meaning)
    p.add_argument('--folder', help='where the homes are made (default: a temporary folder); those of runs that differ are kept')
    a = p.parse_args()
    sys.exit(not chaos(Path(a.folder or tempfile.mkdtemp(prefix='chaos-')).resolve(), a.runs, a.kills, a.seed, a.jobs))
