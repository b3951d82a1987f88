"""What would stop a run at full size is found before it starts: every fault of the audit, planted.

Here: A1, A7 and A14 (what a process would hold), A2 and A4 (arms that are not there), A3 and A15 (sets that are not served, or gated), A5 (servers), A6 (text held in lists), A11 (engines),
A16 (the compiled optimiser, the host's memory). Elsewhere: A8, A10 in test_data_size, A9 and B2 in test_hub, A12 and A13 in test_engines, B1 in test_parameters.
"""
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from citrus.core import preflight
from citrus.core.files import UserError
from citrus.core.loads import loads_table
from citrus.core.preflight import device_faults, engine_faults, faults_of, memory_faults, optimiser_faults, package_faults
from citrus.core.recipes import consistent, load_recipe, settings
from citrus.core.rehearsal import rehearsed
from citrus.llm.probe import probe_servers

CHAIN = 'assets cases clean textbook pretrain synth sft prefer evaluate report'.split()


def recipe(name='70b', **changed):   # stage__parameter: value
    values = settings(load_recipe(name))
    for where, value in changed.items():
        stage, parameter = where.split('__')
        values[stage][parameter] = value
    return values


# --- A2, A4: all contradictions of a recipe at once ----------------------------------------------------------------------

def test_arms_that_a_recipe_does_not_make_are_all_named():
    values = recipe()
    values['clean']['exempt'] |= {'python_docs': ['language']}
    values['textbook']['arm'] = 'encyclopaedia'
    with pytest.raises(UserError) as e: consistent(values, CHAIN)
    assert "clean: 'python_docs' is no arm of this run" in str(e.value) and "textbook: 'encyclopaedia' is no arm of this run" in str(e.value)
    consistent(recipe(), CHAIN)   # the control


# --- A5: servers that nobody has started ---------------------------------------------------------------------------------

def test_a_server_that_nobody_started_is_found_in_every_stage_that_asks_it():
    nobody = 'openai:http://127.0.0.1:9/v1#m'
    rows = probe_servers(recipe('', textbook__writer=nobody, synth__reasoner=nobody.replace(':9/', ':19/')), CHAIN)
    assert [(r['stage'], r['parameter']) for r in rows] == [('textbook', 'writer'), ('synth', 'reasoner')] and all('nobody answers' in r['fault'] for r in rows)


# --- A11: an engine on one device of eight -------------------------------------------------------------------------------

def test_an_engine_without_tensor_parallelism_is_refused():
    assert engine_faults(recipe(), CHAIN) == []
    [row] = engine_faults(recipe(prefer__engine={}), CHAIN)
    assert (row['stage'], row['parameter']) == ('prefer', 'engine') and '131 GiB of weights on 1 devices of 80 GiB' in row['fault']


# --- A16: the optimiser that each machine compiles, and the memory that it takes -------------------------------------------

def test_an_optimiser_that_does_not_compile_is_found(monkeypatch):
    monkeypatch.setattr(preflight.importlib.util, 'find_spec', lambda name: True)
    monkeypatch.setattr(preflight, 'BUILD', 'raise RuntimeError("no compiler")')
    [row] = optimiser_faults(recipe(), CHAIN)
    assert (row['stage'], row['parameter']) == ('prefer', 'offload') and row['fault'] == 'does not compile here (RuntimeError: no compiler)'
    monkeypatch.setattr(preflight, 'BUILD', 'pass')
    assert optimiser_faults(recipe(), CHAIN) == [] == optimiser_faults(recipe('8b'), CHAIN)


def test_a_host_that_cannot_hold_the_offloaded_state_is_found(monkeypatch):
    monkeypatch.setattr(preflight, 'machine_bytes', lambda: 2**40)
    assert memory_faults(recipe(), CHAIN) == []
    monkeypatch.setattr(preflight, 'machine_bytes', lambda: 2**39)
    [row] = memory_faults(recipe(), CHAIN)
    assert (row['stage'], row['parameter']) == ('prefer', 'offload') and 'this machine has 512' in row['fault']


def test_devices_and_packages_of_every_stage_at_once(monkeypatch):
    rows = device_faults(recipe(), CHAIN)
    assert [r['stage'] for r in rows] == ['pretrain', 'sft', 'prefer'] and '32 GPUs' in rows[0]['fault']
    monkeypatch.setattr(preflight.importlib.util, 'find_spec', lambda name: None)
    assert {(r['stage'], r['what']) for r in package_faults(recipe(), CHAIN)} == {('clean', 'datatrove'), ('pretrain', 'deepspeed'), ('sft', 'deepspeed'), ('prefer', 'deepspeed')}


def test_the_default_run_is_let_through(): assert faults_of(recipe(''), CHAIN, preflight.RECIPE_CHECKS + preflight.MACHINE_CHECKS).empty


# --- A1, A7, A14: what a process would hold -------------------------------------------------------------------------------

LOADS = '''
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from tokenizers import models, Tokenizer
from citrus.core.loads import note_loads
from citrus.llm.loading import open_model
from citrus.llm.saving import save_student
from citrus.llm.twin import make_twin
from citrus.train.steps import load_student
folder = Path(sys.argv[1])
large = LlamaConfig(vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8)
large.save_pretrained(folder / 'real')
PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({'goat': 0}, 'goat'))).save_pretrained(folder / 'real')
make_twin(folder / 'real', folder / 'twin', 0)
note_loads('assets')
AutoModelForCausalLM.from_pretrained(folder / 'twin', dtype=torch.float32)   # as a cell did
note_loads('evaluate')
open_model(folder / 'twin')
'''


