/* dilated_attention.h - LongNet's dilated attention (arXiv:2307.02486) as a C library. The one public header.
 *
 * WHAT IS COMPUTED
 *
 * A pattern (w, r) cuts the sequence into segments of w tokens from position 0 (the last may be shorter). In each
 * segment, attention head h keeps every r-th token, beginning at an offset that depends on h. A kept query attends to
 * the kept keys of its own segment. Several patterns, (2048, 1), (4096, 2), (8192, 4) say, give each token a dense
 * neighbourhood and ever sparser, ever farther tokens, at a cost linear in the length of the sequence.
 *
 * The paper mixes the patterns' outputs by their softmax denominators (eq. 9-10). That equals one softmax over the
 * multiset union of the keys of all patterns that keep the query:
 *
 *     out_i = sum_j c_ij exp(s_ij) v_j / sum_j c_ij exp(s_ij),       s_ij = scale * <q_i, k_j>
 *
 * where c_ij counts the patterns by which query i sees key j. lse_i is the natural logarithm of the denominator. A query
 * that no pattern keeps, or that has no key left, gets out = 0 and lse = -infinity.
 *
 * A FIRST PROGRAM (examples/first.c)
 *
 *     da_context *context;
 *     da_attention *attention;
 *     da_attention_config config;
 *     if (da_context_create(NULL, &context) != DA_OK) { puts(da_last_error_message()); return 1; }
 *     da_attention_config_init(&config);
 *     da_attention_config_set_patterns(&config, (int64_t[]){2048, 4096, 8192}, 3, (int64_t[]){1, 2, 4}, 3);
 *     da_attention_create(context, "auto", &config, &attention);
 *     da_tensor q = da_tensor_make(query, DA_F32, batch, n, heads, head_dim);   // and k, v, out likewise
 *     da_attention_forward(attention, &q, &k, &v, &out, NULL, NULL);
 *     da_attention_free(attention);
 *     da_context_free(context);
 *
 * RULES THAT HOLD EVERYWHERE
 *
 * - Every call that can fail returns a da_status; da_last_error_message() says, for the calling thread, which argument
 *   was wrong, its value, and what is allowed. The library never prints, aborts or exits.
 * - Structs with a `size` field are filled by their _init function first; later versions add fields at the end.
 * - Handles (da_context, da_attention, da_explanation) are immutable after creation, but for a locked cache of timings in
 *   a context: any number of threads may use one at once. A context must outlive what was created from it.
 * - Tensors are borrowed views. The library neither keeps nor frees caller memory after a call returns.
 * - The result of a call does not depend on the number of threads, to the last bit.
 */
#ifndef DILATED_ATTENTION_H
#define DILATED_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DA_API __attribute__((visibility("default")))
#define DA_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define DA_API
#define DA_PRINTF(text, first)
#endif

#define DA_VERSION_MAJOR 0
#define DA_VERSION_MINOR 1
#define DA_VERSION_PATCH 0

/* Version of the library that is running, "major.minor.patch"; a static string. */
DA_API const char *da_version(void);

/* ---------------------------------------------------------------------------------------------------------------------
 * Status and messages
 */

typedef enum da_status {
    DA_OK = 0,
    DA_ERROR_INVALID_ARGUMENT = 1,       /* the message names the argument, its value and what is allowed */
    DA_ERROR_UNKNOWN_IMPLEMENTATION = 2, /* the message lists the registered names */
    DA_ERROR_UNAVAILABLE = 3,            /* known, but cannot run here: the message says what is missing */
    DA_ERROR_UNSUPPORTED = 4,            /* this implementation does not take that option or data type */
    DA_ERROR_ALREADY_REGISTERED = 5,     /* the name is taken */
    DA_ERROR_OUT_OF_MEMORY = 6,
    DA_ERROR_CANCELLED = 7,     /* the progress callback asked to stop; outputs are unspecified */
    DA_ERROR_IO = 8,            /* the operating system refused a file operation */
    DA_ERROR_FORMAT = 9,        /* a file is not what it says it is */
    DA_ERROR_COMMUNICATION = 10 /* another rank failed, did not answer in time, or was configured otherwise */
} da_status;

/* Name of a status, for example "DA_ERROR_INVALID_ARGUMENT"; a static string, never NULL. */
DA_API const char *da_status_name(da_status status);

/* Message of the last call on the calling thread that failed; "" before the first failure. The string belongs to the
 * library and holds until the next failing call on this thread. */
DA_API const char *da_last_error_message(void);

/* For implementations that users register: sets the calling thread's message and returns `status`, so that one writes
 *     return da_report(DA_ERROR_UNSUPPORTED, "head_dim is %d; allowed: 64", d);                                      */
DA_API da_status da_report(da_status status, const char *format, ...) DA_PRINTF(2, 3);

/* ---------------------------------------------------------------------------------------------------------------------
 * Hardware
 */

/* Bits of da_hardware.cpu_features. */
enum {
    DA_CPU_AVX2 = 1 << 0,        /* AVX2, with the operating system saving the registers */
    DA_CPU_FMA = 1 << 1,         /* fused multiply-add (FMA3) */
    DA_CPU_F16C = 1 << 2,        /* f16 <-> f32 conversion */
    DA_CPU_AVX512 = 1 << 3,      /* AVX-512 F, BW, DQ and VL, with the operating system saving the registers */
    DA_CPU_AVX512_BF16 = 1 << 4, /* bf16 dot products on 512-bit registers */
    DA_CPU_AVX512_FP16 = 1 << 5,
    DA_CPU_AMX_BF16 = 1 << 6, /* products of bf16 tiles, with the operating system saving the registers */
    DA_CPU_NEON = 1 << 7,
    DA_CPU_SVE = 1 << 8
};

#define DA_MAX_GPUS 16

typedef struct da_gpu {
    char name[96];
    int compute_major, compute_minor; /* compute capability; 9.0 is H100 */
    uint64_t memory;                  /* bytes */
} da_gpu;

/* What the factory's rules look at. Fill it by da_hardware_detect(), or make one up and hand it to a context to see
 * what would be chosen elsewhere. */
typedef struct da_hardware {
    size_t size;
    char cpu_name[96];
    char architecture[16];                 /* "x86_64", "aarch64", ... */
    int cores;                             /* that this process may run on */
    uint32_t cpu_features;                 /* DA_CPU_* */
    uint64_t l1_cache, l2_cache, l3_cache; /* bytes, as one core sees them; 0: unknown */
    uint64_t memory;                       /* bytes of main memory, or of the cgroup's limit where that is lower */
    int gpu_count;                         /* 0..DA_MAX_GPUS */
    da_gpu gpus[DA_MAX_GPUS];
    char gpu_note[128]; /* how the GPUs were found, or why none was */
    /* GPU kernels that the host program can call (a Python package sets them); da_hardware_detect() leaves them false,
     * because this library holds no GPU kernel of its own. */
    bool flash_attention_3, flash_attention_2, xformers;
} da_hardware;

/* Sets `size` and zeroes the rest: a machine of one core with no vector unit and no GPU. */
DA_API void da_hardware_init(da_hardware *hardware);

/* Looks at this machine: CPUID or HWCAP, /proc and /sys, and NVIDIA's driver library if one can be opened at run time
 * (nothing of CUDA is linked). What cannot be found is left 0. Errors: DA_ERROR_INVALID_ARGUMENT for NULL. */
DA_API da_status da_hardware_detect(da_hardware *hardware);

/* ---------------------------------------------------------------------------------------------------------------------
 * Context: threads, instruction set, memory
 */

typedef struct da_context da_context;

/* Instruction set of the fast kernels. DA_ISA_AUTO takes the best that runs here (docs/kernels.md). */
typedef enum da_isa {
    DA_ISA_AUTO = 0,
    DA_ISA_PORTABLE = 1,
    DA_ISA_AVX2 = 2,        /* AVX2, FMA, F16C */
    DA_ISA_AVX512 = 3,      /* AVX-512 F, BW, DQ, VL */
    DA_ISA_AVX512_BF16 = 4, /* the same, and bf16 tensors by bf16 dot products: weights are rounded to bf16 */
    DA_ISA_AMX_BF16 = 5,    /* AVX-512, and bf16 tensors by matrix products on AMX tiles: weights are rounded to bf16 */
    DA_ISA_NEON = 6         /* Advanced SIMD of 64-bit Arm */
} da_isa;

/* A caller's allocator. `allocate` returns memory aligned to 64 bytes, or NULL; `release` gets what allocate returned.
 * Both may be called from several threads at once. */
typedef struct da_allocator {
    void *(*allocate)(size_t bytes, void *user);
    void (*release)(void *memory, void *user);
    void *user;
} da_allocator;

