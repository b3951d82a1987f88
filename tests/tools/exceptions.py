"Takes out of `tests/exceptions.csv` what breaks no rule any more; says what breaks one and is not listed. `python tests/tools/exceptions.py`"
import csv
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from test_house import PLACES, exceptions   # noqa: E402

if __name__ == '__main__':
    listed = exceptions()
    with open(TESTS / 'exceptions.csv', 'w', encoding='utf-8', newline='') as f:
        table = csv.writer(f, lineterminator='\n')
        table.writerow(['rule', 'place'])
        for rule, places in PLACES.items(): table.writerows((rule, place) for place in sorted(listed[rule] & places))
    new = [f'{rule}: {place}' for rule, places in PLACES.items() for place in sorted(places - listed[rule])]
    sys.exit('\n'.join(new))
