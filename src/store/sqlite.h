// Db, Stmt, Txn: the little of SQLite that the store uses, with Result errors.
//
// A Db and its statements belong to one thread at a time (the store guards them with a mutex). Stmt
// keeps its Db's handle and must not outlive it. A Txn rolls back unless committed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "store/util/digest.h"
#include "store/util/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace hm::store {

class Stmt {
 public:
  // Binds the parameters in order, from 1. Starts a fresh execution.
  template <class... Args>
  Stmt& bind(const Args&... args) {
    reset();
    int index = 0;
    (bind_one(++index, args), ...);
    return *this;
  }
  Result<bool> step();  // true: a row is there
  Status run();         // steps to the end

  std::int64_t number(int column) const;
  std::string bytes(int column) const;
  Digest digest(int column) const;  // zero where the column is NULL or not 32 bytes
  bool is_null(int column) const;

 private:
  friend class Db;
  explicit Stmt(sqlite3_stmt* stmt) : stmt_(stmt) {}
  void reset();
  void bind_one(int index, std::int64_t value);
  void bind_one(int index, int value) { bind_one(index, static_cast<std::int64_t>(value)); }
  void bind_one(int index, std::uint64_t value) {
    bind_one(index, static_cast<std::int64_t>(value));
  }
  void bind_one(int index, std::string_view bytes);
  void bind_one(int index, const std::string& bytes) { bind_one(index, std::string_view(bytes)); }
  void bind_one(int index, const Digest& digest);  // a zero digest is NULL

  struct Finalize {
    void operator()(sqlite3_stmt* stmt) const;
  };
  std::unique_ptr<sqlite3_stmt, Finalize> stmt_;
};

class Db {
 public:
  static Result<Db> open(const std::string& path);
  Status exec(const std::string& sql);
  Result<Stmt> prepare(std::string_view sql);

  // The pages in the log, as of the last commit here. Whoever opens the database when nobody has it
  // open reads them all.
  int log_pages() const { return *log_pages_; }
  // Moves them into the database; does nothing where another connection is in the way.
  void empty_log();

 private:
  struct Close {
    void operator()(sqlite3* db) const;
  };
  explicit Db(sqlite3* db) : db_(db) {}
  std::unique_ptr<int> log_pages_ = std::make_unique<int>(0);  // outlives the handle
  std::unique_ptr<sqlite3, Close> db_;
};

class Txn {
 public:
  static Result<Txn> begin(Db& db);  // BEGIN IMMEDIATE: takes the write lock, waits while busy
  Txn(Txn&& other) noexcept : db_(std::exchange(other.db_, nullptr)) {}
  Txn(const Txn&) = delete;
  Txn& operator=(const Txn&) = delete;
  Txn& operator=(Txn&&) = delete;
  ~Txn();
  Status commit();

 private:
  explicit Txn(Db* db) : db_(db) {}
  Db* db_;
};

}  // namespace hm::store
