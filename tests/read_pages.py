"How much of a known text arrives through a PDF: writes counts that `citrus.data.page_errors.error_table` reads. About 5 minutes on one core; goes on where it was stopped."
import argparse
import itertools
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from citrus.data.abstracts import abstracts_2021
from citrus.data.page_errors import edits, scanned, typeset
from citrus.data.pages import page_text, read_pages

HEAD, TABLE = 'Annals of known texts, volume 12', [['drug', 'dose', 'route'], ['amoxicillin', '500 mg', 'oral'], ['ceftriaxone', '1 g', 'i.v.']]
KINDS = {f'{way}, {words}': (way == 'scan', columns) for way in ('text layer', 'scan') for columns, words in ((1, 'one column'), (2, 'two columns'))}


def known(n: int) -> list:   # of lists of paragraphs
    "Two abstracts to a page, of a length that fits"
    plain = (re.sub(r'\s+', ' ', d['text']).strip() for d in itertools.islice(abstracts_2021(), 0, None, 37))
    fits = (t for t in plain if 900 < len(t) < 1800)
    return [[next(fits), next(fits)] for _ in range(n)]


def measure(kind: str, i: int, texts: list, folder: Path) -> dict:
    "One page, set, scanned if it is to be, and read back"
    scan, columns = KINDS[kind]
    rng = np.random.default_rng([columns, i])
    wanted = [' '.join(' '.join([*page, *map(' | '.join, TABLE)]).split()) for page in (texts[i], texts[i + 1])]
    typeset([texts[i]], folder / 'page.pdf', columns=columns, head=HEAD, table=TABLE)
    if scan: scanned(folder / 'page.pdf', folder / 'page.pdf', slant=rng.uniform(0, 1.2), noise=rng.uniform(5, 25), seed=i)
    t = time.process_time()
    [page] = read_pages(folder / 'page.pdf')
    seconds = time.process_time() - t
    text = ' '.join(page_text(page, {re.sub(r'\d+', '#', HEAD)}).split())   # what `running` finds in a file of more than one page
    return dict(kind=kind, page=i, characters=len(wanted[0]), errors=edits(wanted[0], text), control=edits(wanted[1], text),
                confidence=round(page.confidence, 4), seconds=round(seconds, 3), failed=bool(page.reason))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument('--digital', type=int, default=60, help='pages with a text layer, of each layout')
parser.add_argument('--scans', type=int, default=12, help='scanned pages, of each layout')
parser.add_argument('--out', type=Path, default=Path('pages.csv'))
args = parser.parse_args()
done = {(r.kind, r.page) for r in pd.read_csv(args.out).itertuples()} if args.out.exists() else set()
todo = [(kind, i) for i in range(max(args.digital, args.scans)) for kind, (scan, _) in KINDS.items() if i < (args.scans if scan else args.digital) and (kind, i) not in done]
texts, folder = known(max(args.digital, args.scans) + 1), Path(tempfile.mkdtemp())
for kind, i in tqdm(todo):
    row = pd.DataFrame([measure(kind, i, texts, folder)])
    row.to_csv(args.out, mode='a', header=not args.out.exists(), index=False)
