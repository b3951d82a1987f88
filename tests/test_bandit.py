"The bandit and the sampler at their edges: many arms, huge rewards, empty and tiny sources, restarts."
import json
import math
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import pytest

from citrus.train.bandit import MIX_RULES, Bandit
from citrus.train.sampler import Stream, draw_arms
from citrus.core.files import UserError


def names(K): return [f'arm {i}' for i in range(K)]


@pytest.mark.parametrize('rule', MIX_RULES)
@pytest.mark.parametrize('K', [1, 2, 7, 1000])
@pytest.mark.parametrize('scale', [0.0, 1e-9, 1.0, 1e6])
def test_weights_are_probabilities(rule, K, scale):
    rng, bandit = np.random.default_rng(0), Bandit(names(K), rule, sizes=[1] * K)
    with np.errstate(all='raise', under='ignore'):   # no overflow, no invalid value
        for _ in range(30):
            p = bandit.weights()
            assert p.dtype == np.float64 and (p >= 0).all() and abs(p.sum() - 1) < 1e-9
            drawn = draw_arms(bandit, 4, seed=0)
            bandit.update({bandit.arms[i]: float(rng.random() * scale) for i in drawn})


@pytest.mark.parametrize('rule', ['odm', 'odm_released', 'exp3', 'progress'])
def test_a_long_run_stays_finite_and_alive(rule):
    bandit = Bandit(['low', 'high'], rule)
    for t in range(3000): bandit.update({'low': 1e-6, 'high': 1e6} if t % 2 else {'high': 1e6})
    p = bandit.weights()
    assert np.isfinite(p).all() and p.min() > 0 and abs(p.sum() - 1) < 1e-9


def epsilon(t, K): return min(1 / K, math.sqrt(math.log(K) / (K * max(t, 1))))


def odm_by_hand(seen, K, alpha=0.9):
    "Algorithm 1 of arXiv 2312.02406, written down a second time, without logarithms; the losses of a step are averaged"
    R, out = np.zeros(K), []
    for t, step in enumerate(seen, 1):
        e = np.exp(epsilon(t - 1, K) * R)
        p = (1 - K * epsilon(t, K)) * e / e.sum() + epsilon(t, K)
        out.append(p)
        draws = sum(n for _, n in step.values())
        estimate = np.zeros(K)
        for i, (loss, n) in step.items(): estimate[i] = n * loss / (draws * p[i])
        R = alpha * R + (1 - alpha) * estimate
    return np.array(out)


def released_by_hand(seen, K, alpha=0.9):
    "`SmoothedMeanWeightUpdater.group_update` of the released code: mean loss of an arm's batches, its exponential, linear shares"
    R, p, out = [0.0] * K, np.full(K, 1 / K), []
    for t, step in enumerate(seen, 1):
        out.append(p)
        for i, (loss, _) in step.items(): R[i] = alpha * R[i] + (1 - alpha) * math.exp(loss)
        p = np.array([r * (1 - K * epsilon(t, K)) / sum(R) + epsilon(t, K) for r in R])
    return np.array(out)


def exp3_by_hand(seen, K, horizon=300, largest=5.0):
    "Figure 1 of Auer et al. 2002 (SIAM J. Comput. 32), with the gamma of corollary 3.2"
    gamma, w, out = min(1, math.sqrt(K * math.log(K) / ((math.e - 1) * horizon))), np.ones(K), []
    for step in seen:
        p = (1 - gamma) * w / w.sum() + gamma / K
        out.append(p)
        draws = sum(n for _, n in step.values())
        for i, (loss, n) in step.items(): w[i] *= math.exp(gamma * n * min(1, loss / largest) / (draws * p[i]) / K)
    return np.array(out)


def ucb_by_hand(seen, K, largest=5.0):
    "Figure 1 of Auer et al. 2002 (Machine Learning 47): play each machine once, then the largest mean + sqrt(2 ln n / n_j)"
    rewards, out = [[] for _ in range(K)], []
    for step in seen:
        plays = sum(map(len, rewards))
        bounds = [np.mean(r) + math.sqrt(2 * math.log(plays) / len(r)) if r else math.inf for r in rewards]
        out.append(np.eye(K)[int(np.argmax(bounds))])
        for i, (loss, _) in step.items(): rewards[i].append(min(1, loss / largest))
    return np.array(out)