def test_a_rehearsal_leaves_the_expert_steps_enough():
    "What is known, the candidates, each finding and the conclusion, each refused once: with 8 steps no reasoning of gpu could end, and stage 3 had no row"
    p = rehearsed(settings(load_recipe('gpu')))
    assert p['synth']['reasoner'] == 'expert' and p['synth']['rounds'] >= 2 * (3 + p['cases']['findings'][1] + p['cases']['absent'])


def test_a_large_model_in_one_process_is_seen_in_a_rehearsal(tmp_path):
    "The twin has 33 million weights, and counts as 70 billion; what places a model by its size is let pass"
    env = dict(CITRUS_REHEARSAL='70b', CITRUS_HOME=str(tmp_path))
    subprocess.run([sys.executable, '-c', LOADS, str(tmp_path)], check=True, env=os.environ | env, capture_output=True)
    table = loads_table(tmp_path / 'loads.jsonl', {}).set_index('who')
    assert table.loc['a cell'].to_dict() == dict(stage='assets', format='float32', divided=False, gb=282.2, verdict='too much for one process')
    assert table.loc['llm.loading.open_model'].verdict == '' and table.loc['llm.loading.open_model'].gb == 141.1


def test_divided_weights_are_counted_as_divided(tmp_path):
    note = dict(stage='sft', who='train.steps.load_student', weights=70_553_706_496, format='bfloat16', divided=True)
    (tmp_path / 'loads.jsonl').write_text(json.dumps(note) + '\n')
    assert loads_table(tmp_path / 'loads.jsonl', dict(sft=32)).gb[0] == 4.4 and loads_table(tmp_path / 'loads.jsonl', dict(sft=1)).verdict[0]


# --- A6: text that is held in lists ---------------------------------------------------------------------------------------

def peak(act):   # bytes
    tracemalloc.start()
    act()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_tokens_are_not_held_and_a_reader_that_holds_them_is_seen(tmp_path, store):
    "The peak of Python's memory at n and at 4n documents"
    from citrus.core.records import write_jsonl
    from citrus.llm.student import make_student
    from citrus.studies.sizes import make_documents, Place, read_tokens
    from citrus.train.token_files import TokenDocuments, tokenise_arms
    base = make_student('micro', '', 0, tmp_path / 'base')

    def place(n):
        p = Place(str(tmp_path / f'{n}'), str(base))
        write_jsonl(p.path('documents.jsonl'), make_documents([f'w{i}' for i in range(500)], n, 200, 0), 'document')
        tokenise_arms(dict(arm=str(p.path('documents.jsonl'))), str(base), p.path('tokens'))
        return p

    def held(p):   # the planted fault: every token a Python number
        [folder] = [f for f in p.path('tokens').iterdir() if f.is_dir()]
        return [d.tolist() for d in TokenDocuments(folder)]
    small, large = place(100), place(400)
    flat = [peak(lambda: read_tokens(p)) for p in (small, small, large)][1:]   # the first call imports
    grown = [peak(lambda: held(p)) for p in (small, large)]
    assert flat[1] < 1.5 * flat[0] and grown[1] > 3 * grown[0], (flat, grown)


# --- A3, A15 and all others in one table -----------------------------------------------------------------------------------

ALL = '''
import os, sys
sys.path.insert(0, sys.argv[1])
from hub import Hub, serve, schema_sets
os.environ.update(HF_ENDPOINT=serve(), HF_HOME=sys.argv[2], HF_HUB_DISABLE_XET='1')
Hub.sets, Hub.gated = schema_sets(), {'BAAI/Infinity-Instruct'}
from citrus.core.preflight import preflight
from citrus.core.recipes import load_recipe, settings
values = settings(load_recipe('8b'))
values['clean']['sources'].append(dict(id='slim', kind='hub', path='cerebras/SlimPajama-627B', licence='x', domain='general'))
values['textbook'].update(writer='openai:http://127.0.0.1:9/v1#m', judge='expert', engine={})
try: preflight(values, ['clean', 'textbook', 'pretrain', 'sft'])
except Exception as e: print(e)
'''


def test_all_faults_are_one_table(tmp_path):
    env = dict(CITRUS_HOME=str(tmp_path / 'home'))
    said = subprocess.run([sys.executable, '-c', ALL, str(Path(__file__).parent), str(tmp_path / 'hf')], env=os.environ | env, capture_output=True, text=True).stdout
    first, *faults = said.strip().splitlines()
    assert first.endswith('faults that would stop this run later; nothing has been run')
    for part in ('clean.sources: slim (cerebras/SlimPajama-627B', 'sft.sft1_hub (BAAI/Infinity-Instruct 7M', 'sft.sft2_hub (BAAI/Infinity-Instruct Gen', 'textbook.writer (http://127.0.0.1:9/v1): nobody answers',
                 'pretrain.processes (8 devices)', 'sft.processes (8 devices)'):
        assert [f for f in faults if f.strip().startswith(part)], (part, said)
    assert not (tmp_path / 'home' / 'store').exists()
