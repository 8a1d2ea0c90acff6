//! The spool's records in an SQLite file. The only file that names rusqlite.
//!
//! One transaction a call, made durable by the log that SQLite writes ahead; nobody closes the file in order, so that
//! opening it after a crash is what every start does. The file is locked for this process, no memory is mapped (a disk
//! that fails under a mapping is a signal, not an error), and a damaged page is an error, never a panic.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ffi::SQLITE_IOERR_SHORT_READ;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use super::disk::{Disk, DiskError, Usage};
use super::totals::Totals;

/// Marks the file as ours: "gpsh".
const APPLICATION: i32 = 0x6770_7368;
/// Of the tables below.
pub(super) const FORMAT: i32 = 1;

/// Pages that may be free before the file is made smaller: 256 KiB.
const SPARE_PAGES: u64 = 64;

/// Before anything is read, or the index of the log is shared memory.
const LOCK: &str = "PRAGMA locking_mode = EXCLUSIVE;";

const SETUP: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 64;
    PRAGMA journal_size_limit = 524288;
    PRAGMA cache_size = -256;
    PRAGMA mmap_size = 0;
    PRAGMA temp_store = MEMORY;
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;
";

const TABLES: &str = "
    BEGIN IMMEDIATE;
    CREATE TABLE windows (key INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
    CREATE TABLE ledgers (node TEXT PRIMARY KEY, totals TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

/// An open file.
pub(super) struct Sqlite {
    connection: Connection,
    path: PathBuf,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Content {
    /// A spool of this version.
    Ours(Sqlite),
    /// A spool of another version.
    Format(i32),
    /// A spool that SQLite reads and does not write, because of what stands in its first page.
    ReadOnly(Sqlite),
    /// Something else.
    Foreign,
}

impl Sqlite {
    /// Opens a file, or makes a new one.
    pub(super) fn open(path: &Path) -> Result<Content, DiskError> {
        let failed = |error| error_of("cannot open", path, error);
        let connection = match Connection::open(path) {
            Ok(connection) => connection,
            Err(error) if is_foreign(&error) => return Ok(Content::Foreign),
            Err(error) => return Err(failed(error)),
        };
        let sqlite = Self {
            connection,
            path: path.to_owned(),
        };
        match sqlite.set_up() {
            // It would show with the first record, when there is nothing to do about it.
            Ok(None) if sqlite.connection.is_readonly("main").map_err(failed)? => {
                Ok(Content::ReadOnly(sqlite))
            }
            Ok(None) => Ok(Content::Ours(sqlite)),
            Ok(Some((APPLICATION, format))) => Ok(Content::Format(format)),
            Ok(Some(_)) => Ok(Content::Foreign),
            Err(error) if is_foreign(&error) => Ok(Content::Foreign),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => {
                Ok(Content::ReadOnly(sqlite))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// `Some`: the application and the format, where they are not ours.
    fn set_up(&self) -> rusqlite::Result<Option<(i32, i32)>> {
        // Whoever has it does not give it back soon.
        self.connection.busy_timeout(Duration::ZERO)?;
        self.connection.execute_batch(LOCK)?;
        let number = |pragma| {
            self.connection
                .pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
        };
        let (application, format) = (number("application_id")?, number("user_version")?);
        let is_new = number("schema_version")? == 0 && application == 0 && format == 0;
        if !is_new && (application, format) != (APPLICATION, FORMAT) {
            return Ok(Some((application, format)));
        }
        if is_new {
            // Before there is a table, or it is ignored.
            self.connection
                .execute_batch("PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL;")?;
        }
        self.connection.execute_batch(SETUP)?;
        if is_new {
            self.connection.execute_batch(&format!(
                "{TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; COMMIT;"
            ))?;
        }
        Ok(None)
    }

    /// Looks through all pages; an error if they do not fit together.
    pub(super) fn check(&self) -> Result<(), DiskError> {
        let checked = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        match checked {
            Ok(verdict) if verdict == "ok" => Ok(()),
            Ok(verdict) => Err(DiskError::Damaged {
                path: self.path.clone(),
                source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(verdict)),
            }),
            Err(error) => Err(error_of("cannot check", &self.path, error)),
        }
    }

    /// Shows every record, by ascending keys or by descending ones, until one cannot be read.
    pub(super) fn each(&self, ascending: bool, mut visit: impl FnMut(u64, &[u8])) -> Result<(), DiskError> {
        let query = if ascending {
            "SELECT key, record FROM windows ORDER BY key"
        } else {
            "SELECT key, record FROM windows ORDER BY key DESC"
        };
        let mut each = || {
            let mut statement = self.connection.prepare(query)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                visit(row.get(0)?, row.get_ref(1)?.as_blob()?);
            }
            Ok(())
        };
        each().map_err(|error| error_of("cannot read", &self.path, error))
    }

    /// The ledgers that are whole, and the names of those that are not. One that stands under another node's name is
    /// none: the next one of its own node would stand beside it, and either might be believed.
    pub(super) fn ledgers(&self) -> Result<(Vec<Totals>, Vec<Vec<u8>>), DiskError> {
        let rows = || {
            let mut statement = self.connection.prepare("SELECT node, totals FROM ledgers")?;
            // Not as text: bytes that make none are no reason to fail.
            let bytes = |row: &Row<'_>, at| Ok::<_, rusqlite::Error>(row.get_ref(at)?.as_bytes()?.to_vec());
            let read = statement.query_map([], |row| Ok((bytes(row, 0)?, bytes(row, 1)?)))?;
            read.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = rows().map_err(|error| error_of("cannot read", &self.path, error))?;
        let (mut whole, mut damaged) = (Vec::new(), Vec::new());
        for (node, sealed) in rows {
            match Totals::open(&sealed).filter(|totals| node_of(totals).as_bytes() == node) {
                Some(totals) => whole.push(totals),
                None => damaged.push(node),
            }
        }
        Ok((whole, damaged))
    }

    /// Removes ledgers by their names. One that cannot be removed is found again at the next start.
    pub(super) fn forget_ledgers(&self, nodes: &[Vec<u8>]) {
        for node in nodes {
            let _ = self
                .connection
                .execute("DELETE FROM ledgers WHERE CAST(node AS BLOB) = ?1", [node]);
        }
    }

    fn write(
        &mut self,
        removals: &[u64],
        records: &[(u64, Vec<u8>)],
        totals: Option<&Totals>,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut remove = transaction.prepare("DELETE FROM windows WHERE key = ?1")?;
            for key in removals {
                remove.execute([key])?;
            }
            let mut add = transaction.prepare("INSERT OR REPLACE INTO windows VALUES (?1, ?2)")?;
            for (key, record) in records {
                add.execute(params![key, record])?;
            }
            if let Some(totals) = totals {
                let mut keep = transaction.prepare("INSERT OR REPLACE INTO ledgers VALUES (?1, ?2)")?;
                keep.execute([node_of(totals), &totals.seal()])?;
            }
        }
        transaction.commit()
    }

    fn number(&self, pragma: &str) -> rusqlite::Result<u64> {
        self.connection.pragma_query_value(None, pragma, |row| row.get(0))
    }

    fn pages(&self) -> rusqlite::Result<(u64, u64, u64)> {
        Ok((
            self.number("page_size")?,
            self.number("page_count")?,
            self.number("freelist_count")?,
        ))
    }

    fn shrink(&self) -> rusqlite::Result<()> {
        let (_, _, free) = self.pages()?;
        if free > 2 * SPARE_PAGES {
            let pages = free - SPARE_PAGES;
            let mut vacuum = self
                .connection
                .prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
            let mut steps = vacuum.query([])?;
            // Each step gives one page back; execute_batch would take the first alone.
            while steps.next()?.is_some() {}
        }
        Ok(())
    }
}

impl Disk for Sqlite {
    fn commit(
        &mut self,
        removals: &[u64],
        records: &[(u64, Vec<u8>)],
        totals: Option<&Totals>,
    ) -> Result<(), DiskError> {
        self.write(removals, records, totals)
            .map_err(|error| error_of("cannot write to", &self.path, error))?;
        // What was to be written is written, whatever comes of this.
        let _ = self.shrink();
        Ok(())
    }

    fn read(&mut self, key: u64) -> Result<Option<Vec<u8>>, DiskError> {
        let read = || {
            let mut statement = self
                .connection
                .prepare("SELECT record FROM windows WHERE key = ?1")?;
            statement.query_row([key], |row| row.get(0)).optional()
        };
        read().map_err(|error| error_of("cannot read", &self.path, error))
    }

    fn usage(&mut self) -> Result<Usage, DiskError> {
        let (size, pages, free) = self
            .pages()
            .map_err(|error| error_of("cannot read", &self.path, error))?;
        Ok(Usage {
            used: size * pages.saturating_sub(free),
            file: size * pages,
        })
    }
}

/// The name that a ledger stands under.
fn node_of(totals: &Totals) -> &str {
    totals.instance.as_deref().unwrap_or_default()
}

fn is_foreign(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::NotADatabase)
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

fn error_of(what: &'static str, path: &Path, error: rusqlite::Error) -> DiskError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        // The file ends before a page that it says it has.
        _ if extended_code(&error) == Some(SQLITE_IOERR_SHORT_READ) => DiskError::Damaged {
            path,
            source: Arc::new(error),
        },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => DiskError::InUse { path },
        Some(ErrorCode::DiskFull) => {
            let what = format!("{what} {}: no space left on its file system", path.display());
            DiskError::refused(io::Error::new(io::ErrorKind::StorageFull, what))
        }
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure,
        ) => DiskError::Store {
            what,
            path,
            source: Arc::new(error),
        },
        // The statements are right: whatever else is wrong with them, a table that is not there, a value of another
        // type, a negative key, is wrong with the file.
        _ => DiskError::Damaged {
            path,
            source: Arc::new(error),
        },
    }
}
