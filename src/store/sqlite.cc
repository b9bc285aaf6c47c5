#include "store/sqlite.h"

#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>

#include "store/blob_store.h"

namespace hm::store {

namespace {

// How long a writer waits for another process before the store counts as busy.
constexpr int kBusyTimeoutMs = 60'000;

// Whether the file is to blame, and neither the machine nor another process. SQLITE_ERROR is what a
// schema that does not fit our statements gives.
bool means_damage(int extended, const char* path) {
  const int base = extended & 0xff;
  if (base == SQLITE_READONLY) return path != nullptr && ::access(path, W_OK) == 0;
  return base == SQLITE_CORRUPT || base == SQLITE_NOTADB || base == SQLITE_ERROR ||
         base == SQLITE_FORMAT || extended == SQLITE_IOERR_SHORT_READ;
}

// The log is moved into the database when it has so many pages.
constexpr int kMostLogPages = 1000;

// After each commit of a connection: how long the log is.
int after_commit(void* pages, sqlite3* db, const char* name, int count) {
  *static_cast<int*>(pages) = count;
  if (count >= kMostLogPages) {
    sqlite3_wal_checkpoint_v2(db, name, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  }
  return SQLITE_OK;
}

Error sqlite_error(sqlite3* db) {
  if (db == nullptr) return Error{ErrorCode::kIo, ENOMEM, "store database: out of memory"};
  const char* path = sqlite3_db_filename(db, "main");
  const std::string where = path != nullptr ? path : "store database";
  std::string text = sqlite3_errmsg(db);
  // It may quote a damaged database, and is to stay one line.
  std::replace_if(
      text.begin(), text.end(),
      [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }, '?');
  if (!means_damage(sqlite3_extended_errcode(db), path)) {
    return Error{ErrorCode::kIo, sqlite3_system_errno(db), where + ": " + text};
  }
  return Error{ErrorCode::kCorrupt, 0,
               where + ": the store's database is damaged (" + text + "): " + kRepairHint};
}

}  // namespace

void Stmt::Finalize::operator()(sqlite3_stmt* stmt) const { sqlite3_finalize(stmt); }
void Db::Close::operator()(sqlite3* db) const { sqlite3_close_v2(db); }

void Stmt::reset() {
  sqlite3_reset(stmt_.get());
  sqlite3_clear_bindings(stmt_.get());
}

void Stmt::bind_one(int index, std::int64_t value) {
  sqlite3_bind_int64(stmt_.get(), index, value);
}
void Stmt::bind_one(int index, std::string_view bytes) {
  sqlite3_bind_blob64(stmt_.get(), index, bytes.data() != nullptr ? bytes.data() : "", bytes.size(),
                      SQLITE_TRANSIENT);
}
void Stmt::bind_one(int index, const Digest& digest) {
  if (digest.is_zero()) {
    sqlite3_bind_null(stmt_.get(), index);
  } else {
    bind_one(index, digest.raw());
  }
}

Result<bool> Stmt::step() {
  switch (sqlite3_step(stmt_.get())) {
    case SQLITE_ROW:
      return true;
    case SQLITE_DONE:
      return false;
    default: {
      auto error = sqlite_error(sqlite3_db_handle(stmt_.get()));
      sqlite3_reset(stmt_.get());
      return fail(std::move(error));
    }
  }
}

Status Stmt::run() {
  while (true) {
    HM_ASSIGN(const bool row, step());
    if (!row) break;
  }
  sqlite3_reset(stmt_.get());  // an unfinished statement would hold its read transaction
  return {};
}

std::int64_t Stmt::number(int column) const { return sqlite3_column_int64(stmt_.get(), column); }

std::string Stmt::bytes(int column) const {
  const void* data = sqlite3_column_blob(stmt_.get(), column);
  const int size = sqlite3_column_bytes(stmt_.get(), column);
  if (data == nullptr || size <= 0) return {};
  return {static_cast<const char*>(data), static_cast<std::size_t>(size)};
}

Digest Stmt::digest(int column) const { return Digest::from_raw(bytes(column)).value_or(Digest{}); }

bool Stmt::is_null(int column) const {
  return sqlite3_column_type(stmt_.get(), column) == SQLITE_NULL;
}

Result<Db> Db::open(const std::string& path) {
  sqlite3* raw = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  const int code = sqlite3_open_v2(path.c_str(), &raw, flags, nullptr);
  Db db(raw);
  if (code != SQLITE_OK) return fail(sqlite_error(raw));
  sqlite3_busy_timeout(raw, kBusyTimeoutMs);
  // It syncs several times, and would be done by each process that is alone; see empty_log.
  sqlite3_db_config(raw, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  // What somebody else put into the schema must never run.
  sqlite3_db_config(raw, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  for (const int option : {SQLITE_DBCONFIG_ENABLE_TRIGGER, SQLITE_DBCONFIG_ENABLE_VIEW,
                           SQLITE_DBCONFIG_TRUSTED_SCHEMA}) {
    sqlite3_db_config(raw, option, 0, nullptr);
  }
  HM_TRY(db.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cell_size_check=ON"));
  sqlite3_wal_hook(raw, after_commit, db.log_pages_.get());
  return db;
}

void Db::empty_log() {
  sqlite3_busy_timeout(db_.get(), 0);
  sqlite3_wal_checkpoint_v2(db_.get(), nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
  sqlite3_busy_timeout(db_.get(), kBusyTimeoutMs);
}

Status Db::exec(const std::string& sql) {
  if (sqlite3_exec(db_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
    return fail(sqlite_error(db_.get()));
  }
  return {};
}

Result<Stmt> Db::prepare(std::string_view sql) {
  sqlite3_stmt* raw = nullptr;
  if (sqlite3_prepare_v3(db_.get(), sql.data(), static_cast<int>(sql.size()),
                         SQLITE_PREPARE_PERSISTENT, &raw, nullptr) != SQLITE_OK) {
    return fail(sqlite_error(db_.get()));
  }
  return Stmt(raw);
}

Result<Txn> Txn::begin(Db& db) {
  HM_TRY(db.exec("BEGIN IMMEDIATE"));
  return Txn(&db);
}

Status Txn::commit() {
  HM_TRY(db_->exec("COMMIT"));
  db_ = nullptr;
  return {};
}

Txn::~Txn() {
  if (db_ != nullptr) (void)db_->exec("ROLLBACK");
}

}  // namespace hm::store
