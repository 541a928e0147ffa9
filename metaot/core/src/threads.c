/* The threads of an OpenMP pool that the process has already, since its threads wait for work a while before they
   sleep; else threads of our own. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "core.h"

#include <dlfcn.h>
#include <pthread.h>

enum { MOST_THREADS = 256 };

typedef void Parallel(void (*work)(void *), void *shared, unsigned threads, unsigned flags);

typedef struct {
    void (*work)(void *);
    void *shared;
} Job;

static void *run_job(void *job)
{
    ((Job *)job)->work(((Job *)job)->shared);
    return NULL;
}

static void run_on_own_threads(void (*work)(void *), void *shared, int threads)
{
    pthread_t others[MOST_THREADS];
    Job job = {work, shared};
    int started = 0;
    while (started < threads - 1 && started < MOST_THREADS && !pthread_create(&others[started], NULL, run_job, &job))
        started++;
    work(shared);
    for (int k = 0; k < started; k++) pthread_join(others[k], NULL);
}

/* Do the same work on this thread and on others; it must be such that one thread can do all of it. */
void run_on_threads(void (*work)(void *), void *shared, int threads)
{
    Parallel *parallel = NULL;
    if (threads > 1) *(void **)&parallel = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    if (threads <= 1)
        work(shared);
    else if (parallel)
        parallel(work, shared, (unsigned)threads, 0);
    else
        run_on_own_threads(work, shared, threads);
}

/* Take a number, and leave the next one to others. */
Index take_next(Index *next)
{
    return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
}
