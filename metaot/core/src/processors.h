/* Code for several generations of processors. */

#ifndef METAOT_PROCESSORS_H
#define METAOT_PROCESSORS_H

/* A function so marked is compiled for several generations of processors, of which the best one is taken. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(WITHOUT_TARGETS)
#define WITH_TARGETS
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#endif
