"""The default engine: surrogates with uncertainty for what is dear, exact values for what is not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.acquisition import Marginals, expected_improvement, reference_point
from hwsearch.engines.base import ExactLosses, SearchEngine, fresh_samples
from hwsearch.engines.encoding import Encoding
from hwsearch.engines.evolve import evolve
from hwsearch.engines.initial import extremes, farthest_first, spread_sample
from hwsearch.engines.surrogate import GaussianProcess, Hyper, Posterior, Warp
from hwsearch.results import History, State
from search_spaces.space import Population, SearchSpace, not_in, unique_rows

FloatArray = NDArray[np.float64]

class ParetoSearch(SearchEngine):
    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        initial: int | None = None,
        design: str = 'energy',
        views: str = 'nw',
        margin: float = 0.1,
        enumerate_limit: int = 10000,
        inner: int = 6000,
        power: float = 4.0,
        pending_front: bool = True, own: float = 1.0, calib: bool = False, rounds: int = 0, kids: int = 256, top: int = 32, survive: int = 256, offspring: int = 512,
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        self.initial = initial or int(np.clip(8 + space.n_genes // 4, 10, 24))
        self.design=design; self.views=views; self.margin=margin; self.enumerate_limit=enumerate_limit; self.inner=inner; self.power=power; self.own=own; self.calib=calib; self.rounds=rounds; self.kids=kids; self.top=top; self.survive=survive; self.offspring=offspring
        self._hypers = {}

    @cached_property
    def _small(self):
        return self.space.enumerate(self.enumerate_limit) if self.space.size() <= self.enumerate_limit else None
    @cached_property
    def _exact_columns(self):
        if self.exact is None: return np.zeros(0, dtype=np.intp)
        v = self.exact(self.space.sample(8, np.random.default_rng(0)))
        return np.flatnonzero(~np.isnan(v).any(axis=0))
    def costs(self, P):
        if len(self._exact_columns) == 0: return np.zeros((len(P), 0))
        if self._small is not None and len(P)==len(self._small) and P is self._small: return self._small_costs
        return self.exact(P)[:, self._exact_columns]
    @cached_property
    def _small_costs(self): return self.exact(self._small)[:, self._exact_columns]
    @cached_property
    def _small_features(self): return self.encoding.features(self._small)
    def _extra(self, P):
        c = self.costs(P)
        return np.where(self._positive, np.log(np.maximum(c,1e-300)), c)
    @cached_property
    def encoding(self):
        rng = np.random.default_rng([self.seed, 0])
        ref = spread_sample(self.space, 1024, rng)
        extra=None
        if len(self._exact_columns):
            self._positive = (self.costs(ref) > 0).all(axis=0)
            extra = self._extra
        return Encoding(self.space, ref, extra=extra)
    @cached_property
    def _design(self):
        rng = np.random.default_rng([self.seed, 1])
        pool = unique_rows(np.concatenate([spread_sample(self.space, 1500, rng), self.space.sample(500, rng)]))
        if self._small is not None: pool=rng.permutation(self._small)
        c = self.costs(pool)
        ends = extremes(self.space, pool, c)
        n = max(self.initial, 64)
        if self.design=='energy':
            if self._small is not None:
                pool=unique_rows(np.concatenate([spread_sample(self.space, 700, rng), self.space.sample(300, rng)]))
            else: pool=pool[rng.permutation(len(pool))[:1000]]
            return np.concatenate([ends, farthest_first(self.encoding, ends, pool, n-len(ends), power=self.power)])
        if self.design=='strat':
            o=np.argsort(c[:,0],kind='stable'); e=np.linspace(0,len(o),self.initial-1).astype(int)
            r=[o[rng.integers(a,b)] for a,b in zip(e[:-1],e[1:])]
            return unique_rows(np.concatenate([ends,pool[r],pool[rng.permutation(len(pool))[:80]]]))[:64]

    def propose(self, history: History, count: int) -> Population:
        rng = self.rng(history)
        chosen = history.genotypes[:0]
        n_labels = [(~np.isnan(history.losses[:, j]) & (history.state != State.FAILED)).sum() for j in range(self.n_objectives) if j not in self._exact_columns]
        ready = min(n_labels, default=99) >= 4
        want = count if not ready else min(count, max(0, self.initial - len(history)))
        if want:
            rows = self._design[not_in(self._design, history.genotypes)]
            chosen = rows[:want]
        if len(chosen) < count and ready:
            chosen = np.concatenate([chosen, self._model_based(history, chosen, count - len(chosen), rng)])
        seen = np.concatenate([history.genotypes, chosen])
        return np.concatenate([chosen, fresh_samples(self.space, seen, count - len(chosen), rng)])

    def _hyper(self, j, X, y, st):
        n = len(y)
        cut = 4
        while cut < n: 
            nxt = max(cut+2, int(cut*1.12))
            if nxt > n: break
            cut = nxt
        key = (j, X[:cut].tobytes(), y[:cut].tobytes())
        if key not in self._hypers:
            if len(self._hypers)>20: self._hypers.clear()
            sub = np.arange(cut)
            if cut > 200:
                o = np.argsort(y[:cut], kind='stable'); sub = np.unique(np.concatenate([o[:100], o[100::max(1,(cut-100)//100)]]))
            self._hypers[key] = GaussianProcess(self.encoding.block_maps).fit(X[sub], y[sub], stds=st[sub])
        return self._hypers[key]

    def _model_based(self, history, chosen, count, rng):
        m = self.n_objectives
        ok = (history.state != State.FAILED)
        exact = set(self._exact_columns.tolist())
        X = self.encoding.features(history.genotypes)
        hist_cost = self.costs(history.genotypes)
        post = {}
        Y = history.losses.copy()
        Z = np.zeros_like(Y)
        warps = {}
        for i, j in enumerate(self._exact_columns):
            Y[:, j] = hist_cost[:, i]
        pend_chosen = self.encoding.features(chosen)
        full = np.ones(len(history), bool)
        for j in range(m):
            if j in exact: continue
            lab = ok & np.isfinite(history.losses[:, j])
            full &= lab
            pend = (history.state == State.RUNNING) & ~lab
            h = self._hyper(j, X[lab], history.losses[lab, j], history.stds[lab, j])
            post[j] = Posterior(self.encoding.block_maps, h, X[lab], history.losses[lab, j], stds=history.stds[lab, j], pending=np.concatenate([X[pend], pend_chosen]))
            warps[j] = post[j].warp
            if pend.any():
                mu = post[j].mean(X[pend]); w = post[j].warp
                Y[pend, j] = w.end + w.span*np.exp(w.scale*mu + w.center)
        for i, j in enumerate(self._exact_columns):
            v = Y[full, j]; warps[j] = Warp.of(v, 0.05)
        usable = ok & np.isfinite(Y).all(axis=1)
        Yf = Y[usable]
        Zf = np.stack([warps[j].forward(Yf[:, j]) for j in range(m)], 1)
        # candidates
        seen = np.concatenate([history.genotypes, chosen])
        if self._small is not None:
            pool = self._small; F = self._small_features; C = self._small_costs if len(exact) else np.zeros((len(pool), 0))
        else:
            pool = self._candidates(history, Yf, usable, post, warps, rng, seen); F = self.encoding.features(pool); C = self.costs(pool)
        proj = {j: post[j].project(F) for j in post}
        def marg(view, proj, C):
            out = []
            for j in range(m):
                w = warps[j]
                if j in exact:
                    c = C[:, list(self._exact_columns).index(j)]
                    out.append(Marginals(c if view == 'n' else w.forward(c), np.zeros(len(c))))
                else:
                    mu, var = proj[j][0], proj[j][1]
                    sd = infl[j]*np.sqrt(var + self.own*post[j].peculiar(mu))
                    if view == 'n': out.append(Marginals(w.scale*mu + w.center, w.scale*sd, w.end, w.span))
                    else: out.append(Marginals(mu, sd))
            return out
        infl = {}
        for j in post:
            lm, ls = post[j].leave_one_out()
            infl[j] = float(np.clip(np.sqrt(np.mean(((post[j].z-lm)/ls)**2)), 1, 3)) if self.calib else 1.0
        fronts = {}
        for v in self.views:
            D = Yf if v == 'n' else Zf
            f = D[pareto.front(D)]
            fronts[v] = (f, reference_point(f, self.margin))
        picks = []
        blocked = ~not_in(pool, seen)
        tot = np.zeros(len(pool))
        for v in self.views:
            a = expected_improvement(marg(v, proj, C), *fronts[v]); a[blocked] = 0
            tot += a / (a.max() + 1e-300)
        tot[blocked] = -1
        self.last_gain = tot.max()
        if self._small is None and self.rounds:
            scale = {v: 1e-300 for v in self.views}
            parts = {v: expected_improvement(marg(v, proj, C), *fronts[v]) for v in self.views}
            scale = {v: parts[v].max() + 1e-300 for v in self.views}
            a0 = tot.max()
            for _ in range(self.rounds):
                o = np.argsort(-tot, kind='stable')[:self.top]
                A = pool[rng.choice(o, self.kids)]; B = pool[rng.choice(o, self.kids)]
                half = self.kids//2
                K = np.concatenate([A[:half], self.space.crossover(A[half:], B[half:], rng)])
                K = unique_rows(self.space.mutate(K, rng, 1.0/self.space.n_genes))
                K = K[not_in(K, np.concatenate([seen, pool]))]
                if not len(K): break
                FK = self.encoding.features(K); CK = self.costs(K); PK = {j: post[j].project(FK) for j in post}
                t2 = sum(expected_improvement(marg(v, PK, CK), *fronts[v])/scale[v] for v in self.views)
                pool = np.concatenate([pool, K]); F = np.concatenate([F, FK]); C = np.concatenate([C, CK]); tot = np.concatenate([tot, t2]); blocked=np.concatenate([blocked,np.zeros(len(K),bool)])
                proj = {j: tuple(np.concatenate([a,b],axis=-1) for a,b in zip(proj[j],PK[j])) for j in post}
            self.gain_ratio = tot.max()/a0
        picks.append(int(np.argmax(tot)))
        if count > 1:
            keep = np.argsort(-tot, kind='stable')[:400]
            keep = keep[tot[keep] >= 0]
            pool, F, C = pool[keep], F[keep], C[keep]
            proj = {j: (p[0][keep], p[1][keep].copy(), p[2][:, keep]) for j, p in proj.items()}
            taken = np.zeros(len(pool), bool); last = 0
            out = [pool[0]]; taken[0] = True
            while len(out) < min(count, len(pool)):
                for j, p in proj.items():
                    cov = post[j].prior(F, F[last]) - p[2].T @ p[2][:, last]
                    row = cov / np.sqrt(p[1][last] + post[j].peculiar(p[0][last:last+1])[0])
                    var = np.maximum(p[1] - row**2, 1e-10)
                    proj[j] = (p[0], var, np.concatenate([p[2], row[None]]))
                tot = np.zeros(len(pool))
                for v in self.views:
                    mm = marg(v, proj, C)
                    f, r = fronts[v]
                    f = np.concatenate([f, [[q.at(last) for q in mm]]]); f = f[pareto.front(f)]
                    fronts[v] = (f, r)
                    a = expected_improvement(mm, f, r); a[taken] = 0
                    tot += a / (a.max() + 1e-300)
                tot[taken] = -1
                last = int(np.argmax(tot)); taken[last] = True; out.append(pool[last])
            return np.stack(out)
        if tot[picks[0]] < 0: return pool[:0]
        return pool[picks]

    def _candidates(self, history, Yf, usable, post, warps, rng, seen):
        m = self.n_objectives
        exact = list(self._exact_columns)
        beta = rng.choice([0.0, 0.5, 1.0])
        def losses(P):
            F = self.encoding.features(P); C = self.costs(P); out = np.empty((len(P), m))
            for j in range(m):
                if j in exact: out[:, j] = C[:, exact.index(j)]
                elif beta == 0: out[:, j] = post[j].mean(F)
                else:
                    mu, sd = post[j].predict(F); out[:, j] = mu - beta*sd
            return out
        rows = history.genotypes[usable]
        r = pareto.ranks(Yf)
        start = rows[np.argsort(r, kind='stable')[:128]]
        e = evolve(self.space, losses, rng=rng, n_candidates=self.inner, survive=self.survive, offspring=self.offspring, start=np.concatenate([start, spread_sample(self.space, 256, rng)]))
        pool = e.population
        front_rows = rows[r == 0]
        near = self.space.mutate(front_rows[rng.integers(0, len(front_rows), 512)], rng, 1.0/self.space.n_genes)
        pool = unique_rows(np.concatenate([pool, near]))
        return pool[not_in(pool, seen)]
