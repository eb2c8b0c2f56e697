/* SPDX-License-Identifier: Apache-2.0 */
/* The public interface of libingot. The region between the two cffi markers is what Python reads.
 * Conventions: every function that can fail returns an ingot_status and leaves a message for
 * ingot_last_error() on this thread; out-parameters come last and are written only on success;
 * handles are opaque; no callbacks; nothing is printed; the library never aborts. */
#ifndef INGOT_H
#define INGOT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* cffi: begin */

#define INGOT_ABI_VERSION 1
#define INGOT_KV_LAYOUT 1 /* of the blocks that ingot_session_block_read copies */

/** Bands: 1-19 caller, 20-39 file, 40-59 resources, 60-79 hardware, 90 internal. */
typedef enum ingot_status {
    INGOT_OK = 0,
    INGOT_ERROR_INVALID_ARGUMENT = 1,
    INGOT_ERROR_WRONG_STATE = 2,
    INGOT_ERROR_CANCELLED = 3,
    INGOT_ERROR_CONTEXT_FULL = 4,
    INGOT_ERROR_FORKED = 5,
    INGOT_ERROR_BUSY = 6,
    INGOT_ERROR_FORMAT = 20,
    INGOT_ERROR_VERSION = 21,
    INGOT_ERROR_CHECKSUM = 22,
    INGOT_ERROR_UNSUPPORTED = 23,
    INGOT_ERROR_OUT_OF_MEMORY = 40,
    INGOT_ERROR_MEMORY_LIMIT = 41,
    INGOT_ERROR_IO = 42,
    INGOT_ERROR_THREADS = 43,
    INGOT_ERROR_UNTRUSTED = 44, /* a file that others may write, where that was to be refused */
    INGOT_ERROR_FILE_LOST = 45, /* a guarded file was cut short, or its storage failed, while it was open */
    INGOT_ERROR_HARDWARE = 60,
    INGOT_ERROR_NO_BACKEND = 61, /* it is not installed, or of another build */
    INGOT_ERROR_INTERNAL = 90
} ingot_status;

/** Instruction set levels, also the bits of ingot_cpu_features() and ingot_cpu_set_mask(). */
typedef enum ingot_isa {
    INGOT_ISA_REF = 1,
    INGOT_ISA_AVX2 = 2,
    INGOT_ISA_AVXVNNI = 4,
    INGOT_ISA_AVX512VNNI = 8,
    INGOT_ISA_NEON = 16,
    INGOT_ISA_NEON_DOTPROD = 32,
    INGOT_ISA_NEON_I8MM = 64
} ingot_isa;

typedef enum ingot_struct {
    INGOT_STRUCT_MODEL_INFO = 0,
    INGOT_STRUCT_TENSOR_INFO = 1,
    INGOT_STRUCT_SESSION_CONFIG = 2,
    INGOT_STRUCT_MEMORY_INFO = 3,
    INGOT_STRUCT_KERNEL_INFO = 4,
    INGOT_STRUCT_LINEAR_CALL = 5,
    INGOT_STRUCT_SAMPLING = 6,
    INGOT_STRUCT_PROFILE_ENTRY = 7,
    INGOT_STRUCT_TOPOLOGY_INFO = 8,
    INGOT_STRUCT_TUNING = 9,
    INGOT_STRUCT_TUNE_CANDIDATE = 10,
    INGOT_STRUCT_OPEN_CONFIG = 11,
    INGOT_STRUCT_DEVICE_INFO = 12
} ingot_struct;

/** How a session keeps keys and values. */
typedef enum ingot_kv_format {
    INGOT_KV_AUTO = 0, /* kv8 */
    INGOT_KV_F16 = 1,  /* the reference */
    INGOT_KV_KV8 = 2,  /* int8, one float16 scale per position and head */
    INGOT_KV_K8V4 = 3  /* keys as kv8 but rotated, values of 4 bits; head sizes that are powers of two */
} ingot_kv_format;

/** How a file is opened. */
typedef enum ingot_open_flag {
    INGOT_OPEN_STRICT = 1, /* refuse what group or others may write, or what belongs to another user but root */
    INGOT_OPEN_GUARD = 2   /* a file cut short while it is mapped is an error instead of SIGBUS */
} ingot_open_flag;

typedef struct ingot_model ingot_model;
typedef struct ingot_session ingot_session;

