//! The plugin's relational data, in PostgreSQL's dialect, in its own schema.

use crate::{call, object, Error, Value};

#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// One object a row, by column name.
    pub rows: Vec<Value>,
    /// Rows that the statement returned or changed.
    pub row_count: u64,
}

/// Reads. The transaction is read only: a statement that writes is refused.
pub fn query(sql: &str, params: &[Value]) -> Result<Vec<Value>, Error> {
    let value = call("db", "query", statement(sql, params))?;
    Ok(rows(value))
}

/// Runs one statement that may write; `returning` fills the rows.
pub fn execute(sql: &str, params: &[Value]) -> Result<Executed, Error> {
    call("db", "execute", statement(sql, params)).map(executed)
}

/// Runs the statements in order: all of them take effect, or none.
pub fn transaction(statements: &[(&str, &[Value])]) -> Result<Vec<Executed>, Error> {
    let statements: Vec<Value> =
        statements.iter().map(|(sql, params)| statement(sql, params)).collect();
    let mut value = call("db", "transaction", object! { "statements": statements })?;
    match value.take("results") {
        Value::Array(results) => Ok(results.into_iter().map(executed).collect()),
        _ => Ok(Vec::new()),
    }
}

fn statement(sql: &str, params: &[Value]) -> Value {
    object! { "sql": sql, "params": params.to_vec() }
}

fn rows(mut value: Value) -> Vec<Value> {
    match value.take("rows") {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}

fn executed(value: Value) -> Executed {
    let row_count = value["rowCount"].as_i64().unwrap_or(0) as u64;
    Executed { rows: rows(value), row_count }
}