/* Plans measured earlier; see "Plans" below. */
typedef struct da_plans da_plans;

/* A rank's connection to the others; see "Ranks" below. */
typedef struct da_comm da_comm;

/* What a network and a machine take; see "plans over ranks" below. */
typedef struct da_ranks_options da_ranks_options;

typedef struct da_context_options {
    size_t size;
    int threads;                 /* 0 (default): one per core that the process may use; otherwise 1..1024 */
    da_isa isa;                  /* DA_ISA_AUTO (default) */
    da_allocator allocator;      /* {0} (default): the C library's */
    const da_hardware *hardware; /* NULL (default): detect; otherwise a description that is copied and believed, except
                                    that no instruction is used which the real CPU lacks */
    da_plans *plans;             /* NULL (default): none; otherwise borrowed, and must outlive the context */
    const da_comm *comm;         /* NULL (default): this process computes alone; otherwise checked and copied, and what
                                    is behind it must outlive the context */
    const da_ranks_options *rates; /* NULL (default): those of da_ranks_options_init; otherwise checked and copied. By
                                      them `distributed` chooses how to divide a call (da_split); ranks and backward have
                                      no effect */
} da_context_options;

DA_API void da_context_options_init(da_context_options *options);

/* Creates a context. options NULL means the defaults.
 * Errors: DA_ERROR_INVALID_ARGUMENT (threads, isa, an allocator with one function missing, a field of comm or
 *         of rates),
 *         DA_ERROR_UNAVAILABLE (an instruction set that this CPU lacks), DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
DA_API da_status da_context_create(const da_context_options *options, da_context **out);

/* Frees a context; NULL is allowed. */
DA_API void da_context_free(da_context *context);

/* The context's hardware description, number of threads, and instruction set (never DA_ISA_AUTO). */
DA_API const da_hardware *da_context_hardware(const da_context *context);
DA_API int da_context_threads(const da_context *context);
DA_API da_isa da_context_isa(const da_context *context);

/* The context's allocator, for implementations that users register and for libraries that build on this one. Both
 * functions are NULL where it is the C library's. It lives as long as the context. */
DA_API const da_allocator *da_context_allocator(const da_context *context);

/* The context's copy of its da_comm; NULL: none was given. It lives as long as the context. */
DA_API const da_comm *da_context_comm(const da_context *context);

/* True if the kernels of this instruction set run on this machine. */
DA_API bool da_isa_available(da_isa isa);

/* ---------------------------------------------------------------------------------------------------------------------
 * Tensors
 */

/* Element type. Sums are kept in f32, and in f64 for DA_F64. With DA_ISA_AVX512_BF16 and DA_ISA_AMX_BF16 the attention
 * weights of bf16 tensors are rounded to bf16 before they meet the values; the logsumexp does not see that rounding. */
typedef enum da_dtype { DA_DTYPE_ANY = 0, DA_F32 = 1, DA_F64 = 2, DA_BF16 = 3, DA_F16 = 4 } da_dtype;

/* Bytes of one element; 0 for DA_DTYPE_ANY or a value that is not a data type. */
DA_API size_t da_dtype_size(da_dtype dtype);

/* A view of caller memory. Element (b, i, h, c) lies at
 *     (char *)data + da_dtype_size(dtype) * (b*stride[0] + i*stride[1] + h*stride[2] + c*stride[3]).
 * Strides count elements; any value is allowed for inputs (0 repeats, negative reverses), so that (batch, heads, n,
 * head_dim) memory is a view like any other. Two elements of an output may not share memory. */
typedef struct da_tensor {
    void *data;
    da_dtype dtype;
    int64_t shape[4]; /* batch, n, heads, head_dim */
    int64_t stride[4];
} da_tensor;

/* A dense view of (batch, n, heads, head_dim) memory. */
DA_API da_tensor da_tensor_make(void *data, da_dtype dtype, int64_t batch, int64_t n, int64_t heads, int64_t head_dim);

/* A dense view of (batch, heads, n, head_dim) memory; shape[] is still in the order batch, n, heads, head_dim. */
DA_API da_tensor da_tensor_make_heads_first(void *data, da_dtype dtype, int64_t batch, int64_t heads, int64_t n,
                                            int64_t head_dim);

/* ---------------------------------------------------------------------------------------------------------------------
 * Configuration of an attention. A plain value: copy it, change the copy, create as many attentions from it as you like.
 */

/* longnet: every head runs every pattern, mixed as above. head_groups: the heads are split into one consecutive group
 * per pattern (the first heads % groups of them one head larger); group g runs pattern g alone, with offset g mod r_g,
 * and its output is divided by the number of groups. */
typedef enum da_mixing { DA_MIXING_LONGNET = 0, DA_MIXING_HEAD_GROUPS = 1 } da_mixing;

/* Offset of head h in pattern (w, r). mod: h mod r (the paper). block: h / ceil(heads / r) (torchscale). */
typedef enum da_offset_rule { DA_OFFSET_MOD = 0, DA_OFFSET_BLOCK = 1 } da_offset_rule;

/* mask: tokens beyond the end do not exist. zero_pad (torchscale): a pattern with w >= n is one segment of n tokens,
 * otherwise the last segment is filled to w tokens, then each segment to a multiple of r, with tokens whose key and
 * value are zero; they enter the softmax (score 0). Under `causal` they lie in the future and play no part. */
typedef enum da_tail_rule { DA_TAIL_MASK = 0, DA_TAIL_ZERO_PAD = 1 } da_tail_rule;

/* count: a key that c patterns hold has weight c (the paper, torchscale). once: weight 1. */
typedef enum da_overlap { DA_OVERLAP_COUNT = 0, DA_OVERLAP_ONCE = 1 } da_overlap;

/* Which tokens a rank holds where several share a sequence of n; a rank's rows are its tokens in ascending order.
 * contiguous: one stretch, rank r the tokens floor(r n / ranks) to floor((r + 1) n / ranks) - 1 unless the ranks bring
 * others. zigzag: of 2 ranks chunks, chunk k the tokens floor(k n / (2 ranks)) to floor((k + 1) n / (2 ranks)) - 1, rank r
 * holds r and 2 ranks - 1 - r. striped: blocks of `stripe` tokens, block b to rank b mod ranks. Under `causal`, later
 * queries see more keys: zigzag deals work out evenly, and so does striped unless ranks * stripe and segment lengths have a
 * large factor in common, as powers of two have. */
typedef enum da_partition {
    DA_PARTITION_CONTIGUOUS = 0,
    DA_PARTITION_ZIGZAG = 1,
    DA_PARTITION_STRIPED = 2
} da_partition;

/* How `distributed` divides the work among ranks. tokens: each rank computes its tokens, for which it gathers the keys and
 * values that the patterns keep. heads: each rank computes some heads for all tokens; all tensors of the call travel, and
 * without as many key heads as ranks some ranks have nothing to do. auto: heads where there are as many key heads as ranks and
 * it takes less time by the model of da_plan_ranks: with the context's `rates` and, where they leave open what a pair takes,
 * what the context has measured when it planned the same problem, or else 100 GFLOP/s. The slowest rank counts, and all
 * come to the same. */
typedef enum da_split { DA_SPLIT_AUTO = 0, DA_SPLIT_TOKENS = 1, DA_SPLIT_HEADS = 2 } da_split;

typedef enum da_preset {
    DA_PRESET_LONGNET = 0,    /* longnet, mod, mask: the paper; any length, no padding */
    DA_PRESET_TORCHSCALE = 1, /* longnet, block, zero_pad: checkpoints trained with torchscale */
    DA_PRESET_HEAD_GROUPS = 2 /* head_groups, mask: checkpoints of the head-group packages */
} da_preset;

typedef enum da_device { DA_DEVICE_AUTO = 0, DA_DEVICE_CPU = 1, DA_DEVICE_CUDA = 2 } da_device;

#define DA_MAX_PATTERNS 64
#define DA_MAX_HEAD_DIM 256
#define DA_NO_WINDOW (-1)

/* Largest values of a da_tuning. */
#define DA_MAX_UNIT 8192
#define DA_MAX_BLOCK_KEYS 256
#define DA_MAX_THREADS 1024

/* How the work is cut. Results with different tunings differ by rounding, and not at all for different numbers of
 * threads. A field that is 0 is the library's choice; da_plan() finds good ones. `improved` takes all three, `standard`
 * the number of threads, and what you register what it likes. */