typedef struct ingot_open_config {
    uint32_t struct_size;
    uint32_t flags;    /* of ingot_open_flag */
    uint32_t isa_mask; /* levels that this model's kernels may be of, ref always; 0: ingot_cpu_mask() */
    uint32_t device;   /* of the backend */
    uint64_t device_memory_limit; /* bytes that weights may take on the device, 0: no limit */
    const char *backend; /* "vulkan", "cuda", or a path with a slash; NULL or "cpu": none. See ingot_backend.h */
    uint64_t *progress; /* changes while weights go to a device: bytes there, bytes in all; NULL: nobody looks */
    const char *cache_folder; /* where the backend may keep what its driver compiled; NULL: nowhere */
} ingot_open_config;

/** A device of a backend, as its driver describes it. */
typedef struct ingot_device_info {
    uint32_t struct_size;
    uint32_t kind; /* 1 with memory of its own, 2 with the CPU's memory, 3 software */
    uint32_t vendor;
    uint32_t id;
    uint32_t driver_version;
    uint32_t reserved;
    uint64_t memory_bytes;
    char name[128];
    char driver[128];
    char refused[256]; /* why it is not to be used, "" if it may be */
    char features[256];
} ingot_device_info;

typedef struct ingot_model_info {
    uint32_t struct_size;
    uint32_t tensor_count;
    uint32_t instruction_count; /* of entry 'step' */
    uint32_t context;           /* most positions of a session */
    uint32_t chunk;             /* most tokens of one pass */
    uint32_t vocabulary;        /* ids below it may be sampled */
    uint32_t logits_width;      /* rows of the head, at least vocabulary */
    uint32_t embedding_rows;    /* token ids must be below it */
    uint64_t file_size;
    uint64_t weights_offset; /* of the weights section in the file, bytes */
    uint64_t weights_size;   /* bytes */
    uint64_t weight_bytes_per_token;
} ingot_model_info;

typedef struct ingot_tensor_info {
    uint32_t struct_size;
    uint8_t role, dtype, scale_kind, layout;
    uint32_t rank;
    uint64_t shape[4];
    uint64_t offset; /* bytes, as in the tensor record */
    uint64_t size;   /* bytes */
} ingot_tensor_info;

typedef struct ingot_session_config {
    uint32_t struct_size;
    uint32_t context;        /* positions to reserve; 0: the plan's */
    uint32_t chunk;          /* tokens of one pass; 0: the plan's */
    uint32_t logits_rows;    /* most positions per call whose logits are kept; 0: 1 */
    uint32_t threads;        /* of passes of up to 8 tokens, 1 to 64; 0: one per big core that this process may use */
    uint32_t prefill_threads; /* of longer passes, 1 to 64; 0: as threads */
    uint32_t kv_format;      /* enum ingot_kv_format */
    uint64_t memory_limit;   /* bytes that model and session may take together; 0: no limit */
} ingot_session_config;

typedef struct ingot_memory_info {
    uint32_t struct_size;
    uint32_t threads;
    uint64_t weights_bytes; /* mapped; 0 where a device has a copy and the mapping is not read */
    uint64_t arena_bytes;   /* activations and logits */
    uint64_t scratch_bytes; /* quantized activations, per-thread buffers */
    uint64_t state_bytes;   /* KV */
    uint64_t device_bytes; /* of weights, activations and KV that a backend holds apart from the file's pages */
    uint64_t total_bytes;
} ingot_memory_info;

/** What one thread did for one instruction of a pass. Seconds since the pass began; begin == end: it had no part. */
typedef struct ingot_profile_entry {
    uint32_t instruction;
    uint32_t opcode;
    uint32_t weight;        /* tensor id of a linear's first weight, else 0xffffffff */
    uint32_t barriers;      /* that completed it */
    double begin, end;      /* the wait included */
    double wait;            /* for the other threads */
    uint64_t weight_bytes;  /* read by all threads together */
    uint64_t multiply_adds; /* of all threads together */
} ingot_profile_entry;

typedef struct ingot_topology_place {
    uint32_t id;
    uint32_t core;     /* lowest id of its physical core */
    uint32_t capacity; /* of 1024, relative to the fastest */
    uint32_t big;      /* 1 if threads are meant for it */
} ingot_topology_place;

