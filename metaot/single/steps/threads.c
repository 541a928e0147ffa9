/* Threads of torch's own pool: others would have to wait for these, which go on looking for work for a while. */

#define _GNU_SOURCE
#include "threads.h"

#ifdef __linux__
#include <dlfcn.h>

typedef void Parallel(void (*work)(void *), void *shared, unsigned threads, unsigned flags);

void run_on_threads(void (*work)(void *), void *shared, int threads)
{
    Parallel *parallel = NULL;
    if (threads > 1) *(void **)&parallel = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    if (parallel)
        parallel(work, shared, (unsigned)threads, 0);
    else
        work(shared);
}

ptrdiff_t take_next(ptrdiff_t *next)
{
    return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
}
#else
void run_on_threads(void (*work)(void *), void *shared, int threads)
{
    (void)threads;
    work(shared);
}

ptrdiff_t take_next(ptrdiff_t *next)
{
    return (*next)++;
}
#endif
