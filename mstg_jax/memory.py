"""Memory stays with the process. To be imported and called before numpy and jax are."""

import ctypes
import sys

# Of mallopt(3), numbered as glibc's <malloc.h> does.
KEEPING = {
    -8: 1,  # M_ARENA_MAX: one for all threads; in others, large blocks are mapped and unmapped
    -4: 0,  # M_MMAP_MAX: the same for the one that is left
    -1: -1,  # M_TRIM_THRESHOLD: nothing that is freed goes back to the system
}


def keep_memory() -> bool:
    """Keep what a step frees for the next one; False where glibc does not hand out the memory.

    XLA on CPU allocates a step's temporaries anew, step by step. Mapping and unmapping them costs
    a page fault for each 4 kB, 1.9 million in a step of preset `paper`. Without an effect on the
    number of arenas once a second thread has allocated.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    return all([libc.mallopt(name, value) == 1 for name, value in KEEPING.items()])