typedef struct da_tuning {
    int64_t unit;   /* queries that a thread takes at a time, 1..DA_MAX_UNIT; fewer are taken where that many would
                       need too much memory. In the backward pass, a unit that holds whole segments of all patterns
                       makes for less arithmetic, and for fewer parts to share among threads */
    int block_keys; /* keys that are packed at a time: a multiple of 64 up to DA_MAX_BLOCK_KEYS */
    int threads;    /* 1..DA_MAX_THREADS; no more than the context has are used */
} da_tuning;

/* Which tiles `block_sparse` computes. A tile is a block of queries and a block of keys, of block_size tokens each by their
 * places in the sequence (the last may be shorter). Of the tiles in which the dilated pattern, with causality and the window,
 * lets a query of a block see a key, k = max(1, ceil(sparsity_ratio * their number)) are kept for each head and block of
 * queries (docs/block-sparse.md):
 * content: those with the most attention, estimated from the call's queries and keys. local_window: the nearest ones.
 * global_local: the first global_blocks blocks of keys, then the nearest; the first global_blocks blocks of queries keep all
 * of theirs. dilated_sparse: every s-th, counted from the own block. axial: blocks lie in a grid, row by row, and see their
 * row and their column of it. random: the own block, and a draw by sparse_seed. hybrid: a third each of global, nearest and
 * drawn ones. mask: those of the configuration's tile_mask. profile: for each head what sparse_profile says. */
typedef enum da_sparse_pattern {
    DA_SPARSE_CONTENT = 0,
    DA_SPARSE_LOCAL_WINDOW = 1,
    DA_SPARSE_GLOBAL_LOCAL = 2,
    DA_SPARSE_DILATED_SPARSE = 3,
    DA_SPARSE_AXIAL = 4,
    DA_SPARSE_RANDOM = 5,
    DA_SPARSE_HYBRID = 6,
    DA_SPARSE_MASK = 7,
    DA_SPARSE_PROFILE = 8
} da_sparse_pattern;

/* Tiles to compute; see "Tiles" below. */
typedef struct da_tile_mask da_tile_mask;

/* What each head of a model needs, found on sample data. */
typedef struct da_sparse_profile da_sparse_profile;

#define DA_MIN_TILE_BLOCK 16
#define DA_MAX_TILE_BLOCK 1024

typedef struct da_attention_config {
    size_t size;
    /* The patterns: 1 <= dilation_rate <= segment_length; neither needs to divide anything. The two counts must agree. */
    size_t segment_count;
    int64_t segment_lengths[DA_MAX_PATTERNS];
    size_t rate_count;
    int64_t dilation_rates[DA_MAX_PATTERNS];
    double dropout;    /* 0; in [0, 1). Applied only by calls whose options say `training` */
    bool use_tf32;     /* true; a wish for GPU matrix products, without effect on a CPU */
    bool scale_is_set; /* false: scale = 1 / sqrt(head_dim) */
    double scale;      /* finite; read only if scale_is_set */
    bool causal;       /* false; true: key j is seen by query i only if j <= i */
    int64_t window;    /* DA_NO_WINDOW; W >= 0: only keys with i - j <= W are seen */
    da_mixing mixing;
    da_offset_rule offset_rule;
    da_tail_rule tail_rule;
    da_overlap overlap;
    da_dtype dtype;          /* DA_DTYPE_ANY; otherwise the only data type that the attention will take */
    da_device device;        /* DA_DEVICE_AUTO. DA_DEVICE_CUDA is DA_ERROR_UNAVAILABLE in this version */
    int64_t sequence_length; /* 0: unknown; the length to expect, which "auto" bases its choice on */
    da_tuning tuning;        /* all 0 */
    da_partition partition;  /* DA_PARTITION_CONTIGUOUS; of several ranks. Without effect on one, as is `stripe` */
    int64_t stripe;          /* tokens in a block of DA_PARTITION_STRIPED; 0: the library's choice, 2039 */
    da_split split;          /* DA_SPLIT_AUTO; of `distributed` */
    /* Of `block_sparse`; without effect on other implementations, which compute all. */
    da_sparse_pattern sparse_pattern; /* DA_SPARSE_CONTENT */
    double sparsity_ratio;            /* 0.1; in (0, 1]: the fraction of tiles that is kept. Not of mask, profile */
    int64_t block_size;               /* 128; a multiple of 16 up to DA_MAX_TILE_BLOCK. Not of mask: it has its own */
    double quality_target;            /* 1: none. In (0, 1): so much of the attention is to be kept, and the fraction
                                                of tiles is found for each head from the call's data, in place of
                                                sparsity_ratio; all, where fewer would take no less time. "auto" chooses `block_sparse` only with such a target */
    int64_t global_blocks;            /* 1; >= 0: of global_local */
    uint64_t sparse_seed;             /* 0: of what is drawn */
    const da_tile_mask *tile_mask;    /* NULL; of mask. Borrowed: must outlive what is created from it */
    const da_sparse_profile *sparse_profile; /* NULL; of profile. Borrowed likewise */
} da_attention_config;

/* Sets `size` and the defaults given above, with no pattern. */
DA_API void da_attention_config_init(da_attention_config *config);

/* Copies the patterns into the configuration. The counts are given apart so that a mismatch is noticed.
 * Errors: DA_ERROR_INVALID_ARGUMENT (no pattern, different counts, more than DA_MAX_PATTERNS, a value below 1, a rate
 * larger than its segment); the configuration is then unchanged. */
DA_API da_status da_attention_config_set_patterns(da_attention_config *config, const int64_t *segment_lengths,
                                                  size_t segment_count, const int64_t *dilation_rates,
                                                  size_t rate_count);

/* Sets mixing, offset_rule and tail_rule as the preset says; leaves all else. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_attention_config_set_preset(da_attention_config *config, da_preset preset);

/* Checks every field. Creation does this too. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_attention_config_validate(const da_attention_config *config);

/* What is done to query and key after their projections, so that scores depend on positions; see
 * dilated_attention_nn.h for the formulas. Both need an even head_dim. */
typedef enum da_position {
    DA_POSITION_NONE = 0,
    DA_POSITION_ROPE = 1, /* rotary (RoFormer, arXiv:2104.09864): score (i, j) depends on i - j */
    DA_POSITION_XPOS = 2  /* rotary, and decaying with i - j (arXiv:2212.10554); meant for causal attention */
} da_position;

/* Which two channels of a head of d are one pair that is rotated: 2p and 2p + 1 (RoFormer, torchscale), or p and p + d / 2
 * (GPT-NeoX, LLaMA). A permutation of the projections' rows turns one into the other. */
typedef enum da_rotary_layout { DA_ROTARY_ADJACENT = 0, DA_ROTARY_HALVES = 1 } da_rotary_layout;

/* Configuration of a multihead attention, with the guide's fields. A plain value, like da_attention_config. What computes
 * it is the library dilated_attention_nn, with a header of its own. */
typedef struct da_multihead_config {
    size_t size;
    int64_t embed_dim;              /* >= 1, a multiple of num_heads; embed_dim / num_heads <= DA_MAX_HEAD_DIM */
    int64_t num_heads;              /* >= 1 */
    int64_t kv_heads;               /* 0: num_heads; otherwise a divisor of num_heads */
    bool bias;                      /* true: projections have a bias */
    bool layer_norm;                /* true: layer norm before the output projection (MAGNETO) */
    double layer_norm_eps;          /* 1e-5; > 0 and finite */
    double gamma_init;              /* 1.0; > 0 and finite: gain of the value and output projections' initialisation */
    da_dtype dtype;                 /* DA_F32 */
    da_device device;               /* DA_DEVICE_AUTO */
    bool qk_layer_norm;             /* false; true: layer norms of the projected query and key, over their full width */
    da_position position;           /* DA_POSITION_NONE */
    da_rotary_layout rotary_layout; /* DA_ROTARY_ADJACENT */
    double rope_base;               /* 10000; above 1 and finite */
    double xpos_scale_base;         /* 512; > 0 and finite */
    bool sharded;                   /* false; true: over several ranks each holds some rows of every parameter */
} da_multihead_config;

DA_API void da_multihead_config_init(da_multihead_config *config);

/* Checks every field, and, where attention is not NULL, that configuration and the two together: device and data type
 * must agree. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_multihead_config_validate(const da_multihead_config *config, const da_attention_config *attention);

/* Names of the enumerations' values as the command line and Python spell them ("longnet", "zero_pad", "bf16", ...).
 * The _name functions return a static string, "?" for a value outside the enumeration. The _from_name functions return
 * DA_ERROR_INVALID_ARGUMENT for another name; the message lists the allowed ones. */
