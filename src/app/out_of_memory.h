// What ends a process whose memory is full, where nothing nearer could help itself.
#pragma once

namespace causeway {

// From now on an std::bad_alloc that nobody has caught, on any thread, ends the process with one
// line on stderr and exit code 1. Anything else that ends a program early is left as it was: a
// fault in it, whose core is worth having.
void EndInOrderWhenOutOfMemory();

}  // namespace causeway