/** The CPUs that this process may use. */
typedef struct ingot_topology_info {
    uint32_t struct_size;
    uint32_t cpu_count;
    uint32_t class_count; /* different capacities */
    uint32_t big_cores;   /* physical ones */
    uint32_t threads;     /* default of a session: one per big core, at most the quota rounded up */
    uint32_t reserved;
    double quota;   /* CPUs that the control groups allow, 0: no limit */
    char name[64];  /* of the CPU or the board, "" if unknown */
    ingot_topology_place cpus[256]; /* big cores first */
} ingot_topology_info;

/** What a measurement chose for a session. It changes the speed, never a result. */
typedef struct ingot_tuning {
    uint32_t struct_size;
    uint32_t threads;         /* 0: as opened */
    uint32_t prefill_threads; /* 0: as opened */
    uint32_t grain;           /* tiles that a thread takes at least, decode; 0: 1 */
    uint32_t prefill_grain;
    uint32_t disturbed;   /* 1: other processes took the CPUs meanwhile, threads are not chosen; not to be kept */
    uint32_t kernels[64]; /* [dtype] decode, [32 + dtype] prefill: 1 + index of a kernel, 0: dispatch's choice */
} ingot_tuning;

/** One of the rivals of a measurement; the first of each race is what holds without one. */
typedef struct ingot_tune_candidate {
    uint32_t phase;  /* 0 decode, 1 prefill */
    uint32_t dtype;  /* whose kernel is raced, 0: threads or grain are */
    uint32_t kernel; /* 1 + index, 0: dispatch's choice */
    uint32_t threads;
    uint32_t grain;
    uint32_t chosen; /* 1 for the winner of its race */
    double seconds;  /* the least of its trials */
    double gigabytes_per_second;
    double giga_operations_per_second; /* a multiply-add is two */
} ingot_tune_candidate;

typedef struct ingot_kernel_info {
    uint32_t struct_size;
    uint32_t isa;       /* one bit of ingot_isa */
    uint32_t available; /* 1 if this CPU under the present mask may run it */
    uint32_t selected;  /* 1 if dispatch takes it for its op and format */
    char name[64];      /* stem of its source file */
} ingot_kernel_info;

/** One call of a linear kernel by name, for tests: out = x W^T for rows 16 * tile_begin and on. */
typedef struct ingot_linear_call {
    uint32_t struct_size;
    uint32_t dtype;         /* enum ingot_dtype: f16 or a weight format */
    uint32_t k;             /* multiple of 32 */
    uint32_t group;         /* k per weight scale */
    uint32_t m;             /* tokens */
    uint32_t tile_begin;    /* first tile of 16 rows */
    uint32_t tile_end;      /* one past the last */
    int32_t delta;          /* formats with a codebook */
    int8_t codebook[32];    /* the same; zero beyond the format's entries */
    const uint8_t *weights; /* packed, tile 0 first; 64-byte aligned */
    uint64_t weights_size;  /* bytes; checked against dtype, k and tile_end */
    const float *x;         /* (m, k) */
    float *out;             /* (m, 16 * (tile_end - tile_begin)) */
    uint32_t layout;        /* enum ingot_layout; 0: t16 */
    uint32_t reserved;      /* 0 */
    const uint64_t *tile_offsets; /* sparse: byte offsets of tiles 0 to tile_end, the end included; NULL: dense */
} ingot_linear_call;

/** How a token is chosen: first the penalty, then temperature, top-k, top-p, min-p, each on what the one before left;
 * then one draw, keyed by (seed, position of the token). */
typedef struct ingot_sampling {
    uint32_t struct_size;
    uint32_t top_k;            /* most likely ids to keep; 0: all */
    double temperature;        /* 0 to 100; 0: the most likely id, among equals the lowest */
    double top_p;              /* more than 0; 1: off */
    double min_p;              /* least share of the likeliest id's probability; 0: off */
    double repetition_penalty; /* divides positive and multiplies negative logits of ids seen before; 1: off */
    uint64_t seed;
} ingot_sampling;

/** INGOT_ABI_VERSION as the library was built. */
uint32_t ingot_abi_version(void);
/** sizeof of a struct of this header as the library was built; 0 for an unknown one. */
size_t ingot_struct_size(ingot_struct which);
/** Name of a status, "unknown" for a number that is none. */
const char *ingot_status_name(ingot_status status);
/** Message of the last failure on this thread, "" before any. Valid until the next call here. */
const char *ingot_last_error(void);
/** enum ingot_rule of the last file refused on this thread, 0 before any. */
uint32_t ingot_last_rule(void);
/** Moves log lines (text, '\n' separated) into buffer; returns the bytes written, no terminator. */
size_t ingot_log_drain(char *buffer, size_t size);

