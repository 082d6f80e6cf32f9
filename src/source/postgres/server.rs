//! What a server is: version, cluster, settings that a backup depends on.

use crate::format::postgres::facts::ClusterFacts;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::queries::Queries;

/// Oldest version whose base backups are understood.
pub const VERSION_MIN: u32 = 150_000;
/// First version with incremental base backups.
pub const INCREMENTAL_VERSION: u32 = 170_000;

/// A server, seen over a connection for queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// The cluster.
    pub cluster: ClusterFacts,
    /// Size of a page in bytes.
    pub page_bytes: u32,
    /// Pages of one segment of a relation.
    pub segment_pages: u32,
    /// Pages carry checksums.
    pub has_checksums: bool,
    /// It is a standby.
    pub is_standby: bool,
    /// It keeps the summaries that incremental base backups need.
    pub has_summaries: bool,
    /// Its clock (RFC 3339).
    pub time: String,
    /// Versions of the libraries that order text.
    pub collations: Vec<(String, String)>,
    /// Settings that a server must have at least, to recover what this one wrote.
    pub settings: Vec<(String, String)>,
}

/// Settings that the log demands of whoever replays it.
const RECOVERY_SETTINGS: &str = "'max_connections', 'max_worker_processes', 'max_wal_senders', \
     'max_prepared_transactions', 'max_locks_per_transaction'";
/// The server's time, in UTC and to the microsecond.
pub const TIME_SQL: &str =
    r#"to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;

impl ServerFacts {
    /// Asks the server.
    ///
    /// # Errors
    /// It is too old, or does not answer as it should.
    pub fn read(sql: &mut dyn Queries) -> Result<Self, PostgresError> {
        sql.prepare()?;
        let version_number = number(sql, "SHOW server_version_num")?;
        if version_number < VERSION_MIN {
            let what = format!("version {version_number} is older than 15, the oldest supported");
            return Err(PostgresError::Unfit { address: sql.shown().to_owned(), what });
        }
        let system = sql.value("SELECT system_identifier FROM pg_catalog.pg_control_system()")?;
        let segment_bytes = sql
            .value("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'")?;
        let segment_bytes =
            segment_bytes.parse().map_err(|_| sql.unexpected("reading a number"))?;
        let cluster = ClusterFacts { system, version_number, segment_bytes };
        let page_bytes = number(sql, "SHOW block_size")?;
        if !page_bytes.is_power_of_two() {
            return Err(sql.unexpected("reading the size of pages"));
        }
        let summaries = "SELECT coalesce(current_setting('summarize_wal', true), 'off')";
        Ok(Self {
            cluster,
            page_bytes,
            segment_pages: number(
                sql,
                "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'segment_size'",
            )?,
            has_checksums: sql.value("SHOW data_checksums")? == "on",
            is_standby: sql.value("SELECT pg_catalog.pg_is_in_recovery()")? == "t",
            has_summaries: sql.value(summaries)? == "on",
            time: server_time(sql)?,
            collations: collations(sql)?,
            settings: pairs(sql.query(&format!(
                "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN \
                 ({RECOVERY_SETTINGS}) ORDER BY name"
            ))?),
        })
    }
}

impl ServerFacts {
    /// Whether it can say what changed since an earlier base backup.
    #[must_use]
    pub fn has_increments(&self) -> bool {
        self.cluster.version_number >= INCREMENTAL_VERSION && self.has_summaries
    }

    /// Fails unless this is the cluster that was saved under the name before.
    pub fn require_cluster(
        &self,
        name: &str,
        expected: Option<&str>,
        address: &str,
    ) -> Result<(), PostgresError> {
        match expected.filter(|expected| *expected != self.cluster.system) {
            None => Ok(()),
            Some(expected) => Err(PostgresError::OtherCluster {
                address: address.to_owned(),
                name: name.to_owned(),
                expected: expected.to_owned(),
                found: self.cluster.system.clone(),
            }),
        }
    }
}

/// The server's clock (RFC 3339).
pub fn server_time(sql: &mut dyn Queries) -> Result<String, PostgresError> {
    sql.value(&format!("SELECT {TIME_SQL}"))
}

fn number(sql: &mut dyn Queries, query: &str) -> Result<u32, PostgresError> {
    sql.value(query)?.parse().map_err(|_| sql.unexpected("reading a number"))
}

/// What orders text in the databases of the server, and in which version.
fn collations(sql: &mut dyn Queries) -> Result<Vec<(String, String)>, PostgresError> {
    let rows = sql.query(
        "SELECT DISTINCT CASE datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' \
         ELSE 'builtin' END, pg_catalog.pg_database_collation_actual_version(oid) \
         FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1, 2",
    )?;
    Ok(pairs(rows))
}

/// Rows of two values; others are left out.
#[must_use]
pub fn pairs(rows: Vec<Vec<Option<String>>>) -> Vec<(String, String)> {
    let pair = |row: Vec<Option<String>>| {
        let mut values = row.into_iter();
        Some((values.next()??, values.next()??))
    };
    rows.into_iter().filter_map(pair).collect()
}
