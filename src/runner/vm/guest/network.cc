#include "runner/vm/guest/network.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "runner/vm/guest/system.h"

namespace hm::guest {

namespace {

constexpr const char* kCard = "eth0";
constexpr const char* kAddress = "10.0.2.15";
constexpr const char* kMask = "255.255.255.0";
constexpr const char* kGateway = "10.0.2.2";

sockaddr address_of(const char* text) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  ::inet_pton(AF_INET, text, &in.sin_addr);
  sockaddr out{};
  std::memcpy(&out, &in, sizeof in);
  return out;
}

ifreq request_of(const char* name) {
  ifreq request{};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  return request;
}

bool bring_up(int socket, const char* name) {
  ifreq request = request_of(name);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  return ::ioctl(socket, SIOCSIFFLAGS, &request) == 0;
}

}  // namespace

bool start_loopback() {
  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const bool up = socket >= 0 && bring_up(socket, "lo");
  ::close(socket);
  return up;
}

bool has_card() { return ::access((std::string("/sys/class/net/") + kCard).c_str(), F_OK) == 0; }

void start_card() {
  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) fail("socket");
  ifreq request = request_of(kCard);
  request.ifr_addr = address_of(kAddress);
  if (::ioctl(socket, SIOCSIFADDR, &request) != 0) fail("the network card's address");
  request.ifr_netmask = address_of(kMask);
  if (::ioctl(socket, SIOCSIFNETMASK, &request) != 0) fail("the network card's mask");
  if (!bring_up(socket, kCard)) fail("the network card");
  rtentry route{};
  route.rt_dst = address_of("0.0.0.0");
  route.rt_genmask = address_of("0.0.0.0");
  route.rt_gateway = address_of(kGateway);
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  if (::ioctl(socket, SIOCADDRT, &route) != 0) fail("the default route");
  ::close(socket);
}

}  // namespace hm::guest
