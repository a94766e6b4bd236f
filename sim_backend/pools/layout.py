"""Where each number lies in the packed arrays that the compiled pools work on; why packed: `sim_backend.params`."""

# -- A kind of server [kinds, NPARAM]
PARAMS = (
    "model",
    "gpus",
    "other_w",
    "idle_w",
    "min_clock_ratio",
    "kv_tokens",
    "max_batch",
    "max_batch_tokens",
    "mixed_factor",
    "table_row",
    "table_len",
    # affine times, and the power that goes with them and with tables (`Profile`)
    "prefill_base_s",
    "prefill_per_token_s",
    "prefill_per_token2_s",
    "prefill_clock_share",
    "decode_base_s",
    "decode_per_request_s",
    "decode_per_context_s",
    "decode_clock_share",
    "tdp_w",
    "prefill_at_128",
    "prefill_per_octave",
    "prefill_ceiling",
    "decode_ratio",
    "prefill_static_share",
    "prefill_exponent",
    "decode_static_share",
    "decode_exponent",
    # two resources (`IterationModel`)
    "host_s",
    "host_per_request_s",
    "link_s",
    "link_per_token_s",
    "linear_compute_s",
    "linear_compute_per_token_s",
    "linear_memory_per_token_s",
    "attention_compute_per_pair_s",
    "attention_memory_per_context_s",
    "attention_compute_per_context_s",
    "overlap",
    "memory_knee",
    "active_w",
    "compute_w",
    "memory_w",
    "exponent",
    "head_memory_s",
    "head_compute_per_request_s",
    "state_memory_per_request_s",
    "window_tokens",
    "window_share",
    "stages",
    "unpack_ratio",
    "host_exponent",
    "busy_per_request_s",
    "prompt_s",
    "voltage_floor",
)
NPARAM = len(PARAMS)
(P_MODEL, P_GPUS, P_OTHER_W, P_IDLE_W, P_MIN_CLOCK_RATIO, P_KV_TOKENS, P_MAX_BATCH, P_MAX_BATCH_TOKENS) = range(8)
(P_MIXED_FACTOR, P_TABLE_ROW, P_TABLE_LEN) = range(8, 11)
(P_PREFILL_BASE_S, P_PREFILL_PER_TOKEN_S, P_PREFILL_PER_TOKEN2_S, P_PREFILL_CLOCK_SHARE) = range(11, 15)
(P_DECODE_BASE_S, P_DECODE_PER_REQUEST_S, P_DECODE_PER_CONTEXT_S, P_DECODE_CLOCK_SHARE) = range(15, 19)
(P_TDP_W, P_PREFILL_AT_128, P_PREFILL_PER_OCTAVE, P_PREFILL_CEILING, P_DECODE_RATIO) = range(19, 24)
(P_PREFILL_STATIC_SHARE, P_PREFILL_EXPONENT, P_DECODE_STATIC_SHARE, P_DECODE_EXPONENT) = range(24, 28)
(P_HOST_S, P_HOST_PER_REQUEST_S, P_LINK_S, P_LINK_PER_TOKEN_S) = range(28, 32)
(P_LINEAR_COMPUTE_S, P_LINEAR_COMPUTE_PER_TOKEN_S, P_LINEAR_MEMORY_PER_TOKEN_S) = range(32, 35)
(P_COMPUTE_PER_PAIR_S, P_MEMORY_PER_CONTEXT_S, P_COMPUTE_PER_CONTEXT_S) = range(35, 38)
(P_OVERLAP, P_MEMORY_KNEE, P_ACTIVE_W, P_COMPUTE_W, P_MEMORY_W, P_EXPONENT) = range(38, 44)
(P_HEAD_MEMORY_S, P_HEAD_PER_REQUEST_S, P_STATE_PER_REQUEST_S, P_WINDOW_TOKENS, P_WINDOW_SHARE) = range(44, 49)
(P_STAGES, P_UNPACK_RATIO, P_HOST_EXPONENT, P_BUSY_PER_REQUEST_S, P_PROMPT_S, P_VOLTAGE_FLOOR) = range(49, 55)
AFFINE, TABLE, TWO_RESOURCES = range(3)

