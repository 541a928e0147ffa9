/* Memory for one problem, taken part by part and given back as a whole. */

#include "core.h"

#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <string.h>

static void close_memory(void *memory, size_t bytes)
{
    ASAN_POISON_MEMORY_REGION(memory, bytes);
}

/* Numbers are NaN before they are written; behind a part no more may be read than one register holds. */
static void open_part(void *part, Index count)
{
    size_t bytes = ((size_t)count + LANES) * sizeof(double);
    ASAN_UNPOISON_MEMORY_REGION(part, bytes);
    memset(part, 0xff, bytes);
}
#else
#define close_memory(memory, bytes) ((void)0)
#define open_part(part, count) ((void)0)
#endif

size_t bytes_for(Index count)
{
    return (((size_t)count + 2 * LANES) * sizeof(double) + 63) / 64 * 64;
}

/* Blocks that were given back, for the next problems: the system takes its time to hand out new memory. */
enum { KEPT = 8 };
static const size_t LARGEST_KEPT = 5 << 23; /* the largest matrix of a problem, and what goes with it */
typedef struct {
    size_t capacity;
    char padding[64 - sizeof(size_t)];
} Block;
static Block *kept[KEPT];

static Block *take_kept(size_t bytes)
{
    for (int k = 0; k < KEPT; k++) {
        Block *block = __atomic_exchange_n(&kept[k], NULL, __ATOMIC_ACQ_REL);
        if (block && block->capacity >= bytes) return block;
        free(block);
    }
    return NULL;
}

static void keep_or_free(Block *block)
{
    for (int k = 0; block && block->capacity <= LARGEST_KEPT && k < KEPT; k++)
        block = __atomic_exchange_n(&kept[k], block, __ATOMIC_ACQ_REL);
    free(block);
}

int open_arena(Arena *arena, size_t bytes)
{
    if (bytes > arena->capacity) {
        close_arena(arena);
        Block *block = take_kept(bytes);
        if (!block && (block = malloc(sizeof(Block) + bytes))) block->capacity = bytes;
        if (!block) return 0;
        arena->memory = (char *)(block + 1);
        arena->capacity = block->capacity;
    }
    arena->used = 0;
    close_memory(arena->memory, arena->capacity);
    return 1;
}

double *take_numbers(Arena *arena, Index count)
{
    char *part = arena->memory + arena->used;
    arena->used += bytes_for(count);
    open_part(part, count);
    return (double *)part;
}

Index *take_indices(Arena *arena, Index count)
{
    return (Index *)take_numbers(arena, count);
}

void close_arena(Arena *arena)
{
    if (arena->memory) keep_or_free((Block *)arena->memory - 1);
    arena->memory = NULL;
    arena->capacity = arena->used = 0;
}