@pytest.mark.parametrize('rule, reference', [('odm', odm_by_hand), ('odm_released', released_by_hand), ('exp3', exp3_by_hand), ('ucb', ucb_by_hand)])
def test_the_rule_is_the_published_one(rule, reference):
    rng, bandit, got = np.random.default_rng(0), Bandit(names(5), rule, largest=5.0, horizon=300), []
    drawn = [range(5), *(rng.choice(5, rng.integers(1, 4), replace=False) for _ in range(299))]
    seen = [{int(i): (float(rng.random() * 6), int(rng.integers(1, 5))) for i in arms} for arms in drawn]
    for step in seen:
        got.append(bandit.weights())
        bandit.update({f'arm {i}': loss for i, (loss, _) in step.items()}, {f'arm {i}': n for i, (_, n) in step.items()})
    assert np.abs(np.array(got) - reference(seen, 5)).max() < 1e-9
    assert np.ptp(got, axis=0).max() > 0.02   # and it moves


def test_exp3_and_ucb_find_the_better_arm():
    "Bernoulli arms of 0.9 and 0.6; the share of the better one in the second half of 2,000 plays"
    for rule, least in (('exp3', 0.8), ('ucb', 0.85)):
        share = []
        for seed in range(5):
            rng, bandit, plays = np.random.default_rng(seed), Bandit(['good', 'bad'], rule, largest=1.0, horizon=2000), []
            for _ in range(2000):
                arm = ['good', 'bad'][int(rng.random() > bandit.weights()[0])]
                bandit.update({arm: float(rng.random() < dict(good=0.9, bad=0.6)[arm])})
                plays.append(arm == 'good')
            share.append(np.mean(plays[1000:]))
        assert np.mean(share) > least, (rule, share)


@pytest.mark.parametrize('batch', [1, 2, 8, 32])
@pytest.mark.parametrize('how', ['independent', 'sampler'])
def test_the_estimate_of_a_reward_is_unbiased_at_any_batch(batch, how):
    "Arms drawn with 0.8, 0.15 and 0.05 that pay 1, 2 and 3 nats: what EXP3 adds in a step is that on average"
    share, paid, rng, steps = [0.8, 0.15, 0.05], np.array([1.0, 2.0, 3.0]), np.random.default_rng(0), 2000
    added = np.zeros((steps, 3))
    for t in range(steps):
        bandit = Bandit(list('abc'), 'exp3', largest=10.0, share=share, t=t + 1)
        n = rng.multinomial(batch, share) if how == 'independent' else np.bincount(draw_arms(bandit, batch, seed=5), minlength=3)
        bandit.update({a: x for a, x, m in zip('abc', paid, n) if m}, dict(zip('abc', n.tolist())))
        added[t] = 10 * np.exp(bandit.values)
    error = added.std(0) / math.sqrt(steps)
    assert (np.abs(added.mean(0) - paid) < 4 * np.maximum(error, 1e-9)).all(), (added.mean(0), error)
    assert how == 'independent' or (error * math.sqrt(steps) <= paid / np.array(share) / batch / 2 + 1e-9).all()   # less than a sequence is left to chance


def test_the_estimate_counts_the_steps_between_two_decisions():
    "Pooled over three steps, one of which did not draw the arm: 3 of 12 sequences with a share of a half, that is 3 / 6 of the loss"
    bandit = Bandit(['a', 'b'], 'exp3', every=3, largest=1.0)
    bandit.update({'a': 0.2, 'b': 0.5}, {'a': 1, 'b': 3})
    bandit.update({'b': 0.5}, {'b': 4})
    bandit.update({'a': 0.5, 'b': 0.5}, {'a': 2, 'b': 2})
    assert np.exp(bandit.values) == pytest.approx([3 / 6 * 0.4, 9 / 6 * 0.5])


def test_an_arm_that_is_used_up_is_not_divided_by_as_if_it_could_be_drawn():
    "With c used up a and b are drawn with a half each, and the estimates are by halves"
    bandit = Bandit(list('abc'), 'exp3', largest=1.0)
    assert set(draw_arms(bandit, 4, seed=0, room=[9, 9, 0])) == {0, 1}
    assert bandit.weights().tolist() == [0.5, 0.5, 0]
    bandit.update({'a': 0.6, 'b': 0.4}, {'a': 2, 'b': 2})
    assert np.exp(bandit.values) == pytest.approx([0.6, 0.4, 0])
    assert Bandit(**json.loads(json.dumps(asdict(bandit)))).weights()[2] == 0