# -- A server: floats F_*, ints I_* of the same row [n, NSERVER]
NSERVER = 56
(
    F_BASE_S,  # when the present run of iterations began, or was last rescaled by a cap
    F_REMAINING,  # share of its first iteration still to do then, (0, 1]
    F_END_S,  # when it ends
    F_FIRST_S,  # its first iteration, all of it, as capped
    F_GROWTH_S,  # what each iteration adds to the next
    F_FIRST_J,  # energy of the first iteration and what each adds
    F_GROWTH_J,
    F_RUN_J,  # energy of the run booked so far
    F_ENERGY_J,  # booked since the last take
    F_BOOKED_S,  # idle power is booked up to here
    F_TOKEN_S,  # when the last tokens came out
    F_CLOCK_RATIO,  # the cap as the GPU understands it, [floor, 1]
    F_RUN_CLOCK_RATIO,  # after the power limit too
    F_PREFILL_FACTOR,  # power at the cap over that at full clock; two resources: `clocks.dynamic_ratio` in the second
    F_DECODE_FACTOR,
    F_GIVEN_CLOCK_RATIO,  # as last commanded, to notice changes
    F_GIVEN_LIMIT_W,
    F_IDLE_W,
    F_OUT_FREE_S,  # when the links out of and into the server have sent what they were given
    F_IN_FREE_S,
    F_CROSS,  # of the present iteration: sum of prompt tokens times the tokens before them
    F_SQUARES,  # and of the squares of each prompt's tokens
    F_TOTAL_J,  # energy since the start, but for what is not booked yet
) = range(23)
(
    I_MODE,
    I_STEPS,  # iterations in the present run
    I_BATCH,  # entries of the batch
    I_PROMPTS,  # prompts in the present iteration
    I_TOKENS,  # prompt tokens in it
    I_CONTEXT,  # tokens so far of the decodes in the batch
    I_ITERATION,  # iterations in which the batch gained tokens, ever
    I_NEXT_DUE,  # the first of them in which a decode of the batch ends
    I_KV,  # KV tokens held
    I_HEAD,  # queue, linked through R_NEXT ("chunked")
    I_TAIL,
    I_QUEUE,
    I_OUTSTANDING,
    I_LAST_CHOSEN,
    I_KIND,
    I_ROLE,
    I_BUSY,
    I_HIGH,  # decodes of high priority in the batch
    I_LATE,  # decodes whose next gap was counted when they joined, low and high priority
    I_LATE_HIGH,
    I_BOOKED_TOKENS,  # the router's own books: "pending_tokens"
    I_BOOKED_KV,
    I_BATCH_TOKENS,  # of the last batch formed ("whole_prompts", as the next four)
    I_PAUSING,
    I_VERSION,  # of the event at which the run ends; others are void
    I_LOST,  # 1: that event cannot be moved
    I_MOVED,  # 1: lent to the other pool
    I_PENDING,  # lengths of the lists
    I_PENDING_PROMPTS,
    I_BLOCKED,
    I_JOBS,
) = range(23, 54)
IDLE, DECODE, PREFILL = range(3)
MIXED_ROLE, PROMPT_ROLE, TOKEN_ROLE = range(3)

# -- A request in flight [k, NREQUEST]
NREQUEST = 24
R_ARRIVAL_S, R_TTFT_S, R_TOKEN_S = range(3)
(
    R_PROMPT,
    R_OUTPUT,
    R_PRIORITY,
    R_NEXT,
    R_INDEX,
    R_DONE,  # prompt tokens done
    R_TAKE,  # and to be done in the present iteration
    R_SOURCE,
    R_GOAL,
    R_HELD,  # KV tokens it holds where it is
    R_LEFT,  # tokens a decode that was pushed out has still to generate
    R_PASSED,  # batches formed without its prefill, without its decode
    R_PASSED_DECODE,
    R_STATE,  # of its prefill and its decode
    R_STATE_DECODE,
    R_CHOSEN,
) = range(3, 19)
NONE, QUEUED, RUNNING, BLOCKED, DONE = range(5)

# -- Lists of each server under "whole_prompts" [NLIST, n, room]
L_PENDING, L_PROMPTS, L_BLOCKED, L_JOBS, L_CHOSEN = range(5)
NLIST = 5

# -- Numbers of the whole run
NCONTROL = 32
(
    C_CURSOR,
    C_LAST,
    C_FREE,
    C_CHOSEN,
    C_INDEX,
    C_STEP,
    C_TAKEN,
    C_HEAP,  # events in the heap
    C_WAIT_HEAD,  # requests whose KV cache waits for room elsewhere
    C_WAIT_TAIL,
    C_STAMP,
    C_LONGEST,  # of the lists, or what came close
    C_PROMPT_POOL,  # lengths of the pools
    C_TOKEN_POOL,
    C_MIXED_POOL,
    C_EVENTS,  # the switches
    C_DECODE_KEY,
    C_BATCHING,
    C_KV,
    C_ROUTER,
    C_SECOND_CHOICE,
    C_POOL_MOVES,
    C_LINK,
    C_MAX_PASSED_OVER,
    C_MAX_QUEUE_TOKENS,
    C_POOLED,  # 1: there are servers for one phase only
    C_FAILED,
    C_COUNT,  # events so far
    C_TRANSFERS,
) = range(29)
NREAL = 8
(X_RETRY_S, X_KV_BYTES, X_LINK_BYTES_PER_S, X_LINK_LATENCY_S, X_CACHED_SHARE, X_LAST_S, X_MIXED_FACTOR) = range(7)

COUNTERS = (
    "arrived",
    "completed",
    "rejected",
    "prompt_tokens",
    "generated_tokens",
    "good",
    "cached_tokens",
)
NCOUNTER = 7
N_ARRIVED, N_COMPLETED, N_REJECTED, N_PROMPT, N_GENERATED, N_GOOD, N_CACHED = range(NCOUNTER)
NHISTOGRAM = 6
H_TTFT, H_TBT, H_E2E = 0, 2, 4

REACHED, NEEDS_ARRIVALS, POOL_FULL, HEAP_FULL, LISTS_FULL, FAILED = range(6)

# An entry of a batch: iteration in which it ends << WORK_BITS | request << 1 | 1 for a decode.
WORK_BITS = 29
WORK_MASK = (1 << WORK_BITS) - 1
CHOSEN_BITS = 40
NEVER = 1 << 62
# An event: version << 32 | what << 30 | server or request.
E_ITERATION, E_ARRIVAL, E_SENT, E_RETRY = range(4)
ID_BITS = 30
ID_MASK = (1 << ID_BITS) - 1
VERSION_SHIFT = 32
