/* What C11 does not say and compilers do: the only place, beside the instruction sets' simd.h, for their extensions. */
#ifndef DA_CORE_COMPILER_H
#define DA_CORE_COMPILER_H

#if defined(__GNUC__)
#define FORCE_INLINE static inline __attribute__((always_inline))
#define PREFETCH(address) __builtin_prefetch(address)
#define PREFETCH_FOR_LATER(address) __builtin_prefetch(address, 0, 2) /* not into the nearest cache */
#define PREFETCH_TO_WRITE(address) __builtin_prefetch(address, 1)
#define WEAK __attribute__((weak)) /* a function that may be absent: its address is then NULL */
#else
#define FORCE_INLINE static inline
#define PREFETCH(address) ((void)(address))
#define PREFETCH_FOR_LATER(address) ((void)(address))
#define PREFETCH_TO_WRITE(address) ((void)(address))
#define WEAK
#endif

#define DA_CACHE_LINE 64 /* bytes */

#endif
