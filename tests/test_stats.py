"Intervals and p-values against scipy, against each other and on worlds whose truth is known."
import math

import numpy as np
import pytest
from scipy import optimize, stats

from citrus.core.files import UserError
from citrus.core.stats import crossed, difference, exact_p, mcnemar, score_interval, t_outside, t_quantile
from citrus.core.shares import equivalence, fisher, shares_interval, two_shares


def answers(b, c, n): return [1] * b + [0] * (n - b), [0] * b + [1] * c + [0] * (n - b - c)


@pytest.mark.parametrize('b, c', [(0, 0), (4, 0), (6, 0), (3, 9), (400, 460)])
def test_the_exact_test_is_scipys(b, c):
    assert exact_p(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1, abs=1e-12)


def test_students_t_is_scipys():
    for df in (1, 2, 3, 4, 7, 30, 101):
        assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), abs=1e-9)
        for t in (0, 0.3, 2, 9): assert t_outside(t, df) == pytest.approx(2 * stats.t.sf(t, df), abs=1e-12)


@pytest.mark.parametrize('x, n, y, m', [(2, 2, 0, 2), (1, 1, 1, 1), (3, 40, 9, 45), (300, 310, 301, 302)])
def test_fishers_test_is_scipys(x, n, y, m):
    assert fisher(x, n, y, m) == pytest.approx(stats.fisher_exact([[x, n - x], [y, m - y]]).pvalue, abs=1e-9)


