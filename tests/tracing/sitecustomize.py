"""Notes which functions of citrus run while a stage runs: a line `stage module function` in the file CITRUS_TRACE.

Python imports this when it starts, if the folder is on its path; kernels and launched processes inherit both."""
import os
import sys
import threading

BOOKS = {'stage', 'finish', 'save_fig', 'notebook_path', 'unrepeatable', 'code_behind', 'show_life', 'begin_tracking', 'end_tracking', 'tracked_steps', 'step_values'}   # see `core.ingredients.BOOKKEEPING`
HOUSE = os.path.abspath(f'{__file__}/../../../citrus') + os.sep
LAUNCHED = sys.argv[0].endswith('citrus_train')
RUNNER = any(a.endswith('citrus_run') for a in sys.orig_argv[:2])   # runs no stage itself, and reads the whole library
seen, stage_name = {}, 'launched' if LAUNCHED else ''
busy = set()   # threads that are in the bookkeeping, or load a module: what they call is not of the stage


def resumed(frame, event, arg):
    "Note when the bookkeeping is left"
    if event == 'return': busy.discard(threading.get_ident())
    return resumed


def called(frame, event, arg):
    global stage_name
    code = frame.f_code
    if id(code) in seen or threading.get_ident() in busy: return   # `seen` holds the code: its id is not given again
    ours = code.co_filename.startswith(HOUSE)
    if ours and (code.co_name in BOOKS or code.co_name == '<module>'):
        if code.co_name == 'stage' and code.co_filename == f'{HOUSE}core/store.py': stage_name = frame.f_locals['name']
        busy.add(threading.get_ident())
        return resumed
    if not ours and '/ipykernel_' not in code.co_filename or code.co_name.startswith('<'):
        seen[id(code)] = code
        return
    if not stage_name: return
    seen[id(code)] = code
    module = code.co_filename.removeprefix(HOUSE)[:-3].replace(os.sep, '.') if ours else 'notebook'
    with open(os.environ['CITRUS_TRACE'], 'a') as f: f.write(f'{stage_name} {module} {code.co_qualname}\n')


if os.environ.get('CITRUS_TRACE') and not RUNNER:
    threading.settrace(called)
    sys.settrace(called)
