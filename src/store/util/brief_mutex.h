// BriefMutex: a mutex for critical sections of less than a microsecond, which waits a moment before
// it sleeps: two threads that evaluate observations would else spend an eighth of their time in
// futex(2). Like std::mutex otherwise (PTHREAD_MUTEX_ADAPTIVE_NP, glibc).
#pragma once

#include <pthread.h>

namespace hm {

class BriefMutex {
 public:
  BriefMutex() {
    pthread_mutexattr_t attributes;
    ::pthread_mutexattr_init(&attributes);
    ::pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
    ::pthread_mutex_init(&mutex_, &attributes);
    ::pthread_mutexattr_destroy(&attributes);
  }
  ~BriefMutex() { ::pthread_mutex_destroy(&mutex_); }
  BriefMutex(const BriefMutex&) = delete;
  BriefMutex& operator=(const BriefMutex&) = delete;

  void lock() { ::pthread_mutex_lock(&mutex_); }
  void unlock() { ::pthread_mutex_unlock(&mutex_); }

 private:
  pthread_mutex_t mutex_;
};

}  // namespace hm