DA_API const char *da_mixing_name(da_mixing value);
DA_API const char *da_offset_rule_name(da_offset_rule value);
DA_API const char *da_tail_rule_name(da_tail_rule value);
DA_API const char *da_overlap_name(da_overlap value);
DA_API const char *da_partition_name(da_partition value);
DA_API const char *da_split_name(da_split value);
DA_API const char *da_sparse_pattern_name(da_sparse_pattern value);
DA_API const char *da_preset_name(da_preset value);
DA_API const char *da_dtype_name(da_dtype value);
DA_API const char *da_device_name(da_device value);
DA_API const char *da_isa_name(da_isa value);
DA_API const char *da_position_name(da_position value);
DA_API const char *da_rotary_layout_name(da_rotary_layout value);
DA_API da_status da_mixing_from_name(const char *name, da_mixing *out);
DA_API da_status da_offset_rule_from_name(const char *name, da_offset_rule *out);
DA_API da_status da_tail_rule_from_name(const char *name, da_tail_rule *out);
DA_API da_status da_overlap_from_name(const char *name, da_overlap *out);
DA_API da_status da_partition_from_name(const char *name, da_partition *out);
DA_API da_status da_split_from_name(const char *name, da_split *out);
DA_API da_status da_sparse_pattern_from_name(const char *name, da_sparse_pattern *out);
DA_API da_status da_preset_from_name(const char *name, da_preset *out);
DA_API da_status da_dtype_from_name(const char *name, da_dtype *out);
DA_API da_status da_device_from_name(const char *name, da_device *out);
DA_API da_status da_isa_from_name(const char *name, da_isa *out);
DA_API da_status da_position_from_name(const char *name, da_position *out);
DA_API da_status da_rotary_layout_from_name(const char *name, da_rotary_layout *out);

/* For those who cut their own tensors: *length = the number of rows that `rank` of `ranks` holds of n tokens, and
 * *position = the token whose row is `row` there. stripe is read for DA_PARTITION_STRIPED only; 0 is 2039. Where n is
 * smaller than ranks, some hold nothing. Errors: DA_ERROR_INVALID_ARGUMENT (0 <= n <= 2^48, 1 <= ranks <= 2^24). */
DA_API da_status da_partition_length(da_partition partition, int64_t stripe, int64_t n, int ranks, int rank,
                                     int64_t *length);
DA_API da_status da_partition_position(da_partition partition, int64_t stripe, int64_t n, int ranks, int rank,
                                       int64_t row, int64_t *position);

/* ---------------------------------------------------------------------------------------------------------------------
 * Attention
 */

typedef struct da_attention da_attention;

/* Creates the implementation `name`: "auto", "standard", "improved", ..., or one that you registered.
 *
 * The configuration is validated and copied. "auto" applies the rules of da_explain(). Where it leaves the whole tuning
 * open and the context has plans, each of its calls takes the plan that is remembered for its problem, if there is one.
 * Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_UNKNOWN_IMPLEMENTATION, DA_ERROR_UNAVAILABLE, DA_ERROR_UNSUPPORTED (an
 *         option that this implementation does not take), DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
DA_API da_status da_attention_create(const da_context *context, const char *name, const da_attention_config *config,
                                     da_attention **out);

/* Frees an attention; NULL is allowed. */
DA_API void da_attention_free(da_attention *attention);

/* Name of the implementation that runs ("auto" has become its choice); the string lives as long as the handle. */
DA_API const char *da_attention_implementation(const da_attention *attention);

/* Reports finished work out of total, from one thread at a time, at most a few hundred times a call. Return false to
 * stop the call, which then returns DA_ERROR_CANCELLED. Must not call into the same da_attention. */
typedef bool (*da_progress)(int64_t finished, int64_t total, void *user);

/* What `block_sparse` computed in a call, over batch and heads. */
typedef struct da_sparse_report {
    size_t size;
    int64_t tiles_kept, tiles_all; /* tiles that were computed, of those that the dilated pattern has */
    double pairs_kept, pairs_all;  /* pairs of a query and a key in them, each counted once; padded keys among them */
    double mass_kept;        /* the part of the softmax that the tiles computed hold, in the mean over sampled queries,
                                      for each of which it is exact; NAN: not measured */
    double mass_error;       /* standard error of that mean; NAN: not measured */
    int64_t sampled_queries; /* that it was measured on */
    double choose_seconds;   /* of the call, spent on choosing tiles */
    double report_seconds;   /* of the call, spent on counting and measuring for this report */
} da_sparse_report;

/* Sets `size`; all else 0, mass_kept and mass_error NAN. */
DA_API void da_sparse_report_init(da_sparse_report *report);

/* What is rarely needed by a call. NULL in its place means the defaults. The backward pass takes the options that the
 * forward pass had. */
typedef struct da_call_options {
    size_t size;
    /* Key padding. A padded key does not exist; its key and value may hold anything, NaN too. Both may be given. */
    const int64_t *key_lengths; /* NULL, or batch values in 0..n: keys from key_lengths[b] on are padded */
    const uint8_t *key_mask;    /* NULL, or (batch, n): not 0 means that the key is padded */
    int64_t key_mask_stride[2]; /* in bytes; {0, 0}: dense, {n, 1} */
    da_progress progress;       /* NULL */
    void *progress_user;
    /* Dropout. With `training`, the weight of each pair of a query and a key, with all its multiplicity, is dropped with
     * the probability config.dropout and otherwise divided by 1 - dropout; the logsumexp does not see it. What is dropped
     * depends on the seed and the pair alone (da_dropout_keeps), and is the same in the backward pass. */
    bool training;         /* false: no dropout, whatever the configuration says */
    uint64_t dropout_seed; /* 0 */
    /* Blocks, of `ring`; other implementations take no notice of block and release. The sequence is computed in blocks of
     * so many tokens (the last may be shorter): those of queries one after the other, and for each the blocks of keys that
     * it sees; in the backward pass, for grad_key and grad_value, the other way round. What rows have so far is carried
     * from block to block, in memory of the context's allocator beyond the workspace, where a block meets more than one:
     *     batch * heads * block * (D + 2) numbers in the forward pass, and in the backward pass
     *     batch * block * D * max(heads, 2 * kv_heads), D being head_dim rounded up to a multiple of 32 at most,
     * each of 4 bytes, or 8 for f64 tensors. Results with different blocks differ by rounding.
     * 0: one block, the whole sequence, which is what `improved` computes; or, with `release`, 65536 tokens. */
    int64_t block; /* 0; >= 0 */
    /* Forward: only the queries query_first..query_end-1 are computed, and only their rows of out and lse written.
     * {0, 0}: all. A range that begins and ends where blocks of queries do, at multiples of `block`, gives the bits that the
     * whole call would. DA_FEATURE_QUERY_RANGE, which `improved` and `ring` have. */
    int64_t query_first, query_end;
    /* `ring`: rows first..end-1 of an input or output, of all batch elements and heads, are not needed for now, though
     * perhaps once more later: a program that mapped them from a file lets their pages go. What was written is whole for
     * rows of outputs. `tensor` is the one given to the call. Called by the calling thread. NULL: nothing is said. */
    void (*release)(const da_tensor *tensor, int64_t first, int64_t end, void *user);
    void *release_user;
    /* `block_sparse`: the tiles to compute, of this n, and of the call's batch and heads or of 1. NULL: those that the
     * configuration says. Other implementations take no notice of either. */
    const da_tile_mask *tiles;
    da_sparse_report
        *sparse_report; /* NULL, or where to write what was computed (da_sparse_report_init first). Costs time:
                                        pairs are counted, and mass is measured */
} da_call_options;

DA_API void da_call_options_init(da_call_options *options);

/* out = attention(query, key, value), over all patterns in one softmax.
 *
 *   query  (batch, n, heads,    head_dim)  batch >= 1, n >= 1, heads >= 1, 1 <= head_dim <= DA_MAX_HEAD_DIM
 *   key    (batch, n, kv_heads, head_dim)  heads a multiple of kv_heads; head h reads h / (heads / kv_heads)
 *   value  like key
 *   out    like query; the memory that it spans, from its first element to its last, may not meet an input's
 *   lse    NULL, or (batch, n, heads, 1), DA_F64 or DA_F32 (the latter not for f64 inputs): natural logarithm of the
 *          softmax sum, -infinity where a query has no key. The memory that it spans may not meet another tensor's.
 *
 * query, key, value and out share one data type. Memory used: da_attention_workspace(), whatever the length.
 * Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_UNSUPPORTED, DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED. Arguments are
 * checked before anything is written. */
DA_API da_status da_attention_forward(const da_attention *attention, const da_tensor *query, const da_tensor *key,
                                      const da_tensor *value, const da_tensor *out, const da_tensor *lse,
                                      const da_call_options *options);

