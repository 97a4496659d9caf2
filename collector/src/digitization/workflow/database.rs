//! The connection to a workflow system's database: read only, one at a time, closed after each look.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, Params, Row, SslOpts, Value};

use super::{LookError, PAGE_ROWS, Security, System, Workflow};

/// Titles of steps that are asked for.
const MAX_STEPS: usize = 1000;

pub(super) struct Database(Conn);

impl Database {
    /// Connects.
    pub(super) async fn open(workflow: &Workflow, password: String) -> Result<Self, LookError> {
        let (host, port) = (workflow.host.clone(), workflow.port);
        let ssl = match workflow.security {
            Security::Tls => {
                let trusted = workflow.ca_file.iter().map(|file| file.clone().into()).collect::<Vec<_>>();
                let has_own = !trusted.is_empty();
                Some(SslOpts::default().with_root_certs(trusted).with_disable_built_in_roots(has_own))
            }
            Security::PlainLoopback if !is_loopback(&host).await => return Err(LookError::NotLoopback(host)),
            Security::PlainLoopback | Security::PlainAnywhere => None,
        };
        let options = OptsBuilder::default()
            .ip_or_hostname(host.clone())
            .tcp_port(port)
            .user(Some(workflow.username.clone()))
            .pass(Some(password))
            .db_name(Some(workflow.database.clone()))
            .prefer_socket(Some(false))
            .ssl_opts(ssl)
            .setup(vec!["SET SESSION TRANSACTION READ ONLY"]);
        let connection = Conn::new(options).await;
        Ok(Self(connection.map_err(|source| LookError::Connect { host, port, source })?))
    }

    /// Titles of the steps that processes have.
    pub(super) async fn steps(&mut self, system: System) -> Result<Vec<String>, LookError> {
        let (table, sql) = match system {
            System::Goobi => ("schritte", "SELECT DISTINCT Titel FROM schritte WHERE Titel IS NOT NULL"),
            System::Kitodo => ("task", "SELECT DISTINCT title FROM task WHERE title IS NOT NULL"),
        };
        let rows = self.rows(table, &format!("{sql} LIMIT {MAX_STEPS}"), Vec::new()).await?;
        Ok(rows.iter().filter_map(|row| text(row, 0)).collect())
    }

    /// The rows of a statement that has its bound.
    pub(super) async fn rows(
        &mut self,
        table: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, LookError> {
        let values = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
        self.0.exec(sql, values).await.map_err(|source| LookError::Read { table, source })
    }

    /// Says goodbye; a server that does not answer is not waited for.
    pub(super) async fn close(self) {
        let end = tokio::time::timeout(std::time::Duration::from_secs(1), self.0.disconnect());
        if let Ok(Err(error)) = end.await {
            tracing::debug!(%error, "the database did not say goodbye");
        }
    }
}

async fn is_loopback(host: &str) -> bool {
    match tokio::net::lookup_host((host, 0)).await {
        Ok(mut addresses) => addresses.all(|address| address.ip().is_loopback()),
        // What can't be resolved can't be reached either, and says so by itself.
        Err(_) => true,
    }
}

/// A text of a row; nothing where it is NULL or not UTF-8.
pub(super) fn text(row: &Row, at: usize) -> Option<String> {
    match row.as_ref(at)? {
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    }
}

/// A number of a row; nothing where it is NULL or negative.
pub(super) fn number(row: &Row, at: usize) -> Option<u64> {
    match row.as_ref(at)? {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::UInt(number) => Some(*number),
        _ => None,
    }
}

/// A date and time of a row; nothing where it is NULL or the zero date.
pub(super) fn time(row: &Row, at: usize) -> Option<jiff::civil::DateTime> {
    match row.as_ref(at)? {
        Value::Date(year, month, day, hour, minute, second, micros) => jiff::civil::DateTime::new(
            i16::try_from(*year).ok()?,
            i8::try_from(*month).ok()?,
            i8::try_from(*day).ok()?,
            i8::try_from(*hour).ok()?,
            i8::try_from(*minute).ok()?,
            i8::try_from(*second).ok()?,
            i32::try_from(*micros).ok()? * 1000,
        )
        .ok(),
        _ => None,
    }
}

/// The value of a date and time.
pub(super) fn value_of(time: jiff::civil::DateTime) -> Value {
    Value::Date(
        time.year().try_into().unwrap_or(0),
        time.month().unsigned_abs(),
        time.day().unsigned_abs(),
        time.hour().unsigned_abs(),
        time.minute().unsigned_abs(),
        time.second().unsigned_abs(),
        time.subsec_nanosecond().unsigned_abs() / 1000,
    )
}

/// ` AND column IN (?, ...)` for the names, which go into `values`; nothing where there are none.
pub(super) fn one_of<'a>(column: &str, names: impl Iterator<Item = &'a String>, values: &mut Vec<Value>) -> String {
    let before = values.len();
    values.extend(names.map(|name| Value::from(name.as_str())));
    match values.len() - before {
        0 => String::new(),
        count => format!(" AND {column} IN ({})", vec!["?"; count].join(", ")),
    }
}

/// ` LIMIT ...`
pub(super) fn limit() -> String {
    format!(" LIMIT {PAGE_ROWS}")
}
