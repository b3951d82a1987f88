"""First on the path of the processes that chaos.py starts: counts their file operations in CITRUS_HOME, and stops the process before the
one whose number is CHAOS_AT, so that something can be killed at exactly that moment. The executed notebook, written after every cell, and the
ledger, after every reply, are left out: they would be nine of ten, and kills by the clock find them often enough."""
import os
import signal
import sys
import threading

AT, COUNT, HOME = int(os.environ['CHAOS_AT']), os.environ['CHAOS_COUNT'], os.environ['CITRUS_HOME']
WRITES = os.O_WRONLY | os.O_RDWR
CHANGES = {'os.rename', 'os.remove', 'os.rmdir', 'os.symlink', 'os.link', 'os.truncate', 'shutil.rmtree', 'shutil.copyfile'}
busy = threading.local()


def count(event, args):
    if getattr(busy, 'now', False) or not (event in CHANGES or event == 'open' and isinstance(args[2], int) and args[2] & WRITES): return
    path = args[1] if event == 'shutil.copyfile' else args[0]
    if not isinstance(path, (str, bytes, os.PathLike)) or not (name := os.fsdecode(path)).startswith(HOME) or 'notebook.ipynb' in name or '/ledger' in name: return
    busy.now = True
    try:
        fd = os.open(COUNT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b'.')
        n = os.lseek(fd, 0, os.SEEK_CUR)
        os.close(fd)
        if n == AT:
            with open(f'{COUNT}.stopped', 'w') as f: f.write(f'{event.removeprefix("os.")} {name[len(HOME):].rpartition("/")[2]}')
            os.kill(os.getpid(), signal.SIGSTOP)
    finally: busy.now = False


sys.addaudithook(count)