/* The tensors of a backward pass. Those in the first three lines are inputs: query, key and value as the forward pass had
 * them, out and lse as it wrote them (lse f64, or f32 for tensors that are not f64). With L the loss, grad_x is dL/dx. */
typedef struct da_backward_tensors {
    size_t size;
    const da_tensor *query, *key, *value; /* as in da_attention_forward */
    const da_tensor *out, *lse;
    const da_tensor *grad_out, *grad_lse;                /* like out, and like lse; grad_lse NULL: zero */
    const da_tensor *grad_query, *grad_key, *grad_value; /* outputs, like query, key, value; NULL: not wanted */
} da_backward_tensors;

DA_API void da_backward_tensors_init(da_backward_tensors *tensors);

/* Gradients of query, key and value, exact, from the output and one logsumexp (Dao et al., arXiv:2205.14135, appendix B;
 * with multiplicities c_ij, dropout factors m_ij of 0 or 1 / (1 - dropout), and g groups under head_groups, else 1):
 *
 *     p_ij = c_ij exp(s_ij - lse_i)            d_i  = <grad_out_i, out_i>
 *     dp_ij = m_ij / g <grad_out_i, v_j>       ds_ij = p_ij (dp_ij - d_i + grad_lse_i)
 *     grad_value_j = sum_i p_ij m_ij / g grad_out_i,  grad_query_i = scale sum_j ds_ij k_j,  grad_key_j = scale sum_i ds_ij q_i
 *
 * A query without keys, and a key that no query sees (a padded one, too), has gradient 0. Scores are computed again, tile
 * by tile: memory used is da_attention_backward_workspace(), whatever the length. An output may not meet another tensor's
 * memory. Arguments are checked before anything is written. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_UNSUPPORTED (also
 * where the implementation has no backward pass), DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED. */
DA_API da_status da_attention_backward(const da_attention *attention, const da_backward_tensors *tensors,
                                       const da_call_options *options);

/* Whether dropout keeps the weight of a pair: philox_2x32-10 (Salmon et al., SC'11) on the counter {query, key}, whose key
 * is the first word of philox_4x32-10 on {head, batch, 0, 0} with the seed as key; the pair is kept if the first word of the
 * result is at least dropout * 2^32, rounded down. head is the query's. The numbers are taken modulo 2^32: calls with
 * dropout refuse n > 2^32. */
DA_API bool da_dropout_keeps(double dropout, uint64_t seed, int64_t batch, int64_t head, int64_t query, int64_t key);

/* Size of a computation, where no tensors are at hand. */
typedef struct da_problem {
    size_t size;
    int64_t batch;    /* 1 */
    int64_t n;        /* 0: unknown */
    int64_t heads;    /* 1 */
    int64_t kv_heads; /* 0: heads */
    int64_t head_dim; /* 64 */
    da_dtype dtype;   /* DA_F32 */
} da_problem;

DA_API void da_problem_init(da_problem *problem);

