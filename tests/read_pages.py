"How much of a known text arrives through a PDF: writes the counts that `07_pages` shows. About 5 minutes on one core."
import argparse
import itertools
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from citrus.assets import abstracts_2021
from citrus.pages import edits, page_text, read_pages, scanned, typeset
from citrus.run import atomic, root

HEAD, TABLE = 'Annals of known texts, volume 12', [['drug', 'dose', 'route'], ['amoxicillin', '500 mg', 'oral'], ['ceftriaxone', '1 g', 'i.v.']]


def known(n: int) -> list:   # of lists of paragraphs
    "Two abstracts to a page, of a length that fits"
    plain = (re.sub(r'\s+', ' ', d['text']).strip() for d in itertools.islice(abstracts_2021(), 0, None, 37))
    fits = (t for t in plain if 900 < len(t) < 1800)
    return [[next(fits), next(fits)] for _ in range(n)]


def measure(kind: str, texts: list, columns: int, scan: bool, seed: int):
    "A row for each page"
    rng, folder = np.random.default_rng(seed), Path(tempfile.mkdtemp())
    wanted = [' '.join(' '.join([*page, *map(' | '.join, TABLE)]).split()) for page in texts]
    heads = {re.sub(r'\d+', '#', HEAD)}   # what `running` finds in a file of more than one page
    for i, page in enumerate(tqdm(texts, desc=kind)):
        typeset([page], folder / 'page.pdf', columns=columns, head=HEAD, table=TABLE)
        if scan: scanned(folder / 'page.pdf', folder / 'page.pdf', slant=rng.uniform(0, 1.2), noise=rng.uniform(5, 25), seed=seed + i)
        t = time.process_time()
        [found] = read_pages(folder / 'page.pdf')
        seconds = time.process_time() - t
        text = ' '.join(page_text(found, heads).split())
        yield dict(kind=kind, page=i, characters=len(wanted[i]), errors=edits(wanted[i], text), control=edits(wanted[(i + 1) % len(wanted)], text),
                   confidence=round(found.confidence, 4), seconds=round(seconds, 3), failed=bool(found.reason))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument('--digital', type=int, default=60, help='pages with a text layer, of each layout')
parser.add_argument('--scans', type=int, default=12, help='scanned pages, of each layout')
parser.add_argument('--out', default=str(root() / 'nbs' / 'pages.csv'))
args = parser.parse_args()
rows = []
for columns, words in ((1, 'one column'), (2, 'two columns')):
    for scan, n in ((False, args.digital), (True, args.scans)):
        rows += measure(f'{"scan" if scan else "text layer"}, {words}', known(n), columns, scan, seed=columns)
with atomic(Path(args.out)) as part: pd.DataFrame(rows).to_csv(part, index=False)
