"The written results are read by the real lm-evaluation-harness, and by inspect where it is installed."
import json
from types import SimpleNamespace

import pytest

from citrus.data.questions import question_record
from citrus.eval.interchange import write_inspect, write_lm_eval

QUESTIONS = [question_record(f'q{i}', 'own', 'test', f'Who climbs {i}?', ['Goat', 'Cow', 'Hen', 'Owl'], i % 4) for i in range(9)]
BENCH = [SimpleNamespace(name='animals', form='options', questions=QUESTIONS)]
ROWS = [dict(id=f'{m}/{q["id"]}', model=m, benchmark='animals', question_id=q['id'], raw=f'<answer>{"A" if i else ""}</answer>', extracted='A' if i else None, by='block: letter' if i else 'abstained: no answer',
             correct=bool(i) and q['answer'] == 'A', tokens=5, finish='stop' if i else 'length', subject='') for m in ('base', 'preferred') for i, q in enumerate(QUESTIONS)]


def test_lm_eval_reads_it(tmp_path):
    import datasets
    from lm_eval import utils
    paths = [str(p) for p in write_lm_eval(ROWS, BENCH, tmp_path, 1e9)]
    results, samples = utils.get_results_filenames(paths), utils.get_sample_results_filenames(paths)
    assert len(results) == len(samples) == 2 and utils.get_file_task_name(samples[0].rsplit('/')[-1]) == 'animals'
    found = json.loads(open(results[0]).read())
    assert 'animals' in utils.make_table(found) and f'{2 / 9:.4f}' in utils.make_table(found)
    assert sum(datasets.load_dataset('json', data_files=samples[0], split='train', cache_dir=str(tmp_path / 'cache'))['acc']) == 2


def test_inspect_reads_it(tmp_path):
    log = pytest.importorskip('inspect_ai.log')
    first = log.read_eval_log(str(write_inspect(ROWS, BENCH, tmp_path, 1e9)[0]))
    assert first.status == 'success' and first.results.scores[0].metrics['accuracy'].value == pytest.approx(2 / 9)
    s = first.samples[1]
    assert s.output.completion == '<answer>A</answer>' and s.scores['citrus'].answer == 'A' and s.scores['citrus'].explanation == 'block: letter' and first.samples[0].output.stop_reason == 'max_tokens'
    from inspect_ai.analysis import samples_df
    assert len(samples_df(str(tmp_path))) == 18
