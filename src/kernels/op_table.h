// The primitives that every CPU instruction set provides: plain structs and function pointers.
//
// One table per instruction set (generic, avx2, avx512, ...) and one plain reference. A primitive
// runs on the calling thread, allocates nothing, and its results for a row depend on that row
// alone: not on how many rows come with it, on the thread or on the panel range. kernels/op_set.h
// checks shapes and spreads primitives over a thread team; nothing else calls them.
//
// This header is included by files compiled for different instruction sets, so it must not define
// functions (STYLE.md, "Kernels": the linker would keep one copy for all).
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace causeway {

// Columns of a packed weight panel, tokens of a KV page, and keys of an attention block.
inline constexpr int64_t kPanel = 64;
inline constexpr int64_t kPage = 64;
// Selected keys of a step of AbsorbedAttentionArgs' softmax.
inline constexpr int64_t kSelectedBlock = 256;
// Panels narrower than kPanel (the last of a matrix) are a multiple of this many columns.
inline constexpr int64_t kPanelGranule = 16;
// Columns at most of a run of an fp8 product that has several: a run is decoded to scratch at once.
inline constexpr int64_t kFp8Run = 8192;
// Floats of DenseAttentionArgs' state beside its sums of values.
inline constexpr int64_t kDenseStateFloats = 192;
// What `scratch` of any primitive must hold at least, aligned to 64 bytes.
inline constexpr int64_t kScratchBytes = 4 << 20;

// Packed weights W [n, k], y = x W^T, type T with g elements per group (f32: 1, bf16: 2, int8: 4):
//   panels of 64 columns (the last one narrower: n % 64 rounded up to 16), panel p starts at
//   element p * 64 * k', k' = k rounded up to a multiple of g, and holds [k'/g][width][g];
//   absent rows and columns are zero.
// fp8: groups of 4 along k, a byte a weight, [k/4][width/4][2][4][2]: for four columns the pairs of
//   elements 0 and 1 of the group, then those of 2 and 3, as they unpack to two groups of bf16. k
//   is a multiple of 4. A weight is bf16(e4m3 * scale), each step rounded to nearest even,
//   denormals flushed; a panel has one scale for each block of k_block columns.
// Example, bf16: W[70, 5] (row 70 = 64 + 6, k = 5 -> k' = 6) lies in panel 1 of width 16 at
//   1 * 64 * 6 + (5 / 2) * 16 * 2 + 6 * 2 + 5 % 2.
// fp8: row 69 = 64 + 5 and column 7 of W[70, 8] at
//   1 * 64 * 8 + (7 / 4) * 16 * 4 + (5 / 4) * 16 + (7 % 4 / 2) * 8 + (5 % 4) * 2 + 7 % 2.
enum class Epilogue : uint8_t {
  kStoreF32,   // c = y
  kStoreBf16,  // c = bf16(y)
  kAddF32,     // c = c + c_scale[i] * y   (a multiplication and an addition; c_scale null: c + y)
  kStoreI32,   // int8 only: c = the exact sum, before its scales
  // c = silu(y) * y', in the arithmetic of SiluMulArgs, where y' is the column n / 2 further: W is
  // two matrices, gate and up. n / 2 is a multiple of kPanel, and panels are of the first half.
  kSiluMulF32,
  kSiluMulBf16,  // the same, rounded once
};

// y[i, j] = sum over k of a[row(i), k] * W[j, k] for i in [0, m) and the columns of the panels
// [panel_begin, panel_end).
//
// Order of the sum, the same for every m: k is cut in `segments` equal runs; inside a run one
// accumulator starts at zero and walks k upward
//   f32:  acc = fma(a, w, acc)           (mul and add where the CPU has no fma)
//   bf16: in pairs, acc = fma(a[2p], w[2p], fma(a[2p+1], w[2p+1], acc)): the bits of vdpbf16ps,
//         with denormals flushed; k must be even, and k / segments too. (Without fma the same bits
//         too, because a product of bf16 values is exact, unless it is below 2^-126.)
//   fp8: as bf16, with the weight's bf16 value; k / segments is a multiple of 4, and with several
//         segments at most kFp8Run
//   int8: exact int32, then y = (float(sum) * a_scale[row(i)]) * w_scale[j]; segments is ignored
// and the runs' results are added in a binary tree: run 0 + run 1, run 2 + run 3, then pairs of
// those, ... (lower + higher).
struct GemmArgs {
  DType type;             // of a and W; fp8: of W, a is bf16
  const void* a;          // [*, k], int8: rows padded with zeros to a multiple of 4
  int64_t a_stride;       // elements between rows
  const int32_t* a_rows;  // row(i); null: i
  int64_t m;
  const void* w;  // packed [n, w_k]
  int64_t n;
  int64_t k;
  int64_t w_k;      // 0: k. Else the product takes k columns of W from k_begin on
  int64_t k_begin;  // a multiple of the group
  int64_t panel_begin;
  int64_t panel_end;
  int32_t segments;       // a power of two that divides k (bf16: k / 2)
  const float* a_scale;   // int8: indexed by row(i)
  const float* w_scale;   // int8: [n]; fp8: [panels, ceil((k_offset + w_k) / k_block)]
  const int32_t* w_sum;   // int8: [n], sum of W[j, k] over the k that the product takes
  void* c;                // [*, n]; column j of row i at c + c_row(i) * c_stride + j
  int64_t c_stride;       // elements
  const int32_t* c_rows;  // c_row(i); null: i
  const float* c_scale;   // [m], kAddF32 only; may be null
  Epilogue epilogue;
  void* scratch;
  int64_t k_block;  // fp8: columns of a scale's block, a multiple of 4
  int64_t
      k_offset;  // fp8: columns of W's first block that lie before it: less, and a multiple of 4
};

// RMSNorm and LayerNorm of rows, all in f32: the sum of squares in 16 interleaved lanes (lane j
// adds the elements j, j + 16, ... in order), the lanes added in a binary tree: lane j + lane j +
// 8, of these j + 4, then 2, then 1.
//   rms:   y = (x * (1 / sqrt(mean(x^2) + eps))) * weight
//   layer: y = ((x - mean) * (1 / sqrt(var + eps))) * weight + bias, var = mean((x - mean)^2)
struct NormArgs {
  const float* x;  // [m, n]
  int64_t x_stride;
  int64_t m;
  int64_t n;
  const float* weight;          // [n]
  const float* bias = nullptr;  // [n], layer norm only
  float eps;
  float* out_f32 = nullptr;  // [m, n] or null
  int64_t out_f32_stride = 0;
  uint16_t* out_bf16 = nullptr;  // [m, n] or null: the f32 result rounded once
  int64_t out_bf16_stride = 0;
};

// Rotates rope_dim values of every head by the row's position and stores all head_dim values in
// `type`. Pair i is (x[2i], x[2i+1]) if interleaved, else (x[i], x[i + rope_dim/2]):
//   y0 = x0 * cos - x1 * sin,  y1 = x0 * sin + x1 * cos       (each product rounded, then the sum)
struct RotateArgs {
  const float* x;  // [m, heads, head_dim], heads adjacent
  int64_t x_stride;
  int64_t m;
  int64_t heads;
  int64_t head_dim;
  int64_t rope_begin;  // first rotated value of a head
  int64_t rope_dim;
  bool interleaved;
  const float* cos;          // [positions, rope_dim / 2]
  const float* sin;          // [positions, rope_dim / 2]
  const int32_t* positions;  // [m], index into cos and sin
  DType type;                // f32 or bf16
  void* out;                 // [m, heads, head_dim]
  int64_t out_stride;
};

// out = silu(gate) * up, silu(x) = x / (1 + exp(-x)), in f32 and rounded once.
struct SiluMulArgs {
  const float* gate;  // [m, n]
  const float* up;    // [m, n]
  int64_t in_stride;
  int64_t m;
  int64_t n;
  DType type;  // f32 or bf16
  void* out;   // [m, n]
  int64_t out_stride;
};

// Symmetric int8 per row: amax = max(|x|, 1e-10), scale = amax / 127,
// q = round_half_away_from_zero(x * (127 / amax)); the row is padded with zeros to out_stride.
// Where a row is a part of a longer one, row_amax gives max(|x|) of the whole.
struct QuantizeArgs {
  DType type;  // f32 or bf16
  const void* x;
  int64_t x_stride;
  int64_t m;
  int64_t k;
  int8_t* out;                      // [m, out_stride]
  int64_t out_stride;               // k rounded up to a multiple of 4
  float* scale;                     // [m]
  const float* row_amax = nullptr;  // [m]; null: of the row as it is
};

// Cached rows in int8, without gaps: `latent` values, `rope` values, then an f32 scale for each of
// the two parts (kRowScaleBytes). Value i of a part is bf16(float(q[i]) * scale), each rounded
// once: this is what every reader of such a row computes with.
struct DequantizeArgs {
  const void* rows;  // [m] of latent + rope + kRowScaleBytes
  int64_t m;
  int64_t latent;
  int64_t rope;
  uint16_t* out;  // [m, latent + rope]
  int64_t out_stride;
};
inline constexpr int64_t kRowScaleBytes = 8;

// Rounds f32 rows to bf16.
struct ConvertArgs {
  const float* x;  // [m, n]
  int64_t x_stride;
  int64_t m;
  int64_t n;
  uint16_t* out;
  int64_t out_stride;
};

// Packs 64 keys and values of one head, as kv_b_proj expanded them, for DenseAttentionArgs.
// Values are rounded to `type` here. Keys from `valid` on become zero, whatever the input holds.
struct PackHeadArgs {
  DType type;       // f32 or bf16
  const float* kv;  // [64, nope + value]: k_nope then v of this head
  int64_t kv_stride;
  int64_t nope;
  int64_t value;
  int64_t rope;
  const void* k_pe;  // [64, rope] in `type`: the shared rotated key, from the cache
  int64_t k_pe_stride;
  int64_t valid;  // 1..64
  void* k_panel;  // packed weight with n = 64 keys, k = nope + rope: [(nope+rope)/g][64][g]
  void* v_panel;  // packed weight with n = value, k = 64 keys: panels of [64/g][width][g]
};

// Causal attention of one head over materialised keys and values, for queries of one 64-aligned
// block of positions. Flash style: for each page p in order (pages 0 .. first_position/64), in f32,
// with c = scale * log2(e):
//   s = q . k, -inf where the key's position > the query's, or it is not selected
//   m' = max(m, max(s) * c); e = 2^fma(s, c, -m'); l = l * 2^(m - m') + sum e;
//   o = o * 2^(m - m') + e v
// with e rounded to `type` before the product with v (the sum l takes the unrounded e), and at the
// end out = o / l. m starts at a finite value, so that a page without a key for a row changes
// nothing of that row; a row must see one key at least. The products follow the order of GemmArgs
// with one segment, o taken as the initial value of the accumulator in o + e v. The sum of e: 16
// interleaved lanes over the 64 keys, then the binary tree of NormArgs. 2^x is a polynomial with
// the same bits on every instruction set with fma; the reference takes std::exp2, from which it
// differs by 2e-7 (f32) or 3e-6 (bf16).
//
// With a state, a call computes pages [page_begin, page_end) only and calls walk all pages upward,
// so that several blocks of queries can take their turns at pages that lie in the cache. The call
// with the last page writes `out`.
struct DenseAttentionArgs {
  DType type;     // f32 or bf16
  const void* q;  // [m, nope + rope]
  int64_t q_stride;
  int64_t m;               // 1..64
  int64_t first_position;  // query i stands at first_position + i; all in one 64-aligned block
  int64_t key_dim;         // nope + rope
  int64_t value_dim;
  const void* k_panels;  // page p at k_panels + p * k_page_stride (elements)
  int64_t k_page_stride;
  const void* v_panels;  // page p at v_panels + p * v_page_stride
  int64_t v_page_stride;
  float scale;  // >= 0
  void* out;    // [m, value_dim] in `type`
  int64_t out_stride;
  void* scratch;
  // Bit j of selected[i * selected_stride + p]: query i sees key p * 64 + j. Null: all up to its
  // own.
  const uint64_t* selected = nullptr;
  int64_t selected_stride = 0;
  // Aligned to 64, kDenseStateFloats and 64 for each of value_dim rounded up to kPanelGranule; the
  // call with page 0 sets it. Null: all pages in this call.
  float* state = nullptr;
  int64_t page_begin = 0;
  int64_t page_end = 0;
};

// Absorbed (multi-query) attention of one query, `heads` heads, over selected keys: the key is the
// cached row [latent ; rope] and the value its first `latent` values. The selected positions are
// walked in ascending order in blocks of kSelectedBlock selected keys (the last may be shorter);
// for each block, in f32, with c = scale * log2(e):
//   s = q . k;  m' = max(m, max(s) * c);  e = 2^fma(s, c, -m')
//   l = l * 2^(m - m') + sum e;  o = o * 2^(m - m') + e v
// with e rounded to `type` before the product with v (the sum l takes the unrounded e), and at the
// end out = o * (1 / l). The product e v follows the order of GemmArgs with one segment, o taken
// as the initial value of the accumulator. The dot product q . k, in words of one float or two
// bf16: lane j of four adds the words j, j + 4, ... in the order of GemmArgs, then (lane 0 + lane
// 2) + (lane 1 + lane 3). The sum of e: the even keys of the block in order, the odd ones, then
// both. 2^x is a polynomial that differs from std::exp2 by 2e-7. Rows in int8 give the bits of the
// rows that DequantizeArgs makes of them.
struct AbsorbedAttentionArgs {
  DType type;     // f32 or bf16, of q, cache and out
  const void* q;  // [heads, latent + rope]
  int64_t q_stride;
  int64_t heads;
  int64_t latent;
  int64_t rope;
  const void* const* pages;  // page p: [64, latent + rope], dense; or int8_rows
  const int32_t* positions;  // [count] ascending; null: 0 .. count-1
  int64_t count;             // >= 1
  float scale;               // >= 0
  void* out;                 // [heads, latent] in `type`
  int64_t out_stride;
  void* scratch;
  bool int8_rows = false;  // pages hold rows as in DequantizeArgs; type is bf16
  // Memory that is read next, of which some comes to the second-level cache meanwhile. Or null.
  const void* next = nullptr;
  int64_t next_bytes = 0;
};

// Lightning indexer scores of m queries against the keys of pages [page_begin, page_end):
//   scores[i, s] = sum over h, upward from 0, of weight[i, h] * max(q[i, h] . k[s], 0)
// (acc = fma(weight, relu, acc); mul and add where the CPU has no fma), dot products in the order
// of GemmArgs. int8: the dot product is an exact int32, converted to f32 after the max; `weight`
// has the scale of q[i, h] in it, and the sum is multiplied by the scale of key s at the end.
// Not masked: s runs over whole pages, and the caller reads the causal part only.
struct IndexScoreArgs {
  DType type;     // f32, bf16 or int8
  const void* q;  // [m, heads, dim], heads adjacent
  int64_t q_stride;
  const float* weight;  // [m, heads]
  int64_t weight_stride;
  int64_t m;
  int64_t heads;
  int64_t dim;  // bf16: even; int8: a multiple of 4
  // Page p: packed weight with n = 64 keys, k = dim: [dim/g][64][g]. int8: every value with 128
  // added, as unsigned (what that adds to a dot product depends on the query alone), and the
  // keys' 64 scales, f32, behind the values.
  const void* const* key_pages;
  int64_t page_begin;
  int64_t page_end;
  float* scores;  // [m, *], column s - 64 * page_begin
  int64_t scores_stride;
  void* scratch;
};

// What a running top-k holds between its blocks of scores. Start with count and seen 0.
struct TopKCandidates {
  uint32_t* keys;      // [capacity]
  int32_t* positions;  // [capacity]
  int64_t capacity;    // at least k + kTopKSlack; twice k makes compactions rare
  int64_t count = 0;
  int64_t seen = 0;        // scores so far
  uint32_t threshold = 0;  // keys up to this one are out
};
inline constexpr int64_t kTopKSlack = 512;

// Adds the scores of the positions seen, seen + 1, ... to a running top-k. After the call with
// `last`, candidates->positions [0, min(k, seen)) are the k with the largest scores, ties to the
// lower position, ascending. -0 equals +0, a NaN is less than -inf. Returns candidates->count.
struct TopKArgs {
  const float* scores;  // [n]
  int64_t n;
  int64_t k;
  bool last;
  TopKCandidates* candidates;
  uint32_t* list;  // [capacity], scratch
};

struct OpTable {
  const char* name;  // "reference", "generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16"
  void (*gemm)(const GemmArgs&);
  void (*rms_norm)(const NormArgs&);
  void (*layer_norm)(const NormArgs&);
  void (*rotate)(const RotateArgs&);
  void (*silu_mul)(const SiluMulArgs&);
  void (*quantize)(const QuantizeArgs&);
  void (*dequantize)(const DequantizeArgs&);
  void (*convert)(const ConvertArgs&);
  void (*pack_head)(const PackHeadArgs&);
  void (*dense_attention)(const DenseAttentionArgs&);
  void (*absorbed_attention)(const AbsorbedAttentionArgs&);
  void (*index_scores)(const IndexScoreArgs&);
  int64_t (*top_k)(const TopKArgs&);
};

// Plain loops, written to be read; the tests compare every other table with it.
extern const OpTable kReferenceOps;
extern const OpTable kGenericOps;     // portable C++, any CPU
extern const OpTable kAvx2Ops;        // AVX2 and FMA
extern const OpTable kAvx512Ops;      // AVX-512 F, BW, DQ, VL; bf16 products by two f32 fma
extern const OpTable kAvx512VnniOps;  // and VNNI: vpdpbusd
extern const OpTable kAvx512Bf16Ops;  // and BF16 and VBMI: vdpbf16ps, vpermi2b

}  // namespace causeway
