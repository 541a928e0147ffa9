/* Memory for one problem, taken part by part and given back as a whole. */

#include "core.h"

#include <stdlib.h>

size_t room_for(Index count)
{
    return (((size_t)count + 2 * LANES) * sizeof(double) + 63) / 64 * 64;
}

int open_arena(Arena *arena, size_t bytes)
{
    if (bytes > arena->room) {
        free(arena->memory);
        arena->memory = malloc(bytes);
        arena->room = arena->memory ? bytes : 0;
    }
    arena->used = 0;
    return arena->memory != NULL;
}

static void *take(Arena *arena, Index count)
{
    char *part = arena->memory + arena->used;
    arena->used += room_for(count);
    return part;
}

double *take_numbers(Arena *arena, Index count)
{
    return take(arena, count);
}

Index *take_indices(Arena *arena, Index count)
{
    return take(arena, count);
}

void close_arena(Arena *arena)
{
    free(arena->memory);
    arena->memory = NULL;
    arena->room = arena->used = 0;
}
