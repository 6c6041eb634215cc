"""Dropout and gradients of dilated attention by their definition, in float64.

It continues dilated_attention_reference.py, whose vocabulary and options it shares and which says who sees whom. Written
to be read: one head of one batch row at a time, as matrices over (query i, key j), whatever the memory.

With c_ij the multiplicity of a pair (0: not seen), z_i the zero keys of a query, m_ij the factor of dropout (0 or
1 / (1 - dropout); 1 without) and g the number of groups under mixing="head_groups" (else 1):

    s_ij = scale <q_i, k_j>       lse_i = log(sum_j c_ij exp(s_ij) + z_i)
    p_ij = c_ij exp(s_ij - lse_i) out_i = sum_j p_ij m_ij v_j / g

Dropout drops a pair with all its multiplicity, and lse does not see it. For a loss L with dL/dout = grad_out and
dL/dlse = grad_lse, the chain rule gives, since dlse_i/ds_ij = p_ij and dp_ij/ds_il = p_ij (1[j = l] - p_il):

    dp_ij = m_ij / g <grad_out_i, v_j>           (dL/dp_ij, were lse constant)
    d_i   = sum_j p_ij dp_ij = <grad_out_i, out_i>
    ds_ij = p_ij (dp_ij - d_i + grad_lse_i)
    grad_q_i = scale sum_j ds_ij k_j,   grad_k_j = scale sum_i ds_ij q_i,   grad_v_j = sum_i p_ij m_ij / g grad_out_i

A zero key has score 0 and value 0 whatever q, k and v are, so that it enters through lse alone.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dilated_attention_reference import head_offset, is_kept, keys_of


# ---- dropout: philox (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11) -----------

WORD = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def words(*values):
    return [np.asarray(value, np.uint64) & WORD for value in values]


def philox_2x32(counter, key, rounds=10):
    """Both words of philox_2x32; arrays are taken element by element."""
    left, right = words(*counter)
    key, = words(key)
    for _ in range(rounds):
        product = left * np.uint64(0xD256D193)
        left, right = (product >> HALF) ^ key ^ right, product & WORD
        key = (key + np.uint64(0x9E3779B9)) & WORD
    return left, right


def philox_4x32(counter, key, rounds=10):
    """All four words of philox_4x32."""
    c0, c1, c2, c3 = words(*counter)
    k0, k1 = words(*key)
    for _ in range(rounds):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (second >> HALF) ^ c1 ^ k0, second & WORD, (first >> HALF) ^ c3 ^ k1, first & WORD
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & WORD, (k1 + np.uint64(0xBB67AE85)) & WORD
    return c0, c1, c2, c3


def dropout_keeps(dropout, seed, batch, head, query, key):
    """Whether dropout keeps the weight of a pair; query and key may be arrays."""
    of_head = philox_4x32((head, batch, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))[0]
    return philox_2x32((query, key), of_head)[0] >= np.uint64(int(dropout * 2.0 ** 32))


# ---- who sees whom ---------------------------------------------------------------------------------------------------

def multiplicities(n, heads, head, segment_lengths, dilation_rates, *, causal=False, mixing="longnet",
                   offset_rule="mod", tail_rule="mask", overlap="count", window=None):
    """c (n, n) and z (n), padding apart."""
    patterns = list(zip(segment_lengths, dilation_rates))
    if mixing == "head_groups":
        larger = heads % len(patterns)
        sizes = [heads // len(patterns) + (g < larger) for g in range(len(patterns))]
        g = next(g for g in range(len(patterns)) if head < sum(sizes[:g + 1]))
        mine = [(*patterns[g], g % patterns[g][1])]
    else:
        mine = [(w, r, head_offset(head, heads, r, offset_rule)) for w, r in patterns]
    count, zeros = np.zeros((n, n)), np.zeros(n)
    for i in range(n):
        for w, r, offset in mine:
            seen = keys_of(i, n, w, r, offset, causal, tail_rule)
            if seen is not None:
                count[i, list(seen[0])] += 1
                zeros[i] += seen[1]
    if overlap == "once":
        count = np.minimum(count, 1)
    if window is not None:
        i, j = np.indices((n, n), sparse=True)
        count[i - j > window] = 0
    return count, zeros


# ---- one head of one batch row ---------------------------------------------------------------------------------------

@dataclass
class HeadPass:
    """What the formulae above name, of one head of one batch row."""
    c: np.ndarray       # (n, n)
    zeros: np.ndarray   # (n)
    m: np.ndarray       # (n, n), m_ij / g
    p: np.ndarray       # (n, n)
    lse: np.ndarray     # (n)
    out: np.ndarray     # (n, head_dim)
    dp: np.ndarray = None
    d: np.ndarray = None
    ds: np.ndarray = None


def head_forward(q, k, v, c, zeros, scale, m):
    s = np.where(c > 0, q @ k.T * scale, -np.inf)
    largest = np.maximum(s.max(axis=1), np.where(zeros > 0, 0.0, -np.inf))
    reference = np.where(np.isinf(largest), 0, largest)[:, None]
    weight = c * np.exp(s - reference)
    total = weight.sum(axis=1) + zeros * np.exp(np.where(zeros > 0, -reference[:, 0], 0))
    has_keys = total > 0
    total = np.where(has_keys, total, 1)
    p = weight / total[:, None]
    lse = np.where(has_keys, reference[:, 0] + np.log(total), -np.inf)
    return HeadPass(c=c, zeros=zeros, m=m, p=p, lse=lse, out=(p * m) @ v)


def head_backward(head, v, grad_out, grad_lse):
    head.dp = head.m * (grad_out @ v.T)
    head.d = (grad_out * head.out).sum(axis=1)
    head.ds = head.p * (head.dp - head.d[:, None] + grad_lse[:, None])


# ---- whole tensors ---------------------------------------------------------------------------------------------------

def head_passes(q, k, v, segment_lengths, dilation_rates, grad_out=None, grad_lse=None, *, scale=None,
                key_padding=None, dropout=0.0, seed=0, mixing="longnet", tiles=None, **options):
    """Yields (batch, head, kv_head, q, k, v, HeadPass). Padded keys and values come as zeros: they may hold anything."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    batch, n, heads, head_dim = q.shape
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    groups = len(segment_lengths) if mixing == "head_groups" else 1
    for h in range(heads):
        count, zeros = multiplicities(n, heads, h, segment_lengths, dilation_rates, mixing=mixing, **options)
        kv = h // (heads // k.shape[2])
        for b in range(batch):
            exists = np.ones(n, bool) if key_padding is None else ~np.asarray(key_padding[b], bool)
            m = np.full((n, n), 1 / groups)
            if dropout > 0:
                kept = dropout_keeps(dropout, seed, b, h, *np.indices((n, n), sparse=True))
                m = np.where(kept, m / (1 - dropout), 0)
            keys, values = (np.where(exists[:, None], x[b, :, kv], 0) for x in (k, v))
            seen = count * exists * is_kept(tiles, b, h, *np.indices((n, n), sparse=True))
            one = head_forward(q[b, :, h], keys, values, seen, zeros, scale, m)
            if grad_out is not None:
                head_backward(one, values, grad_out[b, :, h], np.zeros(n) if grad_lse is None else grad_lse[b, :, h])
            yield b, h, kv, q[b, :, h], keys, values, one