@pytest.mark.parametrize('b, c, n', [(4, 0, 160), (0, 0, 160), (11, 3, 64), (2, 9, 16), (40, 70, 1273)])
def test_each_end_of_the_score_interval_is_where_the_likelihood_says(b, c, n):
    "At an end the statistic equals its quantile, with the nuisance share found by a general optimiser and not by the formula"
    def error(delta):
        def minus_log(q): return -(stats.multinomial.logpmf([b, c, n - b - c], n, [q + delta, q, 1 - 2 * q - delta]))
        q = optimize.minimize_scalar(minus_log, bounds=(max(0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12), method='bounded', options=dict(xatol=1e-12)).x
        return math.sqrt(n * (2 * q + delta - delta ** 2))
    for end in score_interval(b, c, n):
        assert (abs(b - c - n * end) - 1) / error(end) == pytest.approx(stats.norm.ppf(0.975), abs=2e-3)


def test_the_published_example_of_newcombe():
    "Newcombe 1998, table II, example (a): 56/70 against 48/80, method 10: 0.0524 to 0.3339"
    assert shares_interval(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_exchanging_the_models_mirrors_the_interval():
    low, high = score_interval(2, 9, 44)
    assert (-high, -low) == pytest.approx(score_interval(9, 2, 44))


def test_four_of_160_one_way_does_not_exclude_zero():
    d, low, high = difference(*answers(0, 4, 160))
    assert d == -0.025 and low < 0 < high and mcnemar(*answers(0, 4, 160)) == 0.125


@pytest.mark.parametrize('n', [16, 160, 1273])
@pytest.mark.parametrize('divided', [0.01, 0.03, 0.2])
@pytest.mark.parametrize('share', [0.5, 0.8, 1.0])
def test_coverage(n, divided, share):
    b = divided * share
    exams = np.random.default_rng(7).multinomial(n, [b, divided - b, 1 - divided], 4000)
    tables, times = np.unique(exams, axis=0, return_counts=True)
    ends = np.array([difference(*answers(int(x), int(y), n))[1:] for x, y, _ in tables])
    held = (ends[:, 0] <= 2 * b - divided + 1e-9) & (2 * b - divided - 1e-9 <= ends[:, 1])
    assert times[held].sum() / 4000 >= 0.94 and (ends[:, 1] - ends[:, 0]).min() > 0


@pytest.mark.parametrize('n', [16, 160, 1273])
def test_interval_and_p_never_contradict(n):
    for b in range(0, min(n, 90) + 1):
        for c in range(0, min(b, n - b) + 1):
            low, high = difference(*answers(b, c, n))[1:]
            assert (low < 0 < high) == (exact_p(b, c) >= 0.05), (b, c)


@pytest.mark.parametrize('clusters, size, together', [(5, 20, 0.5), (12, 10, 1.0), (20, 10, 0.3), (20, 10, 0.0)])
def test_coverage_over_clusters(clusters, size, together):
    rng, number, held = np.random.default_rng(3), np.repeat(np.arange(clusters), size), []
    for _ in range(400):
        def draw(*shape): return rng.choice([1, -1, 0], size=shape, p=[0.2, 0.1, 0.7])
        gain = np.where(rng.random((clusters, size)) < math.sqrt(together), draw(clusters, 1), draw(clusters, size)).ravel()
        _, low, high = difference(gain == 1, gain == -1, number)
        held.append(low <= 0.1 <= high)
        assert (low < 0 < high) == (mcnemar(gain == 1, gain == -1, number) >= 0.05)
    assert np.mean(held) >= 0.94


def test_one_cluster_tells_nothing_and_no_interval_is_a_point():
    assert difference([1, 1, 0, 1, 1], [0] * 5, ['a'] * 5) == (0.8, -1.0, 1.0) and mcnemar([1, 1, 0, 1, 1], [0] * 5, ['a'] * 5) == 1
    for clusters in (None, [*'abcde'], [*'aabbc']):
        for first, second in (([1] * 5, [1] * 5), ([1] * 5, [0] * 5)):
            _, low, high = difference(first, second, clusters)
            assert high - low > 0.3


def test_lengths_that_differ_are_refused():
    with pytest.raises(UserError, match='same questions'): difference([1, 0], [1])
    with pytest.raises(UserError, match='same questions'): mcnemar([], [])


@pytest.mark.parametrize('n', [0, 1, 2, 10, 50])
def test_perfect_scores_of_few_questions_are_not_proof_of_equality(n):
    result = equivalence(1.0, n, 1.0, n)
    assert result['verdict'] == 'cannot be told' and result['p_equivalence'] > 0.05 and result['low'] < -0.02 and result['high'] > 0.02


def test_two_of_two_against_none_of_two_is_not_a_difference():
    assert two_shares(1.0, 0.0, 2, 2) == pytest.approx(1 / 3) and equivalence(1.0, 2, 0.0, 2)['verdict'] == 'cannot be told'


@pytest.mark.parametrize('true, n', [(0.5, 200), (0.9, 200), (0.98, 100), (0.98, 1273)])
def test_claims_of_equality_are_false_in_at_most_one_of_twenty(true, n):
    rng = np.random.default_rng(5)
    pairs = zip(rng.binomial(n, true, 3000), rng.binomial(n, true - 0.05, 3000))
    assert np.mean([equivalence(a / n, n, b / n, n, 0.05)['p_equivalence'] < 0.05 for a, b in pairs]) <= 0.06


# --- students --------------------------------------------------------------------------------------------------------

def exams(students, questions, spread, times, seed):
    "Pairs of kinds that are equally able: hits of shape (students, questions), and half of the answers right on average"
    rng = np.random.default_rng(seed)
    for _ in range(times):
        ability = rng.normal(0, 1, questions)
        yield [(rng.random((students, questions)) < 1 / (1 + np.exp(rng.normal(0, spread, (students, 1)) - ability))).astype(float) for _ in range(2)]


@pytest.mark.parametrize('students', [2, 3, 5])
@pytest.mark.parametrize('questions, spread', [(16, 1.0), (64, 0.5), (64, 0.0)])
def test_coverage_over_students_and_questions(students, questions, spread):
    ends = [(crossed(a, 'share')[1:], crossed(a - b, 'difference')[1:], crossed(a - b, 'value')[1:]) for a, b in exams(students, questions, spread, 400, 11)]
    inside = np.mean([(s[0] <= 0.5 <= s[1], d[0] <= 0 <= d[1], v[0] <= 0 <= v[1]) for s, d, v in ends], axis=0)
    assert inside.min() >= 0.94, inside


def test_what_tells_nothing_has_the_whole_range_and_nothing_is_a_point():
    assert crossed([[1]], 'share') == (1, 0, 1) and crossed([[0]], 'difference') == (0, -1, 1) and crossed([[3]], 'value') == (3, -math.inf, math.inf)
    for hits in (np.zeros((3, 64)), np.ones((1, 64)), np.zeros((2, 4))):
        for kind in ('share', 'difference'):
            mean, low, high = crossed(hits, kind)
            assert low <= mean <= high and high - low > 0.05
    assert crossed([[1, 1], [1, 1]], 'value')[1:] == (-math.inf, math.inf)


def test_one_student_and_clusters_are_the_paired_interval():
    "With a single student there is no second part, and the interval is that of `difference` over the same clusters"
    rng = np.random.default_rng(2)
    first, second, number = rng.random(120) < 0.7, rng.random(120) < 0.5, np.repeat(np.arange(12), 10)
    gain = first.astype(float) - second
    assert crossed(gain[None], 'difference', number) == pytest.approx(difference(first, second, number), abs=1e-9)


def test_two_students_who_disagree_tell_little():
    _, low, high = crossed(np.array([[1.0] * 64, [0.0] * 64]), 'share')
    assert low < 0.05 and high > 0.95


# --- other samples ---------------------------------------------------------------------------------------------------

def test_rankers_that_agree_and_pages_without_an_error_are_not_known_exactly():
    from citrus.studies.published import ranker_differences, top_k
    from citrus.core.stats import ratio_interval
    ranks = np.array([1.0, 3.0, np.inf, 1.0] * 5)
    same, row = ranker_differences(ranks, ranks), top_k(np.ones(20), {})
    assert same['top1_low'] < -0.05 and same['mrr_high'] > 0.05 and row['mrr_low'] < 0.95 and row['mrr_high'] == 1
    assert ratio_interval(np.zeros(5), np.full(5, 900.0))[1] > 0.2 and ratio_interval(np.array([3.0]), np.array([900.0])) == (0, math.inf)
    low, high = ratio_interval(np.array([3.0, 9.0, 6.0]), np.full(3, 900.0))
    assert (low, high) == pytest.approx((0, 18 / 2700 + stats.t.ppf(0.975, 2) * np.std([3, 9, 6], ddof=1) / 900 / math.sqrt(3)), abs=1e-9)