/* Bytes that da_attention_forward allocates for this problem, all threads together: a few MiB a thread, whatever the
 * length (shorter problems may need less). With problem->n == 0 the length is the configuration's sequence_length, and if that is 0 too, a
 * long one. With `block_sparse` that many at most, what grows with the length among them: the lists of its tiles, as many as
 * the ratio keeps, or with a target all, and the packed keys and values of one head, or of some; where the length is unknown
 * they are left out. da_call_options.tiles are the caller's, but for a backward call, which holds lists of as many bytes of
 * its own. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_attention_workspace(const da_attention *attention, const da_problem *problem, size_t *bytes);

/* The same for da_attention_backward. Errors: also DA_ERROR_UNSUPPORTED (no backward pass). */
DA_API da_status da_attention_backward_workspace(const da_attention *attention, const da_problem *problem,
                                                 size_t *bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * Tiles: which parts of the pattern `block_sparse` computes
 *
 * With tiles, c'_ij = c_ij where tile (i / block_size, j / block_size) of the query's batch element and head is kept, and 0
 * elsewhere, takes the place of c_ij in all that is said above. Keys of zero that DA_TAIL_ZERO_PAD adds stay. A query none of
 * whose keys are kept gets out = 0 and lse = -infinity. A tile beyond what the dilated pattern has is of no effect.
 */

/* Makes a mask from one byte per tile: kept[((b * heads + h) * blocks + I) * blocks + J], blocks = ceil(n / block_size), not
 * 0 means that queries of block I compute their keys of block J. batch and heads are those of the calls, or 1: the same for
 * all. A mask is immutable, and what it was made from may go. allocator NULL: the C library's.
 * Errors: DA_ERROR_INVALID_ARGUMENT (batch, heads and n >= 1; block_size; kept or out NULL), DA_ERROR_OUT_OF_MEMORY. On error
 * *out is NULL. */
DA_API da_status da_tile_mask_create(const da_allocator *allocator, int64_t batch, int64_t heads, int64_t n,
                                     int64_t block_size, const uint8_t *kept, da_tile_mask **out);

/* The same from compressed rows: row r = (b * heads + h) * blocks + I keeps the blocks of keys columns[row_starts[r]] to
 * columns[row_starts[r + 1] - 1], in ascending order; row_starts has batch * heads * blocks + 1 elements, the first of which
 * is 0. Both are copied. Errors: also DA_ERROR_INVALID_ARGUMENT for rows that do not follow on each other, and for a column
 * out of range or out of order. */
DA_API da_status da_tile_mask_create_csr(const da_allocator *allocator, int64_t batch, int64_t heads, int64_t n,
                                         int64_t block_size, const int64_t *row_starts, const int32_t *columns,
                                         da_tile_mask **out);
DA_API void da_tile_mask_free(da_tile_mask *mask); /* NULL is allowed */

typedef struct da_tile_mask_info {
    size_t size;
    int64_t batch, heads, n, block_size;
    int64_t blocks;            /* ceil(n / block_size) */
    int64_t tiles;             /* kept, over batch and heads */
    const int64_t *row_starts; /* as for da_tile_mask_create_csr; they live as long as the mask */
    const int32_t *columns;
} da_tile_mask_info;

DA_API void da_tile_mask_info_init(da_tile_mask_info *info);

/* Set info->size by da_tile_mask_info_init first. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_tile_mask_get_info(const da_tile_mask *mask, da_tile_mask_info *info);

/* *out = the tiles that a forward call with these tensors and options would compute, to be handed to later calls
 * (options.tiles), the backward pass among them, and freed. report: NULL, or as options.sparse_report, of which no notice is
 * taken here. Errors: as da_attention_forward; DA_ERROR_UNSUPPORTED also where the implementation computes all. On error *out
 * is NULL. */
DA_API da_status da_attention_tiles(const da_attention *attention, const da_tensor *query, const da_tensor *key,
                                    const da_call_options *options, da_tile_mask **out, da_sparse_report *report);

/* ---- profiles: what each head of a layer needs, found on sample data ------------------------------------------------- */

/* Finds for each head, of the patterns that choose tiles (content, and those that do not look at data), the one that keeps
 * quality_target of the attention of sampled queries with the fewest tiles, with one standard error to spare; with several
 * batch elements, all of them. Content, whose choice takes time in each call, must need a tenth fewer tiles than any other.
 * A ratio of 1 says to keep all, which also is said where fewer would take no less time.
 * The configuration gives the dilated pattern, block_size, global_blocks and sparse_seed; what it says of a sparse pattern and
 * its ratio is not read. query, key and options (NULL: the defaults) are as in da_attention_forward. quality_target in (0, 1).
 * Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
DA_API da_status da_sparse_profile_create(const da_context *context, const da_attention_config *config,
                                          const da_tensor *query, const da_tensor *key, const da_call_options *options,
                                          double quality_target, da_sparse_profile **out);
DA_API void da_sparse_profile_free(da_sparse_profile *profile); /* NULL is allowed */

/* Writes a profile to a text file, and reads one. A temporary file beside it is written and then renamed, so that the old file
 * or the new one is there, whatever happens. allocator NULL: the C library's. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_IO,
 * DA_ERROR_OUT_OF_MEMORY; reading also DA_ERROR_FORMAT (damaged, or no profile). On error *out is NULL. */
DA_API da_status da_sparse_profile_save(const da_sparse_profile *profile, const char *path);
DA_API da_status da_sparse_profile_load(const da_allocator *allocator, const char *path, da_sparse_profile **out);

typedef struct da_sparse_profile_info {
    size_t size;
    int64_t heads;         /* of queries; calls must have as many */
    int64_t block_size;    /* that it was found with; a configuration may have another */
    double quality_target; /* that it was made for */
} da_sparse_profile_info;

DA_API void da_sparse_profile_info_init(da_sparse_profile_info *info);

/* Set info->size by da_sparse_profile_info_init first. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_sparse_profile_get_info(const da_sparse_profile *profile, da_sparse_profile_info *info);

/* What a head does: a pattern and its ratio. Errors: DA_ERROR_INVALID_ARGUMENT (0 <= head < heads). */
DA_API da_status da_sparse_profile_head(const da_sparse_profile *profile, int64_t head, da_sparse_pattern *pattern,
                                        double *ratio);

/* ---------------------------------------------------------------------------------------------------------------------
 * Ranks: several processes (or threads) that compute one attention together, each holding a part of the tokens
 *
 * The library moves nothing between machines itself: a da_comm is a table of functions that do. There is one over MPI
 * (dilated_attention_mpi.h), one for ranks that are threads of a process (da_comm_group, below), and yours.
 *
 *     da_comm comm;
 *     da_comm_mpi_create(MPI_COMM_WORLD, 60, &comm);
 *     options.comm = &comm;                              // of da_context_create
 *
 * In a context of several ranks, `ring` and `distributed` take tensors that hold this rank's part of the tokens, and write its
 * part of the results (examples/mpi.c):
 *
 * - Creation and calls are collective: every rank makes them, in the same order, with the same configuration, batch, heads,
 *   head_dim, data type and options; otherwise every rank gets an error that names the first one that differs.
 * - query and its like are (batch, rows, heads, head_dim), where the rows are the rank's tokens in ascending order, as the
 *   configuration's `partition` gives them. Contiguous parts may have any lengths, 0 too (then data may be NULL).
 * - key_lengths and sequence_length are of the whole sequence, and the same on all ranks; key_mask is (batch, rows).
 *   query_first and query_end must be 0; block and release have no effect.
 * - Results are those of one process, to rounding. Only ranks that share a segment exchange anything, and only the rows
 *   that a pattern keeps there and the other rank's tokens see.
 * - Beyond the workspace a call takes memory for the rows that it receives and sends, `ring` also for what its own rows carry
 *   from one rank's columns to the next: (head_dim, rounded up to whole vectors, + 2) numbers in the type of sums for each query
 *   and head; in the backward pass one gradient's rows of them, for grad_key and grad_value two.
 *
 * Whatever happens to one rank, the others end in bounded time with DA_ERROR_COMMUNICATION: none waits longer than
 * `timeout` for another. After that error, on whichever rank, the da_comm is of no further use but to be freed.
 */

/* A rank's connection to its group. Calls on one da_comm come from one thread at a time, which is the thread that called
 * the library. Set `size` and the defaults by da_comm_init. */
struct da_comm {
    size_t size;
    int rank, ranks; /* 0, 1: 0 <= rank < ranks */
    double timeout;  /* 60: seconds that a rank waits for another before it gives up; above 0, at most 1e9 */
    void *user;      /* NULL; handed to the functions below */

    /* Begins to send to, or to receive from, another rank and returns at once. Between two ranks, messages of one tag
     * (0..1023) arrive in the order in which they were sent. A message is as long as its receive says, 0 bytes too; if
     * not, that receive (and the send, where the transport can tell) ends with an error. The memory stays as it is until
     * the request has ended. On error *request is not set. */
    da_status (*send)(const void *data, size_t bytes, int to, int tag, void **request, void *user);
    da_status (*receive)(void *data, size_t bytes, int from, int tag, void **request, void *user);

    /* Waits at most `seconds` for a request; 0: only looks, and lets messages move on. *done says whether it has ended,
     * in which case it is gone. After an error (DA_ERROR_COMMUNICATION: the message is lost, or a rank has given up) the
     * request is still there, to be cancelled. */
    da_status (*wait)(void *request, double seconds, bool *done, void *user);

    /* Ends a request that nobody waits for any more. True: its memory may be used again. False: the transport may still
     * touch that memory at any time; the library then never releases it. Either way the request is gone. */
    bool (*cancel)(void *request, void *user);

    /* Optional, for groups that have something better than the library's own, which is made of send and receive. Every
     * rank calls them in the same order; when they return they are done with the memory. gather: `bytes` bytes of each rank, in the order of the ranks, into `all`.
     * reduce: data[k] becomes the sum over all ranks, with the same bits on each; dtype is DA_F32 or DA_F64. */
    da_status (*gather)(const void *mine, size_t bytes, void *all, void *user);
    da_status (*reduce)(void *data, int64_t count, da_dtype dtype, void *user);

    /* Optional. This rank gives up: the other ranks' waits end with an error soon, and not only after `timeout`. */
    void (*abandon)(void *user);
};

/* Sets `size` and the defaults given above: one rank, and no functions. */
DA_API void da_comm_init(da_comm *comm);

/* Ranks that are threads of one process: for tests, and for trying out. The threads are yours: each makes a context with
 * a da_comm of its own. Messages are copied once, from the sender's memory to the receiver's. */
typedef struct da_comm_group da_comm_group;

/* Creates a group of 1..DA_MAX_THREADS ranks. allocator NULL: the C library's. Errors: DA_ERROR_INVALID_ARGUMENT (ranks,
 * timeout, out, an allocator with one function missing), DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
DA_API da_status da_comm_group_create(int ranks, double timeout, const da_allocator *allocator, da_comm_group **out);

/* The da_comm of one rank, for the thread that is that rank. It holds until the group is freed.
 * Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_comm_group_rank(da_comm_group *group, int rank, da_comm *out);

/* Frees a group that no thread uses any more; NULL is allowed. */
DA_API void da_comm_group_free(da_comm_group *group);

/* ---------------------------------------------------------------------------------------------------------------------
 * Who sees whom, and what it costs
 */

/* *count = c_ij, the number of patterns by which query i of head `head` sees key j (0: not at all; at most 1 with
 * DA_OVERLAP_ONCE), with causal and window applied. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_pattern_multiplicity(const da_attention_config *config, int64_t n, int64_t heads, int64_t head,
                                         int64_t i, int64_t j, int64_t *count);

typedef struct da_cost {
    size_t size;
    double counted_pairs;  /* (query, key) pairs over batch and heads, a pair counted once per pattern that holds it */
    double distinct_pairs; /* the same, each pair once: what a kernel must compute at least */
    double dense_pairs;    /* what dense attention computes (half under causal) */
    double counted_flops;  /* 4 * head_dim * counted_pairs: score and output product */
    double tensor_bytes;   /* query, key, value, out and logsumexp */
} da_cost;

DA_API void da_cost_init(da_cost *cost);

/* Cost of a configuration on a problem (n >= 1), key padding apart. Set cost->size by da_cost_init first. Exact while
 * n * heads <= 65536. Beyond, one period in the middle of the sequence is counted and scaled, where the segment lengths
 * divide the longest of them (exact if that divides n), and otherwise 65536 queries spread over the sequence (within a few
 * percent); of more than 64 heads, 64 are looked at. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_pattern_cost(const da_attention_config *config, const da_problem *problem, da_cost *cost);

/* ---------------------------------------------------------------------------------------------------------------------
 * The factory's choice, explained
 */

typedef struct da_explanation da_explanation;

/* Applies the selection rules to a problem without creating anything:
 *
 *   1. a quality target below 1                  -> block_sparse (config.quality_target; never unasked)
 *   2. flash attention 3 and an H100             -> improved
 *   3. more than 100,000 tokens                  -> ring
 *   4. several ranks, or several GPUs and more
 *      than 50,000 tokens                        -> distributed
 *   5. a flash kernel is available               -> improved     (on a CPU: our vector kernels run here)
 *   6. otherwise                                 -> standard
 *
 * A rule whose implementation cannot run here, or does not take the configuration, is passed over, and says so; so is one
 * that takes tensors to be whole, in a context of several ranks. The length is that of the whole sequence.
 * problem may be NULL (all default), and its n 0: the length is then config->sequence_length. Implementations that users
 * registered are never chosen. Errors: DA_ERROR_INVALID_ARGUMENT (also where problem->dtype contradicts config->dtype),
 * DA_ERROR_UNAVAILABLE (DA_DEVICE_CUDA), DA_ERROR_UNSUPPORTED (no implementation fits), DA_ERROR_OUT_OF_MEMORY. On error
 * *out is NULL. */
DA_API da_status da_explain(const da_context *context, const da_attention_config *config, const da_problem *problem,
                            da_explanation **out);
DA_API void da_explanation_free(da_explanation *explanation);

/* One rule, with the facts it saw. Strings live as long as the explanation. */
typedef struct da_rule {
    const char *condition;      /* "more than 100,000 tokens" */
    const char *facts;          /* "131,072 tokens" */
    bool holds;                 /* the condition is met */
    const char *implementation; /* what the rule would choose */
    bool chosen;                /* this rule decided */
    const char *outcome;        /* "chosen", "does not apply", "passed over: ...", "not reached" */
} da_rule;

