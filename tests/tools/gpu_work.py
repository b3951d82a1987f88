"The work of the GPU check: its models, the three trainings, and the losses that two machines must share."
import contextlib
import gc
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from citrus.core.records import read_jsonl, write_jsonl
from citrus.eval.likelihood import candidates, likelihoods, prompt
from citrus.llm import local
from citrus.llm.saving import save_student
from citrus.llm.student import make_student, name_tokens
from citrus.prefer import train_preferred
from citrus.pretrain import pretrain
from citrus.sft import fine_tune
from citrus.train.checkpoints import companion
from citrus.train.encoding import encode_rows
from citrus.train.memory import shape_of, SHAPES, Shape
from citrus.train.preference import PairEncoder
from citrus.train.steps import load_student

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
TOLERANCE = 1e-2   # of a loss, relative where it is above 1
# Judged in bfloat16: losses a token of the first step. Adam makes whole steps of rounded gradients' signs, and the
# loss of a pair multiplies a rounding by beta
FIRST = 'pretrain', 'sft', 'prefer tokens'
NEVER = 1e9        # seconds between checkpoints


@dataclass(frozen=True)
class Size:
    "How much of everything"
    layers: int         # of the student; 0 keeps all
    big: Shape          # of the random model
    steps: int          # of the student's trainings
    big_steps: int      # of the random model's
    batch: int          # sequences or pairs in a step
    micro: int          # of these, in a forward pass
    length: int         # tokens in a sequence
    questions: int
    max_tokens: int     # of a reply
    product: int        # side of the matrices that the peak is measured with


BIG = SHAPES['HuggingFaceTB/SmolLM2-1.7B-Instruct']
SIZES = dict(
    full=Size(0, BIG, 50, 10, 16, 8, 2048, 200, 96, 8192),
    small=Size(2, Shape(128, 2, 2, 2, 64, 512, 49152, tied=True), 4, 2, 2, 1, 256, 8, 8, 1024),
)


# --- models ---------------------------------------------------------------------------------------------------------

def first_layers(base: Path, folder: Path, n: int) -> Path:
    "A student cut to its first layers"
    model = load_student(base)
    model.model.layers = model.model.layers[:n]
    model.config.num_hidden_layers = n
    save_student(model, AutoTokenizer.from_pretrained(base), folder)
    return folder


def student(folder: Path, size: str) -> Path:
    "The student of a size, made from its pinned package"
    base = make_student('smollm2', '', 0, folder.with_name('whole'))
    layers = SIZES[size].layers
    return first_layers(base, folder, layers) if layers else base


def random_student(folder: Path, base: Path, shape: Shape) -> Path:
    "A model of random weights with the tokenizer of another"
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.mlp, head_dim=shape.head,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192, tie_word_embeddings=shape.tied)
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    with torch.device(DEVICE): model = LlamaForCausalLM(config)
    save_student(name_tokens(model, tokenizer), tokenizer, folder)
    return folder


def shape_in(folder: Path) -> Shape:
    "The shape of a model folder"
    return shape_of(AutoConfig.from_pretrained(folder))


# --- number formats -------------------------------------------------------------------------------------------------

def let_go():
    "Free the device of what earlier work left"
    local._loaded.clear()
    AcceleratorState._reset_state(reset_partial_state=True)
    gc.collect()
    if DEVICE == 'cuda': torch.cuda.empty_cache()


@contextlib.contextmanager
def computing(kind):   # kind: torch.float32 or torch.bfloat16
    "Let the library compute in a number format, whatever the device would choose"
    users = [m for name, m in sys.modules.items() if name.startswith('citrus.') and hasattr(m, 'compute_dtype')]
    let_go()
    with contextlib.ExitStack() as stack:
        for m in users: stack.enter_context(patch.object(m, 'compute_dtype', lambda device=None: kind))
        yield
    let_go()


# --- the three trainings --------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Course:
    "How far a training goes"
    steps: int
    batch: int
    micro: int
    length: int
    rate: float = 1e-4  # learning rate; of preference training a hundredth
    rule: str = 'odm'   # by which pre-training draws its arms


def run_pretrain(out: Path, base: Path, data: Path, c: Course) -> list:   # tokens read after each step
    "Continued pre-training on the arms"
    arms = {p.stem: str(p) for p in sorted((data / 'arms').glob('*.jsonl'))}
    pretrain(
        str(out), str(base), arms, steps=c.steps, global_batch=c.batch, micro_batch=c.micro, length=c.length,
        learning_rate=c.rate, weight_decay=0.1, checkpoint_seconds=NEVER, report_to='none', seed=0, epochs=0.0, lost_steps=0,
        rule=c.rule)
    return [(i + 1) * c.batch * c.length for i in range(c.steps)]


def run_sft(out: Path, base: Path, data: Path, c: Course) -> list:
    "Fine-tuning on packed rows"
    rows = data / 'rows.jsonl'
    encoded, _ = encode_rows(read_jsonl(rows, 'sft'), AutoTokenizer.from_pretrained(base), c.length)
    epochs = c.steps * c.batch * c.length / sum(len(row['input_ids']) for row in encoded)
    fine_tune(
        str(out), str(base), str(rows), checkpoint_seconds=NEVER, report_to='none', lora_rank=0, length=c.length, global_batch=c.batch,
        micro_batch=c.micro, epochs=epochs, learning_rate=c.rate, weight_decay=0.1, beta2=0.95, clip=1.0, seed=0)
    return [int(row['tokens']) for row in read_jsonl(f'{out}.history.jsonl')]


