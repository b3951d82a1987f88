"""One GPU without network in a few minutes: what it trains, samples and evaluates in a second, and whether it computes
what a processor does.

`python tests/tools/gpu_check.py` reads `gpu_parts/` and writes `gpu_check.csv` (a row a measurement), `.json`, `.png`
and `.log` to `$OUT` or `gpu_check/`. Without a GPU it does a small form of all of it."""
import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections import namedtuple
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gpu_parts

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 'what', 'model', 'value', 'unit', 'n'
VERSIONS = 'torch transformers accelerate trl peft datasets numpy fastcore huggingface_hub tokenizers'.split()
SETTINGS = dict(
    HF_HUB_OFFLINE='1', HF_HUB_DISABLE_TELEMETRY='1', HF_HUB_DISABLE_PROGRESS_BARS='1', TOKENIZERS_PARALLELISM='false')

Row = namedtuple('Row', COLUMNS)


class CheckFailed(Exception):
    "A measurement that is not what it must be"


# --- what is written down -------------------------------------------------------------------------------------------

@dataclass
class Check:
    "A check under way; everything is on the disk after every measurement"
    out: Path              # where the results go
    work: Path             # where models and data lie
    size: str              # 'full' or 'small'
    commit: str
    began: float = field(default_factory=time.time)
    rows: list = field(default_factory=list)      # of `Row`
    parts: dict = field(default_factory=dict)     # name -> {seconds, fault}
    values: dict = field(default_factory=dict)    # what later parts need: the peak, folders
    about: dict = field(default_factory=dict)     # device and versions

    @property
    def data(self) -> Path: return self.work / 'bundle' / 'data'
    @property
    def elapsed(self) -> float: return time.time() - self.began


def tell(check: Check, text: str):
    "A line on the screen and in the log"
    line = f'{check.elapsed:6.1f} s  {text}'
    print(line, flush=True)
    with open(check.out / 'gpu_check.log', 'a', encoding='utf-8') as f: f.write(line + '\n')


def write_csv(path: Path, rows: list):
    "All measurements so far"
    with open(path, 'w', encoding='utf-8', newline='') as f:
        table = csv.writer(f, lineterminator='\n')
        table.writerow(COLUMNS)
        table.writerows(rows)


def write_manifest(check: Check):
    "What was run where, with the seconds of each part"
    head = dict(size=check.size, commit=check.commit, code=code_digest(), seconds=round(check.elapsed, 1))
    text = json.dumps(head | check.about | dict(parts=check.parts, measurements=len(check.rows)), indent=1)
    (check.out / 'gpu_check.json').write_text(text + '\n')


def record(check: Check, row: Row):
    "Keep a measurement"
    check.rows.append(row)
    write_csv(check.out / 'gpu_check.csv', check.rows)
    tell(check, f'{row.what}, {row.model}: {row.value:.6g} {row.unit} (n = {row.n})')


# --- where it runs --------------------------------------------------------------------------------------------------

def answer_of(*command: str) -> str:   # '' if there is no such command
    "What a command prints"
    try: return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired): return ''


def code_digest() -> str:
    "Digest of the library's code, whatever was committed"
    total = hashlib.sha256()
    for path in sorted((ROOT / 'citrus').rglob('*.py')): total.update(path.read_bytes())
    return total.hexdigest()[:16]


def version_of(package: str) -> str:
    "Version of a package, '' if it is not there"
    try: return version(package)
    except PackageNotFoundError: return ''


def about_device() -> dict:
    "Device, driver and versions"
    import torch
    cuda = torch.cuda.is_available()
    driver = answer_of('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader')
    return dict(
        device=torch.cuda.get_device_name() if cuda else f'processor {platform.machine()}',
        memory=torch.cuda.get_device_properties(0).total_memory if cuda else None,
        driver=driver,
        cuda=torch.version.cuda if cuda else None,
        python=platform.python_version(),
        threads=torch.get_num_threads(),
        versions={p: version_of(p) for p in VERSIONS},
    )


# --- parts of the check: each gives rows, and raises if something is not as it must be ------------------------------

def set_up(check: Check):
    "The student from its pinned package"
    from citrus.train.memory import weight_count
    import gpu_work as w
    check.values['student'] = w.student(check.work / 'student', check.size)
    yield Row('weights', 'student', weight_count(w.shape_in(check.values['student'])), 'weights', 1)


def measure_peak(check: Check):
    "Operations a second of a large matrix product in bfloat16"
    import torch
    from gpu_work import DEVICE, SIZES
    side = SIZES[check.size].product
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    n = 50 if DEVICE == 'cuda' else 3
    for _ in range(3): c = a @ b
    c[0, 0].item()   # waits for the device
    since = time.perf_counter()
    for _ in range(n): c = a @ b
    c[0, 0].item()
    check.values['peak'] = 2 * side**3 * n / (time.perf_counter() - since)
    yield Row(f'matrix product {side}', 'bfloat16', check.values['peak'], 'operations a second', n)