/** ISA levels of this CPU as bits of ingot_isa, the mask not applied. */
uint32_t ingot_cpu_features(void);
/** Restricts dispatch to these levels (ref always stays). Affects models opened afterwards.
 * @return INGOT_ERROR_HARDWARE if a level is asked for that the CPU lacks. */
ingot_status ingot_cpu_set_mask(uint32_t mask);
/** The mask in force: features, or what ingot_cpu_set_mask or INGOT_FORCE_ISA left of them. */
uint32_t ingot_cpu_mask(void);
/** The CPUs that this process may use. info->struct_size must be set.
 * @param root path that stands for "/": "" outside of tests.
 * @param mask bit c % 64 of word c / 64 is CPU c; NULL: the affinity mask of this process.
 * @param mask_words words of the mask. @return INGOT_ERROR_INVALID_ARGUMENT. */
ingot_status ingot_topology_get(const char *root, const uint64_t *mask, uint32_t mask_words, ingot_topology_info *info);
/** Kernels of this build, those that the CPU lacks included. */
uint32_t ingot_kernel_count(void);
/** Describes kernel `index`. info->struct_size must be set. @return INGOT_ERROR_INVALID_ARGUMENT. */
ingot_status ingot_kernel_info_get(uint32_t index, ingot_kernel_info *info);
/** Runs one linear kernel on one thread. @return INGOT_ERROR_HARDWARE if it is not available. */
ingot_status ingot_kernel_run(uint32_t index, const ingot_linear_call *call);

/** Maps and validates a file. path is UTF-8.
 * @return INGOT_ERROR_FORMAT, _VERSION, _CHECKSUM, _UNSUPPORTED (see ingot_last_rule), _IO, _OUT_OF_MEMORY,
 *         _HARDWARE if INGOT_FORCE_ISA names a level that the CPU lacks. */
ingot_status ingot_model_open(const char *path, ingot_model **model);
/** The same with settings. The guard takes SIGBUS while a guarded model is open and passes on what is not its own.
 * @return INGOT_ERROR_UNTRUSTED, _FILE_LOST as well; _HARDWARE for a level that the CPU lacks or that is masked. */
ingot_status ingot_model_open_with(const char *path, const ingot_open_config *config, ingot_model **model);
/** @return INGOT_ERROR_FILE_LOST once a part of a guarded file was gone when somebody read it, e.g. after copying a
 * section; the other calls look for themselves. */
ingot_status ingot_model_intact(const ingot_model *model);
/** Describes device `device` of a backend; *count are there. With none, *count is 0 and info->refused says what was
 * looked for. info->struct_size must be set. @return INGOT_ERROR_NO_BACKEND. */
ingot_status ingot_backend_device_get(const char *backend, uint32_t device, ingot_device_info *info, uint32_t *count);
/** Which instructions of entry 'step' run on the model's backend: 1, else 0. @param capacity at least instruction_count. */
ingot_status ingot_model_taken(const ingot_model *model, uint8_t *taken, uint32_t capacity);
/** Levels that the model's kernels may be of, as bits of ingot_isa. */
uint32_t ingot_model_isa(const ingot_model *model);
/** SHA-256 of the section table, which holds the digests of all sections: it names the content of the file. */
ingot_status ingot_model_digest(const ingot_model *model, uint8_t digest[32]);
/** Gives the memory of the mapped weights back to the system, from any thread; they are read again when they are needed.
 * @param bytes what was given back at most. */
ingot_status ingot_model_release(ingot_model *model, uint64_t *bytes);
/** Brings the weights into memory again. */
ingot_status ingot_model_resume(ingot_model *model);
/** Closes it once its last session is gone; NULL is allowed. */
void ingot_model_close(ingot_model *model);
/** Describes the model. info->struct_size must be set. @return INGOT_ERROR_INVALID_ARGUMENT. */
ingot_status ingot_model_info_get(const ingot_model *model, ingot_model_info *info);
/** The bytes of a section by its name ("tokenizer", "chat", "meta", "certificate", ...), digest checked, valid while the
 * model is open; *data is NULL and *size 0 if the file has none. Not for "weights".
 * @return INGOT_ERROR_CHECKSUM, INGOT_ERROR_INVALID_ARGUMENT for a name that is none. */
