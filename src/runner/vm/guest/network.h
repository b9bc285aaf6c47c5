// The guest's network: the loopback, and the one card with QEMU's user network behind it.
#pragma once

namespace hm::guest {

// Without a card it does nothing but start the loopback. False with errno; usable in forked
// processes.
bool start_loopback();
// 10.0.2.15/24 by way of 10.0.2.2, which is what QEMU's user network expects.
void start_card();

}  // namespace hm::guest
