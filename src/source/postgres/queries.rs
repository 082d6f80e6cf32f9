//! Whoever answers queries: a connection of ours, or `psql`.

use crate::source::postgres::connection::Connection;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::wire::Row;

/// Asks a server.
pub trait Queries {
    /// Keeps what a role or a database has set from changing what is seen; needed once.
    ///
    /// # Errors
    /// The server refuses, or the connection broke.
    fn prepare(&mut self) -> Result<(), PostgresError>;

    /// Runs a query; every value comes as text.
    ///
    /// # Errors
    /// As for [`Queries::prepare`].
    fn query(&mut self, text: &str) -> Result<Vec<Row>, PostgresError>;

    /// Where the server is.
    fn shown(&self) -> &str;

    /// Runs a query that gives one row of one value.
    ///
    /// # Errors
    /// As for [`Queries::prepare`], or there is no such row.
    fn value(&mut self, text: &str) -> Result<String, PostgresError> {
        let rows = self.query(text)?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        value.ok_or_else(|| self.unexpected("waiting for a value"))
    }

    /// The server's answer was none of those that can come here.
    fn unexpected(&self, doing: &str) -> PostgresError {
        let what = format!("an unexpected answer while {doing}");
        PostgresError::Protocol { address: self.shown().to_owned(), what }
    }
}

impl Queries for Connection {
    fn prepare(&mut self) -> Result<(), PostgresError> {
        let text = "SET search_path = ''; SET statement_timeout = 0; SET lock_timeout = 0";
        Self::query(self, text).map(drop)
    }

    fn query(&mut self, text: &str) -> Result<Vec<Row>, PostgresError> {
        Self::query(self, text)
    }

    fn shown(&self) -> &str {
        Self::shown(self)
    }
}
