/* The threads of an OpenMP pool that the process has already, since its threads wait for work a while before they
   sleep; else threads of our own. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "core.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#include <pthread.h>
#endif

enum { MOST_THREADS = 256 };

typedef struct {
    void (*work)(void *);
    void *shared;
} Job;

#ifdef _WIN32
typedef HANDLE Thread;

static DWORD WINAPI run_job(void *job)
{
    ((Job *)job)->work(((Job *)job)->shared);
    return 0;
}

static int start_thread(Thread *thread, Job *job)
{
    *thread = CreateThread(NULL, 0, run_job, job, 0, NULL);
    return *thread != NULL;
}

static void join_thread(Thread thread)
{
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}
#else
typedef pthread_t Thread;

static void *run_job(void *job)
{
    ((Job *)job)->work(((Job *)job)->shared);
    return NULL;
}

static int start_thread(Thread *thread, Job *job)
{
    return !pthread_create(thread, NULL, run_job, job);
}

static void join_thread(Thread thread)
{
    pthread_join(thread, NULL);
}
#endif

static void run_on_own_threads(void (*work)(void *), void *shared, int threads)
{
    Thread others[MOST_THREADS];
    Job job = {work, shared};
    int started = 0;
    while (started < threads - 1 && started < MOST_THREADS && start_thread(&others[started], &job)) started++;
    work(shared);
    for (int k = 0; k < started; k++) join_thread(others[k]);
}

/* The threads of OpenMP, where the process has them. */
typedef void Parallel(void (*work)(void *), void *shared, unsigned threads, unsigned flags);

static Parallel *find_parallel(void)
{
    Parallel *parallel = NULL;
#ifndef _WIN32
    *(void **)&parallel = dlsym(RTLD_DEFAULT, "GOMP_parallel");
#endif
    return parallel;
}

/* Do the same work on this thread and on others; it must be such that one thread can do all of it. */
void run_on_threads(void (*work)(void *), void *shared, int threads)
{
    Parallel *parallel = threads > 1 ? find_parallel() : NULL;
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