def test_draws_of_a_step_follow_the_probabilities_closely():
    for rule in ('exp3', 'ucb', 'stratified'):
        for t in range(1, 200):
            n = np.bincount(draw_arms(Bandit(names(3), rule, share=[0.5, 0.3, 0.2], t=t), 10, seed=2), minlength=3)
            assert np.abs(n - [5, 3, 2]).max() <= 1


@pytest.mark.parametrize('settings', [dict(), dict(rule='progress', every=3, warmup=5), dict(rule='ucb'), dict(rule='stratified'), dict(rule='exp3', reward='fall')])
def test_the_next_ten_thousand_draws_survive_a_restart(settings):
    def world(bandit, start, steps, out):
        for t in range(start, start + steps):
            drawn = draw_arms(bandit, 4, seed=7, room=None)
            out += drawn
            bandit.update({bandit.arms[i]: 2 + math.sin(i + t / 100) for i in set(drawn)}, {bandit.arms[i]: drawn.count(i) for i in set(drawn)})
        return bandit
    first, again = [], []
    kept = json.loads(json.dumps(asdict(world(Bandit(names(6), **settings), 0, 301, []))))   # as a checkpoint holds it
    world(world(Bandit(names(6), **settings), 0, 301, []), 301, 2500, first)
    world(Bandit(**kept), 301, 2500, again)
    assert len(first) == 10_000 and first == again


DRAW = """
import json, os, sys
from dataclasses import asdict
from citrus.train.bandit import Bandit
from citrus.train.sampler import draw_arms
from citrus.core.files import atomic
state, end = sys.argv[1], int(sys.argv[2])
kept = json.load(open(state)) if os.path.exists(state) else dict(bandit=dict(arms=list('abcdef'), rule='progress'), drawn=[])
bandit, drawn = Bandit(**kept['bandit']), kept['drawn']
while bandit.t <= end:
    now = draw_arms(bandit, 4, seed=3)
    bandit.update({bandit.arms[i]: 2 + i / bandit.t for i in set(now)})
    drawn += now
    if bandit.t % 100 == 1:
        with atomic(state) as f: json.dump(dict(bandit=asdict(bandit), drawn=drawn), f)
"""


def test_killed_processes_draw_the_same_ten_thousand(tmp_path):
    start = lambda name: subprocess.Popen([sys.executable, '-c', DRAW, str(tmp_path / name), '2500'])
    for kill_at in (1, 800):
        p = start('killed')
        while not (tmp_path / 'killed').exists() or len(json.loads((tmp_path / 'killed').read_text())['drawn']) < 4 * kill_at: time.sleep(0.005)
        p.kill()
        assert p.wait() == -9
    assert start('killed').wait() == start('whole').wait() == 0
    killed, whole = (json.loads((tmp_path / name).read_text())['drawn'] for name in ('killed', 'whole'))
    assert len(whole) == 10_000 and killed == whole


def test_decisions_wait_for_their_interval_and_the_warm_up():
    bandit, seen = Bandit(['a', 'b'], 'exp3', every=5, warmup=20), []
    for _ in range(40):
        seen.append(tuple(bandit.weights()))
        bandit.update({'a': 3.0, 'b': 1.0})
    assert set(seen[:20]) == {(0.5, 0.5)} and seen[20] != (0.5, 0.5)
    assert all(len(set(seen[i:i + 5])) == 1 for i in range(0, 40, 5))


def test_pooling_losses_is_exact():
    one, two = Bandit(['a', 'b'], 'odm_released', every=2), Bandit(['a', 'b'], 'odm_released')
    one.update({'a': 1.0, 'b': 2.0}, {'a': 3, 'b': 1})
    one.update({'a': 2.0}, {'a': 1})
    two.update({'a': 1.25, 'b': 2.0})
    assert one.values == pytest.approx(two.values)


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_counted_and_changes_nothing(bad):
    for rule in MIX_RULES:
        a, b = Bandit(['x', 'y'], rule, sizes=[1, 2]), Bandit(['x', 'y'], rule, sizes=[1, 2])
        for t in range(20):
            a.update({'x': 2.0, 'y': bad} if t == 7 else {'x': 2.0, 'y': 1.0})
            b.update({'x': 2.0} if t == 7 else {'x': 2.0, 'y': 1.0})
        assert a.skipped == [0, 1] and (a.weights() == b.weights()).all()