def dilated_attention_dropout(q, k, v, segment_lengths, dilation_rates, **options):
    """dilated_attention(), with dropout and seed among the options."""
    out, lse = np.zeros(np.shape(q)), np.zeros(np.shape(q)[:3])
    for b, h, _, _, _, _, one in head_passes(q, k, v, segment_lengths, dilation_rates, **options):
        out[b, :, h], lse[b, :, h] = one.out, one.lse
    return out, lse


def dilated_attention_gradient(q, k, v, segment_lengths, dilation_rates, grad_out, grad_lse=None, *, scale=None,
                               **options):
    """The gradients of q, k and v. grad_out like q; grad_lse (batch, n, heads), None: zero."""
    grad_q, grad_k, grad_v = np.zeros(np.shape(q)), np.zeros(np.shape(k)), np.zeros(np.shape(v))
    scale = 1 / math.sqrt(np.shape(q)[3]) if scale is None else scale
    for b, h, kv, queries, keys, _, one in head_passes(q, k, v, segment_lengths, dilation_rates, grad_out, grad_lse,
                                                       scale=scale, **options):
        grad_q[b, :, h] = scale * one.ds @ keys
        grad_k[b, :, kv] += scale * one.ds.T @ queries
        grad_v[b, :, kv] += (one.p * one.m).T @ grad_out[b, :, h]
    return grad_q, grad_k, grad_v