def parity(check: Check, kind: str):   # kind: a format of torch
    """Losses beside those that came with the parts, in bfloat16 of the first step.
    Raises `CheckFailed` if they differ"""
    import torch
    import gpu_work as w
    theirs = json.loads((check.work / 'bundle' / 'cpu.json').read_text())[check.size]
    ours = w.parity_values(check.values['student'], check.data, check.work, getattr(torch, kind))
    gaps = {name: w.largest_gap(ours[name], theirs[name]) for name in theirs}
    judged = gaps
    if kind == 'bfloat16':
        for name, gap in gaps.items(): yield Row(f'rounding {name}', kind, gap, 'largest difference', len(theirs[name]))
        judged = {name: w.largest_gap(ours[name][:1], theirs[name][:1]) for name in w.FIRST}
    for name, gap in judged.items():
        n = 1 if kind == 'bfloat16' else len(theirs[name])
        yield Row(f'parity {name}', kind, gap, 'largest difference', n)
    apart = [name for name, gap in judged.items() if not gap <= w.TOLERANCE]
    if apart: raise CheckFailed(f'losses of {", ".join(apart)} differ by more than {w.TOLERANCE} in {kind}')


def peak_bytes() -> int:
    "Most memory of the device at a time; without one, of the process"
    import resource
    import torch
    if torch.cuda.is_available(): return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def course_of(check: Check, model: str, kind: str):   # `Course`
    "How far a training goes"
    import gpu_work as w
    s = w.SIZES[check.size]
    steps = s.steps if model == 'student' else s.big_steps
    length = s.length if kind != 'prefer' else min(s.length, 1024)
    return w.Course(steps, s.batch, s.micro, length)


def step_of(check: Check, model: str, kind: str):   # `citrus.train.memory.Step`
    "What a training's step is by the arithmetic"
    from citrus.train.memory import settled, device_bytes, Step
    import gpu_work as w
    c = course_of(check, model, kind)
    columns, answers = w.longest_pair(check.values[model], check.data, c)
    fields = dict(
        pretrain=dict(tokens=c.micro * c.length, scored=c.micro * c.length),
        sft=dict(tokens=c.length, scored=c.length, chunked=True, masked=1),
        prefer=dict(tokens=c.micro * columns, scored=c.micro * answers, chunked=True, masked=c.micro, reused=True),
    )
    return settled(Step(w.shape_in(check.values[model]), **fields[kind]), device_bytes())


def train(check: Check, model: str, kind: str):
    "Speed, share of the peak and memory of a training"
    import torch
    from citrus.train.memory import memory, token_flops
    import gpu_work as w
    w.let_go()
    if w.DEVICE == 'cuda': torch.cuda.reset_peak_memory_stats()
    out = check.work / f'{model}-{kind}'
    c = course_of(check, model, kind)
    tokens = w.TRAININGS[kind](out, check.values[model], check.data, c)
    steps = w.logged(out)
    rate, n = w.speed(out, tokens)
    if not n: raise CheckFailed(f'{kind} took {len(steps)} step: too few for a speed')
    w.throw_away(out)
    step = step_of(check, model, kind)
    yield Row(f'{kind} tokens', model, tokens[-1], 'tokens', len(steps))
    yield Row(f'{kind} first loss', model, steps[0]['loss'], 'as logged', 1)
    yield Row(f'{kind} last loss', model, steps[-1]['loss'], 'as logged', 1)
    yield Row(f'{kind} speed', model, rate, 'tokens a second', n)
    if 'peak' in check.values:
        share = rate * token_flops(step.shape, c.length) / check.values['peak']
        yield Row(f'{kind} share of the peak', model, share, 'of the matrix product', n)
    yield Row(f'{kind} memory', model, peak_bytes(), 'bytes', len(steps))
    yield Row(f'{kind} memory by arithmetic', model, memory(step)['total'], 'bytes, at most', 1)
    yield Row(f'{kind} checkpointing', model, int(step.recompute), '1 if activations are made twice', 1)


def questions_of(check: Check) -> list:   # `question` records
    "The questions of a size"
    from citrus.core.records import read_jsonl
    from gpu_work import SIZES
    return read_jsonl(check.data / 'questions.jsonl', 'question')[:SIZES[check.size].questions]


