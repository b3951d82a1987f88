"""lm-evaluation-harness beside citrus.eval.likelihood on the same weights and prompts, question by question.

python tests/lmeval.py FOLDER --task medmcqa --n 400 --dtype float32 [--texts] [--batch 16]

Both are warmed up, and only the time with the model counts (CPU seconds beside those of the clock): no loading, no building of requests.
--n 0 takes the whole task."""
import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from citrus.data.questions import BENCHMARKS
from citrus.eval.likelihood import candidates, choice, likelihoods, prompt

SUBJECTS = [k for k in BENCHMARKS if k.startswith('mmlu_')]
TASKS = dict(medqa=('medqa', ['medqa']), medmcqa=('medmcqa', ['medmcqa']), mmlu=('mmlu', SUBJECTS))


def clocks():
    "Seconds of the clock and of this process's CPUs"
    return np.array([time.time(), time.process_time()])


def questions(task, n=0):
    "The first n questions of a task, all if n is 0"
    return [q for k in TASKS[task][1] for q in BENCHMARKS[k]()][:n or None]


def config(task, style, rows):
    "A task of the harness over a local file. Letters of MedMCQA and MMLU use the harness's own files, with its wording; the rest is spelt out here"
    import lm_eval.tasks
    here = Path(lm_eval.tasks.__file__).parent
    own = dict(medmcqa=here / 'medmcqa' / 'medmcqa.yaml', mmlu=here / 'mmlu' / 'default' / '_default_template_yaml').get(task)
    local = dict(task='citrus_peer', dataset_path='json', dataset_kwargs=dict(data_files=dict(test=str(rows))), test_split='test', validation_split=None, training_split=None, num_fewshot=0)
    metrics = dict(output_type='multiple_choice', metric_list=[dict(metric=m, aggregation='mean', higher_is_better=True) for m in ('acc', 'acc_norm')])
    if own and style == task: return dict(include=str(own)) | local | metrics | dict(fewshot_split=None)
    return local | metrics | dict(doc_to_text='{{asked}}', doc_to_target='label', doc_to_choice='{{said}}')


def row(q, style):
    "A question with the fields that the harness's tasks read"
    label = [o['label'] for o in q['options']].index(q['answer'])
    texts = [o['text'] for o in q['options']]
    return dict(id=q['id'], question=q['stem'], choices=texts, answer=label, cop=label, label=label, asked=prompt(q, style), said=[c[1:] for c in candidates(q, style)]) \
        | {f'op{l}': t for l, t in zip('abcd', texts)}


def theirs(folder, qs, task, style, dtype, batch):
    "Scores of every option by the harness, and the seconds (of the clock, of the CPU) its requests took"
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    with tempfile.TemporaryDirectory() as d:
        (Path(d) / 'rows.jsonl').write_text(''.join(json.dumps(row(q, style)) + '\n' for q in qs))
        (Path(d) / 'peer.yaml').write_text(yaml.safe_dump(config(task, style, Path(d) / 'rows.jsonl')))
        lm, took = HFLM(pretrained=str(folder), dtype=dtype, device='cpu', batch_size=batch), []
        inner = lm._loglikelihood_tokens
        lm._model_call(torch.ones(batch, 64, dtype=torch.long))
        def timed(*a, **k):
            began = clocks()
            out = inner(*a, **k)
            took.append(clocks() - began)
            return out
        lm._loglikelihood_tokens = timed   # model time only: neither loading nor building of requests is counted
        found = simple_evaluate(model=lm, tasks=['citrus_peer'], task_manager=TaskManager(include_path=d), bootstrap_iters=0, log_samples=True)
    samples = sorted(found['samples']['citrus_peer'], key=lambda s: s['doc_id'])
    metrics = {k: float(v) for k, v in found['results']['citrus_peer'].items() if k.startswith('acc') and 'stderr' not in k}
    return [[float(r[0][0]) for r in s['resps']] for s in samples], metrics, sum(took)


def ours(folder, qs, style, dtype, positions=1024):
    "The same by citrus"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval(), AutoTokenizer.from_pretrained(folder)
    asked = [(prompt(q, style), candidates(q, style)) for q in qs]
    list(likelihoods(lm, tokenizer, asked[:8], positions=positions))
    began = clocks()
    found = dict(likelihoods(lm, tokenizer, asked, positions=positions))
    return [found[i] for i in range(len(qs))], clocks() - began


def compare(folder, task, n=0, texts=False, dtype='float32', batch=16, positions=1024):
    "Both, side by side"
    style, qs = 'cloze' if texts else TASKS[task][0], questions(task, n)
    a, seconds_ours = ours(folder, qs, style, dtype, positions)
    b, metrics, seconds_theirs = theirs(folder, qs, task, style, dtype, batch)
    said = [candidates(q, style) for q in qs]
    gold = [[o['label'] for o in q['options']].index(q['answer']) for q in qs]
    pick = lambda scores, way: [choice(s, c, way) for s, c in zip(scores, said)]
    acc = {way: float(np.mean([p == g for p, g in zip(pick(a, by), gold)])) for way, by in dict(acc=False, acc_norm=True).items()}
    return dict(task=task, style=style, n=len(qs), dtype=dtype, largest_gap=max(abs(x - y) for s, t in zip(a, b) for x, y in zip(s, t)),
                same_choice=sum(x == y for x, y in zip(pick(a, False), pick(b, False))), same_choice_norm=sum(x == y for x, y in zip(pick(a, True), pick(b, True))),
                ours=acc, theirs=metrics, seconds_ours=seconds_ours.round(1).tolist(), seconds_theirs=seconds_theirs.round(1).tolist(), questions_per_second=round(len(qs) / seconds_ours[0], 1), ratio=(seconds_theirs / seconds_ours).round(2).tolist())


if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('folder')
    p.add_argument('--task', choices=TASKS, default='medmcqa')
    p.add_argument('--n', type=int, default=0)
    p.add_argument('--texts', action='store_true')
    p.add_argument('--dtype', default='float32')
    p.add_argument('--batch', type=int, default=16)
    p.add_argument('--positions', type=int, default=1024)
    o = p.parse_args()
    print(json.dumps(compare(o.folder, o.task, o.n, o.texts, o.dtype, o.batch, o.positions)))
