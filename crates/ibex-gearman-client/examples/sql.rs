//! A database for thousands of processes over few connections: any statement with its parameters is a job, its rows are the result.
//!
//! The worker owns a pool of connections and calls its function `sql.NAME`; the processes have a job server's address and no driver. Statements of one
//! caller are not one transaction, and whoever may submit to the function may do what the worker's account may: give it an account that reads.
//!
//! `cargo run -p ibex-gearman-client --features json --example sql` with a job server on 127.0.0.1:4730 or at $GEARMAN_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::time::Instant;

use ibex_gearman_client::{Client, Config, JobError, Worker};
use ibex_sql::{Db, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

const CONNECTIONS: usize = 16;
const CALLERS: usize = 1000;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A statement and what stands for its question marks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Statement {
    sql: String,
    params: Vec<Json>,
}

/// The answer: columns by name, rows in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rows {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Json>>,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let servers = std::env::var("GEARMAN_SERVERS").unwrap_or_else(|_| "127.0.0.1:4730".into());
    let file = std::env::temp_dir().join(format!("ibex-sql-{}.db", std::process::id()));
    let outcome = run(servers.split(',').map(str::to_owned).collect(), &file).await;
    std::fs::remove_file(file)?;
    outcome.map(drop)
}

/// The worker: nothing here knows what the statements are.
fn worker(servers: Vec<String>, name: &str, db: Db) -> Worker {
    let config = Config::new(servers);
    let worker = Worker::new(config).concurrency(CONNECTIONS);
    worker.json_function(format!("sql.{name}"), move |asked: Statement| {
        let db = db.clone();
        async move {
            let params = asked.params.iter().map(value).collect::<Result<_, _>>()?;
            let found = db.query(&asked.sql, params).await?;
            let columns = found.first().map(|row| row.columns().to_vec());
            Ok(Rows {
                columns: columns.unwrap_or_default(),
                rows: found
                    .iter()
                    .map(|row| row.values().iter().map(json).collect())
                    .collect(),
            })
        }
    })
}

fn value(json: &Json) -> Result<Value, JobError> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(is_true) => Value::Int((*is_true).into()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(real)) => Value::Real(real),
            (None, None) => return Err(JobError::exception("a number beyond 64 bits")),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(_) | Json::Object(_) => {
            return Err(JobError::exception("a parameter is a single value"));
        }
    })
}

/// Bytes that are no text travel as a list of numbers.
fn json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Int(whole) => (*whole).into(),
        Value::UInt(whole) => (*whole).into(),
        Value::Real(real) => (*real).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Blob(bytes) => bytes.as_slice().into(),
    }
}

/// A thousand callers ask for sums of their own; how many got the right one.
pub(crate) async fn run(servers: Vec<String>, file: &std::path::Path) -> Outcome<usize> {
    let url = format!("sqlite:{}", file.display());
    let db = Db::open(&ibex_sql::Config::new(&url)?.with_pool_max(CONNECTIONS)).await?;
    db.execute("CREATE TABLE sales (shop INTEGER, amount REAL)", Vec::new())
        .await?;
    for shop in 0..10_i64 {
        let row = vec![Value::Int(shop), Value::Real(2.5)];
        db.execute("INSERT INTO sales (shop, amount) VALUES (?, ?)", row)
            .await?;
    }
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker(servers.clone(), "shop", db.clone()).run(stop.clone()));

    let begun = Instant::now();
    let client = Client::connect(Config::new(servers)).await?;
    let statements = (0..CALLERS).map(|n| Statement {
        sql: "SELECT ? AS caller, sum(amount) AS total FROM sales WHERE shop < ?".into(),
        params: vec![n.into(), (n % 10).into()],
    });
    let answers: Vec<Rows> = client.dmap("sql.shop", statements, CALLERS).await?;
    let mut right = 0;
    for (n, answer) in answers.iter().enumerate() {
        let total = (n % 10 > 0).then(|| 2.5 * f64::from(u8::try_from(n % 10).unwrap_or(0)));
        let expected: Vec<Json> = vec![n.into(), total.into()];
        right += usize::from(answer.columns == ["caller", "total"] && answer.rows == [expected]);
    }
    println!("{right} of {CALLERS} statements in {:?}", begun.elapsed());

    stop.cancel();
    working.await??;
    db.close().await?;
    Ok(right)
}