/* An implementation considered, with what it would need on this problem. */
typedef struct da_alternative {
    const char *name;
    bool available;           /* here, and for this configuration and data type */
    const char *note;         /* what it is good for, or why it is not available */
    size_t workspace_bytes;   /* 0 where it is not available */
    double estimated_seconds; /* of one forward call, by da_plan()'s model; 0 where it or the length is unknown */
} da_alternative;

/* Getters. For NULL they return NULL, 0 or DA_ERROR_INVALID_ARGUMENT. */
DA_API const char *da_explanation_choice(const da_explanation *explanation);
DA_API size_t da_explanation_rule_count(const da_explanation *explanation);
DA_API size_t da_explanation_alternative_count(const da_explanation *explanation);
/* Errors: DA_ERROR_INVALID_ARGUMENT for an index out of range or NULL. */
DA_API da_status da_explanation_rule(const da_explanation *explanation, size_t index, da_rule *out);
DA_API da_status da_explanation_alternative(const da_explanation *explanation, size_t index, da_alternative *out);
/* Cost of the problem; all zero if its length is unknown. Set out->size by da_cost_init first. */
DA_API da_status da_explanation_cost(const da_explanation *explanation, da_cost *out);
/* How the choice's work would be cut: the configuration's tuning or, where that leaves all open and the context has a
 * plan for the problem, that plan's. What is still 0 is filled in where the implementation and the length are known.
 * *remembered (may be NULL) says whether a plan was used. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_explanation_tuning(const da_explanation *explanation, da_tuning *out, bool *remembered);
/* All of it as text of several lines; in a context of several ranks, with what da_plan_ranks says of them by the
 * context's rates, the problem being the whole sequence. */
DA_API const char *da_explanation_text(const da_explanation *explanation);

/* ---------------------------------------------------------------------------------------------------------------------
 * Plans: estimate or measure once, run many times
 *
 *     da_plans *plans;
 *     da_plans_create(NULL, &plans);
 *     if (da_plans_load(plans, "plans.txt") != DA_OK) puts(da_last_error_message());    // goes on without
 *     options.plans = plans;                                                            // of da_context_create
 *     da_plan(context, &config, &problem, DA_PLAN_MEASURE, NULL);                       // a second or so, if not known
 *     da_plans_save(plans, "plans.txt");
 *
 * A plan belongs to a problem: the instruction set and number of threads of the context, the shape, the data type, and
 * all of the configuration that bears on speed. A store belongs to the machine that it was made on.
 */

/* Creates an empty store; any number of threads and contexts may use it at once. allocator NULL: the C library's. Errors: DA_ERROR_INVALID_ARGUMENT (out, an allocator with one
 * function missing), DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
DA_API da_status da_plans_create(const da_allocator *allocator, da_plans **out);

/* Frees a store that no context uses any more; NULL is allowed. */
DA_API void da_plans_free(da_plans *plans);

/* Number of plans remembered; 0 for NULL. */
DA_API size_t da_plans_count(const da_plans *plans);

/* Writes all plans to a text file that da_plans_load reads: a temporary file beside it is written and then renamed, so
 * that the old file or the new one is there, whatever happens. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_IO,
 * DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_plans_save(const da_plans *plans, const char *path);

/* Adds a file's plans; of two for one problem the file's stays. All of the file is checked before anything is added.
 * Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_IO (it cannot be read), DA_ERROR_FORMAT (damaged, or no file of plans),
 * DA_ERROR_UNAVAILABLE (whole, but written on another CPU or by another version), DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_plans_load(da_plans *plans, const char *path);

typedef enum da_plan_mode {
    DA_PLAN_ESTIMATE = 0, /* by a model of the cost, whose constants are measured once per context: milliseconds */
    DA_PLAN_MEASURE = 1   /* tries the candidates on made-up data, of a shortened problem if it is large: about a
                             second; the best is remembered in the context's plans, if it has any */
} da_plan_mode;

/* A way to compute a problem. */
typedef struct da_plan_candidate {
    const char *implementation; /* lives as long as the process */
    da_tuning tuning;           /* 0: the library's choice */
    double estimated_seconds;   /* of one forward call, by the model; 0: it says nothing */
    double measured_seconds;    /* 0: not measured. On a shortened problem: scaled as the model scales */
} da_plan_candidate;

#define DA_MAX_PLAN_CANDIDATES 64

typedef struct da_plan_result {
    size_t size;
    da_plan_candidate choice;
    bool remembered; /* the choice comes from the context's plans, and there are no candidates */
    size_t candidate_count;
    da_plan_candidate candidates[DA_MAX_PLAN_CANDIDATES]; /* first each implementation as it is, then tunings */
} da_plan_result;

DA_API void da_plan_result_init(da_plan_result *result);

/* Finds an implementation and a tuning for a problem whose length is known (problem->n, or else sequence_length). A plan
 * that the context remembers is taken, in both modes, where the configuration leaves all of the tuning open; what the
 * configuration's tuning sets is kept. Set result->size by da_plan_result_init first; result may be NULL. The context's
 * threads are used; calls that run beside it are measured too. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_UNAVAILABLE
 * (DA_DEVICE_CUDA), DA_ERROR_UNSUPPORTED (no implementation fits), DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_plan(const da_context *context, const da_attention_config *config, const da_problem *problem,
                         da_plan_mode mode, da_plan_result *result);

/* ---- plans over ranks: what `ring` and `distributed` would send, hold and take, on machines that need not exist ----- */

/* The ranks, and the network between them. Every rank is a machine like the context's. */
struct da_ranks_options {
    size_t size;
    int ranks;             /* 1; 1..DA_MAX_PLANNED_RANKS */
    double latency;        /* 5e-6: seconds that a message takes beyond its bytes; >= 0 */
    double overhead;       /* 1e-6: seconds of a rank's own time for each message that it sends or receives; >= 0 */
    double bandwidth;      /* 25e9: bytes a second that a rank receives and, at the same time, sends; above 0 */
    double forward_flops;  /* 0: by da_plan's model, from timings of this machine; otherwise floating-point operations a
                              second that a rank does for the distinct pairs of a forward call */
    double backward_flops; /* 0: likewise, by a measured call; with forward_flops given, the same as that */
    bool backward;         /* false; true: a forward and a backward call, with the gradients of query, key and value */
};

#define DA_MAX_PLANNED_RANKS 65536
#define DA_MAX_PLANNED_HEADS 4096

DA_API void da_ranks_options_init(da_ranks_options *options);

/* One rank's share of a call (with options.backward, of both calls). Bytes and rows are those of messages with keys,
 * values, queries and gradients; each call begins with a gather of some numbers of each rank, which counts as time alone. */
typedef struct da_rank_share {
    size_t size;
    int rank;
    int64_t tokens;
    int64_t messages_received, messages_sent;
    int64_t rows_received, rows_sent; /* of head_dim numbers, over batch and heads; a key with its value is two rows */
    double bytes_received, bytes_sent;
    double pairs; /* distinct pairs of the forward call, over batch and heads: of this rank's queries and any key;
                            with heads divided, of its heads */
    double flops; /* for them: 4 head_dim a pair; with a backward call 14 more, as scores are computed twice */
    double tensor_bytes;    /* the rank's query, key, value, out, logsumexp (f64), and with a backward call gradients */
    double memory_bytes;    /* that the library allocates beyond them, at the highest: messages with the lists of their
                            rows, sums carried from step to step, tensors of the rank's heads, workspace, layout */
    double compute_seconds; /* arithmetic */
    double transfer_seconds; /* messages, if nothing were computed meanwhile */
    double seconds;          /* until this rank is done, all having begun at once */
} da_rank_share;

/* The whole of one implementation's call. */
typedef struct da_ranks_total {
    size_t size;
    double seconds;        /* until the last rank is done */
    double single_seconds; /* one rank with all tokens, computing at the same rate */
    double bytes;          /* sent by all ranks */
    double bytes_most;     /* received by one rank, of all */
    double memory_most;    /* tensors and memory of one rank, of all */
    double balance;        /* arithmetic of the rank with the most to that of the mean, 1 or more */
} da_ranks_total;

DA_API void da_rank_share_init(da_rank_share *share);
DA_API void da_ranks_total_init(da_ranks_total *total);

typedef struct da_ranks_plan da_ranks_plan;

