// The hosts of one layout as processes of one program on this machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

// An address of loopback where nobody listens now; the next call gives another one.
StatusOr<std::string> FreeLoopbackAddress();

// The flags of one host of `hosts` that meet at `address`.
std::vector<std::string> HostFlags(int hosts, int host, const std::string& address);

// Runs the program with these arguments as every host at once and waits until all have ended well.
// The error names each host that ended otherwise and repeats the last line of its stderr; hosts
// that run after timeout_ms, or a little after another has failed, are killed. Files of the
// processes go into `directory`.
Status RunHosts(const std::string& program, int hosts, const std::vector<std::string>& arguments,
                const std::string& directory, int64_t timeout_ms);

}  // namespace causeway
