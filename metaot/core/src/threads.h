/* Work that several threads share. */

#ifndef METAOT_THREADS_H
#define METAOT_THREADS_H

#include <stddef.h>

/* Do the same work on this thread and on others; it must be such that one thread can do all of it. */
void run_on_threads(void (*work)(void *), void *shared, int threads);

/* Take a number, and leave the next one to others. */
ptrdiff_t take_next(ptrdiff_t *next);

#endif