/* Goes through the schedule of `ring` and `distributed` over options->ranks ranks without data: which rows each rank
 * sends to which, by the functions that the calls use, and how many pairs of a query and a key each step has. Exact, but
 * for more than 8 patterns in a head, whose common pairs are then taken in the proportion of da_pattern_cost. With many
 * ranks and heads some ranks stand for all (the first, the last, others spread between): da_ranks_plan_count says how
 * many, and sums and largest values are then of those, scaled.
 *
 * The time of a ring step is the longer of the computation with the rows at hand and the transfer of the next ones; ranks
 * wait for those that they receive from and send to. `distributed`, with tokens divided, transfers while it computes with
 * the rank's own rows, and then computes with the others'; with heads divided it goes by turns of some heads, and nothing
 * hides the transfer of the first one's inputs and, once the slowest rank has computed, of the last one's results. It is
 * gone through by both, and by what the calls would take in a context with these rates (da_ranks_plan_split). Arithmetic takes
 * `forward_flops` and `backward_flops`, or what this machine takes with the context's threads, which is timed once for a
 * problem and then known to the context.
 *
 * problem: of the whole sequence, n >= 1 and heads <= DA_MAX_PLANNED_HEADS; the configuration's partition applies.
 * Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
DA_API da_status da_plan_ranks(const da_context *context, const da_attention_config *config, const da_problem *problem,
                               const da_ranks_options *options, da_ranks_plan **out);
DA_API void da_ranks_plan_free(da_ranks_plan *plan); /* NULL is allowed */

/* The quicker of "ring" and "distributed"; where their times are within 2%, or one of them needs more than the memory of
 * the context's hardware, the one with less memory. NULL for NULL. The string lives as long as the process. */
DA_API const char *da_ranks_plan_choice(const da_ranks_plan *plan);

/* Number of ranks that were gone through; 0 for NULL. */
DA_API size_t da_ranks_plan_count(const da_ranks_plan *plan);

/* How the forward call of `distributed` is divided, or the backward call: DA_SPLIT_TOKENS or DA_SPLIT_HEADS. That is what
 * `split` says; with DA_SPLIT_AUTO what takes less time by the plan's model, which is that of the calls: these agree, if
 * their context's `rates` are the plan's options, or if it is the plan's context and neither gives rates of arithmetic.
 * DA_SPLIT_AUTO for NULL, and for a backward call that was not planned. */
DA_API da_split da_ranks_plan_split(const da_ranks_plan *plan, bool backward);

/* implementation: "ring" or "distributed", which divides its calls as da_ranks_plan_split says, or else
 * "distributed_tokens" or "distributed_heads": the same with one split; 0 <= index < da_ranks_plan_count(), in the order of ranks. Set out->size by
 * its _init function first. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_ranks_plan_share(const da_ranks_plan *plan, const char *implementation, size_t index,
                                     da_rank_share *out);
DA_API da_status da_ranks_plan_total(const da_ranks_plan *plan, const char *implementation, da_ranks_total *out);

/* All of it as text of several lines, with the choice and its reason. */
DA_API const char *da_ranks_plan_text(const da_ranks_plan *plan);

/* ---------------------------------------------------------------------------------------------------------------------
 * The registry: built-in implementations and yours, by the same call
 */

/* Bits of da_implementation.features: options that an implementation takes beyond plain longnet attention with equal
 * head counts. Creation or the forward call refuses what is not listed with DA_ERROR_UNSUPPORTED. */
enum {
    DA_FEATURE_CAUSAL = 1 << 0,
    DA_FEATURE_WINDOW = 1 << 1,
    DA_FEATURE_KEY_PADDING = 1 << 2,
    DA_FEATURE_GROUPED_QUERIES = 1 << 3,
    DA_FEATURE_LOGSUMEXP = 1 << 4,
    DA_FEATURE_HEAD_GROUPS = 1 << 5,
    DA_FEATURE_BLOCK_OFFSETS = 1 << 6,
    DA_FEATURE_ZERO_PAD = 1 << 7,
    DA_FEATURE_OVERLAP_ONCE = 1 << 8,
    DA_FEATURE_DROPOUT = 1 << 9,
    DA_FEATURE_QUERY_RANGE = 1 << 10,
    DA_FEATURE_ALL = (1 << 11) - 1,
    /* Not an option of the configuration: in a context of several ranks, tensors hold this rank's part of the tokens, which
     * may be none (n = 0), and calls are collective. Other implementations take tensors of such a context to be whole. */
    DA_FEATURE_PARTS = 1 << 11
};

/* Bit of a data type in da_implementation.dtypes. */
#define DA_DTYPE_BIT(dtype) (1u << (dtype))
#define DA_DTYPE_BITS_ALL (DA_DTYPE_BIT(DA_F32) | DA_DTYPE_BIT(DA_F64) | DA_DTYPE_BIT(DA_BF16) | DA_DTYPE_BIT(DA_F16))

/* A forward call as an implementation receives it: every argument has been checked as da_attention_forward promises.
 * Fields that the caller left out are NULL; key_mask_stride is filled in. */
typedef struct da_forward_call {
    const da_context *context;
    const da_attention_config *config;
    const da_tensor *query, *key, *value, *out;
    const da_tensor *lse; /* or NULL */
    const da_call_options *options;
    double scale;   /* 1 / sqrt(head_dim) already put in */
    double dropout; /* to apply: 0 unless training */
} da_forward_call;

/* The same for da_attention_backward. */
typedef struct da_backward_call {
    const da_context *context;
    const da_attention_config *config;
    const da_backward_tensors *tensors;
    const da_call_options *options;
    double scale, dropout;
} da_backward_call;

typedef struct da_implementation {
    size_t size;             /* sizeof(da_implementation) */
    const char *name;        /* letters, digits, '_' and '-', 1..63 characters; not "auto" */
    const char *description; /* what it is; NULL: "" */
    const char *best_for;    /* what it is good for; NULL: "" */
    const char *memory;      /* memory beyond inputs and outputs, for people to read; NULL: "" */
    uint32_t features;       /* DA_FEATURE_* */
    uint32_t dtypes;         /* DA_DTYPE_BIT() of each */
    void *user;              /* handed to the functions below */
    /* Can it run here? On false it writes why into reason. NULL: always. */
    bool (*available)(const da_context *context, char *reason, size_t reason_size, void *user);
    /* Makes the state of a handle from a validated configuration; it may keep `config`, which lives as long as the
     * handle. NULL: there is no state. */
    da_status (*create)(const da_context *context, const da_attention_config *config, void *user, void **state);
    void (*destroy)(void *state, void *user); /* NULL: nothing to do */
    /* Required. Several threads may call it at once with one state. */
    da_status (*forward)(void *state, const da_forward_call *call, void *user);
    /* Bytes that forward allocates. NULL: none. */
    size_t (*workspace)(const da_context *context, const da_attention_config *config, const da_problem *problem,
                        void *user);
    /* The gradients, and bytes that they take. NULL: there is no backward pass; none. */
    da_status (*backward)(void *state, const da_backward_call *call, void *user);
    size_t (*backward_workspace)(const da_context *context, const da_attention_config *config,
                                 const da_problem *problem, void *user);
    /* What da_attention_tiles does; call->value, out and lse are NULL. NULL: the implementation computes all. */
    da_status (*tiles)(void *state, const da_forward_call *call, da_tile_mask **out, da_sparse_report *report,
                       void *user);
} da_implementation;

/* Registers an implementation under its name; the table and its strings are copied, `user` is kept as it is. Names stay
 * registered until the process ends. Any thread may call it. "auto" never picks what you register.
 * Errors: DA_ERROR_INVALID_ARGUMENT (missing name or forward, a name that is not allowed, bits in features or dtypes that
 * this version does not know), DA_ERROR_ALREADY_REGISTERED, DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_register_implementation(const da_implementation *implementation);

/* Number of registered implementations, and the name of each, built-in ones first; NULL beyond the end. The strings live
 * as long as the process. "auto" is not among them: it is a rule for choosing. */
DA_API size_t da_implementation_count(void);
DA_API const char *da_implementation_name(size_t index);

/* What is known of an implementation. Strings live as long as the process. */
typedef struct da_implementation_info {
    size_t size;
    const char *name, *description, *best_for, *memory;
    uint32_t features, dtypes;
    bool built_in;
    bool available;   /* in this context */
    char reason[256]; /* why not available; "" if it is */
    bool backward;    /* it has a backward pass */
} da_implementation_info;

DA_API void da_implementation_info_init(da_implementation_info *info);

/* Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_UNKNOWN_IMPLEMENTATION (the message lists the known ones). */
DA_API da_status da_implementation_get_info(const da_context *context, const char *name, da_implementation_info *info);

#ifdef __cplusplus
}
#endif

#endif