def sample(check: Check, model: str, temperatures: list):
    "Tokens a second of replies at several temperatures, then in larger batches"
    from citrus.llm.door import chat
    from citrus.llm.models import local_model, Sampling
    from citrus.llm.prompt import ask
    import gpu_work as w
    w.let_go()
    prompts = [ask(q, 'options') for q in questions_of(check)[:128]]
    tokens = w.SIZES[check.size].max_tokens
    for batch, temperature in [*((64, t) for t in temperatures), (128, temperatures[-1])]:
        teller = local_model(model, check.values[model], batch=batch, positions=batch * 2048)
        chat(prompts[:2], teller, Sampling(max_tokens=2, seed=batch))   # loads the model
        since = time.perf_counter()
        replies = [r for each in chat(prompts, teller, Sampling(temperature, 1.0, tokens, seed=batch)) for r in each]
        rate = sum(r.tokens for r in replies) / (time.perf_counter() - since)
        what = f'sampling at temperature {temperature}, batches of {batch}'
        yield Row(what, model, rate, 'tokens a second', len(replies))
        ended = sum(r.finish == 'stop' for r in replies) / len(replies)
        yield Row(f'{what}: ended', model, ended, 'share', len(replies))


def evaluate_likelihood(check: Check):
    "Questions a second by likelihood, and how many are right"
    from citrus.eval.likelihood import choice, likelihood
    from citrus.llm.models import local_model
    import gpu_work as w
    w.let_go()
    qs = questions_of(check)
    asked = w.prompts_of(qs)
    model = local_model('student', check.values['student'])
    likelihood(asked[:1], model)   # loads the model
    since = time.perf_counter()
    scores = likelihood(asked, model)
    rate = (len(qs) - 1) / (time.perf_counter() - since)
    right = [q['options'][choice(s, cs)]['label'] == q['answer'] for q, s, (_, cs) in zip(qs, scores, asked)]
    yield Row('likelihood speed', 'student', rate, 'questions a second', len(qs) - 1)
    yield Row('likelihood accuracy', 'student', sum(right) / len(qs), 'share', len(qs))


def evaluate_generation(check: Check):
    "Questions a second by generation, and how many are right"
    from citrus.evaluate import answer, score_replies, score_row
    from citrus.eval.benchmarks import Benchmark, validate_benchmark
    from citrus.llm.models import local_model
    import pandas as pd
    import gpu_work as w
    w.let_go()
    qs = questions_of(check)
    exam = validate_benchmark(Benchmark('medqa', 'options', qs, w.SIZES[check.size].max_tokens))
    since = time.perf_counter()
    rows = answer([local_model('student', check.values['student'])], [exam], seed=1)
    rate = len(qs) / (time.perf_counter() - since)
    scores = score_row(pd.DataFrame(score_replies(rows, [exam])))
    yield Row('generation speed', 'student', rate, 'questions a second', len(qs))
    for name in ('accuracy', 'low', 'high'): yield Row(f'generation {name}', 'student', scores[name], 'share', len(qs))
    yield Row('generation unreadable', 'student', scores['abstained'] / len(qs), 'share', len(qs))


def make_big(check: Check):
    "A model of random weights in the proportions of 1.7 billion"
    from citrus.train.memory import weight_count
    import gpu_work as w
    shape = w.SIZES[check.size].big
    check.values['random'] = w.random_student(check.work / 'big', check.values['student'], shape)
    w.let_go()
    yield Row('weights', 'random', weight_count(shape), 'weights', 1)


PARTS = {
    'set-up': set_up,
    'peak': measure_peak,
    'float32': lambda check: parity(check, 'float32'),
    'bfloat16': lambda check: parity(check, 'bfloat16'),
    'pretrain': lambda check: train(check, 'student', 'pretrain'),
    'sft': lambda check: train(check, 'student', 'sft'),
    'prefer': lambda check: train(check, 'student', 'prefer'),
    'sampling': lambda check: sample(check, 'student', [0.0, 1.2, 0.7]),
    'likelihood': evaluate_likelihood,
    'generation': evaluate_generation,
    'random': make_big,
    'random pretrain': lambda check: train(check, 'random', 'pretrain'),
    'random sft': lambda check: train(check, 'random', 'sft'),
    'random prefer': lambda check: train(check, 'random', 'prefer'),
    'random sampling': lambda check: sample(check, 'random', [0.7]),
}


# --- the run --------------------------------------------------------------------------------------------------------

def fault_of(error: Exception) -> str:
    "An error in one line"
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:300]


def run_part(check: Check, name: str, part):
    "Run a part and keep what it measured, also if it fails"
    tell(check, f'--- {name}')
    since = time.time()
    fault = ''
    try:
        for row in part(check): record(check, row)
    except Exception as e:
        fault = fault_of(e)
        with open(check.out / 'gpu_check.log', 'a', encoding='utf-8') as f: traceback.print_exc(file=f)
        tell(check, f'{name} failed: {fault}')
    check.parts[name] = dict(seconds=round(time.time() - since, 2), fault=fault)
    write_manifest(check)


