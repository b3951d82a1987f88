"""Notes which functions of citrus run while a stage runs: a line `stage module function` in the file CITRUS_TRACE.

Python imports this when it starts, if the folder is on its path; kernels and launched processes inherit both."""
import os
import sys
import threading

BOOKS = {'stage', 'finish', 'save_fig', 'notebook_path', 'unrepeatable', 'code_behind', 'show_life'}   # see `run.BOOKKEEPING`
seen, stage_name = {}, 'launched' if sys.argv[0].endswith('citrus_train') else ''


def ours(code): return '/citrus/' in code.co_filename or '/ipykernel_' in code.co_filename


def ignored(frame):
    "Whether a call was made by the bookkeeping, or while a module is loaded"
    while frame:
        code = frame.f_code
        if '/citrus/' in code.co_filename and (code.co_name in BOOKS or code.co_name == '<module>'): return True
        frame = frame.f_back
    return False


def called(frame, event, arg):
    global stage_name
    code = frame.f_code
    if id(code) in seen: return   # the hash of a code object is its content's: its id is found at once, while `seen` holds it
    if not ours(code) or code.co_name.startswith('<'):
        seen[id(code)] = code
        return
    if code.co_name == 'stage' and code.co_filename.endswith('/citrus/run.py'): stage_name = frame.f_locals['name']
    if not stage_name or ignored(frame): return
    seen[id(code)] = code
    module = os.path.basename(code.co_filename)[:-3] if '/citrus/' in code.co_filename else 'notebook'
    with open(os.environ['CITRUS_TRACE'], 'a') as f: f.write(f'{stage_name} {module} {code.co_qualname}\n')


RUNNER = any(a.endswith('citrus_run') for a in sys.orig_argv[:2])   # runs no stage itself, and reads the whole library: not worth the wait
if os.environ.get('CITRUS_TRACE') and not RUNNER:
    threading.settrace(called)
    sys.settrace(called)
