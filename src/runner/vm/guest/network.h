// The guest's network: the loopback, and the one card with QEMU's user network behind it.
#pragma once

namespace hm::guest {

// False with errno.
bool start_loopback();
bool has_card();
// 10.0.2.15/24 by way of 10.0.2.2, which is what QEMU's user network expects.
void start_card();

}  // namespace hm::guest