ingot_status ingot_model_section(const ingot_model *model, const char *name, const uint8_t **data, uint64_t *size);
/** Describes tensor `tensor`. info->struct_size must be set. @return INGOT_ERROR_INVALID_ARGUMENT. */
ingot_status ingot_model_tensor_info(const ingot_model *model, uint32_t tensor, ingot_tensor_info *info);
/** Writes rows [row_begin, row_end) of a weight or constant as float32 (rows, k) into out.
 * @param capacity floats that out holds. */
ingot_status ingot_tensor_dequantize(const ingot_model *model, uint32_t tensor, uint64_t row_begin, uint64_t row_end,
                                     float *out, uint64_t capacity);
/** Gigabytes per second of reading the mapped weights once with this many threads;
 * pattern 0 plain, 1 prefetched, 2 non-temporal. For `ingot bench`. */
ingot_status ingot_session_stream(ingot_session *session, uint32_t pattern, double *gigabytes_per_second);

/** Allocates all that the session will ever use. config may be NULL.
 * @return INGOT_ERROR_MEMORY_LIMIT with the largest context that fits in the message, _OUT_OF_MEMORY, _THREADS. */
ingot_status ingot_session_create(ingot_model *model, const ingot_session_config *config, ingot_session **session);
/** What ingot_session_create would take, without taking it. config may be NULL; info->struct_size must be set.
 * @param context the largest context that fits config->memory_limit, 0 if none does.
 * @return as ingot_session_create, but a limit that is too low is no error. */
ingot_status ingot_session_measure(ingot_model *model, const ingot_session_config *config, ingot_memory_info *info,
                                   uint32_t *context);
/** Gives buffers and free blocks of keys and values back to the system; the session keeps its positions, not its logits,
 * and takes the memory again when it is used. @param bytes what was given back at most. */
ingot_status ingot_session_trim(ingot_session *session, uint64_t *bytes);
/** From any thread: later passes run on at most this many threads; 0: as opened or tuned. The same bits. */
ingot_status ingot_session_limit_threads(ingot_session *session, uint32_t most);
/** Stops its threads and gives the memory back; NULL is allowed. */
void ingot_session_destroy(ingot_session *session);
/** Feeds count tokens; keeps the logits of the last `wanted` of them (0 to logits_rows).
 * @return INGOT_ERROR_CONTEXT_FULL (nothing fed), _CANCELLED (position is what was fed), _INVALID_ARGUMENT,
 *         _BUSY if another thread is inside the session, _FORKED in a forked child. */
ingot_status ingot_session_eval(ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t wanted);
/** Logits of row `row` of the last eval, logits_width floats, owned by the session, NULL if there is none. */
const float *ingot_session_logits(const ingot_session *session, uint32_t row);
/** Feeds count tokens and chooses what follows. The last `drafted` of them are guesses: after each position the token is
 * chosen as if it were the only one, and the guesses count as far as they agree; the session is cut back to them.
 * chosen receives 1 to drafted + 1 ids and chosen_count their number: the guesses that agreed, then one that is new and
 * not fed yet. The ids are those that feeding one token at a time would give. Logits are not kept.
 * @param config struct_size must be set.
 * @param history ids that a repetition penalty applies to besides those of this call; may be NULL where it is off.
 * @param drafted less than count, and less than logits_rows.
 * @return as ingot_session_eval, INGOT_ERROR_INTERNAL if the model gives no finite logit. */
ingot_status ingot_session_step(ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t drafted,
                                const ingot_sampling *config, const int32_t *history, uint32_t history_count,
                                int32_t *chosen, uint32_t *chosen_count);
/** Chooses a token from the logits of row `row` of the last eval, for the position that keys the draw.
 * @return INGOT_ERROR_WRONG_STATE if there is no such row, INGOT_ERROR_INTERNAL if it holds no finite logit. */
ingot_status ingot_session_sample(ingot_session *session, uint32_t row, const ingot_sampling *config,
                                  const int32_t *history, uint32_t history_count, uint64_t position, int32_t *token);
