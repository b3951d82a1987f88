"pyflakes over the library and the tests. An import that nothing uses is kept if a comment beside it says why"
import ast
import sys
from pathlib import Path

from pyflakes.checker import Checker
from pyflakes.messages import UnusedImport

ROOT = Path(__file__).resolve().parents[2]


def faults(path):
    "What pyflakes says of a file"
    text = path.read_text(encoding='utf-8')
    lines = text.split('\n')
    try: tree = ast.parse(text)
    except SyntaxError as e:
        yield f'{path.relative_to(ROOT)}:{e.lineno}: {e.msg}'
        return
    for m in Checker(tree, str(path.relative_to(ROOT))).messages:
        if not (isinstance(m, UnusedImport) and '#' in lines[m.lineno - 1]): yield m


if __name__ == '__main__':
    files = sorted(p for folder in ('citrus', 'tests') for p in (ROOT / folder).rglob('*.py'))
    found = [m for path in files for m in faults(path)]
    if found: print(*found, sep='\n')
    sys.exit(f'{len(found)} faults in {len(files)} files' if found else 0)