def usable(pairs: list, base: Path, length: int) -> list:   # as `encode_pair` gives them
    "The pairs that can be used"
    encode = PairEncoder(AutoTokenizer.from_pretrained(base), length).encode
    return [encoded for encoded, why in map(encode, pairs) if not why]


def run_prefer(out: Path, base: Path, data: Path, c: Course) -> list:
    "Preference training on pairs"
    rows = read_jsonl(data / 'pairs.jsonl', 'pair')
    train_preferred(
        str(out), str(base), str(data / 'pairs.jsonl'), beta=10.0, gamma=5.4, alpha=0.05, learning_rate=c.rate / 100,
        global_batch=c.batch, epochs=c.steps * c.batch / len(rows), checkpoint_seconds=NEVER, report_to='none', seed=0,
        length=c.length, micro_batch=c.micro, lora_rank=0)
    encoded = usable(rows, base, c.length)
    each = sum(len(tokens) for e in encoded for tokens in e.values()) / len(encoded)
    return [round((i + 1) * c.batch * each) for i in range(len(logged(out)))]


def longest_pair(base: Path, data: Path, c: Course) -> tuple:   # (columns, of these answers)
    "What the longest of the pairs fills"
    encoded = usable(read_jsonl(data / 'pairs.jsonl', 'pair'), base, c.length)
    answers = [len(e['chosen']) + len(e['rejected']) for e in encoded]
    return max(len(e['prompt']) + n - 2 for e, n in zip(encoded, answers)), max(answers)


TRAININGS = dict(pretrain=run_pretrain, sft=run_sft, prefer=run_prefer)


def logged(out: Path) -> list:   # rows of step, loss, time (seconds)
    "What a training noted of its steps"
    return [json.loads(line) for line in companion(out, 'log').read_text().splitlines()]


def speed(out: Path, tokens: list) -> tuple:   # tokens: read after each step; (tokens a second, steps they stand on)
    "Tokens a second between two steps; the first ones, a tenth and at least one, only warm up"
    times = [row['time'] for row in logged(out)]
    warm = max(1, len(times) // 10) - 1
    seconds = max(times[-1] - times[warm], 0.01)   # the log has hundredths
    return (tokens[-1] - tokens[warm]) / seconds, len(times) - 1 - warm


# --- parity ---------------------------------------------------------------------------------------------------------

# The arms' draws must not hang on a rounding
PARITY = Course(steps=3, batch=2, micro=1, length=256, rate=2e-5, rule='uniform')


def few(data: Path, folder: Path) -> Path:
    "The data of the parity check: the same arms, the first rows, pairs and questions"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / 'arms').exists(): (folder / 'arms').symlink_to((data / 'arms').resolve())
    for name, record, n in (('rows', 'sft', 40), ('pairs', 'pair', PARITY.steps * PARITY.batch)):
        write_jsonl(folder / f'{name}.jsonl', read_jsonl(data / f'{name}.jsonl', record)[:n], record)
    return folder


def prompts_of(questions: list) -> list:   # (prompt, candidates)
    "Questions as likelihoods are asked"
    return [(prompt(q, 'medqa'), candidates(q, 'medqa')) for q in questions]


def some_scores(base: Path, data: Path, n: int = 8) -> list:   # log-probabilities of the candidates, in their order
    "Scores of the first questions"
    asked = prompts_of(read_jsonl(data / 'questions.jsonl', 'question')[:n])
    scores = dict(likelihoods(*local.load_local(str(base), ''), asked))
    return [x for i in range(len(asked)) for x in scores[i]]


def parity_values(base: Path, data: Path, work: Path, kind) -> dict:   # name -> numbers
    "Losses of the first steps of each training, and scores of likelihoods, in a number format"
    part = few(data, work / 'few')
    values = {}
    with computing(kind):
        for name, run in TRAININGS.items():
            out = work / f'parity-{name}-{base.name}'
            run(out, base, part, PARITY)
            values[name] = [row['loss'] for row in logged(out)]
            if name == 'prefer': values['prefer tokens'] = [row['nll'] for row in read_jsonl(f'{out}.history.jsonl')]
            throw_away(out)
        values['likelihood'] = some_scores(base, data)
    return values


def throw_away(out: Path):
    "Remove a trained model with what lies beside it"
    shutil.rmtree(out, ignore_errors=True)
    Path(f'{out}.history.jsonl').unlink(missing_ok=True)
    companion(out, 'log').unlink(missing_ok=True)


def largest_gap(ours: list, theirs: list) -> float:
    "Largest difference of two lists of losses, relative where a loss is above 1; infinite if one is shorter"
    if len(ours) != len(theirs) or not ours: return float('inf')
    gaps = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(ours, theirs)]
    return max(g if g == g else float('inf') for g in gaps)   # not a number is no agreement
