// What a thread does between two looks while it spins.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace causeway {

// Leaves the core to its other hardware thread for a moment.
inline void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace causeway
