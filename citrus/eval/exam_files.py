import csv, io, json
from pathlib import Path

from citrus.core.files import UserError
from citrus.data.questions import letter_position, LETTERS, question_record

def exam_text(path: Path) -> str:
    "Text of an exam's file; a byte order mark is no text. Raises `UserError` if it is not UTF-8"
    try:
        return path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as e:
        raise UserError(f'{path}: not UTF-8 at byte {e.start}; save the file as UTF-8') from None

def as_json(text: str, where: str):
    "What JSON says; NaN is no value. Raises `UserError` for what is not JSON"
    try: return json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as e: raise UserError(f'{where}: not JSON ({e})') from None

def json_lines(path: Path):
    "Rows of a JSON Lines file; blank lines are none"
    for i, line in enumerate(exam_text(path).split('\n'), 1):
        if line.strip(): yield as_json(line, f'{path}, line {i}')

def json_columns(path: Path):
    "Rows of a JSON file of columns {name: {row: value}}. Raises `UserError` for columns that do not fit together"
    columns = as_json(exam_text(path), str(path))
    try:
        for i in columns['question']: yield {name: column[i] for name, column in columns.items()}
    except (LookupError, TypeError, AttributeError) as e:
        raise UserError(
            f'{path}: not columns of one length with a column question ({type(e).__name__}: {e})'
        ) from None

def headless_csv(path: Path):
    "Rows of MMLU's `<subject>_test.csv`: question, four options, key. Raises `UserError` for a line that is not so"
    lines = csv.reader(io.StringIO(exam_text(path), newline=''))
    try:
        for cells in filter(None, lines):
            if len(cells) < 4: raise ValueError(f'{len(cells)} columns, needs a question, options and a key')
            stem, *options, letter = cells
            key = letter_position(letter, LETTERS[:len(options)])
            yield dict(question=stem, subject=path.stem.removesuffix('_test'), choices=options, answer=key)
    except (ValueError, csv.Error) as e:
        raise UserError(
            f'{path}, line {lines.line_num}: {e}; there is no header, and the last column is the letter of'
            ' the key'
        ) from None

def labelled_abstracts(path: Path):
    "Rows of PubMedQA's `ori_pqal.json`. Raises `UserError` for an entry that is not so"
    entries = as_json(exam_text(path), str(path))
    if not isinstance(entries, dict): raise UserError(f'{path}: needs an object of entries by PubMed id')
    for pubid, r in entries.items():
        try:
            yield dict(
                pubid=int(pubid),
                question=r['QUESTION'],
                context=dict(contexts=r['CONTEXTS']),
                final_decision=r['final_decision'],
            )
        except (LookupError, TypeError, ValueError) as e:
            raise UserError(
                f'{path}, entry {pubid}: {type(e).__name__}: {e}; needs QUESTION, CONTEXTS and final_decision'
            ) from None

def medbullets(rows, n: int, where: str = 'medbullets') -> list:
    """Rows of `medbullets_op4.json` or `_op5.json` as `question` records.
    Raises `UserError` for a row without its fields, options or key"""
    letters = 'abcde'[:n]
    records = []
    for i, r in enumerate(rows):
        try:
            key = letter_position(r['answer_idx'], letters.upper())
            records.append(
                question_record(
                    f'medbullets{n}-{i}',
                    f'medbullets{n}',
                    'test',
                    r['question'],
                    [r[f'op{l}'] for l in letters],
                    key,
                    link=r['link'],
                )
            )
        except (LookupError, TypeError, ValueError) as e: raise UserError(f'{where}, row {i}: {type(e).__name__}: {e}') from None
    return records
