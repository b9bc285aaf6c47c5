// Opening hm.db, and the rule for what may be in it. Private to the store.
//
// A database is only used when its format is ours and its schema is, object by object, the one in
// schema.h: a foreign trigger, view or table is refused, and could not run anyway (sqlite.cc).
#pragma once

#include <string>
#include <vector>

#include "store/sqlite.h"

namespace hm::store {

std::string database_path(const std::string& home);

// Makes it if there is none. kRefused: of a newer format; kCorrupt: damaged or not ours. Nothing
// is written in either case. The caller holds the store's gate (scratch.lock).
Result<Db> open_database(const std::string& home);

// The existing file, with no more said about it than that SQLite takes it for a database.
Result<Db> open_unchecked(const std::string& path);

struct SchemaFaults {
  struct Object {
    std::string type, name;
  };
  std::vector<Object> foreign;       // in the database and not in schema.h
  std::vector<std::string> missing;  // first lines of schema.h's statements
};
// What a database of an older `format` is yet to get is not missing.
Result<SchemaFaults> schema_faults(Db& db, std::int64_t format);

// The format number; kCorrupt when it can be no format's, kRefused when it is a newer one's. 0:
// new.
Result<std::int64_t> database_format(Db& db, const std::string& path);

}  // namespace hm::store