def run_parts(check: Check, parts: dict, budget: float) -> list:   # names of parts that failed or were left out
    "Run parts in their order until the seconds of the budget are spent"
    for name, part in parts.items():
        if check.elapsed < budget: run_part(check, name, part)
        else:
            check.parts[name] = dict(seconds=0.0, fault=f'left out: {budget:.0f} s are spent')
            tell(check, f'{name} {check.parts[name]["fault"]}')
    write_manifest(check)
    return [name for name in parts if check.parts[name]['fault']]


def draw(check: Check):
    "Speed of the trainings, and how far their losses are from a processor's"
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout='constrained')
    shares = {(r.what.split()[0], r.model): r.value for r in check.rows if r.what.endswith('share of the peak')}
    speeds = [r for r in check.rows if r.what in ('pretrain speed', 'sft speed', 'prefer speed')]
    for i, r in enumerate(speeds):
        left.plot(r.value, i, 'o', color='C0' if r.model == 'student' else 'C1')
        share = shares.get((r.what.split()[0], r.model))
        if share is not None: left.annotate(f' {share:.1%} of the peak', (r.value, i), va='center', fontsize=8)
    left.set(xscale='log', xlabel='tokens a second', yticks=range(len(speeds)), title=check.about.get('device', ''))
    left.set_yticklabels([f'{r.what.split()[0]}, {r.model} (n = {r.n})' for r in speeds])
    left.invert_yaxis()
    if speeds: left.set_xlim(right=30 * max(r.value for r in speeds))   # room for the words
    gaps = [r for r in check.rows if r.what.startswith('parity')]
    for i, r in enumerate(gaps): right.plot(max(r.value, 1e-8), i, 'o', color='C0' if r.model == 'float32' else 'C1')
    right.axvline(1e-2, ls=':', color='0.4')
    right.set(xscale='log', yticks=range(len(gaps)), xlabel='difference of losses (dotted: allowed)')
    right.set_yticklabels([f'{r.what.removeprefix("parity ")}, {r.model} (n = {r.n})' for r in gaps])
    right.invert_yaxis()
    fig.savefig(check.out / 'gpu_check.png', dpi=120)


def arguments():
    "The command line"
    parser = argparse.ArgumentParser(description='Train, sample, evaluate and compare on one GPU')
    parser.add_argument('--parts', type=Path, default=gpu_parts.FOLDER, help='folder of the parts')
    parser.add_argument('--only', default=','.join(PARTS), help='parts of the check, with commas between them')
    parser.add_argument('--budget', type=float, default=340, help='seconds after which no part of the check begins')
    parser.add_argument('--small', action='store_true', help='two layers and few steps; without a GPU always')
    parser.add_argument('--commit', default='', help='what the manifest calls the code, where git would not know')
    return parser.parse_args()


def need_parts(names: list) -> dict:   # name -> part, the set-up among them
    "Parts of the check by their names. Ends in one line for a name that does not exist"
    unknown = [name for name in names if name not in PARTS]
    if unknown: sys.exit(f'gpu_check: no part is called {unknown[0]!r}; there are {", ".join(PARTS)}')
    return {name: part for name, part in PARTS.items() if name in names or name == 'set-up'}


def open_bundle(check: Check, folder: Path):
    "Unpack the parts; what this Python lacks is imported from their wheels"
    import zipfile
    bundle = gpu_parts.unpack(folder, check.work / 'bundle')
    for path in sorted((bundle / 'wheels').glob('*.whl')):
        with zipfile.ZipFile(path) as archive: archive.extractall(check.work / 'site')
    sys.path.append(str(check.work / 'site'))   # last: what is installed goes first
    os.environ.update(SETTINGS, CITRUS_HOME=str(bundle))


def main() -> int:
    "The whole check"
    args = arguments()
    parts = need_parts(args.only.split(','))
    out = Path(os.environ.get('OUT') or ROOT / 'gpu_check')
    out.mkdir(parents=True, exist_ok=True)
    (out / 'gpu_check.log').unlink(missing_ok=True)
    commit = args.commit or answer_of('git', 'rev-parse', 'HEAD')
    with tempfile.TemporaryDirectory(prefix='gpu-check-') as work:
        check = Check(out, Path(work), 'small' if args.small else 'full', commit)
        try: open_bundle(check, args.parts)
        except gpu_parts.PartsError as e: sys.exit(f'gpu_check: {e}')
        sys.path.insert(0, str(ROOT))
        from gpu_work import DEVICE
        if DEVICE == 'cpu': check.size = 'small'
        check.about = about_device()
        tell(check, f'{check.about["device"]}, size {check.size}, commit {commit[:12]}, code {code_digest()}')
        faults = run_parts(check, parts, args.budget)
        draw(check)
    tell(check, f'{len(check.rows)} measurements; failed or left out: {", ".join(faults) or "nothing"}')
    return 1 if faults else 0


if __name__ == '__main__': sys.exit(main())
