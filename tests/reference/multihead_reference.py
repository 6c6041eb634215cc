"""Multihead dilated attention by its definition, in float64: forward, backward, and a bound of the forward pass's rounding.

The yardstick of the library dilated_attention_nn, built on the attention's own (dilated_attention_reference.py). The formulas
are those of include/dilated_attention_nn.h; names and shapes of parameters, too. For a module small enough to be held as n x n
matrices: c_ij, the number of times query i sees key j, comes from the reference's keys_of; the attention is then one softmax.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from dilated_attention_reference import head_offset, keys_of


@dataclass
class Module:
    embed_dim: int
    num_heads: int
    kv_heads: int
    segments: list
    rates: list
    bias: bool = True
    layer_norm: bool = True
    qk_layer_norm: bool = False
    position: str = "none"           # "rope", "xpos"
    rotary_layout: str = "adjacent"  # "halves"
    eps: float = 1e-5
    rope_base: float = 10000.0
    xpos_scale_base: float = 512.0
    scale: float | None = None
    causal: bool = False
    window: int | None = None
    mixing: str = "longnet"
    offset_rule: str = "mod"
    tail_rule: str = "mask"
    overlap: str = "count"
    dropout: float = 0.0             # to apply
    seed: int = 0
    weights: dict = field(default_factory=dict)

    @property
    def head_dim(self):
        return self.embed_dim // self.num_heads

    @property
    def key_width(self):
        return self.kv_heads * self.head_dim

    def shapes(self):
        e, k = self.embed_dim, self.key_width
        shapes = {"q_proj.weight": (e, e), "k_proj.weight": (k, e), "v_proj.weight": (k, e)}
        if self.bias:
            shapes |= {"q_proj.bias": (e,), "k_proj.bias": (k,), "v_proj.bias": (k,)}
        if self.qk_layer_norm:
            shapes |= {"q_ln.weight": (e,), "q_ln.bias": (e,), "k_ln.weight": (k,), "k_ln.bias": (k,)}
        if self.layer_norm:
            shapes |= {"norm.weight": (e,), "norm.bias": (e,)}
        shapes["out_proj.weight"] = (e, e)
        if self.bias:
            shapes["out_proj.bias"] = (e,)
        return shapes


# ---- who sees whom -------------------------------------------------------------------------------------------------

def patterns_of(m, h):
    patterns = list(zip(m.segments, m.rates))
    if m.mixing == "longnet":
        return [(w, r, head_offset(h, m.num_heads, r, m.offset_rule)) for w, r in patterns]
    group_of = []
    for g in range(len(patterns)):
        group_of += [g] * (m.num_heads // len(patterns) + (g < m.num_heads % len(patterns)))
    g = group_of[h]
    return [(*patterns[g], g % patterns[g][1])]


def groups_of(m):
    return len(m.segments) if m.mixing == "head_groups" else 1


def counts(m, n, h):
    """c (n, n), and the number of zero keys of each query."""
    c, zeros = np.zeros((n, n)), np.zeros(n)
    for w, r, off in patterns_of(m, h):
        for i in range(n):
            seen = keys_of(i, n, w, r, off, m.causal, m.tail_rule)
            if seen is not None:
                keys, z = seen
                c[i, keys.start:keys.stop:keys.step] += 1
                zeros[i] += z
    if m.window is not None:
        c[np.arange(n)[:, None] - np.arange(n)[None] > m.window] = 0
    return (np.minimum(c, 1) if m.overlap == "once" else c), zeros


# ---- dropout -------------------------------------------------------------------------------------------------------

def philox(words, key, multipliers, increments):
    """First word after 10 rounds of philox (Salmon et al., SC'11); words and key are lists of uint64 arrays below 2^32."""
    low = np.uint64(0xFFFFFFFF)
    words, key = [np.asarray(w, np.uint64) for w in words], [np.asarray(k, np.uint64) for k in key]
    for _ in range(10):
        if len(words) == 2:
            product = words[0] * np.uint64(multipliers[0])
            words = [(product >> np.uint64(32)) ^ key[0] ^ words[1], product & low]
        else:
            p0, p1 = words[0] * np.uint64(multipliers[0]), words[2] * np.uint64(multipliers[1])
            words = [(p1 >> np.uint64(32)) ^ words[1] ^ key[0], p1 & low, (p0 >> np.uint64(32)) ^ words[3] ^ key[1], p0 & low]
        key = [(k + np.uint64(i)) & low for k, i in zip(key, increments)]
    return words[0]


def dropout_factors(m, n, batch, h):
    """m_ij: 0 or 1 / (1 - dropout), as da_dropout_keeps says."""
    if m.dropout == 0:
        return np.ones((n, n))
    zero = np.uint64(0)
    of_head = philox([np.uint64(h), np.uint64(batch), zero, zero], [np.uint64(m.seed & 0xFFFFFFFF), np.uint64(m.seed >> 32)],
                     (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85))
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    words = philox([i, j], [of_head], (0xD256D193,), (0x9E3779B9,))
    return (words >= np.uint64(int(m.dropout * 2.0**32))) / (1 - m.dropout)


# ---- parts ---------------------------------------------------------------------------------------------------------

def standardise(x, eps):
    centred = x - x.mean(-1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return centred * scale, scale


def no_noise(value, size):
    return value


def layer_norm_backward(x, weight, grad, eps, noise=no_noise):
    """Gradients of x, weight and bias."""
    s, scale = standardise(x, eps)
    s, e = noise(s, None), noise(grad * weight, None)
    grad_x = scale * (e - e.mean(-1, keepdims=True) - s * (e * s).mean(-1, keepdims=True))
    over = tuple(range(x.ndim - 1))
    return grad_x, (grad * s).sum(over), grad.sum(over)


def turns(m, n):
    """cos, sin and s of the pairs (n, d / 2)."""
    d, p, i = m.head_dim, np.arange(m.head_dim // 2), np.arange(n)[:, None]
    angle = i * m.rope_base ** (-2.0 * p / d)
    s = np.ones_like(angle)
    if m.position == "xpos":
        s = ((2 * p + 0.4 * d) / (1.4 * d)) ** ((i - math.ceil(n / 2)) / m.xpos_scale_base)
    return np.cos(angle), np.sin(angle), s


def rotate(m, x, inverse_scale=False, backward=False, absolute=False):
    """x (batch, n, heads, d). absolute: with |cos| and |sin|, and no sign: how errors of x spread."""
    if m.position == "none":
        return x
    cosine, sine, s = turns(m, x.shape[1])
    cosine, sine = (t[:, None] * (1 / s if inverse_scale else s)[:, None] for t in (cosine, sine))
    sine = -sine if backward else sine
    sign = -1
    if absolute:
        cosine, sine, sign = abs(cosine), abs(sine), 1
    half = m.head_dim // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if m.rotary_layout == "adjacent" else (slice(half), slice(half, None))
    y = np.empty_like(x)
    y[..., first] = x[..., first] * cosine + sign * x[..., second] * sine
    y[..., second] = x[..., second] * cosine + x[..., first] * sine
    return y


# ---- forward -------------------------------------------------------------------------------------------------------

def forward(m, query, key, value, padding=None, noise=no_noise):
    """out (batch, n, E), and all that was on the way. `noise(value, size)` returns a value in the place of each result that
    is rounded on the way; `size` is the magnitude of its terms over the value's own, for sums."""
    w, (b, n, e), heads = m.weights, query.shape, m.num_heads
    t = {"inputs": (query, key, value), "padding": padding}
    joint = {}
    for part, x in zip("qkv", (query, key, value)):
        if part != "q" and padding is not None:
            x = np.where(padding[..., None], 0.0, x)  # it does not exist
        weight, bias = w[f"{part}_proj.weight"], w.get(f"{part}_proj.bias", 0.0)
        t[f"{part}_input"] = x
        t[f"{part}_terms"] = abs(x) @ abs(weight).T + abs(bias)
        joint[part] = noise(x @ weight.T + bias, t[f"{part}_terms"])
    t["plain"] = dict(joint)
    if m.qk_layer_norm:
        for part in "qk":
            s, _ = standardise(joint[part], m.eps)
            joint[part] = noise(s * w[f"{part}_ln.weight"] + w[f"{part}_ln.bias"], None)
    t["normed"] = dict(joint)
    for part, count in zip("qkv", (heads, m.kv_heads, m.kv_heads)):
        x = joint[part].reshape(b, n, count, m.head_dim)
        if part != "v":
            x = noise(rotate(m, x, inverse_scale=part == "k"), None)
        t[part] = noise(x, "stored")
    attend(m, t, noise)
    a = t["a"].reshape(b, n, e)
    if m.layer_norm:
        s, _ = standardise(a, m.eps)
        a = noise(s * w["norm.weight"] + w["norm.bias"], None)
    t["a_normed"] = a
    bias = w.get("out_proj.bias", 0.0)
    t["out_terms"] = abs(a) @ abs(w["out_proj.weight"]).T + abs(bias)
    t["out"] = noise(a @ w["out_proj.weight"].T + bias, t["out_terms"])
    return t["out"], t


def attend(m, t, noise=no_noise):
    """Fills in p (batch, heads, n, n), dropout factors, lse and a (batch, n, heads, d)."""
    b, n, heads, d = t["q"].shape
    scale = 1 / math.sqrt(d) if m.scale is None else m.scale
    t["p"], t["factors"] = np.zeros((b, heads, n, n)), np.ones((b, heads, n, n))
    t["lse"], t["a"] = np.full((b, heads, n), -np.inf), np.zeros((b, n, heads, d))
    t["terms"] = np.zeros((b, heads, n))
    for h in range(heads):
        c_all, zeros = counts(m, n, h)
        kv = h // (heads // m.kv_heads)
        for batch in range(b):
            c = c_all if t["padding"] is None else c_all * ~t["padding"][batch][None]
            score = noise(t["q"][batch, :, h] @ t["k"][batch, :, kv].T * scale,
                          abs(t["q"][batch, :, h]) @ abs(t["k"][batch, :, kv]).T * abs(scale))
            seen = (c > 0).any(1) | (zeros > 0)
            highest = np.where(c > 0, score, -np.inf).max(1)
            highest = np.where(zeros > 0, np.maximum(highest, 0), highest)
            highest = np.where(seen, highest, 0)
            with np.errstate(over="ignore", invalid="ignore"):
                p = np.where(c > 0, c * np.exp(score - highest[:, None]), 0)
            total = p.sum(1) + zeros * np.exp(-highest)
            t["terms"][batch, h] = (c > 0).sum(1) + zeros
            t["lse"][batch, h, seen] = (highest + np.log(np.where(seen, total, 1)))[seen]
            p = p / np.where(seen, total, 1)[:, None]
            factors = dropout_factors(m, n, batch, h)
            t["p"][batch, h], t["factors"][batch, h] = p, factors
            mixed = p * factors / groups_of(m)
            v = t["v"][batch, :, kv]
            t["a"][batch, :, h] = noise(noise(mixed @ v, mixed @ abs(v)), "stored")


# ---- backward ------------------------------------------------------------------------------------------------------

def backward(m, t, grad_out, noise=no_noise):
    """Gradients of the three inputs (dq, dk, dv) and of every parameter."""
    w, (b, n, e) = m.weights, grad_out.shape
    grads = {}
    rows = (0, 1)
    grads["out_proj.weight"] = noise(np.einsum("bno,bni->oi", grad_out, t["a_normed"]), None)
    if m.bias:
        grads["out_proj.bias"] = grad_out.sum(rows)
    da = noise(grad_out @ w["out_proj.weight"], abs(grad_out) @ abs(w["out_proj.weight"]))
    if m.layer_norm:
        da, grads["norm.weight"], grads["norm.bias"] = layer_norm_backward(t["a"].reshape(b, n, e), w["norm.weight"], da, m.eps,
                                                                             noise)
    da = noise(da, "stored").reshape(t["a"].shape)
    d = {part: noise(x, "stored") for part, x in zip("qkv", attention_backward(m, t, da, noise))}
    inputs = []
    for part, part_input in zip("qkv", t["inputs"]):
        x = d[part]
        if part != "v":
            x = rotate(m, x, inverse_scale=part == "k", backward=True)
        x = x.reshape(b, n, -1)
        if m.qk_layer_norm and part != "v":
            x, grads[f"{part}_ln.weight"], grads[f"{part}_ln.bias"] = layer_norm_backward(
                t["plain"][part], w[f"{part}_ln.weight"], x, m.eps, noise)
        x = noise(x, None)
        grads[f"{part}_proj.weight"] = np.einsum("bno,bni->oi", x, t[f"{part}_input"])
        if m.bias:
            grads[f"{part}_proj.bias"] = x.sum(rows)
        inputs.append(noise(x @ w[f"{part}_proj.weight"], abs(x) @ abs(w[f"{part}_proj.weight"])))
    return inputs, grads


def attention_backward(m, t, da, noise=no_noise):
    """dq, dk, dv by the formulas of da_attention_backward."""
    b, n, heads, d = t["q"].shape
    scale = 1 / math.sqrt(d) if m.scale is None else m.scale
    dq, dk, dv = (np.zeros_like(t[x]) for x in "qkv")
    for batch in range(b):
        for h in range(heads):
            kv = h // (heads // m.kv_heads)
            p, factors = t["p"][batch, h], t["factors"][batch, h] / groups_of(m)
            g, v = da[batch, :, h], t["v"][batch, :, kv]
            dv[batch, :, kv] += (p * factors).T @ g
            terms = g * t["a"][batch, :, h]
            inner = noise(terms.sum(1), abs(terms).sum(1))
            ds = p * (factors * noise(g @ v.T, abs(g) @ abs(v).T) - inner[:, None])
            dq[batch, :, h] += scale * ds @ t["k"][batch, :, kv]
            dk[batch, :, kv] += scale * ds.T @ t["q"][batch, :, h]
    return dq, dk, dv


# ---- a bound of the forward pass's rounding ------------------------------------------------------------------------

def forward_bound(m, t, u, u_stored, u_weights):
    """For every element of out, what rounding can make of it, to first order (tests/tolerances.md, "The module").

    u: unit roundoff of the sums; u_stored: of q, k, v, a and out where they are stored; u_weights: of attention weights."""
    w, (b, n, e) = m.weights, t["inputs"][0].shape
    sums = 2 * math.sqrt(e) + 8
    error = {part: sums * u * t[f"{part}_terms"] for part in "qkv"}
    if m.qk_layer_norm:
        for part in "qk":
            error[part] = norm_bound(t["plain"][part], error[part], w[f"{part}_ln.weight"], w[f"{part}_ln.bias"], m.eps, u)
    for part in "qkv":
        shape = t[part].shape
        error[part] = error[part].reshape(shape)
        if part != "v":
            inverse = part == "k"
            error[part] = (rotate(m, error[part], inverse, absolute=True)
                           + (4 * u * rotate(m, abs(t["normed"][part]).reshape(shape), inverse, absolute=True)
                              if m.position != "none" else 0))
        error[part] = error[part] + u_stored * abs(t[part])
    a = attention_bound(m, t, error, u, u_weights)
    a = (a + u_stored * abs(t["a"])).reshape(b, n, e)
    if m.layer_norm:
        a = norm_bound(t["a"].reshape(b, n, e), a, w["norm.weight"], w["norm.bias"], m.eps, u)
    return a @ abs(w["out_proj.weight"]).T + sums * u * t["out_terms"] + u_stored * abs(t["out"])


def norm_bound(x, error, weight, bias, eps, u):
    """The Jacobian of a layer norm, with absolute values, on the error of x; then its own roundings."""
    s, scale = standardise(x, eps)
    width = x.shape[-1]
    # Own roundings: the mean is off by (2 sqrt(width) + 2) u mean|x|, like an error of x; the rest is relative.
    error = error + u * (abs(x) + (2 * math.sqrt(width) + 2) * abs(x).mean(-1, keepdims=True))
    spread = error + error.mean(-1, keepdims=True) + abs(s) * (abs(s) * error).mean(-1, keepdims=True)
    return (scale * spread * abs(weight) + (2 * math.sqrt(width) + 8) * u * abs(s * weight)
            + 2 * u * (abs(s * weight) + abs(bias)))


def attention_bound(m, t, error, u, u_weights):
    """As in tests/tolerances.md, with errors of q, k and v beside the roundings."""
    b, n, heads, d = t["q"].shape
    scale = abs(1 / math.sqrt(d) if m.scale is None else m.scale)
    out = np.zeros_like(t["a"])
    for batch in range(b):
        for h in range(heads):
            kv = h // (heads // m.kv_heads)
            p, factors = t["p"][batch, h], t["factors"][batch, h] / groups_of(m)
            q, k, v, a = abs(t["q"][batch, :, h]), abs(t["k"][batch, :, kv]), t["v"][batch, :, kv], t["a"][batch, :, h]
            size = scale * q @ k.T
            of_score = (d + 8) * u * size + scale * (error["q"][batch, :, h] @ k.T + q @ error["k"][batch, :, kv].T)
            growth = np.exp(2 * np.where(p > 0, of_score, 0).max(1, keepdims=True))
            mixed = p * factors
            # sum_j p_j e_j |m_j v_j - a|
            spread = sum_of_spread(p * of_score, factors, v, a)
            terms = t["terms"][batch, h][:, None]
            out[batch, :, h] = (growth * spread + mixed @ error["v"][batch, :, kv]
                                + ((2 * np.sqrt(terms) + 8) * u + u_weights) * (mixed @ abs(v)))
    return out


def sum_of_spread(weights, factors, v, a):
    total = np.empty_like(a)
    for c in range(a.shape[1]):
        total[:, c] = (weights * abs(factors * v[None, :, c] - a[:, c, None])).sum(1)
    return total