@pytest.mark.parametrize('wrong', [dict(rule='exp4'), dict(reward='los')])
def test_a_misspelt_rule_names_the_nearest(wrong):
    with pytest.raises(UserError, match='did you mean'): Bandit(['a'], **wrong)


def test_stratified_is_even_at_any_time_and_proportional_follows_tokens():
    bandit, n = Bandit(names(7), 'stratified'), np.zeros(7)
    for _ in range(500):
        for i in draw_arms(bandit, 3, seed=3): n[i] += 1
        assert np.ptp(n) <= 3
        bandit.update({})
    counts, bandit = np.zeros(3), Bandit(names(3), 'proportional', sizes=[1, 2, 7])
    for _ in range(2000):
        for i in draw_arms(bandit, 5, seed=3): counts[i] += 1
        bandit.update({})
    assert np.abs(counts / counts.sum() - [.1, .2, .7]).max() < 0.02


@pytest.mark.parametrize('rule', MIX_RULES)
def test_arms_that_run_empty_give_way(rule):
    bandit, room = Bandit(names(3), rule, sizes=[1, 1, 1]), [5, 0, 40]
    for _ in range(15):
        for i in draw_arms(bandit, 3, seed=1, room=room): room[i] -= 1
        bandit.update({'arm 2': 1.0})
        assert min(room) >= 0
    assert room == [0, 0, 0]
    with pytest.raises(UserError, match='every arm is used up after 15 steps'): draw_arms(bandit, 1, seed=1, room=room)


def documents(n, rng): return [rng.integers(1, 1000, rng.integers(1, 40)) for _ in range(n)]


@pytest.mark.parametrize('n, length', [(1, 7), (1, 100), (50, 1), (50, 64), (300, 17)])
def test_every_epoch_reads_every_document_once(n, length):
    docs = documents(n, np.random.default_rng(0))
    stream = Stream(docs, length, key=5)
    read = np.concatenate([stream.sequence(i) for i in range(3 * stream.tokens // length + 1)])[:3 * stream.tokens]
    orders = []
    for epoch in read.reshape(3, -1):
        assert sorted(epoch) == sorted(np.concatenate(docs))
        orders.append(epoch.tolist())
    assert n == 1 or orders[0] != orders[1] != orders[2]
    assert stream.epochs(3) == pytest.approx(3 * length / stream.tokens)


def test_a_stream_is_a_function_of_its_number():
    docs = documents(40, np.random.default_rng(1))
    a, b = Stream(docs, 16, key=1), Stream(docs, 16, key=1)
    order = np.random.default_rng(2).permutation(200)
    there = {int(i): b.sequence(int(i)).tolist() for i in order}
    assert all(a.sequence(i).tolist() == there[i] for i in range(200))
    assert Stream(docs, 16, key=2).sequence(0).tolist() != a.sequence(0).tolist()


def test_a_source_without_a_token_is_refused():
    for nothing in ([], [[]], [np.array([], np.int32)] * 3):
        with pytest.raises(UserError, match="arm 'web' is empty"): Stream(nothing, 8, key=0, name='web')


def test_a_cap_counts_whole_sequences():
    stream = Stream([[1] * 10], 4, key=0)
    assert (stream.room(1), stream.room(2), stream.room(0.3), stream.room(0)) == (2, 5, 0, math.inf)


def test_a_decision_costs_microseconds():
    "The default student takes over a second for a step, so 100 microseconds are 0.01 % of it"
    bandit, best = Bandit(names(7), 'progress'), math.inf
    for _ in range(5):
        since = time.process_time()
        for _ in range(200): bandit.update({bandit.arms[i]: 2.0 for i in draw_arms(bandit, 2, seed=0)})
        best = min(best, (time.process_time() - since) / 200)
    assert best < 2e-4, best