/** A session at `position` (at most the parent's) of the same configuration, which shares the keys and values before it
 * without copying them; whoever writes to a shared block gets a copy of it. Parent and child may then be used by
 * different threads and be destroyed in any order. Fork from the thread that uses the parent.
 * @return as ingot_session_create; INGOT_ERROR_INVALID_ARGUMENT for a position that the parent does not hold. */
ingot_status ingot_session_fork(ingot_session *session, uint32_t position, ingot_session **child);
/** Tokens fed so far. */
uint32_t ingot_session_position(const ingot_session *session);
/** Forgets all positions from `position` on. */
ingot_status ingot_session_truncate(ingot_session *session, uint32_t position);
/** From any thread: the running eval stops after the present pass. The flag is cleared when the next eval or trace
 * returns. */
void ingot_session_cancel(ingot_session *session);
/** Bytes that the session took. info->struct_size must be set. @return INGOT_ERROR_INVALID_ARGUMENT. */
ingot_status ingot_session_memory(const ingot_session *session, ingot_memory_info *info);
/** The format in use, never INGOT_KV_AUTO. */
uint32_t ingot_session_kv_format(const ingot_session *session);
/** Bytes of one block of 64 positions, as the next two copy it: the same for all sessions of one model and format. */
uint64_t ingot_session_block_bytes(const ingot_session *session);
/** Copies block `block` out. @return INGOT_ERROR_WRONG_STATE if the session does not hold it (behind the position, or
 * left behind by a window). */
ingot_status ingot_session_block_read(ingot_session *session, uint32_t block, uint8_t *out, uint64_t size);
/** Puts a block into a session whose position is 0; ingot_session_resume then moves the position, feeding tokens instead
 * drops it. The bytes must come from ingot_session_block_read of the same model, format and library.
 * @return INGOT_ERROR_WRONG_STATE at another position, or for more blocks than a session with a window ever holds. */
ingot_status ingot_session_block_write(ingot_session *session, uint32_t block, const uint8_t *data, uint64_t size);
/** Takes up a session at `position` after its blocks were written.
 * @return INGOT_ERROR_WRONG_STATE if a block is missing that the next token sees. */
ingot_status ingot_session_resume(ingot_session *session, uint32_t position);
/** Like eval of at most one chunk, but runs only the first `instructions` and does not advance the position. */
ingot_status ingot_session_trace(ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t wanted,
                                 uint32_t instructions);
/** Copies an activation of the last trace or eval as float32 (rows, width). */
ingot_status ingot_session_read(const ingot_session *session, uint32_t tensor, float *out, uint64_t capacity);
/** Notes from now on what each instruction of a pass takes (1), or stops doing so (0). */
ingot_status ingot_session_profile(ingot_session *session, uint32_t enable);
/** Copies what `thread` did in the last pass, one entry per instruction; *count is 0 for a thread that had no part.
 * @param capacity entries that the buffer holds, at least the model's instruction_count.
 * @return INGOT_ERROR_WRONG_STATE without a profile, _INVALID_ARGUMENT. */
ingot_status ingot_session_profile_read(ingot_session *session, uint32_t thread, ingot_profile_entry *entries,
                                        uint32_t capacity, uint32_t *count);
/** Races threads, kernels and grains on the model's own weights and keeps the winners in this session.
 * @param seconds budget; a slow machine may take more, each rival has two trials.
 * @param threads 1: race the thread counts too; 0: keep those of the session.
 * @param tuning what was chosen, for ingot_session_apply(); struct_size must be set.
 * @param candidates room for `capacity` rivals; *count are written.
 * @return INGOT_ERROR_INVALID_ARGUMENT, also for a session that holds positions. */
ingot_status ingot_session_tune(ingot_session *session, double seconds, uint32_t threads, ingot_tuning *tuning,
                                ingot_tune_candidate *candidates, uint32_t capacity, uint32_t *count);
/** Takes over an earlier measurement. @return INGOT_ERROR_INVALID_ARGUMENT if it does not fit session, build or CPU. */
ingot_status ingot_session_apply(ingot_session *session, const ingot_tuning *tuning);
/** Digest of formats and shapes of all tensors: a tuning holds for files that share it. */
uint32_t ingot_model_layout(const ingot_model *model);
/** Instructions that have run in this session: backend 0 is the CPU, 1 the model's backend. */
uint64_t ingot_session_executed(const ingot_session *session, uint32_t backend);

/* cffi: end */

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
