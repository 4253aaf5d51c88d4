#pragma once

#include <malloc.h>

namespace sibyl {

// Makes glibc keep large blocks instead of giving them back to the kernel and faulting them in again at each step,
// which costs a third of the training time on a CPU. Call first in main.
inline void KeepMemory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

}  // namespace sibyl
